//! Limits, deadlines and exit codes: what `ces run` tells is what happened.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Host, Ran};

#[test]
fn the_payloads_exit_status_is_that_of_ces_run() {
    let Some(host) = Host::with_demo() else { return };
    for status in [0, 1, 2, 42, 124, 125, 255] {
        host.sh(&[], &format!("exit {status}")).exits(status);
    }
}

#[test]
fn what_cannot_be_executed_is_126_and_what_is_not_there_127() {
    let Some(host) = Host::with_demo() else { return };
    for (program, status) in [("/etc/passwd", 126), ("/bin", 126), ("/no/such", 127), ("no-such-program", 127)] {
        let ran = host.run(&["localhost/demo", program]);
        ran.exits(status);
        assert!(ran.stderr.contains(program), "{ran:?}");
    }
    host.nothing_is_left();
}

#[test]
fn a_payload_killed_by_a_signal_gives_128_and_the_signal() {
    let Some(host) = Host::with_demo() else { return };
    for (name, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139), ("ABRT", 134)] {
        let ran = host.sh(&[], &format!("kill -{name} $$; sleep 10"));
        ran.exits(status);
        assert!(!ran.stderr.contains("out of memory"), "{ran:?}");
    }
    host.nothing_is_left();
}

#[test]
fn a_deadline_ends_the_payload_with_124_and_says_so() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&["--timeout", "1s"], "echo partial > /safe_outputs/kept; sleep 100");
    ran.exits(124);
    assert!(ran.stderr.contains("deadline"), "it is to be said: {ran:?}");
    assert_eq!(host.output("kept"), "partial\n");
    host.nothing_is_left();
}

#[test]
fn a_payload_that_ignores_the_deadline_is_killed() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&["--timeout", "1s"], "trap '' TERM INT HUP; sleep 100 & while :; do wait; sleep 1; done").exits(124);
    host.nothing_is_left();
}

#[test]
fn traffic_with_disks_has_the_policys_limit_and_the_payload_is_where_it_holds() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[limits]\nio = { max = \"8M\" }\n");
    host.sh(&[], "true").exits(0);
    let record = host.records().pop().unwrap();
    let limited = record["enforced"]["limits"]["io"].as_object().expect("a limit of each disk below home and store");
    assert!(!limited.is_empty() && limited.values().all(|rate| *rate == 8 << 20), "{limited:?}");
    let whole = |disk: &String| !Path::new("/sys/dev/block").join(disk).join("partition").exists();
    assert!(limited.keys().all(whole), "{limited:?}");
    if Path::new("/sys/fs/cgroup/blkio").exists() {
        let group = format!("blkio:/ces-{}", record["id"].as_str().unwrap());
        let groups = record["enforced"]["cgroups"].as_array().unwrap();
        assert!(groups.iter().any(|line| line.as_str().unwrap().ends_with(&group)), "{groups:?}");
    }
    // Every runtime is told the same.
    let io = &host.spec(&[], "localhost/demo")["linux"]["resources"]["blockIO"];
    for way in ["throttleReadBpsDevice", "throttleWriteBpsDevice"] {
        let devices = io[way].as_array().unwrap();
        assert!(devices.len() == limited.len() && devices.iter().all(|device| device["rate"] == 8 << 20), "{io}");
    }
    let doctor = Ran::from(host.ces().arg("doctor").output());
    assert!(doctor.exits(0).lines().any(|line| line.contains("memory, cpu, pids, io")), "{doctor:?}");
    let explained = Ran::from(host.ces().args(["policy", "explain", "localhost/demo"]).output());
    assert!(
        explained.exits(0).lines().any(|line| line.contains("io a second") && line.contains("8 MiB")),
        "{explained:?}"
    );
    host.nothing_is_left();
}

#[test]
fn outputs_and_scratch_beyond_the_policys_bound_end_the_run_with_137() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[limits]\nscratch = { max = \"1M\" }\noutputs = { max = \"1M\", files = 10 }\n");
    let fill = |dir: &str| format!("dd if=/dev/zero of={dir}/big bs=1M count=4 2>/dev/null; sync; sleep 100");
    for (script, said) in [
        (fill("/scratch"), "scratch limit"),
        (fill("/safe_outputs"), "outputs limit"),
        ("cd /safe_outputs; for i in $(seq 20); do : > $i; done; sleep 100".to_owned(), "files are more than 10"),
    ] {
        let ran = host.sh(&[], &script);
        ran.exits(137);
        assert!(ran.stderr.contains(said), "{ran:?}");
    }
    assert_eq!(host.sh(&[], "echo small > /safe_outputs/x; sleep 1.5; echo well").exits(0), "well\n");
    host.nothing_is_left();
}

#[test]
fn what_is_written_over_the_image_counts_as_scratch_and_hiding_it_does_not_help() {
    for host in [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten() {
        host.pull_demo("demo");
        host.policy("[limits]\nscratch = { max = \"2M\", files = 200 }\noutputs = { max = \"2M\" }\n");
        let fill = |dir: &str| format!("dd if=/dev/zero of={dir}/big bs=1M count=6 2>/dev/null; sync");
        let hide = |dir: &str| format!("mkdir {dir}/x; {}; chmod 0 {dir}/x", fill(&format!("{dir}/x")));
        for (script, said) in [
            (fill("/tmp"), "scratch limit: "),
            ("cd /tmp; for i in $(seq 300); do : > $i; done".to_owned(), "files are more than 200"),
            // Half here, half there.
            ("for d in /tmp /scratch; do for i in $(seq 150); do : > $d/$i; done; done".to_owned(), "more than 200"),
            // Where only the payload may look: an id of its own, and mode 0.
            (hide("/tmp"), "scratch limit: "),
            (hide("/scratch"), "scratch limit: "),
            (hide("/safe_outputs"), "outputs limit: "),
            // Deeper than anybody looks.
            ("cd /safe_outputs; for i in $(seq 300); do mkdir d; cd d; done".to_owned(), "more than 256 deep"),
        ] {
            let ran = host.sh(&[], &format!("{script}; sleep 100"));
            ran.exits(137);
            assert!(ran.stderr.contains(said), "{script}: {ran:?}");
        }
        let ran = host.sh(&[], "mkdir /tmp/x; : > /tmp/x/y; chmod 0 /tmp/x; sleep 1.5; echo well");
        assert_eq!(ran.exits(0), "well\n");
        let record = host.records().pop().expect("a record");
        assert_eq!(record["bounds"], serde_json::json!({"outputs": "watched", "scratch": "watched"}));
        host.nothing_is_left();
    }
}

#[test]
fn a_policys_deadline_holds_without_being_asked_for_and_cannot_be_raised() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("contact = \"Governance, ext. 1234\"\n[limits]\ntime = { max = \"1s\" }\n");
    host.sh(&[], "sleep 100").exits(124);
    let ran = host.sh(&["--timeout", "1h"], "true");
    ran.refuses(125, &["policy.toml", "ext. 1234"]);
}

#[test]
fn signals_to_ces_run_reach_the_payload() {
    let Some(host) = Host::with_demo() else { return };
    for (signal, name, status) in
        [(Signal::SIGTERM, "TERM", 7), (Signal::SIGINT, "INT", 8), (Signal::SIGUSR1, "USR1", 9)]
    {
        let script = format!(
            "trap 'echo caught {name}; exit {status}' {name}; : > /safe_outputs/trap; while :; do sleep 0.05; done"
        );
        let running = host.start(&[], &script);
        crate::support::wait_until("the trap is set", || running.outputs.join("trap").exists());
        running.signal(signal);
        assert_eq!(running.finish().exits(status), format!("caught {name}\n"));
    }
    let running = host.start(&[], "exec sleep 100");
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    host.nothing_is_left();
}

#[test]
fn too_much_memory_is_137_and_named_with_limit_and_peak() {
    let Some(host) = Host::with_demo() else { return };
    // tail keeps the last line, and /dev/zero has no end of one.
    let ran = host.sh(&["--memory", "64m"], "echo before > /safe_outputs/kept; tail /dev/zero");
    ran.exits(137);
    assert!(ran.stderr.contains("out of memory: limit"), "{ran:?}");
    assert!(ran.stderr.contains("peak"), "{ran:?}");
    assert_eq!(host.output("kept"), "before\n");
    let record = host.records().pop().expect("a record").to_string();
    assert!(record.contains("out of memory") || record.contains("out_of_memory"), "{record}");
    host.nothing_is_left();
}

#[test]
fn files_in_shared_memory_count_as_memory() {
    let Some(host) = Host::with_demo() else { return };
    let options = ["--memory", "64m", "--shm-size", "60m"];
    let (fill, buffer) =
        ("dd if=/dev/zero of=/dev/shm/x bs=1M count=48", "dd if=/dev/zero of=/dev/null bs=32M count=1");
    host.sh(&options, fill).exits(0);
    host.sh(&options, buffer).exits(0);
    let ran = host.sh(&options, &format!("{fill} && {buffer}"));
    ran.exits(137);
    assert!(ran.stderr.contains("out of memory: limit"), "{ran:?}");
}

#[test]
fn a_fork_bomb_meets_the_limit_of_processes() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&["--pids-limit", "24"], "for i in $(seq 100); do sleep 100 & done; echo all");
    assert!(ran.stderr.contains("can't fork"), "{ran:?}");
    assert!(!ran.stdout.contains("all"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn limits_are_those_of_the_policy_and_the_options_and_no_core_is_dumped() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&["--ulimit", "nofile=512:1024"], "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -Hc");
    assert_eq!(ran.exits(0), "512\n1024\n0\n0\n");
    host.policy("[limits]\nmemory = { max = \"1G\", default = \"256M\" }\n");
    host.sh(&["--memory", "2g"], "true").refuses(125, &["memory", "policy.toml"]);
    host.sh(&["--memory", "512m"], "true").exits(0);
}

#[test]
fn the_control_group_holds_what_was_asked_for() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&["--memory", "128m", "--pids-limit", "33", "--cpus", "0.5"], "exec sleep 100");
    let groups = host.cgroups();
    assert!(!groups.is_empty(), "a run has a control group");
    let read = |names: [&str; 2]| {
        let found =
            groups.iter().find_map(|dir| names.iter().find_map(|name| std::fs::read_to_string(dir.join(name)).ok()));
        found.unwrap_or_default().trim().to_owned()
    };
    // Names of version 1, then of version 2.
    assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), (128 << 20).to_string());
    assert_eq!(read(["pids.max", "pids.max"]), "33");
    let cpu = read(["cpu.cfs_quota_us", "cpu.max"]);
    let quota = cpu.split(' ').next().unwrap_or_default();
    assert_eq!(quota, "50000", "{cpu}");
    running.signal(Signal::SIGTERM);
    running.finish().exits(143);
    host.nothing_is_left();
}

#[test]
fn a_background_process_does_not_outlive_the_payload() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "(setsid sleep 100 &) ; trap '' HUP; sleep 100 & exit 0").exits(0);
    host.nothing_is_left();
}

#[test]
fn orphans_are_reaped_while_the_payload_runs() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&[], "for i in 1 2 3 4 5; do (sleep 0.1 &); done; sleep 1; ps -o stat,comm | grep -c '^Z'");
    assert_eq!(ran.exits(1), "0\n");
}
