//! `ces show`: a run's record for people, on one page.
//!
//! Takes a record; gives lines; trusts the record, and the outputs as they are now where it says that they are unchanged;
//! refuses nothing. `ces record` prints the document itself.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Site, precheck, print, records, verify};
use crate::cli::{Global, RecordArgs};
use crate::error::Result;
use crate::evidence::redact::{Variable, WITHHELD};
use crate::policy::units::{show_seconds, show_size};
use crate::run::supervisor::record::beside::Document;
use crate::run::supervisor::record::{Record, State};

/// Prints the page, or the record itself as JSON.
///
/// # Errors
/// When there is no such run that the caller may see.
pub fn show(global: &Global, args: &RecordArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    if args.json {
        print::json(&record)?;
        return Ok(0);
    }
    let mut page = Page::default();
    about(&mut page, &record);
    protections(&mut page, &record);
    limits(&mut page, &record);
    ending(&mut page, &record);
    changes(&mut page, &record);
    outputs(&mut page, &site, &record);
    deletion(&mut page, &record);
    record.damaged.iter().for_each(|what| page.line("damaged", what));
    record.warnings.iter().for_each(|warning| page.line("warning", warning));
    page.print()
}

/// Lines, each with what it is about.
#[derive(Debug, Default)]
struct Page {
    lines: Vec<[String; 2]>,
}

impl Page {
    /// A line; one that goes on about the same leaves `about` empty.
    fn line(&mut self, about: &str, text: impl Into<String>) {
        let again = self.lines.iter().rev().find(|[about, _]| !about.is_empty()).is_some_and(|[last, _]| last == about);
        self.lines.push([if again { String::new() } else { about.to_owned() }, text.into()]);
    }

    fn print(&self) -> Result<u8> {
        print::page(&self.lines)?;
        Ok(0)
    }
}

fn about(page: &mut Page, record: &Record) {
    let name = record.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    page.line("run", format!("{}{name} on {}", record.id, record.host));
    page.line("researcher", format!("{} (uid {})", record.researcher, record.uid));
    let access = match record.data_access.as_str() {
        "ro" => "read-only",
        _ => "read and write",
    };
    let project = record.project.as_deref().unwrap_or("none");
    page.line("project", format!("{project}; {} as /safe_data, {access}", record.data.display()));
    page.line("image", record.image.clone());
    page.line("image", record.digest.clone());
    page.line("command", command(&record.command));
    if record.withheld > 0 {
        let words =
            if record.withheld == 1 { "1 word of it is" } else { &format!("{} words of it are", record.withheld) };
        page.line("command", format!("({words} withheld)"));
    }
    for Variable { name, value } in &record.environment {
        let value = value.as_ref().map_or_else(|| WITHHELD.to_owned(), |value| command(std::slice::from_ref(value)));
        page.line("variables", format!("{name}={value}"));
    }
    page.line("policy", format!("{} ({})", record.policy, mode(record)));
    for decision in record.decisions.as_array().into_iter().flatten() {
        let text = |key: &str| decision.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        page.line("policy", format!("{} = {}, from {}", text("what"), text("value"), text("because")));
    }
}

fn mode(record: &Record) -> &'static str {
    match record.mode {
        crate::host::caller::Mode::Enforced => "enforced: the researcher could not change it",
        crate::host::caller::Mode::Advisory => "advisory: the researcher could have run another program",
    }
}

/// As a shell would take it.
fn command(command: &[String]) -> String {
    let plain =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&b));
    let quoted = |word: &String| {
        if plain(word) || plain(&word.replace(WITHHELD, "-")) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// What the kernel said of the container before the payload started, a line each with what it means.
fn protections(page: &mut Page, record: &Record) {
    let Some(seen) = &record.enforced else {
        let lost = record.documents.contains_key(&Document::Enforced);
        let none = "none were read back: the payload was not started";
        page.line("protections", if lost { "!     what was read back is lost, or was changed" } else { none });
        return;
    };
    let say = |page: &mut Page, holds: bool, held: &str, not: &str| {
        page.line("protections", if holds { format!("ok    {held}") } else { format!("!     {not}") });
    };
    let at = |path: &str| seen.pointer(path);
    let only_loopback = at("/interfaces").and_then(Value::as_array).is_some_and(|all| all.iter().all(|i| i == "lo"));
    say(
        page,
        only_loopback,
        "no network: the container has only its own loopback interface",
        "the container had a network interface",
    );
    let sets = at("/capabilities").and_then(Value::as_object);
    let none = sets.is_some_and(|sets| sets.values().all(|set| set.as_u64() == Some(0)));
    let inside = "capabilities within the container's own user namespace (a service profile), none on the host";
    say(page, sets.is_some(), if none { "no capabilities" } else { inside }, "capabilities were not read back");
    let seccomp = at("/seccomp_mode").and_then(Value::as_u64);
    say(page, seccomp == Some(2), "system calls are filtered (seccomp)", "system calls were not seen to be filtered");
    let no_new = at("/no_new_privs").and_then(Value::as_bool) == Some(true);
    say(page, no_new, "no program can gain privileges (no_new_privs)", "no_new_privs was not seen");
    let root_outside = at("/uid_map/0/outside").and_then(Value::as_u64);
    let nobody = "root in the container is nobody on the host (user namespace)";
    let researcher = "root in the container is the researcher on the host, and no more (user namespace)";
    let held = if root_outside == Some(u64::from(record.uid)) { researcher } else { nobody };
    say(page, root_outside.is_some_and(|uid| uid != 0), held, "root in the container is root on the host");
    let option = |mount: &str| at("/mounts").and_then(|m| m.get(mount)).and_then(|o| o.get(0)).and_then(Value::as_str);
    if let Some(access) = option("/safe_data") {
        let read_only = access == "ro";
        let held =
            if read_only { "/safe_data is mounted read-only" } else { "/safe_data is mounted for reading and writing" };
        say(page, read_only || record.data_access == "rw", held, "/safe_data is writable");
    }
}

fn limits(page: &mut Page, record: &Record) {
    let bound =
        |key: &str| record.enforced.as_ref().and_then(|seen| seen.get("limits")?.get(key)).filter(|v| !v.is_null());
    if let Some(memory) = bound("memory").and_then(Value::as_u64) {
        let peak =
            record.peak_memory.map_or_else(String::new, |peak| format!(", at most {} were used", show_size(peak)));
        page.line("limits", format!("memory {}{peak}", show_size(memory)));
    }
    if let Some(cpus) = bound("cpus") {
        page.line("limits", format!("CPUs {cpus}"));
    }
    if let Some(pids) = bound("pids") {
        page.line("limits", format!("processes and threads {pids}"));
    }
    for (what, how) in &record.bounds {
        let how = if how == "none" { "not bounded" } else { how };
        page.line("limits", format!("{what}: {how}"));
    }
}

fn ending(page: &mut Page, record: &Record) {
    page.line("started", record.started.clone());
    if let Some(finished) = &record.finished {
        let took = record.seconds.map_or_else(String::new, |seconds| format!(" ({})", show_seconds(seconds)));
        page.line("ended", format!("{finished}{took}"));
    }
    let ended = match (record.state, &record.ended) {
        (State::Begun, _) => "not yet, or ces was killed: `ces ps` tells".to_owned(),
        (State::Interrupted, None) => "interrupted: ces was killed, or the host went down".to_owned(),
        (State::Refused, why) => format!("refused, nothing ran: {}", why.as_deref().unwrap_or("")),
        (_, how) => how.clone().unwrap_or_default(),
    };
    page.line("exit", ended);
    for executed in &record.executed {
        let exit = executed
            .exit
            .map_or_else(|| "not executed, or still running at the end".to_owned(), |exit| format!("exit {exit}"));
        page.line("exec", format!("{} by {}: {} ({exit})", executed.started, executed.by, command(&executed.command)));
    }
}

/// What was changed in the data.
fn changes(page: &mut Page, record: &Record) {
    let Some(changes) = &record.changes else { return };
    page.line("data", changes.in_words());
    if let Some(list) = changes.list.as_ref().filter(|_| changes.counts.is_some_and(|counts| counts.lines() > 0)) {
        page.line("data", format!("{} beside the record lists them; it cannot tell who changed them", list.file));
    }
    let failed: BTreeSet<String> =
        [&changes.before, &changes.after].iter().flat_map(|look| look.failed.lines()).collect();
    failed.iter().for_each(|what| page.line("data", format!("not looked at: {what}")));
}

fn outputs(page: &mut Page, site: &Site, record: &Record) {
    let Some(told) = &record.outputs else { return };
    let count = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    page.line(
        "outputs",
        format!("{}, {} in {}", count(told.files.count(), "file"), show_size(told.bytes), told.path.display()),
    );
    let now = match verify::differences(site, record) {
        Ok((_, found)) if found.is_empty() => "unchanged since the run ended".to_owned(),
        Ok((_, found)) => {
            format!("{} since the run ended; `ces verify {}` lists them", count(found.count(), "change"), record.id)
        }
        Err(error) => format!("not compared: {error}"),
    };
    page.line("outputs", now);
    if let Some(kept) = precheck::kept(site, record.id.as_str()) {
        page.line("pre-check", kept);
    }
    told.refused.lines().iter().for_each(|refused| page.line("outputs", format!("refused: {refused}")));
    told.links.lines().iter().for_each(|link| page.line("outputs", format!("link: {link}")));
}

/// What was deleted when it ended.
fn deletion(page: &mut Page, record: &Record) {
    let Some(deletion) = &record.deletion else { return };
    let number = |item: &Value, key: &str| item.get(key).and_then(Value::as_u64).unwrap_or_default();
    let text = |item: &Value, key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    for item in deletion.get("items").and_then(Value::as_array).into_iter().flatten() {
        let (entries, bytes) = (number(item, "entries"), show_size(number(item, "bytes")));
        let entries = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
        page.line("deleted", format!("{}: {entries}, {bytes}; {}", text(item, "what"), text(item, "verified")));
    }
    if let Some(why) = deletion.get("failed").and_then(Value::as_str) {
        page.line("deleted", format!("!     not all: {why}"));
    }
}
