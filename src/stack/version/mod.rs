//! The orders of versions: one for each package manager that has one of its own.
//!
//! Takes two versions as written; gives which is the later one; trusts nothing: a version that its package manager would not
//! accept has no place in the order, and then there is no answer. A wrong answer would call a vulnerable package fixed.
//!
//! Each order is total over the versions that it accepts: tests generate versions and check it.

use std::cmp::Ordering;

use super::package::PackageType;

/// Debian and its descendants.
pub mod deb;
/// RPM.
pub mod rpm;
/// Alpine.
pub mod apk;
/// Python.
pub mod pep440;
/// npm, Rust, Julia; and Go, whose programs name their versions in another way.
pub mod semver;
/// Maven.
pub mod maven;
/// Ruby.
pub mod gem;
/// R.
pub mod r;

#[cfg(test)]
mod tests;

/// The longest version that is read, in bytes; the longest of the public lists has some 120.
pub const LONGEST: usize = 512;

/// Which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// deb-version(7).
    Deb,
    /// rpm-version(7).
    Rpm,
    /// apk-package(5).
    Apk,
    /// PEP 440.
    Pep440,
    /// Semantic Versioning 2.0.0.
    Semver,
    /// Go modules and Go itself.
    Go,
    /// Maven's version order specification.
    Maven,
    /// `Gem::Version`.
    Gem,
    /// R's `package_version`.
    R,
}

impl Order {
    /// The order of a type's versions; none where it has none of its own.
    pub fn of(kind: PackageType) -> Option<Self> {
        Some(match kind {
            PackageType::Deb => Self::Deb,
            PackageType::Apk => Self::Apk,
            PackageType::Rpm | PackageType::Alpm => Self::Rpm,
            PackageType::Pypi => Self::Pep440,
            PackageType::Cran => Self::R,
            PackageType::Npm | PackageType::Cargo | PackageType::Julia => Self::Semver,
            PackageType::Gem => Self::Gem,
            PackageType::Maven => Self::Maven,
            PackageType::Golang => Self::Go,
            PackageType::Conda
            | PackageType::Cpan
            | PackageType::Octave
            | PackageType::Generic
            | PackageType::Model => {
                return None;
            }
        })
    }

    /// Which of two versions is the later one; nothing where one of them is no version of this order, or longer than [`LONGEST`].
    pub fn cmp(self, a: &str, b: &str) -> Option<Ordering> {
        if a.len().max(b.len()) > LONGEST {
            return None;
        }
        // Most versions of most ecosystems.
        let plain = match self {
            Self::Pep440 => numbers(a, b, usize::MAX),
            Self::Semver | Self::Go => numbers(a, b, 3),
            _ => None,
        };
        if plain.is_some() {
            return plain;
        }
        match self {
            Self::Deb => deb::cmp(a, b),
            Self::Rpm => rpm::cmp(a, b),
            Self::Apk => apk::cmp(a, b),
            Self::Pep440 => pep440::cmp(a, b),
            Self::Semver => semver::cmp(a, b),
            Self::Go => semver::cmp_go(a, b),
            Self::Maven => maven::cmp(a, b),
            Self::Gem => gem::cmp(a, b),
            Self::R => r::cmp(a, b),
        }
    }

    /// Whether `version` has a place in this order.
    pub fn accepts(self, version: &str) -> bool {
        match self {
            // Advisories of distributions have one version a package: reading it once is a third of what an import compares.
            Self::Rpm => version.len() <= LONGEST && rpm::accepts(version),
            Self::Deb => version.len() <= LONGEST && deb::accepts(version),
            _ => self.cmp(version, version).is_some(),
        }
    }
}

/// Compares versions of at most `most` numbers with dots between them, the missing ones of which are 0; nothing where one of them is
/// written otherwise, or has a number of more digits than this takes: that says nothing of their order.
fn numbers(a: &str, b: &str, most: usize) -> Option<Ordering> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let (mut later, mut count) = (Ordering::Equal, 0);
    while !(a.is_empty() && b.is_empty()) {
        let (number_a, number_b) = (next_number(&mut a)?, next_number(&mut b)?);
        later = later.then(number_a.cmp(&number_b));
        count += 1;
    }
    (count <= most).then_some(later)
}

/// The number that such a version begins with, and the dot after it; 0 at its end.
fn next_number(rest: &mut &[u8]) -> Option<u64> {
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=18).contains(&digits) {
        return None;
    }
    let number = rest.iter().take(digits).fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    *rest = match rest.get(digits..)? {
        [] => &[],
        [b'.', after @ ..] if !after.is_empty() => after,
        _ => return None,
    };
    Some(number)
}

/// Compares digits as a number of any size.
fn number(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Whether `text` is digits and nothing else.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Cuts `text` where `belongs` ends.
fn take(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}
