//! Copies the merged tree of an image into a directory: the real `rootfs` of a portable bundle.
//!
//! Takes two open directories; gives a copy with the same names, modes, owners, times, links and attributes; trusts the
//! overlay to be still (nothing runs in it); refuses device nodes, of which an unpacked image has none.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, mkfifoat, symlinkat};

use crate::error::{Error, Kind, Result, Stage};
use crate::text;

/// Copies everything below `from` to below `to`, and the attributes of `from` itself.
///
/// # Errors
/// The kernel's, naming the entry.
pub fn copy(from: OwnedFd, to: OwnedFd) -> Result<()> {
    Copier { seen: HashMap::new() }.directory(from, to, "/")
}

/// What the tree copied so far holds: inode → an open directory and a name in it, for hard links.
struct Copier {
    seen: HashMap<(u64, u64), (OwnedFd, CString)>,
}

impl Copier {
    fn directory(&mut self, from: OwnedFd, to: OwnedFd, shown: &str) -> Result<()> {
        let stat = fstat(&from).map_err(|e| fail(shown, e))?;
        let copy = from.try_clone().map_err(|e| fail(shown, nix::Error::try_from(e).unwrap_or(nix::Error::EIO)))?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(copy).map_err(|e| fail(shown, e))?.iter() {
            let name = entry.map_err(|e| fail(shown, e))?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        for name in names {
            let below = format!("{}/{}", shown.trim_end_matches('/'), text::neutral_bytes(name.to_bytes()));
            let stat = fstatat(&from, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| fail(&below, e))?;
            self.entry(&from, &to, &name, &stat, &below)?;
        }
        attributes(&from, &to, &stat).map_err(|e| fail(shown, e))
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &FileStat, shown: &str) -> Result<()> {
        let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let kind = stat.st_mode & libc::S_IFMT;
        if kind == libc::S_IFDIR {
            mkdirat(to, name, Mode::S_IRWXU).map_err(|e| fail(shown, e))?;
            let open = |dir: &OwnedFd| openat(dir, name, read | OFlag::O_DIRECTORY, Mode::empty());
            let (from, to) = (open(from).map_err(|e| fail(shown, e))?, open(to).map_err(|e| fail(shown, e))?);
            return self.directory(from, to, shown);
        }
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some((dir, first)) = self.seen.get(&inode) {
                return linkat(dir, first.as_c_str(), to, name, AtFlags::empty()).map_err(|e| fail(shown, e));
            }
            let dir = to.try_clone().map_err(|e| fail(shown, nix::Error::try_from(e).unwrap_or(nix::Error::EIO)))?;
            self.seen.insert(inode, (dir, name.to_owned()));
        }
        match kind {
            libc::S_IFREG => {
                let source = openat(from, name, read, Mode::empty()).map_err(|e| fail(shown, e))?;
                let create = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let target = openat(to, name, create, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| fail(shown, e))?;
                let (mut source, mut target) = (std::fs::File::from(source), std::fs::File::from(target));
                std::io::copy(&mut source, &mut target)
                    .map_err(|e| fail(shown, nix::Error::try_from(e).unwrap_or(nix::Error::EIO)))?;
                return attributes(&source, &target, stat).map_err(|e| fail(shown, e));
            }
            libc::S_IFLNK => {
                let target = readlinkat(from, name).map_err(|e| fail(shown, e))?;
                symlinkat(target.as_os_str(), to, name).map_err(|e| fail(shown, e))?;
            }
            libc::S_IFIFO => {
                mkfifoat(to, name, Mode::from_bits_truncate(stat.st_mode & 0o777)).map_err(|e| fail(shown, e))?
            }
            // Sockets mean nothing without the process that listened.
            libc::S_IFSOCK => return Ok(()),
            _ => return Err(fail(shown, nix::Error::ENODEV)),
        }
        let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
        fchownat(to, name, owner.0, owner.1, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| fail(shown, e))?;
        let (accessed, modified) = times(stat);
        utimensat(to, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink).map_err(|e| fail(shown, e))
    }
}

/// Owner, then mode (a change of owner clears bits of it), extended attributes, and times last.
fn attributes(from: &impl AsFd, to: &impl AsFd, stat: &FileStat) -> nix::Result<()> {
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o1777))?;
    user_attributes(from, to)?;
    let (accessed, modified) = times(stat);
    futimens(to, &accessed, &modified)
}

fn user_attributes(from: &impl AsFd, to: &impl AsFd) -> nix::Result<()> {
    let errno = |e: rustix::io::Errno| nix::Error::from_raw(e.raw_os_error());
    let mut list = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(errno(e)),
    };
    let mut value = vec![0_u8; 64 * 1024];
    for name in
        list.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."))
    {
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice()).map_err(errno)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(to, name, value, rustix::fs::XattrFlags::empty()).map_err(errno)?;
    }
    Ok(())
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(stat.st_atime, stat.st_atime_nsec), TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn fail(shown: &str, e: nix::Error) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, format!("cannot copy {shown} of the image")).because(e.desc())
}
