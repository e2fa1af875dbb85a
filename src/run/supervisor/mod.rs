//! P0: `ces run` itself, from the first directory of a run to its record, and what later commands do about past runs.

/// The enforced check: what the kernel says of the created container.
pub mod enforced;
/// Where a job's directories are.
pub mod places;
/// Bounds that the file system keeps.
pub mod quota;
/// Where published ports listen on the host.
pub mod ports;
/// The journals of jobs: alive, dead, or on another machine.
pub mod journal;
/// What was deleted of a run, and how that was seen.
pub mod deletion;
/// One job: its directories, from their making to their end.
pub mod job;
/// What a run leaves, given to the researcher.
pub mod outputs;
/// The outputs, given away with power over the run's ids, and listed.
pub mod collect;
/// What a run changed in data that it may write.
pub mod changes;
/// What happened, on disk.
pub mod record;
/// Bounds that ces watches.
pub mod watch;
/// Starts the stage process.
pub mod spawn;
/// `ces exec` at the supervisor.
pub mod exec_server;
/// A run that outlives the terminal that started it.
pub mod detach;
/// While the container runs: signals, deadline, exit status.
pub mod supervise;
/// From a bundle to an outcome.
pub mod launch;
/// What a crash left, cleaned up.
pub mod sweep;
/// Limits, tried for `ces doctor`.
pub mod probe;
