//! The caller's streams and terminal, on the side of `ces run` and of `ces exec`.

/// Signals of the caller.
pub mod signals;
/// One stream of bytes on its way.
pub mod relay;
/// The payload's three streams, joined to the caller's.
pub mod streams;
/// The payload's terminal, joined to the caller's.
pub mod session;
