//! What comes with a call: limits and signals of the caller's shell, names that are others', and secrets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::attack::Attack;
use crate::support::{children, wait_until};

/// What nobody else is to see.
const SECRET: &str = "hunter2-of-the-researcher";

#[test]
fn limits_of_the_callers_shell_bind_the_payload_and_never_ces_or_its_record() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    let limits = ["f 400", "f 0", "f 1", "t 1", "v 200000", "d 1000", "n 64", "n 20", "u 1", "s 64", "c 0", "l 0"];
    for limit in limits {
        let before = children(&attack.tmp("ces/log/runs")).len();
        let script = format!("ulimit -{limit} && ces run localhost/demo /bin/sh -c 'exit 7'");
        let ran = attack.sh(&script);
        let records = children(&attack.tmp("ces/log/runs"));
        if records.len() == before {
            // Sudo itself may not start so, and ces may say that it has too little: then nothing ran.
            assert!(ran.code != Some(0) && ran.code != Some(7), "ulimit {limit}: {ran:?}");
        } else {
            let record = attack.record();
            assert_eq!(record["state"], "finished", "ulimit {limit}: {ran:?} {record}");
            assert_eq!(record["exit"].as_i64(), ran.code.map(i64::from), "ulimit {limit}: {ran:?} {record}");
            assert!(record["outputs"].is_object(), "ulimit {limit}: {record}");
        }
        for path in [&records, &children(&attack.tmp("ces/run"))].into_iter().flatten() {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let known = [".json", ".outputs.jsonl", ".changes.jsonl"];
            assert!(
                name.starts_with("20") && known.iter().any(|end| name.ends_with(end)),
                "ulimit {limit} left {name}"
            );
        }
        assert_eq!(attack.ces(&["ps", "--json"]).exits(0).trim(), "[]", "ulimit {limit}");
    }
    canary.is_unchanged();
}

/// Whether root may raise what a caller has lowered: in some containers and virtual machines it may not.
fn root_may_raise_limits() -> bool {
    const SYS_RESOURCE: u64 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> SYS_RESOURCE & 1 == 1
}

#[test]
fn a_limit_of_file_size_is_the_payloads_alone_and_keeps_neither_record_nor_audit_log_from_growing() {
    let Some(attack) = Attack::new() else { return };
    if !root_may_raise_limits() {
        // Then nothing runs that could not be recorded.
        let ran = attack.sh("ulimit -f 400; ces run localhost/demo true");
        assert!(ran.code == Some(125) && ran.stderr.contains("cannot raise the limit fsize"), "{ran:?}");
        assert!(children(&attack.tmp("ces/log/runs")).is_empty());
        return;
    }
    attack.ces(&["run", "localhost/demo", "true"]).exits(0);
    let audit = crate::support::audit_log(&attack.tmp("ces/log"));
    let line = fs::read_to_string(&audit).unwrap().lines().next().unwrap().to_owned() + "\n";
    fs::write(&audit, line.repeat(1_000_000 / line.len())).unwrap();
    let before = fs::metadata(&audit).unwrap().len();
    attack.sh("ulimit -f 400; ces run localhost/demo true").exits(0);
    assert!(fs::metadata(&audit).unwrap().len() > before);
    assert_eq!(attack.record()["state"], "finished");
    // What is 400 blocks for the payload is so for the payload alone: the record is larger than none.
    let script =
        "ulimit -f 400; ces run localhost/demo /bin/sh -c 'head -c 1000000 /dev/zero > /safe_outputs/x; exit 3'";
    let ran = attack.sh(script);
    let record = attack.record();
    assert_eq!(
        (record["state"].as_str(), record["exit"].as_i64()),
        (Some("finished"), ran.code.map(i64::from)),
        "{ran:?}"
    );
    let left = fs::metadata(attack.outputs().join("x")).unwrap().len();
    assert!(left <= 400 * 1024, "the payload is bound: {left}");
    assert!(record["outputs"]["bytes"].as_u64() == Some(left), "{record}");
}

#[test]
fn a_caller_who_ignores_the_ends_of_children_gets_the_same_run_and_the_same_record() {
    let Some(attack) = Attack::new() else { return };
    let ignoring = |then: &str| format!("exec perl -e '$SIG{{CHLD}} = \"IGNORE\"; exec @ARGV' sudo -n $CES {then}");
    let payload = "run --timeout 20 localhost/demo /bin/sh -c 'true; (true); echo x > /safe_outputs/x; exit 7'";
    assert_eq!(attack.sh(&ignoring(payload)).code, Some(7));
    let record = attack.record();
    assert_eq!((&record["state"], &record["exit"]), (&"finished".into(), &7.into()), "{record}");
    assert_eq!(record["outputs"]["files"], 1, "{record}");
}

#[test]
fn runs_of_others_are_answered_for_as_if_they_had_never_been() {
    let Some(attack) = Attack::new() else { return };
    let mut theirs = attack.desk.host.command("runuser");
    theirs.args(["--login", "--shell", "/bin/sh", crate::support::callers::OTHER, "--command"]);
    let token = attack.desk.host.token();
    let script =
        "echo whispered-by-the-other; : > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done";
    let ces = env!("CARGO_BIN_EXE_ces");
    let call =
        format!("export CES_TEST={token}; exec sudo -n {ces} run -d --name night localhost/demo /bin/sh -c '{script}'");
    let started = crate::support::Ran::from(theirs.arg(call).output());
    let id = started.exits(0).trim().to_owned();
    let outputs = attack.others(&format!("outputs_{id}"));
    wait_until("the other's payload has started", || outputs.join("ready").exists());
    attack.policy("[interactive]\nexec = true\n");
    let canary = attack.canary();
    let never = "20200101T000000-000000";
    let verbs: [&[&str]; 9] = [
        &["record", "ID"],
        &["record", "--json", "ID"],
        &["verify", "ID"],
        &["logs", "ID"],
        &["logs", "--json", "ID"],
        &["stop", "ID"],
        &["exec", "ID", "true"],
        &["exec", "-u", "0", "ID", "true"],
        &["record", "ID.json"],
    ];
    let mut told = Vec::new();
    for verb in verbs {
        let said = |word: &str| {
            let words: Vec<String> = verb.iter().map(|w| w.replace("ID", word)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = attack.ces(&words);
            (ran.code, format!("{}|{}", ran.stdout, ran.stderr).replace(word, "ID"))
        };
        let unknown = said(never);
        assert_ne!(unknown.0, Some(0), "{verb:?}");
        for word in [id.as_str(), "night"] {
            let (found, unknown) = (said(word), if word == "night" { said("nigth") } else { unknown.clone() });
            if found != unknown {
                told.push(format!("{verb:?} of {word}: {found:?}, of one that never was: {unknown:?}"));
            }
        }
    }
    assert!(told.is_empty(), "{told:#?}");
    // Their name is free, and no list has them.
    assert_eq!(attack.ces(&["run", "--name", "night", "localhost/demo", "true"]).exits(0), "");
    for verb in [&["ps"][..], &["ps", "--json"], &["runs"], &["runs", "--json"]] {
        let ran = attack.ces(verb);
        assert!(!ran.exits(0).contains(&id) && !ran.stdout.contains("cesother"), "{ran:?}");
    }
    let changes = canary.changes();
    assert!(changes.is_empty(), "{changes:#?}");
    fs::write(outputs.join("go"), "").unwrap();
    wait_until("the other's run ends by itself", || attack.other("sudo -n $CES ps --json").stdout.trim() == "[]");
    assert!(attack.other(&format!("sudo -n $CES logs {id}")).exits(0).contains("whispered-by-the-other"));
}

/// `ces` under both of its names in a directory of the test's, which researchers may call through sudo, as a site has it; what
/// sudo logs is in the file.
fn site(attack: &Attack) -> (PathBuf, PathBuf) {
    let (bin, log) = (attack.tmp("bin"), attack.tmp("sudo.log"));
    fs::create_dir(&bin).unwrap();
    let ces = bin.join("ces");
    if fs::hard_link(env!("CARGO_BIN_EXE_ces"), &ces).is_err() {
        fs::copy(env!("CARGO_BIN_EXE_ces"), &ces).unwrap();
    }
    for link in ["ces-run", "ces-pull"] {
        symlink("ces", bin.join(link)).unwrap();
    }
    let name = &attack.desk.host.researcher().name;
    let all = ["ces", "ces-run", "ces-pull"].map(|name| bin.join(name).display().to_string()).join(", ");
    let sudoers = format!("Defaults logfile={}, !syslog\n{name} ALL=(root) NOPASSWD: {all}\n", log.display());
    fs::write(attack.desk.host.inside(Path::new("/etc/sudoers.d/site")), sudoers).unwrap();
    (bin, log)
}

/// Every word of every process now, but for the shells that the test itself began with the secret in their script.
fn words_of_processes(attack: &Attack) -> Vec<String> {
    let mut found = Vec::new();
    for path in children(Path::new("/proc")) {
        let read =
            |name: &str| String::from_utf8_lossy(&fs::read(path.join(name)).unwrap_or_default()).replace('\0', " ");
        let (words, name) = (read("cmdline"), read("comm"));
        let own = ["sh", "runuser", "nsenter", "bash", "boundary"].contains(&name.trim());
        let of_the_test = words.contains(SECRET) && !own;
        if of_the_test && !words.contains("export CES_TEST") {
            found.push(words);
        }
    }
    assert!(attack.tmp("").exists());
    found
}

#[test]
fn secrets_of_a_call_that_goes_through_sudo_by_itself_are_in_no_word_of_any_process_and_no_log() {
    let Some(attack) = Attack::new() else { return };
    let (bin, log) = site(&attack);
    attack.policy("mode = \"enforced\"\n");
    let bin = bin.display();
    // The program itself cannot hide what its own caller typed; what it starts can.
    let payload = "echo $PASSWORD $INHERITED > /safe_outputs/seen; : > /safe_outputs/ready; sleep 1";
    fs::write(attack.home("payload"), payload).unwrap();
    fs::write(attack.home("env"), format!("PASSWORD={SECRET}\n")).unwrap();
    let calls = [
        format!(
            "export INHERITED={SECRET}; exec {bin}/ces run -e PASSWORD={SECRET} -e INHERITED localhost/demo /bin/sh -c '{payload}'"
        ),
        format!(
            "export INHERITED={SECRET}; exec {bin}/ces-run --env-file=env -e INHERITED localhost/demo /bin/sh -c '{payload}'"
        ),
    ];
    for call in calls {
        let mut command = attack.script(&call);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut seen = Vec::new();
        while child.try_wait().unwrap().is_none() {
            seen.extend(words_of_processes(&attack));
        }
        let ran = crate::support::Ran::from(child.wait_with_output());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(fs::read_to_string(attack.outputs().join("seen")).unwrap(), format!("{SECRET} {SECRET}\n"));
        seen.retain(|words| !words.starts_with(&format!("{bin}/ces")));
        assert!(seen.is_empty(), "in ps: {seen:?}");
        let logged = fs::read_to_string(&log).unwrap();
        assert!(logged.contains("COMMAND") && !logged.contains(SECRET), "{logged}");
        no_call_is_left(&attack);
    }
    let pull = format!("{bin}/ces-pull podman researcher {SECRET} 127.0.0.1:9/lab/tool:1");
    let ran = attack.sh(&pull);
    assert!(ran.code.is_some_and(|code| code != 0) && !ran.stderr.contains(SECRET), "{ran:?}");
    let logged = fs::read_to_string(&log).unwrap();
    assert!(!logged.contains(SECRET) && logged.contains("ces-pull"), "{logged}");
    no_call_is_left(&attack);
    // Nor in what stays of it.
    let records = children(&attack.tmp("ces/log")).into_iter().chain(children(&attack.tmp("ces/log/runs")));
    for file in records.filter(|path| path.is_file()) {
        assert!(!fs::read_to_string(&file).unwrap().contains(SECRET), "{}", file.display());
    }
}

fn no_call_is_left(attack: &Attack) {
    let id = attack.desk.owner();
    for dir in [attack.home(""), PathBuf::from(format!("/run/user/{id}"))] {
        let left = children(&dir).into_iter().filter(|path| path.to_string_lossy().contains(".ces-call"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_call_that_is_not_the_callers_own_private_file_is_not_taken_over() {
    let Some(attack) = Attack::new() else { return };
    let own = attack.desk.owner();
    let words: Vec<Vec<u8>> = ["run", "localhost/demo", "true"].map(|word| word.as_bytes().to_vec()).into();
    let call = serde_json::json!({"words": words, "variables": {}}).to_string();
    attack.file(&attack.others("call"), &call, (crate::support::callers::OTHER_ID, 0), 0o600);
    attack.file(&attack.shared("call"), &call, (crate::support::callers::OTHER_ID, 46004), 0o644);
    let canary = attack.canary();
    attack.file(&attack.home("open"), &call, (own, own), 0o644);
    attack.file(&attack.home("odd"), "{\"words\":[[0]],\"variables\":{}}", (own, own), 0o600);
    attack.file(
        &attack.home("nested"),
        &serde_json::json!({"words": [b"--call-file".to_vec(), b"x".to_vec()],
        "variables": {"SUDO_UID": "0", "LD_PRELOAD": "/x"}})
        .to_string(),
        (own, own),
        0o600,
    );
    attack.link(Path::new("/root/secret.txt"), &attack.home("link"));
    nix::unistd::mkfifo(&attack.home("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(attack.home("fifo"), Some(own), Some(own)).unwrap();
    let others =
        [attack.others("call"), attack.shared("call"), "/etc/shadow".into(), "/dev/full".into(), "/root".into()];
    let mine = ["open", "odd", "nested", "link", "fifo", "never", "."].map(|name| attack.home(name));
    for file in others.into_iter().chain(mine) {
        let ran = attack.ces(&["--call-file", &file.display().to_string()]);
        assert_eq!(ran.code, Some(2), "{}: {ran:?}", file.display());
    }
    assert_eq!(attack.desk.named("outputs_"), Vec::<PathBuf>::new());
    assert!(attack.shared("call").exists());
    canary.is_unchanged();
}

#[test]
fn a_variable_that_sudo_does_not_pass_on_is_one_error_with_a_hint() {
    let Some(attack) = Attack::new() else { return };
    let ran = attack.sh(&format!("export PASSWORD={SECRET}; ces run -e PASSWORD localhost/demo env"));
    ran.refuses(125, &["-e PASSWORD", "not set", "sudo", "--env-file"]);
    assert!(!ran.stderr.contains(SECRET));
    assert_eq!(attack.desk.named("outputs_"), Vec::<PathBuf>::new());
    // With what the hint says it is there.
    let script = format!(
        "umask 077; echo PASSWORD={SECRET} > env; ces run --env-file env localhost/demo /bin/sh -c 'echo $PASSWORD'"
    );
    assert_eq!(attack.sh(&script).exits(0), format!("{SECRET}\n"));
}
