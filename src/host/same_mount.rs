//! Entries of a directory that are on the same mount as it.
//!
//! Takes an open directory and a name in it; gives what is opened, or what stat(2) says of it; trusts the kernel to compare mounts
//! (openat2(2), `RESOLVE_NO_XDEV`); refuses what is mounted on the name, before anything is asked of it (`EXDEV`): who may mount a FUSE
//! file system in a directory of their own decides whether its server ever answers, and who waits for it cannot be killed.
//!
//! Asked and opened in one call: between two calls a file system could be mounted.

use std::os::fd::{AsFd, OwnedFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, fstat};

/// Opens the entry `name` of `dir`, itself and no link's target.
///
/// # Errors
/// The kernel's; `EXDEV` for what is mounted there.
pub fn open<P: ?Sized + NixPath>(dir: impl AsFd, name: &P, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(dir, name, how)
}

/// Holds the entry `name` of `dir`, and looks at it.
///
/// # Errors
/// As [`open`].
pub fn hold<P: ?Sized + NixPath>(dir: impl AsFd, name: &P) -> nix::Result<(OwnedFd, FileStat)> {
    let held = open(dir, name, OFlag::O_PATH)?;
    let stat = fstat(&held)?;
    Ok((held, stat))
}

/// Looks at the entry `name` of `dir`.
///
/// # Errors
/// As [`open`].
pub fn look<P: ?Sized + NixPath>(dir: impl AsFd, name: &P) -> nix::Result<FileStat> {
    hold(dir, name).map(|(_, stat)| stat)
}

/// Why an entry was not looked at.
pub fn why(error: Errno) -> &'static str {
    if error == Errno::EXDEV { "another file system is mounted there" } else { error.desc() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_there_is_looked_at_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "four").unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let top = fs::File::open(dir.path()).unwrap();
        assert_eq!(look(&top, c"file").unwrap().st_size, 4);
        assert_eq!(look(&top, c"link").unwrap().st_mode & libc::S_IFMT, libc::S_IFLNK);
        let below = open(&top, c"below", OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap();
        assert!(open(&below, c"..", OFlag::O_RDONLY | OFlag::O_DIRECTORY).is_ok());
        assert_eq!(look(&top, c"none").unwrap_err(), Errno::ENOENT);
        assert_eq!(open(&top, c"link", OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap_err(), Errno::ENOTDIR);
    }

    #[test]
    fn what_is_mounted_is_neither_looked_at_nor_opened() {
        // Mounts that are on every host: of another type, and (where there is one) of the same.
        let root = fs::File::open("/").unwrap();
        for refused in [look(&root, c"proc").err(), open(&root, c"proc", OFlag::O_RDONLY | OFlag::O_DIRECTORY).err()] {
            assert_eq!(refused.map(why), Some("another file system is mounted there"));
        }
        let proc = fs::File::open("/proc").unwrap();
        assert!(look(&proc, c"self").is_ok());
        assert_eq!(open(&proc, c"..", OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap_err(), Errno::EXDEV);
    }
}
