//! Two snapshots of a tree against each other, and a line for each entry that is not as it was.
//!
//! Takes the snapshots and the tree as it is now; gives lines in the order of exact names; trusts what statx(2) said twice; refuses
//! to read what is not the file that was looked at. Nothing is held but the names that went, of which `MOVED` bytes are held against
//! those that came: further ones are told as removed and created.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};
use rustix::fs::{OFlags, ResolveFlags, openat2};
use serde::{Deserialize, Serialize};

use super::snapshot::{Entries, Entry, Told, in_order};
use crate::policy::units::show_size;
use crate::run::supervisor::outputs::hash::Hasher;
use crate::run::supervisor::outputs::line::exact;
use crate::run::supervisor::outputs::list::ListWriter;

/// No more bytes of changed files are read for their hashes.
pub const HASHED: u64 = 1 << 30;
/// So much is held to find out what was renamed, in bytes.
const MOVED: usize = 8 << 20;
/// What an entry takes of that beside its name.
const ENTRY: usize = 256;

/// How many entries are not as they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// That were not there.
    pub created: u64,
    /// That hold something else, are something else, or may hold something else.
    pub changed: u64,
    /// That have another mode, owner or number of names.
    pub attributes: u64,
    /// That are gone.
    pub removed: u64,
    /// That have another name.
    pub renamed: u64,
    /// That were there, and may be there still: what they are in could not be read again.
    pub not_compared: u64,
}

impl Counts {
    /// All of them that are told in a line.
    pub fn lines(&self) -> u64 {
        self.created + self.changed + self.attributes + self.removed + self.renamed
    }
}

/// A snapshot, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its lines.
    pub file: &'a File,
    /// What is known of it beside.
    pub told: &'a Told,
}

/// Where lines go, and what they may cost.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Telling<'a, 'b> {
    /// The tree.
    pub top: &'a OwnedFd,
    /// When the first snapshot was begun, in nanoseconds since 1970.
    pub began: i128,
    /// The lines.
    pub list: ListWriter,
    /// Hashes what is changed.
    pub hasher: Hasher<'b>,
    /// Bytes that may be read for that yet.
    pub left: u64,
}

/// Why an entry is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Created,
    Changed,
    Attributes,
    Removed,
    Renamed,
}

/// What an entry was, or is.
#[derive(Debug, Serialize)]
struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    mode: String,
    owner: String,
    mtime: String,
}

impl State {
    fn of(entry: &Entry) -> Self {
        let (uid, gid) = entry.owner;
        let (seconds, rest) = (entry.mtime.div_euclid(1_000_000_000), entry.mtime.rem_euclid(1_000_000_000));
        Self {
            size: (entry.kind() == libc::S_IFREG).then_some(entry.size),
            mode: format!("{:04o}", entry.mode & 0o7777),
            owner: format!("{uid}:{gid}"),
            mtime: format!("{seconds}.{rest:09}"),
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    change: Change,
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    told_by: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_hashed: Option<String>,
}

/// Which file it is: device, number, and when it was made.
type Inode = (u64, u64, i128);

/// What went, by which file it is, and where that came to.
#[derive(Debug, Default)]
struct Moved {
    went: HashMap<Inode, (Entry, Option<Vec<u8>>)>,
    bytes: usize,
}

impl Moved {
    fn went(&mut self, was: Entry) {
        let size = was.path.len().saturating_add(ENTRY);
        if self.bytes.saturating_add(size) <= MOVED {
            self.bytes = self.bytes.saturating_add(size);
            self.went.entry(was.inode).or_insert((was, None));
        }
    }

    fn came(&mut self, is: &Entry) {
        if let Some((was, to)) = self.went.get_mut(&is.inode)
            && to.is_none()
            && same_file(was, is)
        {
            *to = Some(is.path.clone());
        }
    }

    /// What `is` was called before.
    fn from(&self, is: &Entry) -> Option<&Entry> {
        self.went.get(&is.inode).filter(|(_, to)| to.as_ref() == Some(&is.path)).map(|(was, _)| was)
    }

    /// Whether `was` is told of under its new name.
    fn is_told(&self, was: &Entry) -> bool {
        self.went.get(&was.inode).is_some_and(|(went, to)| went.path == was.path && to.is_some())
    }
}

/// Whether two entries of the same inode are the same file: numbers are given again when a file is gone. Where the file system tells
/// no time of birth, what it holds must not have been changed.
fn same_file(was: &Entry, is: &Entry) -> bool {
    let born = was.inode.2 != 0;
    was.kind() == is.kind() && (born || (was.size, was.mtime) == (is.size, is.mtime))
}

/// Writes a line for each entry that is not as it was. None: more than `small` bytes would have to be hashed.
///
/// # Errors
/// When a snapshot cannot be read, or not be put in order for want of room.
pub fn tell(
    before: Side<'_>,
    after: Side<'_>,
    small: Option<u64>,
    telling: &mut Telling<'_, '_>,
) -> std::io::Result<Option<Counts>> {
    let mut moved = Moved::default();
    each(before, after, &mut |was, is| {
        if let Some(was) = was.filter(|was| is.as_ref().is_none_or(|is| is.inode != was.inode)) {
            moved.went(was);
        }
        Ok(true)
    })?;
    if !moved.went.is_empty() {
        each(before, after, &mut |was, is| {
            if let Some(is) = is.filter(|is| was.as_ref().is_none_or(|was| is.inode != was.inode)) {
                moved.came(&is);
            }
            Ok(true)
        })?;
    }
    let mut counts = Counts::default();
    let whole = each(before, after, &mut |was, is| {
        let is_small = small.is_none_or(|most| HASHED.saturating_sub(telling.left) <= most);
        if let Some(found) = judged(&mut counts, (before, after), &moved, (was, is), telling.began) {
            telling.write(found);
        }
        Ok(is_small)
    })?;
    let small = small.is_none_or(|most| HASHED.saturating_sub(telling.left) <= most);
    Ok((whole && small).then_some(counts))
}

/// Shows `next` each name with what it was and is, until that has enough; whether it was shown all.
fn each(
    before: Side<'_>,
    after: Side<'_>,
    next: &mut dyn FnMut(Option<Entry>, Option<Entry>) -> std::io::Result<bool>,
) -> std::io::Result<bool> {
    let (mut was, mut is): (Entries, Entries) = (in_order(before.file)?, in_order(after.file)?);
    let name = |entries: &Entries| entries.next.as_ref().map(|entry| entry.path.clone());
    while let Some(path) = name(&was).into_iter().chain(name(&is)).min() {
        if !next(was.of(&path)?, is.of(&path)?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An entry that is told of.
struct Found {
    change: Change,
    told_by: Vec<&'static str>,
    was: Option<Entry>,
    is: Option<Entry>,
    from: Option<Vec<u8>>,
}

/// What became of a name; none: it is as it was, or nobody can tell.
fn judged(
    counts: &mut Counts,
    (before, after): (Side<'_>, Side<'_>),
    moved: &Moved,
    (was, is): (Option<Entry>, Option<Entry>),
    began: i128,
) -> Option<Found> {
    let change = |change, told_by, was, is| Some(Found { change, told_by, was, is, from: None });
    let found = match (was, is) {
        (was, Some(is)) if moved.from(&is).is_some() => {
            let old = moved.from(&is)?;
            let mut told_by = differences(old, &is);
            // A new name changes that time, too.
            told_by.retain(|by| *by != "ctime");
            if was.is_some() {
                told_by.push("replaced");
            }
            let from = Some(old.path.clone());
            Some(Found { change: Change::Renamed, told_by, was: Some(old.clone()), is: Some(is), from })
        }
        (Some(was), Some(is)) => {
            let told_by = differences(&was, &is);
            let held = told_by.iter().any(|by| matches!(*by, "kind" | "inode" | "size" | "mtime" | "ctime"));
            let of = if held { Change::Changed } else { Change::Attributes };
            if told_by.is_empty() { None } else { change(of, told_by, Some(was), Some(is)) }
        }
        // It may have been there: its times tell.
        (None, Some(is)) if before.told.may_lack(&is.path) => {
            let of = if is.inode.2 >= began { Change::Created } else { Change::Changed };
            if is.ctime < began { None } else { change(of, vec!["ctime"], None, Some(is)) }
        }
        (None, Some(is)) => change(Change::Created, Vec::new(), None, Some(is)),
        (Some(was), None) if moved.is_told(&was) => None,
        (Some(was), None) if after.told.may_lack(&was.path) => {
            counts.not_compared += 1;
            None
        }
        (Some(was), None) => change(Change::Removed, Vec::new(), Some(was), None),
        (None, None) => None,
    };
    let count = match found.as_ref()?.change {
        Change::Created => &mut counts.created,
        Change::Changed => &mut counts.changed,
        Change::Attributes => &mut counts.attributes,
        Change::Removed => &mut counts.removed,
        Change::Renamed => &mut counts.renamed,
    };
    *count += 1;
    found
}

/// By what an entry is told not to be as it was. The size of a directory says nothing, nor does the number of its names; when it was
/// changed says that a name in it came or went.
fn differences(was: &Entry, is: &Entry) -> Vec<&'static str> {
    let directory = is.kind() == libc::S_IFDIR;
    let all = [
        ("kind", was.kind() != is.kind()),
        ("inode", was.inode != is.inode),
        ("size", was.size != is.size && !directory),
        ("mtime", was.mtime != is.mtime),
        ("mode", was.mode & 0o7777 != is.mode & 0o7777),
        ("owner", was.owner != is.owner),
        ("links", was.links != is.links && !directory),
    ];
    let told_by: Vec<&str> = all.into_iter().filter(|(_, differs)| *differs).map(|(by, _)| by).collect();
    // Alone it says that something was changed and set back, or what has no time of its own: an attribute, or a name.
    if told_by.is_empty() && was.ctime != is.ctime { vec!["ctime"] } else { told_by }
}

impl Telling<'_, '_> {
    fn write(&mut self, found: Found) {
        let Found { change, told_by, was, is, from } = found;
        // All are counted, also those for which there is no room.
        let Some(entry) = is.as_ref().or(was.as_ref()).filter(|_| !self.list.is_over()) else { return };
        let (path, path_hex) = exact(&entry.path);
        let (from, from_hex) = from.map_or((None, None), |from| exact(&from));
        let kind = match entry.kind() {
            libc::S_IFREG => "file",
            libc::S_IFDIR => "directory",
            libc::S_IFLNK => "link",
            _ => "other",
        };
        // A new name changes that time as what is written does (rename(2)); that of a directory above, of nothing in it.
        let untouched = |is: &Entry| change == Change::Renamed && was.as_ref().is_some_and(|was| was.ctime == is.ctime);
        let now = is.as_ref().map(|is| self.look(is, untouched(is)));
        let (mut target, mut target_hex, mut sha256, mut not_hashed) = (None, None, None, None);
        match now {
            Some(Now::Target(leads)) => (target, target_hex) = exact(&leads),
            Some(Now::Hash(Ok(hash))) => sha256 = Some(hash),
            Some(Now::Hash(Err(why))) => not_hashed = Some(why),
            Some(Now::Nothing) | None => {}
        }
        let (before, after) = (was.as_ref().map(State::of), is.as_ref().map(State::of));
        let line = Line {
            path,
            path_hex,
            change,
            kind,
            told_by,
            from,
            from_hex,
            before,
            after,
            target,
            target_hex,
            sha256,
            not_hashed,
        };
        self.list.add(&line);
    }

    /// What a file holds, or where a link leads.
    fn look(&mut self, is: &Entry, untouched: bool) -> Now {
        match is.kind() {
            libc::S_IFREG if untouched => Now::Nothing,
            libc::S_IFREG if is.size > self.left => {
                Now::Hash(Err(format!("no more than {} of what was changed is read", show_size(HASHED))))
            }
            libc::S_IFREG => {
                self.left -= is.size;
                Now::Hash(self.hash(is).unwrap_or_else(|e| Err(e.desc().to_owned())))
            }
            libc::S_IFLNK => {
                let read = held(self.top, is).and_then(|held| readlinkat(&held, c""));
                read.map_or(Now::Nothing, |target| Now::Target(target.as_encoded_bytes().to_vec()))
            }
            _ => Now::Nothing,
        }
    }

    fn hash(&mut self, is: &Entry) -> nix::Result<Result<String, String>> {
        let held = held(self.top, is)?;
        let stat = fstat(&held)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_ino != is.inode.1 {
            return Ok(Err("another file has its name by now".to_owned()));
        }
        let itself = format!("/proc/self/fd/{}", held.as_raw_fd());
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // That it was read is not to be seen of it, where that is for this caller (open(2)).
        let file = match openat(AT_FDCWD, itself.as_str(), flags | OFlag::O_NOATIME, Mode::empty()) {
            Err(nix::Error::EPERM) => openat(AT_FDCWD, itself.as_str(), flags, Mode::empty())?,
            file => file?,
        };
        let disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let read = self.hasher.hash(&File::from(file), is.size, disk);
        read.map(|read| read.sha256).map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
    }
}

/// What is there now.
enum Now {
    Hash(Result<String, String>),
    Target(Vec<u8>),
    Nothing,
}

/// Holds an entry below `top`, by no link.
fn held(top: impl AsFd, is: &Entry) -> nix::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Nor through a mount: it is asked nothing (`crate::host::same_mount`).
    let beneath =
        ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // `NO_SYMLINKS` is of the last part, too: only with `PATH` and `NOFOLLOW` a link itself is held (openat2(2)).
    openat2(top, is.path.as_slice(), flags, rustix::fs::Mode::empty(), beneath)
        .map_err(|e| nix::Error::from_raw(e.raw_os_error()))
}
