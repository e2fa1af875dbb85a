//! Two commands that divide or put back one group at a time would be in each other's way.
//!
//! Takes a group; gives a lock that is held until it is dropped; trusts the directory `/run`, which is root's; refuses nothing.

use std::fs;
use std::io;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::host::lock_file;

/// What root locks: groups are there for all to read, and so to lock.
const OF_ROOT: &str = "/run/ces-cgroup.lock";

/// Waits until nobody else changes a group of the same owner's.
pub(super) fn lock(group: &Path) -> io::Result<Flock<fs::File>> {
    let (path, file) = if geteuid().is_root() {
        (Path::new(OF_ROOT), lock_file::open(Path::new(OF_ROOT)))
    } else {
        (group, fs::File::open(group))
    };
    let file = file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
}
