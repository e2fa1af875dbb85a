//! What the page of a stack says, whatever it is written in: FOR REVIEW first, then SINCE another image, then WHAT IS IN IT.
//!
//! Takes a stack, and perhaps what changed since another; gives headings and rows. All words from the image are as they are: who
//! writes them makes them harmless.

use std::collections::BTreeMap;

use super::super::diff::{Change, Diff};
use super::super::facts::split;
use super::super::owners::is_distribution;
use super::super::package::{Finding, FindingKind, LayerOrigin, Package, PackageType, Stack};

/// More findings than this in one directory are told as a number.
const SINGLE_MAX: usize = 6;

/// What of a stack is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    /// One type of packages alone.
    pub only: Option<PackageType>,
    /// Every package and every finding, a row each.
    pub all: bool,
}

/// A page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The heading.
    pub title: String,
    /// What it is about: digest, time, distribution.
    pub about: Vec<String>,
    /// Parts, in their order.
    pub sections: Vec<Section>,
}

/// A part of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What is said in it.
    pub items: Vec<Item>,
}

/// A line, and rows below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// The line.
    pub line: String,
    /// Rows of columns.
    pub rows: Vec<Vec<String>>,
    /// Whether the rows are many, and may be folded.
    pub long: bool,
}

/// The page of the stack of the image `name`, with what changed and what is known against it.
pub fn page(name: &str, stack: &Stack, (since, known): (Option<(&str, &Diff)>, Option<Section>), show: Show) -> Page {
    let mut page = Page { title: format!("Software stack of {name}"), ..Page::default() };
    page.about.push(stack.image.clone());
    // What an approval names, and what a later page of the same image is compared by.
    page.about.extend(stack.digest().map(|digest| format!("stack {digest}")));
    let distribution = stack.distribution.as_ref();
    let distribution = distribution.map_or("no distribution that names itself".to_owned(), |d| {
        d.pretty_name.clone().unwrap_or_else(|| format!("{} {}", d.id, d.version_id))
    });
    page.about.push(format!("{distribution}, {}", stack.platform));
    page.about.push(format!("pulled {}; listed by ces {} without running it", stack.pulled, env!("CARGO_PKG_VERSION")));
    if show.only.is_none() {
        page.sections.push(review(stack, show));
        page.sections.extend(known);
        page.sections.extend(since.map(|(name, diff)| changes(name, diff, stack)));
    }
    page.sections.push(content(stack, show));
    if show.only.is_none() {
        page.sections.push(layers(stack));
    }
    page
}

/// The name of a type, for people.
pub fn type_name(kind: PackageType) -> &'static str {
    match kind {
        PackageType::Deb => "Debian packages",
        PackageType::Apk => "Alpine packages",
        PackageType::Rpm => "RPM packages",
        PackageType::Alpm => "Arch packages",
        PackageType::Pypi => "Python",
        PackageType::Conda => "conda",
        PackageType::Cran => "R",
        PackageType::Julia => "Julia",
        PackageType::Npm => "JavaScript (npm)",
        PackageType::Gem => "Ruby (gems)",
        PackageType::Cpan => "Perl",
        PackageType::Octave => "Octave",
        PackageType::Maven => "Java",
        PackageType::Golang => "Go modules in programs",
        PackageType::Cargo => "Rust crates in programs",
        PackageType::Generic => "libraries of vendors",
        PackageType::Model => "files of models",
    }
}

fn review(stack: &Stack, show: Show) -> Section {
    let mut items = Vec::new();
    for (kind, what, why) in [
        (FindingKind::Unowned, "programs and libraries of no package", ""),
        (FindingKind::Replaced, "files of packages that were replaced without the package manager", ""),
        (FindingKind::Secret, "what looks like secrets", " (kind and place; whoever has the image has them)"),
        (FindingKind::Pickle, "pickles", ""),
        (FindingKind::BytecodeAlone, "compiled Python without its source", ""),
        (FindingKind::SetId, "set-user-ID and set-group-ID files", " (the bits have no effect in a run)"),
        (FindingKind::Capabilities, "files with capabilities", " (they have no effect in a run)"),
        (FindingKind::Device, "device nodes", " (they are not unpacked)"),
        (FindingKind::NotReadable, "not readable", ""),
    ] {
        let found: Vec<&Finding> = stack.findings.iter().filter(|finding| finding.kind == kind).collect();
        if found.is_empty() {
            continue;
        }
        let line = format!("{what}: {}{why}", found.len());
        items.push(Item { line, rows: findings(&found, stack, show.all), long: found.len() > 40 });
    }
    if items.is_empty() {
        items.push(line("nothing was found that stands out".to_owned()));
    }
    let entry = if stack.entry.is_empty() { "none".to_owned() } else { stack.entry.join(" ") };
    let user = if stack.user.is_empty() { "root, as no user is named" } else { &stack.user };
    items.push(line(format!("starts: {entry}")));
    items.push(line(format!("user: {user}")));
    Section { title: "For review".to_owned(), items }
}

fn line(line: String) -> Item {
    Item { line, ..Item::default() }
}

/// Rows of findings: place, what, layer. Many of one directory and layer become one.
fn findings(found: &[&Finding], stack: &Stack, all: bool) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(Option<usize>, &str, &str, bool), Vec<&Finding>> = BTreeMap::new();
    for finding in found {
        let directory = split(&finding.place).0;
        let key = (finding.layer, directory, finding.what.as_str(), finding.hidden);
        groups.entry(key).or_default().push(finding);
    }
    let mut rows = Vec::new();
    for ((layer, directory, what, hidden), group) in groups {
        let deleted = if hidden { ", deleted or replaced later" } else { "" };
        if group.len() > SINGLE_MAX && !all {
            rows.push(vec![
                format!("/{directory}/ ({})", group.len()),
                format!("{what}{deleted}"),
                origin(stack, layer),
            ]);
            continue;
        }
        for finding in group {
            let is_path = !finding.place.is_empty() && !finding.place.starts_with("Env ") && finding.place != "History";
            let place = if is_path { format!("/{}", finding.place) } else { finding.place.clone() };
            rows.push(vec![place, format!("{what}{deleted}"), origin(stack, layer)]);
        }
    }
    rows
}

/// Which layer, and what made it, in short.
fn origin(stack: &Stack, layer: Option<usize>) -> String {
    let Some(layer) = layer else { return "configuration".to_owned() };
    let line = stack.layers.get(layer).and_then(|origin| origin.created_by.as_deref()).unwrap_or_default();
    let short: String = line.chars().take(80).collect();
    let more = if short.len() < line.len() { "…" } else { "" };
    if short.is_empty() { format!("layer {}", layer + 1) } else { format!("layer {}: {short}{more}", layer + 1) }
}

fn changes(name: &str, diff: &Diff, stack: &Stack) -> Section {
    let mut items = Vec::new();
    for (change, what) in [
        (Change::Downgraded, "downgraded"),
        (Change::New, "new"),
        (Change::Upgraded, "upgraded"),
        (Change::Changed, "another version"),
        (Change::Gone, "gone"),
    ] {
        let of = diff.packages.iter().filter(|changed| changed.change == change);
        let rows: Vec<Vec<String>> = of
            .map(|changed| {
                let versions = match (&changed.from, &changed.to) {
                    (Some(from), Some(to)) => format!("{from} → {to}"),
                    (one, other) => one.clone().or_else(|| other.clone()).unwrap_or_default(),
                };
                vec![changed.name.clone(), versions, type_name(changed.kind).to_owned(), format!("/{}", changed.place)]
            })
            .collect();
        if !rows.is_empty() {
            items.push(Item { line: format!("{what}: {}", rows.len()), long: rows.len() > 40, rows });
        }
    }
    for (of, what) in [(&diff.new_findings, "new for review"), (&diff.gone_findings, "no longer for review")] {
        if !of.is_empty() {
            let found: Vec<&Finding> = of.iter().collect();
            items.push(Item {
                line: format!("{what}: {}", of.len()),
                rows: findings(&found, stack, false),
                long: false,
            });
        }
    }
    items.push(line(format!("unchanged: {} packages", diff.unchanged)));
    Section { title: format!("Since {name} ({})", diff.from), items }
}

fn content(stack: &Stack, show: Show) -> Section {
    let mut types: BTreeMap<PackageType, Vec<&Package>> = BTreeMap::new();
    for package in stack.packages.iter().filter(|package| show.only.is_none_or(|only| only == package.kind)) {
        types.entry(package.kind).or_default().push(package);
    }
    let mut items = Vec::new();
    for (kind, packages) in &types {
        let owned = packages.iter().filter(|package| package.owner.is_some()).count();
        let own = packages.len() - owned;
        let more = if owned > 0 {
            format!(", and {owned} that packages of the distribution have brought")
        } else {
            String::new()
        };
        let is_long = is_distribution(*kind) && !show.all && show.only.is_none();
        let shown = packages.iter().filter(|package| show.all || show.only.is_some() || package.owner.is_none());
        let rows: Vec<Vec<String>> = shown.map(|package| row(package, stack)).collect();
        // The list of a distribution's packages is long and seldom read: a page that can fold has it all the same.
        items.push(Item { line: format!("{}: {own}{more}", type_name(*kind)), rows, long: is_long });
    }
    if items.is_empty() {
        items.push(line("no package that is known".to_owned()));
    }
    Section { title: "What is in it".to_owned(), items }
}

fn row(package: &Package, stack: &Stack) -> Vec<String> {
    let mut version = package.version.clone();
    if package.unjudged {
        version.push_str(" (not a release)");
    }
    let place = match (&package.owner, is_distribution(package.kind)) {
        (Some(owner), _) => format!("of package {owner}"),
        (None, true) => String::new(),
        (None, false) => format!("/{}", package.place),
    };
    let layer = if stack.layers.len() > 1 { format!("layer {}", package.layer + 1) } else { String::new() };
    vec![package.name.clone(), version, package.licence.clone().unwrap_or_default(), layer, place]
}

fn layers(stack: &Stack) -> Section {
    let untold = stack.layers.iter().all(|layer| layer.created_by.is_none());
    let mut items = Vec::new();
    if untold {
        items.push(line("the history does not tell what made which layer".to_owned()));
    }
    let rows = stack.layers.iter().enumerate().map(|(at, LayerOrigin { diff_id, created_by })| {
        let short = diff_id.get(..19).unwrap_or(diff_id).to_owned();
        vec![format!("{}", at + 1), short, created_by.clone().unwrap_or_default()]
    });
    items.push(Item { line: format!("layers: {}", stack.layers.len()), rows: rows.collect(), long: false });
    Section { title: "How it was made".to_owned(), items }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_of_one_directory_are_one_row() {
        let finding = |place: String| Finding {
            kind: FindingKind::Unowned,
            place,
            what: "library".to_owned(),
            layer: Some(0),
            hidden: false,
        };
        let findings = (0..10).map(|n| finding(format!("usr/lib/x/{n}.so"))).chain([finding("opt/a".to_owned())]);
        let layers = vec![LayerOrigin { diff_id: "sha256:1".to_owned(), created_by: Some("RUN make".to_owned()) }];
        let stack = Stack { findings: findings.collect(), layers, ..Stack::default() };
        let rows = |all| page("x", &stack, (None, None), Show { all, only: None }).sections[0].items[0].rows.clone();
        assert_eq!(
            rows(false),
            [["/opt/a", "library", "layer 1: RUN make"], ["/usr/lib/x/ (10)", "library", "layer 1: RUN make"]]
        );
        assert_eq!(rows(true).len(), 11);
    }
}
