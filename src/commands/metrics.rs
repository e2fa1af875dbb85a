//! `ces metrics`: what a monitoring system wants to know, as Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Read by node_exporter's textfile collector:
//! `ces metrics > /var/lib/node_exporter/ces.prom`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::{Site, audit, print, ps, records};
use crate::cli::{Global, ListArgs};
use crate::error::Result;
use crate::run::supervisor::record::index::{self, Entry, State};

/// Metrics of one name: what they count, and each value with its labels.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    values: Vec<(String, f64)>,
}

impl Family {
    fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: "gauge", values: vec![(String::new(), value)] }
    }

    /// Counts by one label. The label's values are words of ces's own, or of the policy: nothing that a payload names.
    fn by(name: &'static str, help: &'static str, label: &str, counts: BTreeMap<String, u64>) -> Self {
        let values =
            counts.into_iter().map(|(value, count)| (format!("{{{label}=\"{}\"}}", escaped(&value)), float(count)));
        Self { name, help, kind: "gauge", values: values.collect() }
    }
}

/// A label's value: backslash, quotation mark and line break are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus' values are 64-bit floats; counts stay below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Prints the metrics of everything that the caller sees.
///
/// # Errors
/// When records, audit log or store cannot be read.
pub fn metrics(global: &Global, args: &ListArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let mut families = runs(&site)?;
    families.push(Family::gauge("ces_running", "Runs under way on this host", count(ps::running(&site)?.len())));
    families.push(Family::by("ces_audit_events", "Lines of the audit log, by event", "event", audit::counts(&site)?));
    let images = site.store()?.images()?;
    families.push(Family::gauge("ces_images", "Images in the store", count(images.len())));
    let text = if args.json { json(&families) } else { text(&families) };
    text.lines().try_for_each(print::line).map(|()| 0)
}

fn count(items: usize) -> f64 {
    float(u64::try_from(items).unwrap_or(u64::MAX))
}

/// What the index has of past runs.
fn runs(site: &Site) -> Result<Vec<Family>> {
    let index = records::index(site)?;
    let entries = index::of(&index, records::own(site));
    let mut states: BTreeMap<String, u64> =
        ["begun", "finished", "refused", "interrupted"].map(|word| (word.to_owned(), 0)).into();
    let mut ended: BTreeMap<String, u64> =
        ["success", "failure", "deadline", "memory"].map(|word| (word.to_owned(), 0)).into();
    let mut seconds = 0.0;
    for entry in &entries {
        let state = match entry.state {
            State::Begun => "begun",
            State::Finished => "finished",
            State::Refused => "refused",
            State::Interrupted => "interrupted",
        };
        *states.entry(state.to_owned()).or_default() += 1;
        if entry.state == State::Finished {
            *ended.entry(end(entry).to_owned()).or_default() += 1;
        }
        seconds += entry.seconds.unwrap_or_default();
    }
    let mut families = vec![
        Family::by("ces_runs", "Runs in the records, by state", "state", states),
        Family::by("ces_runs_ended", "Finished runs, by how they ended", "end", ended),
    ];
    families.push(Family::gauge("ces_run_seconds", "Wall time of all runs together", seconds));
    Ok(families)
}

fn end(entry: &Entry<'_>) -> &'static str {
    match entry.exit {
        Some(0) => "success",
        Some(124) => "deadline",
        Some(137) if entry.ended.as_deref().is_some_and(|ended| ended.starts_with("out of memory")) => "memory",
        _ => "failure",
    }
}

fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, help, kind, values } in families {
        // Writing to a String cannot fail.
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
        values.iter().for_each(|(labels, value)| writeln!(text, "{name}{labels} {value}").unwrap_or_default());
    }
    text
}

fn json(families: &[Family]) -> String {
    let values = families.iter().flat_map(|family| {
        family.values.iter().map(|(labels, value)| (format!("{}{labels}", family.name), Value::from(*value)))
    });
    Value::Object(values.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_before_its_quotation_mark() {
        let counts = [("a\"} 1\nces_runs{x=\"\\".to_owned(), 2)].into();
        let text = text(&[Family::by("ces_x", "h", "l", counts)]);
        assert_eq!(text, "# HELP ces_x h\n# TYPE ces_x gauge\nces_x{l=\"a\\\"} 1\\nces_runs{x=\\\"\\\\\"} 2\n");
    }
}
