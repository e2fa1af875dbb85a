//! Records, a line each, so that a list of runs is one file to read.
//!
//! Takes entries; gives them back, the last line of a run being the one that counts; trusts the records more: it is brought up to
//! date where the directory of records has changed since, and made anew where it is missing; refuses lines longer than
//! `LONGEST`. Nothing that a payload names is in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::parallel;
use crate::run::job_id::JobId;
use crate::run::supervisor::outputs::Files;

/// No line is longer, in bytes; JSON may need six of them for a character.
const LONGEST: usize = 8 << 10;
/// No text in it is longer, in characters.
const LONGEST_TEXT: usize = 200;

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun; `ces` is at work.
    Begun,
    /// The payload ran and ended.
    Finished,
    /// Nothing of the payload ran.
    Refused,
    /// `ces` was killed, or the host went down.
    Interrupted,
}

/// What the index has of a run; the words are those of the record. Texts are borrowed from a line where it has them as they
/// are: root's list may have a hundred thousand runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// The run.
    pub id: JobId,
    /// Uid of the researcher.
    pub uid: u32,
    /// Login name of the researcher.
    #[serde(borrow)]
    pub researcher: Cow<'a, str>,
    /// The project.
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub project: Option<Cow<'a, str>>,
    /// The image's reference.
    #[serde(borrow)]
    pub image: Cow<'a, str>,
    /// How far it came.
    pub state: State,
    /// When it began.
    #[serde(borrow)]
    pub started: Cow<'a, str>,
    /// Wall time.
    pub seconds: Option<f64>,
    /// Exit status of `ces run`.
    pub exit: Option<u8>,
    /// How it ended, in words.
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub ended: Option<Cow<'a, str>>,
    /// The name it was given.
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub name: Option<Cow<'a, str>>,
    /// How many files it left; none while it runs, and in lines of older versions.
    #[serde(default, deserialize_with = "files")]
    pub outputs: Option<u64>,
}

/// How many files: a number in a line of the index, in a record the document that tells of the outputs.
fn files<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    struct Told;
    impl<'de> Visitor<'de> for Told {
        type Value = Option<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of files, or what tells of them")
        }
        fn visit_unit<E>(self) -> std::result::Result<Option<u64>, E> {
            Ok(None)
        }
        fn visit_u64<E>(self, files: u64) -> std::result::Result<Option<u64>, E> {
            Ok(Some(files))
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Option<u64>, A::Error> {
            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Outputs {
                Told { files: Files },
                Other(IgnoredAny),
            }
            Ok(match Outputs::deserialize(MapAccessDeserializer::new(map))? {
                Outputs::Told { files } => Some(files.count()),
                Outputs::Other(_) => None,
            })
        }
    }
    from.deserialize_any(Told)
}

/// A text that may be absent. Serde borrows a `Cow` by itself, but none in an `Option`.
fn borrowed<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Cow<'a, str>>, D::Error> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Option::<Text<'a>>::deserialize(from).map(|text| text.map(|Text(text)| text))
}

impl Entry<'_> {
    /// The same without the line that it was read from.
    fn into_owned(self) -> Entry<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Entry {
            researcher: own(self.researcher),
            project: self.project.map(own),
            image: own(self.image),
            started: own(self.started),
            ended: self.ended.map(own),
            name: self.name.map(own),
            id: self.id,
            uid: self.uid,
            state: self.state,
            seconds: self.seconds,
            exit: self.exit,
            outputs: self.outputs,
        }
    }

    /// The same with texts of a bounded length.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let short = |text: &mut Cow<'_, str>| {
            if let Some((at, _)) = text.char_indices().nth(LONGEST_TEXT) {
                let text = text.to_mut();
                text.truncate(at);
                text.push('…');
            }
        };
        [&mut self.researcher, &mut self.image, &mut self.started].into_iter().for_each(short);
        [&mut self.project, &mut self.ended, &mut self.name].into_iter().flatten().for_each(short);
        self
    }

    fn line(&self) -> std::io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        if line.len() > LONGEST { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(line) }
    }
}

fn path(log: &SiteDir) -> PathBuf {
    log.join("runs.idx")
}

/// The index, locked; it is the file of that name, and not one that was replaced while it was waited for.
fn locked(log: &SiteDir) -> std::io::Result<Flock<File>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path(log))?;
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| std::io::Error::from(e))?;
        let (is, named) = (held.metadata()?, fs::symlink_metadata(path(log)));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (is.dev(), is.ino())) {
            return Ok(held);
        }
    }
}

/// Leaves out the lines of runs whose records were removed, in a file that takes the place of the other.
///
/// # Errors
/// When it cannot be written.
pub fn leave_out(_: &Root, log: &SiteDir, runs: &BTreeSet<JobId>) -> Result<()> {
    let rewrite = || -> std::io::Result<()> {
        let held = locked(log)?;
        let mut text = Vec::new();
        (&*held).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let is_gone =
            |line: &str| id_of(line).and_then(|id| JobId::parse(id).ok()).is_some_and(|id| runs.contains(&id));
        let kept: String = text.split_inclusive('\n').filter(|line| !is_gone(line)).collect();
        let new = log.join(".runs.idx.new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(&new)?.write_all(kept.as_bytes())?;
        // Who waits for the lock looks again which file has the name.
        fs::rename(&new, path(log))
    };
    rewrite().map_err(|e| fail(log, e))
}

/// Appends a run's line.
///
/// # Errors
/// When it cannot be written.
pub fn add(_: &Root, log: &SiteDir, entry: &Entry<'_>) -> Result<()> {
    let append = || -> std::io::Result<()> {
        let line = entry.line()?;
        let held = locked(log)?;
        append_to(&held, &line)
    };
    append().map_err(|e| fail(log, e))
}

/// What was torn by a full disk is ended first, so that it spoils no line but its own.
fn append_to(mut file: &File, lines: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [b'\n'];
    let size = file.metadata()?.len();
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    file.write_all(lines)
}

/// The text of the index, which has a line for every record.
///
/// # Errors
/// When it cannot be read or made.
pub fn text(root: &Root, log: &SiteDir) -> Result<String> {
    current(root, log).map_err(|e| fail(log, e))
}

/// The runs of `uid` in a text of the index, or everyone's, oldest first.
pub fn of<'a>(text: &'a str, uid: Option<u32>) -> Vec<Entry<'a>> {
    let lines = lines(text, uid);
    let understood = |lines: &[&'a str]| lines.iter().filter_map(|line| entry_in(line, uid)).collect::<Vec<_>>();
    parallel::parts(&lines, understood).into_iter().flatten().collect()
}

/// The same one after another, the one that began last first: no more is understood than is asked for.
pub fn newest_first(text: &str, uid: Option<u32>) -> impl Iterator<Item = Entry<'_>> {
    lines(text, uid).into_iter().rev().filter_map(move |line| entry_in(line, uid))
}

/// The line that counts of each run of `uid`, or of everyone's, in the order in which they began. Other people's are not even
/// understood; [`entry_in`] is for those that are.
pub fn lines(text: &str, uid: Option<u32>) -> Vec<&str> {
    let mut lines: Vec<(Second, &str)> =
        text.lines().filter_map(|line| Some((second_of(id_of(line)?), line))).collect();
    // They are almost in order, and those of one run stay in theirs. The last one counts.
    lines.sort_by(|(a, line), (b, other)| a.cmp(b).then_with(|| id_of(line).cmp(&id_of(other))));
    let is_last = |at: usize, second: Second, line| {
        let next = lines.get(at.saturating_add(1));
        next.is_none_or(|(next, other)| *next != second || id_of(other) != id_of(line))
    };
    let own = uid.map(|uid| format!("\"uid\":{uid},"));
    let is_own = |line: &str| own.as_ref().is_none_or(|own| line.contains(own.as_str()));
    let counting =
        lines.iter().copied().enumerate().filter(|(at, (second, line))| is_last(*at, *second, line) && is_own(line));
    let mut counting: Vec<_> = counting.map(|(_, line)| line).collect();
    // An id has the second; the order in it is that of the records' own times.
    for same_second in counting.chunk_by_mut(|(a, _), (b, _)| a == b).filter(|runs| runs.len() > 1) {
        let started = |line: &str| entry_in(line, None).map(|entry| entry.started.into_owned());
        same_second.sort_by_cached_key(|(_, line)| (started(line), id_of(line)));
    }
    counting.into_iter().map(|(_, line)| line).collect()
}

/// The first characters of an id, which are the time to a second and a dash, in the order of text. Lines are compared by it without being
/// read again: a hundred thousand of them are in no cache.
type Second = [u8; 16];

fn second_of(id: &str) -> Second {
    let mut second = Second::default();
    second.iter_mut().zip(id.bytes()).for_each(|(to, byte)| *to = byte);
    second
}

/// The run of a line; none where it cannot be understood, or is not of `uid`.
pub fn entry_in(line: &str, uid: Option<u32>) -> Option<Entry<'_>> {
    let entry: Entry<'_> = scan::entry(line).or_else(|| serde_json::from_str(line).ok())?;
    uid.is_none_or(|uid| entry.uid == uid).then_some(entry)
}

/// The id with which a line begins.
pub fn id_of(line: &str) -> Option<&str> {
    line.strip_prefix("{\"id\":\"")?.split('"').next()
}

/// The text of the index, once it has a line for every record.
fn current(root: &Root, log: &SiteDir) -> std::io::Result<String> {
    let changed = |found: &fs::Metadata| (found.mtime(), found.mtime_nsec());
    let records = match fs::metadata(log.join("runs")) {
        Ok(records) => records,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    let read = || -> std::io::Result<(fs::Metadata, String)> {
        let file = File::open(path(log))?;
        let found = file.metadata()?;
        let text = parallel::read(&file, found.len())?;
        Ok((found, String::from_utf8(text).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())))
    };
    match read() {
        // A line is written after its record.
        Ok((found, text)) if changed(&found) >= changed(&records) => return Ok(text),
        _ => {}
    }
    bring_up_to_date(root, log)?;
    read().map(|(_, text)| text)
}

/// Adds what the index lacks.
fn bring_up_to_date(_: &Root, log: &SiteDir) -> std::io::Result<()> {
    let held = locked(log)?;
    let mut text = String::new();
    BufReader::new(File::open(path(log))?).read_to_string(&mut text).unwrap_or_default();
    let known: HashSet<&str> = text.lines().filter_map(id_of).collect();
    let mut lines = BTreeMap::new();
    for entry in fs::read_dir(log.join("runs"))?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
        if known.contains(id) || JobId::parse(id).is_err() {
            continue;
        }
        if let Ok(line) = entry_of(log, id).and_then(|entry| entry.line()) {
            lines.insert(id.to_owned(), line);
        }
    }
    // In the order of their ids, which a directory has not: what reads them sorts them.
    append_to(&held, &lines.into_values().collect::<Vec<_>>().concat())?;
    // Also where nothing was lacking: until something changes again there is nothing to look for.
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::futimens(&*held, &rustix::fs::Timestamps { last_access: now, last_modification: now })?;
    Ok(())
}

/// The entry of a record, which may be one of an older version and large: what else is in it is passed over.
fn entry_of(log: &SiteDir, id: &str) -> std::io::Result<Entry<'static>> {
    let text = fs::read_to_string(log.join("runs").join(format!("{id}.json")))?;
    let entry: Entry<'_> = serde_json::from_str(&text)?;
    Ok(entry.bounded().into_owned())
}

/// The entry as the record has it now; none where there is no such record.
pub fn from_record(_: &Root, log: &SiteDir, id: &JobId) -> Option<Entry<'static>> {
    entry_of(log, id.as_str()).ok()
}

fn fail(log: &SiteDir, e: std::io::Error) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("cannot use the index {}", path(log).display()))
        .because(e)
        .hint("it can be deleted: it is made anew from the records")
}

mod scan;
#[cfg(test)]
mod tests;
