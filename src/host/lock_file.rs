//! Files that are there to be locked (flock(2), fcntl_locking(2)).
//!
//! Takes a path; gives a file that only its owner can open; trusts the directory; refuses nothing: whoever can open a file can hold
//! its lock, for as long as they like, so the file is closed to everybody else, whatever its directory is.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Opens the file, and makes it where it is not there.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(path)?;
    // One of an earlier version's.
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_open_it_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        std::fs::write(&old, "").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        for path in [&new, &old] {
            open(path).unwrap();
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::os::unix::fs::symlink(&old, dir.path().join("link")).unwrap();
        assert!(open(&dir.path().join("link")).is_err());
    }
}
