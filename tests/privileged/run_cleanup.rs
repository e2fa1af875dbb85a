//! Nothing is left, however a run ends: no process, mount, control group, scratch.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Host, Ran, children, wait_until};

/// A payload that keeps files, processes and shared memory.
const BUSY: &str = "mkdir -p /scratch/a/b /tmp/t; : > /scratch/a/b/f; chmod 500 /scratch/a/b; chmod 0 /scratch/a
    echo result > /safe_outputs/result; (setsid sleep 100 &); echo x > /dev/shm/x; sleep 100";

#[test]
fn a_run_that_ended_well_leaves_outputs_and_record_alone() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "mkdir -p /scratch/a/b; : > /scratch/a/b/f; chmod 0 /scratch/a; : > /safe_outputs/result").exits(0);
    host.nothing_is_left();
    assert_eq!(host.named("outputs_").len(), 1);
    assert_eq!(host.records().len(), 1);
}

#[test]
fn a_run_ended_by_a_signal_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let Some(host) = Host::with_demo() else { return };
        let running = host.start(&[], BUSY);
        wait_until("a result", || fs::read(running.outputs.join("result")).is_ok_and(|text| text == b"result\n"));
        assert!(!host.processes().is_empty());
        running.signal(signal);
        let ran = running.finish();
        assert!(ran.code.is_some_and(|code| code > 128), "{signal}: {ran:?}");
        host.nothing_is_left();
        assert_eq!(host.output("result"), "result\n");
    }
}

#[test]
fn after_kill_9_the_container_dies_and_the_next_command_sweeps() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], BUSY);
    let id = running.id();
    wait_until("a result", || running.outputs.join("result").exists());
    running.signal(Signal::SIGKILL);
    assert_eq!(running.finish().signal, Some(Signal::SIGKILL as i32));
    wait_until("the container's processes die with ces", || host.processes().is_empty());

    Ran::from(host.ces().arg("images").output()).exits(0);
    host.nothing_is_left();
    assert_eq!(host.output("result"), "result\n", "outputs are kept");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(host.outputs().join("result")).expect("the result"));
    assert_eq!(owner, host.researcher().uid.as_raw());
    let record = fs::read_to_string(host.root().join(format!("log/runs/{id}.json"))).expect("a record");
    assert!(record.contains("interrupted"), "{record}");
}

#[test]
fn a_sweep_leaves_running_jobs_alone() {
    let Some(host) = Host::with_demo() else { return };
    let killed = host.start(&[], BUSY);
    let alive = host.start(&[], "while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; cat /scratch/here");
    fs::write(host.home().join(format!("scratch_{}", alive.id())).join("here"), "still here\n").expect("scratch");
    killed.signal(Signal::SIGKILL);
    killed.finish();
    Ran::from(host.ces().arg("images").output()).exits(0);
    fs::write(alive.outputs.join("go"), "").expect("a signal to go on");
    assert_eq!(alive.finish().exits(0), "still here\n");
    host.nothing_is_left();
}

/// Changes what the journal of a killed run says of the machine.
fn rewrite_machine(host: &Host, id: &str, change: impl FnOnce(&mut Value)) {
    let path = host.root().join("run").join(id).join("job.json");
    let mut journal: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a journal")).expect("JSON");
    change(&mut journal["machine"]);
    fs::write(&path, journal.to_string()).expect("a journal");
}

/// A run that was killed, with all that nobody has removed yet.
fn killed_run(host: &Host) -> String {
    let running = host.start(&[], BUSY);
    let id = running.id();
    running.signal(Signal::SIGKILL);
    running.finish();
    wait_until("the container's processes die with ces", || host.processes().is_empty());
    id
}

#[test]
fn what_ran_when_the_host_went_down_is_swept_after_its_next_start() {
    let Some(host) = Host::with_demo() else { return };
    let id = killed_run(&host);
    // As after a start of the same machine: the kernel has drawn another number, which no process of now was given under.
    rewrite_machine(&host, &id, |machine| machine["boot"] = json!("11111111-2222-3333-4444-555555555555"));
    Ran::from(host.ces().arg("images").output()).exits(0);
    host.nothing_is_left();
    assert_eq!(host.records()[0]["state"], "interrupted");
}

#[test]
fn a_run_of_another_machine_with_the_same_home_is_shown_and_left_alone() {
    let Some(host) = Host::with_demo() else { return };
    let id = killed_run(&host);
    let mut here = Value::Null;
    rewrite_machine(&host, &id, |machine| {
        here = machine.clone();
        // The image of the system may be the same, and its lock be free here: many shared file systems keep them apart.
        machine["host"] = json!("node17");
        machine["boot"] = json!("11111111-2222-3333-4444-555555555555");
    });
    let scratch = host.named("scratch_");
    Ran::from(host.ces().arg("images").output()).exits(0);
    host.sh(&[], "true").exits(0);
    assert_eq!((scratch.len(), host.named("scratch_")), (1, scratch), "its scratch stays");
    let listed = Ran::from(host.ces().args(["ps", "--json"]).output());
    let listed: Value = serde_json::from_str(listed.exits(0)).expect("JSON");
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&json!(id), &json!("on node17")));
    Ran::from(host.ces().args(["stop", &id]).output()).refuses(1, &["started on node17", "log in to node17"]);
    rewrite_machine(&host, &id, |machine| *machine = here);
    Ran::from(host.ces().arg("images").output()).exits(0);
    host.nothing_is_left();
}

#[test]
fn when_the_stage_process_is_killed_ces_says_so_and_cleans_up() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], BUSY);
    let task = format!("/proc/{0}/task/{0}/children", running.pid());
    let stages = fs::read_to_string(task).expect("the children of ces");
    for stage in stages.split_whitespace() {
        kill(Pid::from_raw(stage.parse().expect("a number")), Signal::SIGKILL).expect("the stage is there");
    }
    let ran = running.finish();
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn an_end_by_deadline_or_by_memory_leaves_nothing() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&["--timeout", "1s"], BUSY).exits(124);
    host.nothing_is_left();
    host.sh(&["--memory", "64m"], "sleep 100 & mkdir /scratch/d; chmod 0 /scratch/d; tail /dev/zero").exits(137);
    host.nothing_is_left();
}

#[test]
fn scratch_is_removed_without_following_links_out_of_it() {
    let Some(host) = Host::with_demo() else { return };
    let precious = host.home().join("precious");
    fs::create_dir(&precious).expect("a directory");
    fs::write(precious.join("file"), "precious\n").expect("a file");
    let home = host.researcher().dir.display().to_string();
    host.sh(
        &[],
        &format!(
            "ln -s {home}/precious /scratch/link; ln -s / /scratch/root; mkdir /scratch/d; ln -s .. /scratch/d/up"
        ),
    )
    .exits(0);
    host.nothing_is_left();
    assert_eq!(fs::read_to_string(precious.join("file")).expect("the file"), "precious\n");
    assert_eq!(host.sh(&[], "cat /safe_data/ward.csv | wc -l").exits(0), "4\n");
}

#[test]
fn a_reader_that_goes_away_does_not_leave_a_job_behind() {
    let Some(host) = Host::with_demo() else { return };
    let mut command = host.command("/bin/sh");
    let ces = env!("CARGO_BIN_EXE_ces");
    let ready = host.ces();
    for (name, value) in ready.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.args(["-c", &format!("{ces} run localhost/demo /bin/sh -c 'while :; do echo line; done' | head -n 1")]);
    assert_eq!(Ran::from(command.output()).exits(0), "line\n");
    host.nothing_is_left();
}

#[test]
fn many_runs_one_after_the_other_and_together_leave_nothing() {
    let Some(host) = Host::with_demo() else { return };
    for _ in 0..5 {
        host.sh(&[], "true").exits(0);
    }
    let together: Vec<_> =
        (0..10).map(|_| host.run_command(&["localhost/demo", "/bin/true"]).spawn().expect("ces")).collect();
    for mut child in together {
        assert!(child.wait().expect("its end").success());
    }
    host.nothing_is_left();
    assert_eq!(host.records().len(), 15);
    assert_eq!(children(&host.root().join("store/work")).len(), 0);
}
