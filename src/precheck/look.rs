//! One file, looked at by all rules.
//!
//! Takes its name, what the kernel says of it, and its first bytes; gives what it is and what was found; trusts nothing; refuses
//! nothing. It touches no file: `walk` reads.

use serde::{Deserialize, Serialize};

use super::finding::{Finding, Findings, bounded};
use super::rules::{RuleName, Rules};
use super::sniff::{Class, class_of};
use super::table::{self, Table};
use super::{document, identifiers, image, sniff};
use crate::evidence::line::{hash, hex};
use crate::evidence::sniff::sniff as sniffed_of;
use crate::text;

/// A name, exactly: as text where it is plain, else as the hexadecimal digits of its bytes, as in the list of outputs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Name {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
}

impl Name {
    /// Of these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(plain) if text::neutral_line(plain) == plain => Self { path: Some(plain.to_owned()), path_hex: None },
            _ => Self { path: None, path_hex: Some(crate::evidence::line::hex(bytes)) },
        }
    }

    /// To be shown: what is not plain is escaped.
    pub fn shown(&self) -> String {
        match (&self.path, &self.path_hex) {
            (Some(path), _) => path.clone(),
            (None, Some(digits)) => {
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                let bytes: Vec<u8> = digits.as_bytes().chunks(2).filter_map(byte).collect();
                text::neutral_bytes(&bytes)
            }
            (None, None) => String::new(),
        }
    }
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Which file.
    #[serde(flatten)]
    pub name: Name,
    /// What it is, by its content.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size in bytes, if it is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// SHA-256 of the bytes that were judged, if they are all of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What kind of table it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// What the kernel says of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub size: u64,
    /// Names that it has.
    pub names: u64,
    /// It may be executed.
    pub executable: bool,
}

/// A regular file with these first bytes.
pub fn file(path: &[u8], stat: Stat, bytes: &[u8], rules: &Rules) -> Looked {
    let mut findings = Findings::new(rules);
    name(path, &mut findings);
    let sniffed = sniffed_of(bytes.get(..bytes.len().min(sniff::HEAD)).unwrap_or_default());
    let ending = ending(path);
    if !rules.expects(&ending) {
        let ending = if ending.is_empty() { "a name without an ending" } else { ending.as_str() };
        findings.add(RuleName::Type, format!("{ending} is not among {}", rules.types.join(" ")));
    }
    if stat.size > 0
        && let Some(promised) = sniff::promised(&ending)
        && !promised.contains(&sniffed.name)
    {
        findings.add(RuleName::TypeDiffers, format!("named {ending}, but its content is {}", sniffed.name));
    }
    if stat.size > rules.size {
        findings.add(RuleName::Size, format!("{} bytes; the limit is {}", stat.size, rules.size));
    }
    let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let whole = read >= stat.size;
    if !whole {
        findings.add(RuleName::NotLookedAt, format!("only its first {read} bytes of {} were looked at", stat.size));
    }
    if stat.names > 1 {
        findings.add(RuleName::OtherName, format!("it has {} names", stat.names));
    }
    if stat.executable {
        findings.add(RuleName::Executable, "it has the permission");
    }
    let table = content(class_of(sniffed), sniffed.name, (bytes, whole), &ending, &mut findings);
    Looked {
        name: Name::new(path),
        kind: sniffed.name.to_owned(),
        size: Some(stat.size),
        sha256: whole.then(|| hex(&hash(bytes))),
        table,
        findings: findings.end(),
    }
}

/// What is in a file of that class.
fn content(
    class: Class,
    kind: &str,
    (bytes, whole): (&[u8], bool),
    ending: &str,
    findings: &mut Findings<'_>,
) -> Option<Table> {
    let text = String::from_utf8_lossy(bytes);
    match class {
        Class::Text => {
            identifiers::search(&text, "", findings);
            if kind == "script" {
                findings.add(RuleName::Program, "it is a script");
            }
            return if kind == "text" { table::table(bytes, ending, findings) } else { None };
        }
        Class::Page => {
            identifiers::search(&text, "", findings);
            document::page(kind, &text, findings);
        }
        Class::Notebook => {
            identifiers::search(&text, "", findings);
            document::notebook(bytes, findings);
        }
        Class::Image => image::image(kind, bytes, whole, findings),
        Class::OtherMedia => findings.add(RuleName::NotLookedAt, format!("what is in a {kind} file is not known here")),
        Class::Pdf => document::pdf(bytes, whole, findings),
        Class::Archive => findings.add(RuleName::Archive, format!("its content is {kind}")),
        Class::Data => findings.add(RuleName::DataFile, format!("its content is {kind}")),
        Class::Model => findings.add(RuleName::Model, format!("its content is {kind}")),
        Class::Program => findings.add(RuleName::Program, format!("its content is {kind}")),
        Class::Binary => {
            findings.add(RuleName::Unreadable, "its content is not text, and of no kind that is known here")
        }
    }
    None
}

/// A symbolic link, and where it leads.
pub fn link(path: &[u8], target: &[u8], rules: &Rules) -> Looked {
    other(path, "link", RuleName::Link, link_to(target), rules)
}

/// What is told of a link that leads there.
pub fn link_to(target: &[u8]) -> String {
    bounded(&format!("a symbolic link to {}", text::neutral_bytes(target)))
}

/// Something that is neither file, directory nor link.
pub fn special(path: &[u8], what: &str, rules: &Rules) -> Looked {
    other(path, what, RuleName::NotAFile, format!("it is a {what}"), rules)
}

/// Something that could not be looked at.
pub fn unseen(path: &[u8], why: &str, rules: &Rules) -> Looked {
    other(path, "unknown", RuleName::NotLookedAt, why.to_owned(), rules)
}

fn other(path: &[u8], kind: &str, rule: RuleName, why: String, rules: &Rules) -> Looked {
    let mut findings = Findings::new(rules);
    name(path, &mut findings);
    findings.add(rule, why);
    Looked {
        name: Name::new(path),
        kind: kind.to_owned(),
        size: None,
        sha256: None,
        table: None,
        findings: findings.end(),
    }
}

/// What the name itself says.
fn name(path: &[u8], findings: &mut Findings<'_>) {
    match std::str::from_utf8(path) {
        Err(_) => findings.add(RuleName::Name, "its name is not UTF-8"),
        Ok(plain) => {
            if text::neutral_line(plain) != plain {
                findings.add(RuleName::Name, "its name has characters that steer a terminal or hide others");
            }
            if let Some(what) = identifiers::in_name(plain) {
                findings.add(RuleName::IdentifierInName, format!("its name has {what}"));
            }
        }
    }
    let mut parts = path.split(|byte| *byte == b'/');
    if parts.clone().any(|part| part == b".git" || part == b".svn" || part == b".hg") {
        findings.add(RuleName::VersionControl, "it is of a repository");
    } else if parts.any(|part| part.starts_with(b".")) {
        findings.add(RuleName::Hidden, "its name, or that of a directory on the way, begins with a dot");
    }
}

/// The ending of a name, in lower case and with its dot.
fn ending(path: &[u8]) -> String {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = name.strip_prefix(b".").unwrap_or(name);
    let at = name.iter().rposition(|byte| *byte == b'.');
    at.and_then(|at| name.get(at..)).map_or_else(String::new, |ending| text::neutral_bytes(ending).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::finding::verdict;
    use crate::precheck::rules::Site;
    use proptest::prelude::*;

    fn looked(path: &str, bytes: &[u8]) -> Looked {
        let rules = Rules::of(&Site::default()).unwrap();
        let stat = Stat { size: u64::try_from(bytes.len()).unwrap(), names: 1, executable: false };
        file(path.as_bytes(), stat, bytes, &rules)
    }

    fn rules_of(path: &str, bytes: &[u8]) -> Vec<RuleName> {
        looked(path, bytes).findings.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn ordinary_results_are_nothing_found_which_is_not_called_safe() {
        for (path, text) in [
            ("tables/sex_by_outcome.csv", "sex,outcome_0,outcome_1\nF,263,251\nM,233,253\n"),
            ("model/readme.md", "# Model\nAUC 0.81 (95% CI 0.79-0.83), n rounded to 1000.\n"),
            ("coefficients.tsv", "term\testimate\tp\nage\t0.03\t0.001\n"),
            ("empty.csv", ""),
            ("summary.json", "{\"auc\": 0.81}"),
        ] {
            assert_eq!(
                verdict(&looked(path, text.as_bytes()).findings),
                "nothing found",
                "{path}: {:?}",
                looked(path, text.as_bytes())
            );
        }
    }

    #[test]
    fn what_lies_about_itself_or_cannot_be_read_is_blocked() {
        let csv = b"nhs_number,age\n9434765919,3\n";
        for (path, bytes, rule) in [
            ("raw.csv", csv.as_slice(), RuleName::IdColumn),
            ("figure.png", csv, RuleName::TypeDiffers),
            ("table.csv", b"PK\x03\x04....", RuleName::Archive),
            ("d.parquet", b"PAR1\0...", RuleName::DataFile),
            ("m.pkl", b"\x80\x04\x95.", RuleName::Model),
            ("weights.txt", b"\x3c\0\0\0\0\0\0\0{\"w\":{}}", RuleName::Model),
            ("tool", b"\x7fELF\x02", RuleName::Program),
            ("run.txt", b"#!/bin/sh\n", RuleName::Program),
            ("x.dat", b"\x01\x02\x03", RuleName::Unreadable),
            ("x.txt", b"\xff\xfea\0b\0", RuleName::Unreadable),
            ("patient_9434765919.txt", b"ok", RuleName::IdentifierInName),
            ("proj/.git/config", b"x", RuleName::VersionControl),
            ("a\u{202e}vsc.txt", b"x", RuleName::Name),
            ("noending", b"x", RuleName::Type),
            ("nb.ipynb", b"{\"cells\":[{\"outputs\":[1]}]}", RuleName::NotebookOutputs),
        ] {
            assert!(rules_of(path, bytes).contains(&rule), "{path}: {:?}", rules_of(path, bytes));
            assert_eq!(verdict(&looked(path, bytes).findings), "block", "{path}");
        }
        assert!(rules_of(".Rhistory.txt", b"x").contains(&RuleName::Hidden));
        let rules = Rules::of(&Site::default()).unwrap();
        assert_eq!(verdict(&link(b"a.csv", b"/etc/passwd", &rules).findings), "block");
        assert_eq!(verdict(&special(b"a", "named pipe", &rules).findings), "block");
        let large = file(b"a.txt", Stat { size: 1 << 40, names: 2, executable: true }, b"x", &rules);
        let found: Vec<RuleName> = large.findings.iter().map(|finding| finding.rule).collect();
        assert_eq!(found, [RuleName::Size, RuleName::NotLookedAt, RuleName::OtherName, RuleName::Executable]);
    }

    proptest! {
        #[test]
        fn every_file_has_a_word_and_every_name_comes_back(path in any::<Vec<u8>>(), bytes in any::<Vec<u8>>()) {
            let rules = Rules::of(&Site::default()).unwrap();
            let looked = file(&path, Stat { size: 3, names: 1, executable: false }, &bytes, &rules);
            let word = verdict(&looked.findings);
            prop_assert!(["block", "review", "note", "nothing found"].contains(&word));
            let text = serde_json::to_string(&looked).unwrap();
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Looked>(&text).unwrap(), looked.clone());
            let shown = looked.name.shown();
            prop_assert_eq!(crate::text::neutral_line(&shown), shown);
        }
    }
}
