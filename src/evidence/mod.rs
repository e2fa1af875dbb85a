//! Evidence: the audit log, which every later stage appends to, and what proves that nobody changed it since.
//!
//! It comes before the stages whose events it keeps, and knows none of them: a line takes names and JSON. What a run leaves
//! besides, its record and the list of its outputs, is the run's (`run::supervisor`).
//!
//! ```text
//! LOG/audit/<host>.jsonl            the lines of one host, the newest; others in <host>.<first line>.jsonl
//! LOG/audit/<host>.checkpoint       how many lines there were, and the root of the tree over them
//! LOG/audit/<host>.checkpoint.sig   its signature (SSHSIG)
//! LOG/audit/<host>.signers          whose signature it is, as `ssh-keygen -Y verify` takes it
//! LOG/audit/<host>.key              the key that signs (0600)
//! ```

/// Commands and variables without what is not to be kept.
pub mod redact;
/// Bytes as digits for documents.
pub mod base64;
/// What a file holds, by its first bytes.
pub mod sniff;
/// Events, a line each.
pub mod line;
/// A hash tree over lines.
pub mod tree;
/// Copies of lines for other services.
pub mod copy;
/// Lines on disk.
pub mod log;
/// A file in the place of another.
pub mod replace;
/// Lines against what they say of each other, and of records.
pub mod check;
/// The signed state of a log.
pub mod checkpoint;
/// A document, signed for programs that know DSSE.
pub mod envelope;
/// What shows that a run's lines are in a log.
pub mod proof;

#[cfg(test)]
mod tests;
