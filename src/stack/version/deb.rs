//! The order of Debian's versions: deb-version(7), Debian Policy 5.6.12.
//!
//! Takes versions as dpkg writes them, `[epoch:]upstream[-revision]`; refuses characters that policy does not allow.

use std::cmp::Ordering;

use super::{is_number, number, take};

struct Version<'v> {
    epoch: &'v str,
    upstream: &'v str,
    revision: &'v str,
}

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (parse(a)?, parse(b)?);
    let later = number(a.epoch, b.epoch).then_with(|| part(a.upstream, b.upstream));
    Some(later.then_with(|| part(a.revision, b.revision)))
}

/// Whether a version has a place in the order.
pub fn accepts(version: &str) -> bool {
    parse(version).is_some()
}

fn parse(text: &str) -> Option<Version<'_>> {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~');
    let is_upstream = !upstream.is_empty() && upstream.chars().all(|c| plain(c) || matches!(c, '-' | ':'));
    (is_number(epoch) && is_upstream && revision.chars().all(plain)).then_some(Version { epoch, upstream, revision })
}

/// Compares what is no number, then the number after it, and so on.
fn part(mut a: &str, mut b: &str) -> Ordering {
    while !(a.is_empty() && b.is_empty()) {
        let ((text_a, rest_a), (text_b, rest_b)) = (take(a, |c| !c.is_ascii_digit()), take(b, |c| !c.is_ascii_digit()));
        let ((digits_a, rest_a), (digits_b, rest_b)) =
            (take(rest_a, |c| c.is_ascii_digit()), take(rest_b, |c| c.is_ascii_digit()));
        let later = text(text_a, text_b).then_with(|| number(digits_a, digits_b));
        if later.is_ne() {
            return later;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

fn text(a: &str, b: &str) -> Ordering {
    // Shorter text is followed by its end, which comes after `~` and before everything else.
    let weights = |text: &str| text.bytes().map(weight).chain([0]).collect::<Vec<_>>();
    weights(a).cmp(&weights(b))
}

/// `~`, the end, letters, all else.
fn weight(byte: u8) -> i16 {
    match byte {
        b'~' => -1,
        byte if byte.is_ascii_alphabetic() => i16::from(byte),
        byte => i16::from(byte) + 256,
    }
}
