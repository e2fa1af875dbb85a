//! The audit log: what is a line, what it shows, and what OpenSSH says to its signature.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Host, Ran, audit_log, have};

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn as_root(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces_as_root().args(words).output())
}

fn lines(host: &Host) -> Vec<Value> {
    let text = fs::read_to_string(audit_log(&host.root().join("log"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_refusal_is_a_line_and_so_is_every_begin_and_end_and_no_argument_is_kept() {
    let Some(host) = Host::with_demo() else { return };
    host.run(&["localhost/demo", "/bin/sh", "-c", "exit 3", "--password=s3cret", "9434765919"]).exits(3);
    let refused = ces(&host, &["--root", "/tmp/elsewhere", "ps"]);
    refused.refuses(3, &["--root is not accepted"]);
    assert_ne!(ces(&host, &["pull", "oci:/nowhere"]).code, Some(0));
    let lines = lines(&host);
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert!(of("run.begun") == 1 && of("run.finished") == 1 && of("refused") == 1 && of("log.begun") == 1, "{lines:?}");
    assert!(lines.iter().any(|line| line["event"] == "pull" && line["about"]["result"] == "failed"), "{lines:?}");
    // Every verb that is about an image names it.
    let verbs: [&[&str]; 5] = [
        &["run", "-t", "localhost/demo", "true"],
        &["spec", "-t", "localhost/demo"],
        &["bundle", "-t", "localhost/demo", "made"],
        &["rehearse", "-t", "localhost/demo", "true"],
        &["pull", "oci-archive:/nowhere"],
    ];
    host.policy("[interactive]\nallow = false\n");
    for words in verbs {
        assert_ne!(ces(&host, words).code, Some(0), "{words:?}");
        let about = self::lines(&host).pop().unwrap()["about"].clone();
        let image = if words[0] == "pull" { words[1] } else { "localhost/demo" };
        assert!(about["verb"] == words[0] && about["image"] == image, "{words:?}: {about}");
    }
    let text = Value::from(lines).to_string();
    assert!(
        text.contains("--password=<withheld>") && !text.contains("s3cret") && !text.contains("9434765919"),
        "{text}"
    );
    assert!(as_root(&host, &["audit", "verify"]).exits(0).contains("hold together"));
}

#[test]
fn a_checkpoint_is_checked_by_openssh_and_a_changed_record_log_or_checkpoint_is_told() {
    let Some(host) = Host::with_demo() else { return };
    if have("ssh-keygen").is_none() {
        return;
    }
    host.sh(&[], "true").exits(0);
    let id = host.records().pop().unwrap()["id"].as_str().unwrap().to_owned();
    ces(&host, &["audit", "checkpoint"]).refuses(3, &["root alone"]);
    as_root(&host, &["audit", "checkpoint"]).exits(0);
    let log = audit_log(&host.root().join("log"));
    let beside = |what: &str| log.with_extension(what);
    let stem = log.file_stem().unwrap().to_str().unwrap().to_owned();
    let openssh = || {
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-n", "ces-audit-checkpoint", "-I", &stem, "-f"]).arg(beside("signers"));
        command.arg("-s").arg(beside("checkpoint.sig")).stdin(fs::File::open(beside("checkpoint")).unwrap());
        command.output().unwrap().status.success()
    };
    assert!(openssh());
    let proof = ces(&host, &["audit", "prove", &id]);
    let file = host.tmp().join("proof.json");
    fs::write(&file, proof.exits(0)).unwrap();
    std::os::unix::fs::chown(&file, Some(host.researcher().uid.as_raw()), None).unwrap();
    let proven = ces(&host, &["audit", "verify", "--proof", file.to_str().unwrap()]);
    assert!(proven.exits(0).contains(&format!("of run {id} are among")), "{proven:?}");
    assert!(ces(&host, &["audit", "log"]).exits(0).contains("run.finished"));
    // A record, a line, and the signed state.
    let verify = || as_root(&host, &["audit", "verify"]);
    let record = host.root().join(format!("log/runs/{id}.json"));
    for (path, from, to, told) in [
        (&record, "\"exit\": 0", "\"exit\": 1", "the record of run"),
        (&log, "\"exit\":0", "\"exit\":1", "was changed after it was written"),
        (&beside("checkpoint"), "time: 2", "time: 1", "signature of the checkpoint does not hold"),
    ] {
        let before = fs::read_to_string(path).unwrap();
        verify().exits(0);
        assert!(before.contains(from), "{before}");
        fs::write(path, before.replace(from, to)).unwrap();
        assert!(verify().exits(1).contains(told), "{told}");
        if told.contains("signature") {
            assert!(!openssh());
        }
        fs::write(path, before).unwrap();
    }
    let before = fs::read_to_string(&log).unwrap();
    fs::write(&log, before.lines().take(2).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert!(verify().exits(1).contains("the log ends here"));
}
