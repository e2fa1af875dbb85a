//! The command line, by the binary itself.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// `ces` with an environment of its own.
pub fn ces(words: &[&str]) -> Output {
    command("ces").args(words).output().unwrap()
}

fn command(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ces"));
    command.arg0(name).env_remove("CES_ROOT").env_remove("CES_POLICY").env_remove("SUDO_UID").env_remove("SUDO_USER");
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_and_version_are_on_stdout_and_succeed() {
    for words in [&["--help"][..], &["--version"], &["run", "--help"], &["policy", "explain", "--help"]] {
        let output = ces(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{words:?}");
        // Not a terminal: no colours.
        assert!(!output.stdout.contains(&0x1b), "{words:?}");
    }
}

#[test]
fn usage_is_2_and_for_a_run_125() {
    assert_eq!(ces(&["no-such-verb"]).status.code(), Some(2));
    assert_eq!(ces(&["rmi"]).status.code(), Some(2));
    assert_eq!(ces(&[]).status.code(), Some(2));
    assert_eq!(ces(&["run", "--no-such-option", "img"]).status.code(), Some(125));
    assert_eq!(ces(&["--root", "/x", "run"]).status.code(), Some(125));
    let output = command("ces-run").output().unwrap();
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let output = command("ces").args(["policy", "show"]).env("CES_POLICY", "").env("CES_ROOT", "").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn the_other_names_are_links_to_the_same_program() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("ces-pull");
    symlink(env!("CARGO_BIN_EXE_ces"), &link).unwrap();
    let output = Command::new(&link).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("USER TOKEN IMAGE"));
}

#[test]
fn completions_are_made_for_three_shells() {
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef ces"), ("fish", "complete -c ces")] {
        let output = ces(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(sign), "{shell}");
        assert!(!text(&output.stdout).contains("privileged"), "hidden options stay hidden");
    }
}

#[test]
fn descriptors_of_the_caller_are_closed() {
    // A shell leaves descriptor 9 open; whatever the verb, nothing is harmed by it.
    let output = Command::new("sh")
        .args(["-c", "exec 9</etc/passwd; LISTEN_FDS=7 exec \"$0\" policy show", env!("CARGO_BIN_EXE_ces")])
        .env_remove("CES_POLICY")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
