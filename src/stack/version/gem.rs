//! The order of Ruby's versions: `Gem::Version` of RubyGems.
//!
//! Takes numbers and letters with dots, and a hyphen that begins a pre-release; refuses what `Gem::Version.correct?` refuses.

use std::cmp::Ordering;

use super::{number, take};

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (segments(a)?, segments(b)?);
    for at in 0..a.len().max(b.len()) {
        let [a, b] = [&a, &b].map(|segments| segments.get(at).map_or("0", String::as_str));
        let later = match (is_text(a), is_text(b)) {
            (true, true) => a.cmp(b),
            (false, false) => number(a, b),
            (a, b) => b.cmp(&a),
        };
        if later.is_ne() {
            return Some(later);
        }
    }
    Some(Ordering::Equal)
}

fn is_text(segment: &str) -> bool {
    segment.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Runs of digits and of letters, without the zeros at the end of the release and of the whole (`canonical_segments`).
fn segments(text: &str) -> Option<Vec<String>> {
    let text = text.trim_matches([' ', '\t', '\n']);
    let (release, prerelease) = text.split_once('-').map_or((text, None), |(release, pre)| (release, Some(pre)));
    let words = |text: &str, hyphen: bool| {
        let plain = |c: char| c.is_ascii_alphanumeric() || (hyphen && c == '-');
        text.split('.').all(|word| !word.is_empty() && word.chars().all(plain))
    };
    let begins = release.starts_with(|c: char| c.is_ascii_digit());
    let first = release.split('.').next()?;
    if !begins || !first.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_alphabetic()) || !words(release, false) {
        return None;
    }
    if prerelease.is_some_and(|pre| !words(pre, true)) {
        return None;
    }
    let whole = text.replace('-', ".pre.");
    let mut all = Vec::new();
    let mut rest = whole.as_str();
    while let Some(c) = rest.chars().next() {
        let (run, after) = match c {
            c if c.is_ascii_digit() => take(rest, |c| c.is_ascii_digit()),
            c if c.is_ascii_alphabetic() => take(rest, |c| c.is_ascii_alphabetic()),
            _ => take(rest, |c| !c.is_ascii_alphanumeric()),
        };
        if c.is_ascii_alphanumeric() {
            all.push(run.to_owned());
        }
        rest = after;
    }
    let mut pre = all.split_off(all.iter().position(|word| is_text(word)).unwrap_or(all.len()));
    for part in [&mut all, &mut pre] {
        while part.last().is_some_and(|word| word.bytes().all(|byte| byte == b'0')) {
            part.pop();
        }
    }
    all.append(&mut pre);
    Some(all)
}
