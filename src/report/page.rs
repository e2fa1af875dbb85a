//! The page of one run, for whoever checks its outputs: first how many files want what, and what was not looked at; then what the
//! run was; then the files, the worst first, each with its reasons.
//!
//! Takes facts as texts, and a report of the pre-check; gives the document; trusts nothing in them; refuses nothing.

use std::collections::BTreeMap;

use super::html::Html;
use super::style::{STYLE, list};
use crate::precheck::look::Name;
use crate::precheck::report::{File, Report};
use crate::precheck::rules::Level;

/// What the page says of a run.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The run.
    pub id: String,
    /// What it was, each with what it is about.
    pub about: Vec<(String, String)>,
    /// What could not be enforced, and other warnings.
    pub warnings: Vec<String>,
    /// Whether the outputs are as they were when the run ended, in words.
    pub unchanged: String,
    /// SHA-256 of files, as the list of outputs has them.
    pub sha256: BTreeMap<Name, String>,
}

/// The page.
pub fn page(facts: &Facts, report: &Report) -> String {
    let mut page = Html::new(&format!("Run {}", facts.id), STYLE);
    page.element("h1", |page| {
        page.text("Outputs of run ");
        page.say("code", &facts.id);
    });
    let counts = report.summary;
    page.with_class("p", "counts", |page| {
        let files = if counts.files == 1 { "file" } else { "files" };
        page.say(
            "strong",
            &format!(
                "{} {files}: {} block, {} review, {} note, {} nothing found.",
                counts.files, counts.block, counts.review, counts.note, counts.nothing
            ),
        );
        page.text(" Nothing here says that a file is safe; a person decides.");
    });
    page.with_class("div", "aside", |page| {
        page.say("p", "Not looked at:");
        list(page, &report.not_looked_at);
    });
    page.line();
    page.say("h2", "The run");
    table_of(page_facts(facts, report), &mut page);
    if !facts.warnings.is_empty() {
        page.say("h2", "Warnings of the run");
        list(&mut page, &facts.warnings);
    }
    page.say("h2", "Files, the worst first");
    page.element("table", |page| {
        page.element("thead", |page| {
            page.element("tr", |page| {
                ["", "File", "What it is", "What was found", "SHA-256"].iter().for_each(|head| page.say("th", head));
            });
        });
        page.element("tbody", |page| {
            for file in report.worst_first() {
                page.line();
                row(page, file, facts.sha256.get(&file.looked.name));
            }
        });
    });
    if report.more > 0 {
        page.say("p", &format!("and {} more entries, which are counted above.", report.more));
    }
    page.line();
    page.say(
        "p",
        &format!("{}, {}. Rules {}, sha256 {}.", report.by, report.at, report.rules.version, report.rules.sha256),
    );
    page.end()
}

fn page_facts<'a>(facts: &'a Facts, report: &'a Report) -> Vec<(&'a str, &'a str)> {
    let mut rows: Vec<(&str, &str)> = facts.about.iter().map(|(about, text)| (about.as_str(), text.as_str())).collect();
    rows.push(("outputs", &report.directory));
    rows.push(("since the run ended", &facts.unchanged));
    rows
}

fn table_of(rows: Vec<(&str, &str)>, page: &mut Html) {
    page.with_class("table", "facts", |page| {
        for (about, text) in rows {
            page.line();
            page.element("tr", |page| {
                page.say("th", about);
                page.say("td", text);
            });
        }
    });
}

fn row(page: &mut Html, file: &File, sha256: Option<&String>) {
    let class = match file.looked.findings.iter().map(|finding| finding.level).min() {
        Some(Level::Block) => "block",
        Some(Level::Review) => "review",
        Some(Level::Note) | None => "",
    };
    page.with_class("tr", class, |page| {
        page.with_class("td", "verdict", |page| page.text(file.verdict));
        page.element("td", |page| page.say("code", &file.looked.name.shown()));
        page.element("td", |page| {
            page.text(&what(file));
            if let Some(table) = file.looked.table.as_ref().filter(|table| !table.header.is_empty()) {
                page.say("div", &format!("columns: {}", table.header.join(", ")));
            }
        });
        page.element("td", |page| {
            let found: Vec<String> = file.looked.findings.iter().map(|finding| finding.because.clone()).collect();
            if !found.is_empty() {
                list(page, &found);
            }
        });
        page.element("td", |page| page.say("code", sha256.map_or("-", String::as_str)));
    });
}

/// What a file is, in a few words.
fn what(file: &File) -> String {
    let size = file.looked.size.map_or_else(String::new, |size| format!(", {size} bytes"));
    let table = file.looked.table.as_ref();
    let table = table.map_or_else(String::new, |table| format!(", {} rows × {} columns", table.rows, table.columns));
    format!("{}{size}{table}", file.looked.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::look::{self, Stat};
    use crate::precheck::rules::{Rules, Site};
    use crate::report::html::tests::every_element_ends;

    fn sample(name: &str, text: &[u8]) -> String {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut report =
            Report::new(Some("id".to_owned()), "/home/a/outputs".to_owned(), &rules, Site::default(), "now".to_owned());
        report.add(look::file(b"good.csv", Stat { size: 12, names: 1, executable: false }, b"sex,n\nF,263\n", &rules));
        let stat = Stat { size: u64::try_from(text.len()).unwrap(), names: 1, executable: false };
        report.add(look::file(name.as_bytes(), stat, text, &rules));
        let hostile = "<script>alert(1)</script>\u{1b}[31m\u{202e}\" onload='x'";
        let facts = Facts {
            id: "20261130T062025-fa960a".to_owned(),
            about: vec![("image".to_owned(), hostile.to_owned())],
            warnings: vec![hostile.to_owned()],
            unchanged: "unchanged".to_owned(),
            sha256: [(Name::new(b"good.csv"), "ab".repeat(32))].into(),
        };
        page(&facts, &report)
    }

    #[test]
    fn whatever_a_run_and_its_outputs_say_is_text_and_the_worst_comes_first() {
        let name = "<img src=x onerror=alert(1)>.csv";
        let page = sample(name, b"<script>alert(2)</script>,nhs_number\n<b>,9434765919\n");
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>"), "{page}");
        assert!(!page.contains(['\u{1b}', '\u{202e}']) && page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.find("onerror=alert").unwrap() < page.find("good.csv").unwrap(), "{page}");
        assert!(
            page.contains("1 block, 0 review, 0 note, 1 nothing found.") && page.contains(&"ab".repeat(32)),
            "{page}"
        );
        // Every element that begins ends, and there are no others than these.
        every_element_ends(&page);
    }

    #[test]
    fn a_browser_may_load_nothing_and_apply_only_the_style_that_is_there() {
        let page = sample("a.csv", b"x");
        let policy = page.split("Content-Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("-inline") && !policy.contains("-eval"), "{policy}");
        let at = page.find("Content-Security-Policy").unwrap();
        assert!(page.find("<style>").unwrap() > at && page.find("<title>").unwrap() > at, "the policy comes first");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "{page}");
    }
}
