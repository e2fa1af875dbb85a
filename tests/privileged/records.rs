//! Records that stay small, an index of them, lists of outputs that are compared, and disks that fill up.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Host, Ran, audit_log, children};

fn hosts() -> Vec<Host> {
    let hosts: Vec<Host> = [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten().collect();
    hosts.iter().filter(|host| host.is_of_an_ordinary_user()).for_each(|host| host.pull_demo("demo"));
    hosts
}

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn last_id(host: &Host) -> String {
    host.records().pop().unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_record_stays_small_whatever_is_left_and_however_it_is_named() {
    for host in hosts() {
        let script = "e=$(printf '\\033]52;c;\\377'); cd /safe_outputs
            i=0; while [ $i -lt 30000 ]; do : > \"$e$i\"; i=$((i+1)); done; for n in $(seq 100); do ln -s \"$e\" l$n; done";
        host.sh(&[], script).exits(0);
        let id = last_id(&host);
        let runs = host.root().join("log/runs");
        let record = fs::read(runs.join(format!("{id}.json"))).unwrap();
        assert!(record.len() < 16 << 10, "{}", record.len());
        assert!(!record.contains(&0x1b));
        let outputs = host.records().pop().unwrap()["outputs"].clone();
        assert_eq!((outputs["files"].as_u64(), outputs["list"]["lines"].as_u64()), (Some(30_000), Some(30_100)));
        assert!(outputs["links"].as_array().unwrap().last().unwrap().as_str().unwrap().starts_with("and "));
        let index = fs::read_to_string(host.root().join("log/runs.idx")).unwrap();
        assert!(index.len() < 4096 && index.lines().count() == 2, "{index}");
        assert_eq!(ces(&host, &["verify", &id]).exits(0), format!("{id}: 30000 files, unchanged\n"));
        assert!(children(&runs).iter().all(|path| !path.file_name().unwrap().as_bytes().starts_with(b".")));
    }
}

#[test]
fn verify_finds_by_exact_names_what_is_gone_new_or_changed() {
    for host in hosts() {
        let script = "cd /safe_outputs; mkdir -p d/e; echo 1 > d/e/f; echo 1 > mode; ln -s a link
            for n in \"$(printf 'x\\377')\" 'x\\xff' gone; do echo 1 > \"$n\"; done";
        host.sh(&[], script).exits(0);
        let (id, outputs) = (last_id(&host), host.outputs());
        assert_eq!(ces(&host, &["verify", &id]).exits(0), format!("{id}: 5 files, unchanged\n"));
        // Of two that are shown alike one is deleted.
        fs::remove_file(outputs.join("x\\xff")).unwrap();
        fs::remove_file(outputs.join("gone")).unwrap();
        fs::write(outputs.join("d/e/f"), "2\n").unwrap();
        fs::set_permissions(outputs.join("mode"), fs::Permissions::from_mode(0o666)).unwrap();
        fs::remove_file(outputs.join("link")).unwrap();
        symlink("b", outputs.join("link")).unwrap();
        fs::create_dir(outputs.join("more")).unwrap();
        std::os::unix::fs::chown(outputs.join("more"), Some(host.researcher().uid.as_raw()), None).unwrap();
        let ran = ces(&host, &["verify", &id]);
        let said = ran.exits(1);
        for expected in
            ["missing: x\\xff", "missing: gone", "changed: d/e/f", "changed: mode", "changed: link", "new: more"]
        {
            assert!(said.lines().any(|line| line == expected), "{expected}: {ran:?}");
        }
        assert_eq!(said.lines().count(), 6, "{ran:?}");
        // The list has a hash of its own in the record.
        let list = host.root().join(format!("log/runs/{id}.outputs.jsonl"));
        let text = fs::read_to_string(&list).unwrap();
        fs::write(
            &list,
            text.lines().filter(|line| !line.contains("gone")).map(|l| format!("{l}\n")).collect::<String>(),
        )
        .unwrap();
        assert!(ces(&host, &["verify", &id]).exits(1).contains("changed: the list itself"));
    }
}

#[test]
fn a_record_of_an_older_version_is_still_shown_listed_and_verified() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "echo 1 > /safe_outputs/f").exits(0);
    let id = last_id(&host);
    let path = host.root().join(format!("log/runs/{id}.json"));
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let sha256 = "4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865";
    let outputs = serde_json::json!({"path": record["outputs"]["path"], "bytes": 2, "links": [], "refused": [],
        "files": [{"path": "f", "size": 2, "sha256": sha256}]});
    record["outputs"] = outputs;
    fs::write(&path, record.to_string()).unwrap();
    fs::remove_file(host.root().join("log/runs.idx")).unwrap();
    assert!(ces(&host, &["runs"]).exits(0).contains(&id));
    assert!(ces(&host, &["record", &id]).exits(0).contains(sha256));
    assert_eq!(ces(&host, &["verify", &id]).exits(0), format!("{id}: 1 file, unchanged\n"));
    fs::write(host.outputs().join("f"), "2\n").unwrap();
    assert_eq!(ces(&host, &["verify", &id]).exits(1), "changed: f\n");
}

#[test]
fn the_index_is_made_anew_and_brought_up_to_date_from_the_records() {
    for host in hosts() {
        host.sh(&["--name", "first"], "true").exits(0);
        host.sh(&[], "exit 3").exits(3);
        let before = ces(&host, &["runs", "--json"]);
        let entries: Value = serde_json::from_str(before.exits(0)).unwrap();
        assert_eq!(
            entries.as_array().unwrap().iter().map(|e| e["exit"].as_u64()).collect::<Vec<_>>(),
            [Some(0), Some(3)]
        );
        let index = host.root().join("log/runs.idx");
        fs::remove_file(&index).unwrap();
        assert_eq!(ces(&host, &["runs", "--json"]).exits(0), before.stdout);
        assert!(index.exists());
        fs::write(&index, "").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let touched = host.root().join("log/runs/touched");
        fs::write(&touched, "").unwrap();
        assert_eq!(ces(&host, &["runs", "--json"]).exits(0), before.stdout);
        // A name that was given leads to it, too.
        assert_eq!(ces(&host, &["logs", "first"]).code, Some(1));
    }
}

/// A small file system where records are, and how to fill it.
fn small_log(host: &Host) -> PathBuf {
    let mut mount = host.command("mount");
    mount.args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", "/var/log/ces"]);
    assert!(mount.status().unwrap().success());
    host.inside(Path::new("/var/log/ces"))
}

fn unmount(host: &Host) {
    assert!(host.command("umount").arg("/var/log/ces").status().unwrap().success());
}

fn fill(log: &Path) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(log.join("filling")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
}

fn state(host: &Host, id: &str) -> (String, Option<u64>) {
    let entries: Value = serde_json::from_str(ces(host, &["runs", "--json"]).exits(0)).unwrap();
    let entry = entries.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone();
    (entry["state"].as_str().unwrap().to_owned(), entry["exit"].as_u64())
}

#[test]
fn a_log_that_fills_up_during_a_run_loses_nothing_of_its_end() {
    let Some(host) = Host::with_demo() else { return };
    let log = small_log(&host);
    let running = host.start(&[], "echo x > /safe_outputs/f; exec sleep 100");
    let id = running.id();
    fill(&log);
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    let record: Value = serde_json::from_slice(&fs::read(log.join(format!("runs/{id}.json"))).unwrap()).unwrap();
    assert_eq!((&record["state"], &record["exit"]), (&Value::from("finished"), &Value::from(143)), "{record}");
    // For what was deleted there was no file, but room in the record.
    assert!(record["documents"]["deletion"].is_null(), "{record}");
    assert_eq!(record["deletion"]["items"][0]["verified"], "absent", "{record}");
    ces(&host, &["verify", &id]).exits(0);
    assert!(fs::read_to_string(audit_log(&log)).unwrap().lines().last().unwrap().contains("\"run.finished\""));
    assert_eq!(state(&host, &id), ("finished".to_owned(), Some(143)));
    // No other run starts without room for its record.
    fill(&log);
    host.sh(&[], "echo ran").refuses(125, &["cannot write the record"]);
    unmount(&host);
    host.nothing_is_left();
}

#[test]
fn the_end_of_a_run_that_cannot_be_written_waits_for_the_next_command() {
    let Some(host) = Host::with_demo() else { return };
    let log = small_log(&host);
    let running = host.start(&[], "echo x > /safe_outputs/f; exec sleep 100");
    let id = running.id();
    // Even the room that was taken is gone.
    fs::remove_file(log.join(format!("runs/.{id}.end"))).unwrap();
    fill(&log);
    running.signal(Signal::SIGTERM);
    let ran = running.finish();
    assert!(ran.code == Some(125) || ran.stderr.contains("cannot write the record"), "{ran:?}");
    fs::remove_file(log.join("filling")).unwrap();
    assert_eq!(state(&host, &id), ("finished".to_owned(), Some(143)));
    unmount(&host);
    host.nothing_is_left();
}

#[test]
fn with_any_amount_of_room_for_its_evidence_a_run_is_refused_or_recorded_whole() {
    let Some(host) = Host::with_demo() else { return };
    let log = small_log(&host);
    let runs = || -> Vec<Value> { serde_json::from_str(ces(&host, &["runs", "--json"]).exits(0)).unwrap() };
    host.sh(&[], "true").exits(0);
    let (mut refused, mut ran) = (0, 0);
    for free in (0..=168_u64).step_by(12) {
        let (known, dirs) = (runs().len(), host.named("outputs_"));
        fill(&log);
        let filling = fs::OpenOptions::new().write(true).open(log.join("filling")).unwrap();
        filling.set_len(filling.metadata().unwrap().len().saturating_sub(free << 10)).unwrap();
        drop(filling);
        let ended = host.sh(&[], "echo x > /safe_outputs/ran; exit 7");
        fs::remove_file(log.join("filling")).unwrap();
        let new = host.named("outputs_").into_iter().find(|dir| !dirs.contains(dir) && dir.join("ran").exists());
        let runs = runs();
        if new.is_some() {
            ran += 1;
            let last = runs.last().unwrap();
            assert_eq!((&last["state"], &last["exit"]), (&"finished".into(), &7.into()), "{free} KiB: {ended:?}");
            let record: Value = serde_json::from_str(ces(&host, &["record", "last"]).exits(0)).unwrap();
            assert_eq!(record["deletion"]["items"][0]["verified"], "absent", "{free} KiB: {record}");
            assert!(record["enforced"].is_object() && record["outputs"]["files"] == 1, "{free} KiB: {record}");
        } else {
            refused += 1;
            ended.refuses(125, &["cannot write"]);
            let told = runs.get(known).is_none_or(|run| run["state"] == "refused");
            assert!(told, "{free} KiB: {runs:?}");
        }
    }
    assert!(refused > 0 && ran > 0, "{refused} {ran}");
    let verified = Ran::from(host.ces_as_root().args(["audit", "verify"]).output());
    assert!(verified.exits(0).contains("hold together"), "{verified:?}");
    unmount(&host);
    host.nothing_is_left();
}
