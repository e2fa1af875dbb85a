//! The order of Python's versions: PEP 440, now "Version specifiers" of the Python Packaging User Guide, Appendix B.
//!
//! Takes `[epoch!]release[pre][.postN][.devN][+local]` in any spelling that normalisation allows; refuses everything else, the
//! versions of before PEP 440 among it.

use std::cmp::Ordering;

use super::{is_number, number, take};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Alpha,
    Beta,
    Candidate,
}

struct Version<'v> {
    epoch: &'v str,
    release: Vec<&'v str>,
    pre: Option<(Phase, &'v str)>,
    post: Option<&'v str>,
    dev: Option<&'v str>,
    local: Option<Vec<&'v str>>,
}

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    // In lower case: normalisation knows no other.
    let (a, b) = (a.trim().to_ascii_lowercase(), b.trim().to_ascii_lowercase());
    Some(compare(&parse(&a)?, &parse(&b)?))
}

fn compare(a: &Version<'_>, b: &Version<'_>) -> Ordering {
    let release = || {
        (0..a.release.len().max(b.release.len()))
            .map(|at| {
                let [a, b] = [a, b].map(|version| version.release.get(at).copied().unwrap_or("0"));
                number(a, b)
            })
            .find(|later| later.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    number(a.epoch, b.epoch)
        .then_with(release)
        .then_with(|| pre(a, b))
        // No post-release comes before one; no development release after one.
        .then_with(|| optional(a.post, b.post))
        .then_with(|| dev(a.dev, b.dev))
        .then_with(|| local(a.local.as_deref(), b.local.as_deref()))
}

/// A development release of the final one comes before its pre-releases, the final one after them.
fn pre(a: &Version<'_>, b: &Version<'_>) -> Ordering {
    let place = |version: &Version<'_>| match (&version.pre, &version.post, &version.dev) {
        (Some(_), _, _) => 1,
        (None, None, Some(_)) => 0,
        (None, _, _) => 2,
    };
    place(a).cmp(&place(b)).then_with(|| match (&a.pre, &b.pre) {
        (Some((phase_a, a)), Some((phase_b, b))) => phase_a.cmp(phase_b).then_with(|| number(a, b)),
        _ => Ordering::Equal,
    })
}

fn optional(a: Option<&str>, b: Option<&str>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => number(a, b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn dev(a: Option<&str>, b: Option<&str>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => number(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

/// A local version comes after the same without; in it numbers come after words.
fn local(a: Option<&[&str]>, b: Option<&[&str]>) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return a.is_some().cmp(&b.is_some()) };
    let place = a.iter().zip(b).map(|(a, b)| match (is_number(a), is_number(b)) {
        (true, true) => number(a, b),
        (false, false) => a.cmp(b),
        (a, b) => a.cmp(&b),
    });
    place.into_iter().find(|later| later.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn parse(text: &str) -> Option<Version<'_>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (public, local) = text.split_once('+').map_or((text, None), |(public, local)| (public, Some(local)));
    let (epoch, rest) = public.split_once('!').unwrap_or(("0", public));
    if !is_number(epoch) {
        return None;
    }
    let (release, mut rest) = release(rest)?;
    let pre = pre_release(&mut rest);
    let post = post_release(&mut rest);
    let dev = dev_release(&mut rest);
    let local = match local {
        Some(local) => Some(local_words(local)?),
        None => None,
    };
    rest.is_empty().then_some(Version { epoch, release, pre, post, dev, local })
}

fn release(text: &str) -> Option<(Vec<&str>, &str)> {
    let (mut parts, mut rest) = (Vec::new(), text);
    loop {
        let (digits, after) = take(rest, |c| c.is_ascii_digit());
        if digits.is_empty() {
            return None;
        }
        parts.push(digits);
        rest = after;
        match after.strip_prefix('.').filter(|next| next.starts_with(|c: char| c.is_ascii_digit())) {
            Some(next) => rest = next,
            None => return Some((parts, rest)),
        }
    }
}

/// One of `words` with an optional separator before it; the first that fits. Gives what follows it.
fn word<'t, T: Copy>(text: &'t str, words: &[(&str, T)]) -> Option<(T, &'t str)> {
    let text = text.strip_prefix(['.', '-', '_']).unwrap_or(text);
    words.iter().find_map(|(word, value)| Some((*value, text.strip_prefix(word)?)))
}

/// A number with an optional separator before it; 0 where there is none.
fn count(text: &str) -> (&str, &str) {
    let after = text.strip_prefix(['.', '-', '_']).filter(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    take(after.unwrap_or(text), |c| c.is_ascii_digit())
}

fn pre_release<'t>(rest: &mut &'t str) -> Option<(Phase, &'t str)> {
    const WORDS: [(&str, Phase); 8] = [
        ("alpha", Phase::Alpha),
        ("beta", Phase::Beta),
        ("preview", Phase::Candidate),
        ("pre", Phase::Candidate),
        ("rc", Phase::Candidate),
        ("a", Phase::Alpha),
        ("b", Phase::Beta),
        ("c", Phase::Candidate),
    ];
    let (phase, after) = word(rest, &WORDS)?;
    let (number, after) = count(after);
    *rest = after;
    Some((phase, number))
}

fn post_release<'t>(rest: &mut &'t str) -> Option<&'t str> {
    // `1.0-1` is short for `1.0.post1`.
    if let Some(after) = rest.strip_prefix('-').filter(|after| after.starts_with(|c: char| c.is_ascii_digit())) {
        let (number, after) = take(after, |c| c.is_ascii_digit());
        *rest = after;
        return Some(number);
    }
    let ((), after) = word(rest, &[("post", ()), ("rev", ()), ("r", ())])?;
    let (number, after) = count(after);
    *rest = after;
    Some(number)
}

fn dev_release<'t>(rest: &mut &'t str) -> Option<&'t str> {
    let ((), after) = word(rest, &[("dev", ())])?;
    let (number, after) = count(after);
    *rest = after;
    Some(number)
}

fn local_words(text: &str) -> Option<Vec<&str>> {
    text.split(['.', '-', '_'])
        .map(|word| (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(word))
        .collect()
}
