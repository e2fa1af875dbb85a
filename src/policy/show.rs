//! The rules in force, one a line.
//!
//! Takes a `Policy`; gives a list of rule, value and origin for people and programs; trusts it; refuses nothing.

use std::fmt::Display;

use super::grant::Decision;
use super::reader::{Origin, Rule};
use super::{Limit, Policy, units};

impl Policy {
    /// Every rule with its value and where it is stated.
    pub fn rules(&self) -> Vec<Decision> {
        let mut out = Vec::new();
        let mut say = |what: &str, value: String, origin: Option<&Origin>| {
            let because = origin.map_or_else(|| "built-in".to_owned(), ToString::to_string);
            out.push(Decision { what: what.to_owned(), value, because });
        };
        say("contact", self.contact().unwrap_or("none").to_owned(), self.contact.as_ref().map(|r| &r.origin));
        let places = [("store", &self.site.store), ("state", &self.site.state), ("log", &self.site.log)];
        for (what, place) in places.into_iter().filter_map(|(what, place)| Some((what, place.as_ref()?))) {
            say(&format!("site {what}"), place.display().to_string(), None);
        }
        for (what, value, origin) in self.identity.lines() {
            say(&what, value, Some(origin));
        }
        let allow = self.registries.allow.as_ref();
        say("registries", allow.map_or("any".to_owned(), |r| r.value.join(", ")), allow.map(|r| &r.origin));
        for (host, mirror) in &self.registries.mirrors {
            let from = mirror.url.clone().unwrap_or_else(|| "itself".to_owned());
            let token = mirror.token.as_ref().map_or_else(String::new, |url| format!("; passwords also go to {url}"));
            say(&format!("registry {host}"), format!("fetched from {from}{token}"), None);
        }
        let approved = self.images.approved.as_ref();
        let list = approved.map_or("any image".to_owned(), |r| r.value.display().to_string());
        say("approved images", list, approved.map(|r| &r.origin));
        if let Some(rule) = &self.images.approvers {
            say("images are approved by", format!("root, {}", rule.value.join(", ")), Some(&rule.origin));
        }
        let digest = &self.images.require_digest;
        say("digest required", digest.value.to_string(), Some(&digest.origin));
        let shared = &self.images.shared;
        say("images shared by all", shared.value.to_string(), Some(&shared.origin));
        let unmapped = &self.images.unmapped_ids;
        say("images with ids beyond those mapped", unmapped.value.to_string(), Some(&unmapped.origin));
        let rehearsed = &self.images.rehearsed;
        say("images rehearsed before they run", rehearsed.value.name().to_owned(), Some(&rehearsed.origin));
        if let Some(mode) = &self.mode {
            say("mode", mode.value.name().to_owned(), Some(&mode.origin));
        }
        let most = &self.images.limits;
        for (what, rule, bytes) in [
            ("bytes of a layer", &most.layer, true),
            ("bytes of an image", &most.image, true),
            ("entries of a layer", &most.entries, false),
            ("layers of an image", &most.layers, false),
            ("memory while unpacking", &most.memory, true),
        ] {
            if let Some(rule) = rule {
                let value = if bytes { units::show_size(rule.value) } else { rule.value.to_string() };
                say(&format!("{what}, at most"), value, Some(&rule.origin));
            }
        }
        let set = &self.precheck;
        for (what, rule) in [
            ("bytes of an output", &set.size),
            ("rows of a table", &set.rows),
            ("small counts are below", &set.threshold),
            ("rows that may be people", &set.row_level),
        ] {
            if let Some(rule) = rule {
                say(&format!("pre-check: {what}"), rule.value.to_string(), Some(&rule.origin));
            }
        }
        if let Some(rule) = &set.zero {
            say("pre-check: 0 is a small count", rule.value.to_string(), Some(&rule.origin));
        }
        if let Some(rule) = &set.types {
            say("pre-check: types", rule.value.join(" "), Some(&rule.origin));
        }
        for (what, value, origin) in self.images.stack.lines() {
            say(what, value, origin);
        }
        say("safe data", self.data.root.value.display().to_string(), Some(&self.data.root.origin));
        say("access to safe data", self.data.access.value.name().to_owned(), Some(&self.data.access.origin));
        for (name, project) in &self.projects {
            if let Some(rule) = &project.access {
                say(&format!("project {name}"), rule.value.name().to_owned(), Some(&rule.origin));
            }
            if let Some(rule) = &project.profiles {
                say(&format!("project {name}"), rule.value.join(", "), Some(&rule.origin));
            }
        }
        let profiles = &self.profiles;
        say("profiles", profiles.allow.value.join(", "), Some(&profiles.allow.origin));
        say("default profile", profiles.default.value.clone(), Some(&profiles.default.origin));
        let limits = &self.limits;
        let size = |bytes: &u64| units::show_size(*bytes);
        let mut limit = |what: &str, parts: [Option<(String, &Origin)>; 2]| {
            for (kind, part) in ["at most", "default"].into_iter().zip(parts) {
                match part {
                    Some((value, origin)) => say(&format!("{what}, {kind}"), value, Some(origin)),
                    None => say(&format!("{what}, {kind}"), "unlimited".to_owned(), None),
                }
            }
        };
        limit("memory", parts(&limits.memory, size));
        limit("cpus", parts(&limits.cpus, shown));
        limit("pids", parts(&limits.pids, shown));
        limit("io a second", parts(&limits.io, size));
        limit("time", parts(&limits.time, |time| units::show_duration(*time)));
        limit("scratch", parts(&limits.scratch, size));
        limit("scratch files", parts(&limits.scratch_files, shown));
        limit("outputs", parts(&limits.outputs, size));
        limit("output files", parts(&limits.output_files, shown));
        say("limits required", limits.required.value.to_string(), Some(&limits.required.origin));
        let mounts: Vec<String> =
            self.mounts.value.iter().map(|rule| format!("{} ({})", rule.host, rule.access.name())).collect();
        let mounts = if mounts.is_empty() { "none".to_owned() } else { mounts.join(", ") };
        say("mounts", mounts, Some(&self.mounts.origin));
        for (what, rule) in [("ports", &self.ports), ("interactive", &self.interactive), ("exec", &self.exec)] {
            say(what, rule.value.to_string(), Some(&rule.origin));
        }
        self.kept(&mut say);
        out
    }

    /// What is kept of runs, and where copies of it go.
    fn kept(&self, say: &mut dyn FnMut(&str, String, Option<&Origin>)) {
        let whole = &self.records.whole_commands;
        say("commands in records", if whole.value { "full" } else { "redacted" }.to_owned(), Some(&whole.origin));
        let changes = &self.records.changes;
        say("changes of safe data", if changes.value { "listed" } else { "off" }.to_owned(), Some(&changes.origin));
        let values = &self.records.values;
        let names = if values.value.is_empty() { "none".to_owned() } else { values.value.join(", ") };
        say("values of variables in records", names, Some(&values.origin));
        let keep = self.records.keep.as_ref();
        let kept = keep.map_or("for ever".to_owned(), |rule| units::show_duration(rule.value));
        say("records are kept", kept, keep.map(|rule| &rule.origin));
        let copy = self.audit.copy.as_ref();
        let to = self.copies().map_or("nowhere".to_owned(), |to| format!("{} ({})", to.service, to.socket.display()));
        say("copies of audit lines", to, copy.map(|rule| &rule.origin));
        if copy.is_some() {
            let required = &self.audit.required;
            say("copies required", required.value.to_string(), Some(&required.origin));
        }
    }
}

fn shown<T: Display>(value: &T) -> String {
    value.to_string()
}

fn parts<T>(limit: &Limit<T>, show: impl Fn(&T) -> String) -> [Option<(String, &Origin)>; 2] {
    let part = |rule: &'_ Rule<T>| show(&rule.value);
    [&limit.max, &limit.default].map(|rule| rule.as_ref().map(|rule| (part(rule), &rule.origin)))
}
