//! Rehearsals that somebody wants to go wrong: hostile names, floods, a witness that is stopped.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::rehearse::witness_of;
use crate::support::probe::each_host;
use crate::support::{Host, Ran, have, wait_until};

#[test]
fn hostile_names_and_arguments_are_told_harmless_in_every_form() {
    each_host(|host| {
        let script = r#"e=$(printf '\033]0;owned\007\033[2J'); nslookup "a$e.pypi.example"; mkdir /tmp/d
            ln -s /bin/true /tmp/d/pip; /tmp/d/pip install "x$e
            error: forged"; true > "/bin/$e"; echo 1 > "/home/analyst/$e
            READY"; true"#;
        let markdown = host.researcher().dir.join("report.md");
        let rehearsal = host.rehearse_sh(&["--markdown", markdown.to_str().expect("a path")], script);
        let json = fs::read_to_string(host.home().join("report.json")).expect("a report");
        let markdown = fs::read_to_string(host.home().join("report.md")).expect("a report");
        let said = rehearsal.ran.stderr.split("\n\nexit ").nth(1).unwrap_or_else(|| panic!("no report: {rehearsal:?}"));
        for (form, text) in [("text", said), ("JSON", json.as_str()), ("Markdown", markdown.as_str())] {
            // Markdown has a backslash before each mark.
            assert!(text.replace('\\', "").contains("x1b]0;owned"), "it is told as {form}: {text}");
            assert!(!text.contains(['\u{1b}', '\u{7}']), "{form}: {text:?}");
            for forged in ["error: forged", "READY"] {
                assert!(!text.lines().any(|line| line.trim_start() == forged), "{form}: {text}");
            }
        }
        rehearsal.found("lost", "lost", "/home/analyst");
        assert_eq!(rehearsal.ran.code, Some(1));
        host.nothing_is_left();
    });
}

/// Looks for so many paths that are not there, each once.
const FLOOD: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
    int main(int n, char **w) { char p[64]; for (long i = 0; i < atol(w[1]); i++) { snprintf(p, sizeof p, \"/none/%ld\", i); \
    access(p, F_OK); } return n != 2; }\n";

/// Builds a program into a directory of synthetic data, `/safe_data/NAME` inside; the directory as the researcher names it.
fn built(host: &Host, name: &str, source: &str) -> Option<String> {
    have("cc")?;
    let data = host.home().join("synthetic");
    fs::create_dir_all(&data).expect("a directory");
    let (uid, gid) = (host.researcher().uid.as_raw(), host.researcher().gid.as_raw());
    std::os::unix::fs::chown(&data, Some(uid), Some(gid)).expect("the researcher's own");
    let file = host.tmp().join(name).with_extension("c");
    fs::write(&file, source).expect("a source");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-pthread", "-O1", "-o"]).arg(data.join(name)).arg(file);
    assert!(cc.status().expect("cc").success());
    Some(host.researcher().dir.join("synthetic").to_str().expect("a path").to_owned())
}

#[test]
fn of_a_flood_of_paths_few_are_held_and_the_rest_is_counted() {
    let Some(host) = Host::with_demo() else { return };
    let Some(data) = built(&host, "flood", FLOOD) else { return };
    let count = if std::env::var_os("CES_LONG").is_some() { "1000000" } else { "100000" };
    let words = ["--data", &data, "localhost/demo", "/safe_data/flood", count];
    let rehearsal = host.rehearse(&words);
    assert_eq!(rehearsal.ran.code, Some(0), "{rehearsal:?}");
    // 4,096 are held, and a few others of the program's start.
    let unseen = rehearsal.report["not_seen"].to_string();
    let more: u64 = unseen.split(' ').next().expect("a word").trim_start_matches(['[', '"']).parse().expect("a number");
    let all: u64 = count.parse().expect("a number");
    assert!(more >= all - 4096 && more <= all, "{unseen}");
    // The witness is in the container's control group.
    let peak = rehearsal.report["peak_memory"].as_u64().expect("a figure");
    assert!(peak < 64 << 20, "{peak} bytes");
    host.nothing_is_left();
}

#[test]
fn with_a_witness_that_is_stopped_a_rehearsal_ends_at_its_deadline_without_a_verdict() {
    let Some(host) = Host::with_demo() else { return };
    let script = ": > /safe_outputs/ready; while [ ! -e /scratch/go ]; do :; done";
    let mut command = host.ces();
    command.args(["rehearse", "--timeout", "4s", "localhost/demo", "/bin/sh", "-c", script]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
    wait_until("the payload runs", || host.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
    let witness = witness_of(child.id()).expect("a witness");
    kill(witness, Signal::SIGSTOP).expect("the witness is there");
    let began = Instant::now();
    let ran = Ran::from(child.wait_with_output());
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(!ran.stderr.contains("READY"), "{ran:?}");
    // The deadline, the time of grace, and as long as a report may take.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    host.nothing_is_left();
}

#[test]
fn a_payload_that_works_against_its_witness_gets_the_answers_of_a_run_and_the_rehearsal_its_report() {
    each_host(|host| {
        let Some(data) = built(host, "witnessed", include_str!("../support/witnessed.c")) else { return };
        for attack in ["notifies", "answers", "races", "leaves", "signals", "sends", "names"] {
            let ran = host.rehearse(&["--data", &data, "localhost/demo", "/safe_data/witnessed", attack]);
            assert_eq!((&ran.report["exit"], ran.ran.code), (&0.into(), Some(0)), "{attack}: {ran:?}");
        }
        for (attack, count) in [("kills", "500"), ("forks", "10000"), ("executes", "2000")] {
            let ran = host.rehearse(&["--data", &data, "localhost/demo", "/safe_data/witnessed", attack, count]);
            assert_eq!((&ran.report["exit"], ran.ran.code), (&0.into(), Some(0)), "{attack}: {ran:?}");
            // An ordinary user of this machine may have no control group; the witness is in the container's.
            // What the kernel keeps of a process until a grace period of RCU is over counts, too: of many that fork fast, that is much.
            let most = if attack == "forks" { 192 << 20 } else { 64 << 20 };
            assert!(ran.report["peak_memory"].as_u64().is_none_or(|peak| peak < most), "{attack}: {ran:?}");
        }
        host.nothing_is_left();
    });
}
