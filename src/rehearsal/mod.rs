//! From what a witness has seen to what an image lacks: pure, nothing is read or written here.
//!
//! observations → findings (with `bundles/advice.toml`) → a report → text, Markdown, JSON.

/// What findings mean.
pub mod advice;
/// From observations to findings.
pub mod findings;
/// What has changed since the last one.
pub mod difference;
/// All that is said of a rehearsal.
pub mod report;
/// Options for runs.
pub mod options;
/// What is kept of it.
pub mod ticket;
/// In words.
pub mod show;

pub use findings::{Finding, Verdict};
pub use report::Report;
