//! What `ces` tells of runs that are over: lists, pages, and where the outputs are.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Host, Ran};

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn hosts() -> impl Iterator<Item = Host> {
    [Host::with_demo(), Host::of_an_ordinary_user().inspect(|host| host.pull_demo("demo"))].into_iter().flatten()
}

/// Two runs: one by the name of `first` that leaves a file, then one that fails.
fn two_runs(host: &Host) -> (String, String) {
    host.sh(&["--name", "first", "--memory", "64m"], "echo 1 > /safe_outputs/f; ln -s f /safe_outputs/l").exits(0);
    host.sh(&["-e", "TOKEN=hidden"], "exit 3").exits(3);
    let text = ces(host, &["-q", "runs"]);
    let ids: Vec<&str> = text.exits(0).lines().collect();
    let [first, last] = ids.as_slice() else { panic!("{text:?}") };
    ((*first).to_owned(), (*last).to_owned())
}

#[test]
fn a_run_is_found_by_its_id_its_name_and_as_the_last_one() {
    for host in hosts() {
        assert!(ces(&host, &["show", "last"]).stderr.contains("there is no run yet"));
        let (first, last) = two_runs(&host);
        for verb in ["show", "record", "verify"] {
            for (word, id) in [(first.as_str(), &first), ("first", &first), (last.as_str(), &last), ("last", &last)] {
                let ran = ces(&host, &[verb, word]);
                assert!(ran.exits(0).contains(id.as_str()), "{verb} {word}: {ran:?}");
            }
            ces(&host, &[verb, "nobody"]).refuses(1, &["there is no record of run nobody", "ces runs"]);
        }
        host.sh(&["--name", "last"], "true").refuses(125, &["--name last is not a run's name"]);
        let id = host.sh(&["--name", &first], "true");
        id.refuses(125, &["--name", "has the form of a run's id", "choose a name"]);
        let running = host.start(&["--name", "third"], "exec sleep 100");
        let id = running.id();
        assert_eq!(ces(&host, &["stop", "last"]).exits(0), format!("{id}\n"));
        running.finish().exits(143);
        host.nothing_is_left();
    }
}

#[test]
fn a_list_of_runs_is_narrowed_by_number_day_project_researcher_and_state() {
    for host in hosts() {
        let (first, last) = two_runs(&host);
        let ids = |words: &[&str]| {
            let ran = ces(&host, &[&["-q", "runs"], words].concat());
            ran.exits(0).lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let both = [first.clone(), last.clone()];
        assert_eq!(ids(&["-n", "1"]), [last]);
        assert_eq!((ids(&["-n", "9"]), ids(&["--last", "0"])), (both.to_vec(), Vec::new()));
        for all in [&["--since", "1h"][..], &["--since", "2001-01-01"], &["--state", "finished"]] {
            assert_eq!(ids(all), both, "{all:?}");
        }
        for none in [&["--since", "2999-01-01"][..], &["--state", "refused"], &["--project", "x"], &["--user", "x"]] {
            assert_eq!(ids(none), [""; 0], "{none:?}");
        }
        ces(&host, &["runs", "--since", "yesterday"]).refuses(2, &["--since yesterday", "2026-11-30"]);
        let table = ces(&host, &["runs"]);
        let lines: Vec<&str> = table.exits(0).lines().collect();
        assert!(lines.len() == 3 && lines[0].starts_with("ID ") && lines[1].contains("first"), "{lines:?}");
    }
}

#[test]
fn a_page_tells_what_a_run_was_what_held_and_what_it_left() {
    for host in hosts() {
        let (first, _) = two_runs(&host);
        let page = ces(&host, &["show", "first"]);
        let has = |page: &str, about: &str, text: &str| {
            let found = page.lines().any(|line| (about.is_empty() || line.starts_with(about)) && line.contains(text));
            assert!(found, "{about} {text}: {page}");
        };
        let page = page.exits(0);
        has(page, "run", &format!("{first} (first)"));
        has(page, "command", "/bin/sh -c <withheld>");
        has(page, "protections", "ok    no network");
        for held in ["ok    no capabilities", "ok    system calls are filtered", "ok    no program can gain privileges"]
        {
            has(page, "", held);
        }
        assert!(!page.contains(" !  "), "{page}");
        has(page, "exit", "exit 0");
        has(page, "outputs", "1 file");
        has(page, "", "unchanged since the run ended");
        has(page, "", "link: l -> f");
        assert!(page.lines().count() < 45, "it is one page: {page}");
        fs::write(host.outputs().parent().unwrap().join(format!("outputs_{first}/f")), "2\n").unwrap();
        has(ces(&host, &["show", "first"]).exits(0), "", "1 change since the run ended");
        let record: Value = serde_json::from_str(ces(&host, &["show", "--json", "first"]).exits(0)).unwrap();
        assert_eq!(record["id"], Value::from(first.as_str()));
        let page = ces(&host, &["show", "last"]);
        assert!(page.exits(0).contains("exit 3") && !page.stdout.contains("hidden"), "values of variables: {page:?}");
    }
}

#[test]
fn the_outputs_of_a_run_are_told_with_their_place() {
    for host in hosts() {
        let (first, last) = two_runs(&host);
        let place = |id: &str| host.outputs().parent().unwrap().join(format!("outputs_{id}"));
        let alone = ces(&host, &["-q", "outputs", "first"]);
        // As the researcher sees it, whose home may be mounted elsewhere here.
        let path = std::path::Path::new(alone.exits(0).trim_end());
        assert!(path.is_absolute() && path.file_name() == place(&first).file_name(), "{alone:?}");
        assert!(ces(&host, &["outputs"]).exits(0).starts_with(&format!("{last}: no outputs")));
        let told: Value = serde_json::from_str(ces(&host, &["outputs", "--json", &first]).exits(0)).unwrap();
        assert_eq!((&told["files"], &told["bytes"], &told["there"]), (&1.into(), &2.into(), &true.into()));
        fs::remove_dir_all(place(&first)).unwrap();
        assert!(ces(&host, &["outputs", "first"]).exits(1).contains("not there any more"));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let Some(host) = Host::with_demo() else { return };
    two_runs(&host);
    for words in [&["runs"][..], &["runs", "--json"], &["record", "last"], &["show", "last"], &["images"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command: Command = host.ces();
        let mut child = command.args(words).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        drop((command, reader));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(141), ""), "{words:?}");
    }
}

#[test]
fn metrics_count_the_callers_own_runs_and_to_root_everyones() {
    for host in hosts() {
        two_runs(&host);
        let text = ces(&host, &["metrics"]);
        let value = |name: &str| {
            let line = text.exits(0).lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text:?}")).to_owned()
        };
        assert_eq!(value("ces_runs{state=\"finished\"}"), "2");
        assert_eq!(value("ces_runs_ended{end=\"failure\"}"), "1");
        assert_eq!(value("ces_audit_events{event=\"run.finished\"}"), "2");
        assert_eq!((value("ces_running"), value("ces_images")), ("0".to_owned(), "1".to_owned()));
        if !host.is_of_an_ordinary_user() {
            let text = Ran::from(host.ces_as_root().args(["metrics", "--json"]).output());
            let json: Value = serde_json::from_str(text.exits(0)).unwrap();
            assert_eq!(json["ces_runs{state=\"finished\"}"], 2.0);
        }
    }
}
