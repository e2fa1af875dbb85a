//! P2: the container's first process. It runs as the container's user, in all of its namespaces, behind the seccomp filter.

/// A user namespace in the container's, for an image's own user.
pub mod nested;
/// How a command is executed.
pub mod execute;
/// `ces exec` inside the container.
pub mod exec;
/// PID 1: the payload's parent and reaper.
pub mod init;
/// Why something could not be executed, in words.
mod not_executed;
