//! A new directory, and what is written into it: documents, and copies of outputs that are what the list says.
//!
//! Takes a path of the caller's that is not there yet, names, bytes and open files; gives hashes; trusts the kernel for what was
//! opened; refuses to write over anything, to follow a link, and to keep half of an export: what fails is removed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::hex;
use crate::run::removal;

/// A directory that is being made. It is held open, and the one that it is in: whoever may exchange a name meanwhile has nothing
/// written or removed elsewhere.
#[derive(Debug)]
pub struct NewTree {
    parent: OwnedFd,
    name: OsString,
    top: OwnedFd,
    done: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// SHA-512, in hexadecimal.
    pub sha512: String,
}

impl NewTree {
    /// Makes it, for its owner alone.
    ///
    /// # Errors
    /// When there is something already, or it cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| {
            Error::new(Stage::Outputs, Kind::Failed, format!("cannot make the directory {}", path.display()))
                .because(e)
                .hint("name one that is not there yet: -o DIR")
        };
        let name = path.file_name().ok_or_else(|| fail(Errno::EINVAL.into()))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = openat(AT_FDCWD, parent, flags, Mode::empty()).map_err(|e| fail(e.into()))?;
        mkdirat(&parent, name.as_os_str(), Mode::S_IRWXU).map_err(|e| fail(e.into()))?;
        let top = below(&parent, name.as_os_str()).map_err(|e| fail(e.into()))?;
        let found = fstat(&top).map_err(|e| fail(e.into()))?;
        if found.st_uid != geteuid().as_raw() || found.st_mode & 0o077 != 0 {
            return Err(fail(std::io::Error::other("another was put in its place")));
        }
        Ok(Self { parent, name, top, done: false })
    }

    /// Writes what `from` has as the new file `name`, made of plain parts; directories on the way are made.
    ///
    /// # Errors
    /// When a part of the name leads elsewhere, or it cannot be written.
    pub fn write(&self, name: &[u8], from: &mut dyn Read) -> Result<Copied> {
        let fail = |e: std::io::Error| {
            Error::new(Stage::Outputs, Kind::Failed, format!("cannot write {}", crate::text::neutral_bytes(name)))
                .because(e)
                .hint("check that its file system is mounted, writable and not full")
        };
        let mut file = self.made(name).map_err(fail)?;
        copy(from, &mut file).map_err(fail)
    }

    /// The new file `name`.
    fn made(&self, name: &[u8]) -> std::io::Result<File> {
        let mut at = self.top.try_clone()?;
        let mut parts = name.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            plain(part)?;
            if parts.peek().is_none() {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                return Ok(File::from(openat(&at, part, flags, Mode::S_IRUSR | Mode::S_IWUSR)?));
            }
            match mkdirat(&at, part, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
            at = below(&at, part)?;
        }
        Err(std::io::Error::other("it has no name"))
    }

    /// Removes what is in it, and itself where its name is still its own.
    fn remove(&self) -> nix::Result<()> {
        let top = removal::open(&self.top, c".", removal::ALL)?;
        removal::content(&top, removal::ALL)?;
        let (own, named) = (fstat(&top)?, fstatat(&self.parent, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?);
        if (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino) {
            // What has come in its place since goes only if it is an empty directory.
            unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::RemoveDir)?;
        }
        Ok(())
    }

    /// It is whole: it stays.
    pub fn keep(mut self) {
        self.done = true;
    }
}

impl Drop for NewTree {
    fn drop(&mut self) {
        if !self.done {
            // Made by this process, of nothing but copies.
            self.remove().ok();
        }
    }
}

/// Opens a directory, through no link.
fn below<P: nix::NixPath + ?Sized>(dir: impl AsFd, name: &P) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Whether a part of a name leads to what it names.
fn plain(part: &[u8]) -> std::io::Result<()> {
    let leads_elsewhere = part.is_empty() || part == b"." || part == b"..";
    if leads_elsewhere { Err(std::io::Error::other("it is not a plain name")) } else { Ok(()) }
}

fn copy(from: &mut dyn Read, to: &mut File) -> std::io::Result<Copied> {
    let (mut short, mut long, mut bytes) = (Sha256::new(), Sha512::new(), 0_u64);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        short.update(piece);
        long.update(piece);
        to.write_all(piece)?;
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(0));
    }
    Ok(Copied { bytes, sha256: hex(&short.finalize()), sha512: hex(&long.finalize()) })
}

/// Opens the regular file `name` below `dir`, through no link.
///
/// # Errors
/// When it is not there, or no regular file, or a part of its name is a link.
pub fn open_below(dir: &OwnedFd, name: &[u8]) -> std::io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut at = dir.as_fd().try_clone_to_owned()?;
    let mut parts = name.split(|byte| *byte == b'/').peekable();
    while let Some(part) = parts.next() {
        plain(part)?;
        let kind = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
        at = openat(&at, part, flags | kind, Mode::empty())?;
    }
    let file = File::from(at);
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is not a regular file")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_fails_is_removed_where_it_is_and_nothing_in_the_place_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (kept, made) in [("important/out", "x/out"), ("y/other", "y/out")] {
            fs::create_dir_all(at(kept)).unwrap();
            fs::create_dir_all(at(made).parent().unwrap()).unwrap();
            fs::write(at(kept).join("kept"), "kept").unwrap();
        }
        // A directory on the way is exchanged for a link.
        let tree = NewTree::new(&at("x/out")).unwrap();
        tree.write(b"data/a", &mut b"abc".as_slice()).unwrap();
        fs::rename(at("x"), at("xold")).unwrap();
        std::os::unix::fs::symlink("important", at("x")).unwrap();
        drop(tree);
        assert!(at("important/out/kept").exists() && at("xold").exists() && !at("xold/out").exists());
        // Itself is exchanged for another.
        let tree = NewTree::new(&at("y/out")).unwrap();
        tree.write(b"data/a", &mut b"abc".as_slice()).unwrap();
        fs::rename(at("y/out"), at("y/moved")).unwrap();
        fs::rename(at("y/other"), at("y/out")).unwrap();
        drop(tree);
        assert!(at("y/out/kept").exists() && fs::read_dir(at("y/moved")).unwrap().next().is_none());
    }

    #[test]
    fn nothing_is_written_over_or_outside_and_what_fails_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bag");
        let tree = NewTree::new(&path).unwrap();
        let copied = tree.write(b"data/a/b.txt", &mut b"abc".as_slice()).unwrap();
        assert_eq!(copied.bytes, 3);
        assert!(copied.sha256.starts_with("ba7816bf") && copied.sha512.starts_with("ddaf35a1"), "{copied:?}");
        for name in [b"data/a/b.txt".as_slice(), b"../x", b"data/../../x", b"/x", b"", b"data//x", b"."] {
            assert!(tree.write(name, &mut b"x".as_slice()).is_err(), "{name:?}");
        }
        assert_eq!(fs::read(path.join("data/a/b.txt")).unwrap(), b"abc");
        assert!(NewTree::new(&path).is_err());
        drop(tree);
        assert!(!path.exists());
        // Whoever may exchange its name has nothing written elsewhere.
        let tree = NewTree::new(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        tree.write(b"data/x", &mut b"x".as_slice()).unwrap();
        assert!(dir.path().join("moved/data/x").exists() && !dir.path().join("elsewhere/data").exists());
        tree.keep();
        assert!(dir.path().join("moved").exists());
    }

    #[test]
    fn outputs_are_opened_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "x").unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("l")).unwrap();
        std::os::unix::fs::symlink("d/f", dir.path().join("lf")).unwrap();
        let top: OwnedFd = File::open(dir.path()).unwrap().into();
        assert!(open_below(&top, b"d/f").is_ok());
        for name in [b"l/f".as_slice(), b"lf", b"d", b"d/../d/f", b"/etc/passwd", b"none", b""] {
            assert!(open_below(&top, name).is_err(), "{name:?}");
        }
    }
}
