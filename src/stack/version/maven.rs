//! The order of Maven's versions: "Version Order Specification" of the POM reference (<https://maven.apache.org/pom.html>).
//!
//! Takes anything without white space: every text has a place in this order. Tokens stand between dots, hyphens and changes from
//! digits to letters; those that mean nothing at the end, or before a hyphen, are left out.

use std::cmp::Ordering;

use super::{is_number, number, take};

/// Qualifiers that come before a release, the release itself, and the one that comes after it before all others.
const KNOWN: [&str; 7] = ["alpha", "beta", "milestone", "rc", "snapshot", "", "sp"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    hyphen: bool,
    text: String,
}

/// Which is the later one.
pub fn cmp(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (tokens(a)?, tokens(b)?);
    for at in 0..a.len().max(b.len()) {
        let later = match (a.get(at), b.get(at)) {
            (Some(a), Some(b)) => token(a, b),
            (Some(a), None) => token(a, &padding(a)),
            (None, Some(b)) => token(&padding(b), b),
            (None, None) => Ordering::Equal,
        };
        if later.is_ne() {
            return Some(later);
        }
    }
    Some(Ordering::Equal)
}

/// What stands for the end beside `other`.
fn padding(other: &Token) -> Token {
    let text = if is_number(&other.text) { "0" } else { "" };
    Token { hyphen: other.hyphen, text: text.to_owned() }
}

/// `.qualifier` < `-qualifier` < `-number` < `.number`. (Of qualifiers the rank counts first: were it the prefix, there would be
/// versions that are each earlier than the next, in a circle.)
fn token(a: &Token, b: &Token) -> Ordering {
    match (is_number(&a.text), is_number(&b.text)) {
        (true, true) => b.hyphen.cmp(&a.hyphen).then_with(|| number(&a.text, &b.text)),
        (false, false) => {
            let (a, b) = ((qualifier(&a.text), a.hyphen), (qualifier(&b.text), b.hyphen));
            (a.0.0, a.1, a.0.1).cmp(&(b.0.0, b.1, b.0.1))
        }
        (a, b) => a.cmp(&b),
    }
}

fn qualifier(text: &str) -> (usize, &str) {
    KNOWN.iter().position(|known| *known == text).map_or((KNOWN.len(), text), |at| (at, ""))
}

fn is_null(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'0')
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let lower = text.to_lowercase();
    let (mut all, mut rest, mut hyphen) = (Vec::new(), lower.as_str(), false);
    loop {
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let (word, after) = take(rest, |c| c != '.' && c != '-' && c.is_ascii_digit() == digits);
        let next_digit = after.starts_with(|c: char| c.is_ascii_digit());
        let text = match word {
            "" => "0",
            "ga" | "final" | "release" => "",
            "cr" => "rc",
            "a" if next_digit => "alpha",
            "b" if next_digit => "beta",
            "m" if next_digit => "milestone",
            word => word,
        };
        all.push(Token { hyphen, text: text.to_owned() });
        match after.chars().next() {
            None => break,
            Some(c @ ('.' | '-')) => {
                hyphen = c == '-';
                rest = after.strip_prefix(c)?;
            }
            // A change between digits and letters counts as a hyphen.
            Some(_) => {
                hyphen = true;
                rest = after;
            }
        }
    }
    Some(trimmed(all))
}

/// Leaves out what means nothing: from the end, and again from each hyphen.
fn trimmed(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.hyphen {
            trim_end(&mut kept);
        }
        kept.push(token);
    }
    trim_end(&mut kept);
    kept
}

fn trim_end(tokens: &mut Vec<Token>) {
    while tokens.last().is_some_and(|token| is_null(&token.text)) {
        tokens.pop();
    }
}
