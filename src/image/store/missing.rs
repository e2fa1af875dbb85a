//! What to say of an image that is not there.
//!
//! Takes what was asked for, and the names that whoever asks may know; gives an error that says what to do.
//! Trusts nothing; in particular it never sees a name that is somebody else's.
//! Refuses nothing itself.

use crate::error::{Error, Kind, Stage};
use crate::image::reference::{Reference, Source};

/// As many names are proposed.
const PROPOSED_MAX: usize = 3;
/// A name that differs in so many letters may have been meant.
const DISTANCE_MAX: usize = 2;

/// The error for `asked`, read as `reference` if they can be a name; `known` are the names that who asks may know.
pub(super) fn missing(asked: &str, reference: Option<&Reference>, known: &[String]) -> Error {
    if Source::is_local(asked) {
        return Error::new(Stage::Store, Kind::Usage, format!("\"{asked}\" is a file, not an image in the store"))
            .hint(local(asked));
    }
    let error = Error::new(Stage::Store, Kind::Missing, format!("image \"{asked}\" is not in the store"));
    let Some(reference) = reference else {
        return error.hint("ces images shows what is here; ces pull HOST/NAME:TAG fetches more");
    };
    let near = near(reference, known);
    if !near.is_empty() {
        return error.hint(format!("did you mean {}?", near.join(" or ")));
    }
    if reference.host() == "localhost" {
        return error.hint(
            "ces images shows what is here; ces pull oci:DIR fetches a local image, ces pull HOST/NAME:TAG another",
        );
    }
    error.hint(format!("ces pull {reference} fetches it; ces images shows what is here"))
}

/// What has to come before a file can be run. A run pulls nothing: it has no network, and its image is judged by what the store
/// holds of it.
fn local(asked: &str) -> String {
    let pull = match asked.split_once(':') {
        Some(("oci" | "oci-archive" | "docker-archive", _)) => format!("ces pull {asked}"),
        _ if std::path::Path::new(asked).is_dir() => format!("ces pull oci:{asked}"),
        _ => format!("ces pull oci-archive:{asked} (docker-archive:{asked} if docker save wrote it)"),
    };
    format!("{pull} stores it and prints its name; that name can be run")
}

/// The names that may have been meant: the same with another tag, the same elsewhere, and those with a few other letters.
fn near<'a>(wanted: &Reference, known: &'a [String]) -> Vec<&'a str> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut all: Vec<(usize, &str)> = Vec::new();
    for name in known {
        let Ok(reference) = name.parse::<Reference>() else { continue };
        let rank = if reference.name() == wanted.name() {
            0
        } else if last(reference.repository()) == last(wanted.repository()) {
            1
        } else {
            match distance(&reference.to_string(), &wanted.to_string()) {
                Some(distance) => 1 + distance,
                None => continue,
            }
        };
        all.push((rank, name));
    }
    all.sort();
    all.dedup();
    all.into_iter().take(PROPOSED_MAX).map(|(_, name)| name).collect()
}

/// How many letters have to be put in, left out or changed (Levenshtein's distance); none if more than [`DISTANCE_MAX`].
fn distance(a: &str, b: &str) -> Option<usize> {
    if a.len().abs_diff(b.len()) > DISTANCE_MAX {
        return None;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in a.chars().enumerate() {
        let mut next = vec![at + 1];
        for ((other, above), (before, column)) in b.iter().zip(row.iter().skip(1)).zip(row.iter().zip(0..)) {
            let beside = next.get(column).copied().unwrap_or(usize::MAX - 1);
            next.push((above + 1).min(beside + 1).min(before + usize::from(*other != letter)));
        }
        row = next;
    }
    row.last().copied().filter(|distance| *distance <= DISTANCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(asked: &str, known: &[&str]) -> String {
        let known: Vec<_> = known.iter().map(|name| (*name).to_owned()).collect();
        missing(asked, Reference::in_store(asked).as_ref(), &known).report()
    }

    #[test]
    fn names_that_may_have_been_meant_are_proposed() {
        let known =
            ["ghcr.io/lab/tool:1.2", "localhost/t/x:1", "localhost/other:latest", "docker.io/library/debian:13"];
        for (asked, meant) in [
            ("ghcr.io/lab/tool", "ghcr.io/lab/tool:1.2"),
            ("ghcr.io/lab/tol:1.2", "ghcr.io/lab/tool:1.2"),
            ("tool:1.2", "ghcr.io/lab/tool:1.2"),
            ("t/x:2", "localhost/t/x:1"),
            ("othre", "localhost/other:latest"),
            ("debian:12", "docker.io/library/debian:13"),
        ] {
            assert!(hint(asked, &known).contains(&format!("did you mean {meant}?")), "{}", hint(asked, &known));
        }
        assert!(hint("ghcr.io/lab/nothing:1", &known).contains("ces pull ghcr.io/lab/nothing:1"));
        assert!(hint("%", &known).contains("ces images"));
    }

    #[test]
    fn of_a_file_the_command_that_stores_it_is_said() {
        for (asked, command) in [
            ("./image.tar", "ces pull oci-archive:./image.tar (docker-archive:./image.tar "),
            ("oci-archive:x.tar", "ces pull oci-archive:x.tar stores"),
            ("/", "ces pull oci:/ stores"),
        ] {
            assert!(hint(asked, &[]).contains(command), "{}", hint(asked, &[]));
        }
    }

    #[test]
    fn distances_are_counted_to_two() {
        for (a, b, far) in [
            ("", "", Some(0)),
            ("abc", "abc", Some(0)),
            ("abc", "abd", Some(1)),
            ("abc", "bc", Some(1)),
            ("abc", "acb", Some(2)),
            ("abc", "xyz", None),
            ("a", "abcd", None),
            ("kitten", "sitten", Some(1)),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (far, far), "{a} {b}");
        }
    }
}
