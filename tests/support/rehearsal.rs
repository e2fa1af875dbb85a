//! Rehearsals, and their reports.

use serde_json::Value;

use super::{Host, Ran};

/// A rehearsal that has ended.
#[derive(Debug)]
pub struct Rehearsal {
    /// What it said.
    pub ran: Ran,
    /// Its report; null where there is none.
    pub report: Value,
}

impl Host {
    /// `ces rehearse` with these words, to its end.
    pub fn rehearse(&self, words: &[&str]) -> Rehearsal {
        let file = self.home().join("report.json");
        std::fs::remove_file(&file).ok();
        let inside = self.researcher().dir.join("report.json");
        let mut command = self.ces();
        command.args(["rehearse", "-e", &format!("CES_TEST={}", self.token()), "--json"]).arg(inside).args(words);
        let ran = Ran::from(command.output());
        let report = std::fs::read_to_string(&file).ok().map(|text| serde_json::from_str(&text).expect("JSON"));
        Rehearsal { ran, report: report.unwrap_or(Value::Null) }
    }

    /// The same of a shell script in the demonstration image.
    pub fn rehearse_sh(&self, options: &[&str], script: &str) -> Rehearsal {
        self.rehearse(&[options, &["localhost/demo", "/bin/sh", "-c", script]].concat())
    }
}

impl Rehearsal {
    /// The finding of this kind and object, or none.
    pub fn finding(&self, kind: &str, object: &str) -> Option<&Value> {
        self.all().iter().find(|finding| finding["kind"] == kind && finding["object"] == object)
    }

    /// All findings.
    #[track_caller]
    pub fn all(&self) -> &[Value] {
        self.report["findings"].as_array().unwrap_or_else(|| panic!("there is no report: {self:?}"))
    }

    /// Asserts a finding with its verdict, and gives it.
    #[track_caller]
    pub fn found(&self, verdict: &str, kind: &str, object: &str) -> &Value {
        let found = self.finding(kind, object).unwrap_or_else(|| panic!("no {kind} {object}: {self:#?}"));
        assert_eq!(found["verdict"], verdict, "{found:#}");
        found
    }
}
