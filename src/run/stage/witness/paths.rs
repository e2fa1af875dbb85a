//! What a path call will meet: the kernel is asked, with the payload's own ids and without any power over files.
//!
//! Takes a call that waits, and who calls; gives the path and the error number it will get, if any; trusts the kernel; refuses
//! nothing. The answer is a prediction for the report: the call itself is decided by the kernel.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Pid;

use super::memory::{self, PATH, Who};
use crate::host::sys::notify;
use crate::run::observations::{Missed, Wanted};
use crate::text;

/// How a call names what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// The descriptor that a relative path begins at; none: the working directory.
    from: Option<i32>,
    /// The address of the path.
    path: u64,
    wanted: Wanted,
    /// It may be made.
    makes: bool,
    /// A link is meant itself.
    link: bool,
}

/// What the call `name` names; none for a call that names no path.
pub fn named(name: &str, args: [u64; 6]) -> Option<Named> {
    let [a, b, c, d, ..] = args;
    let from = |fd: u64| {
        Some(u32::try_from(fd & 0xffff_ffff).unwrap_or_default().cast_signed()).filter(|fd| *fd != libc::AT_FDCWD)
    };
    let here = |path, wanted| Named { from: None, path, wanted, makes: false, link: false };
    let at = |fd, path, wanted| Named { from: from(fd), ..here(path, wanted) };
    let opened = |named: Named, flags: u64| {
        let flags = i32::try_from(flags & 0x7fff_ffff).unwrap_or_default();
        let wanted = match flags {
            _ if flags & libc::O_PATH != 0 => Wanted::Look,
            _ if flags & (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) != 0 => Wanted::Write,
            _ => Wanted::Read,
        };
        Named { wanted, makes: flags & libc::O_CREAT != 0, ..named }
    };
    Some(match name {
        "open" => opened(here(a, Wanted::Read), b),
        "openat" => opened(at(a, b, Wanted::Read), c),
        "creat" => Named { makes: true, ..here(a, Wanted::Write) },
        "truncate" => here(a, Wanted::Write),
        "stat" | "access" => here(a, Wanted::Look),
        "lstat" | "readlink" => Named { link: true, ..here(a, Wanted::Look) },
        "newfstatat" => {
            Named { link: d & libc::AT_SYMLINK_NOFOLLOW.unsigned_abs() as u64 != 0, ..at(a, b, Wanted::Look) }
        }
        "faccessat" | "faccessat2" | "statx" => at(a, b, Wanted::Look),
        "readlinkat" => Named { link: true, ..at(a, b, Wanted::Look) },
        "mkdir" => Named { makes: true, link: true, ..here(a, Wanted::Change) },
        "mkdirat" => Named { makes: true, link: true, ..at(a, b, Wanted::Change) },
        "link" | "symlink" => Named { makes: true, link: true, ..here(b, Wanted::Change) },
        "symlinkat" => Named { makes: true, link: true, ..at(b, c, Wanted::Change) },
        "linkat" => Named { makes: true, link: true, ..at(c, d, Wanted::Change) },
        "unlink" | "rmdir" | "rename" => Named { link: true, ..here(a, Wanted::Change) },
        "unlinkat" | "renameat" | "renameat2" => Named { link: true, ..at(a, b, Wanted::Change) },
        "chmod" | "chown" => here(a, Wanted::Own),
        "lchown" => Named { link: true, ..here(a, Wanted::Own) },
        "fchmodat" | "fchownat" => at(a, b, Wanted::Own),
        _ => return None,
    })
}

/// What the call will not get; none where it gets what it wants, or nothing is known of it.
pub fn missed(pid: Pid, who: &Who, named: &Named) -> Option<Missed> {
    let path = memory::text_at(pid, named.path, PATH)?;
    let (uid, gid) = who.ids?;
    let begins = if path.first() == Some(&b'/') {
        format!("/proc/{pid}/root")
    } else {
        named.from.map_or_else(|| format!("/proc/{pid}/cwd"), |fd| format!("/proc/{pid}/fd/{fd}"))
    };
    let base = nix::fcntl::open(begins.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    notify::reach_files_as(uid, gid);
    let met = meet(&base, Path::new(OsStr::from_bytes(&path)), named, uid);
    notify::reach_files_as(0, 0);
    let errno = met.err()?;
    let whole = if path.first() == Some(&b'/') {
        PathBuf::from(OsStr::from_bytes(&path))
    } else {
        fs::read_link(&begins).ok()?.join(OsStr::from_bytes(&path))
    };
    Some(Missed { path: shown(&whole), wanted: named.wanted, errno: errno as i32 })
}

/// A path as it is taken down: safe to print, and no longer than a line of a report can be.
fn shown(path: &Path) -> String {
    const LONGEST: usize = 512;
    let bytes = path.as_os_str().as_bytes();
    text::neutral_bytes(bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default())
}

fn meet(base: &OwnedFd, path: &Path, named: &Named, uid: u32) -> Result<(), Errno> {
    let file = match find(base, path, named.link) {
        Err(Errno::ENOENT) if named.makes => return writable_parent(base, path),
        found => found?,
    };
    let may =
        |mode| notify::may(file.as_fd(), mode).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
    match named.wanted {
        Wanted::Look => Ok(()),
        Wanted::Read => may(libc::R_OK),
        // A device or a socket of its own is no loss.
        Wanted::Write => may(libc::W_OK),
        // It is there already: an error, but nothing that a TRE has to do with.
        Wanted::Change if named.makes => Ok(()),
        Wanted::Change => writable_parent(base, path),
        Wanted::Own if fstat(&file)?.st_uid != uid => Err(Errno::EPERM),
        Wanted::Own => Ok(()),
    }
}

fn find(base: &OwnedFd, path: &Path, link: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    if link {
        flags |= OFlag::O_NOFOLLOW;
    }
    // Links with an absolute target begin at the container's root in the call, but not here: a relative path that meets one is
    // told as it is, for only an absolute one is asked for in the container's root.
    let resolve = if path.is_absolute() { ResolveFlag::RESOLVE_IN_ROOT } else { ResolveFlag::empty() };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(base, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Whether something may be made or removed where `path` is.
fn writable_parent(base: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = find(base, parent, false)?;
    notify::may(parent.as_fd(), libc::W_OK | libc::X_OK)
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_what_it_wants_and_where() {
        let cwd = u64::from(libc::AT_FDCWD.cast_unsigned());
        let open = |flags: i32| named("openat", [cwd, 8, u64::try_from(flags).unwrap(), 0, 0, 0]).unwrap();
        assert_eq!(
            open(libc::O_RDONLY),
            Named { from: None, path: 8, wanted: Wanted::Read, makes: false, link: false }
        );
        assert_eq!((open(libc::O_WRONLY).wanted, open(libc::O_PATH).wanted), (Wanted::Write, Wanted::Look));
        assert!(open(libc::O_CREAT | libc::O_RDWR).makes);
        assert_eq!(named("openat", [5, 8, 0, 0, 0, 0]).unwrap().from, Some(5));
        assert_eq!(named("linkat", [1, 2, 3, 4, 0, 0]).map(|n| (n.from, n.path)), Some((Some(3), 4)));
        assert!(named("read", [0; 6]).is_none());
    }
}
