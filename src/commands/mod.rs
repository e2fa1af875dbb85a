//! One file a verb: straight-line scripts over the stages.

/// What every verb is given.
pub mod context;
/// The only way to standard output.
pub mod print;
/// `ces pull`.
pub mod pull;

pub use context::Context;
