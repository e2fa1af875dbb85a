//! Small files of an image, read from its layers before anything is mounted (`/etc/passwd`, `/etc/group`).
//!
//! Takes the layers and a path; gives the bytes of the upper-most file there; trusts the store; refuses anything but a
//! regular file of bounded size (CVE-2024-9676: a fifo there hangs the reader).

use std::io::Read as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use pathrs::Root;
use pathrs::error::ErrorKind;
use pathrs::flags::OpenFlags;

use crate::error::{Error, Kind, Result, Stage};

/// At most so much is read.
const CAP: u64 = 4 << 20;

/// The file at `path` in the image; none when no layer has it, or an upper layer removed it.
///
/// # Errors
/// When something other than a regular file is there, or it is too large.
pub fn read(layers: &[PathBuf], path: &Path) -> Result<Option<Vec<u8>>> {
    for layer in layers.iter().rev() {
        let root = Root::open(layer).map_err(|e| fail(path).caused_by(&e))?;
        let handle = match root.resolve(path) {
            Ok(handle) => handle,
            Err(e) if matches!(e.kind(), ErrorKind::OsError(Some(libc::ENOENT | libc::ENOTDIR))) => {
                if hides(&root, path)? {
                    return Ok(None);
                }
                continue;
            }
            Err(e) => return Err(fail(path).caused_by(&e)),
        };
        let stat = fstatat(&handle, "", AtFlags::AT_EMPTY_PATH).map_err(|e| fail(path).because(e.desc()))?;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {}
            // A whiteout: an upper layer removed it (overlayfs: character device 0:0).
            libc::S_IFCHR if stat.st_rdev == 0 => return Ok(None),
            _ => return Err(fail(path).because("it is not a regular file")),
        }
        let file = handle.reopen(OpenFlags::O_RDONLY | OpenFlags::O_NONBLOCK).map_err(|e| fail(path).caused_by(&e))?;
        let mut bytes = Vec::new();
        file.take(CAP + 1).read_to_end(&mut bytes).map_err(|e| fail(path).because(e))?;
        if bytes.len() as u64 > CAP {
            return Err(fail(path).because(format!("it is larger than {CAP} bytes")));
        }
        return Ok(Some(bytes));
    }
    Ok(None)
}

/// Whether this layer hides the directories of lower ones on the way to `path` (an opaque or removed directory).
fn hides(root: &Root, path: &Path) -> Result<bool> {
    for dir in path.ancestors().skip(1).filter(|dir| *dir != Path::new("/") && !dir.as_os_str().is_empty()) {
        let Ok(handle) = root.resolve_nofollow(dir) else { continue };
        let stat = fstatat(&handle, "", AtFlags::AT_EMPTY_PATH).map_err(|e| fail(path).because(e.desc()))?;
        if stat.st_mode & libc::S_IFMT == libc::S_IFCHR {
            return Ok(true);
        }
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            let opaque = handle
                .reopen(OpenFlags::O_RDONLY | OpenFlags::O_DIRECTORY)
                .map_err(|e| fail(path).caused_by(&e))
                .map(|dir| rustix::fs::fgetxattr(&dir, "user.overlay.opaque", &mut [0_u8; 8]).is_ok())?;
            if opaque {
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
