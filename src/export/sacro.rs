//! What SACRO-Viewer opens: outputs side by side, `outputs.json`, and a checksum of each.
//!
//! Takes the list of outputs and the verdicts of the pre-check; gives names without directories, each its own, and `outputs.json` as
//! ACRO 0.4 writes `results.json`; trusts nothing of a name; refuses to stand in for ACRO: where a run left what looks like a session
//! of ACRO's, there is no export, for a viewer would take it for one; whether ACRO wrote it nobody knows but the run. No status is "pass": that a program found nothing is no decision.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::released::Released;
use crate::precheck::rules::Level;

/// The version of the format.
const VERSION: &str = "0.4.0";
/// The document.
pub const DOCUMENT: &str = "outputs.json";
/// No name is longer, in bytes, but for a number.
const LONGEST: usize = 200;
/// What is said of an entry whose findings the pre-check has not kept.
pub const NOT_KEPT: &str = "the pre-check has looked at it and does not keep what it found, for there are too many entries; ces precheck on a part of them tells";
/// Where the checksums are.
pub const CHECKSUMS: &str = "checksums";

/// Names in one directory that are given already.
#[derive(Debug)]
pub struct Names {
    given: BTreeSet<String>,
    /// For a name that was given, the number that is tried next: all before are given, and stay so.
    next: HashMap<String, u64>,
}

impl Default for Names {
    fn default() -> Self {
        // The viewer's own, and those that would make it open another document.
        let own = [DOCUMENT, "results.json", "config.json", CHECKSUMS, "run.json", "precheck.json"];
        Self { given: own.map(str::to_owned).into(), next: HashMap::new() }
    }
}

impl Names {
    /// A name without directories for `path`, which nothing else has.
    pub fn give(&mut self, path: &str) -> String {
        let flat = end_of(&path.replace('/', "__"));
        let (stem, ending) = match flat.rsplit_once('.') {
            Some((stem, ending)) if !stem.is_empty() => (stem.to_owned(), format!(".{ending}")),
            _ => (flat.clone(), String::new()),
        };
        // Case is no difference on the desk of a checker.
        let lower = flat.to_lowercase();
        if self.given.insert(lower.clone()) {
            return flat;
        }
        let number = self.next.entry(lower).or_insert(2);
        loop {
            let name = format!("{stem}-{number}{ending}");
            *number = number.saturating_add(1);
            if self.given.insert(name.to_lowercase()) {
                return name;
            }
        }
    }
}

/// The end of a name, which says most: that of a file is not longer than 255 bytes (limits.h), and there is one more with an ending.
fn end_of(name: &str) -> String {
    let from = (name.len().saturating_sub(LONGEST)..=name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.get(from..).unwrap_or_default().to_owned()
}

/// Which directory among the files `paths` holds a session of ACRO's: its document, with checksums beside it.
pub fn session<'a>(paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let (mut documents, mut checksums) = (BTreeSet::new(), BTreeSet::new());
    for path in paths {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        if ["results.json", DOCUMENT].contains(&name) {
            documents.insert(above);
        }
        if above == CHECKSUMS {
            checksums.insert("");
        }
        checksums.extend(above.strip_suffix(CHECKSUMS).and_then(|above| above.strip_suffix('/')));
    }
    documents.intersection(&checksums).next().map(|found| (*found).to_owned())
}

/// One file for the checker.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the run left it.
    pub path: String,
    /// Its name here.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: String,
    /// How bad the worst is that the pre-check found.
    pub level: Option<Level>,
    /// What it found, in words; none: it has not looked at this one.
    pub found: Option<Vec<String>>,
}

/// `outputs.json`.
pub fn document(run: &Released, entries: &[Entry]) -> Value {
    let mut results = Map::new();
    for entry in entries {
        let status = if entry.level == Some(Level::Block) { "fail" } else { "review" };
        let summary = match &entry.found {
            None => "the pre-check has not looked at it".to_owned(),
            Some(found) if found.is_empty() => "the pre-check found nothing; a person decides".to_owned(),
            Some(found) => found.join("; "),
        };
        let comment =
            format!("left by run {}, and unchanged since ({}); not yet checked for disclosure", run.id, run.ended);
        results.insert(
            entry.path.clone(),
            json!({
                "uid": entry.path, "status": status, "type": "custom",
                "properties": {"run": run.id, "image": run.image, "digest": run.digest, "path": entry.path, "size": entry.bytes, "sha256": entry.sha256},
                "files": [{"name": entry.name, "sdc": {"summary": {}, "cells": {}}}], "outcome": {}, "fair": {},
                "command": run.command.join(" "), "summary": summary, "timestamp": run.finished, "comments": [comment], "exception": "",
            }),
        );
    }
    json!({"version": VERSION, "results": results})
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_flat_and_their_own_and_never_the_viewers() {
        let mut names = Names::default();
        let given: Vec<String> =
            ["a/b.csv", "a__b.csv", "A/b.csv", "results.json", "outputs.json", "x", "x", ".hidden", "checksums"]
                .map(|path| names.give(path))
                .into();
        let expected = [
            "a__b.csv",
            "a__b-2.csv",
            "A__b-3.csv",
            "results-2.json",
            "outputs-2.json",
            "x",
            "x-2",
            ".hidden",
            "checksums-2",
        ];
        assert_eq!(given, expected);
        let long = |end: &str| format!("{}/{end}", "é".repeat(200));
        let (one, other) = (names.give(&long("t.csv")), names.give(&long("t.csv")));
        assert!(one.len() <= LONGEST && one.ends_with("é__t.csv") && other.ends_with("é__t-2.csv"), "{one} {other}");
    }

    #[test]
    fn a_hundred_thousand_names_that_collide_take_no_longer_than_as_many_that_do_not() {
        // By trying each number from 2 on it would take hours, and the test runner would end it.
        let mut names = Names::default();
        for n in 0..100_000 {
            let given = names.give(if n % 2 == 0 { "d/x.csv" } else { "d__X.csv" });
            assert!(n > 0 || given == "d__x.csv");
        }
        assert_eq!(names.give("d/x.csv"), "d__x-100001.csv");
    }

    #[test]
    fn a_session_of_acro_is_known_by_its_two_names() {
        let found = |paths: &[&str]| session(paths.iter().copied());
        assert_eq!(found(&["results.json", "checksums/a.csv.txt", "a.csv"]).as_deref(), Some(""));
        assert_eq!(found(&["s/results.json", "s/checksums/a.csv.txt"]).as_deref(), Some("s"));
        for none in [
            &["results.json", "a.csv"][..],
            &["checksums/a.txt"],
            &["s/results.json", "checksums/a.txt"],
            &["xchecksums/results.json"],
        ] {
            assert_eq!(found(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_one_part_and_no_two_are_alike(paths in proptest::collection::vec("[a-b./_A-]{1,6}", 1..30)) {
            let mut names = Names::default();
            let given: Vec<String> = paths.iter().map(|path| names.give(path)).collect();
            prop_assert!(given.iter().all(|name| !name.contains('/') && !name.is_empty()));
            let distinct: BTreeSet<String> = given.iter().map(|name| name.to_lowercase()).collect();
            prop_assert_eq!(distinct.len(), given.len());
        }
    }
}
