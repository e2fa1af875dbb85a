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
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};

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

/// What an entry that is no directory keeps on disk until its last name is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnDisk {
    /// Its names.
    pub links: u64,
    /// What its blocks hold.
    pub bytes: u64,
}

/// Measures the entry `name` of `dir`: in one call where a file system on a disk of this host tells, for who removes a million files.
///
/// # Errors
/// As [`open`].
pub fn measure<P: ?Sized + NixPath>(dir: impl AsFd, name: &P) -> nix::Result<OnDisk> {
    // No server is asked, whatever is mounted there by now: the kernel answers from what it holds (statx(2), AT_STATX_DONT_SYNC).
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let asked = StatxFlags::NLINK | StatxFlags::BLOCKS;
    let found = name.with_nix_path(|name| rustix::fs::statx(&dir, name, flags, asked))?;
    let found = found.map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Errno::EXDEV);
    }
    let is_told = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
        && StatxFlags::from_bits_retain(found.stx_mask).contains(asked);
    // A file system that is on no disk may keep its files elsewhere, where they are of another size by now.
    if is_told && found.stx_dev_major != 0 {
        return Ok(OnDisk { links: found.stx_nlink.into(), bytes: found.stx_blocks.saturating_mul(512) });
    }
    look(dir, name).map(|stat| {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        OnDisk { links: stat.st_nlink, bytes: blocks.saturating_mul(512) }
    })
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
        assert_eq!(measure(&top, c"none"), Err(Errno::ENOENT));
        fs::hard_link(dir.path().join("file"), dir.path().join("again")).unwrap();
        for name in [c"file", c"link"] {
            let stat = look(&top, name).unwrap();
            let on_disk = OnDisk { links: stat.st_nlink, bytes: u64::try_from(stat.st_blocks).unwrap() * 512 };
            assert_eq!(measure(&top, name).unwrap(), on_disk);
        }
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
        assert_eq!(measure(&root, c"proc"), Err(Errno::EXDEV));
        assert_eq!(measure(&proc, c"self").unwrap().links, 1);
        assert_eq!(open(&proc, c"..", OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap_err(), Errno::EXDEV);
    }
}
