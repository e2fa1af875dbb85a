//! A report for people: for a terminal, and as Markdown for a merge request.
//!
//! Takes a `Report`; gives text; trusts nothing in it: it goes through `crate::text` once more; refuses to be longer than a screen:
//! the JSON document has all.

use std::time::Duration;

use super::{Finding, Report, Verdict};
use crate::policy::units::{show_duration, show_seconds, show_size};
use crate::text;

/// How many findings of one verdict are told, how many changes of one kind, and how long the line of what is harmless is.
const MOST: usize = 6;
const CHANGES: usize = 4;
const LINE: usize = 68;
const HEADINGS: [(Verdict, &str); 4] = [
    (Verdict::Fails, "WILL FAIL"),
    (Verdict::Lost, "WILL BE LOST"),
    (Verdict::Missed, "WANTED, AND WENT ON WITHOUT"),
    (Verdict::Harmless, "HARMLESS"),
];

/// For a terminal.
pub fn plain(report: &Report) -> String {
    let mut out = format!("{}\n{}\n", how(report), verdict(report));
    for (of, heading) in HEADINGS {
        let all: Vec<&Finding> = report.findings.iter().filter(|finding| finding.verdict == of).collect();
        if all.is_empty() {
            continue;
        }
        if of == Verdict::Harmless {
            // Nothing has to be done about it.
            out.push_str(&format!("\n{heading}  {}\n", named_shortly(&all)));
            continue;
        }
        out.push_str(&format!("\n{heading}\n"));
        let told: Vec<&Finding> = all.iter().copied().take(MOST).collect();
        let mut done: Vec<&str> = Vec::new();
        for finding in &told {
            if done.contains(&finding.fix.as_str()) {
                continue;
            }
            done.push(&finding.fix);
            for same in told.iter().filter(|other| other.fix == finding.fix) {
                out.push_str(&format!("  {}{}\n", text::neutral_line(&same.what), who(same)));
            }
            out.push_str(&format!("     do: {}\n", text::neutral_line(&finding.fix)));
        }
        if all.len() > MOST {
            out.push_str(&format!("  and {} more (--json FILE has all)\n", all.len() - MOST));
        }
    }
    for (heading, all) in changes(report) {
        out.push_str(&format!("\n{heading}\n"));
        all.iter().take(CHANGES).for_each(|what| out.push_str(&format!("  {}\n", text::neutral_line(what))));
        if all.len() > CHANGES {
            out.push_str(&format!("  and {} more (--json FILE has all)\n", all.len() - CHANGES));
        }
    }
    for note in notes(report) {
        out.push_str(&format!("note: {}\n", text::neutral_line(&note)));
    }
    out
}

/// Names alone, as many as one line has room for; the first in any case.
fn named_shortly(all: &[&Finding]) -> String {
    let mut out = String::new();
    for (at, finding) in all.iter().enumerate() {
        let name: String = text::neutral_line(&finding.object).chars().take(LINE).collect();
        let left = all.len() - at;
        if at > 0 && out.len() + name.len() + 20 > LINE {
            return out + &format!(" and {left} more");
        }
        out.push_str(if at > 0 { ", " } else { "" });
        out.push_str(&name);
    }
    out
}

/// As Markdown.
pub fn markdown(report: &Report) -> String {
    let safe = |text: &str| {
        let mut out = String::new();
        for c in text::neutral_line(text).chars() {
            // What Markdown and HTML would take for their own.
            if c.is_ascii_punctuation() && !matches!(c, '.' | ',' | '/' | '-' | ':' | '(' | ')') {
                out.push('\\');
            }
            out.push(c);
        }
        out
    };
    let mut out = format!(
        "### Rehearsal of {}\n\n**{}**\n\n{}\n",
        safe(&report.image),
        safe(&verdict(report)),
        safe(&how(report))
    );
    for (of, heading) in HEADINGS {
        let mut all = report.findings.iter().filter(|finding| finding.verdict == of).peekable();
        if all.peek().is_some() {
            out.push_str(&format!("\n#### {heading}\n\n"));
            all.for_each(|f| out.push_str(&format!("- {}{}\n  - {}\n", safe(&f.what), safe(&who(f)), safe(&f.fix))));
        }
    }
    for (heading, all) in changes(report) {
        out.push_str(&format!("\n#### {}\n\n", safe(&heading)));
        all.iter().for_each(|what| out.push_str(&format!("- {}\n", safe(what))));
    }
    for note in notes(report) {
        out.push_str(&format!("\n> {}\n", safe(&note)));
    }
    out
}

/// How it ended, and what it used beside what it may use.
fn how(report: &Report) -> String {
    let (conditions, peaks) = (&report.conditions, &report.peaks);
    let mut used = Vec::new();
    if let Some(peak) = report.peak_memory {
        used.push(format!("peak memory {} of {}", show_size(peak), show_size(conditions.memory)));
    }
    if let Some(cpu) = peaks.cpu_seconds {
        let at_once = if report.seconds > 0.0 { cpu / report.seconds } else { 0.0 };
        used.push(format!("{cpu:.1} s of processors ({at_once:.1} of {})", conditions.cpus));
    }
    if let Some(pids) = peaks.pids {
        used.push(format!("{pids} of {} processes", conditions.pids));
    }
    let disk = [("outputs", peaks.outputs.unwrap_or_default()), ("scratch", peaks.scratch)];
    used.extend(disk.iter().filter(|(_, size)| size.files > 0).map(|(what, size)| {
        let files = if size.files == 1 { "1 file".to_owned() } else { format!("{} files", size.files) };
        format!("{what} {} in {files}", show_size(size.bytes))
    }));
    let time =
        conditions.time.map_or_else(String::new, |time| format!(" of {}", show_duration(Duration::from_secs(time))));
    let ended = format!("{} after {}{time}", report.ended, show_seconds(report.seconds));
    if used.is_empty() { ended } else { format!("{ended}; {}", used.join(", ")) }
}

/// What has changed since the last rehearsal, under its headings.
fn changes(report: &Report) -> Vec<(String, &[String])> {
    let Some(last) = &report.since_last else { return Vec::new() };
    let parts = [("MENDED SINCE THE LAST REHEARSAL", &last.mended), ("NEW SINCE THE LAST REHEARSAL", &last.new)];
    let told = parts.into_iter().filter(|(_, all)| !all.is_empty());
    told.map(|(heading, all)| (format!("{heading} ({})", last.ago), all.as_slice())).collect()
}

fn verdict(report: &Report) -> String {
    let counts = report.counts;
    let counts = [
        (counts.fails, "will fail"),
        (counts.lost, "will be lost"),
        (counts.missed, "wanted and not had"),
        (counts.harmless, "harmless"),
    ];
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let begin = match (report.ready, report.conditions.not_as_inside.is_empty()) {
        (true, true) => "READY",
        (true, false) => "READY, but for what is laxer here than inside",
        (false, _) => "NOT READY",
    };
    if counts.is_empty() { begin.to_owned() } else { format!("{begin}: {}", counts.join(", ")) }
}

fn who(finding: &Finding) -> String {
    let by: Vec<&str> = finding.by.iter().map(String::as_str).collect();
    let mut parts = Vec::new();
    if !by.is_empty() {
        parts.push(by.join(", "));
    }
    if finding.times > 1 && finding.kind != "lost" {
        parts.push(format!("{} times", finding.times));
    }
    let mut out =
        if parts.is_empty() { String::new() } else { format!("  [{}]", text::neutral_line(&parts.join(", "))) };
    if finding.probably_why {
        out.push_str("; probably why it ended");
    }
    out
}

fn notes(report: &Report) -> Vec<String> {
    let laxer = report.conditions.not_as_inside.iter().map(|what| format!("not as inside: {what}"));
    let unseen = report.not_seen.iter().map(|what| format!("not seen: {what}"));
    let mut notes: Vec<String> = laxer.chain(unseen).collect();
    if let Some(last) = report.since_last.as_ref().filter(|last| last.mended.is_empty() && last.new.is_empty()) {
        notes.push(format!("the same was found at the last rehearsal ({})", last.ago));
    }
    if report.exit != 0 {
        notes.push("a program stops at the first thing that it misses: rehearse again when that is mended".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests;
