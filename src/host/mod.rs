//! What this kernel and machine offer.

/// Ids of the host, as a process has them.
pub mod ids;
/// The limits of the caller's shell, and those of `ces`.
pub mod process_limits;
/// The researcher on whose behalf sudo started `ces`.
pub mod sudoer;
/// Root's power, lent.
pub mod privilege;
/// Directories that root alone can change.
pub mod site_dir;
/// The directory of records and of the audit log, and where copies of its lines go.
pub mod log_dir;
/// Who calls: real root, a researcher through sudo, or an ordinary user.
pub mod caller;
/// Control groups: limits, read back; what a job used.
pub mod cgroup;
/// Where store, running jobs and records live.
pub mod dirs;
/// The disks below directories.
pub mod disks;
/// What decides whether containers can run here at all.
pub mod features;
/// Which ids inside a user namespace are which outside.
pub mod idmap;
/// How a process that reads hostile bytes shuts itself in.
pub mod confine;
/// Files that the kernel writes while they are read.
pub mod kernel_files;
/// Which machine this is, where several share a file system.
pub mod machine;
/// Files that are there to be locked.
pub mod lock_file;
/// Files that a caller names.
pub mod named_file;
/// Whether a process of `ces` was started by `ces`.
pub mod parent;
/// A place of the host that a caller names.
pub mod place;
/// Entries of a directory that are on the same mount as it.
pub mod same_mount;
/// Signals that ask long work to stop.
pub mod signals;
/// Sockets of the host that a bind would lead to.
pub mod sockets;
/// System calls that need `unsafe`; the only such place.
pub mod sys;
/// The scheduling that the caller chose, for what works for them, and the default for `ces`.
pub mod scheduling;
/// What a researcher could hold a process of root's up with, taken away.
pub mod unstoppable;
