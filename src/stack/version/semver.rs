//! The order of Semantic Versioning 2.0.0 (clause 11), and Go's use of it (<https://go.dev/ref/mod#versions>).
//!
//! Takes `major[.minor[.patch]][-prerelease][+build]`, with or without `v`: advisories leave numbers out. Build metadata has no
//! say. Go's own versions (`go1.21rc2`, `go1.22.3 X:boringcrypto`) are read as Go's vulnerability database writes them.

use std::cmp::Ordering;

use super::{is_number, number, take};

struct Version<'v> {
    numbers: [&'v str; 3],
    prerelease: Vec<&'v str>,
}

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    Some(compare(&parse(a)?, &parse(b)?))
}

/// The same for Go modules, Go's standard library and its tools.
pub fn cmp_go(a: &str, b: &str) -> Option<Ordering> {
    Some(compare(&parse_go(a)?, &parse_go(b)?))
}

fn compare(a: &Version<'_>, b: &Version<'_>) -> Ordering {
    let numbers = a.numbers.iter().zip(&b.numbers).map(|(a, b)| number(a, b)).find(|later| later.is_ne());
    numbers.unwrap_or_else(|| match (a.prerelease.is_empty(), b.prerelease.is_empty()) {
        // A release comes after its pre-releases.
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => prerelease(&a.prerelease, &b.prerelease),
    })
}

fn prerelease(a: &[&str], b: &[&str]) -> Ordering {
    let identifier = |(a, b): (&&str, &&str)| match (is_number(a), is_number(b)) {
        (true, true) => number(a, b),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    };
    let place = a.iter().zip(b).map(identifier).find(|later| later.is_ne());
    place.unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn parse(text: &str) -> Option<Version<'_>> {
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let identifiers = |text: &'_ str| {
        text.split('.')
            .all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
    };
    if !pre.is_none_or(identifiers) || !build.is_none_or(identifiers) {
        return None;
    }
    Some(Version {
        numbers: core_numbers(core)?,
        prerelease: pre.map_or_else(Vec::new, |pre| pre.split('.').collect()),
    })
}

fn core_numbers(core: &str) -> Option<[&str; 3]> {
    let mut numbers = ["0"; 3];
    let mut places = numbers.iter_mut();
    for part in core.split('.') {
        *places.next()? = Some(part).filter(|part| is_number(part))?;
    }
    Some(numbers)
}

fn parse_go(text: &str) -> Option<Version<'_>> {
    // What follows a blank names experiments and forks: `runtime/debug.BuildInfo.GoVersion`.
    let text = text.split(' ').next()?;
    let own = text.strip_prefix("go").unwrap_or(text);
    let (core, rest) = take(own, |c| c.is_ascii_digit() || c == '.');
    // `1.21rc2` is `1.21.0-rc.2`.
    let (word, count) = take(rest, |c| c.is_ascii_alphabetic());
    if matches!(word, "rc" | "beta" | "alpha") && is_number(count) {
        return Some(Version { numbers: core_numbers(core)?, prerelease: vec![word, count] });
    }
    parse(own)
}
