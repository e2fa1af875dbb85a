//! The fences: what may stand where in the source. Each is shown to fail on a broken example.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the source: its path below `src`, and its text.
struct Source {
    path: String,
    text: String,
}

/// Modules from the first to the last: each may use those before it, and itself.
const ORDER: [&str; 9] = ["text", "error", "host", "image", "policy", "bundle", "run", "cli", "commands"];

const LONGEST: usize = 500;

/// Words that mean network or async, and the one file they may be in.
const NETWORK: [&str; 7] =
    ["oci_distribution", "oci_client", "tokio::", "async fn", "async move", ".await", "futures_util"];
const REGISTRY: &str = "image/source/registry.rs";

/// Loopback sockets of published ports are no network of a container; they live here.
const SOCKETS: [&str; 4] = ["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs"];
const MAY_LISTEN: [&str; 2] = ["image/source/registry.rs", "run/"];

fn source_files(dir: &Path, below: &str, out: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            source_files(&path, &format!("{name}/"), out);
        } else if name.ends_with(".rs") {
            out.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn house() -> Vec<Source> {
    below("src")
}

fn below(dir: &str) -> Vec<Source> {
    let mut out = Vec::new();
    source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), "", &mut out);
    assert!(out.len() > 10, "the source was not found");
    out
}

/// The lines of code with their numbers: no comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let first = word.starts_with(part);
        let last = word.ends_with(part);
        !(first && before.is_some_and(part) || last && after.is_some_and(part))
    })
}

fn only_in(sources: &[Source], words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        if allowed.iter().any(|place| source.path == *place || (place.ends_with('/') && source.path.starts_with(place)))
        {
            continue;
        }
        for (number, line) in code(&source.text) {
            for word in words.iter().filter(|word| has_word(line, word)) {
                broken.push(format!("src/{}:{number}: `{word}` belongs in {}", source.path, allowed.join(", ")));
            }
        }
    }
    broken
}

fn network(sources: &[Source]) -> Vec<String> {
    let mut broken = only_in(sources, &NETWORK, &[REGISTRY]);
    broken.extend(only_in(sources, &SOCKETS, &MAY_LISTEN));
    broken
}

fn engine(sources: &[Source]) -> Vec<String> {
    only_in(sources, &["libcontainer::"], &["run/engine.rs"])
}

fn unsafety(sources: &[Source]) -> Vec<String> {
    only_in(sources, &["unsafe", "unsafe_code"], &["host/sys.rs", "host/sys/"])
}

/// Deadlines and pauses are measured by a clock that nobody sets (clock_gettime(2), CLOCK_MONOTONIC); the clock on the wall
/// names runs and dates records, days and files.
fn wall_clock(sources: &[Source]) -> Vec<String> {
    let allowed = ["run/journal.rs", "run/record.rs", "commands/prepare.rs", "commands/facts.rs", "image/pull.rs"];
    only_in(sources, &["SystemTime", "Timestamp", "Zoned"], &allowed)
}

fn size(sources: &[Source]) -> Vec<String> {
    let lines = |source: &Source| source.text.lines().count();
    let too_long = sources.iter().filter(|source| lines(source) > LONGEST);
    too_long.map(|source| format!("{} has {} lines; at most {LONGEST}", source.path, lines(source))).collect()
}

/// The module a file belongs to, as a place in [`ORDER`].
fn place(name: &str) -> Option<usize> {
    ORDER.iter().position(|module| *module == name)
}

fn imports(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let module = source.path.split('/').next().unwrap().trim_end_matches(".rs");
        if ["main", "lib"].contains(&module) {
            continue;
        }
        let Some(own) = place(module) else {
            broken.push(format!("src/{}: {module} has no place in the order of the stages", source.path));
            continue;
        };
        for (number, line) in code(&source.text) {
            for used in line.split("crate::").skip(1) {
                // `use crate::{a, b}` names several at once.
                let group =
                    used.strip_prefix('{').map(|rest| rest.split('}').next().unwrap_or(rest).split(',').collect());
                for name in group.unwrap_or_else(|| vec![used]) {
                    let end = name.trim_start().find(|c: char| !c.is_ascii_lowercase() && c != '_');
                    let name = &name.trim_start()[..end.unwrap_or(name.trim_start().len())];
                    if place(name).is_some_and(|used| used > own) {
                        broken.push(format!("src/{}:{number}: {module} uses {name}, a later stage", source.path));
                    }
                }
            }
        }
    }
    broken
}

fn holds(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn network_and_async_are_in_one_file() {
    holds(&network(&house()));
}

#[test]
fn the_engine_is_called_in_one_file() {
    holds(&engine(&house()));
}

#[test]
fn no_deadline_depends_on_a_clock_that_can_be_set() {
    holds(&wall_clock(&house()));
}

#[test]
fn unsafe_is_in_one_place() {
    holds(&unsafety(&house()));
}

#[test]
fn no_file_is_long() {
    ["src", "tests"].iter().for_each(|dir| holds(&size(&below(dir))));
}

#[test]
fn a_stage_uses_earlier_stages_alone() {
    holds(&imports(&house()));
}

fn snippet(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn each_fence_fails_when_it_is_broken() {
    type Fence = fn(&[Source]) -> Vec<String>;
    let cases: [(Fence, &str, &str); 13] = [
        (wall_clock, "run/supervise.rs", "    let began = std::time::SystemTime::now();"),
        (network, "run/engine.rs", "async fn fetch() {}"),
        (network, "image/store.rs", "    let body = client.get().await?;"),
        (network, "policy/load.rs", "use oci_distribution::Client;"),
        (network, "bundle/spec.rs", "use std::net::TcpStream;"),
        (engine, "run/stage.rs", "use libcontainer::container::Container;"),
        (unsafety, "host/dirs.rs", "    unsafe { libc::getuid() }"),
        (unsafety, "run/stage.rs", "#![allow(unsafe_code, reason = \"x\")]"),
        (imports, "policy/grant.rs", "use crate::bundle::spec;"),
        (imports, "host/dirs.rs", "    crate::image::store::open();"),
        (imports, "image/store.rs", "use crate::{error::Error, run::Job};"),
        (imports, "surprise.rs", "use crate::error::Error;"),
        (imports, "cli.rs", "use crate::commands::dispatch;"),
    ];
    for (fence, path, text) in cases {
        assert_eq!(fence(&snippet(path, text)).len().min(1), 1, "{path}: {text}");
        assert!(fence(&snippet(path, "use crate::error::Error;")).is_empty() || path == "surprise.rs", "{path}");
    }
    assert_eq!(size(&snippet("a.rs", &"\n".repeat(501))).len(), 1);
    assert!(size(&snippet("a.rs", &"\n".repeat(500))).is_empty());
}

#[test]
fn a_fence_lets_through_what_it_should() {
    for (path, text) in [
        ("host/sys.rs", "unsafe { libc::getuid() }"),
        ("image/source/registry.rs", "async fn fetch() { client.get().await }"),
        ("run/engine.rs", "use libcontainer::container::Container;"),
        ("run/ports.rs", "use std::net::TcpListener;"),
        ("image/reference.rs", "use std::net::Ipv4Addr;"),
        ("commands/run.rs", "use crate::{cli, run, policy::Policy};"),
        ("policy/grant.rs", "// unsafe, libcontainer:: and .await are only words here"),
        ("policy/grant.rs", "let unsafely = 1;"),
    ] {
        let sources = snippet(path, text);
        for fence in [network, engine, unsafety, imports, size] {
            holds(&fence(&sources));
        }
    }
}
