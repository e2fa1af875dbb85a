//! What is known against a stack, as a part of its page: vulnerabilities with what to do, what was not judged, and the age of each source.
//!
//! Takes a verdict and the rules that it breaks; gives a section. Words of the image and of the sources are as they are: who writes
//! them makes them harmless.

use super::super::package::Stack;
use super::super::rules::{Action, Breach};
use super::super::verdict::{Known, State, Verdict};
use super::super::vulndb::record::Class;
use super::page::{Item, Section, type_name};

/// So many vulnerabilities are shown where not all are asked for: the worst.
const SHOWN: usize = 20;

/// The section.
pub fn section(stack: &Stack, verdict: &Verdict, breaches: &[Breach], all: bool) -> Section {
    let mut items = Vec::new();
    // What refuses it first.
    let refused = |breach: &&Breach| breach.action == Action::Refuse;
    for breach in breaches.iter().filter(refused).chain(breaches.iter().filter(|breach| !refused(breach))) {
        let word = if breach.action == Action::Refuse { "REFUSED" } else { "remark" };
        items.push(line(format!("{word} by images.stack.{}: {}", breach.rule, breach.what)));
    }
    let open: Vec<&Known> = verdict.known.iter().filter(|known| !known.waived).collect();
    let most = if all { usize::MAX } else { SHOWN };
    let count = |class| open.iter().filter(|known| known.class == class).count();
    let (malicious, vulnerable) = (count(Class::Malicious), count(Class::Vulnerability));
    items.push(Item {
        line: format!(
            "malicious packages: {malicious}; vulnerabilities: {vulnerable}; waived: {}; fixed in the versions that are here: {}",
            verdict.known.len() - open.len(),
            verdict.fixed
        ),
        rows: open.iter().take(most).map(|known| row(stack, known)).collect(),
        long: false,
    });
    if open.len() > most {
        items.push(line(format!("{} more: --all lists them, --format json has all that is known", open.len() - most)));
    }
    let waived: Vec<&Known> = verdict.known.iter().filter(|known| known.waived).collect();
    if !waived.is_empty() {
        let rows = waived.iter().map(|known| row(stack, known)).collect();
        items.push(Item { line: "waived, by the site's documents:".to_owned(), rows, long: false });
    }
    let packages: usize = verdict.unjudged.iter().map(|unjudged| unjudged.packages.len()).sum();
    let rows = verdict.unjudged.iter().map(|unjudged| vec![unjudged.packages.len().to_string(), unjudged.why.clone()]);
    items.push(Item {
        line: format!("judged: {} packages; not judged: {packages}", verdict.judged),
        rows: rows.collect(),
        long: false,
    });
    let rows = verdict.sources.iter().map(|used| {
        let mut row = vec![used.name.clone(), format!("{} days old", used.days)];
        if used.unreadable > 0 {
            row.push(format!("{} records could not be read", used.unreadable));
        }
        row
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let line = if rows.is_empty() {
        "no vulnerability data was imported: ces vulndb import FILE…"
    } else {
        "by the data of:"
    };
    items.push(Item { line: line.to_owned(), rows, long: false });
    Section { title: "Known vulnerabilities".to_owned(), items }
}

fn line(line: String) -> Item {
    Item { line, ..Item::default() }
}

/// Name, severity, packages, what to do, and in words.
fn row(stack: &Stack, known: &Known) -> Vec<String> {
    let mut packages = known.packages.iter().filter_map(|at| stack.packages.get(*at));
    let first = packages.next();
    let name = first.map_or_else(String::new, |package| {
        format!("{} {} ({})", package.name, package.version, type_name(package.kind))
    });
    let more = packages.count();
    let state = match (known.state, &known.fix) {
        (State::FixAvailable, Some(fix)) => format!("fixed in {fix}"),
        (State::FixAvailable, None) => "a fix is there".to_owned(),
        (State::NoFix, _) => "no fix".to_owned(),
        (State::DistributionIgnores, _) => "the distribution will not fix it".to_owned(),
        (State::DistributionUnimportant, _) => "unimportant, says the distribution".to_owned(),
        (State::EndOfLife, _) => "the package is no longer supported".to_owned(),
        (State::NotComparable, _) => "the version cannot be compared".to_owned(),
    };
    let packages = if more == 0 { name } else { format!("{name} and {more} more") };
    vec![known.id.clone(), known.severity.name().to_owned(), packages, state]
}
