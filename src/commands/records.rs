//! `ces record`, and how a run's record is found.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read as _;

use serde_json::json;

use super::{Site, events, print};
use crate::cli::{Global, RecordArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::{self, Event};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::privilege::as_root;
use crate::run::job_id::JobId;
use crate::run::supervisor::record::Record;
use crate::run::supervisor::record::index;

/// No record is longer.
const LARGEST: u64 = 64 << 20;

/// Prints one record with the documents beside it: 1 where one of them is not what it was.
///
/// # Errors
/// When there is none that the caller may see.
pub fn record(global: &Global, args: &RecordArgs) -> Result<u8> {
    let record = read(&Site::swept(global)?, &args.id)?;
    record.damaged.iter().try_for_each(|what| print::note(&format!("the record is not whole: {what}")))?;
    print::json(&record)?;
    Ok(u8::from(!record.damaged.is_empty()))
}

/// The text of the index of runs.
///
/// # Errors
/// When it cannot be read or made.
pub fn index(site: &Site) -> Result<String> {
    index_of(&site.dirs)
}

/// The same for who has the directories alone.
///
/// # Errors
/// As `index`.
pub(super) fn index_of(dirs: &Dirs) -> Result<String> {
    as_root(|root| index::text(root, &dirs.log))
}

/// Whose runs the caller sees: the caller's own, or everyone's.
pub fn own(site: &Site) -> Option<u32> {
    (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw())
}

/// The record of a run, by id, name or [`LAST`]. That somebody reads another's, as root may, is a line in the audit log.
///
/// # Errors
/// When there is none that the caller may see, or the line cannot be written.
pub fn read(site: &Site, id: &str) -> Result<Record> {
    let record = of(site, id)?;
    if record.uid != site.caller.uid.as_raw() {
        let about = json!({"of": record.uid});
        events::tell(&site.dirs.log, &site.caller, Event::RecordRead, Some(record.id.as_str()), about)?;
    }
    Ok(record)
}

/// The word for the run that began last.
pub const LAST: &str = "last";

/// The record of a run of the caller's: by id, the last one of that name, or the last one of all.
///
/// # Errors
/// When there is none that the caller may see.
fn of(site: &Site, id: &str) -> Result<Record> {
    // An id is looked up at once; names are in the index.
    match find(site, id) {
        Err(error) if id == LAST || matches!(error.kind(), Kind::Missing | Kind::Usage) => {}
        found => return found,
    }
    match id_of(site, id)? {
        Some(id) => find(site, &id),
        None if id == LAST => Err(Error::new(Stage::Record, Kind::Missing, "there is no run yet")
            .hint("ces run IMAGE starts one; ces doctor tells whether this host is ready")),
        None => Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}"))
            .hint("ces runs lists them; `last` is the one that began last")),
    }
}

/// The id that a name or [`LAST`] stands for; none where it is an id itself, or nothing that is known: records may be gone. Who sees
/// everyone's runs is told where several researchers have one of that name.
///
/// # Errors
/// When the index cannot be read.
pub(super) fn id_of(site: &Site, word: &str) -> Result<Option<String>> {
    let (index, own) = (index(site)?, own(site));
    let mut newest = index::newest_first(&index, own);
    let found = newest.find(|entry| word == LAST || entry.name.as_deref() == Some(word));
    if let Some(found) = found.as_ref().filter(|_| own.is_none() && word != LAST) {
        let researchers = researchers_with(&index, word);
        if researchers > 1 {
            print::note(&format!(
                "{word} is a run of {researchers} researchers; this is the newest, {} of {}; name the id",
                found.id, found.researcher
            ))?;
        }
    }
    Ok(found.map(|entry| entry.id.to_string()))
}

/// How many researchers have a run of that name.
fn researchers_with(index: &str, name: &str) -> usize {
    // Few of a hundred thousand lines are of that name: no others are understood.
    let has_it = format!("\"name\":\"{name}\"");
    let lines: Vec<&str> = index.lines().filter(|line| line.contains(&has_it)).collect();
    let lines = lines.join("\n");
    let named = index::newest_first(&lines, None).filter(|entry| entry.name.as_deref() == Some(name));
    named.map(|entry| entry.uid).collect::<BTreeSet<_>>().len()
}

/// SHA-256 of a record's file, as the audit log has it of a run that has ended.
///
/// # Errors
/// When it cannot be read.
pub(super) fn sha256(site: &Site, id: &JobId) -> Result<String> {
    let fail =
        |why: &str| Error::new(Stage::Record, Kind::Failed, format!("cannot read the record of run {id}")).because(why);
    let mut text = Vec::new();
    let runs = as_root(|_| site.dirs.log.below(OsStr::new("runs")))?.ok_or_else(|| fail("it is gone"))?;
    let file = as_root(|_| runs.document(OsStr::new(&format!("{id}.json"))))?.ok_or_else(|| fail("it is gone"))?;
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| fail(&e.to_string()))?;
    Ok(line::hex(&line::hash(&text)))
}

fn may_see(caller: &Caller, record: &Record) -> bool {
    record.uid == caller.uid.as_raw() || caller.sees_everyone()
}

/// The record of a run of the caller's, by id.
///
/// # Errors
/// When there is none that the caller may see.
fn find(site: &Site, id: &str) -> Result<Record> {
    let id = JobId::parse(id)?;
    match as_root(|root| Record::load(root, &site.dirs.log, &id)) {
        Ok(record) if may_see(&site.caller, &record) => return Ok(record),
        Err(error) if error.kind() != Kind::Missing => return Err(error),
        // One answer for a run of somebody else's and for one that never was.
        Ok(_) | Err(_) => {}
    }
    Err(Error::new(Stage::Record, Kind::Missing, format!("there is no record of run {id}")).hint("ces runs lists them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn researchers_with_a_run_of_a_name_are_counted_once() {
        let line = |id: u32, uid: u32, name: &str| {
            format!(
                "{{\"id\":\"20261127T100000-{id:06x}\",\"uid\":{uid},\"researcher\":\"r{uid}\",\"image\":\"i\",\"state\":\"begun\",\
                 \"started\":\"2026-11-27T10:00:00.000Z\",\"seconds\":null,\"exit\":null,\"ended\":null,\"name\":{name}}}\n"
            )
        };
        let index: String = [
            line(1, 1000, "\"fit\""),
            line(2, 1000, "\"fit\""),
            line(2, 1000, "\"fit\""),
            line(3, 1001, "\"fit\""),
            line(4, 1002, "\"fit2\""),
            line(5, 1003, "null"),
        ]
        .concat();
        assert_eq!(["fit", "fit2", "none", ""].map(|name| researchers_with(&index, name)), [2, 1, 0, 0]);
    }
}
