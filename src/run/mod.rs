//! From a bundle to an outcome.

/// The journals of jobs: alive, dead, or on another machine.
pub mod journal;
/// One job: its directories, from their making to their end.
pub mod job;
/// Removes what a run leaves, however deep it is.
mod remove;
/// Where published ports listen on the host.
pub mod ports;
/// From those to the container's own loopback, inwards alone.
pub mod relay;
/// Messages between `ces` and its stage process.
pub mod wire;
/// From a bundle to an outcome.
pub mod launch;
/// Starts the stage process.
pub mod spawn;
/// User namespaces: made, mapped, kept.
pub mod userns;
/// The stage process: namespaces and mounts, then the engine.
pub mod stage;
/// The payload's own terminal, as the stage process gets hold of it.
mod console;
/// libcontainer, and nothing else of it.
pub mod engine;
/// What a crash left, cleaned up.
pub mod sweep;
/// The enforced check: what the kernel says of the created container.
pub mod enforced;
/// What a run leaves, given to the researcher.
pub mod outputs;
/// The outputs, given away with power over the run's ids.
pub mod handover;
/// What happened, on disk.
pub mod record;
/// Bounds that the file system keeps.
pub mod quota;
/// Bounds that ces watches.
pub mod watch;
/// The payload's output and input, on their way from and to the caller.
pub mod streams;
/// The payload's terminal, joined to the caller's.
pub mod session;
/// A run that outlives the terminal that started it.
pub mod detach;
/// `ces exec` inside the container.
mod entered;
/// `ces exec` at the supervisor.
pub mod door;
/// `ces exec` at the caller's side.
pub mod exec;
/// While the container runs: signals, deadline, exit status.
pub mod supervise;
/// A user namespace in the container's, for an image's own user.
mod nested;
/// What belongs to an image's user, given to the researcher once.
pub mod reown;
/// Limits, tried for `ces doctor`.
pub mod trial;
/// Work for a child that was forked while there was one thread.
pub mod later;
/// What the engine says when it fails.
pub mod engine_log;
/// PID 1 of the container: the payload's parent and reaper.
pub mod init;
