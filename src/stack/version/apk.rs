//! The order of Alpine's versions: apk-package(5), `src/version.c` of apk-tools 3.
//!
//! Takes `number{.number}[letter]{_suffix[number]}[~hash][-rnumber]`; refuses everything else. (`apk` itself orders invalid
//! versions too, and has done it in another way from release to release.)

use std::cmp::Ordering;

use super::{is_number, number, take};

struct Version<'v> {
    numbers: Vec<&'v str>,
    letter: Option<char>,
    suffixes: Vec<(i8, &'v str)>,
    hash: Option<&'v str>,
    revision: Option<&'v str>,
}

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (parse(a)?, parse(b)?);
    let numbers = || longest(&a.numbers, &b.numbers, |at, a, b| component(at, a, b), |_| Ordering::Greater);
    let suffixes = || {
        longest(
            &a.suffixes,
            &b.suffixes,
            |_, a, b| a.0.cmp(&b.0).then_with(|| number(a.1, b.1)),
            // Before a release or after it.
            |suffix| suffix.0.cmp(&0),
        )
    };
    let later = numbers().then_with(|| a.letter.cmp(&b.letter)).then_with(suffixes);
    let revision = |version: &Version<'_>| version.revision.map(|digits| digits.trim_start_matches('0').to_owned());
    let (revision_a, revision_b) = (revision(&a).unwrap_or_default(), revision(&b).unwrap_or_default());
    Some(later.then_with(|| a.hash.cmp(&b.hash)).then_with(|| number(&revision_a, &revision_b)))
}

/// Compares two lists place by place; `alone` says what it means that one of them goes on.
fn longest<T>(a: &[T], b: &[T], both: impl Fn(usize, &T, &T) -> Ordering, alone: impl Fn(&T) -> Ordering) -> Ordering {
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        let later = both(at, a, b);
        if later.is_ne() {
            return later;
        }
    }
    match (a.get(b.len()), b.get(a.len())) {
        (Some(more), _) => alone(more),
        (None, Some(more)) => alone(more).reverse(),
        (None, None) => Ordering::Equal,
    }
}

/// A number with a zero before it is read like what follows a decimal point: 1.01 comes before 1.1.
fn component(at: usize, a: &str, b: &str) -> Ordering {
    if at > 0 && (a.starts_with('0') || b.starts_with('0')) { a.cmp(b) } else { number(a, b) }
}

fn parse(text: &str) -> Option<Version<'_>> {
    let mut version = Version { numbers: Vec::new(), letter: None, suffixes: Vec::new(), hash: None, revision: None };
    let mut rest = text;
    loop {
        let (digits, after) = take(rest, |c| c.is_ascii_digit());
        if digits.is_empty() {
            return None;
        }
        version.numbers.push(digits);
        rest = after;
        match rest.strip_prefix('.') {
            Some(after) => rest = after,
            None => break,
        }
    }
    if let Some(letter) = rest.chars().next().filter(char::is_ascii_lowercase) {
        version.letter = Some(letter);
        rest = rest.strip_prefix(letter)?;
    }
    while let Some(after) = rest.strip_prefix('_') {
        let (name, after) = take(after, |c| c.is_ascii_lowercase());
        let (digits, after) = take(after, |c| c.is_ascii_digit());
        version.suffixes.push((suffix(name)?, digits));
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('~') {
        let (hash, after) = take(after, |c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        version.hash = Some(hash).filter(|hash| !hash.is_empty());
        version.hash?;
        rest = after;
    }
    if let Some(after) = rest.strip_prefix("-r") {
        version.revision = Some(after).filter(|after| is_number(after));
        version.revision?;
        rest = "";
    }
    rest.is_empty().then_some(version)
}

fn suffix(name: &str) -> Option<i8> {
    Some(match name {
        "alpha" => -4,
        "beta" => -3,
        "pre" => -2,
        "rc" => -1,
        "cvs" => 1,
        "svn" => 2,
        "git" => 3,
        "hg" => 4,
        "p" => 5,
        _ => return None,
    })
}
