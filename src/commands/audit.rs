//! `ces audit`: the audit log, checked, shown, signed and proven.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Read as _;
use std::path::Path;

use serde_json::json;

use super::precheck::kept_precheck;
use super::{Site, events, print, records};
use crate::cli::Global;
use crate::cli::audit::{AuditCommand, LogArgs, VerifyArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::check::{Checked, Problem, check};
use crate::evidence::checkpoint::{self, Checkpoint, Signed};
use crate::evidence::line::{self, Event, Line, hex};
use crate::evidence::log;
use crate::evidence::proof::{Proof, prove};
use crate::host::caller::Mode;
use crate::host::machine::Machine;
use crate::host::named_file;
use crate::host::privilege::as_root;
use crate::host::site_dir::SiteDir;
use crate::run::supervisor::record::now;
use crate::text;

/// No file that is named is longer.
const LARGEST: u64 = 64 << 20;

/// Does what is asked; 1 if the log, or a proof, does not hold.
///
/// # Errors
/// When there is no log, or the caller may not.
pub fn audit(global: &Global, command: &AuditCommand) -> Result<u8> {
    match command {
        AuditCommand::Verify(VerifyArgs { proof: Some(proof), json, .. }) => verify_proof(proof, *json),
        AuditCommand::Verify(args) => verify(&Site::swept(global)?, args),
        AuditCommand::Log(args) => show(&Site::swept(global)?, args),
        AuditCommand::Checkpoint { json } => sign(&Site::swept(global)?, *json),
        AuditCommand::Prove { id } => prove_run(&Site::swept(global)?, id),
    }
}

/// A run whose record is gone is proven by its lines alone, which stay.
fn prove_run(site: &Site, id: &str) -> Result<u8> {
    let dir = directory(site)?;
    let (run, host) = match records::read(site, id) {
        Ok(record) => (record.id.to_string(), log::file_stem(&record.host)),
        Err(error) if error.kind() == Kind::Missing => match without_record(site, &dir, id)? {
            Some(found) => {
                print::note(&found.why())?;
                (id.to_owned(), found.host)
            }
            None => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let proof = as_root(|root| {
        let signed = checkpoint::last(root, &dir, &host)?.ok_or_else(|| {
            failed("there is no checkpoint of the audit log").hint("root makes one: ces audit checkpoint")
        })?;
        prove(root, &dir, signed, &run)
    })?;
    print::json(&proof).map(|()| 0)
}

/// A run of which there are lines, and no record.
struct WithoutRecord {
    host: String,
    /// When and by which rule its record was removed, if a line tells of that.
    removed: Option<(String, String)>,
}

impl WithoutRecord {
    fn why(&self) -> String {
        match &self.removed {
            Some((time, rule)) => {
                format!("the record of this run was removed on {time} ({rule}); its lines in the audit log are proven")
            }
            None => {
                "the record of this run is gone, and no line tells who removed it: see ces audit verify; its lines \
                     in the audit log are proven"
                    .to_owned()
            }
        }
    }
}

/// What the logs have of a run of the caller's (root: anybody's) by its id; nothing, if none of it is theirs to know.
fn without_record(site: &Site, dir: &SiteDir, id: &str) -> Result<Option<WithoutRecord>> {
    let own = records::own(site);
    let (mut host_of_run, mut removed) = (None, None);
    for host in as_root(|root| log::hosts(root, dir)).map_err(|e| failed("cannot read the audit log").because(e))? {
        let mut each = |_: &[u8], line: Option<Line>| {
            let Some(line) = line.filter(|line| line.run.as_deref() == Some(id)) else { return Ok(()) };
            // Whose run it is, its beginning tells; root's removal and an officer's reading are of others.
            if line.event == Event::RunBegun && own.is_none_or(|uid| line.uid == uid) {
                host_of_run = Some(host.clone());
            }
            if line.event == Event::RecordRemoved {
                let rule = line.about.get("rule").and_then(|rule| rule.as_str()).unwrap_or("no rule is named");
                removed = Some((line.time.get(..10).unwrap_or(&line.time).to_owned(), rule.to_owned()));
            }
            Ok(())
        };
        as_root(|root| log::read(root, dir, &host, &mut each))?;
    }
    Ok(host_of_run.map(|host| WithoutRecord { host, removed }))
}

fn failed(what: &str) -> Error {
    Error::new(Stage::Record, Kind::Failed, what)
}

fn directory(site: &Site) -> Result<SiteDir> {
    as_root(|root| log::directory(root, &site.dirs.log))?.ok_or_else(|| {
        Error::new(Stage::Record, Kind::Missing, "there is no audit log yet").hint("the first run begins it")
    })
}

fn read(path: &Path) -> Result<String> {
    let fail =
        |e: &dyn Display| Error::new(Stage::Cli, Kind::Missing, format!("cannot read {}", path.display())).because(e);
    let mut text = String::new();
    let file = named_file::to_read(path).map_err(|e| fail(&e))?;
    file.take(LARGEST).read_to_string(&mut text).map_err(|e| fail(&e))?;
    Ok(text)
}

fn verify(site: &Site, args: &VerifyArgs) -> Result<u8> {
    let since = args.since.as_deref().map(|path| Checkpoint::parse(&read(path)?)).transpose()?;
    let dir = directory(site)?;
    let mut hosts =
        as_root(|root| log::hosts(root, &dir)).map_err(|e| failed("cannot read the audit log").because(e))?;
    let named = since.iter().map(|mark| mark.host.clone()).filter(|host| !hosts.contains(host)).collect::<Vec<_>>();
    hosts.extend(named);
    if hosts.is_empty() {
        return Err(failed("there is no audit log").because("its directory was emptied"));
    }
    let mut checked = Vec::new();
    for host in &hosts {
        let (last, unreadable) = match as_root(|root| checkpoint::last(root, &dir, host)) {
            Ok(last) => (last.map(|(_, checkpoint)| checkpoint), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let marks: Vec<Checkpoint> =
            last.into_iter().chain(since.iter().filter(|mark| mark.host == *host).cloned()).collect();
        let mut found = as_root(|root| check(root, &site.dirs.log, &dir, host, &marks))?;
        if found.lines == 0 {
            found.problems.push(Problem { line: 0, what: "there is no line in it".to_owned() });
        }
        found.problems.extend(unreadable.map(|what| Problem { line: 0, what }));
        checked.push((found, marks));
    }
    // The line that tells of a removal may be another host's, where several share the log.
    let removed: BTreeSet<String> = checked.iter().flat_map(|(found, _)| found.removed.iter().cloned()).collect();
    for (found, _) in checked.iter_mut().filter(|_| !site.caller.by_sudo) {
        found.records.retain(|run, _| !removed.contains(run));
        let changed = records_of(site, found);
        found.problems.extend(changed);
    }
    let holds = checked.iter().all(|(found, _)| found.holds());
    if args.json {
        let logs: Vec<&Checked> = checked.iter().map(|(found, _)| found).collect();
        print::json(&json!({"holds": holds, "logs": logs, "mode": site.caller.mode}))?;
        return Ok(u8::from(!holds));
    }
    for (found, marks) in &checked {
        say(found, marks)?;
    }
    if site.caller.mode == Mode::Advisory {
        print::line("note: this log is your own: you could have written all of it anew")?;
    }
    Ok(u8::from(!holds))
}

fn say(found: &Checked, marks: &[Checkpoint]) -> Result<()> {
    let host = &found.host;
    for Problem { line, what } in &found.problems {
        let place = if *line > 0 { format!("line {line}: ") } else { String::new() };
        print::line(&format!("{host}: {place}{}", text::neutral_line(what)))?;
    }
    if found.more > 0 {
        print::line(&format!("{host}: and {} more", found.more))?;
    }
    if found.torn > 0 {
        print::line(&format!("{host}: {} lines were not finished by who began them, and are kept", found.torn))?;
    }
    if found.uncopied > 0 {
        print::line(&format!("{host}: {} lines have no copy where the policy wanted one", found.uncopied))?;
    }
    if found.holds() {
        let signed = marks.iter().map(|mark| mark.size).max();
        let signed = signed.map_or("no checkpoint".to_owned(), |size| format!("{size} of them under a checkpoint"));
        print::line(&format!("{host}: {} lines hold together, {signed}; root {}", found.lines, found.root))?;
    }
    Ok(())
}

/// Records that are not what the log has of them.
fn records_of(site: &Site, found: &Checked) -> Vec<Problem> {
    let Ok(Some(runs)) = as_root(|_| site.dirs.log.below(OsStr::new("runs"))) else {
        return found
            .records
            .keys()
            .take(1)
            .map(|_| Problem { line: 0, what: "all records are gone".to_owned() })
            .collect();
    };
    let records = found.records.iter().map(|(run, sha256)| ("record", format!("{run}.json"), run, sha256));
    let prechecks = found.prechecks.iter().map(|(run, sha256)| ("pre-check", kept_precheck(run), run, sha256));
    let mut problems = Vec::new();
    for (document, name, run, sha256) in records.chain(prechecks) {
        let what = match as_root(|_| runs.document(OsStr::new(&name))) {
            Ok(Some(mut file)) => {
                let mut text = Vec::new();
                match (&mut file).take(LARGEST).read_to_end(&mut text) {
                    Ok(_) if hex(&line::hash(&text)) == *sha256 => continue,
                    Ok(_) if document == "record" => "is not what it was when the run ended".to_owned(),
                    Ok(_) => "is not what it was when it was made".to_owned(),
                    Err(e) => format!("cannot be read: {e}"),
                }
            }
            Ok(None) => "is gone".to_owned(),
            Err(error) => error.to_string(),
        };
        problems.push(Problem { line: 0, what: format!("the {document} of run {run} {what}") });
    }
    problems
}

fn show(site: &Site, args: &LogArgs) -> Result<u8> {
    let dir = directory(site)?;
    let own = (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw());
    let hosts = as_root(|root| log::hosts(root, &dir)).map_err(|e| failed("cannot read the audit log").because(e))?;
    let run = match &args.run {
        Some(word) => Some(records::id_of(site, word)?.unwrap_or_else(|| word.clone())),
        None => None,
    };
    for host in hosts {
        let mut each = |_: &[u8], line: Option<Line>| {
            let Some(line) = line else { return Ok(()) };
            let asked = run.as_ref().is_none_or(|run| line.run.as_ref() == Some(run));
            if !asked || own.is_some_and(|uid| line.uid != uid) {
                return Ok(());
            }
            let text = if args.json { serde_json::to_string(&line).unwrap_or_default() } else { told(&line) };
            print::line(&text)
        };
        as_root(|root| log::read(root, &dir, &host, &mut each))?;
    }
    Ok(0)
}

/// How many lines of each event the caller sees; none where there is no log yet.
///
/// # Errors
/// When the log cannot be read.
pub fn counts(site: &Site) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let Some(dir) = as_root(|root| log::directory(root, &site.dirs.log))? else { return Ok(counts) };
    let own = (!site.caller.sees_everyone()).then(|| site.caller.uid.as_raw());
    let hosts = as_root(|root| log::hosts(root, &dir)).map_err(|e| failed("cannot read the audit log").because(e))?;
    for host in hosts {
        let mut each = |_: &[u8], line: Option<Line>| {
            if let Some(line) = line.filter(|line| own.is_none_or(|uid| line.uid == uid)) {
                *counts.entry(event(&line)).or_default() += 1;
            }
            Ok(())
        };
        as_root(|root| log::read(root, &dir, &host, &mut each))?;
    }
    Ok(counts)
}

fn event(line: &Line) -> String {
    let event = serde_json::to_value(line.event).ok();
    event.as_ref().and_then(|event| event.as_str()).unwrap_or_default().to_owned()
}

/// A line for people.
fn told(line: &Line) -> String {
    let event = event(line);
    let run = line.run.as_deref().unwrap_or("-");
    text::neutral_line(&format!("{} {} {event} {} {run} {}", line.seq, line.time, line.name, line.about))
}

fn sign(site: &Site, as_json: bool) -> Result<u8> {
    if site.caller.by_sudo {
        return Err(Error::new(Stage::Record, Kind::Policy, "the audit log is signed by root alone")
            .hint("ask an administrator for a checkpoint"));
    }
    let dir = directory(site)?;
    let host = log::file_stem(&Machine::this()?.host);
    let before = as_root(|root| checkpoint::last(root, &dir, &host))?;
    let marks: Vec<Checkpoint> = before.into_iter().map(|(_, checkpoint)| checkpoint).collect();
    events::tell(
        &site.dirs.log,
        &site.caller,
        Event::Checkpoint,
        None,
        json!({"after": marks.first().map(|mark| mark.size)}),
    )?;
    let found = as_root(|root| check(root, &site.dirs.log, &dir, &host, &marks))?;
    if let Some(problem) = found.problems.first() {
        return Err(Error::new(Stage::Record, Kind::Hostile, "an audit log that does not hold is not signed")
            .because(format!("line {}: {}", problem.line, problem.what))
            .hint("ces audit verify tells all of it"));
    }
    let root_hash = checkpoint::unhex(&found.root).ok_or_else(|| failed("cannot read the root of the tree"))?;
    let state = Checkpoint { host, size: found.lines, root: root_hash, time: now() };
    let signed: Signed = as_root(|root| checkpoint::sign(root, &dir, &state))?;
    if as_json {
        print::json(&signed)?;
    } else {
        print::bytes(signed.checkpoint.as_bytes())?;
    }
    Ok(0)
}

/// A proof needs no log, and no rights.
fn verify_proof(path: &Path, as_json: bool) -> Result<u8> {
    let proof: Proof = serde_json::from_str(&read(path)?).map_err(|e| {
        Error::new(Stage::Cli, Kind::Hostile, format!("{} is no proof of a run", path.display())).because(e)
    })?;
    let (checkpoint, lines) = proof.verified()?;
    let key = proof.signed.fingerprint();
    if as_json {
        let root = hex(&checkpoint.root);
        let state = json!({"host": checkpoint.host, "size": checkpoint.size, "root": root, "time": checkpoint.time});
        print::json(&json!({"run": proof.run, "checkpoint": state, "key": key, "lines": lines}))?;
        return Ok(0);
    }
    lines.iter().try_for_each(|line| print::line(&told(line)))?;
    let (count, host, size) = (lines.len(), &checkpoint.host, checkpoint.size);
    let host = text::neutral_line(host);
    print::line(&format!(
        "{count} lines of run {} are among the {size} of {host}, signed by {key}",
        text::neutral_line(&proof.run)
    ))?;
    print::line("whether that is the key of the host is yours to know").map(|()| 0)
}
