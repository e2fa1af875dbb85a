//! The order of RPM's versions: rpm-version(7), "Version comparison".
//!
//! Takes `[epoch:]version[-release]`, the epoch 0 where it is not named; a version without a release comes before the same
//! version with one. What stands before a colon and is no number is no epoch. Refuses white space, and nothing else: all other
//! characters separate.

use std::cmp::Ordering;

use super::{is_number, number, take};

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let ((epoch_a, version_a, release_a), (epoch_b, version_b, release_b)) = (parse(a)?, parse(b)?);
    let later = number(epoch_a, epoch_b).then_with(|| part(version_a, version_b));
    Some(later.then_with(|| match (release_a, release_b) {
        (Some(a), Some(b)) => part(a, b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }))
}

/// Whether a version has a place in the order.
pub fn accepts(version: &str) -> bool {
    parse(version).is_some()
}

fn parse(text: &str) -> Option<(&str, &str, Option<&str>)> {
    let blank = match text.is_ascii() {
        true => text.bytes().any(|byte| byte <= b' ' || byte == 0x7f),
        false => text.chars().any(|c| c.is_whitespace() || c.is_control()),
    };
    if text.is_empty() || blank {
        return None;
    }
    let (epoch, rest) = text.split_once(':').filter(|(epoch, _)| is_number(epoch)).unwrap_or(("0", text));
    Some(match rest.rsplit_once('-') {
        Some((version, release)) => (epoch, version, Some(release)),
        None => (epoch, rest, None),
    })
}

/// Compares segments of digits and of letters in turn; `~` comes before the end, `^` right after it.
fn part(mut a: &str, mut b: &str) -> Ordering {
    let separates = |c: char| !c.is_ascii_alphanumeric() && c != '~' && c != '^';
    loop {
        (a, b) = (a.trim_start_matches(separates), b.trim_start_matches(separates));
        match (a.strip_prefix('~'), b.strip_prefix('~')) {
            (Some(rest_a), Some(rest_b)) => {
                (a, b) = (rest_a, rest_b);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        match (a.strip_prefix('^'), b.strip_prefix('^')) {
            (Some(rest_a), Some(rest_b)) => {
                (a, b) = (rest_a, rest_b);
                continue;
            }
            (Some(_), None) => return if b.is_empty() { Ordering::Greater } else { Ordering::Less },
            (None, Some(_)) => return if a.is_empty() { Ordering::Less } else { Ordering::Greater },
            (None, None) => {}
        }
        if a.is_empty() || b.is_empty() {
            return (!a.is_empty()).cmp(&!b.is_empty());
        }
        let digits = |c: char| c.is_ascii_digit();
        let letters = |c: char| c.is_ascii_alphabetic();
        let (later, rest_a, rest_b) = match (a.starts_with(digits), b.starts_with(digits)) {
            // A number is later than letters.
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (true, true) => {
                let ((a, rest_a), (b, rest_b)) = (take(a, digits), take(b, digits));
                (number(a, b), rest_a, rest_b)
            }
            (false, false) => {
                let ((a, rest_a), (b, rest_b)) = (take(a, letters), take(b, letters));
                (a.cmp(b), rest_a, rest_b)
            }
        };
        if later.is_ne() {
            return later;
        }
        (a, b) = (rest_a, rest_b);
    }
}
