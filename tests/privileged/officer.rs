//! An officer's way, from a request for an image to an auditor who has `ssh-keygen` and nothing of ces.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::callers::Desk;
use crate::support::{Ran, audit_log, have};

fn desk() -> Option<Desk> {
    let (desk, data) = Desk::of_a_project("# The list.\n")?;
    desk.host.policy(&format!(
        "contact = \"IG desk, ext. 1234\"\n[site]\nname = \"Example <Haven>\"\nurl = \"https://haven.example.ac.uk/\"\n\
         [data]\nroot = \"{}\"\naccess = \"ro\"\n[images]\napproved = \"/etc/ces/approved.toml\"\n[limits]\nmemory = {{ max = \"2G\" }}\n",
        data.display()
    ));
    Some(desk)
}

fn root(desk: &Desk, words: &[&str]) -> Ran {
    desk.root(words)
}

fn day(days: i64) -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    now.checked_add(jiff::Span::new().days(days)).unwrap().date().to_string()
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Whether a line is leaf `at` of a tree of `size` leaves with that root: RFC 9162, 2.1.3.2, written anew from its text.
fn is_in_tree(line: &str, at: u64, size: u64, path: &[Vec<u8>], tree_root: &[u8]) -> bool {
    let hash = |parts: &[&[u8]]| Sha256::digest(parts.concat()).to_vec();
    let (mut place, mut last) = (at, size - 1);
    let mut found = hash(&[&[0], line.as_bytes()]);
    for beside in path {
        if last == 0 {
            return false;
        }
        if place & 1 == 1 || place == last {
            found = hash(&[&[1], beside, &found]);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            found = hash(&[&[1], &found, beside]);
        }
        place >>= 1;
        last >>= 1;
    }
    last == 0 && found == tree_root
}

/// Whether OpenSSH, with nothing but three files, says that a checkpoint is of who is meant to have signed it.
fn openssh(dir: &Path, host: &str, checkpoint: &str) -> bool {
    fs::write(dir.join("checkpoint"), checkpoint).unwrap();
    let mut command = Command::new("/usr/bin/ssh-keygen");
    command.env_clear().current_dir(dir).args([
        "-Y",
        "verify",
        "-n",
        "ces-audit-checkpoint",
        "-f",
        "signers",
        "-s",
        "sig",
        "-I",
        host,
    ]);
    command.stdin(fs::File::open(dir.join("checkpoint")).unwrap());
    command.output().unwrap().status.success()
}

#[test]
fn an_officer_goes_from_a_request_to_an_auditor_who_has_ssh_keygen_and_nothing_else() {
    let Some(desk) = desk() else { return };
    if have("ssh-keygen").is_none() {
        return;
    }
    // A researcher asks; the officer reads what is in the image, and decides.
    let asked = desk.ces(&["request", "localhost/demo", "--project", "projx", "--reason", "table builder"]);
    let request = asked.exits(0).trim().to_owned();
    desk.sh(&[], "true").refuses(125, &["is not approved", "IG desk, ext. 1234"]);
    let stack: Value =
        serde_json::from_str(&root(&desk, &["stack", "localhost/demo", "--format", "cyclonedx"]).stdout).unwrap();
    assert!(stack.is_object(), "{stack}");
    let until = day(20);
    root(&desk, &["approve", "add", &request, "--until", &until, "--note", "stack reviewed"]).exits(0);
    // It runs; what is above the site's ceiling does not.
    let script = "printf 'ward,n\\na,40\\n' > /safe_outputs/n.csv; : --password=s3cret";
    desk.sh(&["--name", "fit"], script).exits(0);
    desk.sh(&["--memory", "900g"], "true").refuses(125, &["memory", "IG desk, ext. 1234"]);
    let id = desk.record()["id"].as_str().unwrap().to_owned();
    // Is it what it was, and what is in it? The answer is kept, and shown.
    root(&desk, &["verify", &id]).exits(0);
    let looked = root(&desk, &["precheck", &id]);
    assert!(looked.exits(0).contains("1 files: 0 block, 0 review, 0 note, 1 nothing found"), "{looked:?}");
    let shown = root(&desk, &["show", &id]);
    assert!(shown.exits(0).contains("0 block, 0 review, 0 note, 1 nothing found, by ces"), "{shown:?}");
    let release = desk.host.tmp().join("release");
    root(&desk, &["export", "--bagit", &id, "-o", release.to_str().unwrap()]).exits(0);
    assert!(release.join("data/outputs/n.csv").exists());
    month(&desk, &id, &until);
    // One run is shown to an auditor, who trusts the key that the site gave them before.
    root(&desk, &["audit", "checkpoint"]).exits(0);
    root(&desk, &["audit", "verify"]).exits(0);
    let proof: Value = serde_json::from_str(root(&desk, &["audit", "prove", &id]).exits(0)).unwrap();
    let log = audit_log(&desk.log());
    let auditor = tempfile::tempdir().unwrap();
    fs::copy(log.with_extension("signers"), auditor.path().join("signers")).unwrap();
    fs::write(auditor.path().join("sig"), proof["signed"]["signature"].as_str().unwrap()).unwrap();
    let checkpoint = proof["signed"]["checkpoint"].as_str().unwrap();
    let host = log.file_stem().unwrap().to_str().unwrap();
    assert!(openssh(auditor.path(), host, checkpoint));
    assert!(!openssh(auditor.path(), host, &checkpoint.replacen("time: 2", "time: 1", 1)), "the check can fail");
    let mut said = checkpoint.lines().skip(1);
    let (size, tree_root) = (said.next().unwrap().parse().unwrap(), unhex(said.next().unwrap()));
    let lines = proof["lines"].as_array().unwrap();
    for proven in lines {
        let (line, leaf) = (proven["line"].as_str().unwrap(), proven["leaf"].as_u64().unwrap());
        let path: Vec<Vec<u8>> =
            proven["path"].as_array().unwrap().iter().map(|p| unhex(p.as_str().unwrap())).collect();
        assert!(line.contains(&id) && is_in_tree(line, leaf, size, &path, &tree_root), "{line}");
        assert!(
            !is_in_tree(&line.replacen("projx", "projy", 1), leaf, size, &path, &tree_root) || !line.contains("projx")
        );
    }
    let told = |event: &str| {
        lines.iter().any(|proven| proven["line"].as_str().unwrap().contains(&format!("\"event\":\"{event}\"")))
    };
    assert!(["run.begun", "run.finished", "precheck", "export"].iter().all(|event| told(event)), "{proof}");
    // The record is the one whose hash the line has.
    let record = fs::read(desk.log().join(format!("runs/{id}.json"))).unwrap();
    let sha256: String = Sha256::digest(&record).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(lines.iter().any(|proven| proven["line"].as_str().unwrap().contains(&sha256)));
    assert!(!proof.to_string().contains("s3cret") && !proof.to_string().contains("stack reviewed"), "{proof}");
    // A pre-check that was changed afterwards is told.
    let kept = desk.log().join(format!("runs/{id}.precheck.json"));
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replace("\"block\": 0", "\"block\": 7")).unwrap();
    assert!(root(&desk, &["audit", "verify"]).exits(1).contains("the pre-check of run"));
}

/// The page of the month: who ran what, what was refused, which approvals end.
fn month(desk: &Desk, id: &str, until: &str) {
    let month = desk.record()["started"].as_str().unwrap()[..7].to_owned();
    let text = root(desk, &["report", "--month", &month, "--project", "projx"]).exits(0).to_owned();
    for word in [
        "Runs of",
        "projx",
        "Example &lt;Haven&gt;",
        "1 run by 1 researcher",
        "localhost/demo:latest",
        "read-only",
        id,
        until,
        "root",
        "is not approved",
        "900 GiB",
        "bagit",
        "stack reviewed",
        "asked localhost/demo:latest",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains("s3cret") && !text.contains("<script") && !text.contains("://"), "{text}");
    let none = root(desk, &["report", "--month", "2001-01"]);
    assert!(
        none.exits(0).contains("0 runs by 0 researchers") && none.stdout.contains("Nothing was refused."),
        "{none:?}"
    );
    let other = root(desk, &["report", "--month", &month, "--project", "projy"]);
    assert!(other.exits(0).contains("0 runs by 0 researchers") && !other.stdout.contains(id), "{other:?}");
    // A researcher's page is of their own runs, and another's has none of them.
    let own = desk.ces(&["report", "--month", &month]);
    assert!(
        own.exits(0).contains(id) && own.stdout.contains("alone") && !own.stdout.contains("Approvals that end"),
        "{own:?}"
    );
    let theirs = desk.other_ces(&format!("report --month {month}"));
    assert!(theirs.exits(0).contains("0 runs") && !theirs.stdout.contains(id), "{theirs:?}");
    for wrong in ["2026-13", "2026-1", "november", "2026-11-01"] {
        root(desk, &["report", "--month", wrong]).refuses(2, &["is not a month"]);
    }
    root(desk, &["report", "--month", &month, id]).refuses(2, &["cannot be given together"]);
    root(desk, &["report", "--project", "projx"]).refuses(2, &["--month"]);
    let log = fs::read_to_string(audit_log(&desk.log())).unwrap();
    assert!(
        log.lines().any(|line| line.contains("record.read") && line.contains(&format!("\"month\":\"{month}\""))),
        "{log}"
    );
}
