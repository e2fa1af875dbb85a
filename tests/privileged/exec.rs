//! `ces exec`: only where the policy says so, under the same restrictions, checked before it executes, and recorded.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::probe::{PROBE, field};
use crate::support::terminal::Terminal;
use crate::support::{Host, Ran, Running, wait_until};

const ALLOWED: &str = "[interactive]\nexec = true\n";

/// A host whose policy allows it, and a run that waits.
fn host_and_run(options: &[&str]) -> Option<(Host, Running)> {
    let host = Host::with_probe()?;
    host.policy(ALLOWED);
    let running = host.start(options, "sleep 100");
    Some((host, running))
}

fn exec(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().arg("exec").args(words).output())
}

#[test]
fn without_a_policy_that_allows_it_nothing_is_executed() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], "sleep 100");
    exec(&host, &[&running.id(), "true"]).refuses(125, &["ces exec is refused", "interactive.exec"]);
    // A run that began under such a policy has no way in, whatever the policy says later.
    assert!(!host.root().join(format!("run/{}/exec.sock", running.id())).exists());
    host.policy(ALLOWED);
    exec(&host, &[&running.id(), "true"]).refuses(125, &["cannot reach the run", "interactive.exec"]);
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    assert_eq!(host.records()[0]["executed"], Value::Array(Vec::new()));
    host.nothing_is_left();
}

#[test]
fn a_command_has_what_the_payload_has_and_no_more() {
    let Some(host) = Host::with_probe() else { return };
    host.policy(ALLOWED);
    for (image, options) in
        [("localhost/demo", &[][..]), ("localhost/root", &[]), ("localhost/root", &["--profile", "service"])]
    {
        let name = ["--name", "one", "-e", "OWN=1", "-e", &format!("CES_TEST={}", host.token())];
        let script = format!(
            "{PROBE} facts > /safe_outputs/facts.new; mv /safe_outputs/facts.new /safe_outputs/facts; sleep 100"
        );
        let before = host.named("outputs_");
        let mut child =
            host.ces().arg("run").args(name).args(options).args([image, "sh", "-c", &script]).spawn().expect("ces");
        let mut outputs = None;
        wait_until("the payload's facts", || {
            outputs =
                host.named("outputs_").into_iter().find(|dir| !before.contains(dir) && dir.join("facts").exists());
            outputs.is_some()
        });
        let text = fs::read_to_string(outputs.expect("outputs").join("facts")).expect("facts");
        let payload: Value = serde_json::from_str(&text).expect("JSON");
        let command: Value = serde_json::from_str(exec(&host, &["one", PROBE, "facts"]).exits(0)).expect("JSON");
        for fact in ["namespaces", "cgroup", "uid_map", "gid_map", "limits", "oom_score_adj", "hostname", "mountinfo"] {
            assert_eq!(command[fact], payload[fact], "{image} {options:?}: {fact}");
        }
        // The payload's shell added two of its own.
        let variables = |facts: &Value| {
            let all = facts["environment"].as_array().expect("variables").iter().map(ToString::to_string);
            all.filter(|one| !one.contains("SHLVL=") && !one.contains("PWD="))
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(variables(&command), variables(&payload), "{image} {options:?}");
        for line in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
        ] {
            assert_eq!(field(&command["status"], line), field(&payload["status"], line), "{image} {options:?}: {line}");
        }
        assert_eq!(field(&command["status"], "PPid"), "1", "{image}: a child of the container's own first process");
        let numbers: Vec<&Value> = command["descriptors"]
            .as_array()
            .expect("descriptors")
            .iter()
            .map(|descriptor| &descriptor["fd"])
            .collect();
        assert_eq!(numbers, [0, 1, 2], "{image} {options:?}");
        assert_eq!(command["terminal"], 6, "no controlling terminal");
        let calls: Value = serde_json::from_str(exec(&host, &["one", PROBE, "calls"]).exits(0)).expect("JSON");
        assert!(calls.as_array().expect("calls").iter().all(|call| call["errno"] != 0), "{image} {options:?}: {calls}");
        Ran::from(host.ces().args(["stop", "-t", "0", "one"]).output()).exits(0);
        child.wait().expect("its end");
    }
    host.nothing_is_left();
}

#[test]
fn status_streams_environment_and_directory_are_those_of_a_command() {
    let Some((host, running)) = host_and_run(&["--name", "one"]) else { return };
    exec(&host, &["one", "sh", "-c", "exit 7"]).exits(7);
    exec(&host, &["one", "sh", "-c", "kill -KILL $$"]).exits(137);
    exec(&host, &["one", "no-such-program"]).refuses(127, &["no-such-program"]);
    exec(&host, &["one", "/etc/hosts"]).refuses(126, &["/etc/hosts"]);
    exec(&host, &["-w", "/no/such", "one", "true"]).refuses(127, &["directory"]);
    exec(&host, &["-e", "LISTEN_FDS=3", "one", "true"]).refuses(125, &["LISTEN_FDS"]);
    exec(&host, &["no-such-run", "true"]).refuses(125, &["no-such-run"]);
    let ran =
        exec(&host, &["-e", "A=b c", "-w", "/safe_outputs", "one", "sh", "-c", "pwd; echo $A; echo err >&2; cat"]);
    assert_eq!((ran.exits(0), ran.stderr.as_str()), ("/safe_outputs\nb c\n", "err\n"));
    let mut command = host.ces();
    command.args(["exec", "-i", &running.id(), "wc", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("ces");
    child.stdin.take().expect("its input").write_all(&[b'x'; 200_000]).expect("input");
    assert_eq!(Ran::from(child.wait_with_output()).exits(0).trim(), "200000");
    running.signal(Signal::SIGTERM);
    running.finish();
    let record = host.records().pop().expect("a record");
    let executed = record["executed"].as_array().expect("a list");
    assert_eq!(executed[0]["command"].to_string(), "[\"sh\",\"-c\",\"<withheld>\"]");
    assert_eq!((&executed[0]["exit"], &executed[0]["by"]), (&7.into(), &host.researcher().name.as_str().into()));
    assert_eq!(executed[0]["enforced"]["no_new_privs"], true);
    assert!(executed.iter().any(|one| one["exit"] == 127) && executed.len() == 7, "{executed:?}");
    let audit = fs::read_to_string(crate::support::audit_log(&host.root().join("log"))).expect("the audit log");
    assert!(
        audit.lines().any(|line| line.contains("\"exec\"") && line.contains("[\"sh\",\"-c\",\"<withheld>\"]")),
        "{audit}"
    );
    host.nothing_is_left();
}

#[test]
fn what_is_executed_is_bounded_as_the_record_is_and_a_refusal_says_so() {
    let Some((host, running)) = host_and_run(&["--name", "one"]) else { return };
    let long = "x".repeat(100_000);
    exec(&host, &["one", "true", &long]).exits(0);
    exec(&host, &["one", "true", &long, &long, &long]).refuses(125, &["too long", "bytes", "file"]);
    // Names of options are kept, up to a bound.
    let names: Vec<String> = (0..99).map(|n| format!("--{}-{n}", "x".repeat(60))).collect();
    let words: Vec<&str> = ["one", "true"].into_iter().chain(names.iter().map(String::as_str)).collect();
    (0..20).for_each(|_| drop(exec(&host, &words).exits(0).to_owned()));
    exec(&host, &words).refuses(125, &["record holds no more commands"]);
    running.signal(Signal::SIGTERM);
    running.finish();
    let record = host.records().pop().expect("a record");
    let executed = record["executed"].as_array().expect("a list");
    assert_eq!(executed.iter().filter(|one| one["exit"] == 0).count(), executed.len());
    assert_eq!((executed.len(), &executed[0]["command"][1]), (21, &"<withheld>".into()));
    // What was executed is beside the record.
    let id = record["id"].as_str().expect("an id");
    let runs = host.root().join("log/runs");
    assert!(fs::metadata(runs.join(format!("{id}.json"))).expect("a record").len() < 16 << 10);
    assert!(fs::metadata(runs.join(format!("{id}.executed.json"))).expect("a list").len() > 128 << 10);
    host.nothing_is_left();
}

#[test]
fn a_command_becomes_another_user_only_where_the_run_may() {
    let Some(host) = Host::with_probe() else { return };
    host.policy(ALLOWED);
    let run = |options: &[&str]| {
        let waits = ["localhost/root", "sh", "-c", "echo > /safe_outputs/ready; sleep 100"];
        let child = host.ces().args(["run", "--name", "one"]).args(options).args(waits).spawn().expect("ces");
        wait_until("the run", || exec(&host, &["one", "true"]).code == Some(0));
        child
    };
    let stop = |mut child: std::process::Child| {
        Ran::from(host.ces().args(["stop", "-t", "0", "one"]).output()).exits(0);
        child.wait().expect("its end");
    };
    let running = run(&["--profile", "service"]);
    let text = exec(&host, &["-u", "7:8", "one", PROBE, "facts"]);
    let facts: Value = serde_json::from_str(text.exits(0)).expect("JSON");
    assert_eq!(field(&facts["status"], "Uid"), "7\t7\t7\t7");
    assert_eq!(field(&facts["status"], "Gid"), "8\t8\t8\t8");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(&facts["status"], set), "0000000000000000", "{set}");
    }
    let script = "printf 'one:x:5:6::/home/one:/bin/sh\\n' >> /etc/passwd";
    exec(&host, &["one", "sh", "-c", script]).exits(0);
    let said = exec(&host, &["-u", "one", "one", "sh", "-c", "id -u; id -g; echo $HOME"]);
    assert_eq!(said.exits(0), "5\n6\n/home/one\n");
    assert_eq!(exec(&host, &["-u", "one", "-e", "HOME=/x", "one", "sh", "-c", "echo $HOME"]).exits(0), "/x\n");
    exec(&host, &["-u", "nobody-here", "one", "true"]).refuses(125, &["user nobody-here", "no user \"nobody-here\""]);
    exec(&host, &["-u", "99999999", "one", "true"]).refuses(125, &["99999999"]);
    // A file of the payload's is no trap.
    exec(&host, &["one", "sh", "-c", "rm /etc/passwd; mkfifo /etc/passwd"]).exits(0);
    exec(&host, &["-u", "one", "one", "true"]).refuses(125, &["user one", "/etc/passwd"]);
    stop(running);
    let record = host.records().pop().expect("a record");
    let executed = record["executed"].as_array().expect("a list");
    let seven = executed.iter().find(|one| one["user"] == "7:8").expect("the first of them");
    assert_ne!(seven["enforced"]["uids"], record["enforced"]["uids"], "the kernel's word is about that user");
    // Without capabilities nobody becomes another, and the payload's own user is no other.
    let running = run(&[]);
    exec(&host, &["-u", "7", "one", "true"]).refuses(125, &["user 7", "may not change its user", "--profile service"]);
    assert_eq!(exec(&host, &["-u", "0", "one", "id", "-u"]).exits(0), "0\n");
    stop(running);
    host.nothing_is_left();
}

#[test]
fn a_command_may_have_a_terminal_of_its_own() {
    let Some((host, running)) = host_and_run(&["--name", "one"]) else { return };
    let mut command = host.ces();
    command.args(["exec", "-it", "one", "sh"]);
    let mut terminal = Terminal::start(&command);
    let before = terminal.modes();
    terminal.shows("$ ");
    assert!(terminal.is_raw());
    let said = terminal.says("tty; stty size");
    assert!(said.contains("/dev/pts/0\r\n24 80"), "{said}");
    terminal.types("sh -c 'echo beg\"\"un; exec sleep 100'\r");
    terminal.shows("begun\r\n");
    terminal.types("\x03");
    terminal.shows("$ ");
    terminal.resize(40, 132);
    wait_until("the new size", || terminal.says("stty size").contains("40 132"));
    terminal.types("exit 5\r");
    assert_eq!(terminal.finish().code(), Some(5), "{}", terminal.all());
    assert_eq!(before.local_flags, terminal.modes().local_flags);
    running.signal(Signal::SIGTERM);
    running.finish();
    let executed = host.records().pop().expect("a record")["executed"][0].clone();
    assert_eq!(executed["enforced"]["terminal"], executed["enforced"]["streams"][0]["device"]);
    host.nothing_is_left();
}

#[test]
fn a_command_ends_with_its_run_and_with_whoever_asked_for_it() {
    let Some((host, running)) = host_and_run(&["--name", "one"]) else { return };
    let ticking =
        "trap 'echo hung up > /safe_outputs/hung; exit' HUP; : > /safe_outputs/$0; while :; do sleep 0.05; done";
    let start = |name: &str| {
        let mut command = host.ces();
        let child = command.args(["exec", "one", "sh", "-c", ticking, name]).spawn().expect("ces");
        wait_until("the command's start", || running.outputs.join(name).exists());
        child
    };
    let mut lost = start("lost");
    lost.kill().expect("ces exec is there");
    lost.wait().expect("its end");
    wait_until("the command is hung up", || running.outputs.join("hung").exists());
    let mut asked = start("asked");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(asked.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(asked.wait().expect("its end").code(), Some(143), "signals are passed on");
    let mut last = start("last");
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    assert_eq!(last.wait().expect("its end").code(), Some(137));
    host.nothing_is_left();
}

#[test]
fn only_the_runs_own_researcher_and_root_come_in() {
    let Some((host, running)) = host_and_run(&[]) else { return };
    let mut command = host.ces();
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534").env("SUDO_USER", "nobody");
    Ran::from(command.args(["exec", &running.id(), "true"]).output()).refuses(125, &["no run"]);
    Ran::from(host.ces_as_root().args(["exec", &running.id(), "true"]).output()).exits(0);
    let socket = fs::metadata(host.root().join(format!("run/{}/exec.sock", running.id()))).expect("the socket");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777, 0o600);
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    host.nothing_is_left();
}
