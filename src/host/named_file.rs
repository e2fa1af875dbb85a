//! Files that a caller names on a command line, opened with the rights that this process has now.
//!
//! Takes paths; gives files to read from and to write to; trusts the kernel for what was opened; refuses what would keep it waiting
//! before a byte has moved, and what is more than bytes (a named pipe that nobody opens, a device, a directory). Root writes through no
//! link, and into no file, that another user could have put there.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, open, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{ftruncate, geteuid};

/// The file system of pipes without a name (statfs(2), `PIPEFS_MAGIC`), which a shell gives as `<(command)`.
const PIPEFS: u64 = 0x5049_5045;
/// The file system of processes (statfs(2), `PROC_SUPER_MAGIC`), whose links to open files are no paths.
const PROCFS: u64 = 0x9fa0;
/// So many links are followed (path_resolution(7)).
const LINKS: u32 = 40;

/// Opens a regular file for reading, or a pipe of the caller's shell, which has a writer already.
///
/// # Errors
/// The kernel's, and when it is anything else.
pub fn to_read(path: &Path) -> Result<File> {
    let file = waits(open(path, OFlag::O_RDONLY | IMMEDIATELY, Mode::empty())?.into())?;
    match SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(file),
        SFlag::S_IFIFO if rustix::fs::fstatfs(file.as_fd())?.f_type.cast_unsigned() == PIPEFS => Ok(file),
        _ => Err(Error::other("it is not a regular file")),
    }
}

/// Opens a file for writing, new or emptied, or what somebody reads already: a pipe, a terminal. For root, in a directory that
/// another user may write to, only a new one, or one of root's own that has no other name.
///
/// # Errors
/// The kernel's: ENXIO for a named pipe that nobody reads (fifo(7)); for root also where another user could choose what is
/// written to.
pub fn to_write(path: &Path) -> Result<File> {
    if geteuid().is_root() {
        return waits(of_owner(path, 0)?);
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | IMMEDIATELY;
    waits(open(path, flags, Mode::from_bits_truncate(0o666))?.into())
}

/// Opens for writing what nobody but `owner` can have chosen: name by name, each in the directory that was opened before. A link
/// is followed only where `owner` alone may have put it; below a directory of others nothing is certain any more.
fn of_owner(path: &Path, owner: u32) -> Result<File> {
    let mut parts_to_walk: VecDeque<OsString> = parts(path).collect();
    let mut at = start(path)?;
    let mut others = others_may_write(&at, owner)?;
    let mut links = 0;
    while let Some(name) = parts_to_walk.pop_front() {
        let is_last = parts_to_walk.is_empty();
        match readlinkat(&at, name.as_os_str()) {
            Ok(_) if is_last && rustix::fs::fstatfs(at.as_fd())?.f_type.cast_unsigned() == PROCFS => {
                // `/dev/stdout`: what this process has open already.
                return Ok(openat(&at, name.as_os_str(), OFlag::O_WRONLY | IMMEDIATELY, Mode::empty())?.into());
            }
            Ok(_) if others || links >= LINKS => return Err(chosen("a link is on the way to it")),
            Ok(target) => {
                links += 1;
                let target = PathBuf::from(target);
                if target.is_absolute() {
                    at = start(&target)?;
                    others = others_may_write(&at, owner)?;
                }
                parts(&target).collect::<Vec<_>>().into_iter().rev().for_each(|part| parts_to_walk.push_front(part));
            }
            Err(_) if is_last => return last(&at, &name, owner, others),
            Err(_) if others && name == ".." => return Err(chosen("a directory on the way to it may move")),
            Err(_) => {
                at = openat(&at, name.as_os_str(), PLACE | OFlag::O_NOFOLLOW, Mode::empty())?;
                others = others || others_may_write(&at, owner)?;
            }
        }
    }
    Err(Errno::EISDIR.into())
}

/// A directory in which names are looked up.
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Where the first name of a path is looked up.
fn start(path: &Path) -> Result<OwnedFd> {
    Ok(openat(AT_FDCWD, if path.is_absolute() { "/" } else { "." }, PLACE, Mode::empty())?)
}

/// The names of a path.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    })
}

/// Whether another than `owner` may put something into a directory. The bits of the group are also the most that an access list gives.
fn others_may_write(dir: &OwnedFd, owner: u32) -> Result<bool> {
    let found = fstat(dir)?;
    Ok(found.st_uid != owner || found.st_mode & 0o022 != 0)
}

/// The file itself, which is no link.
fn last(at: &OwnedFd, name: &OsStr, owner: u32, others: bool) -> Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | IMMEDIATELY;
    let new = || openat(at, name, flags | OFlag::O_CREAT | OFlag::O_EXCL, Mode::from_bits_truncate(0o666));
    let file: File = match openat(at, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(new()?.into()),
        opened => opened?.into(),
    };
    let found = fstat(&file)?;
    if others && (found.st_uid != owner || found.st_nlink != 1) {
        return Err(chosen("it is there already, in a directory that others may write to"));
    }
    if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
        ftruncate(&file, 0)?;
    }
    Ok(file)
}

fn chosen(why: &str) -> Error {
    Error::other(format!("{why}, and another user could choose where root would write"))
}

/// Without waiting for the other end of a pipe, and without a terminal becoming this process's own (open(2)).
const IMMEDIATELY: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Reads and writes wait again. The open file is this process's alone.
fn waits(file: File) -> Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn in_a_directory_that_others_may_write_to_no_link_is_followed_and_no_file_with_another_name_written() {
        let base = tempfile::tempdir().unwrap();
        // As it is without links, whatever the way to it is.
        let dir = base.path().to_path_buf();
        let at = |name: &str| dir.join(name);
        let own = geteuid().as_raw();
        for name in ["open", "open/d", "own"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::set_permissions(at("open"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(at("own/kept"), "kept").unwrap();
        symlink(at("own/kept"), at("open/link")).unwrap();
        symlink("../own", at("open/dir")).unwrap();
        fs::hard_link(at("own/kept"), at("open/hard")).unwrap();
        for name in ["open/link", "open/dir/kept", "open/dir/new", "open/hard", "open/d/../../own/kept"] {
            assert!(of_owner(&at(name), own).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(at("own/kept")).unwrap(), "kept");
        for _ in 0..2 {
            // New, then one's own.
            of_owner(&at("open/d/page"), own).unwrap();
        }
        assert!(of_owner(&at("open/d/page"), own + 1).is_err());
        assert!(of_owner(&at("open"), own).is_err() && of_owner(Path::new("/"), own).is_err());
        fs::write(at("open/d/page"), "before").unwrap();
        of_owner(&at("open/d/page"), own).unwrap();
        assert_eq!(fs::read_to_string(at("open/d/page")).unwrap(), "");
    }
}
