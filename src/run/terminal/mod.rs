//! The caller's streams and terminal, on the side of `ces run` and of `ces exec`.

/// Signals of the caller.
pub mod signals;
/// The payload's output and input, on their way from and to the caller.
pub mod streams;
/// The payload's terminal, joined to the caller's.
pub mod session;
