//! The fences: what may stand where in the source. Each is shown to fail on a broken example.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the source: its path below `src`, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// Modules from the first to the last: each may use those before it, and itself.
const ORDER: [&str; 17] = [
    "parallel",
    "text",
    "error",
    "host",
    "evidence",
    "image",
    "stack",
    "policy",
    "approval",
    "bundle",
    "run",
    "precheck",
    "report",
    "export",
    "rehearsal",
    "cli",
    "commands",
];

const LONGEST: usize = 500;

/// Words that mean network or async, and the one file they may be in, with its folder.
const NETWORK: [&str; 8] =
    ["reqwest::Client", "oci_client", "tokio::", "async fn", "async move", ".await", "futures_util", "hyper"];
const REGISTRY: [&str; 2] = ["image/source/registry.rs", "image/source/registry/"];

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

pub fn sources() -> Vec<Source> {
    below("src")
}

fn below(dir: &str) -> Vec<Source> {
    let mut out = Vec::new();
    source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), "", &mut out);
    assert!(out.len() > 10, "the source was not found");
    out
}

/// The lines of code with their numbers: no comments.
pub fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let first = word.starts_with(part);
        let last = word.ends_with(part);
        !(first && before.is_some_and(part) || last && after.is_some_and(part))
    })
}

pub fn only_in(sources: &[Source], words: &[&str], allowed: &[&str]) -> Vec<String> {
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
    let mut broken = only_in(sources, &NETWORK, &REGISTRY);
    broken.extend(only_in(sources, &SOCKETS, &MAY_LISTEN));
    broken
}

fn engine(sources: &[Source]) -> Vec<String> {
    only_in(sources, &["libcontainer::"], &["run/stage/engine.rs"])
}

fn unsafety(sources: &[Source]) -> Vec<String> {
    only_in(sources, &["unsafe", "unsafe_code"], &["host/sys.rs", "host/sys/"])
}

/// Deadlines and pauses are measured by a clock that nobody sets (clock_gettime(2), CLOCK_MONOTONIC); the clock on the wall
/// names runs and dates records, days and files.
fn wall_clock(sources: &[Source]) -> Vec<String> {
    let allowed = [
        "evidence/line.rs",
        "run/job_id.rs",
        "run/supervisor/record.rs",
        "commands/prepare.rs",
        "commands/facts.rs",
        "image/pull.rs",
        "image/source/registry/http.rs",
        "commands/pull_outlook.rs",
        "commands/vulndb.rs",
    ];
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

/// The module of a file: `host/sys.rs` and `host/sys/mod.rs` are both `host::sys`.
fn module_of(path: &str) -> String {
    path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// A path in code, as a module's name from the root on; none for what is not ours.
fn absolute(path: &str, module: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return Some(rest.to_owned());
    }
    let mut at: Vec<&str> = module.split("::").collect();
    let mut rest = path;
    while let Some(above) = rest.strip_prefix("super::") {
        at.pop()?;
        rest = above;
    }
    let rest = if rest == path { path.strip_prefix("self::")? } else { rest };
    Some(at.into_iter().chain([rest]).collect::<Vec<_>>().join("::"))
}

/// The paths that a statement names: `use a::{b, c::{d, e}}` names `a::b`, `a::c::d` and `a::c::e`.
fn expand(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let (mut depth, mut begin) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[begin..]);
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => expand(&format!("{prefix}{head}"), rest.trim_end().trim_end_matches('}'), out),
            None => out.push(format!("{prefix}{}", part.split(" as ").next().unwrap())),
        }
    }
}

/// Which modules each uses; tests in a file aside.
fn uses(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<String> = sources.iter().map(|source| module_of(&source.path)).collect();
    let mut edges = BTreeMap::new();
    for source in sources.iter().filter(|source| !["main.rs", "lib.rs"].contains(&source.path.as_str())) {
        let module = module_of(&source.path);
        let shipped = source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let text: String =
            code(shipped).map(|(_, line)| line.split(" // ").next().unwrap()).collect::<Vec<_>>().join(" ");
        let mut named = Vec::new();
        for statement in text.split("use ").skip(1) {
            expand("", statement.split(';').next().unwrap(), &mut named);
        }
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        named.extend(text.split(|c| !word(c)).map(str::to_owned));
        let used = named.iter().filter_map(|path| absolute(path.trim(), &module)).filter_map(|path| {
            let parts: Vec<&str> = path.split("::").collect();
            (1..=parts.len()).rev().map(|n| parts[..n].join("::")).find(|name| modules.contains(name))
        });
        let used = used.filter(|used| *used != module).collect();
        edges.insert(module, used);
    }
    edges
}

/// Files that use each other, directly or by way of others.
fn circles(sources: &[Source]) -> Vec<String> {
    let edges = uses(sources);
    let reached = |from: &str| {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut look: Vec<String> = edges.get(from).into_iter().flatten().cloned().collect();
        while let Some(module) = look.pop() {
            if seen.insert(module.clone()) {
                look.extend(edges.get(&module).into_iter().flatten().cloned());
            }
        }
        seen
    };
    let in_circle: Vec<&String> = edges.keys().filter(|module| reached(module).contains(*module)).collect();
    in_circle.iter().map(|module| format!("{module} uses, by way of others, itself")).collect()
}

pub fn holds(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn network_and_async_are_in_one_file() {
    holds(&network(&sources()));
}

#[test]
fn the_engine_is_called_in_one_file() {
    holds(&engine(&sources()));
}

#[test]
fn no_deadline_depends_on_a_clock_that_can_be_set() {
    holds(&wall_clock(&sources()));
}

#[test]
fn unsafe_is_in_one_place() {
    holds(&unsafety(&sources()));
}

#[test]
fn no_file_is_long() {
    ["src", "tests"].iter().for_each(|dir| holds(&size(&below(dir))));
}

#[test]
fn a_stage_uses_earlier_stages_alone() {
    holds(&imports(&sources()));
}

#[test]
fn no_two_files_use_each_other() {
    holds(&circles(&sources()));
    let pair = |first: &str, second: &str| {
        vec![
            Source { path: "host/a.rs".to_owned(), text: first.to_owned() },
            Source { path: "host/b/mod.rs".to_owned(), text: second.to_owned() },
        ]
    };
    assert_eq!(circles(&pair("use super::b::B;", "use crate::host::{a::A, c};")).len(), 2);
    assert_eq!(circles(&pair("fn f() { crate::host::b::g() }", "use super::a;")).len(), 2);
    assert!(circles(&pair("use super::b::B;", "// use super::a;")).is_empty());
}

pub fn snippet(path: &str, text: &str) -> Vec<Source> {
    vec![Source { path: path.to_owned(), text: text.to_owned() }]
}

#[test]
fn each_fence_fails_when_it_is_broken() {
    type Fence = fn(&[Source]) -> Vec<String>;
    let cases: [(Fence, &str, &str); 13] = [
        (wall_clock, "run/supervise.rs", "    let began = std::time::SystemTime::now();"),
        (network, "run/stage/engine.rs", "async fn fetch() {}"),
        (network, "image/store.rs", "    let body = client.get().await?;"),
        (network, "policy/load.rs", "use reqwest::Client;"),
        (network, "bundle/spec.rs", "use std::net::TcpStream;"),
        (engine, "run/stage/mod.rs", "use libcontainer::container::Container;"),
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
        ("run/stage/engine.rs", "use libcontainer::container::Container;"),
        ("run/supervisor/ports.rs", "use std::net::TcpListener;"),
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
