//! A report in words: for a terminal, and as Markdown for a merge request.
//!
//! Takes a `Report`; gives text; trusts nothing in it: it goes through `crate::text` once more; refuses to be longer than a screen:
//! the JSON document has all.

use super::{Finding, Report, Verdict};
use crate::policy::units::show_size;
use crate::text;

/// How many findings of one verdict are told.
const MOST: usize = 8;
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
        out.push_str(&format!("\n{heading}\n"));
        // What needs nothing done is told shortly.
        let most = if of == Verdict::Harmless { 3 } else { MOST };
        for finding in all.iter().take(most) {
            out.push_str(&format!("  {}{}\n", text::neutral_line(&finding.what), who(finding)));
            if of != Verdict::Harmless {
                out.push_str(&format!("     do: {}\n", text::neutral_line(&finding.fix)));
            }
        }
        if all.len() > most {
            out.push_str(&format!("  and {} more (--json FILE has all)\n", all.len() - most));
        }
    }
    for note in notes(report) {
        out.push_str(&format!("\nnote: {}", text::neutral_line(&note)));
    }
    if !out.ends_with('\n') {
        out.push('\n');
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
    for note in notes(report) {
        out.push_str(&format!("\n> {}\n", safe(&note)));
    }
    out
}

fn how(report: &Report) -> String {
    let peak = report.peak_memory.map_or_else(String::new, |peak| {
        format!("; peak memory {} of {}", show_size(peak), show_size(report.conditions.memory))
    });
    format!("{} after {:.1} s{peak}", report.ended, report.seconds)
}

fn verdict(report: &Report) -> String {
    let counts = report.counts;
    let words = [
        (counts.fails, "will fail"),
        (counts.lost, "will be lost"),
        (counts.missed, "wanted and not had"),
        (counts.harmless, "harmless"),
    ];
    let words: Vec<String> = words.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let begin = match (report.ready, report.conditions.not_as_inside.is_empty()) {
        (true, true) => "READY",
        (true, false) => "READY, but for what is laxer here than inside",
        (false, _) => "NOT READY",
    };
    if words.is_empty() { begin.to_owned() } else { format!("{begin}: {}", words.join(", ")) }
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
    if report.exit != 0 {
        notes.push("a program stops at the first thing that it misses: rehearse again when that is mended".to_owned());
    }
    notes
}
