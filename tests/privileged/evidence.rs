//! What a run leaves for an officer: what is kept of its command, the documents beside its record, and the same run again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Host, Ran, audit_log, children, wait_until};

const SECRET: &str = "hunter2-9434765919";

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn last_id(host: &Host) -> String {
    host.records().pop().expect("a record")["id"].as_str().expect("an id").to_owned()
}

/// Every file of an installation that has `text` in it.
fn with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut look = vec![dir.to_owned()];
    while let Some(dir) = look.pop() {
        for path in children(&dir) {
            match fs::symlink_metadata(&path) {
                Ok(is) if is.is_dir() => look.push(path),
                Ok(is)
                    if is.is_file()
                        && fs::read(&path).is_ok_and(|held| String::from_utf8_lossy(&held).contains(text)) =>
                {
                    found.push(path);
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn no_argument_and_no_value_of_a_variable_is_on_a_disk_during_a_run_or_after_it() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[interactive]\nexec = true\n[records]\nvalues = [\"MODEL\"]\n");
    let places = [host.root(), host.home()];
    let nowhere = || places.iter().flat_map(|dir| with(dir, SECRET)).collect::<Vec<_>>();
    let password = format!("--password={SECRET}");
    let mut command = host.ces();
    command.args(["run", "--name", "one", "-e", &format!("TOKEN={SECRET}"), "-e", "MODEL=fast", "localhost/demo"]);
    command.args(["/bin/sh", "-c", "echo > /safe_outputs/ready; sleep 100", SECRET, &password]);
    let mut running = command.spawn().expect("ces");
    wait_until("the run", || host.named("outputs_").first().is_some_and(|dir| dir.join("ready").exists()));
    assert_eq!(nowhere(), Vec::<PathBuf>::new());
    let env = format!("KEY={SECRET}");
    ces(&host, &["exec", "-e", &env, "one", "/bin/sh", "-c", "exit 3", SECRET]).exits(3);
    for verb in [&["ps", "--json"][..], &["show", "one"], &["record", "one"]] {
        assert!(!ces(&host, verb).exits(0).contains(SECRET), "{verb:?}");
    }
    ces(&host, &["stop", "-t", "0", "one"]).exits(0);
    running.wait().expect("its end");
    assert_eq!(nowhere(), Vec::<PathBuf>::new());
    let record = host.records().pop().expect("a record");
    let expected = "[\"/bin/sh\",\"-c\",\"<withheld>\",\"<withheld>\",\"--password=<withheld>\"]";
    assert_eq!((record["command"].to_string().as_str(), &record["withheld"]), (expected, &3.into()));
    let variables = "[{\"name\":\"TOKEN\"},{\"name\":\"MODEL\",\"value\":\"fast\"}]";
    assert_eq!(record["environment"].to_string(), variables);
    assert_eq!(record["executed"][0]["environment"].to_string(), "[{\"name\":\"KEY\"}]");
    // No hash of what few values could be.
    let sha256 = Command::new("sh").args(["-c", "printf %s \"$1\" | sha256sum | cut -d' ' -f1", "sh", SECRET]).output();
    let sha256 = String::from_utf8(sha256.expect("sha256sum").stdout).expect("text");
    assert_eq!(with(&host.root(), sha256.trim()), Vec::<PathBuf>::new());
    let page = ces(&host, &["show", "one"]);
    assert!(page.exits(0).contains("MODEL=fast") && page.stdout.contains("TOKEN=<withheld>"), "{page:?}");
    host.nothing_is_left();
}

#[test]
fn a_command_that_the_policy_has_kept_whole_is_in_a_file_of_its_own_and_nowhere_else() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[records]\ncommand = \"full\"\nvalues = [\"CES_TEST\"]\n");
    host.run(&["localhost/demo", "/bin/sh", "-c", "exit 0", SECRET]).exits(0);
    let id = last_id(&host);
    let file = host.root().join(format!("log/runs/{id}.command.json"));
    assert_eq!(with(&host.root(), SECRET), std::slice::from_ref(&file));
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
    assert!(!ces(&host, &["record", &id]).exits(0).contains(SECRET));
    // It is what a second run is made of.
    let ran = ces(&host, &["rerun", &id]);
    assert!(ran.exits(0).contains("0 files, the same as of"), "{ran:?}");
    let other =
        children(&host.root().join("log/runs")).into_iter().filter(|path| path.to_string_lossy().contains("command"));
    assert_eq!(other.count(), 2);
}

#[test]
fn a_document_beside_a_record_that_was_changed_or_is_gone_is_told_by_verify_show_and_record() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&[], "mkdir -p /scratch/a/b; echo 12345 > /scratch/a/b/f; echo 1 > /tmp/x; echo 1 > /safe_outputs/f")
        .exits(0);
    let id = last_id(&host);
    let runs = host.root().join("log/runs");
    let on_disk = fs::read_to_string(runs.join(format!("{id}.json"))).expect("a record");
    let record: Value = serde_json::from_str(&on_disk).expect("JSON");
    assert!(record["enforced"].is_null() && record["deletion"].is_null() && on_disk.len() < 8 << 10, "{on_disk}");
    let whole: Value = serde_json::from_str(ces(&host, &["record", &id]).exits(0)).expect("JSON");
    assert_eq!(whole["enforced"]["no_new_privs"], true);
    let items = whole["deletion"]["items"].as_array().expect("items");
    // Scratch itself, two directories and a file; over the image one file and what holds it.
    assert_eq!(
        (&items[0]["what"], &items[0]["entries"], &items[0]["verified"]),
        (&"scratch".into(), &4.into(), &"absent".into())
    );
    assert!(items[0]["bytes"].as_u64() >= Some(512) && items[1]["entries"].as_u64() >= Some(2), "{items:?}");
    assert_eq!(items[1]["verified"], "absent");
    assert_eq!(whole["deletion"]["not_promised"].as_array().map(Vec::len), Some(3));
    let page = ces(&host, &["show", &id]);
    assert!(page.exits(0).contains("scratch: 4 entries"), "{page:?}");
    assert_eq!(ces(&host, &["verify", &id]).exits(0), format!("{id}: 1 file, unchanged\n"));
    for (document, from, to) in [("enforced", "true", "false"), ("deletion", "absent", "ABSENT")] {
        let path = runs.join(format!("{id}.{document}.json"));
        let before = fs::read_to_string(&path).expect("a document");
        assert!(before.contains(from));
        for change in [true, false] {
            if change {
                fs::write(&path, before.replacen(from, to, 1)).expect("written");
            } else {
                fs::remove_file(&path).expect("gone");
            }
            let why = if change { "is not what it was" } else { "is gone" };
            let told = format!("{id}.{document}.json: it {why}");
            assert!(ces(&host, &["verify", &id]).exits(1).contains(&told), "{told}");
            assert!(ces(&host, &["show", &id]).exits(0).contains(why));
            let ran = ces(&host, &["record", &id]);
            assert!(ran.code == Some(1) && ran.stderr.contains(&told), "{ran:?}");
        }
        fs::write(&path, before).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        ces(&host, &["verify", &id]).exits(0);
    }
}

#[test]
fn what_an_output_holds_is_told_by_its_content_and_not_by_its_name() {
    let Some(host) = Host::with_demo() else { return };
    let script = "cd /safe_outputs; printf 'sex,n\\nf,12\\nm,9\\n' > picture.png; cp /bin/busybox notes.txt
        printf '\\211PNG\\r\\n\\032\\n' > table.csv; : > empty; printf 'PK\\003\\004xx' > report.pdf";
    host.sh(&[], script).exits(0);
    let list =
        fs::read_to_string(host.root().join(format!("log/runs/{}.outputs.jsonl", last_id(&host)))).expect("a list");
    let told = |name: &str| {
        let lines = list.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let line = lines.into_iter().find(|line| line["path"] == name).expect("a line");
        (line["content"].as_str().expect("content").to_owned(), line["media"].as_str().expect("media").to_owned())
    };
    for (name, content, media) in [
        ("picture.png", "table", "text/csv"),
        ("notes.txt", "program", "application/x-executable"),
        ("table.csv", "image", "image/png"),
        ("empty", "empty", "application/x-empty"),
        ("report.pdf", "archive", "application/zip"),
    ] {
        assert_eq!(told(name), (content.to_owned(), media.to_owned()), "{name}");
    }
}

#[test]
fn a_run_again_says_whether_it_left_the_same_and_asks_for_what_was_withheld() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[records]\nvalues = [\"CES_TEST\"]\n");
    let script = "echo $A > /safe_outputs/a; cat /scratch/none 2>/dev/null; echo $1 > /safe_outputs/b; chmod 640 /safe_outputs/b";
    let words = ["/bin/sh", "-c", script, "sh", "one"];
    let run = [&["--memory", "64m", "-e", "A=1", "localhost/demo"][..], &words].concat();
    host.run(&run).exits(0);
    let id = last_id(&host);
    let rerun = |more: &[&str]| ces(&host, &[&["rerun", &id], more].concat());
    rerun(&[]).refuses(2, &["cannot be run again", "/bin/sh -c <withheld>", "-- ARGS"]);
    rerun(&[&["--"], &words[..]].concat()).refuses(2, &["does not keep the value of A", "-e A=VALUE"]);
    let again = [&["-e", "A=1", "--"], &words[..]].concat();
    let ran = rerun(&again);
    assert!(ran.exits(0).contains(&format!("2 files, the same as of {id}")), "{ran:?}");
    let record = host.records().pop().expect("a record");
    assert_eq!(record["enforced"]["limits"]["memory"], 64 << 20, "with the same options");
    // Another value, another argument, and another end.
    let ran = rerun(&[&["--json", "-e", "A=2", "--"], &words[..]].concat());
    let told: Value = serde_json::from_str(ran.exits(1)).expect("JSON");
    assert_eq!((&told["same"], &told["changes"][0]), (&false.into(), &"changed: a".into()), "{told}");
    let ran = rerun(&["-e", "A=1", "--", "/bin/sh", "-c", "exit 4", "sh", "one"]);
    let said = ran.exits(1);
    assert!(said.contains("how it ended: exit 0, then exit 4") && said.contains("missing: a"), "{ran:?}");
    // What withholds nothing needs nothing; and nobody runs another's again.
    host.run(&["localhost/demo", "/bin/true"]).exits(0);
    assert!(ces(&host, &["rerun", "last"]).exits(0).contains("the same as of"));
    let ran = Ran::from(host.ces_as_root().args(["rerun", &id, "--", "x"]).output());
    ran.refuses(3, &["another researcher's"]);
    host.nothing_is_left();
}

#[test]
fn each_line_of_the_audit_log_is_copied_to_a_service_and_a_missing_one_refuses_where_it_must() {
    let Some(host) = Host::with_demo() else { return };
    for (service, begins) in [("syslog", "<85>ces["), ("journald", "PRIORITY=5\nSYSLOG_IDENTIFIER=ces\n")] {
        let at = host.tmp().join(format!("{service}.sock"));
        let socket = UnixDatagram::bind(&at).expect("a socket");
        socket.set_nonblocking(true).expect("no waiting");
        host.policy(&format!("[audit]\ncopy = \"{service}\"\nsocket = \"{}\"\nrequired = true\n", at.display()));
        let lines = || fs::read_to_string(audit_log(&host.root().join("log"))).expect("the log");
        let before = lines().lines().count();
        host.sh(&[], "exit 0").exits(0);
        let text = lines();
        let new: Vec<&str> = text.lines().skip(before).collect();
        let mut copies = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length) = socket.recv(&mut buffer) {
            copies.push(String::from_utf8(buffer[..length].to_vec()).expect("text"));
        }
        assert!(copies.len() == new.len() && new.len() == 2, "{copies:?} {new:?}");
        for (copy, line) in copies.iter().zip(&new) {
            assert!(copy.starts_with(begins) && copy.contains(line), "{copy} {line}");
        }
        assert!(ces(&host, &["doctor"]).stdout.contains(&format!("{service} at ")));
        drop(socket);
        host.sh(&[], "touch /safe_outputs/ran").refuses(125, &["has no copy in", "nothing was begun"]);
        assert!(host.named("outputs_").iter().all(|dir| !dir.join("ran").exists()));
        assert!(ces(&host, &["doctor"]).exits(1).contains("audit copies"));
        host.policy(&format!("[audit]\ncopy = \"{service}\"\nsocket = \"{}\"\n", at.display()));
        host.sh(&[], "exit 0").exits(0);
        assert!(lines().lines().last().expect("a line").contains("\"not_copied\":\"Connection refused"), "{}", lines());
        fs::remove_file(&at).expect("gone");
        host.policy("");
    }
    assert!(Ran::from(host.ces_as_root().args(["audit", "verify"]).output()).exits(0).contains("hold together"));
}
