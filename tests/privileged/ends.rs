//! The end of a run: killed at any moment, with a million outputs, and with two hosts that write one log.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{Host, Ran, children, wait_until};

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn is_long() -> bool {
    std::env::var_os("CES_LONG").is_some()
}

/// A run whose payload waits for the end of its input, and then exits with 7.
fn waiting(host: &Host) -> Child {
    let before = host.named("outputs_").len();
    let script =
        "echo x > /safe_outputs/f; mkdir -p /scratch/d; echo x > /scratch/d/f; : > /safe_outputs/ready; cat; exit 7";
    let mut command = host.run_command(&["-i", "localhost/demo", "/bin/sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("ces");
    wait_until("the payload", || {
        let dirs = host.named("outputs_");
        dirs.len() > before && dirs.iter().all(|dir| dir.join("ready").exists())
    });
    child
}

#[test]
fn ces_killed_at_any_moment_of_the_end_leaves_a_record_that_says_that_it_ran() {
    let Some(host) = Host::with_demo() else { return };
    let began = Instant::now();
    let mut child = waiting(&host);
    let start = began.elapsed();
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("its end").code(), Some(7));
    let end = (began.elapsed() - start).max(Duration::from_millis(10));
    let rounds = if is_long() { 200 } else { 24 };
    let (mut finished, mut interrupted) = (0, 0);
    for round in 0..rounds {
        let mut child = waiting(&host);
        drop(child.stdin.take());
        // How long an end takes is another thing on a busy host: the last one is not killed.
        if round + 1 < rounds {
            sleep(end * round / rounds);
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
            // ESRCH: it was quicker.
            kill(pid, Signal::SIGKILL).ok();
        }
        child.wait().expect("its end");
        let runs: Value = serde_json::from_str(ces(&host, &["runs", "-n", "1", "--json"]).exits(0)).expect("JSON");
        let record = host.records().pop().expect("a record");
        assert_eq!(runs[0]["state"], record["state"], "{record}");
        match record["state"].as_str() {
            Some("finished") => {
                finished += 1;
                assert_eq!(record["exit"], 7, "{record}");
            }
            Some("interrupted") => interrupted += 1,
            _ => panic!("killed at its end, a run is told as {record}"),
        }
        let items = record["deletion"]["items"].as_array().expect("what was deleted");
        assert!(items.iter().all(|item| item["verified"] == "absent"), "{record}");
        assert_eq!(record["outputs"]["files"], 2, "{record}");
        host.nothing_is_left();
        let id = record["id"].as_str().expect("an id").to_owned();
        ces(&host, &["verify", &id]).exits(0);
    }
    assert!(finished > 0 && finished + interrupted == rounds, "{finished} {interrupted}");
    let verified = Ran::from(host.ces_as_root().args(["audit", "verify"]).output());
    assert!(verified.exits(0).contains("hold together"), "{verified:?}");
}

/// The memory of their own that a process and its children hold now, in KiB: without the pages of their program, of which more or
/// fewer were touched, and of which a build for tests has many.
fn own_memory(pid: u32) -> u64 {
    let of = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |line: &str| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        status
            .lines()
            .filter_map(|line| line.strip_prefix("RssAnon:").or(line.strip_prefix("RssShmem:")))
            .map(number)
            .sum()
    };
    let below = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let below: Vec<String> = below.split_whitespace().map(str::to_owned).collect();
    below.iter().map(String::as_str).map(of).chain([of(&pid.to_string())]).max().unwrap_or(0)
}

/// The most memory that a run needed at whose end there are so many outputs, in KiB.
fn most_memory_with(host: &Host, count: u32) -> u64 {
    let mut child = waiting(host);
    let outputs = host.outputs();
    let owner = Some(host.researcher().uid.as_raw());
    for n in 0..count {
        let dir = outputs.join(format!("d{}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir(&dir).expect("a directory");
            chown(&dir, owner, owner).expect("its owner");
        }
        let path = dir.join(format!("a-name-that-is-neither-short-nor-long-{n}.csv"));
        fs::write(&path, "a,b\n1,2\n").expect("a file");
        chown(&path, owner, owner).expect("its owner");
    }
    drop(child.stdin.take());
    let mut most = 0;
    let code = loop {
        most = most.max(own_memory(child.id()));
        if let Some(status) = child.try_wait().expect("its state") {
            break status.code();
        }
        sleep(Duration::from_millis(2));
    };
    assert_eq!(code, Some(7));
    most
}

#[test]
fn many_outputs_cost_a_run_time_and_a_list_and_no_memory() {
    let Some(host) = Host::with_demo() else { return };
    // A million takes minutes: CES_OUTPUTS=1000000.
    let asked = std::env::var("CES_OUTPUTS").ok().and_then(|count| count.parse().ok());
    let count: u32 = asked.unwrap_or(if is_long() { 80_000 } else { 30_000 });
    // Buffers have their size by then.
    let few = 5_000;
    let with_few = most_memory_with(&host, few);
    assert!(with_few > 256, "{with_few} KiB: not even looked at");
    fs::remove_dir_all(host.outputs()).expect("those of the first run");
    let with_many = most_memory_with(&host, count);
    // A name alone, kept, is a hundred bytes, and so 2.5 MB.
    assert!(with_many < with_few + 2048, "{with_few} KiB with {few}, {with_many} KiB with {count}");
    let record = host.records().pop().expect("a record");
    let (files, not_hashed) = (&record["outputs"]["files"], &record["outputs"]["not_hashed"]);
    assert_eq!((files, not_hashed, &record["outputs"]["list"]["cut"]), (&(count + 2).into(), &0.into(), &Value::Null));
    let id = record["id"].as_str().expect("an id");
    let bytes = fs::metadata(host.root().join(format!("log/runs/{id}.json"))).expect("a record").len();
    assert!(bytes < 8 << 10, "{bytes}");
    // One of them, in the middle, with the same size.
    let verified = ces(&host, &["verify", id]);
    assert!(verified.exits(0).contains(&format!("{} files, unchanged", count + 2)), "{verified:?}");
    let n = count / 2;
    let name = format!("d{}/a-name-that-is-neither-short-nor-long-{n}.csv", n / 1000);
    fs::write(host.outputs().join(&name), "a,b\n1,3\n").expect("a change");
    let verified = ces(&host, &["verify", id]);
    assert_eq!(verified.exits(1).trim(), format!("changed: {name}"));
    host.nothing_is_left();
}

#[test]
fn two_hosts_that_share_a_log_write_a_file_each_and_both_hold() {
    let Some(host) = Host::with_demo() else { return };
    let on = |name: &str| {
        let mut command = host.command("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$1\"; shift; exec \"$@\"", "sh", name]);
        // As the researcher calls it, with another name of the host.
        let ces = host.ces();
        let words: Vec<_> = ces.get_args().skip_while(|word| *word != "--").skip(1).map(ToOwned::to_owned).collect();
        command.args(words).args(["run", "localhost/demo", "/bin/true"]);
        for (name, value) in ces.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            command.env(name, value);
        }
        command
    };
    let rounds = if is_long() { 50 } else { 6 };
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            scope.spawn(move || (0..rounds).for_each(|_| drop(Ran::from(on(name).output()).exits(0).to_owned())));
        }
    });
    let audit = host.root().join("log/audit");
    for name in ["one", "two"] {
        let text = fs::read_to_string(audit.join(format!("{name}.jsonl"))).expect("a log");
        let of = |event: &str| text.lines().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count();
        assert_eq!((of("run.begun"), of("run.finished")), (rounds, rounds), "{text}");
        assert!(text.lines().all(|line| line.contains(&format!("\"host\":\"{name}\""))), "{text}");
    }
    let verified = Ran::from(host.ces_as_root().args(["audit", "verify"]).output());
    for name in ["one", "two"] {
        assert!(verified.exits(0).contains(&format!("{name}: {} lines hold together", 2 * rounds + 1)), "{verified:?}");
    }
    assert_eq!(host.records().len(), 2 * rounds);
    // Neither can pass for the other.
    let (one, two) = (audit.join("one.jsonl"), audit.join("two.jsonl"));
    let line = |path: &Path| fs::read_to_string(path).expect("a log").lines().last().expect("a line").to_owned();
    let before = fs::read_to_string(&one).expect("a log");
    fs::write(&one, format!("{before}{}\n", line(&two))).expect("written");
    let verified = Ran::from(host.ces_as_root().args(["audit", "verify"]).output());
    assert!(verified.exits(1).contains("one: line"), "{verified:?}");
    assert_eq!(children(&audit).len(), 3, "the host's own log of the pull, and two");
}
