//! A line of the audit log: one event, as JSON, tied to the line before.
//!
//! Takes what happened, to whom and by which rule; gives text of one line and bounded length; trusts nothing in it to be plain:
//! JSON escapes line breaks, and long texts are shortened. Each line has the SHA-256 of the one before, and sixteen random
//! bytes, so that the hash of a line tells nobody what is in it.
//!
//! The order of lines is their number; their times are what the clock said.

use std::fs;
use std::fs::File;
use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::host::caller::Mode;
use crate::host::machine::Machine;

/// No line is longer, in bytes.
pub const LONGEST: usize = 16 << 10;
/// No text in a line is longer, in characters.
const LONGEST_TEXT: usize = 400;
/// How many arguments are told of at most.
pub const ARGUMENTS: usize = 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A log began, perhaps after one of an older version.
    #[serde(rename = "log.begun")]
    LogBegun,
    /// An image was pulled, or could not be.
    #[serde(rename = "pull")]
    Pull,
    /// An image was removed.
    #[serde(rename = "rmi")]
    Rmi,
    /// What nothing used was deleted.
    #[serde(rename = "prune")]
    Prune,
    /// The approval of an image was asked for, or the request was taken back.
    #[serde(rename = "request")]
    Request,
    /// Somebody changed which images are approved, or declined a request.
    #[serde(rename = "approve")]
    Approve,
    /// Outputs of a run were looked at before a person does.
    #[serde(rename = "precheck")]
    Precheck,
    /// Outputs of a run were copied into a form for elsewhere.
    #[serde(rename = "export")]
    Export,
    /// The site's rules, or a protection, said no.
    #[serde(rename = "refused")]
    Refused,
    /// A run began.
    #[serde(rename = "run.begun")]
    RunBegun,
    /// A run ended.
    #[serde(rename = "run.finished")]
    RunFinished,
    /// A run was ended by the end of its ces, or of the host.
    #[serde(rename = "run.interrupted")]
    RunInterrupted,
    /// A command was executed in a run.
    #[serde(rename = "exec")]
    Exec,
    /// Somebody else than whose run it was read its record.
    #[serde(rename = "record.read")]
    RecordRead,
    /// What a run left behind was removed after its record was closed.
    #[serde(rename = "deletion")]
    Deletion,
    /// The record of a run was removed: it was older than the policy keeps records.
    #[serde(rename = "record.removed")]
    RecordRemoved,
    /// A line has no copy where the policy wants one.
    #[serde(rename = "copy.failed")]
    CopyFailed,
    /// Vulnerability data was imported.
    #[serde(rename = "vulndb.import")]
    VulndbImport,
    /// Vulnerability data was removed.
    #[serde(rename = "vulndb.remove")]
    VulndbRemove,
    /// The state of the log was signed.
    #[serde(rename = "checkpoint")]
    Checkpoint,
}

impl Event {
    /// Whether it tells of what is about to begin, and does not where the line cannot be kept as the policy wants it.
    pub fn comes_before(self) -> bool {
        matches!(self, Self::RunBegun | Self::Exec | Self::RecordRead | Self::RecordRemoved)
    }
}

/// The name of an event, as it is written.
pub fn event_name(event: Event) -> String {
    match serde_json::to_value(event) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

/// Who did it, and to what.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// Whether the policy binds them; else the log is their own, too.
    pub mode: Mode,
    /// On whose behalf, as a user id of the host.
    pub uid: u32,
    /// Their login name.
    pub name: String,
    /// The project.
    pub project: Option<String>,
    /// The rule that it comes from.
    pub rule: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// What else is to be told.
    pub about: Value,
}

/// A line, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which one of this log, from 0.
    pub seq: u64,
    /// SHA-256 of the line before, without its line break, in hexadecimal.
    pub prev: String,
    salt: String,
    /// What the clock said (UTC, RFC 3339).
    pub time: String,
    /// The host.
    pub host: String,
    /// One start of its kernel.
    pub boot: String,
    /// What happened.
    pub event: Event,
    /// Whether the policy bound who did it.
    pub mode: Mode,
    /// On whose behalf, as a user id of the host.
    pub uid: u32,
    /// Who logged in (`/proc/self/loginuid`), where the kernel knows.
    pub login: Option<u32>,
    /// Their login name.
    pub name: String,
    /// The project.
    pub project: Option<String>,
    /// The rule.
    pub rule: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// What else there is to tell.
    pub about: Value,
    /// How many lines right before this one were not finished, and are kept as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_torn: Option<u64>,
    /// Why it has no copy, where the policy wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_copied: Option<String>,
}

/// Where a line goes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its number.
    pub seq: u64,
    /// SHA-256 of the line before.
    pub prev: [u8; 32],
    /// How many lines before it were not finished.
    pub torn: u64,
}

impl Line {
    /// The line of `entry` at that place, of this machine and this moment.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new(entry: &Entry, place: Place, machine: &Machine) -> std::io::Result<Self> {
        let mut salt = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut salt)?;
        let short = |text: &Option<String>| text.as_deref().map(shortened);
        Ok(Self {
            seq: place.seq,
            prev: hex(&place.prev),
            salt: hex(&salt),
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
            host: shortened(&machine.host),
            boot: shortened(&machine.boot),
            event: entry.event,
            mode: entry.mode,
            uid: entry.uid,
            login: login(),
            name: shortened(&entry.name),
            project: short(&entry.project),
            rule: short(&entry.rule),
            run: short(&entry.run),
            about: bounded(entry.about.clone()),
            after_torn: (place.torn > 0).then_some(place.torn),
            not_copied: None,
        })
    }

    /// Its text, without a line break.
    ///
    /// # Errors
    /// When it is longer than a line may be.
    pub fn text(&self) -> std::io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        if text.len() > LONGEST { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(text) }
    }
}

/// Who logged in; none where the kernel does not know (no audit, or no login).
fn login() -> Option<u32> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// SHA-256 of a line's text.
pub fn hash(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes all that is written to it.
        write!(text, "{byte:02x}").ok();
        text
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
    }
}

/// The same with texts of a bounded length, and no more than the first few of what there is many of.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(shortened(&text)),
        Value::Array(values) => values.into_iter().take(ARGUMENTS).map(bounded).collect(),
        Value::Object(values) => values.into_iter().map(|(key, value)| (key, bounded(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_told_a_line_is_one_line_and_comes_back(text in ".{0,3000}", count in 0_usize..60) {
            let entry = Entry {
                event: Event::Refused, mode: Mode::Enforced, uid: 1, name: text.clone(), project: Some(text.clone()),
                rule: Some(text.clone()), run: Some(text.clone()), about: serde_json::json!({"a": vec![text; count.min(3)]}),
            };
            let place = Place { seq: 7, prev: [1; 32], torn: 0 };
            let line = Line::new(&entry, place, &Machine::this().unwrap()).unwrap();
            let written = line.text().unwrap();
            prop_assert!(!written.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<Line>(&written).unwrap(), line);
        }
    }
}
