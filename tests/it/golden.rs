//! Help and mistakes, word for word.

use std::process::Command;

use crate::expected::is_as_expected;

/// Every command with a help of its own.
const COMMANDS: [&str; 53] = [
    "",
    "pull",
    "run",
    "rehearse",
    "images",
    "rmi",
    "prune",
    "fsck",
    "bundle",
    "inspect",
    "stack",
    "spec",
    "policy",
    "policy show",
    "policy check",
    "policy explain",
    "doctor",
    "ps",
    "stop",
    "logs",
    "exec",
    "runs",
    "show",
    "record",
    "outputs",
    "verify",
    "precheck",
    "report",
    "export",
    "rerun",
    "request",
    "request list",
    "request withdraw",
    "approve",
    "approve add",
    "approve list",
    "approve renew",
    "approve revoke",
    "approve decline",
    "approve check",
    "audit",
    "audit verify",
    "audit log",
    "audit checkpoint",
    "audit prove",
    "metrics",
    "version",
    "vulndb",
    "vulndb import",
    "vulndb list",
    "vulndb remove",
    "completions",
    "man",
];

fn help(command: &str, columns: &str) -> String {
    let mut ces = Command::new(env!("CARGO_BIN_EXE_ces"));
    ces.args(command.split_whitespace()).arg("--help").env_clear().env("COLUMNS", columns);
    let output = ces.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "ces {command} --help");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_of_every_command_is_as_it_was_read() {
    for command in COMMANDS {
        let name = if command.is_empty() { "ces".to_owned() } else { command.replace(' ', "-") };
        for columns in ["80", "120"] {
            let text = help(command, columns);
            is_as_expected(&format!("help/{name}.{columns}.txt"), &text);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            // Examples are lines to copy: they are not broken.
            let longest = columns.parse::<usize>().unwrap().max(105);
            assert!(widest <= longest, "ces {command} --help at {columns} columns has a line of {widest}");
        }
    }
}

#[test]
fn no_command_is_without_a_help_that_is_read() {
    let text = help("", "100");
    let commands = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for line in commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let verb = line.split_whitespace().next().unwrap();
        assert!(verb == "help" || COMMANDS.contains(&verb), "tests/it/golden.rs has no {verb}");
    }
}
