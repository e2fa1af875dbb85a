//! The pre-check of outputs: what it says, and what the process that reads them can do.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::callers::{Caller, Desk};
use crate::support::{Host, Ran, wait_until};

/// A directory of the researcher's with these files: where it is for the test, and for `ces`.
fn directory(host: &Host, files: &[(&str, &[u8])]) -> (PathBuf, String) {
    let dir = host.home().join("for-release");
    let (uid, gid) = (host.researcher().uid.as_raw(), host.researcher().gid.as_raw());
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in files {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), bytes).unwrap();
        chown(dir.join(name), Some(uid), Some(gid)).unwrap();
    }
    chown(&dir, Some(uid), Some(gid)).unwrap();
    (dir, host.researcher().dir.join("for-release").display().to_string())
}

fn verdicts(report: &Value) -> Vec<(String, String)> {
    let text = |file: &Value, key: &str| file[key].as_str().unwrap_or("?").to_owned();
    let files = report["files"].as_array().unwrap().iter();
    files.map(|file| (text(file, "path"), text(file, "verdict"))).collect()
}

#[test]
fn what_a_run_leaves_is_told_file_by_file_with_what_was_not_looked_at() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    desk.sh(&[], "cd /safe_outputs; printf 'sex,n\\nF,263\\nM,233\\n' > good.csv").exits(0);
    let plain = desk.ces(&["precheck", "last"]);
    assert!(plain.exits(0).contains("nothing found  good.csv") && plain.stdout.contains("not looked at:"), "{plain:?}");
    assert!(!plain.stdout.to_lowercase().contains("safe"), "{plain:?}");
    let script = "cd /safe_outputs; printf 'nhs_number,n\\n9434765919,3\\n' > raw.csv; cp raw.csv figure.png; ln -s /etc/passwd link.csv;
        mkdir -p p/.git; echo x > p/.git/config; printf 'ward,deaths\\na,3\\nb,120\\n' > small.csv; printf '\\037\\213' > a.gz; : > ok.txt";
    desk.sh(&["--name", "bad"], script).exits(0);
    for (ran, whose) in [(desk.ces(&["precheck", "--json", "bad"]), "the researcher"), (root(&desk, "bad"), "root")] {
        let report: Value = serde_json::from_str(ran.exits(11)).unwrap();
        let expected = [
            ("a.gz", "block"),
            ("figure.png", "block"),
            ("link.csv", "block"),
            ("ok.txt", "nothing found"),
            ("p/.git/config", "block"),
            ("raw.csv", "block"),
            ("small.csv", "review"),
        ];
        assert_eq!(verdicts(&report), expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{whose}");
        assert_eq!((&report["summary"]["block"], &report["summary"]["files"]), (&Value::from(5), &Value::from(7)));
        assert!(
            report["not_looked_at"].as_array().unwrap().len() > 3
                && report["rules"]["sha256"].as_str().unwrap().len() == 64
        );
    }
    // What came later is counted and no more; what is another by now is a block, and nothing of it is told.
    let outputs = desk.named("outputs_").into_iter().find(|dir| dir.join("raw.csv").exists()).unwrap();
    fs::write(outputs.join("patient.csv"), "patient,n\n9434765919,1\n").unwrap();
    symlink("/home/elsewhere", outputs.join("way.csv")).unwrap();
    fs::write(outputs.join("ok.txt"), "patient").unwrap();
    let later = root(&desk, "bad");
    let report: Value = serde_json::from_str(later.exits(11)).unwrap();
    assert!(!later.stdout.contains("patient") && !later.stdout.contains("elsewhere"), "{later:?}");
    assert!(later.stdout.contains("2 entries that are not of this run"), "{later:?}");
    assert_eq!((&report["summary"]["block"], &report["summary"]["files"]), (&Value::from(6), &Value::from(7)));
    // Nor is another directory looked at in the place of theirs.
    let moved = desk.home().join("moved");
    fs::rename(&outputs, &moved).unwrap();
    symlink(&moved, &outputs).unwrap();
    root(&desk, "bad").refuses(1, &["cannot open", "a link is not followed"]);
    fs::remove_file(&outputs).unwrap();
    fs::create_dir(&outputs).unwrap();
    chown(&outputs, Some(0), Some(0)).unwrap();
    root(&desk, "bad").refuses(1, &["is not what the run left", "belongs to uid 0"]);
    fs::remove_dir(&outputs).unwrap();
    fs::rename(&moved, &outputs).unwrap();
    // Another researcher's run is none.
    let id = desk.record()["id"].as_str().unwrap().to_owned();
    desk.other_ces(&format!("precheck {id}")).refuses(1, &["there is no record of run"]);
    // A site has its own numbers, and a report says so.
    desk.host.policy("[precheck]\nthreshold = 3\ntypes = [\".txt\"]\n");
    let report: Value = serde_json::from_str(desk.ces(&["precheck", "--json", "bad"]).exits(11)).unwrap();
    let small = report["files"].as_array().unwrap().iter().find(|file| file["path"] == "small.csv").unwrap();
    assert_eq!(small["findings"].as_array().unwrap().len(), 1, "{small}");
    assert_eq!((small["findings"][0]["rule"].as_str(), report["rules"]["threshold"].as_u64()), (Some("type"), Some(3)));
    desk.host.policy("[precheck]\nthreshold = -3\n");
    desk.ces(&["precheck", "last"]).refuses(3, &["precheck.threshold"]);
}

fn root(desk: &Desk, run: &str) -> Ran {
    Ran::from(desk.host.ces_as_root().args(["precheck", "--json", run]).output())
}

#[test]
fn the_process_that_looks_can_do_nothing_else_and_where_a_signal_ends_it_there_is_no_report() {
    let Some(host) = Host::new() else { return };
    let large = "a.person@nhs.scot 9434765918 EH3 9Y ".repeat(1 << 20);
    let (dir, shown) =
        directory(&host, &[("a.txt", large.as_bytes()), ("b.csv", b"sex,n\nF,263\n"), ("c.csv", b"sex,n\nF,263\n")]);
    // Of others, closed to the researcher; and a way out.
    fs::write(dir.join("d.txt"), "root's").unwrap();
    fs::set_permissions(dir.join("d.txt"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    chown(dir.join("d.txt"), Some(0), Some(0)).unwrap();
    symlink("..", dir.join("e.txt")).unwrap();
    let mut started = host.ces().args(["precheck", "--json", &shown]).stdout(Stdio::piped()).spawn().unwrap();
    let parent = started.id();
    let (child, facts) = looking(parent);
    // It takes seconds for that file, which is the first.
    std::thread::sleep(std::time::Duration::from_millis(500));
    kill(child, Signal::SIGKILL).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(started.stdout.as_mut().unwrap(), &mut text).unwrap();
    // Whose outputs they are could have ended it: what it found until then is no report.
    let code = started.wait().unwrap().code();
    assert!(text.is_empty() && !matches!(code, None | Some(0 | 10 | 11)), "{code:?} {text}");
    let uid = host.researcher().uid;
    for fact in [
        "NoNewPrivs:\t1".to_owned(),
        // Reading what belongs to its one id, whatever the mode says; inside a user namespace alone.
        "CapEff:\t0000000000000004".to_owned(),
        "CapBnd:\t".to_owned(),
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"),
        format!("map 0 {uid} 1"),
        "other net, other mnt, other user, other ipc".to_owned(),
        "/for-release\n".to_owned(),
    ] {
        assert!(facts.contains(&fact), "{fact}: {facts}");
    }
    let again = Ran::from(host.ces().args(["precheck", "--json", &shown]).output());
    let report: Value = serde_json::from_str(again.exits(11)).unwrap();
    let expected = [
        ("a.txt", "block"),
        ("b.csv", "nothing found"),
        ("c.csv", "nothing found"),
        ("d.txt", "review"),
        ("e.txt", "block"),
    ];
    assert_eq!(verdicts(&report), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let because = |at: usize| report["files"][at]["findings"][0]["because"].as_str().unwrap().to_owned();
    assert!(because(3).contains("ermission denied"), "{}", because(3));
}

/// The child of `parent` that looks, once it has shut itself in.
fn looking(parent: u32) -> (Pid, String) {
    let mut seen = None;
    wait_until("a process looks", || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        seen = children.split_whitespace().next().and_then(look_at);
        seen.is_some()
    });
    seen.unwrap()
}

/// A process that has shut itself in, if it has: what the kernel says of it.
fn look_at(child: &str) -> Option<(Pid, String)> {
    let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
    let root = fs::read_link(format!("/proc/{child}/root")).ok()?;
    (status.contains("CapEff:\t0000000000000004") && root != Path::new("/")).then_some(())?;
    let map = fs::read_to_string(format!("/proc/{child}/uid_map")).ok()?;
    let other = |kind: &&str| {
        fs::read_link(format!("/proc/{child}/ns/{kind}")).ok() != fs::read_link(format!("/proc/self/ns/{kind}")).ok()
    };
    let others: Vec<String> =
        ["net", "mnt", "user", "ipc"].iter().filter(|k| other(k)).map(|kind| format!("other {kind}")).collect();
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    Some((
        Pid::from_raw(child.parse().ok()?),
        format!("{status}\nmap {map}\n{}\n{}\n", others.join(", "), root.display()),
    ))
}

#[test]
fn an_ordinary_user_looks_at_their_own_and_hostile_names_steer_nothing() {
    let Some(host) = Host::of_an_ordinary_user() else { return };
    let (dir, shown) =
        directory(&host, &[("ok.csv", b"sex,n\nF,263\n"), ("\u{1b}]52;c;x\u{7}.csv", b"x"), ("a\u{202e}b.csv", b"x")]);
    let named = std::ffi::OsStr::from_bytes(b"\xff.csv");
    fs::write(dir.join(named), "x").unwrap();
    let ran = Ran::from(host.ces().args(["precheck", &shown]).output());
    ran.exits(11);
    assert!(!ran.stdout.contains(['\u{1b}', '\u{7}', '\u{202e}']) && ran.stdout.contains("\\x1b]52"), "{ran:?}");
    assert!(ran.stdout.contains("\\xff.csv") && ran.stdout.contains("its name is not UTF-8"), "{ran:?}");
    assert!(ran.stdout.contains("4 files: 3 block, 0 review, 0 note, 1 nothing found"), "{ran:?}");
    Ran::from(host.ces().args(["precheck", "/root/x"]).output()).refuses(1, &["cannot open /root/x"]);
    Ran::from(host.ces().args(["precheck", "no-such-run"]).output())
        .refuses(1, &["there is no record of run no-such-run"]);
}

#[test]
fn root_looks_at_what_a_run_of_roots_own_has_left_and_is_not_root_where_it_looks() {
    let Some(desk) = Desk::with_demo(Caller::Root) else { return };
    let large = "i=0; while [ $i -lt 16 ]; do cat a.txt a.txt > b; mv b a.txt; i=$((i+1)); done";
    let script = format!("cd /safe_outputs; printf 'sex,n\\nF,263\\n' > good.csv; chmod 600 good.csv; mkdir -m 700 d; cp good.csv d;
        printf 'a.person@nhs.scot 9434765918 EH3 9Y, and more %s' a.person@nhs.scot > a.txt; cat a.txt > a; {large}; rm a");
    desk.sh(&["--name", "own"], &script).exits(0);
    assert_eq!(
        fs::metadata(desk.outputs()).map(|found| std::os::unix::fs::MetadataExt::mode(&found) & 0o777).unwrap(),
        0o700
    );
    let started = desk.host.ces_as_root().args(["precheck", "--json", "own"]).stdout(Stdio::piped()).spawn().unwrap();
    let parent = started.id();
    let (_, facts) = looking(parent);
    // Nobody, with the one capability to read what is root's, inside a user namespace alone.
    for fact in
        ["Uid:\t65534\t65534\t65534\t65534", "map 0 65534 1 1 0 1", "CapEff:\t0000000000000004", "NoNewPrivs:\t1"]
    {
        assert!(facts.contains(fact), "{fact}: {facts}");
    }
    let ran = Ran::from(started.wait_with_output());
    assert!(matches!(ran.code, Some(10 | 11)), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let told = verdicts(&report);
    for name in ["good.csv", "d/good.csv"] {
        assert!(told.contains(&(name.to_owned(), "nothing found".to_owned())), "{told:?}");
    }
}

#[test]
fn what_is_mounted_in_the_outputs_and_never_answers_is_told_and_not_waited_for() {
    let Some(host) = Host::new() else { return };
    let (_, shown) = directory(&host, &[("good.csv", b"sex,n\nF,263\n"), ("over/x.csv", b"x")]);
    let _silent = host.mount_silent(&Path::new(&shown).join("over"));
    let began = std::time::Instant::now();
    let ran = Ran::from(host.ces().args(["precheck", "--json", &shown]).output());
    let report: Value = serde_json::from_str(ran.exits(10)).unwrap();
    let told = [("good.csv", "nothing found"), ("over", "review")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(verdicts(&report), told, "{report}");
    assert!(report.to_string().contains("another file system is mounted there"), "{report}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn who_stops_the_process_that_looks_does_not_hold_an_officer_up() {
    let Some(host) = Host::new() else { return };
    let large = "a.person@nhs.scot 9434765918 EH3 9Y ".repeat(1 << 20);
    let (_, shown) = directory(&host, &[("a.txt", large.as_bytes())]);
    for goes_on in [false, true] {
        let mut command = host.ces();
        command.args(["precheck", "--json", &shown]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = command.spawn().unwrap();
        let parent = started.id();
        let child = looking(parent).0;
        let began = std::time::Instant::now();
        kill(child, Signal::SIGSTOP).unwrap();
        if goes_on {
            // For shorter than anybody looks.
            std::thread::sleep(std::time::Duration::from_millis(20));
            kill(child, Signal::SIGCONT).unwrap();
        }
        let ran = Ran::from(started.wait_with_output());
        ran.refuses(1, &["the process that looks was stopped, and there is no report", "it was ended"]);
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(kill(child, None).is_err(), "it is gone");
    }
}
