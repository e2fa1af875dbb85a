//! Bounds on scratch and outputs: watched while the payload runs, for file systems that have no quota of their own.
//!
//! Takes open directories and their ceilings; gives the first one that is exceeded; trusts the kernel's block counts;
//! refuses nothing itself: the supervisor ends the run. Between two looks a payload can write more than its bound, for
//! at most `PAUSE` or twenty times as long as a look takes; the bound is therefore one on runs, not on moments.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};

use crate::policy::units::show_size;

/// The shortest time between two looks.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Deeper trees are not looked into: one descriptor a level is held.
const DEPTH: usize = 256;

/// A directory and its ceilings.
#[derive(Debug)]
pub struct Bound {
    /// What it is called in messages.
    pub what: &'static str,
    /// The directory.
    pub dir: OwnedFd,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub files: Option<u64>,
}

/// Looks at bounds from time to time.
#[derive(Debug)]
pub struct Watch {
    bounds: Vec<Bound>,
    next: Instant,
}

impl Watch {
    /// Watches `bounds`, those that bound anything.
    pub fn new(bounds: Vec<Bound>) -> Self {
        let bounds = bounds.into_iter().filter(|b| b.bytes.is_some() || b.files.is_some()).collect();
        Self { bounds, next: Instant::now() + PAUSE }
    }

    /// When to look next; never when there is nothing to watch.
    pub fn next(&self) -> Option<Instant> {
        (!self.bounds.is_empty()).then_some(self.next)
    }

    /// The first bound that is exceeded, in words; looks only when it is time.
    pub fn exceeded(&mut self) -> Option<String> {
        let began = Instant::now();
        if self.bounds.is_empty() || began < self.next {
            return None;
        }
        let found = self.bounds.iter().find_map(Bound::exceeded);
        self.next = Instant::now() + PAUSE.max(began.elapsed() * 20);
        found
    }
}

impl Bound {
    fn exceeded(&self) -> Option<String> {
        let mut sum = Sum::default();
        // What cannot be read does not count: the payload gains nothing, it cannot be larger than what can be read.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(self.dir.as_fd(), ".", flags, Mode::empty()).ok().and_then(|dir| sum.add(dir, 0));
        if let Some(max) = self.bytes.filter(|max| sum.bytes > *max) {
            return Some(format!("{} limit: {} are more than {}", self.what, show_size(sum.bytes), show_size(max)));
        }
        let max = self.files.filter(|max| sum.files > *max)?;
        Some(format!("{} limit: {} files are more than {max}", self.what, sum.files))
    }
}

#[derive(Default)]
struct Sum {
    bytes: u64,
    files: u64,
}

impl Sum {
    fn add(&mut self, dir: OwnedFd, depth: usize) -> Option<()> {
        let again = dir.try_clone().ok()?;
        for entry in Dir::from_fd(dir).ok()?.iter().flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Gone meanwhile: then it no longer counts.
            let Ok(stat) = fstatat(&again, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            self.files += 1;
            self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR && depth < DEPTH {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                if let Ok(below) = openat(again.as_fd(), name, flags, Mode::empty()) {
                    self.add(below, depth + 1);
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(dir: &std::path::Path, bytes: Option<u64>, files: Option<u64>) -> Bound {
        Bound { what: "outputs", dir: std::fs::File::open(dir).unwrap().into(), bytes, files }
    }

    #[test]
    fn bytes_and_files_are_counted_through_the_whole_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("below/file"), vec![1; 100_000]).unwrap();
        std::fs::File::open(dir.path().join("below/file")).unwrap().sync_all().unwrap();
        assert_eq!(bound(dir.path(), Some(1 << 30), Some(2)).exceeded(), None);
        assert!(bound(dir.path(), Some(50_000), None).exceeded().unwrap().starts_with("outputs limit: "));
        assert_eq!(bound(dir.path(), None, Some(1)).exceeded().unwrap(), "outputs limit: 2 files are more than 1");
    }

    #[test]
    fn nothing_is_looked_at_before_its_time_or_without_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Watch::new(vec![bound(dir.path(), None, None)]).next(), None);
        let mut watch = Watch::new(vec![bound(dir.path(), None, Some(0))]);
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!(watch.exceeded(), None);
        watch.next = Instant::now();
        assert!(watch.exceeded().is_some());
    }
}
