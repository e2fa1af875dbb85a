//! What a run left, against what was looked at: a pre-check of a run tells of what the run left, and of nothing else.
//!
//! Takes the lines of the list of outputs, and entries that were looked at; gives those of the run, and how many others there were;
//! trusts the list, whose hash the record has; refuses to tell anything of what is not in the list, or is another than the run left,
//! but that it is so: it may be anybody's. An entry without a hash to compare is one of them.

use std::collections::BTreeMap;

use super::finding::Finding;
use super::look::{Looked, Name, link_to};
use super::rules::{RuleName, Rules};
use crate::run::supervisor::outputs::line::{Kind, Line};

/// What a run left, by the list of its outputs.
#[derive(Debug, Default)]
pub struct Manifest {
    entries: BTreeMap<Name, Entry>,
    others: u64,
}

#[derive(Debug)]
struct Entry {
    what: What,
    seen: bool,
}

#[derive(Debug)]
enum What {
    /// With its SHA-256; else with why there is none.
    File(Result<String, String>),
    /// With where it leads, as it is told.
    Link(String),
    Directory,
    Refused,
}

impl Manifest {
    /// One more line of the list.
    pub fn add(&mut self, line: &Line) {
        let Some(path) = line.path().filter(|_| !line.was_removed()) else { return };
        let what = match line.kind {
            Kind::File => What::File(match (&line.sha256, &line.not_hashed) {
                (Some(sha256), _) => Ok(sha256.clone()),
                (None, why) => Err(why.clone().unwrap_or_else(|| "it was not hashed".to_owned())),
            }),
            Kind::Link => What::Link(link_to(&line.target().unwrap_or_default())),
            Kind::Directory => What::Directory,
            Kind::Refused => What::Refused,
        };
        self.entries.insert(Name::new(&path), Entry { what, seen: false });
    }

    /// What is to be told of an entry; none: it is not of the run.
    pub fn judged(&mut self, looked: Looked, rules: &Rules) -> Option<Looked> {
        let Some(entry) = self.entries.get_mut(&looked.name) else {
            self.others = self.others.saturating_add(1);
            return None;
        };
        entry.seen = true;
        let why = match (&entry.what, &looked.sha256) {
            (What::File(Ok(listed)), Some(now)) if listed == now => return Some(looked),
            (What::File(Ok(_)), Some(_)) => "it was changed since, or was exchanged while it was looked at".to_owned(),
            (What::File(Ok(_)), None) => "not all of it could be read, so that it may be another file".to_owned(),
            (What::File(Err(why)), _) => format!("the list of outputs has no hash of it to compare with: {why}"),
            (What::Link(told), None) if looked.findings.iter().any(|finding| finding.because == *told) => {
                return Some(looked);
            }
            (What::Directory | What::Refused, None) if looked.size.is_none() && looked.kind != "link" => {
                return Some(looked);
            }
            (What::Refused, _) => "it was refused when the run ended".to_owned(),
            (What::Link(_) | What::Directory, _) => "it is another kind of thing by now".to_owned(),
        };
        Some(another(looked.name, &why, rules))
    }

    /// Gives `each` what the run left and nobody looked at; and how many entries were not of the run.
    pub fn end(self, rules: &Rules, each: &mut dyn FnMut(Looked)) -> u64 {
        for (name, entry) in self.entries {
            if !entry.seen && matches!(entry.what, What::File(_) | What::Link(_)) {
                each(another(name, "it is not there any more, or was not come to", rules));
            }
        }
        self.others
    }
}

/// Nothing is told of what is there instead: names and numbers in it may be anybody's.
fn another(name: Name, why: &str, rules: &Rules) -> Looked {
    let rule = RuleName::NotWhatTheRunLeft;
    let because = format!("not what the run left: {why}");
    let findings = vec![Finding { rule, level: rules.level(rule), because }];
    Looked { name, kind: "unknown".to_owned(), size: None, sha256: None, table: None, findings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::line::{hash, hex};
    use crate::precheck::finding::verdict;
    use crate::precheck::look::{self, Stat};
    use crate::precheck::rules::Site;

    fn file(name: &str, text: &str, rules: &Rules) -> Looked {
        let stat = Stat { size: u64::try_from(text.len()).unwrap(), names: 1, executable: false };
        look::file(name.as_bytes(), stat, text.as_bytes(), rules)
    }

    fn listed(name: &str, sha256: Option<String>) -> Line {
        let mut line = Line::new(name.as_bytes(), Kind::File);
        line.sha256 = sha256;
        line
    }

    #[test]
    fn only_what_the_run_left_is_told_of_and_what_is_another_by_now_is_a_block_without_its_content() {
        let rules = Rules::of(&Site::default()).unwrap();
        let text = "sex,n\nF,263\n";
        let mut left = Manifest::default();
        for name in ["same.csv", "changed.csv", "gone.csv"] {
            left.add(&listed(name, Some(hex(&hash(text.as_bytes())))));
        }
        left.add(&listed("hole.csv", None));
        left.add(&Line::link(b"link.csv", b"/etc/passwd"));
        left.add(&Line::link(b"moved.csv", b"/etc/passwd"));
        let mut judged = |looked: Looked| left.judged(looked, &rules);
        let of = |looked: Option<Looked>| looked.map(|looked| verdict(&looked.findings));
        assert_eq!(of(judged(file("same.csv", text, &rules))), Some("nothing found"));
        for name in ["changed.csv", "hole.csv"] {
            let told = judged(file(name, "patient 9434765919,n\nF,263\n", &rules)).unwrap();
            assert_eq!((verdict(&told.findings), told.findings.len()), ("block", 1), "{told:?}");
            assert!(!format!("{told:?}").contains("patient"), "{told:?}");
        }
        // What could not be read, or ended who looked.
        assert_eq!(of(judged(look::unseen(b"changed.csv", "closed", &rules))), Some("block"));
        assert!(format!("{:?}", judged(look::link(b"link.csv", b"/etc/passwd", &rules))).contains("/etc/passwd"));
        let moved = judged(look::link(b"moved.csv", b"/home/a", &rules)).unwrap();
        assert!(verdict(&moved.findings) == "block" && !format!("{moved:?}").contains("/home/a"), "{moved:?}");
        assert_eq!(of(judged(file("patient.csv", text, &rules))), None);
        assert_eq!(of(judged(look::link(b"new.csv", b"/home/a", &rules))), None);
        let mut rest = Vec::new();
        assert_eq!(left.end(&rules, &mut |looked| rest.push((looked.name.shown(), verdict(&looked.findings)))), 2);
        assert_eq!(rest, [("gone.csv".to_owned(), "block")]);
    }
}
