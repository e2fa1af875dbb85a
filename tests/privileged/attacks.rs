//! A payload that takes all it can get: the run ends within its limits, others go on, and nothing is left.

use std::time::{Duration, Instant};

use crate::support::{Host, Ran, wait_until};

/// A deadline's grace, and what a slow machine needs for the rest.
const GRACE: Duration = Duration::from_secs(30);

#[test]
fn while_a_fork_bomb_runs_another_run_starts_and_ends_and_the_deadline_holds() {
    let Some(host) = Host::with_probe() else { return };
    let began = Instant::now();
    let bomb = host.start(
        &["--pids-limit", "64", "--timeout", "4s"],
        "trap '' TERM INT HUP; b() { b | b & }; (while :; do b; done 2>/dev/null &); : > /safe_outputs/lit; exec sleep 100",
    );
    wait_until("the bomb is lit", || bomb.outputs.join("lit").exists());
    let other = Instant::now();
    host.sh(&[], "echo fine").exits(0);
    assert!(other.elapsed() < Duration::from_secs(5), "another run took {:?}", other.elapsed());
    bomb.finish().exits(124);
    assert!(began.elapsed() < Duration::from_secs(4) + GRACE, "{:?}", began.elapsed());
    host.nothing_is_left();
}

#[test]
fn children_that_wait_for_ever_end_with_the_payload() {
    let Some(host) = Host::with_probe() else { return };
    let ran = host.probe_run(&["--pids-limit", "200"], "localhost/demo", &["forks"]);
    let report: serde_json::Value = serde_json::from_str(ran.exits(0)).expect("a report");
    assert_eq!(report["errno"], 11, "EAGAIN: {report}");
    let made = report["made"].as_u64().expect("a number");
    assert!((150..200).contains(&made), "{made} of 200");
    host.nothing_is_left();
}

#[test]
fn ten_thousand_orphans_are_reaped_within_a_limit_of_sixty_four_processes() {
    let Some(host) = Host::with_probe() else { return };
    let ran = host.probe_run(&["--pids-limit", "64"], "localhost/demo", &["orphans", "10000"]);
    assert_eq!(ran.exits(0), "10000\n");
    host.nothing_is_left();
}

#[test]
fn zombies_are_bounded_and_gone_with_their_parent() {
    let Some(host) = Host::with_probe() else { return };
    let ran = host.probe_run(&["--pids-limit", "500"], "localhost/demo", &["zombies", "10000"]);
    let made: u32 = ran.exits(0).trim().parse().expect("a number");
    assert!((400..500).contains(&made), "{made} of 500");
    host.nothing_is_left();
}

#[test]
fn a_payload_that_ignores_every_signal_and_hides_behind_daemons_is_ended() {
    let Some(host) = Host::with_probe() else { return };
    let script = "trap '' TERM INT HUP QUIT USR1 USR2
        for i in 1 2 3 4; do (setsid sh -c \"trap '' TERM INT HUP; while :; do sleep 1; done\" &) ; done
        while :; do sleep 1; done";
    let began = Instant::now();
    host.sh(&["--timeout", "1s"], script).exits(124);
    assert!(began.elapsed() < Duration::from_secs(1) + GRACE);
    host.nothing_is_left();
}

#[test]
fn many_that_eat_memory_together_meet_one_limit() {
    let Some(host) = Host::with_probe() else { return };
    let script = "for i in 1 2 3 4 5 6 7 8; do tail /dev/zero & done; tail /dev/zero";
    let ran = host.sh(&["--memory", "64m"], script);
    ran.exits(137);
    assert!(ran.stderr.contains("out of memory: limit"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn directories_of_any_depth_in_scratch_and_in_the_root_are_removed() {
    let Some(host) = Host::with_probe() else { return };
    let script = "/safe_data/probe deep /scratch 20000 && /safe_data/probe deep /tmp 20000";
    let ran = host.sh(&[], script);
    assert!(!ran.stderr.contains("overflow"), "{ran:?}");
    ran.exits(0);
    host.nothing_is_left();
}

#[test]
fn outputs_of_any_depth_end_the_run_in_order_and_are_told() {
    let Some(host) = Host::with_probe() else { return };
    let ran = host.probe_run(&[], "localhost/demo", &["deep", "/safe_outputs", "5000"]);
    ran.exits(0);
    assert!(ran.stderr.contains("deeper than 256 levels"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn standard_output_without_end_is_ended_by_the_deadline_and_kept_nowhere() {
    let Some(host) = Host::with_probe() else { return };
    let mut command = host.run_command(&["--timeout", "1s", "localhost/demo", "/bin/yes"]);
    Ran::from(command.stdout(std::process::Stdio::null()).output()).exits(124);
    host.nothing_is_left();
}
