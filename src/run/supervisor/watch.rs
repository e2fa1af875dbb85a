//! Bounds on scratch, outputs and the writable root, watched while the payload runs: on every file system that does not keep
//! them itself (`crate::run::supervisor::quota`).
//!
//! Takes open directories and their ceilings; gives the first one that is exceeded; trusts the kernel's block counts;
//! refuses to pass over what it cannot count: that counts as exceeded. Counted are blocks, of files that are deleted and open too
//! (`crate::run::supervisor::watch::unnamed`), and apart from them what files claim to hold: a file of holes takes no room, and as much
//! time to read. Between two looks a payload can write more than its
//! bound, for at most `PAUSE` or twenty times as long as a look takes; the bound is therefore one on runs, not on moments.
//!
//! An ordinary user's ces looks as root of a user namespace with the run's ids: what a payload hides from the user (another
//! of its ids, a directory of mode 0) is counted too.

/// Files that are open and have no name.
pub mod unnamed;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::privilege::{Root, as_root, over_files};
use crate::host::same_mount;
use crate::policy::units::show_size;
use crate::run::supervisor::watch::unnamed::{Container, Unnamed};
use crate::run::user_namespace;

/// The shortest time between two looks.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Deeper trees are not allowed where there is a bound: one descriptor a level is held.
const DEPTH: usize = 256;

/// Directories and their common ceilings.
#[derive(Debug)]
pub struct Bound {
    /// What they are called in messages.
    pub what: &'static str,
    /// The directories.
    pub dirs: Vec<OwnedFd>,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub files: Option<u64>,
    /// The file system keeps it, except for what files claim to hold: looked at once, at the end.
    pub kept: bool,
}

/// Looks at bounds from time to time.
#[derive(Debug)]
pub struct Watch {
    bounds: Vec<Bound>,
    map: IdMap,
    owner: HostIds,
    privileged: bool,
    next: Instant,
    container: Option<Container>,
    /// With which process the next look at open files begins.
    first: i32,
}

impl Watch {
    /// Watches `bounds`, those that bound anything, in the home of `owner` and with power over the ids of `map`.
    pub fn new(bounds: Vec<Bound>, map: IdMap, owner: HostIds, privileged: bool) -> Self {
        let bounds = bounds.into_iter().filter(|b| b.bytes.is_some() || b.files.is_some()).collect();
        Self { bounds, map, owner, privileged, next: Instant::now() + PAUSE, container: None, first: 0 }
    }

    /// From now on what the processes of the container hold open counts, too; `init` is its first.
    pub fn container(&mut self, _: &Root, init: Pid) {
        if !self.bounds.is_empty() {
            self.container = Container::of(init);
        }
    }

    /// When to look next; never when there is nothing to watch.
    pub fn next(&self) -> Option<Instant> {
        self.bounds.iter().any(|bound| !bound.kept).then_some(self.next)
    }

    /// The first bound that is exceeded, in words; looks only when it is time.
    pub fn exceeded(&mut self) -> Option<String> {
        let began = Instant::now();
        if self.next().is_none_or(|next| began < next) {
            return None;
        }
        let found = self.look(false).unwrap_or_else(|error| Some(format!("the bounds cannot be watched: {error}")));
        self.next = Instant::now() + PAUSE.max(began.elapsed() * 20);
        found
    }

    /// The first bound that is exceeded when the container is gone, in words.
    pub fn at_end(&mut self) -> Option<String> {
        if self.bounds.is_empty() {
            return None;
        }
        self.container = None;
        self.look(true).unwrap_or_else(|error| Some(format!("the bounds cannot be looked at: {error}")))
    }

    /// The first bound that is exceeded now, in words; at the `last` look those that are kept, too.
    ///
    /// # Errors
    /// When nothing can be counted.
    pub fn look(&mut self, last: bool) -> Result<Option<String>> {
        let fail =
            |e: serde_json::Error| Error::new(Stage::Run, Kind::Failed, "cannot tell what was counted").because(e);
        let bounds: Vec<&Bound> = self.bounds.iter().filter(|bound| last || !bound.kept).collect();
        let open = || self.container.map(|container| container.look(&self.devices(container), self.first));
        // Other processes are looked at with all of root's power, files of the run with that over files.
        let by_root = if self.privileged { as_root(|_| open()) } else { None };
        let count = || {
            let sums: Vec<Sum> = bounds.iter().map(|bound| Sum::of(&bound.dirs)).collect();
            let open = if self.privileged { None } else { open() };
            serde_json::to_vec(&(sums, open)).map_err(fail)
        };
        let answer = over_files(&self.owner, |root| user_namespace::with_ids(root, &self.map, self.privileged, count))?;
        let (mut sums, open): (Vec<Sum>, Option<Unnamed>) = serde_json::from_slice(&answer).map_err(fail)?;
        let Unnamed { bytes: mut unnamed, next } = by_root.or(open).unwrap_or_default();
        for (bound, sum) in bounds.iter().zip(&mut sums) {
            let devices = bound.devices(self.container);
            // Each file system's for the first bound that is on it: which of two it was nobody can tell.
            for (_, bytes) in unnamed.iter_mut().filter(|(device, _)| devices.contains(device)) {
                sum.unnamed = sum.unnamed.saturating_add(std::mem::take(bytes));
            }
        }
        let found = bounds.iter().zip(&sums).find_map(|(bound, sum)| bound.exceeded_by(sum));
        self.first = next;
        Ok(found)
    }

    fn devices(&self, container: Container) -> Vec<u64> {
        let mut devices: Vec<u64> = self.bounds.iter().flat_map(|bound| bound.devices(Some(container))).collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }
}

impl Bound {
    /// The file systems of its directories; the container's root is over one of them, and is the first bound's, scratch.
    fn devices(&self, container: Option<Container>) -> Vec<u64> {
        let own = self.dirs.iter().filter_map(|dir| fstat(dir).ok()).map(|stat| stat.st_dev);
        own.chain(container.and_then(|container| container.root())).collect()
    }

    fn exceeded_by(&self, sum: &Sum) -> Option<String> {
        if let Some(why) = &sum.uncounted {
            return Some(format!("{} limit: {why}", self.what));
        }
        let bytes = sum.bytes.saturating_add(sum.unnamed);
        if let Some(max) = self.bytes.filter(|max| !self.kept && bytes > *max) {
            let deleted = match sum.unnamed {
                0 => String::new(),
                unnamed => format!(", {} of it deleted but open,", show_size(unnamed)),
            };
            return Some(format!(
                "{} limit: {}{deleted} are more than {}",
                self.what,
                show_size(bytes),
                show_size(max)
            ));
        }
        if let Some(max) = self.bytes.filter(|max| sum.apparent > *max) {
            let (apparent, max) = (show_size(sum.apparent), show_size(max));
            return Some(format!("{} limit: {apparent} (apparent size of its files) are more than {max}", self.what));
        }
        let max = self.files.filter(|max| !self.kept && sum.files > *max)?;
        Some(format!("{} limit: {} files are more than {max}", self.what, sum.files))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Sum {
    bytes: u64,
    files: u64,
    /// What regular files claim to hold.
    #[serde(default)]
    apparent: u64,
    /// On disk, of files that are deleted and open.
    #[serde(default)]
    unnamed: u64,
    /// Why some of it was not counted.
    uncounted: Option<String>,
}

impl Sum {
    fn of(dirs: &[OwnedFd]) -> Self {
        let mut sum = Self::default();
        for dir in dirs {
            let counted = open(dir, c".").and_then(|dir| sum.add(dir, 0));
            sum.uncounted = sum
                .uncounted
                .or_else(|| counted.err().map(|e| format!("it cannot be counted ({})", same_mount::why(e))));
        }
        sum
    }

    fn add(&mut self, dir: OwnedFd, depth: usize) -> nix::Result<()> {
        let again = dir.try_clone().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EMFILE)))?;
        for entry in Dir::from_fd(dir)?.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Gone meanwhile: then it no longer counts.
            let Some(stat) = there(same_mount::look(&again, name))? else { continue };
            self.files += 1;
            self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
                self.apparent = self.apparent.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
            if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
                continue;
            }
            if depth == DEPTH {
                self.uncounted = Some(format!("directories are more than {DEPTH} deep"));
            } else if let Some(below) = there(open(&again, name))? {
                self.add(below, depth + 1)?;
            }
        }
        Ok(())
    }
}

fn open(dir: &OwnedFd, name: &std::ffi::CStr) -> nix::Result<OwnedFd> {
    same_mount::open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// What vanished, or became something else, while it was looked for is none.
fn there<T>(found: nix::Result<T>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(dir: &std::path::Path, bytes: Option<u64>, files: Option<u64>) -> Bound {
        Bound { what: "outputs", dirs: vec![std::fs::File::open(dir).unwrap().into()], bytes, files, kept: false }
    }

    fn exceeded(bound: &Bound) -> Option<String> {
        bound.exceeded_by(&Sum::of(&bound.dirs))
    }

    fn watch(bounds: Vec<Bound>) -> Watch {
        let root = HostIds { uid: 0, gid: 0, groups: Vec::new() };
        Watch::new(bounds, IdMap { uids: Vec::new(), gids: Vec::new() }, root, true)
    }

    #[test]
    fn bytes_and_files_are_counted_through_the_whole_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("below/file"), vec![1; 100_000]).unwrap();
        std::fs::File::open(dir.path().join("below/file")).unwrap().sync_all().unwrap();
        assert_eq!(exceeded(&bound(dir.path(), Some(1 << 30), Some(2))), None);
        assert!(exceeded(&bound(dir.path(), Some(50_000), None)).unwrap().starts_with("outputs limit: "));
        std::fs::File::create(dir.path().join("hollow")).unwrap().set_len(15 << 40).unwrap();
        let said = exceeded(&bound(dir.path(), Some(1 << 30), None)).unwrap();
        assert_eq!(said, "outputs limit: 15 TiB (apparent size of its files) are more than 1 GiB");
        std::fs::remove_file(dir.path().join("hollow")).unwrap();
        assert_eq!(exceeded(&bound(dir.path(), None, Some(1))).unwrap(), "outputs limit: 2 files are more than 1");
    }

    #[test]
    fn two_directories_can_have_one_bound_and_what_is_too_deep_to_count_exceeds_it() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for dir in &dirs {
            std::fs::write(dir.path().join("file"), "").unwrap();
        }
        let mut both = bound(dirs[0].path(), None, Some(1));
        assert_eq!(exceeded(&both), None);
        both.dirs.push(std::fs::File::open(dirs[1].path()).unwrap().into());
        assert_eq!(exceeded(&both).unwrap(), "outputs limit: 2 files are more than 1");
        let deep = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(deep.path().join("d/".repeat(DEPTH))).unwrap();
        let bounded = bound(deep.path(), Some(1 << 40), None);
        assert_eq!(exceeded(&bounded), None);
        std::fs::create_dir_all(deep.path().join("d/".repeat(DEPTH + 1))).unwrap();
        assert!(exceeded(&bounded).unwrap().contains("more than 256 deep"));
    }

    #[test]
    fn nothing_is_looked_at_before_its_time_or_without_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(watch(vec![bound(dir.path(), None, None)]).next(), None);
        let mut watch = self::watch(vec![bound(dir.path(), None, Some(0))]);
        std::fs::write(dir.path().join("f"), "").unwrap();
        assert_eq!(watch.exceeded(), None);
        watch.next = Instant::now();
        assert!(watch.exceeded().is_some());
    }
}
