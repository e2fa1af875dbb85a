//! Two people who meet `ces` for the first time, each with nothing but what it says: every step is taken from the answer before.
//!
//! The third, who answers for the data, is walked with in `evidence` and `docs`.

use std::fs;
use std::path::Path;

use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, demo_layout};

/// What is after `hint: `.
fn hint(ran: &Ran) -> &str {
    ran.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap_or_else(|| panic!("a hint: {ran:?}"))
}

/// The command of `ces` in a hint: from its first `ces` to the next comma, semicolon or end.
fn command_in(hint: &str) -> Vec<String> {
    let from = hint.find("ces ").unwrap_or_else(|| panic!("a command in: {hint}"));
    let command = hint[from + 4..].split([',', ';', '(']).next().unwrap();
    let words =
        command.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'));
    words.map(str::to_owned).collect()
}

#[test]
fn a_researcher_who_knows_podman_comes_to_a_result_by_the_hints() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    desk.host.policy(
        "contact = \"IG, ext. 1234\"\n[limits]\nmemory = { max = \"2G\", default = \"256M\" }\n\
         [interactive]\nexec = true\n",
    );
    let archive = format!("oci:{}:demo", demo_layout().display());
    // podman load, podman images.
    let ran = desk.ces(&["load", "-i", "tool.tar"]);
    ran.refuses(2, &["ces pull"]);
    assert!(hint(&ran).contains("oci:DIR"), "{ran:?}");
    desk.ces(&["pull", "--name", "lab/tool:1.0", &archive]).exits(0);
    let ran = desk.ces(&["image", "ls"]);
    let words = command_in(hint(&ran));
    assert_eq!(words[0], "images");
    assert!(desk.ces(&["images"]).exits(0).contains("localhost/lab/tool:1.0"));
    // podman run --rm IMAGE --memory …: the line that was meant can be typed as it stands.
    let script = "wc -l < /safe_data/ward.csv > /result.txt";
    let ran = desk.ces(&["run", "--rm", "lab/tool:1.0", "--memory", "1g", "sh", "-c", "true"]);
    ran.refuses(125, &["stands after the image, where the command belongs"]);
    assert_eq!(hint(&ran), "write: ces run --memory 1g lab/tool:1.0 sh -c true");
    let ran = desk.ces(&["run", "--rm", "--memory", "100g", "lab/tool:1.0", "true"]);
    ran.refuses(125, &["allows 2 GiB at most", "IG, ext. 1234"]);
    // The result is written where nothing is kept: the note says where it belongs.
    let ran = desk.ces(&["run", "--rm", "--user", "0", "--memory", "1g", "lab/tool:1.0", "sh", "-c", script]);
    ran.exits(0);
    assert!(ran.stderr.contains("written outside /safe_outputs and is gone: /result.txt"), "{ran:?}");
    let script = script.replace("/result", "/safe_outputs/result");
    desk.ces(&["run", "--name", "fit", "lab/tool:1.0", "sh", "-c", &script]).exits(0);
    // podman ps -a, podman rm.
    let ran = desk.ces(&["ps", "-a"]);
    assert_eq!(command_in(hint(&ran))[0], "runs");
    assert!(desk.ces(&["runs"]).exits(0).contains("fit"));
    assert!(hint(&desk.ces(&["rm", "fit"])).contains("nothing to remove"));
    // Where is it? The directory can be used in a script.
    let place = desk.ces(&["-q", "outputs", "fit"]);
    let name = Path::new(place.exits(0).trim_end()).file_name().unwrap();
    assert_eq!(fs::read_to_string(desk.home().join(name).join("result.txt")).unwrap().trim(), "4");
    assert!(desk.ces(&["show", "last"]).exits(0).contains("unchanged since the run ended"));
    // podman run -d, podman exec, podman kill.
    let started = desk.ces(&["run", "-d", "--name", "night", "lab/tool:1.0", "sleep", "600"]);
    started.exits(0);
    desk.ces(&["exec", "night", "true"]).exits(0);
    let ran = desk.ces(&["kill", "night"]);
    let mut words = command_in(hint(&ran));
    assert_eq!(words, ["stop", "-t"]);
    words.extend(["0".to_owned(), "night".to_owned()]);
    desk.ces(&words.iter().map(String::as_str).collect::<Vec<_>>()).exits(0);
    desk.host.nothing_is_left();
}

#[test]
fn a_sysadmin_comes_from_a_bare_host_to_an_enforced_policy_by_what_doctor_says() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let root = |words: &[&str]| Ran::from(desk.host.ces_as_root().args(words).output());
    let as_user = |words: &str| {
        let mut shell = desk.host.command("runuser");
        shell.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
        Ran::from(shell.arg(format!("{} {words}", env!("CARGO_BIN_EXE_ces"))).output())
    };
    // Nothing is set: runs work, and doctor says what does not bind anybody yet.
    let first = root(&["doctor"]);
    assert!(first.stdout.contains("mode = \"enforced\""), "{first:?}");
    assert!(first.stdout.contains("set limits.scratch and limits.outputs"), "{first:?}");
    // The policy that doctor asks for, with a slip: the line is told, and nothing is in force that was not meant.
    let etc = desk.host.inside(Path::new("/etc/ces"));
    let policy = |text: &str| fs::write(etc.join("policy.toml"), text).unwrap();
    policy("mode = \"enforce\"\n");
    root(&["policy", "check", "/etc/ces/policy.toml"]).refuses(3, &["line 1", "enforced"]);
    as_user("run localhost/demo true").refuses(125, &["line 1"]);
    policy(
        "contact = \"IG, ext. 1234\"\nmode = \"enforced\"\n[images]\napproved = \"/etc/ces/approved.toml\"\n\
         [limits]\nmemory = { default = \"256M\" }\nscratch = { max = \"1G\" }\noutputs = { max = \"1G\" }\n\
         [records]\nkeep = \"2y\"\n",
    );
    // What it names is not there: check, doctor and a run say the same, and what makes it.
    for ran in [root(&["policy", "check", "/etc/ces/policy.toml"]), root(&["doctor"])] {
        assert!(ran.exits(1).contains("/etc/ces/approved.toml") && ran.stdout.contains("FAIL"), "{ran:?}");
    }
    fs::write(etc.join("approved.toml"), "").unwrap();
    let pulled = root(&["pull", &format!("oci:{}:demo", demo_layout().display())]);
    let digest = pulled.exits(0).trim_end().rsplit_once('@').unwrap().1.to_owned();
    as_user("run localhost/demo true").refuses(125, &["approved", "IG, ext. 1234"]);
    root(&["approve", "add", &digest, "--project", "*", "--until", "2099-01-01"]).exits(0);
    root(&["policy", "check", "/etc/ces/policy.toml"]).exits(0);
    let doctor = as_user("doctor");
    assert!(doctor.exits(0).contains("\nenforced: ") && !doctor.stdout.contains("FAIL"), "{doctor:?}");
    as_user("run localhost/demo true").exits(0);
    assert!(root(&["images"]).exits(0).contains("until 2099-01-01"));
    // Operations.
    let list = root(&["runs", "--format", "csv"]);
    assert!(list.exits(0).contains(&desk.host.researcher().name) && list.stdout.contains("exit 0"), "{list:?}");
    assert!(root(&["metrics"]).exits(0).contains("ces_runs{state=\"finished\"} 1"));
    root(&["audit", "verify"]).exits(0);
    root(&["prune", "--dry-run"]).exits(0);
    assert!(root(&["prune", "--records"]).exits(0).contains("removed 0 records"));
    desk.host.nothing_is_left();
}
