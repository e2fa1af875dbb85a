//! From a bundle to an outcome. The folder says in which process a line runs, and with whose rights:
//!
//! ```text
//! supervisor/   P0  `ces run` itself: the researcher's rights, root's where `host::privilege` lends them
//! stage/        P1  root of the container's user namespace, in mounts of its own; begins as the host's root, or as the user
//! container/    P2  the container's first process: the container's user, behind the filter
//! terminal/     P0 and `ces exec`: the caller's streams and terminal
//! ```
//!
//! The other files are what the processes share.

/// A run's id.
pub mod job_id;
/// How a payload ended.
pub mod ending;
/// Directories by descriptor.
pub mod directory;
/// Removes what a run leaves, however deep it is.
pub mod removal;
/// What the processes of a run say to each other.
pub mod protocol;
/// What the witness of a rehearsal has seen.
pub mod observations;
/// How they say it.
pub mod channel;
/// Child processes: started, ended, waited for.
pub mod process;
/// Pipes of ces's own, in the place of the caller's streams.
pub mod pipes;
/// User namespaces: made, mapped, kept.
pub mod user_namespace;
/// Work for a child that was forked while there was one thread.
pub mod forked_task;
/// P2: the container's first process.
pub mod container;
/// P1: namespaces and mounts, then the engine.
pub mod stage;
/// What belongs to an image's user, given to the researcher once.
pub mod reown;
/// The caller's streams and terminal.
pub mod terminal;
/// P0: `ces run` itself.
pub mod supervisor;
/// `ces exec` at the caller's side.
pub mod exec_client;
