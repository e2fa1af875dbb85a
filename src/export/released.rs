//! What of a record may leave the host.
//!
//! Takes a record; gives the facts that any export may tell: the command without its arguments, no login name, no directory of the
//! host, nothing of the kernel's own. Everything in this folder is written from this type and not from a record, so that what is
//! withheld cannot be told by mistake.

use serde_json::{Value, json};

use crate::evidence::redact::{Redacted, Variable};
use crate::host::caller::Mode;
use crate::run::supervisor::record::Record;
use crate::run::supervisor::record::index::State;

/// A run that has ended, as others may know it.
#[derive(Debug, Clone)]
pub struct Released {
    /// The run.
    pub id: String,
    /// The version of ces.
    pub ces: String,
    /// Whether the policy bound the researcher.
    pub mode: Mode,
    /// The project.
    pub project: Option<String>,
    /// The image's reference.
    pub image: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Who approved the image for it, where images are approved.
    pub approver: Option<String>,
    /// Program and names of options.
    pub command: Redacted,
    /// Names of variables, and the values that the site lists.
    pub environment: Vec<Variable>,
    /// Whether safe data could be written.
    pub may_write: bool,
    /// When it began (UTC, RFC 3339).
    pub started: String,
    /// When it ended.
    pub finished: String,
    /// Exit status of `ces run`.
    pub exit: Option<u8>,
    /// How it ended, in words.
    pub ended: String,
    /// Wall time in seconds.
    pub seconds: Option<f64>,
    /// Highest memory use in bytes.
    pub peak_memory: Option<u64>,
    /// SHA-256 of the list of outputs, which the record has.
    pub list_sha256: Option<String>,
    /// How many warnings the record has. Their words stay there: they may name files and directories of the host.
    pub warnings: usize,
    document: Value,
}

/// How the decision on an image begins, as the grant words it.
const APPROVED_BY: &str = "approved by ";

impl Released {
    /// Of a run that has finished; none of any other.
    pub fn of(record: &Record) -> Option<Self> {
        let finished = record.finished.clone().filter(|_| record.state == State::Finished)?;
        let image = record
            .decisions
            .as_array()
            .into_iter()
            .flatten()
            .find(|decision| decision.get("what") == Some(&json!("image")));
        let said = image.and_then(|decision| decision.get("value")?.as_str());
        // The decision without its reason: that is a place in a file of the site's.
        let approval = said.map(|said| json!({"what": "image", "value": said}));
        let command = Redacted::of(&record.command);
        let list_sha256 = record.outputs.as_ref().and_then(|told| Some(told.list.as_ref()?.sha256.clone()));
        let document = json!({
            "version": record.version, "id": record.id, "state": record.state, "mode": record.mode, "ces": record.ces,
            "project": record.project, "image": record.image, "digest": record.digest, "approval": approval,
            "command": command, "data_access": record.data_access, "started": record.started, "finished": finished,
            "exit": record.exit, "ended": record.ended, "seconds": record.seconds, "peak_memory": record.peak_memory,
            "warnings": record.warnings.len(),
            "outputs": record.outputs.as_ref().map(|told| json!({
                "files": told.files.count(), "bytes": told.bytes, "list_sha256": list_sha256,
            })),
            "changes": record.changes.as_ref().map(|told| json!({
                "created": told.counts.map(|counts| counts.created), "changed": told.counts.map(|counts| counts.changed),
                "attributes": told.counts.map(|counts| counts.attributes),
                "removed": told.counts.map(|counts| counts.removed), "renamed": told.counts.map(|counts| counts.renamed),
                "whole": told.is_whole(), "list_sha256": told.list.as_ref().map(|list| &list.sha256),
            })),
            "redacted": ["arguments of the command", "researcher", "host", "paths of the host", "enforced", "decisions", "warnings"],
        });
        Some(Self {
            id: record.id.to_string(),
            ces: record.ces.clone(),
            mode: record.mode,
            project: record.project.clone(),
            image: record.image.clone(),
            digest: record.digest.clone(),
            approver: said.and_then(|said| said.strip_prefix(APPROVED_BY)).map(str::to_owned),
            command,
            environment: record.environment.clone(),
            may_write: record.data_access != "ro",
            started: record.started.clone(),
            finished,
            exit: record.exit,
            ended: record.ended.clone().unwrap_or_default(),
            seconds: record.seconds,
            peak_memory: record.peak_memory,
            list_sha256,
            warnings: record.warnings.len(),
            document,
        })
    }

    /// The record as it may leave, and what is not exported of the run, in words.
    pub fn document(&self, left_out: &[String]) -> Value {
        let mut document = self.document.clone();
        if let Some(fields) = document.as_object_mut() {
            fields.insert("left_out".to_owned(), json!(left_out));
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_leave_has_no_place_of_the_host_and_no_word_of_a_warning() {
        let place = "/home/h1/secretdir";
        let record: Record = serde_json::from_value(json!({
            "version": 1, "id": "20261130T185658-b0dff2", "state": "finished", "mode": "enforced", "ces": "0.1.0",
            "host": "tre-host-7", "researcher": "h1login", "uid": 1000, "image": "localhost/demo", "digest": "sha256:00",
            "command": ["/bin/sh"], "data": format!("{place}/data"), "data_access": "ro", "policy": format!("{place}/policy.toml"),
            "decisions": [{"what": "image", "value": "approved by A. Officer", "because": format!("{place}/approved.toml:3")}],
            "warnings": [format!("{place}/job.env line 1: the quotes are part of the value of Q"), "hunter2"],
            "started": "2026-11-30T18:56:58.000Z", "finished": "2026-11-30T18:57:00.000Z", "exit": 0, "ended": "exit 0",
            "outputs_path": format!("{place}/outputs"),
        }))
        .unwrap();
        let released = Released::of(&record).unwrap();
        let document = released.document(&[]);
        let task = crate::export::tes::task(&released, "https://tre.example/", &[], &[], "00");
        for text in [document.to_string(), task.to_string(), format!("{released:?}")] {
            for word in [place, "secretdir", "h1login", "tre-host-7", "hunter2"] {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
        assert_eq!((released.warnings, &document["warnings"]), (2, &json!(2)));
        assert_eq!(document["approval"], json!({"what": "image", "value": "approved by A. Officer"}));
        assert_eq!(task["logs"][0]["system_logs"], json!(["ended: exit 0", "warnings: 2, kept with the record"]));
    }
}
