//! A directory, looked at in one order: names sorted, each directory after its own name.
//!
//! Takes an open directory; gives each entry to whoever asks; trusts `fstat` of what is open; refuses to follow a link, and to open
//! anything but regular files and directories, and to go on where this process lacks what it needs. Depth and number are bounded, and what is beyond is told.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{FileStat, SFlag};

use sha2::{Digest as _, Sha256};

use super::look::{self, Looked, Stat};
use super::rules::Rules;
use crate::evidence::line::hex;
use crate::host::same_mount;

/// No deeper directory is looked into.
const DEPTH: usize = 64;
/// No more entries are looked at.
pub const ENTRIES: u64 = 1_000_000;

/// Who is told of what is there.
pub trait Visitor {
    /// That the next entry is `path`; whether it is to be looked at.
    ///
    /// # Errors
    /// When nobody listens any more.
    fn at(&mut self, path: &[u8]) -> std::io::Result<bool>;

    /// What it is.
    ///
    /// # Errors
    /// When nobody listens any more.
    fn looked(&mut self, looked: Looked) -> std::io::Result<()>;
}

/// What there was beside files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries that are no directories.
    pub entries: u64,
    /// Directories below the top.
    pub directories: u64,
    /// There were more entries than are looked at.
    pub more: bool,
}

/// Looks at all that is in `top`.
///
/// # Errors
/// When the visitor's listener is gone, or `top` itself cannot be read.
pub fn walk(top: OwnedFd, rules: &Rules, visitor: &mut dyn Visitor) -> std::io::Result<Seen> {
    let mut walk = Walk { rules, visitor, seen: Seen::default() };
    let names = names(&top)?;
    walk.directory(&top, names, &mut Vec::new(), 0)?;
    Ok(walk.seen)
}

struct Walk<'a> {
    rules: &'a Rules,
    visitor: &'a mut dyn Visitor,
    seen: Seen,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        dir: &OwnedFd,
        names: Vec<CString>,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> std::io::Result<()> {
        for name in names {
            if self.seen.entries >= ENTRIES {
                self.seen.more = true;
                return Ok(());
            }
            let before = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            let done = self.entry(dir, &name, path, depth);
            path.truncate(before);
            done?;
        }
        Ok(())
    }

    fn entry(&mut self, dir: &OwnedFd, name: &CStr, path: &mut Vec<u8>, depth: usize) -> std::io::Result<()> {
        let found = same_mount::look(dir, name);
        let kind = found.as_ref().map(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT);
        if kind == Ok(SFlag::S_IFDIR) {
            self.seen.directories += 1;
            match opened(dir, name, OFlag::O_DIRECTORY).and_then(|below| Ok((names(&below)?, below))) {
                _ if depth >= DEPTH => {}
                Ok((names, below)) => return self.directory(&below, names, path, depth + 1),
                Err(e) if is_lack(Some(e as i32)) => return Err(e.into()),
                Err(e) => return self.tell(path, |path, rules| look::unseen(path, same_mount::why(e), rules)),
            }
            let deep = format!("a directory deeper than {DEPTH} others");
            return self.tell(path, |path, rules| look::unseen(path, &deep, rules));
        }
        if let (Ok(SFlag::S_IFREG), Ok(found)) = (kind, found) {
            return self.file(dir, name, path, &found);
        }
        self.tell(path, |path, rules| match (kind, found) {
            (Ok(SFlag::S_IFLNK), _) => match readlinkat(dir, name) {
                Ok(target) => look::link(path, target.as_encoded_bytes(), rules),
                Err(e) => look::link(path, format!("an unknown place: {}", e.desc()).as_bytes(), rules),
            },
            (Ok(SFlag::S_IFIFO), _) => look::special(path, "named pipe", rules),
            (Ok(SFlag::S_IFSOCK), _) => look::special(path, "socket", rules),
            (Ok(_), _) => look::special(path, "device", rules),
            (Err(e), _) => look::unseen(path, same_mount::why(*e), rules),
        })
    }

    fn file(&mut self, dir: &OwnedFd, name: &CStr, path: &[u8], found: &FileStat) -> std::io::Result<()> {
        self.seen.entries += 1;
        if !self.visitor.at(path)? {
            return Ok(());
        }
        match file(dir, name, path, found, self.rules) {
            Ok(looked) => self.visitor.looked(looked),
            Err(e) if is_lack(e.raw_os_error()) => Err(e),
            Err(e) => self.visitor.looked(look::unseen(path, &e.to_string(), self.rules)),
        }
    }

    fn tell(&mut self, path: &[u8], look: impl FnOnce(&[u8], &Rules) -> Looked) -> std::io::Result<()> {
        self.seen.entries += 1;
        if self.visitor.at(path)? {
            let looked = look(path, self.rules);
            self.visitor.looked(looked)?;
        }
        Ok(())
    }
}

/// The names in a directory, in order of their bytes.
fn names(dir: &OwnedFd) -> nix::Result<Vec<CString>> {
    let mut listed = Dir::from_fd(opened(dir, c".", OFlag::O_DIRECTORY)?)?;
    let mut names = Vec::new();
    for entry in listed.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn opened(dir: impl AsFd, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    same_mount::open(dir, name, flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// Whether an error is of this process and of no file: it was given too little, perhaps by whose files they are (prlimit(2)).
fn is_lack(errno: Option<i32>) -> bool {
    [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].iter().any(|lack| errno == Some(*lack as i32))
}

/// A regular file: what is looked at is what was opened.
fn file(dir: &OwnedFd, name: &CStr, path: &[u8], found: &FileStat, rules: &Rules) -> std::io::Result<Looked> {
    let read = || -> std::io::Result<Looked> {
        let mut file = File::from(opened(dir, name, OFlag::empty())?);
        let now = file.metadata()?;
        if (now.dev(), now.ino()) != (found.st_dev, found.st_ino) {
            return Err(Errno::ESTALE.into());
        }
        let stat = Stat { size: now.size(), names: now.nlink(), executable: now.mode() & 0o111 != 0 };
        let mut bytes = Vec::new();
        file.by_ref().take(rules.read).read_to_end(&mut bytes)?;
        let mut looked = look::file(path, stat, &bytes, rules);
        // Of a hole nobody has a hash, and to read it takes for ever.
        if looked.sha256.is_none() && now.blocks().saturating_mul(512) >= now.size() {
            looked.sha256 = Some(hash_on(&bytes, &mut file)?);
        }
        Ok(looked)
    };
    read()
}

/// SHA-256, in hexadecimal, of what begins with `bytes` and goes on in `file`: what is too long to be looked at is still compared.
fn hash_on(bytes: &[u8], file: &mut File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::finding::verdict;
    use crate::precheck::rules::{RuleName, Site};
    use std::fs;

    #[derive(Default)]
    struct All {
        at: Vec<String>,
        looked: Vec<Looked>,
        skip: usize,
    }

    impl Visitor for All {
        fn at(&mut self, path: &[u8]) -> std::io::Result<bool> {
            self.at.push(String::from_utf8_lossy(path).into_owned());
            Ok(self.at.len() > self.skip)
        }

        fn looked(&mut self, looked: Looked) -> std::io::Result<()> {
            self.looked.push(looked);
            Ok(())
        }
    }

    #[test]
    fn what_is_longer_than_is_looked_at_has_the_hash_of_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let rules = Rules { read: 1000, ..Rules::of(&Site::default()).unwrap() };
        let text = "a,b\n1,2\n".repeat(1000);
        fs::write(dir.path().join("long.csv"), &text).unwrap();
        fs::File::create(dir.path().join("hole.csv")).unwrap().set_len(1 << 40).unwrap();
        let mut all = All::default();
        walk(fs::File::open(dir.path()).unwrap().into(), &rules, &mut all).unwrap();
        let of =
            |name: &[u8]| all.looked.iter().find(|looked| looked.name == look::Name::new(name)).unwrap().sha256.clone();
        assert_eq!(of(b"long.csv"), Some(hex(&crate::evidence::line::hash(text.as_bytes()))));
        assert_eq!(of(b"hole.csv"), None);
    }

    fn walked(dir: &std::path::Path, skip: usize) -> (All, Seen) {
        let mut all = All { skip, ..All::default() };
        let top = fs::File::open(dir).unwrap().into();
        let seen = walk(top, &Rules::of(&Site::default()).unwrap(), &mut all).unwrap();
        (all, seen)
    }

    #[test]
    fn everything_is_looked_at_once_in_order_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.txt", "b/x.txt", "b-1.txt", "a.txt"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::hard_link(dir.path().join("a.txt"), dir.path().join("a2.txt")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let (all, seen) = walked(dir.path(), 0);
        assert_eq!(all.at, ["a.txt", "a2.txt", "b/x.txt", "b-1.txt", "c.txt", "etc", "fifo"]);
        assert_eq!(seen, Seen { entries: 7, directories: 1, more: false });
        let rule = |name: &str| {
            let at = all.at.iter().position(|at| at == name).unwrap();
            all.looked[at].findings.first().map(|finding| finding.rule)
        };
        assert_eq!(
            (rule("etc"), rule("fifo"), rule("a.txt")),
            (Some(RuleName::Link), Some(RuleName::NotAFile), Some(RuleName::OtherName))
        );
        // What ended a process that looked is left out by the next.
        let (all, _) = walked(dir.path(), 5);
        assert_eq!((all.at.len(), all.looked.len()), (7, 2));
    }

    #[test]
    fn a_lack_of_descriptors_or_memory_is_of_no_file() {
        assert!([Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].iter().all(|lack| is_lack(Some(*lack as i32))));
        assert!(!is_lack(Some(Errno::EACCES as i32)) && !is_lack(None));
    }

    #[test]
    fn what_is_too_deep_and_what_is_hollow_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().join("d");
        (0..70).for_each(|_| deep.push("d"));
        fs::create_dir_all(&deep).unwrap();
        fs::File::create(dir.path().join("hole.csv")).unwrap().set_len(1 << 42).unwrap();
        let (all, _) = walked(dir.path(), 0);
        let [first, hole] = all.looked.as_slice() else { panic!("{:?}", all.at) };
        assert!(first.findings.iter().any(|finding| finding.because.contains("deeper than 64")), "{first:?}");
        assert_eq!(verdict(&hole.findings), "block");
    }
}
