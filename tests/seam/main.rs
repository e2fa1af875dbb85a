//! The enforced check, end to end: in each test one protection is missing in the real kernel state of a created
//! container; the run is refused before the payload executes, and the difference is named.
//!
//! This program is `ces` itself, linked from the same library, with another stage process: `losing` changes what the
//! stage is asked for, or answers one system call of the engine with a lie, so that the engine believes that it has
//! applied what it has not. All that decides (the policy, the expectation, the check) runs unchanged in the parent.
//! Nothing of it is in the product.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics is a test that fails")]
#![allow(clippy::print_stderr, reason = "a skip says why, loudly")]

/// The clock on the wall, set while ces runs.
mod clock;
/// The caller's keys, looked for in a container.
mod keys;
/// The stage process that leaves something out.
mod losing;
/// What it can leave out.
mod losses;
#[allow(dead_code, unused_imports, reason = "shared with the other tests, which need more of it")]
#[path = "../support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use losses::{FAILURES, LOSSES, Loss, WORD};
use support::{Host, Ran};

fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    let word = |at: usize| argv.get(at).and_then(|word| word.to_str());
    match (word(0), word(1)) {
        (Some("ces: stage"), _) => ExitCode::from(losing::stage()),
        (Some(ces::image::unpack::NAME), _) => ces::image::unpack::child_main(ces::stack::READERS),
        (_, Some("run")) => {
            ces::host::privilege::begin().expect("who calls");
            as_ces(&argv)
        }
        _ => tests(),
    }
}

/// What `main` of ces does with a command line that it understands.
fn as_ces(argv: &[OsString]) -> ExitCode {
    ces::host::sys::close_from(3).expect("no descriptors of the caller");
    let (parsed, _) = ces::cli::parse(argv);
    let (cli, _) = parsed.expect("a command line");
    match ces::commands::dispatch(&cli.global, &cli.command, ces::commands::start_stage()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprint!("{}", error.report());
            ExitCode::from(125)
        }
    }
}

fn tests() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Hosts of their own fork: one thread.
    arguments.test_threads = Some(1);
    let each = |loss: &'static Loss| {
        Trial::test(format!("refused_without_{}", loss.name), move || {
            refused(loss);
            Ok::<(), Failed>(())
        })
    };
    let mut all: Vec<Trial> = LOSSES.iter().map(each).collect();
    all.push(Trial::test("an_engine_that_fails_in_the_middle_leaves_nothing", || {
        FAILURES.iter().for_each(refused);
        FAILURES.iter().for_each(|loss| refused_on(Host::of_an_ordinary_user(), loss));
        Ok(())
    }));
    all.push(Trial::test("an_ordinary_users_run_is_refused_as_well", || {
        ordinary();
        Ok(())
    }));
    all.push(Trial::test("with_nothing_left_out_the_same_program_runs_the_payload", || {
        runs();
        Ok(())
    }));
    all.push(Trial::test("the_callers_keys_are_out_of_the_containers_reach", || {
        keys_of_the_caller();
        Ok(())
    }));
    all.push(Trial::test("a_clock_that_is_set_neither_ends_nor_prolongs_a_run", || {
        clock_that_is_set();
        Ok(())
    }));
    libtest_mimic::run(&arguments, all).exit_code()
}

/// A payload that leaves traces wherever it can.
const TRACES: [&str; 4] =
    ["/bin/sh", "-c", "echo executed; echo executed > /safe_outputs/trace; echo x > /safe_data/trace", "sh"];

fn run(host: Option<Host>, loss: &str, options: &[&str], image: &str) -> Option<(Host, Ran)> {
    let mut host = host?;
    host.pull_demo("demo");
    host.pull_demo("root");
    let below = host.researcher().dir.join("safe_data/below");
    let mount = "mkdir -m 777 \"$1\" && mount -t tmpfs -o mode=1777 tmpfs \"$1\"";
    Ran::from(host.command("/bin/sh").args(["-c", mount, "sh"]).arg(&below).output()).exits(0);
    host.remember_mounts();
    host.program = std::env::current_exe().expect("this program");
    let word = format!("{}={loss}", WORD);
    let ran = host.run(&[&["-e", &word], options, &[image], &TRACES].concat());
    Some((host, ran))
}

fn refused(loss: &Loss) {
    refused_on(Host::new(), loss);
}

fn refused_on(host: Option<Host>, loss: &Loss) {
    let Some((host, ran)) = run(host, loss.name, loss.options, loss.image) else { return };
    eprintln!("{}", ran.stderr);
    ran.refuses(125, &[loss.said]);
    assert!(!ran.stdout.contains("executed"), "{ran:?}");
    assert!(!host.home().join("safe_data/trace").exists(), "the payload was executed");
    host.nothing_ran();
    // The record says that it was refused, and why.
    let record = host.records().pop().expect("a record");
    assert_eq!(record["state"], "refused", "{record}");
    assert!(record["ended"].as_str().is_some_and(|ended| !ended.is_empty()), "{record}");
}

/// What an ordinary user's stage can leave out without the host's root.
const ORDINARY: [&str; 8] = [
    "the_user",
    "seccomp",
    "an_empty_bounding_set",
    "nosuid_on_the_data",
    "read_only_data_to_its_depth",
    "every_mask",
    "closed_descriptors",
    "loopback_alone",
];

fn ordinary() {
    let of = |name: &&str| LOSSES.iter().find(|loss| loss.name == *name).expect("a loss of this name");
    ORDINARY.iter().map(of).for_each(|loss| refused_on(Host::of_an_ordinary_user(), loss));
}

/// The same key is found where ces is made to keep the caller's session keyring: it is there to be found.
fn keys_of_the_caller() {
    keys::plant();
    for host in [Host::new(), Host::of_an_ordinary_user()] {
        let Some(mut host) = host else { return };
        host.pull_demo("root");
        host.program = std::env::current_exe().expect("this program");
        let word = format!("{WORD}={}", keys::LOOK);
        for (kept, found) in [("", "Required key not available (os error 126)"), ("1", "found")] {
            let mut command = host.run_command(&["-e", &word, "localhost/root", "/bin/true"]);
            Ran::from(command.env(keys::KEPT, kept).output()).exits(0);
            assert_eq!(host.output(keys::FOUND), found, "kept: {kept}");
        }
        host.nothing_is_left();
    }
}

/// A deadline far away does not come with a jump of a day; one that is near comes, and the record says how long it really was.
fn clock_that_is_set() {
    for host in [Host::new(), Host::of_an_ordinary_user()] {
        let Some(mut host) = host else { return };
        host.pull_demo("root");
        host.program = std::env::current_exe().expect("this program");
        let ran = |options: &[&str], seconds: &str| {
            let mut command = host.run_command(&[options, &["localhost/root", "/bin/sleep", seconds]].concat());
            Ran::from(command.env(clock::WORD, "1").output())
        };
        ran(&["--timeout", "1h"], "2").exits(0);
        let late = ran(&["--timeout", "2s"], "600");
        assert!(late.code == Some(124) && late.stderr.contains("deadline"), "{late:?}");
        let records = host.records();
        assert_eq!(records.len(), 2);
        for record in records {
            let seconds = record["seconds"].as_f64().expect("how long it ran");
            assert!((2.0..600.0).contains(&seconds), "{record}");
            let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
            assert!(!record["started"].as_str().expect("a time").starts_with(&today), "the clock was set: {record}");
        }
        host.nothing_is_left();
    }
}

fn runs() {
    for options in [&[][..], &["--read-only"], &["--profile", "service"]] {
        for host in [Host::new(), Host::of_an_ordinary_user()] {
            let Some((host, ran)) = run(host, "nothing", options, "localhost/root") else { return };
            assert_eq!(ran.exits(0), "executed\n");
            assert_eq!(host.output("trace"), "executed\n");
            host.nothing_is_left();
        }
    }
}
