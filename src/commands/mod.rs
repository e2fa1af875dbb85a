//! One file a verb: straight-line scripts over the stages.

/// What every verb is given.
pub mod context;
/// The only way to standard output.
pub mod print;
/// `ces pull`.
pub mod pull;
/// `ces images`.
pub mod images;
/// `ces rmi`.
pub mod rmi;
/// `ces prune`.
pub mod prune;
/// `ces inspect`.
pub mod inspect;

pub use context::Context;
