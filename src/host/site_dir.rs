//! Directories that root alone can change: what root obeys, or removes, lies below such a one.
//!
//! Takes a path of the site's own; gives a `SiteDir`, opened from `/` on, one name after the other and through no link; trusts
//! `fstat` on each descriptor; refuses where anybody but root owns a directory on the way, or may write to it: names below
//! the result then stay what they are, so that paths may be used.
//!
//! For an ordinary user's own directories, and for those that real root names itself, only the directory itself is looked at:
//! they have no more power than who chose the place.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, UnlinkatFlags, fchown, geteuid, unlinkat};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;

/// A directory that nobody can exchange who has less power than this process.
#[derive(Debug, Clone)]
pub struct SiteDir {
    path: PathBuf,
    directory: Arc<OwnedFd>,
}

impl SiteDir {
    /// Opens the site's directory `path`, and makes it (0700) where it is missing.
    ///
    /// # Errors
    /// When a directory on the way is a link, belongs to another than root, or may be written by others; and the kernel's.
    pub fn of_the_site(root: &Root, path: &Path) -> Result<Self> {
        Self::walk(root, path, true)?.ok_or_else(|| fail(path, path, Errno::ENOENT))
    }

    /// Opens the site's directory `path`; none where there is none.
    ///
    /// # Errors
    /// As [`SiteDir::of_the_site`].
    pub fn existing(root: &Root, path: &Path) -> Result<Option<Self>> {
        Self::walk(root, path, false)
    }

    fn walk(_: &Root, path: &Path, make: bool) -> Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = open("/", flags, Mode::empty()).map_err(|e| fail(path, Path::new("/"), e))?;
        if !path.is_absolute() {
            return Err(refused(path, "it is not an absolute path"));
        }
        let mut so_far = PathBuf::from("/");
        check(path, &so_far, &look(path, &so_far, &directory)?)?;
        for part in path.components().skip(1) {
            let Component::Normal(name) = part else {
                return Err(refused(path, "it is not an absolute path without `..`"));
            };
            so_far.push(name);
            directory = match enter(&directory, name, make) {
                Ok(below) => below,
                Err(Errno::ENOENT) if !make => return Ok(None),
                Err(Errno::ELOOP | Errno::ENOTDIR) => {
                    return Err(refused(path, &format!("{} is a symbolic link, or no directory", so_far.display())));
                }
                Err(e) => return Err(fail(path, &so_far, e)),
            };
            check(path, &so_far, &look(path, &so_far, &directory)?)?;
        }
        Ok(Some(Self { path: path.to_owned(), directory: Arc::new(directory) }))
    }

    /// Opens the directory `name` in it; none where there is none.
    ///
    /// # Errors
    /// When it is a link or no directory, or belongs to, or may be written by, others than this directory's owner.
    pub fn below(&self, name: &OsStr) -> Result<Option<Self>> {
        let path = self.path.join(name);
        let directory = match enter(&self.directory, name, false) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP | Errno::ENOTDIR) => return Err(refused(&path, "it is a symbolic link, or no directory")),
            Err(e) => return Err(fail(&path, &path, e)),
        };
        let (found, above) = (look(&path, &path, &directory)?, look(&path, &self.path, &self.directory)?);
        if found.st_uid != above.st_uid || found.st_mode & 0o022 != 0 {
            let mode = found.st_mode & 0o7777;
            return Err(refused(&path, &format!("it is owned by uid {}, mode {mode:04o}", found.st_uid)));
        }
        Ok(Some(Self { path, directory: Arc::new(directory) }))
    }

    /// Opens the document `name` in it, to be read; none where there is none. What is checked is what is read: root wrote it,
    /// nobody else may, and it has no other name.
    ///
    /// # Errors
    /// When it is no regular file, or belongs to, or may be written by, others than the directory's owner.
    pub fn document(&self, name: &OsStr) -> Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let at = self.path.join(name);
        // A descriptor for a place is none to read from.
        let opened = openat(&self.directory, name, flags, Mode::empty());
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(refused(&at, "it is a symbolic link")),
            Err(e) => return Err(fail(&at, &at, e)),
        };
        let (found, above) = (fstat(&file), fstat(&self.directory));
        let (found, above) = (found.map_err(|e| fail(&at, &at, e))?, above.map_err(|e| fail(&at, &at, e))?);
        let mode = found.st_mode & 0o7777;
        if found.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(refused(&at, "it is not a regular file"));
        }
        if found.st_uid != above.st_uid || mode & 0o022 != 0 {
            return Err(refused(&at, &format!("it is owned by uid {}, mode {mode:04o}", found.st_uid)));
        }
        Ok(Some(file))
    }

    /// Opens the directory `name` in it, and makes it (0700) where it is missing.
    ///
    /// # Errors
    /// As [`SiteDir::below`], and when it cannot be made.
    pub fn made_below(&self, name: &OsStr) -> Result<Self> {
        let path = self.path.join(name);
        match mkdirat(&self.directory, name, Mode::S_IRWXU) {
            Ok(()) => self.sync().map_err(|e| failed(&path, &e))?,
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(fail(&path, &path, e)),
        }
        self.below(name)?.ok_or_else(|| fail(&path, &path, Errno::ENOENT))
    }

    /// Waits until nobody else holds the lock of this directory (flock(2)), and holds it until the result is dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lock(&self) -> Result<Flock<File>> {
        let open = || {
            // Whoever can open a directory can hold its lock, for as long as they like.
            if fstat(&self.directory)?.st_mode & 0o055 == 0 {
                return self.readable();
            }
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(&self.directory, ".lock", flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
        };
        let file = open().map_err(|e| fail(&self.path, &self.path, e))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| fail(&self.path, &self.path, e))
    }

    /// Writes the document `name`: aside, with the mode and group of the one that is replaced (else 0600), on disk, and then
    /// renamed, so that it is whole at any moment. Whoever writes it holds [`SiteDir::lock`]; what a crash left aside is
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is there.
    pub fn replace(&self, name: &str, text: &[u8], replaced: Option<&File>) -> Result<()> {
        let aside = format!(".{name}.new");
        let write = || -> std::io::Result<()> {
            match unlinkat(&self.directory, aside.as_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let private = Mode::S_IRUSR | Mode::S_IWUSR;
            let mut file = File::from(openat(&self.directory, aside.as_str(), flags, private)?);
            if let Some(old) = replaced {
                let old = fstat(old)?;
                fchown(&file, None, Some(Gid::from_raw(old.st_gid)))?;
                fchmod(&file, Mode::from_bits_truncate(old.st_mode & 0o777))?;
            }
            file.write_all(text)?;
            file.sync_all()?;
            renameat(&self.directory, aside.as_str(), &self.directory, name)?;
            self.sync()
        };
        write().map_err(|e| failed(&self.path.join(name), &e))
    }

    /// Removes the document `name`, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(failed(&self.path.join(name), &e.into())),
        }
    }

    /// The names in it that are text.
    ///
    /// # Errors
    /// The kernel's.
    pub fn names(&self) -> Result<Vec<String>> {
        let read = || -> std::io::Result<Vec<String>> {
            let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))?;
            entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
        };
        read().map_err(|e| failed(&self.path, &e))
    }

    /// A descriptor that can be read, locked and put on disk.
    fn readable(&self) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(&self.directory, c".", flags, Mode::empty()).map(File::from)
    }

    /// Puts its names on disk.
    fn sync(&self) -> std::io::Result<()> {
        self.readable()?.sync_all()
    }

    /// Opens a directory of the caller's choice, and makes it (0700) where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to, or may be written by, somebody else.
    pub fn of_the_caller(path: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Host, Kind::Host, format!("cannot use the directory {}", path.display()))
                .because(e)
                .hint("name a directory that can be yours, on a local file system, with --root or CES_ROOT")
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed(&e))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(AT_FDCWD, path, flags, Mode::empty()).map_err(|e| failed(&e.desc()))?;
        let found = fstat(&directory).map_err(|e| failed(&e.desc()))?;
        if found.st_uid != geteuid().as_raw() || found.st_mode & 0o022 != 0 {
            return Err(Error::new(Stage::Host, Kind::Host, format!("the directory {} is not safe", path.display()))
                .because("it belongs to, or may be written by, someone else")
                .hint("choose another directory with --root, or correct owner and mode (chmod 700)"));
        }
        Ok(Self { path: path.to_owned(), directory: Arc::new(directory) })
    }

    /// Its path; nobody can make it lead elsewhere.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl AsFd for SiteDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn enter(parent: &OwnedFd, name: &OsStr, make: bool) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) if make => {}
        opened => return opened,
    }
    match mkdirat(parent, name, Mode::S_IRWXU) {
        // Somebody was quicker: it is looked at all the same.
        Ok(()) | Err(Errno::EEXIST) => openat(parent, name, flags, Mode::empty()),
        Err(e) => Err(e),
    }
}

fn look(whole: &Path, at: &Path, directory: &OwnedFd) -> Result<FileStat> {
    fstat(directory).map_err(|e| fail(whole, at, e))
}

/// Whether root alone decides what is in a directory.
fn check(whole: &Path, at: &Path, found: &FileStat) -> Result<()> {
    if found.st_uid == 0 && found.st_mode & 0o022 == 0 {
        return Ok(());
    }
    let (uid, gid, mode) = (found.st_uid, found.st_gid, found.st_mode & 0o7777);
    Err(refused(whole, &format!("{} is owned by uid {uid}, gid {gid}, mode {mode:04o}", at.display())))
}

fn refused(whole: &Path, why: &str) -> Error {
    Error::new(Stage::Host, Kind::Host, format!("{} could be exchanged by others than root", whole.display()))
        .because(why)
        .hint("correct owner and mode (root, 0755), or let the policy name another place: [site] store, state, log")
}

fn failed(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Stage::Host, Kind::Failed, format!("cannot write {}", path.display()))
        .because(e)
        .hint("check that its file system is mounted, writable and not full")
}

fn fail(whole: &Path, at: &Path, e: Errno) -> Error {
    Error::new(Stage::Host, Kind::Host, format!("cannot open {}", whole.display()))
        .because(format!("{}: {}", at.display(), e.desc()))
        .hint("check that its file system is mounted, writable and not full; [site] in the policy names other places")
}
