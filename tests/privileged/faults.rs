//! Faults: killed at any moment, out of descriptors, out of space, no home to write. One clear error, and nothing is left.

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Host, Ran, children, wait_until};

/// How often a kill at a random moment is tried; more with `CES_LONG=1`.
fn repetitions() -> u32 {
    if std::env::var_os("CES_LONG").is_some() { 300 } else { 30 }
}

/// Moments spread evenly over the time that a start takes, in an order that is always the same.
fn moments(longest: Duration) -> impl Iterator<Item = Duration> {
    let count = repetitions();
    // 7 and its multiples visit every number once, as long as 7 does not divide the count.
    (0..count).map(move |n| longest * ((n * 7) % count) / count)
}

/// The processes that `pid` has started.
fn started_by(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|n| n.parse().ok()).map(Pid::from_raw).collect()
}

fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process number"))
}

/// What a child says that has to end by itself.
fn ends_soon(mut child: std::process::Child, moment: Duration) -> Ran {
    let began = std::time::Instant::now();
    while child.try_wait().expect("its status").is_none() {
        if began.elapsed() > Duration::from_secs(10) {
            child.kill().expect("it is there");
            panic!("killed after {moment:?}: ces hangs");
        }
        sleep(Duration::from_millis(10));
    }
    Ran::from(child.wait_with_output())
}

/// How long a run takes that does nothing: the kills below are spread over it.
fn a_whole_run(host: &Host) -> Duration {
    let began = std::time::Instant::now();
    host.sh(&[], "true").exits(0);
    began.elapsed()
}

#[test]
fn ces_killed_at_any_moment_of_the_start_leaves_nothing_after_the_next_command() {
    let Some(host) = Host::with_demo() else { return };
    let whole = a_whole_run(&host);
    for moment in moments(whole) {
        let mut command = host.run_command(&["localhost/demo", "/bin/sh", "-c", "echo x > /scratch/x"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ces");
        sleep(moment);
        // ESRCH: it was quicker.
        kill(pid_of(&child), Signal::SIGKILL).ok();
        child.wait().expect("its end");
        Ran::from(host.ces().arg("images").output()).exits(0);
        host.nothing_is_left();
        let begun = host.records().iter().filter(|record| record["state"] == "begun").count();
        assert_eq!(begun, 0, "killed after {moment:?}: a record says that it still runs");
    }
}

#[test]
fn the_stage_process_killed_at_any_moment_is_one_error_and_nothing_is_left() {
    let Some(host) = Host::with_demo() else { return };
    let whole = a_whole_run(&host);
    let mut killed = 0;
    for moment in moments(whole) {
        let mut command = host.run_command(&["localhost/demo", "/bin/sh", "-c", "sleep 0.05"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
        sleep(moment);
        for stage in started_by(pid_of(&child)) {
            // ESRCH: it has just ended.
            killed += u32::from(kill(stage, Signal::SIGKILL).is_ok());
        }
        let ran = ends_soon(child, moment);
        assert!(!ran.stderr.contains("panicked"), "{moment:?}: {ran:?}");
        match ran.code {
            Some(0 | 137) => {}
            // ces's own word: one error, and what is to be done.
            _ => {
                assert_eq!(ran.code, Some(125), "{moment:?}: {ran:?}");
                assert_eq!(ran.stderr.matches("error: ").count(), 1, "{moment:?}: {ran:?}");
            }
        }
        // Without any other command: ces itself is alive and cleans up.
        host.nothing_is_left();
    }
    assert!(killed > repetitions() / 4, "only {killed} kills met a stage process");
}

/// Without a control group nothing but the processes themselves, and the next command, can end what is left.
#[test]
fn ces_and_its_stage_killed_at_once_at_any_moment_leave_nothing_that_runs_on_without_a_control_group() {
    let Some(host) = Host::of_an_ordinary_user() else { return };
    host.pull_demo("demo");
    let whole = a_whole_run(&host);
    let mut killed = 0;
    for moment in moments(whole) {
        let words = ["localhost/demo", "/bin/sh", "-c", "sleep 0.5; echo x > /scratch/x"];
        let mut child = host.run_command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ces");
        sleep(moment);
        let ces = pid_of(&child);
        // The stage first, or its death would follow from that of ces.
        let stages = started_by(ces);
        killed += stages.iter().filter(|stage| kill(**stage, Signal::SIGKILL).is_ok()).count();
        kill(ces, Signal::SIGKILL).ok();
        child.wait().expect("its end");
        Ran::from(host.ces().arg("images").output()).exits(0);
        host.nothing_is_left();
    }
    assert!(killed > 3, "only {killed} kills met a stage process");
}

#[test]
fn every_process_below_ces_killed_at_once_leaves_nothing() {
    let Some(host) = Host::with_demo() else { return };
    // Should the shell see its children die before it does, that is no success either.
    let running = host.start(&[], "sleep 100 & sleep 100 & : >/safe_outputs/all-there; wait; exit 3");
    wait_until("all processes are there", || running.outputs.join("all-there").exists());
    let mut all = started_by(running.pid());
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        all.extend(started_by(pid));
        at += 1;
    }
    assert!(all.len() >= 4, "stage, PID 1, shell, sleep: {all:?}");
    // The innermost first: each parent may still say something about it.
    for pid in all.iter().rev() {
        kill(*pid, Signal::SIGKILL).ok();
    }
    let ran = running.finish();
    assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn a_run_stopped_in_the_middle_of_its_directories_is_swept_too() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "true").exits(0);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let (host_name, boot) = (read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"));
    let aside = |host_name: &str, boot: &str, pid: u32| {
        let name = format!(".new-{host_name}:{}:{boot}:{pid}:20200101T000000-000000", read("/etc/machine-id"));
        let dir = host.root().join("run").join(name);
        fs::create_dir(&dir).expect("a journal half made");
        fs::write(dir.join("lock"), "").expect("its lock");
        dir
    };
    // What a kill between the making of a journal's directory and its naming leaves: no process has this number.
    let half = aside(&host_name, &boot, 4_194_304);
    // The same, before the machine went down; and what is being made right now, here and elsewhere.
    let (old, elsewhere) = (aside(&host_name, "earlier", 1), aside("node17", "another", 4_194_304));
    let busy = aside(&host_name, &boot, std::process::id());
    Ran::from(host.ces().arg("images").output()).exits(0);
    assert_eq!((half.exists(), old.exists(), elsewhere.exists(), busy.exists()), (false, false, true, true));
    fs::remove_dir_all(&elsewhere).expect("the end of it");
    fs::remove_dir_all(&busy).expect("the end of it");
}

/// `ces run` by way of a shell that first runs `before`, in the test's mount namespace.
fn run_after(host: &Host, before: &str, words: &[&str]) -> Ran {
    let mut command = host.command("/bin/sh");
    let ready = host.run_command(words);
    for (name, value) in ready.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    // The words of the ready command from `ces` on: those before it enter the namespace.
    let ces = env!("CARGO_BIN_EXE_ces");
    let words: Vec<_> = ready.get_args().skip_while(|word| *word != ces).collect();
    command.args(["-c", &format!("{before}; exec \"$@\""), "sh"]).args(words);
    Ran::from(command.output())
}

#[test]
fn with_too_few_descriptors_a_run_is_one_error_or_works() {
    let Some(host) = Host::with_demo() else { return };
    let mut refused = 0;
    for limit in [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 32, 64] {
        let ran = run_after(&host, &format!("ulimit -n {limit}"), &["localhost/demo", "/bin/true"]);
        assert!(!ran.stderr.contains("panicked"), "{limit}: {ran:?}");
        // Below five descriptors the shell or the loader may fail before ces begins.
        if ran.code != Some(0) && limit > 4 {
            assert_eq!(ran.code, Some(125), "{limit}: {ran:?}");
            assert_eq!(ran.stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{limit}: {ran:?}");
            refused += 1;
        }
        Ran::from(host.ces().arg("images").output()).exits(0);
        host.nothing_is_left();
        if ran.code != Some(0) {
            assert!(host.named("outputs_").is_empty(), "{limit}: nothing ran, so there are no outputs");
        }
        for outputs in host.named("outputs_") {
            fs::remove_dir(outputs).expect("empty outputs");
        }
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_home_that_cannot_be_written_is_one_error_and_nothing_ran() {
    let Some(host) = Host::with_demo() else { return };
    let home = host.researcher().dir.display().to_string();
    let remount = |how: &str| {
        Ran::from(host.command("mount").args(["-o", &format!("remount,bind,{how}"), &home]).output()).exits(0);
    };
    remount("ro");
    let ran = host.run(&["localhost/demo", "/bin/true"]);
    remount("rw");
    ran.refuses(125, &["home", "read-only"]);
    host.nothing_ran();
}

#[test]
fn a_home_that_is_full_is_one_error_and_nothing_ran() {
    let Some(host) = Host::with_demo() else { return };
    let home = host.researcher().dir.display().to_string();
    let uid = host.researcher().uid;
    // Room for the directory of the data and for nothing else: no inode is free.
    let script = format!(
        "mount -t tmpfs -o nr_inodes=2,mode=0755,uid={uid} tmpfs {home} && mkdir {home}/safe_data && chown {uid} {home}/safe_data"
    );
    Ran::from(host.command("/bin/sh").args(["-c", &script]).output()).exits(0);
    let ran = host.run(&["localhost/demo", "/bin/true"]);
    Ran::from(host.command("umount").arg(&home).output()).exits(0);
    ran.refuses(125, &["home", "no space"]);
    host.nothing_ran();
}

#[test]
fn a_full_store_is_one_error_and_nothing_ran() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "true").exits(0);
    assert!(host.named("outputs_").is_empty(), "nothing was left");
    let work = std::path::Path::new("/var/lib/ces/work");
    let mut refused = 0;
    // Inodes or bytes; the mount itself takes one inode, the directory of the run another.
    let sizes = (1..8).chain([16, 32, 65]).map(|inodes| format!("nr_inodes={inodes}"));
    for size in sizes.chain(["size=4k", "size=64k", "size=512k"].map(str::to_owned)) {
        let mounted = format!("mount -t tmpfs -o {size},mode=0700 tmpfs {}", work.display());
        Ran::from(host.command("/bin/sh").args(["-c", &mounted]).output()).exits(0);
        let ran = host.run(&["localhost/demo", "/bin/true"]);
        let left = children(&host.inside(work));
        Ran::from(host.command("umount").arg(work).output()).exits(0);
        refused += 1;
        match size.as_str() {
            // Not even the run's directory.
            "nr_inodes=1" => ran.refuses(125, &["no space left"]),
            _ => ran.refuses(125, &["no space left in the store", "free", "1048576 bytes and 64 inodes", "ces prune"]),
        }
        assert!(left.is_empty(), "{size}: {left:?}");
        host.nothing_ran();
    }
    assert_eq!(refused, 13);
    // What is said to be enough is enough.
    let mounted = format!("mount -t tmpfs -o nr_inodes=66,size=1028k,mode=0700 tmpfs {}", work.display());
    Ran::from(host.command("/bin/sh").args(["-c", &mounted]).output()).exits(0);
    let ran = host.run(&["localhost/demo", "/bin/true"]);
    Ran::from(host.command("umount").arg(work).output()).exits(0);
    ran.exits(0);
}
