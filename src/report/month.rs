//! The page of a month: who ran what on which data, what it used, what was refused, decided and exported, and which approvals end.
//!
//! Takes facts as texts and numbers; gives the document; trusts nothing in them; refuses nothing. What there is too much of is counted.

use std::collections::{BTreeMap, BTreeSet};

use super::html::Html;
use super::style::{STYLE, list};
use crate::policy::units::show_size;

/// So many rows a table has at most.
const ROWS: usize = 5_000;

/// A run of the month.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Login name of the researcher.
    pub researcher: String,
    /// The project.
    pub project: String,
    /// The image's reference.
    pub image: String,
    /// Digest of the image's manifest.
    pub digest: String,
    /// `ro` or `rw`; empty: its record tells nothing.
    pub access: String,
    /// When it began.
    pub started: String,
    /// How it ended, in a word or a few.
    pub ended: String,
    /// Whether it ran and ended with another status than 0, or was interrupted.
    pub failed: bool,
    /// Nothing of it ran.
    pub refused: bool,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Highest memory use in bytes.
    pub memory: u64,
    /// Bytes that it left.
    pub left: u64,
    /// How many warnings its record has.
    pub warnings: usize,
}

/// Something that the audit log tells of.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// When.
    pub time: String,
    /// Who.
    pub who: String,
    /// For which project; empty: it names none.
    pub project: String,
    /// What, in words.
    pub what: String,
}

/// An approval that ends.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// Its last day.
    pub last: String,
    /// For which projects.
    pub projects: String,
    /// The image's name.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// Who approved it.
    pub approver: String,
}

/// All that the page says.
#[derive(Debug, Clone, Default)]
pub struct Month {
    /// Which one, `2026-11`.
    pub month: String,
    /// The project, if it is one alone.
    pub project: Option<String>,
    /// The site's name, where the policy has one.
    pub site: Option<String>,
    /// Whose runs they are, in words.
    pub whose: String,
    /// Its runs.
    pub runs: Vec<Run>,
    /// What was refused.
    pub refusals: Vec<Told>,
    /// What was asked for and decided about images.
    pub decisions: Vec<Told>,
    /// What was exported.
    pub exports: Vec<Told>,
    /// Which approvals end; none: whoever asks may not see them, or images are not approved one by one.
    pub ending: Option<Vec<Ending>>,
    /// What the page does not have, in words.
    pub lacks: Vec<String>,
    /// When and by which program it was made.
    pub made: String,
}

/// The page.
pub fn page(month: &Month) -> String {
    let of = month.project.as_ref().map_or_else(String::new, |project| format!(", project {project}"));
    let title = format!("{}{of}", month.month);
    let mut page = Html::new(&title, STYLE);
    page.element("h1", |page| {
        page.text("Runs of ");
        page.text(&title);
        page.text(&month.site.as_ref().map_or_else(String::new, |site| format!(" in {site}")));
    });
    page.with_class("p", "counts", |page| page.say("strong", &counts(month)));
    page.say("p", &month.whose);
    if !month.lacks.is_empty() {
        page.with_class("div", "aside", |page| {
            page.say("p", "Not in this page:");
            list(page, &month.lacks);
        });
    }
    groups(&mut page, &month.runs);
    let refused = month.refusals.as_slice();
    told(&mut page, "What was refused", "Nothing was refused.", refused);
    told(&mut page, "Requests and decisions about images", "There were none.", &month.decisions);
    told(&mut page, "What was exported", "Nothing was exported with ces.", &month.exports);
    if let Some(ending) = &month.ending {
        let rows = ending
            .iter()
            .map(|e| vec![e.last.clone(), e.projects.clone(), named(&e.image, &e.digest), e.approver.clone()]);
        let title = ("Approvals that end by thirty days after this month", "None does.");
        table(&mut page, title, &["last day", "projects", "image", "approved by"], &rows.collect::<Vec<_>>(), &[]);
    }
    runs(&mut page, &month.runs);
    page.line();
    page.say("p", &month.made);
    page.end()
}

fn counts(month: &Month) -> String {
    let runs = &month.runs;
    let count = |of: fn(&Run) -> bool| runs.iter().filter(|run| of(run)).count();
    let (failed, refused) = (count(|run| run.failed), count(|run| run.refused));
    let people: BTreeSet<&str> = runs.iter().map(|run| run.researcher.as_str()).collect();
    let hours: f64 = runs.iter().map(|run| run.seconds).sum::<f64>() / 3600.0;
    let counted = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    format!(
        "{} by {}, {hours:.1} hours; {failed} failed, {refused} refused before their start. {}, {}.",
        counted(runs.len(), "run", "runs"),
        counted(people.len(), "researcher", "researchers"),
        counted(month.refusals.len(), "refusal", "refusals"),
        counted(month.exports.len(), "export", "exports"),
    )
}

/// What runs of one researcher, project, image and access have in common.
#[derive(Debug, Default)]
struct Group {
    runs: u64,
    failed: u64,
    seconds: f64,
    memory: u64,
    left: u64,
    warnings: usize,
}

fn groups(page: &mut Html, runs: &[Run]) {
    let mut groups: BTreeMap<[&str; 5], Group> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.refused) {
        let key = [&run.project, &run.researcher, &run.image, &run.digest, &run.access].map(String::as_str);
        let group = groups.entry(key).or_default();
        group.runs += 1;
        group.failed += u64::from(run.failed);
        group.seconds += run.seconds;
        group.memory = group.memory.max(run.memory);
        group.left = group.left.saturating_add(run.left);
        group.warnings += run.warnings;
    }
    let rows = groups.iter().map(|([project, who, image, digest, access], group)| {
        vec![
            (*project).to_owned(),
            (*who).to_owned(),
            named(image, digest),
            data(access).to_owned(),
            group.runs.to_string(),
            group.failed.to_string(),
            format!("{:.2}", group.seconds / 3600.0),
            show_size(group.memory),
            show_size(group.left),
            group.warnings.to_string(),
        ]
    });
    let head = [
        "project",
        "researcher",
        "image",
        "safe data",
        "runs",
        "failed",
        "hours",
        "most memory",
        "left behind",
        "warnings",
    ];
    let title = ("Who ran what on which data", "Nothing ran.");
    table(page, title, &head, &rows.collect::<Vec<_>>(), &[4, 5, 6, 7, 8, 9]);
}

fn runs(page: &mut Html, runs: &[Run]) {
    let rows = runs.iter().map(|run| {
        let seconds = if run.refused { "-".to_owned() } else { format!("{:.1}", run.seconds) };
        vec![
            moment(&run.started),
            run.id.clone(),
            run.researcher.clone(),
            run.image.clone(),
            seconds,
            run.ended.clone(),
        ]
    });
    let head = ["began", "run", "researcher", "image", "seconds", "ended"];
    table(page, ("Every run", "There were none."), &head, &rows.collect::<Vec<_>>(), &[4]);
}

fn told(page: &mut Html, title: &str, none: &str, lines: &[Told]) {
    let rows =
        lines.iter().map(|told| vec![moment(&told.time), told.who.clone(), told.project.clone(), told.what.clone()]);
    table(page, (title, none), &["when", "who", "project", "what"], &rows.collect::<Vec<_>>(), &[]);
}

/// A heading with a table of texts, with numbers in the columns `numbers`; or the sentence that there is nothing.
fn table(page: &mut Html, (title, none): (&str, &str), head: &[&str], rows: &[Vec<String>], numbers: &[usize]) {
    page.line();
    page.say("h2", title);
    if rows.is_empty() {
        return page.say("p", none);
    }
    let class = |at: usize| if numbers.contains(&at) { "number" } else { "" };
    // Its first column is a name, a day or a moment, which is read at a glance.
    let first = if head.first().is_some_and(|head| ["when", "began", "last day"].contains(head)) { "when" } else { "" };
    page.element("table", |page| {
        page.element("thead", |page| {
            page.element("tr", |page| {
                head.iter().enumerate().for_each(|(at, text)| page.with_class("th", class(at), |page| page.text(text)));
            });
        });
        page.element("tbody", |page| {
            for row in rows.iter().take(ROWS) {
                page.line();
                page.element("tr", |page| {
                    row.iter().enumerate().for_each(|(at, text)| {
                        page.with_class("td", if at == 0 { first } else { class(at) }, |page| page.text(text))
                    });
                });
            }
        });
    });
    if rows.len() > ROWS {
        page.say("p", &format!("and {} more, which are counted above.", rows.len() - ROWS));
    }
}

/// An image's name, and enough of its digest to tell it from another of that name.
fn named(image: &str, digest: &str) -> String {
    let short: String = digest.chars().take(19).collect();
    if short.is_empty() { image.to_owned() } else { format!("{image} ({short})") }
}

/// A moment to the minute, as people write it.
fn moment(time: &str) -> String {
    time.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

fn data(access: &str) -> &str {
    match access {
        "ro" => "read-only",
        "rw" => "read and write",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::html::tests::every_element_ends;

    fn run(researcher: &str, failed: bool) -> Run {
        Run { researcher: researcher.to_owned(), image: "a/b:1".to_owned(), failed, seconds: 1800.0, ..Run::default() }
    }

    #[test]
    fn whatever_is_told_is_text_and_nothing_is_loaded_or_executed() {
        let hostile = "<script>alert(1)</script>\u{1b}[31m\u{202e}\" onload='x'".to_owned();
        let told =
            vec![Told { time: hostile.clone(), who: hostile.clone(), project: hostile.clone(), what: hostile.clone() }];
        let month = Month {
            month: "2026-11".to_owned(),
            project: Some(hostile.clone()),
            site: Some(hostile.clone()),
            runs: vec![Run {
                id: hostile.clone(),
                access: hostile.clone(),
                ended: hostile.clone(),
                ..run(&hostile, true)
            }],
            refusals: told.clone(),
            decisions: told.clone(),
            exports: told,
            ending: Some(vec![Ending { image: hostile.clone(), approver: hostile.clone(), ..Ending::default() }]),
            lacks: vec![hostile],
            ..Month::default()
        };
        let page = page(&month);
        assert!(!page.contains("<script") && !page.contains(['\u{1b}', '\u{202e}']) && !page.contains("://"), "{page}");
        assert!(page.contains("default-src 'none'; style-src 'sha256-") && !page.contains("onload='"), "{page}");
        every_element_ends(&page);
    }

    #[test]
    fn runs_are_counted_by_researcher_and_image_and_no_table_is_endless() {
        let mut runs = vec![run("ann", false), run("ann", true), run("bob", false)];
        runs.push(Run { refused: true, ended: "refused".to_owned(), seconds: 0.0, ..run("bob", false) });
        let month = Month { runs, ending: None, ..Month::default() };
        let text = page(&month);
        assert!(text.contains("4 runs by 2 researchers, 1.5 hours; 1 failed, 1 refused before their start."), "{text}");
        assert!(text.contains("<td>ann</td><td>a/b:1</td><td></td><td class=\"number\">2</td><td class=\"number\">1</td><td class=\"number\">1.00</td>"), "{text}");
        assert!(text.contains("Nothing was refused.") && !text.contains("Approvals that end"), "{text}");
        let many = Month { runs: vec![run("ann", false); ROWS + 7], ..Month::default() };
        assert!(page(&many).contains("and 7 more, which are counted above."));
    }
}
