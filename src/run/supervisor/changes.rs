//! What a run changed in data that it may write: two looks at the data, and what differs between them (`ID.changes.jsonl`).
//!
//! Takes the directory of the data, and a run's time and control group; gives counts for the record, and a list beside it; trusts
//! what the kernel says of names, inodes and times; refuses to hold a run up: each look ends with its time, and says so.
//!
//! Two looks, rather than a watch: inotify(7) needs a watch for each directory, and misses what happens in a new one before it has
//! its own; fanotify(7) needs root of the host and tells of everybody's files; both lose events when a payload makes more than are
//! read, and neither sees what is written through a mapping (mmap(2)) or by another host. What two looks cannot see is a fixed list
//! (`CANNOT_SEE`), which each record has. A look reads names and inodes, with the researcher's rights: contents are read after the
//! run alone, and only of what is not as it was.

use std::cell::OnceCell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::fstatfs;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::compare::{Counts, HASHED, Side, Telling, tell};
use self::snapshot::{Bounds, Told, take};
use crate::error::{Error, Kind, Result, Stage};
use crate::run::supervisor::outputs::hash::{Ask, Hasher};
use crate::run::supervisor::outputs::list::{self, ListWriter};
use crate::run::supervisor::outputs::reading::{INTERRUPTED, Reading};
use crate::run::supervisor::outputs::{Few, List};

/// Two snapshots against each other.
pub mod compare;
/// What is in a tree at one moment.
pub mod snapshot;

/// How long a look may take before the start, and after the end.
const BEFORE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(60);
/// A tree of so many entries, and so many changed bytes, is looked at without a process of its own.
const SMALL: u64 = 2000;
const SMALL_BYTES: u64 = 64 << 20;
/// Where the data is in the container.
const MOUNTED: &str = "/safe_data";

/// What two looks cannot see.
const CANNOT_SEE: [&str; 7] = [
    "who changed it: others who write to the data while the run lasts are told of as well",
    "what was changed and changed back, or made and removed again, between the two looks; of that, the times of a file or of the directory that it was in tell",
    "what was read",
    "what a file held before: of a change, the hash is that of afterwards",
    "whether what has another name holds something else as well: it has a hash, but where that of its directory alone was changed",
    "content, where a file system lets its times be set by others than the kernel; data written by another host, or through a mapping, until the file system shows it",
    "what the researcher cannot look at, and what is deeper than 256 levels",
];

/// What a run changed, as its record tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Where it is in the container.
    pub mounted: String,
    /// The look before the start.
    pub before: Look,
    /// The look after the end.
    pub after: Look,
    /// How many entries are not as they were; none where nobody knows, for the look after the end came to nothing.
    #[serde(flatten)]
    pub counts: Option<Counts>,
    /// What this cannot tell.
    pub cannot_see: Vec<String>,
    /// The list; none where it could not be written.
    pub list: Option<List>,
}

/// One look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// How many entries were there.
    pub entries: u64,
    /// How long it took.
    pub seconds: f64,
    /// Why it is not whole, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// What could not be looked at.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    pub failed: Few,
}

impl Look {
    fn new(told: &Told, took: Duration) -> Self {
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        Self { entries: told.entries, seconds, cut: told.cut.clone(), failed: told.failed.clone() }
    }

    fn none(why: String) -> Self {
        Self { cut: Some(why), ..Self::default() }
    }
}

impl Changes {
    /// Whether all of it was looked at, twice.
    pub fn is_whole(&self) -> bool {
        self.warnings().is_empty()
    }

    /// In words, for people.
    pub fn in_words(&self) -> String {
        let Some(Counts { created, changed, attributes, removed, renamed, .. }) = self.counts else {
            return format!("not known: {}", self.after.cut.as_deref().unwrap_or("nobody looked at its end"));
        };
        let all = [
            (created, "created"),
            (changed, "changed"),
            (attributes, "with other attributes"),
            (removed, "removed"),
            (renamed, "renamed"),
        ];
        let some: Vec<String> =
            all.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
        let all = if self.is_whole() { "" } else { " in what was looked at, which is not all" };
        let told = if some.is_empty() { "no change was seen".to_owned() } else { some.join(", ") } + all;
        let entries = self.before.entries;
        format!("{told}; of {entries} {} before the run", if entries == 1 { "entry" } else { "entries" })
    }

    /// What is wrong with it, in words.
    pub fn warnings(&self) -> Vec<String> {
        let cut = |what: &str, why: &Option<String>| {
            why.as_ref().map(|why| format!("what the run changed in its data is not all listed: {what}: {why}"))
        };
        let list = self.list.as_ref().and_then(|list| list.cut.clone());
        let looks = [("the look before the start", &self.before.cut), ("the look after the end", &self.after.cut)];
        let mut warnings: Vec<String> = looks.iter().filter_map(|(what, why)| cut(what, why)).collect();
        // No names: the record has them, and warnings are shown to more people.
        if !self.before.failed.is_empty() || !self.after.failed.is_empty() {
            warnings.push(
                "what the run changed in its data is not all listed: not all of it could be looked at".to_owned(),
            );
        }
        if let Some(some) = self.counts.map(|counts| counts.not_compared).filter(|some| *some > 0) {
            warnings.push(format!(
                "what the run changed in its data is not all listed: {some} entries could not be compared"
            ));
        }
        if warnings.is_empty() {
            warnings.extend(cut("the list", &list));
        }
        warnings
    }
}

/// A run's data, looked at.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Account<'a> {
    top: OwnedFd,
    run: String,
    /// One for each look.
    snapshots: [Snapshot; 2],
    /// Makes a file without a name on a disk.
    unnamed: &'a dyn Fn() -> Result<File>,
    began: i128,
    before: Option<(Told, Look)>,
}

/// Where a snapshot is kept: in memory while it is small, for a file on a disk costs every run a millisecond.
struct Snapshot {
    memory: File,
    disk: OnceCell<File>,
}

impl Snapshot {
    fn new() -> Result<Self> {
        let memory = memfd_create(c"ces-changes", MFdFlags::MFD_CLOEXEC);
        let memory = memory.map_err(|e| fail("cannot keep what is in the data").because(e.desc()))?;
        Ok(Self { memory: File::from(memory), disk: OnceCell::new() })
    }

    fn file(&self) -> &File {
        self.disk.get().unwrap_or(&self.memory)
    }

    fn make_room(&self, unnamed: &dyn Fn() -> Result<File>) -> std::result::Result<(), String> {
        let file = unnamed().map_err(|e| e.to_string())?;
        self.disk.set(file).map_err(|_| "it was to be made room for twice".to_owned())
    }
}

/// What comes of the look after the end.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    told: Told,
    took: Duration,
    counts: Counts,
    cut: Option<String>,
}

impl<'a> Account<'a> {
    /// Of the directory `top` for the run `run`; nothing is looked at yet. What `unnamed` makes is empty, and nobody else's.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn new(top: impl AsFd, run: &str, unnamed: &'a dyn Fn() -> Result<File>) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top =
            openat(top, c".", flags, Mode::empty()).map_err(|e| fail("cannot open the data").because(e.desc()))?;
        let snapshots = [Snapshot::new()?, Snapshot::new()?];
        let [first, _] = &snapshots;
        // By the clock that file systems of this host use.
        let made = fstat(&first.memory).map_err(|e| fail("cannot keep what is in the data").because(e.desc()))?;
        let began = i128::from(made.st_ctime) * 1_000_000_000 + i128::from(made.st_ctime_nsec);
        Ok(Self { top, run: run.to_owned(), snapshots, unnamed, began, before: None })
    }

    /// Looks at the data before anything of the payload runs.
    ///
    /// # Errors
    /// When somebody asks to end: then nothing is to be started.
    pub fn look(&mut self, reading: &mut Reading<'_>) -> Result<()> {
        let began = Instant::now();
        let until = reading.bounded(BEFORE);
        let [first, _] = &self.snapshots;
        let work = |small: Option<u64>, ask: Ask<'_>| {
            let told = take(&self.top, first.file(), Bounds { until, small }, ask);
            told.map_err(|e| e.to_string())
        };
        let room = || first.make_room(self.unnamed);
        let told = in_turn(reading, is_local(&self.top), &room, &work);
        let took = began.elapsed();
        let before = match told {
            Ok(told) if told.cut.as_deref() == Some(INTERRUPTED) => return Err(interrupted()),
            Ok(told) => (told.clone(), Look::new(&told, took)),
            Err(why) if why == INTERRUPTED => return Err(interrupted()),
            Err(why) => (Told::nothing(why.clone()), Look::none(why)),
        };
        self.before = Some(before);
        Ok(())
    }

    /// Looks again when nothing of the payload runs any more, and writes what differs into `list`, an empty file of that name.
    pub fn end(self, reading: &mut Reading<'_>, list: Option<(File, String)>) -> Changes {
        let until = reading.bounded(AFTER);
        let (told, before) = self.before.clone().unwrap_or_else(|| {
            let why = "there was none".to_owned();
            (Told::nothing(why.clone()), Look::none(why))
        });
        let file = list.as_ref().map(|(file, _)| file);
        let work = |small: Option<u64>, ask: Ask<'_>| self.second(&told, &before, file, Bounds { until, small }, ask);
        let is_small = is_local(&self.top) && before.entries <= SMALL && before.cut.is_none();
        let [_, second] = &self.snapshots;
        let room = || second.make_room(self.unnamed);
        let (after, counts, cut) = match in_turn(reading, is_small, &room, &work) {
            Ok(seen) => (Look::new(&seen.told, seen.took), Some(seen.counts), seen.cut),
            Err(why) => (Look::none(why.clone()), None, Some(why)),
        };
        let sealed = |(file, name): (File, String)| list::summary(&file, name, cut).ok();
        Changes {
            mounted: MOUNTED.to_owned(),
            before,
            after,
            counts,
            cannot_see: CANNOT_SEE.map(str::to_owned).into(),
            list: list.and_then(sealed),
        }
    }

    fn second(
        &self,
        told: &Told,
        look: &Look,
        list: Option<&File>,
        bounds: Bounds,
        ask: Ask<'_>,
    ) -> std::result::Result<Option<Seen>, String> {
        let began = Instant::now();
        let [first, second] = self.snapshots.each_ref().map(Snapshot::file);
        let text = |e: std::io::Error| e.to_string();
        let Some(now) = take(&self.top, second, bounds, ask).map_err(text)? else { return Ok(None) };
        let took = began.elapsed();
        // What an earlier attempt has written.
        list.map_or(Ok(()), |list| list.set_len(0)).map_err(text)?;
        let mut lines = ListWriter::new(list);
        lines.add(&json!({
            "version": 1, "run": self.run, "of": MOUNTED, "before": look, "after": Look::new(&now, took),
            "cannot_see": CANNOT_SEE,
        }));
        let mut telling =
            Telling { top: &self.top, began: self.began, list: lines, hasher: Hasher::new(ask), left: HASHED };
        let (before, after) = (Side { file: first, told }, Side { file: second, told: &now });
        let small = bounds.small.map(|_| SMALL_BYTES);
        let counts = tell(before, after, small, &mut telling).map_err(text)?;
        let cut = telling.list.end();
        Ok(counts.map(|counts| Seen { told: now, took, counts, cut }))
    }
}

/// The work, told whether the tree is to be small; none: it is not.
type Work<'a, T> = &'a dyn Fn(Option<u64>, Ask<'_>) -> std::result::Result<Option<T>, String>;

/// Does the work here where there is little of it, and else, once room is made for much, in a process that can be ended, in the run's
/// control group.
fn in_turn<T: Serialize + for<'de> Deserialize<'de>>(
    reading: &mut Reading<'_>,
    is_small: bool,
    room: &dyn Fn() -> std::result::Result<(), String>,
    work: Work<'_, T>,
) -> std::result::Result<T, String> {
    for small in [Some(SMALL), None] {
        if small.is_some() && !is_small {
            continue;
        }
        if small.is_none() {
            room()?;
        }
        // Numbers and texts: nothing that JSON could not hold.
        let told = |ask: Ask<'_>| serde_json::to_vec(&work(small, ask)).unwrap_or_default();
        let answer = reading.read(small.is_some(), &told).map_err(|e| e.to_string())?;
        let answer: std::result::Result<Option<T>, String> =
            serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
        if let Some(done) = answer? {
            return Ok(done);
        }
    }
    Err("it was not looked at".to_owned())
}

/// Whether no server is asked for what is in the directory, which may not answer (statfs(2)).
fn is_local(top: &OwnedFd) -> bool {
    let readable = openat(top, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let kind = readable.and_then(|dir| fstatfs(&dir)).map(|found| found.filesystem_type().0);
    // ext2 to ext4, XFS, Btrfs, tmpfs.
    kind.is_ok_and(|kind| [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994].contains(&kind))
}

fn interrupted() -> Error {
    fail("interrupted before the start; nothing was run")
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Run, Kind::Failed, what)
}
