//! Identifiers in text: NHS and CHI numbers by their check digit, full postcodes, e-mail addresses, long blocks of base64.
//!
//! Takes text; gives how many of each there are, bounded; trusts nothing; refuses nothing. A number with the right check digit is one of
//! eleven by chance, so single ones are for review, and a person knows what the column means.

use std::collections::BTreeSet;

use super::finding::Findings;
use super::rules::RuleName;

/// A longer run of base64 hides something.
const ENCODED: usize = 400;
/// More different numbers are not told apart.
const MOST: usize = 10_000;

/// Whether ten digits have the check digit of an NHS number (NHS Data Dictionary, "NHS number"); that of a CHI number is made in the
/// same way.
pub fn is_nhs_number(digits: &[u8]) -> bool {
    if digits.len() != 10 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let value = |digit: &u8| u32::from(digit - b'0');
    let sum: u32 = digits.iter().take(9).zip((2..=10).rev()).map(|(digit, weight)| value(digit) * weight).sum();
    let check = match 11 - sum % 11 {
        11 => 0,
        check => check,
    };
    // All the same digit is what people type for "none".
    let alike = digits.iter().all(|digit| Some(digit) == digits.first());
    digits.last().map(value) == Some(check) && !alike
}

/// Ten-digit numbers that were seen.
#[derive(Debug, Default)]
pub struct Numbers {
    all: u64,
    valid: u64,
    distinct: BTreeSet<[u8; 10]>,
}

impl Numbers {
    /// The ten digits that a whole text is, perhaps grouped 3-3-4 by spaces or hyphens.
    pub fn see(&mut self, text: &str) {
        let mut digits = [0; 10];
        let mut count = 0;
        for byte in text.trim().bytes() {
            match byte {
                b'0'..=b'9' => {
                    let Some(place) = digits.get_mut(count) else { return };
                    *place = byte;
                    count += 1;
                }
                b' ' | b'-' if matches!(count, 3 | 6) => {}
                _ => return,
            }
        }
        if count == 10 {
            self.add(digits);
        }
    }

    fn add(&mut self, digits: [u8; 10]) {
        self.all += 1;
        if is_nhs_number(&digits) {
            self.valid += 1;
            if self.distinct.len() < MOST {
                self.distinct.insert(digits);
            }
        }
    }

    /// Says what was seen of `of` values (none: of all ten-digit numbers).
    pub fn tell(&self, place: &str, of: Option<u64>, findings: &mut Findings<'_>) {
        let half = of.unwrap_or(self.all).div_ceil(2);
        let numbers = |n: u64| if n == 1 { "1 number has".to_owned() } else { format!("{n} numbers have") };
        if self.distinct.len() >= 3 && self.valid >= half {
            let said = format!(
                "{place}{} the check digit of an NHS or CHI number, {} of them different",
                numbers(self.valid),
                self.distinct.len()
            );
            findings.add(RuleName::NhsNumbers, said);
        } else if self.valid > 0 {
            findings.add(
                RuleName::NhsNumber,
                format!("{place}{} the check digit of an NHS or CHI number", numbers(self.valid)),
            );
        }
    }
}

/// Looks through a text.
pub fn search(text: &str, place: &str, findings: &mut Findings<'_>) {
    let bytes = text.as_bytes();
    let mut numbers = Numbers::default();
    ten_digits(bytes, &mut |digits| numbers.add(digits));
    numbers.tell(place, None, findings);
    let plural =
        |n: u64, one: &str, many: &str| if n == 1 { format!("{place}1 {one}") } else { format!("{place}{n} {many}") };
    match postcodes(bytes) {
        0 => {}
        n => findings.add(RuleName::Postcode, plural(n, "full postcode", "full postcodes")),
    }
    match emails(bytes) {
        0 => {}
        n => findings.add(RuleName::Email, plural(n, "e-mail address", "e-mail addresses")),
    }
    let encoded = longest_encoded(bytes);
    if encoded >= ENCODED {
        findings.add(RuleName::Encoded, format!("{place}a block of {encoded} characters of base64"));
    }
}

/// Whether text, perhaps a name, has one of the identifiers.
pub fn in_name(name: &str) -> Option<&'static str> {
    let mut valid = false;
    ten_digits(name.as_bytes(), &mut |digits| valid |= is_nhs_number(&digits));
    if valid {
        return Some("a number with the check digit of an NHS or CHI number");
    }
    if emails(name.as_bytes()) > 0 {
        return Some("an e-mail address");
    }
    (postcodes(name.as_bytes()) > 0).then_some("a full postcode")
}

/// Gives `each` every run of exactly ten digits, also when grouped 3-3-4, that no other digit or decimal point touches.
fn ten_digits(bytes: &[u8], each: &mut dyn FnMut([u8; 10])) {
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = 0;
    while at < bytes.len() {
        if !is_digit(at) {
            at += 1;
            continue;
        }
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let decimals = before == Some(&b'.') && at >= 2 && is_digit(at - 2);
        let mut digits = [0; 10];
        let (mut count, mut end) = (0, at);
        loop {
            match bytes.get(end) {
                Some(digit) if digit.is_ascii_digit() => {
                    let Some(place) = digits.get_mut(count) else { break };
                    *place = *digit;
                    count += 1;
                }
                Some(b' ' | b'-') if matches!(count, 3 | 6) && is_digit(end + 1) => {}
                _ => break,
            }
            end += 1;
        }
        let touches = is_digit(end) || (bytes.get(end) == Some(&b'.') && is_digit(end + 1));
        if count == 10 && !decimals && !touches {
            each(digits);
        }
        // What was grouped by chance may begin in the middle; a run without groups is done with.
        while is_digit(at) {
            at += 1;
        }
    }
}

/// Full postcodes: one or two letters, a digit, perhaps a letter or digit, a space, a digit, two letters (BS 7666).
fn postcodes(bytes: &[u8]) -> u64 {
    let part = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let mut found = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b' ') {
        let inward = bytes.get(at + 1..at + 4);
        let is_inward =
            matches!(inward, Some([d, a, b]) if d.is_ascii_digit() && a.is_ascii_uppercase() && b.is_ascii_uppercase());
        if !is_inward || part(bytes.get(at + 4)) {
            continue;
        }
        let begin = (0..at).rev().take_while(|at| part(bytes.get(*at))).last().unwrap_or(at);
        found += u64::from(is_outward(bytes.get(begin..at).unwrap_or_default()));
    }
    found
}

fn is_outward(text: &[u8]) -> bool {
    let letters = text.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let rest = text.get(letters..).unwrap_or_default();
    (1..=2).contains(&letters) && matches!(rest, [d] if d.is_ascii_digit())
        || matches!(rest, [d, x] if (1..=2).contains(&letters) && d.is_ascii_digit() && (x.is_ascii_digit() || x.is_ascii_uppercase()))
}

/// What stands around an @ as in an address.
fn emails(bytes: &[u8]) -> u64 {
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b"._+-".contains(byte);
    let domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let mut found = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'@') {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(local);
        let after: Vec<u8> = bytes.iter().skip(at + 1).take(255).copied().take_while(|byte| domain(byte)).collect();
        let after = after.strip_suffix(b".").unwrap_or(&after);
        let top = after.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let is_domain = after.contains(&b'.') && top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic);
        found += u64::from(before && is_domain);
    }
    found
}

/// The longest run of characters of base64, line breaks between lines of it aside.
fn longest_encoded(bytes: &[u8]) -> usize {
    let (mut longest, mut run, mut line) = (0, 0, 0);
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'=' => {
                run += 1;
                line += 1;
                longest = longest.max(run);
            }
            // Wrapped as base64(1) and PEM do it.
            b'\n' if line >= 60 => line = 0,
            b'\r' => {}
            _ => (run, line) = (0, 0),
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::rules::{Rules, Site};
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<RuleName> {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut findings = Findings::new(&rules);
        search(text, "", &mut findings);
        findings.end().into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn nhs_numbers_are_told_by_their_check_digit_however_they_are_grouped() {
        // 943 476 5919 is the NHS Data Dictionary's own example.
        for text in ["9434765919", "943 476 5919", "943-476-5919", "id=9434765919;", "x9434765919y", "(9434765919)"] {
            assert_eq!(found(text), [RuleName::NhsNumber], "{text}");
        }
        for text in [
            "9434765918",
            "94347659190",
            "0.9434765919",
            "9434765919.5",
            "1.9434765919",
            "0000000000",
            "1111111111",
            "94 3476 5919",
            "",
        ] {
            assert!(found(text).is_empty(), "{text}: {:?}", found(text));
        }
        assert_eq!(found("9434765919 9434765919 9434765919"), [RuleName::NhsNumber]);
        assert_eq!(found("9434765919,4010232137,4505577104"), [RuleName::NhsNumbers]);
    }

    #[test]
    fn postcodes_addresses_and_encoded_blocks_are_found_and_what_is_near_them_is_not() {
        assert_eq!(found("EH3 9YL, SW1A 1AA and M1 1AE"), [RuleName::Postcode]);
        assert!(found("EH3 only, eh3 9yl, XEH33 9YLX, A 1AA, model M12 3.1").is_empty());
        assert_eq!(found("mail a.person@nhs.scot."), [RuleName::Email]);
        assert!(found("a@b, @home.org, x @ y.zz, 3@4.5, user@host").is_empty());
        assert_eq!(found(&"QUJD".repeat(100)), [RuleName::Encoded]);
        assert_eq!(found(&format!("{}\n", "A".repeat(76)).repeat(6)), [RuleName::Encoded]);
        assert!(found(&"QUJD ".repeat(1000)).is_empty() && found(&"word\n".repeat(1000)).is_empty());
        assert_eq!(in_name("patient_9434765919.txt"), Some("a number with the check digit of an NHS or CHI number"));
        assert!(in_name("table_2026.csv").is_none());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_and_a_changed_digit_is_no_number(text in any::<String>(), digits in "[0-9]{9}", at in 0_usize..9, by in 1_u8..10) {
            found(&text);
            let check = (0..10).find(|check| is_nhs_number(format!("{digits}{check}").as_bytes()));
            if let Some(check) = check {
                let mut changed = format!("{digits}{check}").into_bytes();
                changed[at] = b'0' + (changed[at] - b'0' + by) % 10;
                // Modulus 11 tells every change of one digit.
                prop_assert!(!is_nhs_number(&changed));
            }
        }
    }
}
