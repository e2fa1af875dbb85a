//! A place of the host that a caller names, and where it is whatever it is called.
//!
//! Takes a path; gives a `Place`: opened once, with the rights that this thread has now, so that whatever is judged of it is judged
//! of the descriptor, and whatever is used later can be held against it; trusts the kernel's list of mounts
//! (proc_pid_mountinfo(5)); refuses nothing itself.
//!
//! While a `Place` lives its inode does, so that device and number are those of no other file.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use serde::{Deserialize, Serialize};

use super::kernel_files;

/// Which file it is, as stat(2) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Of a file that is open.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(file: &impl AsFd) -> nix::Result<Self> {
        fstat(file.as_fd()).map(|found| Self { device: found.st_dev, number: found.st_ino })
    }
}

/// A directory or file that was named, and is held.
#[derive(Debug, Clone)]
pub struct Place {
    path: PathBuf,
    opened: Arc<OwnedFd>,
    found: FileStat,
}

impl Place {
    /// Opens what `path` leads to. A directory is entered, so that one which is mounted by being looked at (autofs) is there.
    ///
    /// # Errors
    /// The kernel's: it is not there, or cannot be reached.
    pub fn open(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let entered = open(path, flags | OFlag::O_DIRECTORY, Mode::empty());
        let opened = match entered {
            Err(nix::Error::ENOTDIR) => open(path, flags, Mode::empty()),
            entered => entered,
        };
        Self::of(opened?)
    }

    /// The same without entering it: nothing is mounted by this.
    ///
    /// # Errors
    /// As [`Place::open`].
    pub fn glance(path: &Path) -> nix::Result<Self> {
        Self::of(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn of(opened: OwnedFd) -> nix::Result<Self> {
        let path = PathBuf::from(readlink(format!("/proc/self/fd/{}", opened.as_raw_fd()).as_str())?);
        let found = fstat(&opened)?;
        Ok(Self { path, opened: Arc::new(opened), found })
    }

    /// Its path, without links, at the time when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub fn inode(&self) -> Inode {
        Inode { device: self.found.st_dev, number: self.found.st_ino }
    }

    /// What stat(2) says of it.
    pub fn found(&self) -> &FileStat {
        &self.found
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        SFlag::from_bits_truncate(self.found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }
}

/// Where something is in a file system: the same for all names, links and bind mounts that lead there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    file_system: String,
    path: PathBuf,
}

impl Position {
    /// Whether one of the two holds the other, or they are the same.
    fn meets(&self, other: &Self) -> bool {
        self.file_system == other.file_system
            && (self.path.starts_with(&other.path) || other.path.starts_with(&self.path))
    }
}

/// Whether something of `some` is, holds, or lies in something of `others`.
pub fn meet(some: &[Position], others: &[Position]) -> bool {
    some.iter().any(|one| others.iter().any(|other| one.meets(other)))
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    id: u64,
    /// Which of the file system is mounted.
    root: Position,
    at: PathBuf,
}

/// The mounts of this mount namespace.
#[derive(Debug, Clone)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` for a line of another form than the documented one.
    pub fn read() -> io::Result<Self> {
        Self::parse(&kernel_files::read_bytes("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/mountinfo has an unknown form"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(mount).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Where `place` is, and where everything is that is mounted below it: what a recursive bind of it shows.
    ///
    /// # Errors
    /// The kernel's; `NotFound` for what is on no mount of this list.
    pub fn positions(&self, place: &Place) -> io::Result<Vec<Position>> {
        let about = kernel_files::read(format!("/proc/self/fdinfo/{}", place.opened.as_raw_fd()))?;
        let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "it is on no mount of this host's");
        let of = self.0.iter().find(|mount| Some(mount.id) == id).ok_or_else(unknown)?;
        let below = place.path.strip_prefix(&of.at).map_err(|_| unknown())?;
        let own = Position { file_system: of.root.file_system.clone(), path: of.root.path.join(below) };
        let mounted = self.0.iter().filter(|mount| mount.at.starts_with(&place.path)).map(|mount| mount.root.clone());
        Ok([own].into_iter().chain(mounted).collect())
    }
}

/// One line: id, parent, device, root, mount point, options, any number of fields, `-`, type, source, options.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (device, root, at) = (fields.nth(1)?, unescaped(fields.next()?), unescaped(fields.next()?));
    let mut last = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (last.next()?, unescaped(last.next()?));
    let root = match (kind, position_of_export(&source)) {
        // Of a server's file system each export is "/" there (the kernel's nfs_show_path).
        (b"nfs" | b"nfs4", Some(exported)) => exported,
        _ => Position { file_system: String::from_utf8_lossy(device).into_owned(), path: PathBuf::from(root) },
    };
    Some(Mount { id, root, at: PathBuf::from(at) })
}

/// `server:/export`.
fn position_of_export(source: &OsString) -> Option<Position> {
    let (server, path) = source.to_str()?.rsplit_once(":/")?;
    Some(Position { file_system: server.to_owned(), path: Path::new("/").join(path) })
}

/// A path as the kernel writes it there: blanks, tabs, line ends and backslashes in octal.
fn unescaped(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits
                .iter()
                .try_fold(0_u16, |sum, digit| matches!(digit, b'0'..=b'7').then(|| sum * 8 + u16::from(digit - b'0')))
        });
        match octal.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        21 20 8:2 / /srv/big\\040disk rw,relatime shared:1 - ext4 /dev/sdb1 rw\n\
        22 20 8:1 /srv/data/pc /home/ann/pc rw master:3 - ext4 /dev/sda1 rw\n\
        23 20 0:50 / /home rw - nfs4 server:/export/home rw\n\
        24 20 0:50 / /safe rw - nfs4 server:/export/safe rw\n";

    fn at(file_system: &str, path: &str) -> Position {
        Position { file_system: file_system.to_owned(), path: PathBuf::from(path) }
    }

    #[test]
    fn a_line_of_the_kernels_list_is_read_with_its_escapes_and_exports_are_told_apart() {
        let Mounts(mounts) = Mounts::parse(MOUNTS).unwrap();
        assert_eq!(mounts[1].at, Path::new("/srv/big disk"));
        assert_eq!(mounts[2].root, at("8:1", "/srv/data/pc"));
        assert_eq!((&mounts[3].root, &mounts[4].root), (&at("server", "/export/home"), &at("server", "/export/safe")));
        assert!(!mounts[3].root.meets(&mounts[4].root));
        assert_eq!(unescaped(b"a\\134b\\9\\"), OsString::from("a\\b\\9\\"));
        for malformed in [&b"x 1 8:1 / / rw - ext4 /dev/sda1 rw\n"[..], b"20 1 8:1 / / rw ext4\n", b"20\n"] {
            assert!(Mounts::parse(malformed).is_none());
        }
    }

    #[test]
    fn two_places_meet_by_what_they_are_and_not_by_what_they_are_called() {
        let (data, home) = (at("8:1", "/srv/data"), at("8:1", "/home/ann"));
        assert!(meet(&[home.clone(), at("8:1", "/srv/data/pc")], std::slice::from_ref(&data)));
        assert!(meet(&[at("8:1", "/srv")], std::slice::from_ref(&data)));
        assert!(!meet(&[home, at("8:2", "/srv/data"), at("8:1", "/srv/database")], &[data]));
    }

    #[test]
    fn a_place_is_what_was_opened_whatever_its_name_leads_to_later() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        let place = Place::open(&a).unwrap();
        assert!(place.is_directory());
        std::fs::remove_dir(&a).unwrap();
        std::fs::rename(&b, &a).unwrap();
        assert_ne!(place.inode(), Place::open(&a).unwrap().inode());
        assert_eq!(place.inode(), Inode::of(&place).unwrap());
        let mounts = Mounts::read().unwrap();
        let (a, above) = (Place::open(&a).unwrap(), Place::open(dir.path()).unwrap());
        assert!(meet(&mounts.positions(&a).unwrap(), &mounts.positions(&above).unwrap()));
        assert!(!Place::open(Path::new("/proc/self/status")).unwrap().is_directory());
        assert!(Place::open(Path::new("/proc/none")).is_err());
    }
}
