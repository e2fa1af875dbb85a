//! From what a witness has seen to what an image lacks: pure, nothing is read or written here.
//!
//! observations → findings (with `bundles/advice.toml`) → a report → text, Markdown, JSON.

/// What findings mean.
pub mod advice;
/// From observations to findings.
pub mod findings;
/// All that is said of a rehearsal.
pub mod report;
/// In words.
pub mod show;

pub use findings::{Finding, Verdict};
pub use report::Report;
