//! What is known to be vulnerable, kept on this host: imported from files, looked up without a network.
//!
//! ```text
//! PyPI.zip, the security tracker's data.json, main.json, a vendor's CSAF archive  →  records by package  →  <store>/vulndb/<source>.db
//!  osv       debian                           secdb      csaf                       builder                index
//! ```
//!
//! A source is one file of sorted (ecosystem, name) keys and a compressed block for each; there is no database engine. Importing
//! a source again replaces it whole. The ecosystems are those of OSV (<https://ossf.github.io/osv-schema/#defined-ecosystems>),
//! whatever the source: `PyPI`, `Debian:12`, `Alpine:v3.20`.
//!
//! What is imported is hostile: it is read by a confined process, each record and the whole are bounded, and what cannot be read
//! is counted and told, never left out in silence.

/// Ecosystems: which order their versions have, and where a package of an image is looked up.
pub mod ecosystem;
/// How bad it is.
pub mod severity;
/// What a source says of one package.
pub mod record;
/// Records on their way into a file.
pub mod builder;
/// A file of records, to look up.
pub mod index;
/// All files together.
pub mod database;
/// Texts and values of a document that are not copied.
mod loose;
/// OSV records, the database's export files among them.
pub mod osv;
/// Vendors' CSAF documents.
pub mod csaf;
/// Documents out of archives.
mod documents;
/// The Debian security tracker's export.
pub mod debian;
/// Alpine's security database.
pub mod secdb;
/// From a file of any of these to records.
pub mod import;

/// Where the sources are on this host.
pub mod place;

#[cfg(test)]
mod tests;
