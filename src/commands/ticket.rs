//! Where rehearsals are kept: `LOG/rehearsals/UID/DIGEST.json`, the last of each image and researcher.
//!
//! Takes and gives tickets and reports; trusts what lies below the directory of records, which root alone can write through sudo, and
//! nobody but the caller else; refuses what is longer than it would be, or of another form: then there was none.
//!
//! A file is two lines, each one JSON document: the ticket, which every run reads, and the report.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::rehearsal::Report;
use crate::rehearsal::difference::Known;
use crate::rehearsal::ticket::{Kept, Ticket, VERSION, hash_of};

const DIRECTORY: &str = "rehearsals";
/// No ticket is longer: its command is the longest of it.
const TICKET: u64 = 256 << 10;
/// No report that is kept is longer; of a longer one the ticket alone is.
const REPORT: u64 = 1 << 20;
/// How many a researcher may have; the oldest go.
const MOST: usize = 128;

/// Keeps a rehearsal in the place of the last one of the same image.
///
/// # Errors
/// When it cannot be written: a directory that others may write to, or no room.
pub fn keep(_: &Root, log: &SiteDir, uid: u32, ticket: &Ticket, report: &Report) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Run, Kind::Failed, "the rehearsal cannot be kept for runs to refer to")
            .because(e)
            .hint("check whether the file system of the records is full")
    };
    let of_all = log.join(DIRECTORY);
    let own = of_all.join(uid.to_string());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(|e| fail(&e))?;
    let directory = of_researcher(log, uid).map_err(|e| fail(&e))?.ok_or_else(|| fail(&"its directory is gone"))?;
    let name = name(&ticket.digest).ok_or_else(|| fail(&"the image has no plain digest"))?;
    // Findings are what the next one is compared with; of closed paths there may be thousands.
    let report = Report { closed: Vec::new(), command: Vec::new(), ..report.clone() };
    let (ticket, mut report) =
        (serde_json::to_vec(ticket).map_err(|e| fail(&e))?, serde_json::to_vec(&report).map_err(|e| fail(&e))?);
    if ticket.len() as u64 >= TICKET {
        return Err(fail(&"its command is longer than what is kept"));
    }
    if report.len() as u64 >= REPORT {
        report = b"{}".to_vec();
    }
    let new = directory.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&[ticket.as_slice(), b"\n", report.as_slice(), b"\n"].concat())?;
        fs::rename(&new, directory.join(&name))
    };
    let written = write();
    if written.is_err() {
        // The error is the one to show; what is left of it is no ticket.
        fs::remove_file(&new).ok();
    }
    written.map_err(|e| fail(&e))?;
    forget_oldest(&directory);
    Ok(())
}

/// The ticket of an image; none if it was not rehearsed, or what is kept cannot be relied on.
pub fn of_image(_: &Root, log: &SiteDir, uid: u32, digest: &str) -> Option<Ticket> {
    let directory = of_researcher(log, uid).ok()??;
    let file = directory.document(OsStr::new(&name(digest)?)).ok()??;
    read_ticket(&mut BufReader::with_capacity(4096, file)).filter(|ticket| ticket.digest == digest)
}

/// The last rehearsal of an image by this name, with this command.
pub fn last_of(_: &Root, log: &SiteDir, uid: u32, image: &str, command: &[String]) -> Option<Kept> {
    let directory = of_researcher(log, uid).ok()??;
    let mut last: Option<(Ticket, BufReader<fs::File>)> = None;
    for name in names(&directory) {
        let Ok(Some(file)) = directory.document(OsStr::new(&name)) else { continue };
        let mut file = BufReader::with_capacity(4096, file);
        let Some(ticket) = read_ticket(&mut file) else { continue };
        let fits = ticket.image == image && ticket.command == hash_of(command);
        if fits && last.as_ref().is_none_or(|(last, _)| last.when < ticket.when) {
            last = Some((ticket, file));
        }
    }
    let (ticket, file) = last?;
    let report: Value = serde_json::from_reader(file.take(REPORT)).ok()?;
    let findings = report.get("findings").and_then(Value::as_array).into_iter().flatten();
    let known = |finding: &Value| {
        let text = |key: &str| finding.get(key).and_then(Value::as_str).map(str::to_owned);
        let verdict = serde_json::from_value(finding.get("verdict")?.clone()).ok()?;
        Some(Known { verdict, kind: text("kind")?, object: text("object")?, what: text("what")? })
    };
    let findings = findings.filter_map(known).collect();
    Some(Kept { ticket, findings })
}

fn of_researcher(log: &SiteDir, uid: u32) -> Result<Option<SiteDir>> {
    let all = log.below(OsStr::new(DIRECTORY))?;
    all.map_or(Ok(None), |all| all.below(OsStr::new(&uid.to_string())))
}

/// The name of the file of an image: its digest, which is plain text, or there is none.
fn name(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| format!("{hex}.json"))
}

fn names(directory: &SiteDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.ends_with(".json")).collect()
}

fn read_ticket(file: &mut BufReader<fs::File>) -> Option<Ticket> {
    let mut line = Vec::new();
    file.by_ref().take(TICKET).read_until(b'\n', &mut line).ok()?;
    let ticket: Ticket = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    (ticket.version == VERSION).then_some(ticket)
}

/// What cannot be removed now is looked at again at the next rehearsal.
fn forget_oldest(directory: &SiteDir) {
    let age = |path: &Path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
    let mut all: Vec<_> = names(directory).into_iter().map(|name| directory.join(name)).collect();
    if all.len() > MOST {
        all.sort_by_key(|path| age(path));
        all.iter().take(all.len() - MOST).for_each(|path| drop(fs::remove_file(path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::privilege::as_root;
    use crate::rehearsal::report::{Conditions, Counts, Peaks};
    use crate::rehearsal::{Finding, Verdict};

    fn report(digest: &str, object: &str) -> Report {
        let finding = Finding {
            verdict: Verdict::Fails,
            kind: "name",
            what: format!("looked up {object}"),
            object: object.to_owned(),
            by: std::collections::BTreeSet::new(),
            times: 1,
            seconds_before_end: None,
            fix: "none".to_owned(),
            probably_why: false,
        };
        Report {
            version: 1,
            rehearsal: "20261122T143015-7f3a9c".to_owned(),
            image: "localhost/tool:latest".to_owned(),
            digest: digest.to_owned(),
            command: vec!["true".to_owned()],
            conditions: Conditions {
                ces: "0".to_owned(),
                kernel: "6".to_owned(),
                filter: "f".to_owned(),
                policy: "built-in".to_owned(),
                rules: "r".to_owned(),
                profile: "batch".to_owned(),
                memory: 1,
                cpus: 1.0,
                pids: 1,
                time: None,
                light: false,
                not_as_inside: Vec::new(),
            },
            exit: 1,
            ended: "exit 1".to_owned(),
            seconds: 1.0,
            peak_memory: None,
            peaks: Peaks::default(),
            ready: false,
            counts: Counts { fails: 1, lost: 0, missed: 0, harmless: 0 },
            findings: vec![finding],
            closed: Vec::new(),
            not_seen: Vec::new(),
            since_last: None,
        }
    }

    fn ticket_of(report: &Report, seconds: i64) -> Ticket {
        Ticket::of(report, seconds)
    }

    #[test]
    fn the_last_rehearsal_of_an_image_is_found_by_its_digest_and_of_a_name_the_youngest() {
        let dir = tempfile::tempdir().unwrap();
        let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap();
        let (a, b) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        as_root(|root| {
            assert_eq!(of_image(root, &log, 7, &a), None);
            for (digest, object, at) in [(&a, "old", 10), (&a, "first", 100), (&b, "second", 200)] {
                let report = report(digest, object);
                keep(root, &log, 7, &ticket_of(&report, at), &report).unwrap();
            }
            assert_eq!(of_image(root, &log, 7, &a).unwrap().when, 100);
            assert_eq!(of_image(root, &log, 8, &a), None, "it is another researcher's");
            assert_eq!(of_image(root, &log, 7, "../../../etc/passwd"), None);
            let command = ["true".to_owned()];
            let kept = last_of(root, &log, 7, "localhost/tool:latest", &command).unwrap();
            assert_eq!((kept.ticket.digest.as_str(), kept.findings[0].object.as_str()), (b.as_str(), "second"));
            assert!(
                last_of(root, &log, 7, "localhost/tool:latest", &[]).is_none(),
                "another command is another rehearsal"
            );
        });
    }

    #[test]
    fn what_is_kept_in_another_form_counts_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let report = report(&digest, "x");
        let whole = ticket_of(&report, 10);
        as_root(|root| keep(root, &log, 7, &whole, &report)).unwrap();
        let at = log.join("rehearsals/7").join(format!("{}.json", "a".repeat(64)));
        let good = fs::read_to_string(&at).unwrap();
        let other = good.replacen(&"a".repeat(64), &"c".repeat(64), 1);
        for bad in [
            "",
            "{}",
            "{}\n",
            good.split('\n').next().unwrap(),
            &good.replacen("\"version\":1", "\"version\":9", 1),
            &other,
        ] {
            fs::write(&at, bad).unwrap();
            assert_eq!(as_root(|root| of_image(root, &log, 7, &digest)), None, "{bad}");
        }
        fs::remove_file(&at).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &at).unwrap();
        assert_eq!(as_root(|root| of_image(root, &log, 7, &digest)), None);
    }
}
