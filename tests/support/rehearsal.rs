//! Rehearsals, and their reports.

use std::ffi::OsString;

use serde_json::Value;

use super::{Host, Ran};

/// Where the tests are that are repeated with a rehearsal in the place of each run (`under_rehearse` in `privileged/main.rs`). A
/// test runs in a thread of its name.
const REPEATED: &str = "under_rehearse::";

fn is_repeated() -> bool {
    std::thread::current().name().is_some_and(|name| name.starts_with(REPEATED))
}

/// How `ces` is called in this test: to run, or to rehearse on the data that a run would have.
pub fn verb(host: &Host) -> Vec<OsString> {
    if is_repeated() {
        let data = host.researcher().dir.join("safe_data");
        return vec!["rehearse".into(), "--data".into(), data.into()];
    }
    vec!["run".into()]
}

/// The exit status that a run would have had, where a rehearsal gave its verdict; it says how the payload ended.
pub fn payloads(code: Option<i32>, stderr: &str) -> Option<i32> {
    let ended = stderr.lines().find_map(|line| line.strip_prefix("ces: run ")?.split_once(": "));
    let Some((_, how)) = ended.filter(|_| is_repeated()) else { return code };
    // Where memory runs out, whoever would write a report may be gone with the rest.
    let is_verdict = matches!(code, Some(0 | 1)) || (code == Some(125) && how.starts_with("out of memory"));
    if !is_verdict {
        return code;
    }
    match how.strip_prefix("exit ") {
        Some(rest) => rest.split([',', ' ']).next()?.parse().ok(),
        None if how.starts_with("deadline passed") => Some(124),
        None => {
            let signal = how.strip_prefix("killed by signal ").and_then(|rest| rest.split([',', ' ']).next());
            let signal = signal.and_then(|name| name.parse::<nix::sys::signal::Signal>().ok());
            Some(128 + signal.map_or(9, |signal| signal as i32))
        }
    }
}

/// What the documented schema has against a report; nothing, if it is valid.
pub fn objections(report: &Value) -> Option<String> {
    const SCHEMA: (&str, &str) = ("file:///rehearsal.schema.json", include_str!("../../docs/rehearsal.schema.json"));
    let mut compiler = boon::Compiler::new();
    compiler.add_resource(SCHEMA.0, serde_json::from_str(SCHEMA.1).expect("a schema is JSON")).expect("one schema");
    let mut schemas = boon::Schemas::new();
    let schema = compiler.compile(SCHEMA.0, &mut schemas).expect("a schema that compiles");
    schemas.validate(report, schema).err().map(|error| format!("{error:#}"))
}

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
        if let Some(objections) = report.as_ref().and_then(objections) {
            panic!("a report that its schema does not know: {objections}");
        }
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
