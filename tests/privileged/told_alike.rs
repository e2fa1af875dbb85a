//! What keeps a run from starting is told by `ces doctor`, `ces policy check`, `ces policy explain` and `ces run` alike.

use std::fs;
use std::path::Path;

use crate::support::Ran;
use crate::support::callers::{Caller, Desk};

/// Who says that a run would be refused.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    doctor: bool,
    check: bool,
    explain: bool,
    run: bool,
}

/// A fault: its name, what makes it, who says so, and a word that each of them says.
type Fault = (&'static str, fn(&Desk), Said, &'static str);

fn policy(desk: &Desk, text: &str) {
    desk.host.policy(text);
}

fn without_data(desk: &Desk) {
    fs::remove_dir_all(desk.host.home().join("safe_data")).unwrap();
}

const ALL: Said = Said { doctor: true, check: true, explain: true, run: true };
/// `ces policy check` reads a file, and knows nothing of who calls and which image.
const BUT_CHECK: Said = Said { doctor: true, check: false, explain: true, run: true };
const OF_THE_IMAGE: Said = Said { doctor: false, check: false, explain: true, run: true };
const NOBODY: Said = Said { doctor: false, check: false, explain: false, run: false };

const FAULTS: [Fault; 8] = [
    ("nothing is wrong", |desk| policy(desk, "[limits]\nmemory = { default = \"256M\" }\n"), NOBODY, ""),
    ("a key that is not known", |desk| policy(desk, "[limits]\nmemroy = 1\n"), ALL, "limits.memroy"),
    (
        "a list of approvals that is not there",
        |desk| policy(desk, "[images]\napproved = \"/etc/ces/approved.toml\"\n"),
        ALL,
        "approved.toml",
    ),
    (
        "a list of approvals that makes no sense",
        |desk| {
            policy(desk, "[images]\napproved = \"/etc/ces/approved.toml\"\n");
            fs::write(desk.host.inside(Path::new("/etc/ces/approved.toml")), "[[image]\n").unwrap();
        },
        ALL,
        "approved.toml",
    ),
    (
        "an image that is not approved",
        |desk| {
            policy(desk, "[images]\napproved = \"/etc/ces/approved.toml\"\n");
            fs::write(desk.host.inside(Path::new("/etc/ces/approved.toml")), "").unwrap();
        },
        OF_THE_IMAGE,
        "approved",
    ),
    ("a project that the caller has not", without_data, BUT_CHECK, "project"),
    (
        "data that the caller cannot read",
        |desk| {
            let data = desk.host.home().join("safe_data");
            std::os::unix::fs::chown(&data, Some(0), Some(0)).unwrap();
            fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        },
        BUT_CHECK,
        "cannot read from",
    ),
    (
        "an image that is not in the store",
        |desk| drop(desk.ces(&["rmi", "localhost/demo"])),
        OF_THE_IMAGE,
        "localhost/demo",
    ),
];

#[test]
fn what_a_run_would_be_refused_for_is_told_by_all_who_can_know_it() {
    for (name, make, said, word) in FAULTS {
        let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
        make(&desk);
        let as_root = |words: &[&str]| Ran::from(desk.host.ces_as_root().args(words).output());
        let is_there = desk.host.inside(Path::new("/etc/ces/policy.toml")).exists();
        let check = is_there.then(|| as_root(&["policy", "check", "/etc/ces/policy.toml"]));
        let ran = [
            Some(desk.ces(&["doctor"])),
            check,
            Some(desk.ces(&["policy", "explain", "localhost/demo"])),
            Some(desk.sh(&[], "true")),
        ];
        let refuses = |ran: &Option<Ran>| ran.as_ref().is_some_and(|ran| ran.code != Some(0));
        let found = Said {
            doctor: refuses(&ran[0]),
            check: refuses(&ran[1]),
            explain: refuses(&ran[2]),
            run: refuses(&ran[3]),
        };
        assert_eq!(found, said, "{name}: {ran:?}");
        for ran in ran.iter().flatten().filter(|ran| ran.code != Some(0)) {
            assert!(format!("{}{}", ran.stdout, ran.stderr).contains(word), "{name}: {word}: {ran:?}");
        }
    }
}

#[test]
fn an_authority_that_is_not_there_is_told_before_somebody_pulls() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    policy(&desk, "[registries.\"ghcr.io\"]\nca = \"/etc/ces/no-such.pem\"\n");
    // A run needs no registry.
    desk.sh(&[], "true").exits(0);
    for words in [&["doctor"][..], &["policy", "check", "/etc/ces/policy.toml"]] {
        let ran = Ran::from(desk.host.ces_as_root().args(words).output());
        assert!(ran.stdout.contains("/etc/ces/no-such.pem"), "{words:?}: {ran:?}");
    }
    assert!(desk.ces(&["doctor"]).exits(0).contains("/etc/ces/no-such.pem"));
    // What a researcher's own file names is not looked at with root's power.
    let secret = desk.host.inside(Path::new("/root/list.toml"));
    fs::write(&secret, "secret = \"in root's home\"\n").unwrap();
    let own = desk.host.home().join("p.toml");
    fs::write(&own, "[images]\napproved = \"/root/list.toml\"\n").unwrap();
    let checked = desk.ces(&["policy", "check", "p.toml"]);
    assert!(!format!("{}{}", checked.stdout, checked.stderr).contains("list.toml"), "{checked:?}");
    checked.exits(0);
}

#[test]
fn who_calls_without_sudo_under_an_enforced_policy_is_told_what_holds_through_sudo() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    policy(&desk, "mode = \"enforced\"\n[limits]\nmemory = { default = \"256M\" }\n");
    let ces = env!("CARGO_BIN_EXE_ces");
    let as_user = |words: &str| {
        let mut shell = desk.host.command("runuser");
        shell.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
        Ran::from(shell.arg(format!("{ces} {words}")).output())
    };
    assert!(as_user("doctor").exits(0).contains("\nenforced: "));
    assert!(as_user("policy show").exits(0).contains("(enforced)"));
    assert!(as_user("policy explain localhost/demo").exits(0).contains("localhost/demo:latest@sha256:"));
    assert!(Ran::from(desk.host.ces_as_root().arg("doctor").output()).stdout.contains("their calls go through sudo"));
    fs::remove_file(desk.host.inside(Path::new("/etc/sudoers.d/ces"))).unwrap();
    for words in ["doctor", "policy explain localhost/demo", "images"] {
        as_user(words).refuses(3, &["to be called through sudo"]);
    }
    as_user("run localhost/demo true").refuses(125, &["to be called through sudo"]);
    // A file is read without it.
    as_user("policy check /etc/ces/policy.toml").exits(0);
}
