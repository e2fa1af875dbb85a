//! What the kernel will answer to a call on a path, as far as rights decide: it is asked piece by piece, with the payload's own ids and
//! without any power over files.
//!
//! Takes places, and what is wanted of them; gives the first error that the kernel would give, in its own order (fs/namei.c, fs/open.c,
//! fs/attr.c of Linux 6.1 to 6.18); trusts the kernel; refuses nothing. Errors that are no matter of rights may be left out.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::Pid;

use super::act::Act;
use super::memory::Who;
use crate::host::sys::notify;

/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER (linux/capability.h).
const CHOWN: u64 = 1;
const DAC_OVERRIDE: u64 = 1 << 1;
const FOWNER: u64 = 1 << 3;
/// Nothing is known: an error that no call on a path gives, so that it is told nowhere.
const UNKNOWN: Errno = Errno::EAGAIN;
/// How often the kernel is asked again that could not tell for a rename or a mount meanwhile (openat2(2), EAGAIN): any one on this host.
const ATTEMPTS: usize = 128;

/// A path of the payload's.
#[derive(Debug)]
pub struct Place {
    pid: Pid,
    /// What it begins at: the root, or where a relative path begins.
    base: OwnedFd,
    /// By which link of /proc that was had; none for the root.
    begins: Option<String>,
    path: PathBuf,
    link: bool,
}

/// Which of two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The one that is named first.
    First,
    /// The other.
    Second,
}

impl Place {
    /// Opens what a path of `pid`'s begins at; none where that cannot be had.
    pub fn open(pid: Pid, from: Option<i32>, path: &[u8], link: bool) -> Option<Self> {
        let path = PathBuf::from(OsStr::from_bytes(path));
        if path.is_absolute() {
            return Some(Self { pid, base: root_of(pid).ok()?, begins: None, path, link });
        }
        let begins = from.map_or_else(|| format!("/proc/{pid}/cwd"), |fd| format!("/proc/{pid}/fd/{fd}"));
        Some(Self { pid, base: opened(&begins).ok()?, begins: Some(begins), path, link })
    }

    /// The path from the root; none where it is not known.
    pub fn whole(&self) -> Option<PathBuf> {
        match &self.begins {
            None => Some(self.path.clone()),
            Some(begins) => Some(fs::read_link(begins).ok()?.join(&self.path)),
        }
    }

    /// What it leads to.
    fn file(&self) -> Result<OwnedFd, Errno> {
        self.find(&self.path, self.link)
    }

    /// The directory in which its last name stands.
    fn parent(&self) -> Result<OwnedFd, Errno> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let none = if self.begins.is_none() { "/" } else { "." };
        self.find(parent.unwrap_or(Path::new(none)), false)
    }

    fn find(&self, path: &Path, link: bool) -> Result<OwnedFd, Errno> {
        let Some(begins) = &self.begins else { return in_root(&self.base, path, link) };
        // Only in its own root does a link with an absolute target lead where it leads the payload.
        let direct = ResolveFlag::RESOLVE_NO_SYMLINKS;
        match openat2(&self.base, path, OpenHow::new().flags(flags(link)).resolve(direct)) {
            Err(Errno::ELOOP) => {}
            other => return other,
        }
        let begins = fs::read_link(begins).map_err(|_| UNKNOWN)?;
        let root = root_of(self.pid)?;
        let (there, here) = (fstat(in_root(&root, &begins, false)?)?, fstat(&self.base)?);
        // It may be gone, or have another name by now.
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) {
            return Err(UNKNOWN);
        }
        in_root(&root, &begins.join(path), link)
    }

    /// It leads by way of the caller itself, whom the kernel would take for this process.
    fn is_of_the_caller(&self) -> bool {
        const OWN: [&str; 4] = ["/proc/self", "/proc/thread-self", "/dev/fd", "/dev/std"];
        let path = self.path.as_os_str().as_bytes();
        OWN.iter().any(|own| path.starts_with(own.as_bytes()))
    }
}

fn opened(path: &str) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

fn root_of(pid: Pid) -> Result<OwnedFd, Errno> {
    opened(&format!("/proc/{pid}/root"))
}

fn flags(link: bool) -> OFlag {
    OFlag::O_PATH | OFlag::O_CLOEXEC | if link { OFlag::O_NOFOLLOW } else { OFlag::empty() }
}

fn in_root(root: &OwnedFd, path: &Path, link: bool) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(flags(link)).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    for _ in 0..ATTEMPTS {
        match openat2(root, path, how) {
            Err(Errno::EAGAIN) => {}
            // A link of the kernel's own, as in /proc/1/fd, may lead out of any root.
            Err(Errno::EXDEV) => break,
            other => return other,
        }
    }
    Err(UNKNOWN)
}

/// Whether `act` will be answered with an error, which, and at which of the two places.
///
/// # Errors
/// That one; [`Errno::EAGAIN`] where nothing is known.
pub fn meet(first: &Place, second: Option<&Place>, act: Act, who: &Who) -> Result<(), (At, Errno)> {
    let asked = Asked { who };
    let met = match (act, second) {
        (Act::Rename, Some(second)) => asked.rename(first, second),
        (Act::Link, Some(second)) => asked.link(first, second).map_err(|errno| (At::Second, errno)),
        _ => asked.one(first, act).map_err(|errno| (At::First, errno)),
    };
    met.map_err(|(at, errno)| match errno {
        // What is below a directory that is closed only to those without the capability is not seen from here.
        Errno::EACCES if asked.has(DAC_OVERRIDE) && act != Act::Execute => (at, UNKNOWN),
        Errno::ENOENT if first.is_of_the_caller() => (at, UNKNOWN),
        errno => (at, errno),
    })
}

/// Whose call it is.
struct Asked<'a> {
    who: &'a Who,
}

impl Asked<'_> {
    fn has(&self, capability: u64) -> bool {
        self.who.capabilities & capability != 0
    }

    fn owns(&self, found: &FileStat) -> bool {
        self.who.ids.is_some_and(|(uid, _)| uid == found.st_uid)
    }

    fn may(&self, file: &OwnedFd, mode: i32) -> Result<(), Errno> {
        let asked = notify::may(file.as_fd(), mode);
        let errno = asked.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
        match errno {
            Err(Errno::EACCES) if self.has(DAC_OVERRIDE) => {
                let found = fstat(file)?;
                // The capability executes what somebody may execute (capabilities(7)).
                if mode & libc::X_OK != 0 && !is(&found, libc::S_IFDIR) && found.st_mode & 0o111 == 0 {
                    return Err(Errno::EACCES);
                }
                if mode & libc::W_OK != 0 && !is_special(&found) { writable(file) } else { Ok(()) }
            }
            other => other,
        }
    }

    fn one(&self, place: &Place, act: Act) -> Result<(), Errno> {
        match act {
            Act::Look => place.file().map(drop),
            Act::Enter => self.may(&place.file()?, libc::X_OK),
            Act::Execute => {
                let unseen = |errno| if errno == Errno::EACCES && self.has(DAC_OVERRIDE) { UNKNOWN } else { errno };
                let file = place.file().map_err(unseen)?;
                if is(&fstat(&file)?, libc::S_IFREG) { self.may(&file, libc::X_OK) } else { Err(Errno::EACCES) }
            }
            Act::Open(flags) => self.open(place, flags),
            Act::Truncate => {
                let file = place.file()?;
                if !is(&fstat(&file)?, libc::S_IFREG) {
                    return Ok(());
                }
                writable(&file)?;
                self.may(&file, libc::W_OK)
            }
            // It may be there already: an error, but none that a TRE has to do with.
            Act::Make | Act::Rename | Act::Link => match place.file() {
                Err(Errno::ENOENT) => self.make(&place.parent()?),
                found => found.map(drop),
            },
            Act::Remove => {
                let parent = place.parent()?;
                writable(&parent)?;
                self.remove(&parent, &place.file()?)
            }
            Act::Mode => {
                let file = place.file()?;
                writable(&file)?;
                let own = self.has(FOWNER) || self.owns(&fstat(&file)?);
                if own { Ok(()) } else { Err(Errno::EPERM) }
            }
            Act::Owner(uid, gid) => {
                let file = place.file()?;
                writable(&file)?;
                self.own(&fstat(&file)?, uid, gid)
            }
        }
    }

    fn open(&self, place: &Place, flags: i32) -> Result<(), Errno> {
        let has = |flag: i32| flags & flag == flag;
        let made = has(libc::O_CREAT);
        let link = has(libc::O_NOFOLLOW) || has(libc::O_CREAT | libc::O_EXCL);
        if has(libc::O_PATH) {
            return place.find(&place.path, has(libc::O_NOFOLLOW)).map(drop);
        }
        if has(libc::O_TMPFILE) {
            let directory = place.file()?;
            writable(&directory)?;
            return self.may(&directory, libc::W_OK | libc::X_OK);
        }
        let file = match place.find(&place.path, link) {
            Err(Errno::ENOENT) if made => {
                // Where a link leads nowhere, the file would be made there.
                return if place.find(&place.path, true).is_ok() { Err(UNKNOWN) } else { self.make(&place.parent()?) };
            }
            found => found?,
        };
        let found = fstat(&file)?;
        let writes = flags & (libc::O_WRONLY | libc::O_RDWR | libc::O_TRUNC) != 0;
        // EEXIST, ELOOP, EISDIR, ENOTDIR.
        let other = has(libc::O_CREAT | libc::O_EXCL)
            || is(&found, libc::S_IFLNK)
            || is(&found, libc::S_IFDIR) && (writes || made)
            || !is(&found, libc::S_IFDIR) && has(libc::O_DIRECTORY);
        if other {
            return Ok(());
        }
        if has(libc::O_TRUNC) && is(&found, libc::S_IFREG) {
            writable(&file)?;
        }
        let device = is(&found, libc::S_IFCHR) || is(&found, libc::S_IFBLK);
        if device && fstatvfs(&file)?.flags().contains(FsFlags::ST_NODEV) {
            return Err(Errno::EACCES);
        }
        let read = if flags & libc::O_ACCMODE == libc::O_WRONLY { 0 } else { libc::R_OK };
        self.may(&file, read | if writes { libc::W_OK } else { 0 })?;
        let own = self.has(FOWNER) || self.owns(&found);
        if has(libc::O_NOATIME) && !own { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn make(&self, parent: &OwnedFd) -> Result<(), Errno> {
        writable(parent)?;
        self.may(parent, libc::W_OK | libc::X_OK)
    }

    /// fs/namei.c, `may_delete`: in a directory with the sticky bit only what is one's own.
    fn remove(&self, parent: &OwnedFd, file: &OwnedFd) -> Result<(), Errno> {
        self.may(parent, libc::W_OK | libc::X_OK)?;
        let directory = fstat(parent)?;
        let sticky = directory.st_mode & libc::S_ISVTX != 0 && !self.has(FOWNER) && !self.owns(&directory);
        if sticky && !self.owns(&fstat(file)?) { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<(), (At, Errno)> {
        let first = |errno| (At::First, errno);
        let second = |errno| (At::Second, errno);
        let (old, new) = (from.parent().map_err(first)?, to.parent().map_err(second)?);
        if !on_one_mount(&old, &new).map_err(first)? {
            return Ok(());
        }
        writable(&old).map_err(first)?;
        let file = from.file().map_err(first)?;
        let there = match to.file() {
            Err(Errno::ENOENT) => None,
            found => Some(found.map_err(second)?),
        };
        let (found, onto) = (fstat(&file).map_err(first)?, there.as_ref().map(fstat).transpose().map_err(second)?);
        // Two names of one file: nothing to be done (rename(2)).
        if onto.is_some_and(|onto| (onto.st_dev, onto.st_ino) == (found.st_dev, found.st_ino)) {
            return Ok(());
        }
        self.remove(&old, &file).map_err(first)?;
        match &there {
            Some(there) => self.remove(&new, there).map_err(second)?,
            None => self.may(&new, libc::W_OK | libc::X_OK).map_err(second)?,
        }
        let same = |a: &FileStat, b: &FileStat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        // A directory that moves has another "..".
        if is(&found, libc::S_IFDIR) && !same(&fstat(&old).map_err(first)?, &fstat(&new).map_err(second)?) {
            self.may(&file, libc::W_OK).map_err(first)?;
        }
        Ok(())
    }

    /// linkat(2); proc_sys_fs(5), `protected_hardlinks`.
    fn link(&self, from: &Place, to: &Place) -> Result<(), Errno> {
        let file = from.file()?;
        if to.file().is_ok() {
            return Ok(());
        }
        let parent = to.parent()?;
        writable(&parent)?;
        if !on_one_mount(&from.parent()?, &parent)? {
            return Ok(());
        }
        let found = fstat(&file)?;
        let own = self.has(FOWNER) || self.owns(&found);
        let runs_as_group = found.st_mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
        let safe = is(&found, libc::S_IFREG) && found.st_mode & libc::S_ISUID == 0 && !runs_as_group;
        let guarded = fs::read("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.first() != Some(&b'0'));
        if guarded && !own && !(safe && self.may(&file, libc::R_OK | libc::W_OK).is_ok()) {
            return Err(Errno::EPERM);
        }
        self.may(&parent, libc::W_OK | libc::X_OK)
    }

    /// fs/attr.c, `setattr_prepare`: an owner gives a file to nobody else, and to no group but their own.
    fn own(&self, found: &FileStat, uid: u32, gid: u32) -> Result<(), Errno> {
        // EINVAL: the namespace has no such id.
        if self.has(CHOWN) || !is_mapped("uid_map", uid) || !is_mapped("gid_map", gid) {
            return Ok(());
        }
        let own = self.owns(found);
        let user = uid == u32::MAX || own && uid == found.st_uid;
        let in_group = self.who.ids.is_some_and(|(_, own)| own == gid) || self.who.groups.contains(&gid);
        let group = gid == u32::MAX || own && (gid == found.st_gid || in_group);
        if user && group { Ok(()) } else { Err(Errno::EPERM) }
    }
}

fn is(found: &FileStat, kind: libc::mode_t) -> bool {
    found.st_mode & libc::S_IFMT == kind
}

fn is_special(found: &FileStat) -> bool {
    ![libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK].iter().any(|kind| is(found, *kind))
}

/// Whether anything can be changed on the mount of `file`, whoever it is.
fn writable(file: &OwnedFd) -> Result<(), Errno> {
    if fstatvfs(file)?.flags().contains(FsFlags::ST_RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
}

/// Whether two directories are on the same mount: nothing is renamed or linked from one to another (`EXDEV`).
fn on_one_mount(a: &OwnedFd, b: &OwnedFd) -> Result<bool, Errno> {
    let mount = |fd: &OwnedFd| {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("mnt_id:").map(|id| id.trim().to_owned()))
    };
    Ok(fstat(a)?.st_dev == fstat(b)?.st_dev && mount(a) == mount(b))
}

/// Whether the user namespace of this process has `id` (user_namespaces(7)).
fn is_mapped(map: &str, id: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    let mut extents = text.lines().map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or_default());
        (numbers.next().unwrap_or_default(), numbers.nth(1).unwrap_or_default())
    });
    id == u32::MAX || extents.any(|(first, count)| (first..first.saturating_add(count)).contains(&u64::from(id)))
}

#[cfg(test)]
mod tests;
