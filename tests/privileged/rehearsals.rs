//! What is kept of a rehearsal, what runs say of it, and what was measured.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::callers::{Caller, Desk};
use crate::support::probe::each_host;
use crate::support::{Host, Ran, have};

#[test]
fn a_run_says_what_the_last_rehearsal_of_its_image_was_worth() {
    each_host(|host| {
        let said = |words: &str| {
            let ran = host.sh(&[], "true");
            ran.exits(0);
            assert!(ran.stderr.contains(words), "{words}: {ran:?}");
            ran.stderr
        };
        assert!(!said("").contains("rehearsed"), "nothing is said where there was none");
        assert_eq!(host.rehearse_sh(&[], "true").ran.code, Some(0));
        said("same image, same rules: ready\n");
        assert!(!host.run(&["localhost/root", "/bin/true"]).stderr.contains("rehearsed"), "another image");
        assert_eq!(host.rehearse_sh(&["--light"], "true").ran.code, Some(0));
        said("same image, same rules, but not as strictly: ready\n");
        assert_eq!(host.rehearse_sh(&[], "exit 3").ran.code, Some(1));
        said("same image, same rules: NOT READY\n");
        assert_eq!(host.rehearse_sh(&[], "true").ran.code, Some(0));
        host.policy("[limits.pids]\nmax = 1000\n");
        said("same image, other rules: ready\n");
        host.policy("[images]\nrehearsed = \"advice\"\n");
        let ran = host.run(&["localhost/root", "/bin/true"]);
        ran.exits(0);
        assert!(ran.stderr.contains("note: the image has not been rehearsed here"), "{ran:?}");
        host.nothing_is_left();
    });
}

#[test]
fn a_policy_may_require_a_rehearsal_which_is_ready_whole_and_by_its_own_rules() {
    each_host(|host| {
        host.policy("[images]\nrehearsed = true\n");
        let refused = |words: &[&str]| {
            let all = [&["images.rehearsed", "ces rehearse"], words].concat();
            host.sh(&[], "echo ran").refuses(125, &all);
        };
        refused(&["not rehearsed here"]);
        assert_eq!(host.rehearse_sh(&[], "exit 1").ran.code, Some(1));
        refused(&["NOT READY"]);
        assert_eq!(host.rehearse_sh(&["--light"], "true").ran.code, Some(0));
        refused(&["not as strictly"]);
        assert_eq!(host.rehearse_sh(&[], "true").ran.code, Some(0));
        assert_eq!(host.sh(&[], "echo ran").exits(0), "ran\n");
        let record = host.records().pop().expect("a record");
        let decision = record["decisions"].as_array().expect("decisions").iter().find(|d| d["what"] == "rehearsal");
        assert!(decision.expect("it is recorded")["value"].as_str().expect("words").ends_with("same rules: ready"));
        host.run(&["localhost/root", "/bin/true"]).refuses(125, &["not rehearsed here"]);
        host.policy("[images]\nrehearsed = true\n[limits.pids]\nmax = 1000\n");
        refused(&["other rules"]);
        host.policy("[images]\nrehearsed = \"yes\"\n");
        host.sh(&[], "echo ran").refuses(125, &["images.rehearsed", "must be"]);
        host.nothing_is_left();
    });
}

#[test]
fn what_is_mended_and_what_is_new_is_told_at_the_next_rehearsal() {
    let Some(host) = Host::with_demo() else { return };
    let script = "test -e /safe_data/second && host=second.example || host=first.example; nslookup $host; true";
    let first = host.rehearse_sh(&[], script);
    assert!(first.report["since_last"].is_null(), "{first:?}");
    let same = host.rehearse_sh(&[], script);
    assert!(same.ran.stderr.contains("note: the same was found at the last rehearsal ("), "{same:?}");
    let data = host.home().join("synthetic");
    fs::create_dir(&data).expect("a directory");
    fs::write(data.join("second"), "").expect("a file");
    let other =
        host.rehearse_sh(&["--data", host.researcher().dir.join("synthetic").to_str().expect("a path")], script);
    let since = &other.report["since_last"];
    let mended = since["mended"].as_array().expect("a list");
    assert!(mended.iter().any(|what| what == "looked up first.example"), "{other:?}");
    assert!(
        mended.iter().any(|what| what.as_str().is_some_and(|what| what.contains("/safe_data/second"))),
        "{other:?}"
    );
    assert_eq!(since["new"], serde_json::json!(["looked up second.example"]), "{other:?}");
    assert_eq!(since["digest"], other.report["digest"]);
    for words in ["MENDED SINCE THE LAST REHEARSAL (", "  looked up first.example\n", "NEW SINCE THE LAST REHEARSAL ("]
    {
        assert!(other.ran.stderr.contains(words), "{words}: {other:?}");
    }
    // Another command is another rehearsal.
    assert!(host.rehearse_sh(&[], "true").report["since_last"].is_null());
}

#[test]
fn what_was_used_is_told_beside_the_limits_and_options_with_it_are_taken_by_a_run() {
    each_host(|host| {
        let file = host.researcher().dir.join("measured.opt");
        let script = "for n in 1 2 3 4 5 6; do sleep 0.3 & done; head -c 3000000 /dev/zero > /safe_outputs/kept;
            head -c 100000 /dev/zero > /scratch/s; head -c 5000 /dev/zero > /tmp/t; sleep 0.4;
            x=$(head -c 60000000 /dev/zero | tr '\\0' a); sleep 30 & echo ${#x}";
        let words = ["--options", file.to_str().expect("a path"), "--memory", "512m", "--pids-limit", "100"];
        let rehearsal = host.rehearse_sh(&words, script);
        assert_eq!(rehearsal.ran.stdout, "60000000\n", "{rehearsal:?}");
        let (report, peaks) = (&rehearsal.report, &rehearsal.report["peaks"]);
        assert_eq!(peaks["outputs"], serde_json::json!({ "files": 1, "bytes": 3_000_000 }), "{peaks}");
        assert_eq!(peaks["scratch"], serde_json::json!({ "files": 1, "bytes": 100_000 }), "{peaks}");
        assert_eq!(peaks["over_the_image"], serde_json::json!({ "files": 1, "bytes": 5_000 }), "{peaks}");
        let running = rehearsal.found("missed", "running", "sleep");
        assert_eq!(running["times"], 1, "{running}");
        let text = fs::read_to_string(host.home().join("measured.opt")).expect("options");
        let option = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|line| line.trim().to_owned())
        };
        assert_eq!(option("--timeout").as_deref(), Some("10m"), "{text}");
        // An ordinary user of this machine may have no control group.
        if let Some(peak) = report["peak_memory"].as_u64() {
            assert!(peak > 60_000_000, "{peak}");
            let memory = option("--memory").expect("a limit of memory");
            let mebibytes: u64 = memory.trim_end_matches('m').parse().expect("mebibytes");
            assert!((peak >> 20) < mebibytes && mebibytes <= 512, "{text}: {peak}");
        }
        if let Some(pids) = peaks["pids"].as_u64() {
            assert!((8..100).contains(&pids), "{peaks}");
            assert!(option("--pids-limit").expect("a limit").parse::<u64>().expect("a number") >= pids, "{text}");
            assert!(rehearsal.ran.stderr.contains(" of 100 processes"), "{rehearsal:?}");
        }
        if let Some(cpu) = peaks["cpu_seconds"].as_f64() {
            assert!(cpu > 0.01 && cpu < 30.0, "{peaks}");
        }
        let again =
            host.run(&["--opt-file", file.to_str().expect("a path"), "localhost/demo", "/bin/sh", "-c", "echo taken"]);
        assert_eq!(again.exits(0), "taken\n");
        // Nobody runs: nothing is told.
        assert!(host.rehearse_sh(&[], "true").finding("running", "sleep").is_none());
        host.nothing_is_left();
    });
}

#[test]
fn privileges_that_a_run_lacks_are_told_and_what_it_has_is_not() {
    each_host(|host| {
        // As a raw socket, and as one for its own protocol: the first is a privilege, both are refused.
        let script = "ping -c 1 -W 1 127.0.0.1; nc -l -p 80 -w 1; nc -l -p 8080 -w 1; ip addr > /dev/null; true";
        let rehearsal = host.rehearse_sh(&[], script);
        let wanted: Vec<&str> = rehearsal
            .all()
            .iter()
            .filter(|finding| finding["kind"] == "privilege")
            .filter_map(|finding| finding["object"].as_str())
            .collect();
        assert!(wanted.contains(&"to listen at port 80"), "{wanted:?}: {rehearsal:?}");
        assert!(wanted.iter().any(|wanted| wanted.contains("raw socket")), "{wanted:?}: {rehearsal:?}");
        assert_eq!(wanted.len(), 2, "{wanted:?}");
    });
}

#[test]
fn a_rehearsal_is_kept_for_its_researcher_where_they_cannot_write() {
    let Some(host) = Host::with_demo() else { return };
    assert_eq!(host.rehearse_sh(&[], "true").ran.code, Some(0));
    let own = host.root().join("log/rehearsals").join(host.researcher().uid.to_string());
    let files = crate::support::children(&own);
    assert_eq!(files.len(), 1, "{files:?}");
    let found = |path: &Path| {
        let found = fs::metadata(path).expect("it is there");
        (std::os::unix::fs::MetadataExt::uid(&found), std::os::unix::fs::MetadataExt::mode(&found) & 0o777)
    };
    assert_eq!((found(&own), found(&files[0])), ((0, 0o700), (0, 0o600)));
    let text = fs::read_to_string(&files[0]).expect("a ticket");
    let ticket: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&ticket["version"], &ticket["ready"]), (&Value::from(1), &Value::Bool(true)));
    // Cut, it counts as none.
    fs::write(&files[0], &text[..text.find('\n').expect("a line") - 1]).expect("a cut ticket");
    let ran = host.sh(&[], "true");
    assert!(ran.code == Some(0) && !ran.stderr.contains("rehearsed"), "{ran:?}");
}

#[test]
fn the_steps_for_continuous_integration_give_a_verdict_and_both_documents() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    if have("skopeo").is_none() {
        return;
    }
    let home = desk.home();
    fs::create_dir(home.join("synthetic")).expect("a directory");
    fs::write(home.join("synthetic/x.csv"), "1\n").expect("a file");
    let from = format!("oci:{}:demo", crate::support::demo_layout().display());
    let to = format!("docker-archive:{}:tool:latest", home.join("tool.tar").display());
    Ran::from(desk.host.command("skopeo").args(["--insecure-policy", "copy", "-q", &from, &to]).output()).exits(0);
    let whose = format!("chown -R {0} . && cd {1}", desk.host.researcher().name, desk.host.researcher().dir.display());
    Ran::from(desk.host.command("sh").args(["-c", &format!("cd {} && {whose}", home.display())]).output()).exits(0);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rehearsal.md")).expect("the page");
    let steps: Vec<&str> =
        page.lines().filter_map(|line| line.split_once("sudo ces rehearse ").map(|(_, words)| words)).collect();
    assert_eq!(steps.len(), 2, "GitHub's and GitLab's");
    for words in steps {
        let mut command = desk.host.command("runuser");
        command.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
        command
            .arg(format!("sudo -n {} rehearse {words} /bin/sh -c 'cat /safe_data/x.csv'", env!("CARGO_BIN_EXE_ces")));
        let ran = Ran::from(command.output());
        assert_eq!(ran.exits(0), "1\n");
        let report: Value =
            serde_json::from_str(&fs::read_to_string(home.join("report.json")).expect("a report")).expect("JSON");
        assert_eq!((crate::support::rehearsal::objections(&report), &report["ready"]), (None, &Value::Bool(true)));
        assert!(fs::read_to_string(home.join("report.md")).expect("a report").starts_with("### Rehearsal of "));
        fs::remove_file(home.join("report.json")).expect("the report");
    }
}

#[test]
fn what_root_of_a_service_may_is_not_told_as_closed_and_what_it_became_may_not_is() {
    let Some(host) = Host::with_demo() else { return };
    host.pull_demo("root");
    let script = "cat /home/analyst/whose > /dev/null; : > /home/analyst/made; chown 1000:1000 /home/analyst/made; chmod 600 /home/analyst/made
        : > /home/analyst/made; rm /home/analyst/made; mkdir /scratch/d; chmod 700 /scratch/d; chown 1000 /scratch/d; : > /scratch/d/f
        chmod 700 /home/analyst; ls /home/analyst > /dev/null
        su -s /bin/sh analyst -c 'echo x > /bin/new'; true";
    let rehearsal = host.rehearse(&["--profile", "service", "localhost/root", "/bin/sh", "-c", script]);
    let closed: Vec<&str> = rehearsal.report["closed"]
        .as_array()
        .expect("paths")
        .iter()
        .filter_map(|closed| closed["what"]["path"].as_str())
        .collect();
    assert_eq!(closed, ["/bin/new"], "{rehearsal:#?}");
    let denied = rehearsal.ran.stderr.matches("Permission denied").count();
    assert_eq!(denied, 1, "and the payload says the same: {rehearsal:?}");
    host.nothing_is_left();
}
