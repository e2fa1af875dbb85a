//! What is in an image, who brought it, and what is known against it, told without running it.
//!
//! ```text
//! layers in the store  →  facts  →  stack  →  verdict  →  page, documents
//!  one child a layer      raw       merged    data of      text, HTML,
//!                                             today        CycloneDX, SPDX
//! ```

/// Packages and findings of an image as types: what every later step reads.
pub mod package;
/// The orders of versions, one for each package manager.
pub mod version;
/// What is known to be vulnerable, kept on this host.
pub mod vulndb;
/// Who said that a vulnerability does not matter here, why, and until when.
pub mod vex;
/// What is known against a stack, today.
pub mod verdict;
/// What the site allows of a stack.
pub mod rules;
/// Licences as declared, and as SPDX expressions where that can be proved.
pub mod licence;
/// A stack as documents that other programs read.
pub mod write;

#[cfg(test)]
mod tests;
