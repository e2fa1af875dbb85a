//! Two stacks compared: what came, what went, what has another version.
//!
//! Takes two stacks and the order of versions; gives changes by type, name and place. A place that has the version in its name
//! (`requests-2.25.1.dist-info`) is the same place with another version in it. Trusts nothing; refuses nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::facts::split;
use super::package::{Finding, Package, PackageType, Stack};

/// Which of two versions of a type of packages is the later; none where that cannot be said.
pub type Order = fn(PackageType, &str, &str) -> Option<Ordering>;

/// How a package changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there before.
    New,
    /// It has a later version.
    Upgraded,
    /// It has an earlier version.
    Downgraded,
    /// It has another version, and nobody can say which is the later.
    Changed,
    /// It is not there any more.
    Gone,
}

/// A package that changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Changed {
    /// How.
    pub change: Change,
    /// Its type.
    pub kind: PackageType,
    /// Its name.
    pub name: String,
    /// The version before; none where it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The version now; none where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Where it is, or was.
    pub place: String,
    /// The distribution's package that owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// All that differs between two images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The manifest digest of the image before.
    pub from: String,
    /// Packages that changed.
    pub packages: Vec<Changed>,
    /// Packages that did not.
    pub unchanged: usize,
    /// What a reviewer looks at, and was not there.
    pub new_findings: Vec<Finding>,
    /// What was there, and is not any more.
    pub gone_findings: Vec<Finding>,
}

/// Type, name, place and architecture: what makes it the same package.
type Key<'a> = (PackageType, &'a str, String, Option<&'a str>);

/// What changed from `before` to `now`.
pub fn diff(before: &Stack, now: &Stack, order: Order) -> Diff {
    let mut old = by_key(before);
    let mut packages = Vec::new();
    let mut unchanged = 0;
    let mut new: BTreeMap<(PackageType, &str), Vec<&Package>> = BTreeMap::new();
    for (key, versions) in by_key(now) {
        let mut known = old.remove(&key).unwrap_or_default();
        let mut rest: Vec<&Package> = Vec::new();
        for package in versions {
            match known.iter().position(|other| other.version == package.version) {
                Some(at) => {
                    known.remove(at);
                    unchanged += 1;
                }
                None => rest.push(package),
            }
        }
        let pairs = known.len().min(rest.len());
        packages.extend(known.iter().zip(&rest).map(|(from, to)| changed(from, to, order)));
        for package in rest.into_iter().skip(pairs) {
            new.entry((package.kind, &package.name)).or_default().push(package);
        }
        if known.len() > pairs {
            old.insert(key, known.split_off(pairs));
        }
    }
    let mut gone: BTreeMap<(PackageType, &str), Vec<&Package>> = BTreeMap::new();
    for package in old.into_values().flatten() {
        gone.entry((package.kind, &package.name)).or_default().push(package);
    }
    // One that went from one place and came at another has moved.
    for (name, came) in new {
        let went = gone.remove(&name).unwrap_or_default();
        let pairs = if came.len() == went.len() { came.len() } else { 0 };
        for (from, to) in went.iter().zip(&came).take(pairs) {
            if from.version == to.version { unchanged += 1 } else { packages.push(changed(from, to, order)) }
        }
        packages.extend(came.iter().skip(pairs).map(|package| single(Change::New, package)));
        packages.extend(went.iter().skip(pairs).map(|package| single(Change::Gone, package)));
    }
    packages.extend(gone.into_values().flatten().map(|package| single(Change::Gone, package)));
    packages.sort();
    let same = |a: &Finding, b: &Finding| (a.kind, &a.place, &a.what) == (b.kind, &b.place, &b.what);
    let only = |of: &Stack, not: &Stack| -> Vec<Finding> {
        of.findings.iter().filter(|one| !not.findings.iter().any(|other| same(one, other))).cloned().collect()
    };
    let (new_findings, gone_findings) = (only(now, before), only(before, now));
    Diff { from: before.image.clone(), packages, unchanged, new_findings, gone_findings }
}

fn by_key(stack: &Stack) -> BTreeMap<Key<'_>, Vec<&Package>> {
    let mut all: BTreeMap<Key<'_>, Vec<&Package>> = BTreeMap::new();
    for package in &stack.packages {
        let key = (package.kind, package.name.as_str(), lasting_place(package), package.architecture.as_deref());
        all.entry(key).or_default().push(package);
    }
    all
}

/// The place without what changes with the version.
fn lasting_place(package: &Package) -> String {
    let (directory, _) = split(&package.place);
    match package.kind {
        PackageType::Deb | PackageType::Apk | PackageType::Rpm | PackageType::Alpm => String::new(),
        // `PREFIX/conda-meta`, `site-packages`, `specifications`.
        PackageType::Conda | PackageType::Gem => directory.to_owned(),
        PackageType::Pypi if directory.ends_with("-info") => split(directory).0.to_owned(),
        PackageType::Pypi => directory.to_owned(),
        _ if package.version.len() >= 3 => package.place.replace(&package.version, "*"),
        _ => package.place.clone(),
    }
}

fn single(change: Change, package: &Package) -> Changed {
    let version = Some(package.version.clone());
    let (from, to) = if change == Change::Gone { (version, None) } else { (None, version) };
    let (name, place, owner) = (package.name.clone(), package.place.clone(), package.owner.clone());
    Changed { change, kind: package.kind, name, from, to, place, owner }
}

fn changed(from: &Package, to: &Package, order: Order) -> Changed {
    let change = match order(to.kind, &from.version, &to.version) {
        Some(Ordering::Less) => Change::Upgraded,
        Some(Ordering::Greater) => Change::Downgraded,
        _ => Change::Changed,
    };
    Changed { change, from: Some(from.version.clone()), ..single(Change::New, to) }
}

/// The order of a type's versions: its own, else a natural one, also for versions that its own does not accept.
pub fn order(kind: PackageType, a: &str, b: &str) -> Option<Ordering> {
    super::version::Order::of(kind).and_then(|order| order.cmp(a, b)).or_else(|| natural(a, b))
}

/// An order for what has none of its own: numbers by their value, other characters by their bytes, `~` before
/// everything, as deb-version(7) has it.
fn natural(a: &str, b: &str) -> Option<Ordering> {
    let (epoch_a, a) = a.split_once(':').unwrap_or(("0", a));
    let (epoch_b, b) = b.split_once(':').unwrap_or(("0", b));
    let number = |text: &str| text.trim_start_matches('0').to_owned();
    let by_value = |a: &str, b: &str| {
        let (a, b) = (number(a), number(b));
        a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
    };
    let mut rest = (a, b);
    let mut so_far = by_value(epoch_a, epoch_b);
    while so_far == Ordering::Equal && rest != ("", "") {
        let run = |text: &str, digits: bool| text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
        let (words_a, after_a) = rest.0.split_at(run(rest.0, false));
        let (words_b, after_b) = rest.1.split_at(run(rest.1, false));
        let weight = |text: &str, at: usize| match text.as_bytes().get(at) {
            Some(b'~') => -1,
            None => 0,
            Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
            Some(byte) => i32::from(*byte) + 256,
        };
        let longest = words_a.len().max(words_b.len());
        let differs = |at: &usize| weight(words_a, *at) != weight(words_b, *at);
        if let Some(at) = (0..longest).find(differs) {
            return Some(weight(words_a, at).cmp(&weight(words_b, at)));
        }
        let (digits_a, after_a) = after_a.split_at(run(after_a, true));
        let (digits_b, after_b) = after_b.split_at(run(after_b, true));
        so_far = by_value(digits_a, digits_b);
        rest = (after_a, after_b);
    }
    Some(so_far)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::facts::package;
    use crate::stack::package::FindingKind;

    fn stack(packages: &[(PackageType, &str, &str, &str)]) -> Stack {
        let packages =
            packages.iter().map(|(kind, name, version, place)| package(*kind, name, version, place).unwrap());
        Stack { packages: packages.collect(), ..Stack::default() }
    }

    #[test]
    fn exactly_the_planted_changes_are_told() {
        use PackageType::{Deb, Npm, Pypi};
        let before = stack(&[
            (Deb, "bash", "5.2-1", "var/lib/dpkg/status"),
            (Deb, "dash", "0.5.12-2", "var/lib/dpkg/status"),
            (Pypi, "requests", "2.25.1", "v/site-packages/requests-2.25.1.dist-info/METADATA"),
            (Pypi, "onnx", "1.0", "v/site-packages/onnx-1.0.dist-info/METADATA"),
            (Pypi, "same", "1.0", "old/site-packages/same-1.0.dist-info/METADATA"),
            (Npm, "ms", "2.0.0", "a/node_modules/ms/package.json"),
            (Npm, "ms", "1.0.0", "a/node_modules/x/node_modules/ms/package.json"),
        ]);
        let now = stack(&[
            (Deb, "bash", "5.2-1", "var/lib/dpkg/status"),
            (Deb, "dash", "0.5.9-1", "var/lib/dpkg/status"),
            (Pypi, "requests", "2.32.3", "v/site-packages/requests-2.32.3.dist-info/METADATA"),
            (Pypi, "same", "1.0", "new/site-packages/same-1.0.dist-info/METADATA"),
            (Npm, "ms", "2.0.0", "a/node_modules/ms/package.json"),
            (Npm, "ms", "2.1.0", "a/node_modules/x/node_modules/ms/package.json"),
            (Npm, "tabula", "1.0.0", "a/node_modules/tabula/package.json"),
        ]);
        let found = diff(&before, &now, order);
        let told: Vec<_> = found.packages.iter().map(|c| (c.change, c.name.as_str())).collect();
        assert_eq!(
            told,
            [
                (Change::New, "tabula"),
                (Change::Upgraded, "requests"),
                (Change::Upgraded, "ms"),
                (Change::Downgraded, "dash"),
                (Change::Gone, "onnx"),
            ]
        );
        assert_eq!(found.unchanged, 3);
        assert!(diff(&now, &now, order).packages.is_empty());
    }

    #[test]
    fn findings_come_and_go() {
        let finding = |place: &str, layer| Finding {
            kind: FindingKind::Unowned,
            place: place.to_owned(),
            what: "program".to_owned(),
            layer: Some(layer),
            hidden: false,
        };
        let before = Stack { findings: vec![finding("a", 1), finding("b", 1)], ..Stack::default() };
        let now = Stack { findings: vec![finding("a", 2), finding("c", 2)], ..Stack::default() };
        let found = diff(&before, &now, order);
        assert_eq!((found.new_findings[0].place.as_str(), found.gone_findings[0].place.as_str()), ("c", "b"));
    }

    #[test]
    fn versions_have_a_natural_order() {
        let less = |a: &str, b: &str| natural(a, b) == Some(Ordering::Less);
        for (a, b) in
            [("1.2", "1.10"), ("1.0~rc1", "1.0"), ("9", "1:0"), ("1.0", "1.0a"), ("1.0", "1.0.1"), ("01", "2")]
        {
            assert!(less(a, b) && !less(b, a), "{a} {b}");
        }
        assert_eq!(natural("1.0", "1.00"), Some(Ordering::Equal));
    }
}
