//! One file a verb: straight-line scripts over the stages.

/// From a verb to its file.
mod dispatch;
/// The only way to standard output.
pub mod print;
/// From options and the files they name to a request.
pub mod request;
/// What a grant depends on, found out on this host.
pub mod facts;
/// `ces policy`.
pub mod policy;
/// `ces completions`, `ces man`.
pub mod manual;

pub use dispatch::dispatch;
