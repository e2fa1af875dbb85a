//! The lines of a host on disk.
//!
//! Takes entries; gives each its place, on disk (fdatasync(2)) once it was waited for; trusts the directory of the log, which
//! root alone can change; refuses a file that others could have written, that is a link, or has another name.
//!
//! One line is one write under a lock (flock(2)) of the file of this host: hosts that share a directory do not share a file. What
//! a crash left of a line is ended, kept, and told by the next line. When a file is large it is renamed, and the next one goes on
//! with the number and the hash that follow. A log of an older version (`audit.jsonl`) stays as it is: the first line here has
//! its SHA-256.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::copy::Copier;
use crate::evidence::line::{Entry, Event, LONGEST, Line, Place, hash, hex};
use crate::host::log_dir::LogDir;
use crate::host::machine::Machine;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

const DIRECTORY: &str = "audit";
/// The log of older versions, beside the directory.
const OLD: &str = "audit.jsonl";
/// A larger file is put aside.
const ROTATE: u64 = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// How much of its end is looked at for the last line: little at first, for that is done twice in every run.
const TAILS: [u64; 2] = [16 << 10, 256 << 10];

/// The name of the files of a host: what could lead elsewhere, or be no name, is replaced.
pub fn file_stem(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let stem: String = host.chars().map(plain).take(64).collect();
    if stem.is_empty() { "host".to_owned() } else { stem }
}

/// The directory of the lines; none where there are none yet.
///
/// # Errors
/// When others could have changed it.
pub fn directory(_: &Root, log: &SiteDir) -> Result<Option<SiteDir>> {
    log.below(OsStr::new(DIRECTORY))
}

fn made(root: &Root, log: &SiteDir) -> Result<SiteDir> {
    if let Some(dir) = directory(root, log)? {
        return Ok(dir);
    }
    match mkdirat(log, DIRECTORY, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(fail(&log.join(DIRECTORY), e.into())),
    }
    sync_directory(log).map_err(|e| fail(log.path(), e))?;
    directory(root, log)?.ok_or_else(|| fail(&log.join(DIRECTORY), Errno::ENOENT.into()))
}

/// Puts the names in a directory on disk.
///
/// # Errors
/// The kernel's.
pub fn sync_directory(dir: &SiteDir) -> std::io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    File::from(openat(dir, c".", flags, Mode::empty())?).sync_all()
}

/// A line that is written, and perhaps not on disk yet. Other lines may follow it by now: what is waited for outside the lock
/// is waited for together.
#[derive(Debug)]
#[must_use = "a line counts once it is on disk"]
pub struct Written {
    file: File,
    place: Place,
    at: PathBuf,
}

impl Written {
    /// Waits until it is on disk; gives its place.
    ///
    /// # Errors
    /// When it cannot be put there.
    pub fn wait(self) -> Result<Place> {
        self.file.sync_data().map_err(|e| fail(&self.at, e))?;
        Ok(self.place)
    }
}

/// Appends a line to the log of this host, and waits until it is on disk.
///
/// # Errors
/// When it cannot be written and put on disk.
pub fn append(root: &Root, log: &LogDir, entry: &Entry) -> Result<Place> {
    write_line(root, log, entry)?.wait()
}

/// Appends a line to the log of this host, and sends its copy where the policy wants one. That there is none is told in the line,
/// or in one after it.
///
/// # Errors
/// When it cannot be written: then it is not there. When it tells of what is about to begin, and has no copy, which the policy
/// requires.
pub fn write_line(root: &Root, log: &LogDir, entry: &Entry) -> Result<Written> {
    let Some(to) = log.copies() else { return write_one(root, log, entry, None).map(|(written, _)| written) };
    let needed = to.required && entry.event.comes_before();
    let refused = |why: &str| {
        Error::new(Stage::Record, Kind::Host, format!("the audit log's line has no copy in {}", to.service))
            .because(format!("{}: {why}", to.socket.display()))
            .hint("the policy requires one (audit.required), and nothing was begun; see whether the service runs")
    };
    let copier = match Copier::open(to) {
        Err(e) if needed => return Err(refused(&e.to_string())),
        Err(e) => return write_one(root, log, entry, Some(e.to_string())).map(|(written, _)| written),
        Ok(copier) => copier,
    };
    let (written, (line, text)) = write_one(root, log, entry, None)?;
    let Err(e) = copier.send(&line, &text) else { return Ok(written) };
    let about = json!({"line": written.place.seq, "to": to.service.to_string(), "why": e.to_string()});
    let failed = Entry { event: Event::CopyFailed, about, ..entry.clone() };
    let (told, _) = write_one(root, log, &failed, None)?;
    told.wait()?;
    if needed { Err(refused(&e.to_string())) } else { Ok(written) }
}

/// A line and its text.
type Told = (Line, Vec<u8>);

fn write_one(root: &Root, log: &SiteDir, entry: &Entry, not_copied: Option<String>) -> Result<(Written, Told)> {
    let dir = made(root, log)?;
    let machine = Machine::this()?;
    let name = format!("{}.jsonl", file_stem(&machine.host));
    let at = dir.join(&name);
    loop {
        let held = locked(&dir, &name)?;
        let size = held.metadata().map_err(|e| fail(&at, e))?.len();
        if size > ROTATE {
            put_aside(&dir, &name, &held).map_err(|e| fail(&at, e))?;
            continue;
        }
        let told = write(log, &dir, &name, &held, (entry, &machine, &not_copied)).map_err(|e| fail(&at, e))?;
        let (place, told) = told;
        let file = held.unlock().map_err(|(_, e)| fail(&at, e.into()))?;
        return Ok((Written { file, place, at }, told));
    }
}

/// The file `name` of the directory, locked; it is the one of that name, and not one that was put aside meanwhile.
fn locked(dir: &SiteDir, name: &str) -> Result<Flock<File>> {
    let at = dir.join(name);
    let flags = OFlag::O_RDWR
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_NOFOLLOW
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY
        | OFlag::O_CLOEXEC;
    loop {
        let file =
            File::from(openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| fail(&at, e.into()))?);
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| fail(&at, e.into()))?;
        let is = held.metadata().map_err(|e| fail(&at, e))?;
        let named = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if !named.is_ok_and(|named| (named.st_dev, named.st_ino) == (is.dev(), is.ino())) {
            continue;
        }
        let above = fstatat(dir, c".", AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| fail(&at, e.into()))?;
        if !is.is_file() || is.uid() != above.st_uid || is.mode() & 0o022 != 0 || is.nlink() != 1 {
            let (uid, mode, names) = (is.uid(), is.mode() & 0o7777, is.nlink());
            return Err(Error::new(Stage::Record, Kind::Host, format!("{} is not an audit log", at.display()))
                .because(format!("it is owned by uid {uid}, mode {mode:04o}, has {names} names, or is no regular file"))
                .hint("nothing runs unrecorded; find out who put it there, and move it away"));
        }
        return Ok(held);
    }
}

fn write(
    log: &SiteDir,
    dir: &SiteDir,
    name: &str,
    held: &Flock<File>,
    (entry, machine, not_copied): (&Entry, &Machine, &Option<String>),
) -> std::io::Result<(Place, Told)> {
    let size = held.metadata()?.len();
    let end = match end_of(held, size)? {
        Some(end) => Some(end),
        None => last_aside(dir, name)?,
    };
    let mut text = Vec::new();
    if end.as_ref().is_some_and(|end| end.open) && size > 0 {
        text.push(b'\n');
    }
    let mut place = end.map_or(Place { seq: 0, prev: [0; 32], torn: 0 }, |end| end.next);
    if place.seq == 0 {
        let about = json!({"continues": old_log(log)?});
        let begun = Entry { event: Event::LogBegun, project: None, rule: None, run: None, about, ..entry.clone() };
        let line = Line::new(&begun, place, machine)?.text()?;
        place = Place { seq: 1, prev: hash(&line), torn: 0 };
        text.extend_from_slice(&line);
        text.push(b'\n');
    }
    let mut line = Line::new(entry, place, machine)?;
    line.not_copied.clone_from(not_copied);
    let told = line.text()?;
    text.extend_from_slice(&told);
    text.push(b'\n');
    let mut file: &File = held;
    let written = file.write(&text);
    if !matches!(written, Ok(length) if length == text.len()) {
        // Nobody has read it: the lock is held.
        file.set_len(size)?;
        return Err(written.err().unwrap_or_else(|| std::io::ErrorKind::StorageFull.into()));
    }
    if size == 0 {
        // Its name, too.
        file.sync_data()?;
        sync_directory(dir)?;
    }
    Ok((place, (line, told)))
}

/// Where a log ends.
#[derive(Debug)]
struct End {
    next: Place,
    /// Its last line has no line break.
    open: bool,
}

/// Where a file ends; none where it is empty.
fn end_of(file: &File, size: u64) -> std::io::Result<Option<End>> {
    if size == 0 {
        return Ok(None);
    }
    for tail in TAILS {
        if let Some(end) = end_within(file, size, size.saturating_sub(tail))? {
            return Ok(Some(end));
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "its end makes no sense"))
}

/// The same, by what stands from `from` on; none where that is not enough to tell.
fn end_within(file: &File, size: u64, from: u64) -> std::io::Result<Option<End>> {
    let mut text = vec![0; usize::try_from(size - from).unwrap_or(0)];
    file.read_exact_at(&mut text, from)?;
    let open = text.last() != Some(&b'\n');
    if !open {
        text.pop();
    }
    let mut lines = text.rsplit(|byte| *byte == b'\n');
    let last = lines.next().unwrap_or_default();
    let prev = hash(last);
    let mut torn = 0;
    for line in [last].into_iter().chain(lines) {
        if let Some(whole) = whole(line) {
            let next = Place { seq: whole.seq.saturating_add(1).saturating_add(torn), prev, torn };
            return Ok(Some(End { next, open }));
        }
        torn += 1;
    }
    if from > 0 {
        return Ok(None);
    }
    // Nothing of the first line was finished.
    Ok(Some(End { next: Place { seq: torn, prev, torn }, open }))
}

/// A line, if it is whole.
pub fn whole(text: &[u8]) -> Option<Line> {
    serde_json::from_slice(text).ok()
}

/// The end of the newest file that was put aside: the one in use was lost, or has just been put aside.
fn last_aside(dir: &SiteDir, name: &str) -> std::io::Result<Option<End>> {
    let stem = name.strip_suffix(".jsonl").unwrap_or(name);
    let Some((_, path)) = aside(dir, stem)?.pop() else { return Ok(None) };
    let file = dir.document(OsStr::new(&path)).map_err(std::io::Error::other)?;
    let Some(file) = file else { return Ok(None) };
    let size = file.metadata()?.len();
    end_of(&file, size)
}

/// The files of a host that were put aside, with the number of their first line, in order.
fn aside(dir: &SiteDir, stem: &str) -> std::io::Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.path())? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let number = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, name.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

fn put_aside(dir: &SiteDir, name: &str, held: &Flock<File>) -> std::io::Result<()> {
    let mut first = Vec::new();
    let file: &File = held;
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    BufReader::new(ReadAt { file, at: 0 }).take(limit).read_until(b'\n', &mut first)?;
    let number = whole(&first).map_or(0, |line| line.seq);
    let stem = name.strip_suffix(".jsonl").unwrap_or(name);
    let aside = format!("{stem}.{number:012}.jsonl");
    match fstatat(dir, aside.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => {}
        _ => return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, format!("{aside} is there already"))),
    }
    renameat(dir, name, dir, aside.as_str())?;
    sync_directory(dir)
}

/// Reads from a place on, without moving the file's own.
struct ReadAt<'a> {
    file: &'a File,
    at: u64,
}

impl std::io::Read for ReadAt<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}

/// What the log of older versions is.
fn old_log(log: &SiteDir) -> std::io::Result<serde_json::Value> {
    let Some((sha256, bytes)) = old_log_hash(log)? else { return Ok(serde_json::Value::Null) };
    Ok(json!({"file": OLD, "sha256": sha256, "bytes": bytes}))
}

/// SHA-256 and size of the log of older versions; none where there is none.
///
/// # Errors
/// When it cannot be read.
pub fn old_log_hash(log: &SiteDir) -> std::io::Result<Option<(String, u64)>> {
    let Some(mut file) = log.document(OsStr::new(OLD)).map_err(std::io::Error::other)? else { return Ok(None) };
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0_u64;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..read).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
        bytes = bytes.saturating_add(u64::try_from(read.len()).unwrap_or(0));
    }
    Ok(Some((hex(&hash.finalize()), bytes)))
}

/// The hosts that have a log here, by the names of their files.
///
/// # Errors
/// When the directory cannot be read.
pub fn hosts(_: &Root, dir: &SiteDir) -> std::io::Result<Vec<String>> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(dir.path())? {
        let name = entry?.file_name();
        // A stem has no dot.
        let stem = name.to_str().and_then(|name| name.split_once('.')).map(|(stem, _)| stem);
        // What is written aside begins with a dot. Where only a checkpoint is left, the log was taken away.
        found.extend(stem.filter(|stem| !stem.is_empty()).map(str::to_owned));
    }
    Ok(found.into_iter().collect())
}

/// What is done with each line: its text, and what it is (`None`: not whole).
pub type Each<'a> = &'a mut dyn FnMut(&[u8], Option<Line>) -> Result<()>;

/// Gives `each` every line of a host in order, with what it is. What is
/// appended meanwhile is not waited for.
///
/// # Errors
/// When a file cannot be read, or could have been written by others; and what `each` says.
pub fn read(_: &Root, dir: &SiteDir, stem: &str, each: Each<'_>) -> Result<()> {
    let name = format!("{stem}.jsonl");
    let at = dir.join(&name);
    let said = |e: std::io::Error| fail_read(&at, e);
    let current = dir.document(OsStr::new(&name))?;
    // Whoever appends holds the lock: no half of a line is seen, and no file is put aside between two looks.
    let lock =
        current.map(|file| Flock::lock(file, FlockArg::LockShared).map_err(|(_, e)| said(e.into()))).transpose()?;
    let mut files = Vec::new();
    for (_, name) in aside(dir, stem).map_err(said)? {
        files.extend(dir.document(OsStr::new(&name))?.map(|file| (file, u64::MAX)));
    }
    if let Some(held) = lock {
        let size = held.metadata().map_err(said)?.len();
        files.push((held.unlock().map_err(|(_, e)| said(e.into()))?, size));
    }
    for (file, size) in files {
        let mut from = BufReader::with_capacity(64 << 10, file.take(size));
        loop {
            let mut text = Vec::new();
            // A longer one is no line: it comes in pieces, none of which is whole.
            let most = u64::try_from(LONGEST + 1).unwrap_or(u64::MAX);
            (&mut from).take(most).read_until(b'\n', &mut text).map_err(said)?;
            if text.is_empty() {
                break;
            }
            if text.last() == Some(&b'\n') {
                text.pop();
            }
            let line = whole(&text);
            each(&text, line)?;
        }
    }
    Ok(())
}

fn fail(at: &std::path::Path, e: std::io::Error) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("cannot write the audit log {}", at.display()))
        .because(e)
        .hint("nothing runs unrecorded; make room on the file system of the log, or let root look at the file")
}

fn fail_read(at: &std::path::Path, e: std::io::Error) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("cannot read the audit log {}", at.display())).because(e)
}

/// Where the log of a host is.
pub fn path(log: &SiteDir, stem: &str) -> PathBuf {
    log.join(DIRECTORY).join(format!("{stem}.jsonl"))
}
