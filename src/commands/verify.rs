//! `ces verify`: whether the outputs of a run are still what was listed when it ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;

use serde_json::json;

use super::{Site, print, records};
use crate::cli::{Global, RecordArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::run::directory::open_directory;
use crate::run::supervisor::outputs::compare::{Found, Whole, compare};
use crate::run::supervisor::outputs::line::{Kind as What, Line};
use crate::run::supervisor::outputs::listing::Of;
use crate::run::supervisor::outputs::{Files, List, OutputFile, list, listing, order};
use crate::run::supervisor::record::{self, Record};
use crate::text;

/// How many differences are told at most; the rest is counted.
const MOST: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Differences {
    changes: Vec<String>,
    more: u64,
    not_compared: Vec<String>,
    not_compared_more: u64,
}

impl Differences {
    /// Whether everything is as it was, as far as it was compared.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.changes.len()).unwrap_or(u64::MAX).saturating_add(self.more)
    }

    /// The changes, and what was not compared.
    pub(super) fn lists(&self) -> (&[String], &[String]) {
        (&self.changes, &self.not_compared)
    }

    /// Prints all of it.
    ///
    /// # Errors
    /// When nobody reads on.
    pub(super) fn print(&self) -> Result<()> {
        let more = |count: u64, what: &str| (count > 0).then(|| format!("and {count} more {what}"));
        let lines = self.changes.iter().cloned().chain(more(self.more, "changes"));
        let others = self.not_compared.iter().cloned().chain(more(self.not_compared_more, "not compared"));
        lines.chain(others).try_for_each(|line| print::line(&line))
    }

    /// A difference of an entry.
    pub(super) fn tell(&mut self, path: &[u8], found: Found) {
        let path = text::neutral_bytes(path);
        match found {
            Found::Missing => self.change(format!("missing: {path}")),
            Found::Changed => self.change(format!("changed: {path}")),
            Found::New => self.change(format!("new: {path}")),
            Found::NotCompared(why) => self.not_compared(format!("not compared: {path}: {}", text::neutral_line(&why))),
        }
    }

    /// Another difference, in words.
    pub(super) fn change(&mut self, change: String) {
        if self.changes.len() < MOST { self.changes.push(change) } else { self.more += 1 }
    }

    /// What was not compared, in words.
    pub(super) fn not_compared(&mut self, what: String) {
        if self.not_compared.len() < MOST { self.not_compared.push(what) } else { self.not_compared_more += 1 }
    }
}

/// Compares the outputs with their list: 0 the same, 1 changed. What was not hashed is said.
///
/// # Errors
/// When there is no record, or it tells of no outputs, or of a list that is not there.
pub fn verify(global: &Global, args: &RecordArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    let (files, found) = differences(&site, &record)?;
    if args.json {
        print::json(&json!({
            "id": record.id, "unchanged": found.changes.is_empty(), "changes": found.changes, "more_changes": found.more,
            "not_compared": found.not_compared, "more_not_compared": found.not_compared_more
        }))?;
    } else {
        say(&record, files, &found)?;
    }
    Ok(u8::from(!found.changes.is_empty()))
}

/// How many files were compared, and what is not as it was.
///
/// # Errors
/// As [`verify`].
pub(super) fn differences(site: &Site, record: &Record) -> Result<(u64, Differences)> {
    let told = record
        .outputs
        .as_ref()
        .ok_or_else(|| no_outputs(record, "tells of no outputs").hint("the run did not finish"))?;
    let mut found = Differences::default();
    record.damaged.iter().for_each(|what| found.change(format!("changed: of the record: {what}")));
    changes_list(site, record, &mut found)?;
    let top = match open_directory(&told.path, true) {
        // Of a run that left nothing no directory is kept; its list says the same.
        Err(_) if told.is_empty() && !told.path.exists() => return Ok((0, found)),
        top => top?,
    };
    let owner = nix::sys::stat::fstat(&top).map_err(|e| fail(e.into()))?.st_uid;
    if owner != record.uid {
        return Err(Error::new(
            Stage::Record,
            Kind::Failed,
            format!("{} is not what the run left", told.path.display()),
        )
        .because(format!("it belongs to uid {owner}, and the outputs of the run to uid {}", record.uid))
        .hint("put the outputs back where the run left them"));
    }
    let files = match (&told.files, &told.list) {
        (Files::Each(files), _) => of_old(&top, files, &mut found)?,
        (_, Some(list)) => of_list(site, record, list, &top, &mut found)?,
        (_, None) => return Err(no_outputs(record, "has no list of outputs").because("it could not be written")),
    };
    Ok((files, found))
}

fn say(record: &Record, files: u64, found: &Differences) -> Result<()> {
    if found.changes.is_empty() {
        print::line(&format!("{}: {files} {}, unchanged", record.id, if files == 1 { "file" } else { "files" }))?;
    }
    found.print()
}

fn no_outputs(record: &Record, why: &str) -> Error {
    Error::new(Stage::Record, Kind::Failed, format!("the record of run {} {why}", record.id))
}

fn fail(e: std::io::Error) -> Error {
    Error::new(Stage::Record, Kind::Failed, "cannot read the list of outputs").because(e)
}

/// The list of what was changed in the data.
fn changes_list(site: &Site, record: &Record, found: &mut Differences) -> Result<()> {
    let Some(told) = record.changes.as_ref().and_then(|changes| changes.list.as_ref()) else { return Ok(()) };
    let file = as_root(|root| record::open_changes(root, &site.dirs.log, &record.id))?;
    let is = file.map(|file| list::summed(&file)).transpose().map_err(fail)?;
    if is.as_ref() != Some(&told.sha256) {
        let how = if is.is_none() { "missing" } else { "changed" };
        found.change(format!("{how}: the list of changes of the data ({})", told.file));
    }
    Ok(())
}

fn of_list(site: &Site, record: &Record, told: &List, top: &OwnedFd, found: &mut Differences) -> Result<u64> {
    let file = as_root(|root| record::open_list(root, &site.dirs.log, &record.id))?
        .ok_or_else(|| no_outputs(record, "has lost its list of outputs"))?;
    let is = list::summed(&file).map_err(fail)?;
    if is != told.sha256 {
        found.change(format!("changed: the list itself ({})", told.file));
    }
    if let Some(cut) = &told.cut {
        found.not_compared(format!("not compared: what is not in the list, which is not whole: {cut}"));
    }
    let (now, now_cut) = what_is_there(top)?;
    if let Some(cut) = &now_cut {
        found.not_compared(format!("not compared: what cannot be listed now: {cut}"));
    }
    let whole = Whole { told: told.cut.is_none(), now: now_cut.is_none() };
    let tell = &mut |path: &[u8], what| found.tell(path, what);
    compare(in_order(file)?, in_order(now)?, whole, tell).map_err(fail)
}

/// A list of what is in the outputs, in a file without a name, and why it is not whole if it is not.
fn what_is_there(top: &OwnedFd) -> Result<(File, Option<String>)> {
    let now: File = tempfile::tempfile().map_err(fail)?;
    let owner = nix::sys::stat::fstat(top).map_err(|e| fail(e.into()))?.st_uid;
    let listed = listing::list(top, Of::Everybody(owner), Some(&now), &|| None).map_err(|e| fail(e.into()))?;
    Ok((now, listed.cut))
}

/// The list from its begin, in order: lists of older versions are not, and those for whose order there was no room.
///
/// # Errors
/// When it cannot be read, or there is no room to put it in order.
pub(super) fn in_order(mut list: File) -> Result<BufReader<File>> {
    if !order::is_sorted(&list).map_err(fail)? {
        list.seek(SeekFrom::Start(0)).map_err(fail)?;
        // What was kept is not this caller's to change.
        let mut copy: File = tempfile::tempfile().map_err(fail)?;
        std::io::copy(&mut list, &mut copy).map_err(fail)?;
        if !order::sort(&copy).map_err(fail)? {
            return Err(
                fail(std::io::ErrorKind::StorageFull.into()).hint("TMPDIR names a directory with room for a copy")
            );
        }
        list = copy;
    }
    list.seek(SeekFrom::Start(0)).map_err(fail)?;
    Ok(BufReader::with_capacity(64 << 10, list))
}

/// Records of older versions have their files inside, by the names that were shown.
fn of_old(top: &OwnedFd, files: &[OutputFile], found: &mut Differences) -> Result<u64> {
    let (now, _) = what_is_there(top)?;
    (&now).seek(SeekFrom::Start(0)).map_err(fail)?;
    let mut told: HashMap<&str, &OutputFile> = files.iter().map(|file| (file.path.as_str(), file)).collect();
    for line in std::io::BufRead::lines(BufReader::new(&now)) {
        let line: Line = serde_json::from_str(&line.map_err(fail)?).map_err(|e| fail(e.into()))?;
        let Some(path) = line.path().filter(|_| line.kind == What::File && !line.others) else { continue };
        match told.remove(text::neutral_bytes(&path).as_str()) {
            None => found.tell(&path, Found::New),
            Some(old) if line.size != Some(old.size) => found.tell(&path, Found::Changed),
            Some(old) => match (&line.sha256, line.not_hashed) {
                (Some(sha256), _) if *sha256 != old.sha256 => found.tell(&path, Found::Changed),
                (None, why) => found.tell(&path, Found::NotCompared(why.unwrap_or_default())),
                _ => {}
            },
        }
    }
    let mut missing: Vec<&&str> = told.keys().collect();
    missing.sort();
    missing.iter().for_each(|path| found.change(format!("missing: {path}")));
    Ok(u64::try_from(files.len()).unwrap_or(u64::MAX))
}
