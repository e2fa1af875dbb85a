//! Living with jobs: names, `ces ps`, `ces stop`, `ces logs`, runs that outlive their terminal.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::terminal::Terminal;
use crate::support::{Host, Ran, wait_until};

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

/// What `ces ps --json` lists.
fn listed(host: &Host) -> Vec<Value> {
    serde_json::from_str(ces(host, &["ps", "--json"]).exits(0)).expect("JSON")
}

/// Starts a detached run of a shell script, and gives its id.
fn detached(host: &Host, options: &[&str], script: &str) -> String {
    let ran = host.sh(&[&["-d"], options].concat(), script);
    let id = ran.exits(0).trim().to_owned();
    assert!(id.len() > 15 && !id.contains('\n'), "an id and no more: {ran:?}");
    id
}

fn record(host: &Host, id: &str) -> Value {
    host.records().into_iter().find(|record| record["id"] == id).expect("a record")
}

fn ended(host: &Host, id: &str) {
    wait_until("the end of a detached run", || listed(host).iter().all(|job| job["id"] != id));
}

/// `ces` for another researcher of this host.
fn of_another(host: &Host, words: &[&str]) -> Ran {
    let mut command: Command = host.ces();
    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534").env("SUDO_USER", "nobody");
    Ran::from(command.args(words).output())
}

#[test]
fn a_name_is_unique_among_the_running_and_free_afterwards() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&["--name", "mine"], "sleep 100");
    host.sh(&["--name", "mine"], "true").refuses(125, &["mine", "taken", &running.id()]);
    ces(&host, &["stop", "mine"]).exits(0);
    running.finish().exits(143);
    host.sh(&["--name", "mine"], "true").exits(0);
    // Of many at once one has it.
    let script = "while [ ! -e /safe_data/go ]; do sleep 0.05; done";
    let together: Vec<_> = (0..8)
        .map(|_| host.run_command(&["--name", "one", "localhost/demo", "sh", "-c", script]))
        .map(|mut command| command.stderr(std::process::Stdio::null()).spawn().expect("ces"))
        .collect();
    let mut together = together;
    let mut refused = 0;
    wait_until("all but one to be refused", || {
        together.retain_mut(|child| match child.try_wait().expect("its state") {
            Some(status) => {
                assert_eq!(status.code(), Some(125));
                refused += 1;
                false
            }
            None => true,
        });
        refused == 7
    });
    assert_eq!(listed(&host).len(), 1);
    fs::write(host.home().join("safe_data/go"), "").expect("a signal to go on");
    assert!(together[0].wait().expect("its end").success());
    host.nothing_is_left();
}

#[test]
fn ps_lists_what_runs_for_whom_it_runs() {
    let Some(host) = Host::with_demo() else { return };
    assert_eq!(listed(&host), Vec::<Value>::new());
    let running = host.start(&["--name", "night"], "sleep 100");
    let id = running.id();
    let job = listed(&host).pop().expect("a job");
    assert_eq!((&job["id"], &job["name"], &job["state"]), (&id.as_str().into(), &"night".into(), &"running".into()));
    assert_eq!((&job["image"], &job["detached"]), (&"localhost/demo:latest".into(), &false.into()));
    assert!(job["started"].as_str().is_some_and(|time| time.ends_with('Z')) && job["project"].is_null(), "{job}");
    let table = ces(&host, &["ps"]);
    let lines: Vec<&str> = table.exits(0).lines().collect();
    assert!(lines[0].starts_with("ID") && lines[0].ends_with("STATE") && lines[0].contains("PROJECT"), "{table:?}");
    assert!(lines[1].starts_with(&id) && lines[1].contains("night") && lines[1].ends_with("running"), "{table:?}");
    // Another researcher neither sees nor stops it; the host's root does.
    assert_eq!(of_another(&host, &["ps", "--json"]).exits(0), "[]\n");
    of_another(&host, &["stop", &id]).refuses(1, &["no run"]);
    assert!(Ran::from(host.ces_as_root().arg("ps").output()).exits(0).contains(&id));
    Ran::from(host.ces_as_root().args(["stop", &id]).output()).exits(0);
    running.finish().exits(143);
    ces(&host, &["stop", &id]).refuses(1, &["no run", &id]);
    host.nothing_is_left();
}

#[test]
fn stop_gives_a_time_of_grace_and_then_ends_the_run_in_order() {
    let Some(host) = Host::with_demo() else { return };
    let running =
        host.start(&[], "trap 'echo tidied > /safe_outputs/tidied; exit 3' TERM; while :; do sleep 0.1; done");
    assert_eq!(ces(&host, &["stop", &running.id()]).exits(0).trim(), running.id());
    running.finish().exits(3);
    assert_eq!(host.output("tidied"), "tidied\n");
    // Whoever does not listen is killed, and the record is closed as ever.
    let running = host.start(&[], "trap '' TERM; echo kept > /safe_outputs/kept; while :; do sleep 0.1; done");
    let (id, outputs) = (running.id(), running.outputs.clone());
    ces(&host, &["stop", "-t", "0", &id]).exits(0);
    running.finish().exits(137);
    assert_eq!(record(&host, &id)["state"], "finished");
    assert_eq!(fs::metadata(outputs.join("kept")).expect("kept").uid(), host.researcher().uid.as_raw());
    host.nothing_is_left();
}

#[test]
fn stop_gives_the_terminal_of_an_interactive_run_back() {
    let Some(host) = Host::with_demo() else { return };
    // An interactive shell ignores SIGTERM.
    let mut terminal = Terminal::start(&host.run_command(&["-q", "-it", "--name", "desk", "localhost/demo", "sh"]));
    terminal.shows("$ ");
    assert!(terminal.is_raw());
    ces(&host, &["stop", "-t", "0", "desk"]).exits(0);
    assert_eq!(terminal.finish().code(), Some(137), "{}", terminal.all());
    assert!(!terminal.is_raw());
    host.nothing_is_left();
}

#[test]
fn a_detached_run_outlives_the_terminal_that_started_it() {
    let Some(host) = Host::with_demo() else { return };
    let script = "echo begun; tty; while [ ! -e /safe_data/go ]; do sleep 0.05; done; echo wrong >&2; exit 6";
    let mut terminal =
        Terminal::start(&host.run_command(&["-d", "--name", "far", "localhost/demo", "sh", "-c", script]));
    assert_eq!(terminal.finish().code(), Some(0), "{}", terminal.all());
    let id = terminal.all().trim().to_owned();
    terminal.closes();
    let job = listed(&host).pop().expect("a job");
    assert_eq!((&job["id"], &job["detached"], &job["state"]), (&id.as_str().into(), &true.into(), &"running".into()));
    // No session and no terminal of the caller's.
    let stat = fs::read_to_string(format!("/proc/{}/stat", job["pid"])).expect("the supervisor");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    assert_eq!(fields[4], "0", "no controlling terminal: {stat}");
    assert_ne!(fields[3], job["pid"].to_string(), "not the leader of its session: {stat}");
    wait_until("its first words", || ces(&host, &["logs", "far"]).exits(0).contains("not a tty"));
    let following = host.ces().args(["logs", "-f", &id]).stdout(std::process::Stdio::piped()).spawn().expect("ces");
    fs::write(host.home().join("safe_data/go"), "").expect("a signal to go on");
    let followed = Ran::from(following.wait_with_output());
    assert!(followed.exits(0).starts_with("begun\nnot a tty\nwrong\n"), "both streams, to the end: {followed:?}");
    // After its end it is the same; its words about itself are at the end.
    assert_eq!(ces(&host, &["logs", "far"]).exits(0), followed.stdout);
    assert!(followed.stdout.contains(&format!("run {id}: exit 6")), "{followed:?}");
    let record = record(&host, &id);
    assert_eq!((&record["exit"], &record["state"], &record["name"]), (&6.into(), &"finished".into(), &"far".into()));
    host.nothing_is_left();
}

#[test]
fn a_detached_run_may_have_a_terminal_and_keeps_its_deadline_and_can_be_stopped() {
    let Some(host) = Host::with_demo() else { return };
    let id = detached(&host, &["-it", "--timeout", "1s"], "tty; sleep 100");
    ended(&host, &id);
    assert_eq!(record(&host, &id)["exit"], 124);
    assert!(ces(&host, &["logs", &id]).exits(0).starts_with("/dev/pts/0"));
    let id = detached(&host, &[], "sleep 100");
    ces(&host, &["stop", &id]).exits(0);
    assert_eq!(record(&host, &id)["exit"], 143);
    host.nothing_is_left();
}

#[test]
fn a_stop_that_comes_with_the_start_is_not_lost() {
    let Some(host) = Host::with_demo() else { return };
    for _ in 0..20 {
        let id = detached(&host, &[], "exec sleep 100");
        ces(&host, &["stop", &id]).exits(0);
        assert_eq!(record(&host, &id)["exit"], 143);
    }
    host.nothing_is_left();
}

#[test]
fn what_prevents_a_detached_run_is_told_to_who_started_it() {
    let Some(host) = Host::with_demo() else { return };
    host.run(&["-d", "localhost/not-here"]).refuses(125, &["not-here", "not in the store"]);
    host.run(&["-d", "-w", "/proc/1", "localhost/demo", "true"]).refuses(125, &["/proc/1"]);
    host.policy("[interactive]\nallow = false\n");
    host.run(&["-d", "-t", "localhost/demo", "true"]).refuses(125, &["interactive.allow"]);
    host.policy("");
    let taken = detached(&host, &["--name", "taken"], "sleep 100");
    host.sh(&["-d", "--name", "taken"], "true").refuses(125, &["taken", &taken]);
    ces(&host, &["stop", "taken"]).exits(0);
    let logs = fs::read_dir(host.root().join("log/runs")).expect("records").flatten();
    assert_eq!(logs.filter(|entry| entry.path().extension().is_some_and(|e| e == "log")).count(), 1);
    host.nothing_is_left();
}

#[test]
fn a_log_is_bounded_and_the_payload_is_not_held_up() {
    let Some(host) = Host::with_demo() else { return };
    let id = detached(&host, &[], "head -c 40m /dev/zero; head -c 40m /dev/zero >&2; echo done > /safe_outputs/done");
    ended(&host, &id);
    let record = record(&host, &id);
    assert_eq!(record["exit"], 0);
    assert!(record["warnings"].to_string().contains("the log was full"), "{}", record["warnings"]);
    let log = fs::read(host.inside(&PathBuf::from(record["log"].as_str().expect("a log")))).expect("the log");
    let bound = 64 << 20;
    assert!((bound..bound + 1024).contains(&log.len()), "{} bytes", log.len());
    let last = String::from_utf8_lossy(&log[bound..]).into_owned();
    assert!(last.contains("the log is full (64 MiB)") && last.matches("is full").count() == 1, "{last}");
    assert_eq!(host.output("done"), "done\n");
    host.nothing_is_left();
}

#[test]
fn a_log_is_for_the_researcher_and_does_not_steer_their_terminal() {
    let Some(host) = Host::with_demo() else { return };
    let id = detached(&host, &[], "printf '\\033[31mred\\033[0m\\033]52;c;eA==\\007\\033[2Jend\\n'");
    ended(&host, &id);
    let raw = "\x1b[31mred\x1b[0m\x1b]52;c;eA==\x07\x1b[2Jend\n";
    assert!(ces(&host, &["logs", &id]).exits(0).starts_with(raw), "into a pipe it goes as it is");
    let json = ces(&host, &["logs", "--json", &id]).exits(0).to_owned();
    assert!(!json.contains('\x1b'), "{json}");
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let text: String = lines.iter().map(|line| line["line"].as_str().expect("a line").to_owned() + "\n").collect();
    assert!(text.starts_with(raw.trim_end()) && lines[0]["id"] == id.as_str(), "{json}");
    let mut command = host.ces();
    command.args(["logs", &id]);
    let mut terminal = Terminal::start(&command);
    assert_eq!(terminal.finish().code(), Some(0));
    assert!(terminal.all().starts_with("\x1b[31mred\x1b[0m\\x1b]52;c;eA==\\x07\\x1b[2Jend"), "{:?}", terminal.all());
    of_another(&host, &["logs", &id]).refuses(1, &["no record"]);
    let log = host.root().join(format!("log/runs/{id}.log"));
    let found = fs::metadata(&log).expect("the log");
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o600, 0));
    // A run that was not detached has none.
    host.sh(&[], "true").exits(0);
    let other = host.records().into_iter().find(|record| record["id"] != id.as_str()).expect("the other record");
    ces(&host, &["logs", other["id"].as_str().expect("an id")]).refuses(1, &["no log", "not detached"]);
}

#[test]
fn a_detached_supervisor_that_is_killed_takes_the_container_with_it() {
    let Some(host) = Host::with_demo() else { return };
    let id = detached(&host, &[], "echo here; sleep 100");
    wait_until("its words", || ces(&host, &["logs", &id]).exits(0).contains("here"));
    let pid = listed(&host)[0]["pid"].as_i64().expect("a number");
    kill(Pid::from_raw(i32::try_from(pid).expect("a process number")), Signal::SIGKILL).expect("the supervisor");
    wait_until("the container's end", || host.processes().is_empty());
    assert!(ces(&host, &["logs", &id]).exits(0).starts_with("here\n"));
    assert_eq!(record(&host, &id)["state"], "interrupted");
    host.nothing_is_left();
}
