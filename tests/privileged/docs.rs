//! Commands of the documentation, each run as it stands there, and what they print compared with what stands there.
//!
//! A block marked `console` holds commands after `$` (the researcher) and `#` (root), and what they print. In what they print, `…` stands
//! for any text, and a line that is `…` alone for any lines.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, demo_layout};

/// One command of a page.
struct Step {
    is_root: bool,
    command: String,
    prints: Vec<String>,
}

/// The steps of a page, in order.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("\n```").next().unwrap();
        let mut lines = block.lines();
        while let Some(line) = lines.next() {
            let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) else {
                steps.last_mut().expect("a command before what it prints").prints.push(line.to_owned());
                continue;
            };
            let mut command = command.to_owned();
            if command.ends_with("<<'END'") {
                for line in lines.by_ref() {
                    command.push_str(&format!("\n{line}"));
                    if line == "END" {
                        break;
                    }
                }
            }
            steps.push(Step { is_root: line.starts_with('#'), command, prints: Vec::new() });
        }
    }
    assert!(!steps.is_empty());
    steps
}

/// Whether a line is as it stands in the page.
fn is_like(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn are_like(lines: &[&str], patterns: &[String]) -> bool {
    match (lines, patterns) {
        ([], []) => true,
        (_, [any, patterns @ ..]) if any == "…" => (0..=lines.len()).any(|n| are_like(&lines[n..], patterns)),
        ([line, lines @ ..], [pattern, patterns @ ..]) => is_like(line, pattern) && are_like(lines, patterns),
        _ => false,
    }
}

/// Runs a page of `docs` on a desk: `ces` is the one under test, by whatever path the page names it.
fn run(desk: &Desk, page: &str) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(repository.join("docs").join(page)).unwrap();
    let program = env!("CARGO_BIN_EXE_ces");
    let bin = desk.host.tmp().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(program, bin.join("ces")).unwrap();
    let samples = desk.host.tmp().join("samples");
    fs::create_dir(&samples).unwrap();
    let sudoers = fs::read_to_string(repository.join("package/sudoers.example")).unwrap();
    let sudoers = sudoers.replace("/usr/bin/ces", program);
    fs::write(samples.join("sudoers"), sudoers).unwrap();
    symlink(demo_layout(), desk.host.home().join("demo")).unwrap();
    symlink(demo_layout(), desk.host.inside(Path::new("/root/demo"))).unwrap();
    let path = format!("export PATH={}:/usr/sbin:/usr/bin:/sbin:/bin CES_TEST={}", bin.display(), desk.host.token());
    for step in steps(&page) {
        let command = step.command.replace("/usr/share/doc/ces/examples", &samples.display().to_string());
        let mut shell = if step.is_root {
            let mut shell = desk.host.command("sh");
            shell.env("HOME", "/root").arg("-c").arg(format!("{path}; cd; {{ {command}\n}} 2>&1"));
            shell
        } else {
            let mut shell = desk.host.command("runuser");
            shell.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
            shell.arg(format!("{path}; {{ {command}\n}} 2>&1"));
            shell
        };
        let ran = Ran::from(shell.output());
        let fails = step.prints.iter().any(|line| line.starts_with("error:"));
        assert_eq!(ran.code != Some(0), fails, "{command}: {ran:?}");
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert!(
            are_like(&lines, &step.prints),
            "{command} printed\n{}\nand the page says\n{}",
            ran.stdout,
            step.prints.join("\n")
        );
    }
}

#[test]
fn the_first_ten_minutes_are_as_the_page_tells_them() {
    let Some(desk) = Desk::new(Caller::UserWithSubids) else { return };
    run(&desk, "start.md");
}

#[test]
fn a_long_job_is_lived_with_as_the_page_tells_it() {
    let Some(desk) = Desk::new(Caller::UserWithSubids) else { return };
    desk.ces(&["pull", "--name", "lab/tool:1.0", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
    run(&desk, "jobs.md");
}

#[test]
fn a_batch_job_saves_its_state_and_has_its_scratch_as_the_page_tells_it() {
    let Some(desk) = Desk::new(Caller::UserWithSubids) else { return };
    desk.ces(&["pull", "--name", "lab/tool:1.0", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
    run(&desk, "batch.md");
}

#[test]
fn an_archive_is_carried_in_as_the_page_tells_it() {
    let Some(desk) = Desk::new(Caller::UserWithSubids) else { return };
    run(&desk, "proxies.md");
}

#[test]
fn metrics_are_printed_and_written_as_the_page_tells_it() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    desk.sh(&[], "true").exits(0);
    run(&desk, "monitoring.md");
}

#[test]
fn a_policy_is_enforced_after_the_five_steps_of_the_page() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let etc = desk.host.inside(Path::new("/etc"));
    fs::remove_file(etc.join("sudoers.d/ces")).unwrap();
    fs::create_dir_all(etc.join("ces")).unwrap();
    run(&desk, "administrators.md");
}
