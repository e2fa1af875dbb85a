//! Small files of an image, read from its layers before anything is mounted (`/etc/passwd`, `/etc/group`).
//!
//! Takes the layers and a path; gives the bytes of the upper-most file there; trusts the store; refuses anything but a
//! regular file of bounded size (CVE-2024-9676: a fifo there hangs the reader).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, fstat};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;

/// At most so much is read.
const CAP: u64 = 4 << 20;

/// The file at `path` in the image; none when no layer has it, or an upper layer removed it.
///
/// # Errors
/// When something other than a regular file is there, or it is too large.
pub fn read(_: &Root, layers: &[PathBuf], path: &Path) -> Result<Option<Vec<u8>>> {
    for layer in layers.iter().rev() {
        let root = open(layer, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let root = root.map_err(|e| fail(path).because(e.desc()))?;
        // Looked at before it is opened: to open a device may do something.
        let found = match within(&root, path, OFlag::O_PATH) {
            Ok(found) => found,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                if hides(&root, path)? {
                    return Ok(None);
                }
                continue;
            }
            Err(e) => return Err(fail(path).because(e.desc())),
        };
        let stat = look(&found, path)?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {}
            // A whiteout: an upper layer removed it (overlayfs: character device 0:0).
            libc::S_IFCHR if stat.st_rdev == 0 => return Ok(None),
            _ => return Err(fail(path).because("it is not a regular file")),
        }
        let file = within(&root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY);
        let file = file.map_err(|e| fail(path).because(e.desc()))?;
        let opened = look(&file, path)?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(fail(path).because("it was replaced while it was looked at"));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(opened.st_size).unwrap_or_default().min(1 << 16) + 1);
        File::from(file).take(CAP + 1).read_to_end(&mut bytes).map_err(|e| fail(path).because(e))?;
        if bytes.len() as u64 > CAP {
            return Err(fail(path).because(format!("it is larger than {CAP} bytes")));
        }
        return Ok(Some(bytes));
    }
    Ok(None)
}

/// Opens `path` in the tree of `root`: links are followed by the kernel and lead nowhere else (openat2(2), RESOLVE_IN_ROOT).
fn within(root: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(root, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
}

fn look(file: &OwnedFd, path: &Path) -> Result<FileStat> {
    fstat(file).map_err(|e| fail(path).because(e.desc()))
}

/// Whether this layer hides the directories of lower ones on the way to `path` (an opaque or removed directory).
fn hides(root: &OwnedFd, path: &Path) -> Result<bool> {
    for dir in path.ancestors().skip(1).filter(|dir| *dir != Path::new("/") && !dir.as_os_str().is_empty()) {
        let Ok(found) = within(root, dir, OFlag::O_PATH | OFlag::O_NOFOLLOW) else { continue };
        let kind = look(&found, path)?.st_mode & libc::S_IFMT;
        if kind == libc::S_IFCHR {
            return Ok(true);
        }
        if kind == libc::S_IFDIR {
            let dir = within(root, dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW);
            let dir = dir.map_err(|e| fail(path).because(e.desc()))?;
            if rustix::fs::fgetxattr(&dir, "user.overlay.opaque", &mut [0_u8; 8]).is_ok() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn fail(path: &Path) -> Error {
    Error::new(Stage::Bundle, Kind::Hostile, format!("cannot read {} of the image", path.display()))
        .hint("the image is malformed; name the user by number with --user UID:GID")
}
