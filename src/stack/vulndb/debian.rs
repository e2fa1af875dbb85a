//! The Debian security tracker's export (<https://security-tracker.debian.org/tracker/data/json>).
//!
//! Takes the document, which is read as it comes: source package → vulnerability → release → state. Gives a record for each
//! vulnerability of a package in a release. A fixed version of `0` means that the release never had it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::builder::Builder;
use super::record::{Event, Note, Record};
use super::severity::Severity;
use crate::stack::version::Order;

#[derive(Deserialize)]
struct Vulnerability {
    #[serde(default)]
    description: String,
    #[serde(default)]
    releases: BTreeMap<String, Release>,
}

#[derive(Deserialize)]
struct Release {
    status: String,
    #[serde(default)]
    fixed_version: Option<String>,
    #[serde(default)]
    urgency: Option<String>,
    #[serde(default)]
    nodsa: Option<String>,
    #[serde(default)]
    nodsa_reason: Option<String>,
}

/// Reads the document into `builder`; gives the number of records.
///
/// # Errors
/// When it is none, or too large.
pub fn import(from: impl Read, builder: &mut Builder) -> io::Result<u64> {
    let mut records = 0;
    let mut deserializer = serde_json::Deserializer::from_reader(from);
    Packages { builder, records: &mut records }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(records)
}

struct Packages<'b> {
    builder: &'b mut Builder,
    records: &'b mut u64,
}

impl<'d> DeserializeSeed<'d> for Packages<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'d> Visitor<'d> for Packages<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("source packages of Debian")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let vulnerabilities: BTreeMap<String, Vulnerability> = map.next_value()?;
            for (id, vulnerability) in vulnerabilities {
                for (release, state) in vulnerability.releases {
                    let record = record(&id, &vulnerability.description, &state);
                    let place = format!("Debian:{release}");
                    self.builder.add(&place, &name, &record).map_err(A::Error::custom)?;
                    *self.records += 1;
                }
            }
        }
        Ok(())
    }
}

fn record(id: &str, description: &str, state: &Release) -> Record {
    let mut events = vec![Event::Introduced("0".to_owned())];
    match (state.status.as_str(), state.fixed_version.as_deref()) {
        // Never affected.
        ("resolved", Some("0")) => events.clear(),
        ("resolved", Some(fixed)) => events.push(Event::Fixed(fixed.to_owned())),
        _ => {}
    }
    let urgency = state.urgency.as_deref().unwrap_or_default();
    let ignored = state.nodsa.is_some() || state.nodsa_reason.as_deref().is_some_and(|reason| !reason.is_empty());
    let note = match urgency.trim_end_matches('*') {
        "unimportant" => Some(Note::Unimportant),
        "end-of-life" => Some(Note::EndOfLife),
        _ => ignored.then_some(Note::Ignored),
    };
    let mut record = Record {
        id: id.to_owned(),
        summary: description.chars().filter(|c| !c.is_control()).take(160).collect(),
        severity: Severity::of_word(urgency),
        ranges: vec![events],
        note,
        ..Record::default()
    };
    record.settle(Order::Deb);
    record
}
