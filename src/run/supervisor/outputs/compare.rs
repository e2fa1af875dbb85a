//! What is in the outputs against their list, in one pass over each.
//!
//! Takes the directory, opened with the researcher's rights, and the lines of the list; gives each difference, and what could
//! not be compared; trusts exact names; refuses to follow a link. Of the names nothing is held but sixteen bytes each.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io::BufRead;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat};

use crate::run::supervisor::outputs::LISTED;
use crate::run::supervisor::outputs::hash::Hasher;
use crate::run::supervisor::outputs::line::{Kind, Line};
use crate::run::supervisor::outputs::listing::{hashed, held, octal, opened};
use crate::run::supervisor::outputs::tree::{self, At, Visitor};

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is not there.
    Missing,
    /// It is something else than it was.
    Changed,
    /// It was not there.
    New,
    /// It was not compared, and why.
    NotCompared(String),
}

/// Compares; each difference goes to `tell` with its exact name. `whole`: what is not in the list is new. Gives how many files
/// the list names.
///
/// # Errors
/// When the list cannot be read.
pub fn compare(
    top: &OwnedFd,
    mut list: impl BufRead,
    whole: bool,
    tell: &mut dyn FnMut(&[u8], Found),
) -> std::io::Result<u64> {
    let (mut known, mut files) = (HashSet::new(), 0);
    let mut at = Place { top, open: Vec::new() };
    let mut hasher = Hasher::new(&|| None);
    let mut text = String::new();
    loop {
        text.clear();
        if list.read_line(&mut text)? == 0 {
            break;
        }
        let line: Line = serde_json::from_str(&text)?;
        let Some(path) = line.path() else { continue };
        known.insert(key(&path));
        files += u64::from(line.kind == Kind::File);
        match one(&mut at, &path, &line, &mut hasher) {
            Ok(None) => {}
            Ok(Some(found)) => tell(&path, found),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => tell(&path, Found::Missing),
            Err(e) => tell(&path, Found::NotCompared(e.desc().to_owned())),
        }
    }
    if whole && let Ok(stat) = fstat(top) {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let again = openat(top, c".", flags, Mode::empty())?;
        tree::walk(again, &mut News { owner: stat.st_uid, known, tell });
    }
    Ok(files)
}

/// A name, in sixteen bytes that nobody makes two names for.
fn key(path: &[u8]) -> [u8; 16] {
    let mut key = [0; 16];
    key.iter_mut().zip(blake3::hash(path).as_bytes()).for_each(|(key, byte)| *key = *byte);
    key
}

fn one(at: &mut Place<'_>, path: &[u8], line: &Line, hasher: &mut Hasher<'_>) -> nix::Result<Option<Found>> {
    if line.kind == Kind::Refused {
        return Ok(None);
    }
    let (dir, name) = at.of(path)?;
    let (held, stat) = held(dir, &name)?;
    let is = |kind| stat.st_mode & libc::S_IFMT == kind;
    let same_mode = line.mode.as_ref().is_none_or(|mode| *mode == octal(&stat));
    let same = match line.kind {
        Kind::File => is(libc::S_IFREG) && same_mode && line.size == u64::try_from(stat.st_size).ok(),
        Kind::Directory => is(libc::S_IFDIR) && same_mode,
        Kind::Link => is(libc::S_IFLNK) && line.target().as_deref() == Some(readlinkat(&held, c"")?.as_encoded_bytes()),
        Kind::Refused => true,
    };
    if !same {
        return Ok(Some(Found::Changed));
    }
    if line.kind != Kind::File {
        return Ok(line.why.clone().map(Found::NotCompared));
    }
    content(line, &held, &stat, hasher)
}

fn content(line: &Line, held: &OwnedFd, stat: &FileStat, hasher: &mut Hasher<'_>) -> nix::Result<Option<Found>> {
    let Some(told) = &line.sha256 else {
        let why = line.not_hashed.clone().unwrap_or_default();
        return Ok(Some(Found::NotCompared(format!("it was not hashed: {why}"))));
    };
    Ok(match hashed(hasher, held, stat)? {
        Ok(now) if now == *told => None,
        Ok(_) => Some(Found::Changed),
        Err(why) => Some(Found::NotCompared(format!("it is not hashed: {why}"))),
    })
}

/// Directories of the last name that was looked for: the next one is mostly in the same.
struct Place<'a> {
    top: &'a OwnedFd,
    open: Vec<(Vec<u8>, OwnedFd)>,
}

impl Place<'_> {
    fn of(&mut self, path: &[u8]) -> nix::Result<(&OwnedFd, CString)> {
        let mut parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let name = parts.pop().unwrap_or_default();
        let same = self.open.iter().zip(&parts).take_while(|((open, _), part)| open == *part).count();
        self.open.truncate(same);
        for part in parts.iter().skip(same) {
            let above = self.open.last().map_or(self.top, |(_, dir)| dir);
            let below = CString::new(*part).map_err(|_| Errno::EINVAL)?;
            let (held, stat) = held(above, &below)?;
            if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            let dir = opened(&held, OFlag::O_DIRECTORY)?;
            self.open.push((part.to_vec(), dir));
        }
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        Ok((self.open.last().map_or(self.top, |(_, dir)| dir), name))
    }
}

struct News<'a> {
    owner: u32,
    known: HashSet<[u8; 16]>,
    tell: &'a mut dyn FnMut(&[u8], Found),
}

impl Visitor for News<'_> {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
        let (held, stat) = held(dir, name)?;
        // What is not the researcher's was left alone.
        if at.depth >= LISTED || stat.st_uid != self.owner {
            return Ok(None);
        }
        if !self.known.contains(&key(at.path)) {
            (self.tell)(at.path, Found::New);
        }
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR || at.depth + 1 >= LISTED {
            return Ok(None);
        }
        opened(&held, OFlag::O_DIRECTORY).map(Some)
    }

    fn failed(&mut self, at: At<'_>, error: Errno) {
        (self.tell)(at.path, Found::NotCompared(error.desc().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_is_gone_new_or_changed_is_found_by_its_exact_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        // Two that are shown alike.
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"x\\xff"));
        let other = dir.path().join(std::ffi::OsStr::from_bytes(b"x\xff"));
        for file in [&at("same"), &at("d/e/bytes"), &at("d/mode"), &odd, &other] {
            fs::write(file, "1").unwrap();
        }
        symlink("a", at("link")).unwrap();
        let top = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let file = tempfile::tempfile().unwrap();
        let uid = nix::unistd::getuid().as_raw();
        let listed = crate::run::supervisor::outputs::listing::list(&top, uid, Some(&file), &|| None).unwrap();
        assert_eq!((listed.cut, listed.not_hashed), (None, 0));
        let differences = || {
            use std::io::Seek as _;
            (&file).seek(std::io::SeekFrom::Start(0)).unwrap();
            let mut found = Vec::new();
            let read = std::io::BufReader::new(&file);
            let files = compare(&top, read, true, &mut |path, what| found.push((path.to_vec(), what))).unwrap();
            assert_eq!(files, 5);
            found.sort_by(|a, b| a.0.cmp(&b.0));
            found
        };
        assert_eq!(differences(), []);
        fs::write(at("d/e/bytes"), "2").unwrap();
        fs::set_permissions(at("d/mode"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(at("link")).unwrap();
        symlink("b", at("link")).unwrap();
        fs::remove_file(&other).unwrap();
        fs::write(at("d/new"), "").unwrap();
        let expected: [(&[u8], Found); 5] = [
            (b"d/e/bytes", Found::Changed),
            (b"d/mode", Found::Changed),
            (b"d/new", Found::New),
            (b"link", Found::Changed),
            (b"x\xff", Found::Missing),
        ];
        assert_eq!(differences(), expected.map(|(path, found)| (path.to_vec(), found)));
    }
}
