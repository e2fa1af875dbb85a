//! What a program can see of outputs before a person looks: the pre-check.
//!
//! ```text
//! bundles/precheck.toml ─▶ rules ─▶ look (bytes → findings: sniff, identifiers, table, image, document) ─▶ report
//!                                    └ in a child: walk ◀─ child ◀── socket ──▶ parent
//! ```
//!
//! Takes a directory, or bytes; gives findings, each by a rule that is data with its reason; trusts nothing: files are read by a
//! process that is shut in (`host::confine`), bounded in memory and time, and what ends it is a file that was not looked at.
//! Refuses to call anything safe: what is found is *block*, *review* or *note*, else "nothing found", and every report says what
//! was not looked at.

/// Rules as data, and the numbers a site may set.
pub mod rules;
/// What was found of a file.
pub mod finding;
/// What a file is, by its first bytes.
pub mod sniff;
/// Identifiers in text: NHS and CHI numbers, postcodes, e-mail addresses, base64.
pub mod identifiers;
/// Tables: rows, columns, small counts.
pub mod table;
/// Images: metadata, and bytes after the end.
pub mod image;
/// Notebooks, pages, drawings, PDFs.
pub mod document;
/// One file.
pub mod look;
/// A directory, in order.
pub mod walk;
/// The messages of parent and child.
pub mod protocol;
/// The child process.
pub mod child;
/// The parent's side.
pub mod parent;
/// What was looked at against what the run left.
pub mod manifest;
/// All findings together.
pub mod report;

pub use child::child_main;
pub use parent::NAME;
