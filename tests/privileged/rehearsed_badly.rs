//! Rehearsals that somebody wants to go wrong: hostile names, floods, a witness that is stopped; and hosts that are laxer than a TRE.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::rehearse::witness_of;
use crate::support::callers::{Caller, Desk};
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

#[test]
fn of_a_flood_of_paths_few_are_held_and_the_rest_is_counted() {
    let Some(host) = Host::with_demo() else { return };
    if have("cc").is_none() {
        return;
    }
    let data = host.home().join("synthetic");
    fs::create_dir(&data).expect("a directory");
    fs::write(host.tmp().join("flood.c"), FLOOD).expect("a source");
    let built = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .arg(data.join("flood"))
        .arg(host.tmp().join("flood.c"))
        .status();
    assert!(built.expect("cc").success());
    let count = if std::env::var_os("CES_LONG").is_some() { "1000000" } else { "100000" };
    let data = host.researcher().dir.join("synthetic");
    let words = ["--data", data.to_str().expect("a path"), "localhost/demo", "/safe_data/flood", count];
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
fn what_is_laxer_than_inside_is_said_and_nothing_is_where_nothing_is() {
    for (caller, laxer) in
        [(Caller::Root, false), (Caller::Sudo, false), (Caller::UserWithSubids, true), (Caller::User, true)]
    {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let script = "touch /bin/new && rm /bin/new && echo written; true";
        let ran = desk.ces(&["rehearse", "localhost/demo", "/bin/sh", "-c", script]);
        assert_eq!(ran.exits(0) == "written\n", laxer, "{caller:?}: {ran:?}");
        let said = ran.stderr.contains("READY, but for what is laxer here than inside");
        assert_eq!((said, ran.stderr.contains("not as inside: ")), (laxer, laxer), "{caller:?}: {ran:?}");
        assert!(laxer || ran.stderr.contains("\nREADY: 1 wanted"), "{caller:?}: {ran:?}");
    }
}
