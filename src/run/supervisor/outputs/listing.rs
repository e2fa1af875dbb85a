//! What is in the outputs, line by line: with the researcher's own rights, who owns all of it by then.
//!
//! Takes the outputs directory; gives lines; trusts `fstat` of what it has opened; refuses to follow a link, to open
//! anything but regular files and directories, and to ask anything of what is mounted there.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};
use serde::{Deserialize, Serialize};

use crate::host::same_mount;
use crate::run::supervisor::outputs::hash::{Ask, FileRead, Hasher};
use crate::run::supervisor::outputs::line::{ANOTHER_KIND, Kind, Line};
use crate::run::supervisor::outputs::list::ListWriter;
use crate::run::supervisor::outputs::tree::{self, At, Visitor};
use crate::run::supervisor::outputs::{Few, LISTED};
use crate::text;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Files without a hash.
    pub not_hashed: u64,
    /// Why, of the first.
    pub why: Option<String>,
    /// What could not be looked at.
    pub failed: Few,
    /// Why the list is not whole, if it is not.
    pub cut: Option<String>,
}

/// Whose entries are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Those of this user: what is not the researcher's was left alone.
    Owner(u32),
    /// All, told from those of this user: to be compared with a list.
    Everybody(u32),
}

/// Lists what there is in `top`, until `ask` says no.
///
/// # Errors
/// When the directory itself cannot be read.
pub fn list(top: &OwnedFd, of: Of, file: Option<&File>, ask: Ask<'_>) -> nix::Result<Listed> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = openat(top, c".", flags, Mode::empty())?;
    let hasher = Hasher::new(ask);
    let mut listing = Listing { of, list: ListWriter::new(file), hasher, listed: Listed::default(), over: None };
    tree::walk(top, &mut listing);
    let Listing { mut list, mut listed, over, .. } = listing;
    over.iter().for_each(|why| list.cut(why));
    listed.cut = list.end();
    Ok(listed)
}

struct Listing<'a> {
    of: Of,
    list: ListWriter,
    hasher: Hasher<'a>,
    listed: Listed,
    over: Option<String>,
}

/// Opens what is held, a regular file or directory, for reading.
///
/// # Errors
/// The kernel's.
fn opened(held: &OwnedFd, flags: OFlag) -> nix::Result<OwnedFd> {
    let itself = format!("/proc/self/fd/{}", held.as_raw_fd());
    openat(AT_FDCWD, itself.as_str(), flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

fn mtime(stat: &FileStat) -> String {
    format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec)
}

/// Permissions as they are written.
fn octal(stat: &FileStat) -> String {
    format!("{:04o}", stat.st_mode & 0o7777)
}

/// The hash of a regular file that is open for reading.
///
/// # Errors
/// The kernel's.
fn hashed(hasher: &mut Hasher<'_>, file: OwnedFd, stat: &FileStat) -> nix::Result<FileRead> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    hasher.hash(&File::from(file), size, disk).map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}

/// An entry that is held, or open for reading where it is a file.
enum Entry {
    Held(OwnedFd),
    File(OwnedFd),
}

impl Entry {
    /// What is listed as a regular file is opened at once, which is half of what it takes: whoever puts something else in its place
    /// meanwhile has nothing that does more, when it is opened, than a fifo that is not waited for.
    fn find(dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<(Self, FileStat)> {
        if at.listed_as_file {
            let file = same_mount::open(dir, name, TO_READ).and_then(|file| fstat(&file).map(|stat| (file, stat)));
            if let Ok((file, stat)) = file
                && stat.st_mode & libc::S_IFMT == libc::S_IFREG
            {
                return Ok((Self::File(file), stat));
            }
        }
        same_mount::hold(dir, name).map(|(held, stat)| (Self::Held(held), stat))
    }

    fn opened(self, flags: OFlag) -> nix::Result<OwnedFd> {
        match self {
            Self::Held(held) => opened(&held, flags),
            Self::File(file) => Ok(file),
        }
    }
}

const TO_READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

impl Visitor for Listing<'_> {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
        if self.over.is_none() {
            self.over = self.hasher.is_over();
        }
        if at.depth >= LISTED {
            return Ok(None);
        }
        let (entry, stat) = Entry::find(dir, name, at)?;
        let others = match self.of {
            // Left alone, and listed as that.
            Of::Owner(uid) if stat.st_uid != uid => return Ok(None),
            Of::Owner(_) => false,
            Of::Everybody(uid) => stat.st_uid != uid,
        };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                let deepest = at.depth + 1 >= LISTED;
                let why = deepest.then(|| format!("what is in it is not listed: deeper than {LISTED} levels"));
                let mut line = Line::new(at.path, Kind::Directory).of_others(others);
                (line.mode, line.mtime, line.why) = (Some(octal(&stat)), Some(mtime(&stat)), why);
                self.list.add(&line);
                if deepest {
                    let shown = text::neutral_bytes(at.path);
                    self.listed.failed.add(&format!("{shown}: what is deeper than {LISTED} levels is not listed"));
                    return Ok(None);
                }
                return entry.opened(OFlag::O_DIRECTORY).map(Some);
            }
            libc::S_IFREG => {
                let FileRead { sha256, sniffed } = hashed(&mut self.hasher, entry.opened(TO_READ)?, &stat)?;
                let mut line = Line::new(at.path, Kind::File).of_others(others);
                (line.mode, line.mtime) = (Some(octal(&stat)), Some(mtime(&stat)));
                line.size = u64::try_from(stat.st_size).ok();
                line.content = sniffed.map(|sniffed| sniffed.content);
                line.media = sniffed.map(|sniffed| sniffed.media.to_owned());
                match sha256 {
                    Ok(sha256) => line.sha256 = Some(sha256),
                    Err(why) => {
                        self.listed.not_hashed += 1;
                        self.listed.why.get_or_insert_with(|| why.clone());
                        line.not_hashed = Some(why);
                    }
                }
                self.list.add(&line);
            }
            libc::S_IFLNK => {
                let Entry::Held(held) = entry else { return Ok(None) };
                let mut line = Line::link(at.path, readlinkat(&held, c"")?.as_encoded_bytes());
                (line.mtime, line.others) = (Some(mtime(&stat)), others);
                self.list.add(&line);
            }
            _ => self.list.add(&Line::refused(at.path, ANOTHER_KIND).of_others(others)),
        }
        Ok(None)
    }

    fn failed(&mut self, at: At<'_>, error: Errno) {
        // Gone meanwhile: then it is no output.
        if error != Errno::ENOENT {
            let why = format!("could not be read ({})", same_mount::why(error));
            self.listed.failed.add(&format!("{}: {why}", text::neutral_bytes(at.path)));
            self.list.add(&Line::refused(at.path, &why));
        }
    }

    fn is_over(&self) -> bool {
        self.over.is_some() || self.list.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    const AS_FILE: At<'_> = At { path: b"x", depth: 0, listed_as_file: true };

    #[test]
    fn what_was_listed_as_a_file_and_is_none_by_now_is_held_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let top = OwnedFd::from(File::open(dir.path()).unwrap());
        for (name, kind) in [
            (c"fifo", libc::S_IFIFO),
            (c"link", libc::S_IFLNK),
            (c"directory", libc::S_IFDIR),
            (c"socket", libc::S_IFSOCK),
        ] {
            let (entry, stat) = Entry::find(&top, name, AS_FILE).unwrap();
            assert!(matches!(entry, Entry::Held(_)) && stat.st_mode & libc::S_IFMT == kind, "{name:?}");
        }
        assert!(matches!(Entry::find(&top, c"file", AS_FILE).unwrap().0, Entry::File(_)));
        assert!(matches!(Entry::find(&top, c"proc", AS_FILE).err(), Some(Errno::ENOENT)));
        // What is mounted is not opened either, whatever the directory says.
        assert!(matches!(Entry::find(&File::open("/").unwrap().into(), c"proc", AS_FILE).err(), Some(Errno::EXDEV)));
    }

    #[test]
    fn a_name_that_is_exchanged_all_the_time_is_opened_as_a_file_of_the_directory_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "of the run").unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        let own = fs::metadata(at("file")).unwrap().ino();
        let top = OwnedFd::from(File::open(dir.path()).unwrap());
        let over = AtomicBool::new(false);
        let (mut files, mut links) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let how = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(&top, "file", &top, "link", how).unwrap();
                }
            });
            while files < 1_000 || links < 1_000 {
                match Entry::find(&top, c"file", AS_FILE).unwrap() {
                    (Entry::File(_), stat) => {
                        assert_eq!(stat.st_ino, own);
                        files += 1;
                    }
                    (Entry::Held(_), stat) => {
                        // As a file: between both looks it was exchanged once more.
                        assert!(stat.st_mode & libc::S_IFMT == libc::S_IFLNK || stat.st_ino == own);
                        links += 1;
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
