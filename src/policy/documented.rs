//! `docs/policy-keys.md` against what is read and what holds without a file: the page has every key, the rule without it, and an
//! example that is valid.

use std::collections::{BTreeMap, BTreeSet};

use super::{HostFacts, Policy, units};
use crate::image::unpack::limits::Limits;

const FACTS: HostFacts = HostFacts { memory_bytes: 64 << 30, cpus: 8.0, privileged: true };

const PAGE: &str = include_str!("../../docs/policy-keys.md");
const FILE: &str = include_str!("../../docs/policy.toml");
const PRECHECK: &str = include_str!("../../bundles/precheck.toml");

/// What the page calls a key that the site chooses.
const CHOSEN: [&str; 4] = ["HOST", "NAME", "KEY", "LOGIN"];

/// A row of the page.
struct Row {
    key: String,
    without: String,
    example: String,
}

fn rows() -> Vec<Row> {
    let lines = PAGE.lines().filter(|line| line.starts_with("| `"));
    let plain = |cell: &str| cell.trim().replace('`', "");
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            Row { key: plain(cells[0]), without: plain(cells[1]), example: plain(cells[2]) }
        })
        .collect()
}

/// The keys of a table, as the error about one that is none lists them; `place` is how the error calls the table.
fn allowed(text: &str, place: &str) -> Option<Vec<String>> {
    let error = Policy::parse(text, "policy.toml", &FACTS).err()?.to_string();
    let (_, allowed) = error.split_once(&format!("is not a key; allowed {place}: "))?;
    Some(allowed.split(", ").map(str::to_owned).collect())
}

/// Every key that is read below `path`, in a list if `path` is one.
fn keys_below(path: &str, all: &mut BTreeSet<String>) {
    let chosen = format!("{path}.chosen");
    let tried = [
        (path, format!("{path}.no-key = 1")),
        (path, format!("{path} = [{{ no-key = 1 }}]")),
        (chosen.as_str(), format!("{chosen}.no-key = 1")),
    ];
    for (at, text) in tried {
        for key in allowed(&text, &format!("in [{at}]")).into_iter().flatten() {
            let key = format!("{at}.{key}");
            keys_below(&key, all);
            all.insert(key);
        }
    }
}

fn keys() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for key in allowed("no-key = 1", "at the top").unwrap() {
        keys_below(&key, &mut all);
        all.insert(key);
    }
    // What is beside tables of the site's own names is in no list of keys.
    all.insert("registries.allow".to_owned());
    // A table is no key of its own; a list of tables is.
    let is_table =
        |key: &String| key != "mounts.allow" && all.iter().any(|other| other.starts_with(&format!("{key}.")));
    all.iter().filter(|key| !is_table(key)).cloned().collect()
}

fn as_read(key: &str) -> String {
    let parts = key.split('.').map(|part| if CHOSEN.contains(&part) { "chosen" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Whether a document states a key.
fn states(value: &toml::Value, key: &str) -> bool {
    let Some((first, rest)) = key.split_once('.').or(Some((key, ""))).filter(|(first, _)| !first.is_empty()) else {
        return true;
    };
    match value {
        toml::Value::Table(table) if CHOSEN.contains(&first) => table.values().any(|below| states(below, rest)),
        toml::Value::Table(table) => table.get(first).is_some_and(|below| states(below, rest)),
        toml::Value::Array(items) => items.iter().any(|item| states(item, key)),
        _ => false,
    }
}

#[test]
fn the_page_of_keys_has_every_key_that_is_read_and_no_other() {
    let of_page: BTreeSet<String> = rows().iter().map(|row| as_read(&row.key)).collect();
    assert_eq!(of_page, keys());
    assert_eq!(of_page.len(), rows().len(), "a key is there once");
    let file: toml::Value =
        toml::from_str(&FILE.replace("\n# approve", "\napprove").replace("\n# waivers", "\nwaivers")).unwrap();
    for row in rows().iter().filter(|row| !row.key.ends_with(".default")) {
        assert!(states(&file, &row.key), "docs/policy.toml has no {}", row.key);
    }
}

#[test]
fn each_example_of_the_page_is_valid_and_states_its_key() {
    for row in rows().iter().filter(|row| !row.example.starts_with("see ")) {
        if let Err(error) = Policy::parse(&row.example, "policy.toml", &FACTS) {
            panic!("{}: {}", row.key, error.report());
        }
        assert!(states(&toml::from_str(&row.example).unwrap(), &row.key), "{}: {}", row.key, row.example);
    }
}

#[test]
fn what_the_page_says_of_a_key_that_is_left_out_is_what_holds_then() {
    let mut holds: BTreeMap<String, String> = BTreeMap::new();
    for rule in Policy::builtin(&FACTS).rules() {
        let limit = |what: &str| match what.rsplit_once(", ") {
            Some(("io a second", kind)) => Some(format!("limits.io.{kind}")),
            Some(("scratch files" | "output files", "default")) => None,
            Some(("scratch files", kind)) => Some(format!("limits.scratch.files{kind}")),
            Some(("output files", kind)) => Some(format!("limits.outputs.files{kind}")),
            Some((what, kind)) => Some(format!("limits.{what}.{kind}")),
            None => None,
        };
        let (key, value) = match (rule.because.strip_prefix("built-in: "), rule.what.as_str()) {
            // "limits.cpus.max (this host's CPUs)": the value is the host's, and the page says whence it comes.
            (Some(because), _) => match because.split_once(" (") {
                Some((key, whence)) => (key.to_owned(), whence.trim_end_matches(')').to_owned()),
                None => (because.to_owned(), rule.value),
            },
            (None, "contact") => ("contact".to_owned(), rule.value),
            (None, "registries") => ("registries.allow".to_owned(), rule.value),
            (None, "approved images") => ("images.approved".to_owned(), rule.value),
            (None, "stack: waivers") => ("images.stack.waivers".to_owned(), rule.value),
            (None, "records are kept") => ("records.keep".to_owned(), rule.value),
            (None, "copies of audit lines") => ("audit.copy".to_owned(), rule.value),
            (None, "stack: rules bind runs") => continue,
            (None, what) => match limit(what) {
                Some(key) => (key.replace(".at most", ".max").replace("filesat most", "files"), rule.value),
                None => continue,
            },
        };
        holds.insert(key, value);
    }
    let limits = Limits::default();
    for (key, value) in [
        ("layer", units::show_size(limits.layer_bytes)),
        ("image", units::show_size(limits.image_bytes)),
        ("entries", limits.entries.to_string()),
        ("layers", limits.layers.to_string()),
        ("memory", units::show_size(limits.memory)),
    ] {
        holds.insert(format!("images.limits.{key}"), value);
    }
    let precheck: toml::Table = toml::from_str(PRECHECK).unwrap();
    for key in ["size", "rows", "threshold", "zero", "row_level"] {
        holds.insert(format!("precheck.{key}"), precheck[key].to_string());
    }
    let rows = rows();
    for (key, value) in &holds {
        let row = rows.iter().find(|row| row.key == *key).unwrap_or_else(|| panic!("the page has no {key}"));
        assert!(row.without.starts_with(value.as_str()), "{key}: {value} holds, and the page says {}", row.without);
    }
    assert!(holds.len() > 50, "{}", holds.len());
}
