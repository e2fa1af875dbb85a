//! `ces report`: one page of a run, for whoever checks its outputs; or of a month.

use std::collections::BTreeMap;
use std::io::Write as _;

use super::month::of_month;
use super::{Site, listed, precheck, print, records, verify};
use crate::cli::Global;
use crate::cli::export::ReportArgs;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::redact::Redacted;
use crate::host::caller::Mode;
use crate::host::named_file;
use crate::precheck::look::Name;
use crate::report::page::{Facts, page};
use crate::run::supervisor::changes::Changes;
use crate::run::supervisor::record::Record;

/// No more hashes are held; a page has no more files.
const HASHES: usize = 20_000;

/// Writes the page to a file, or prints it.
///
/// # Errors
/// When there is no such run or month, or its outputs cannot be looked at.
pub fn report(global: &Global, args: &ReportArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let text = match (&args.month, &args.id) {
        (Some(month), _) => of_month(&site, month, args.project.as_deref())?,
        (None, id) => {
            let record = records::read(&site, id.as_deref().unwrap_or(records::LAST))?;
            let report = precheck::of_run(&site, &record)?;
            page(&facts(&site, &record), &report)
        }
    };
    let Some(path) = &args.out else { return print::bytes(text.as_bytes()).map(|()| 0) };
    let write = || named_file::to_write(path)?.write_all(text.as_bytes());
    write().map_err(|e| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display()))
            .because(e)
            .hint("check the path")
    })?;
    Ok(0)
}

fn facts(site: &Site, record: &Record) -> Facts {
    let decision = |what: &str| {
        let found =
            record.decisions.as_array()?.iter().find(|decision| decision.get("what").is_some_and(|w| w == what))?;
        found.get("value")?.as_str().map(str::to_owned)
    };
    let mode = match record.mode {
        Mode::Enforced => "the policy bound the researcher (enforced)",
        Mode::Advisory => "the policy was advice: the researcher could have run another program (advisory)",
    };
    let none = || "none".to_owned();
    let none_listed = || {
        let none = if record.data_access == "ro" { "none: it is read-only" } else { "not listed" };
        none.to_owned()
    };
    let about = [
        ("project", record.project.clone().unwrap_or_else(none)),
        ("researcher", format!("{} (uid {})", record.researcher, record.uid)),
        ("image", record.image.clone()),
        ("digest", record.digest.clone()),
        ("image was", decision("image").unwrap_or_else(|| "allowed without a list of approved images".to_owned())),
        ("command", Redacted::of(&record.command).join(" ")),
        (
            "safe data",
            format!(
                "{}, {}",
                record.data.display(),
                if record.data_access == "ro" { "read-only" } else { "read and write" }
            ),
        ),
        ("changes to it", record.changes.as_ref().map_or_else(none_listed, Changes::in_words)),
        ("began", record.started.clone()),
        (
            "ended",
            format!("{}: {}", record.finished.clone().unwrap_or_else(none), record.ended.clone().unwrap_or_else(none)),
        ),
        ("policy", format!("{}; {mode}", record.policy)),
        ("host", format!("{}, ces {}", record.host, record.ces)),
    ];
    let unchanged = match verify::differences(site, record) {
        Ok((_, found)) if found.is_empty() => "unchanged".to_owned(),
        Ok((_, found)) => format!("{} changes; ces verify {} lists them", found.count(), record.id),
        Err(error) => format!("not compared: {error}"),
    };
    Facts {
        id: record.id.to_string(),
        about: about.map(|(about, text)| (about.to_owned(), text)).into(),
        warnings: record.warnings.clone(),
        unchanged,
        sha256: sha256(site, record),
    }
}

/// The hashes that the list has; none where there is no list, which "not compared" says already.
fn sha256(site: &Site, record: &Record) -> BTreeMap<Name, String> {
    let mut hashes = BTreeMap::new();
    let read = listed::each(site, record, &mut |line| {
        if let (Some(path), Some(sha256)) = (line.path(), line.sha256)
            && hashes.len() < HASHES
        {
            hashes.insert(Name::new(&path), sha256);
        }
        Ok(())
    });
    if read.is_ok() { hashes } else { BTreeMap::new() }
}
