//! What a run leaves, however odd, deep, hollow or many: it becomes the researcher's, plain and listed, and in time.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::fchown;
use serde_json::Value;

use crate::support::{Host, Ran};

/// Through sudo, and as an ordinary user.
fn hosts() -> Vec<Host> {
    let hosts: Vec<Host> = [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten().collect();
    hosts.iter().filter(|host| host.is_of_an_ordinary_user()).for_each(|host| host.pull_demo("demo"));
    hosts
}

/// The list of outputs of the last run, a line each.
fn listed(host: &Host) -> Vec<Value> {
    let record = host.records().pop().unwrap();
    let file = record["outputs"]["list"]["file"].as_str().expect("a list").to_owned();
    let text = fs::read_to_string(host.root().join("log/runs").join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("no line of {path}"))
}

#[test]
fn a_hole_of_fifteen_tebibytes_ends_the_run_in_time_and_is_listed_without_a_hash() {
    for host in hosts() {
        let began = Instant::now();
        let script =
            "cd /safe_outputs; for i in 1 2 3; do truncate -s 16492674416640 $i || exit 9; done; echo x > plain";
        host.sh(&[], script).exits(0);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let outputs = host.records().pop().unwrap()["outputs"].clone();
        assert_eq!((&outputs["files"], &outputs["not_hashed"]), (&Value::from(4), &Value::from(3)), "{outputs}");
        let lines = listed(&host);
        assert!(line(&lines, "1")["not_hashed"].as_str().unwrap().starts_with("15 TiB, of which "), "{lines:?}");
        assert!(line(&lines, "plain")["sha256"].is_string(), "{lines:?}");
        let id = host.records().pop().unwrap()["id"].as_str().unwrap().to_owned();
        let ran = Ran::from(host.ces().args(["verify", &id]).output());
        assert_eq!(ran.exits(0).matches("not compared: ").count(), 3, "{ran:?}");

        host.policy("[limits]\noutputs = { max = \"1G\" }\n");
        let ran = host.sh(&[], "truncate -s 16492674416640 /safe_outputs/1; sleep 100");
        ran.exits(137);
        assert!(ran.stderr.contains("apparent size"), "{ran:?}");
        host.nothing_is_left();
    }
}

#[test]
fn set_id_bits_go_and_owners_are_right_at_any_depth() {
    for host in hosts() {
        let (uid, gid) = (host.researcher().uid, host.researcher().gid);
        let running = host.start(&[], "while [ ! -e /safe_outputs/go ]; do sleep 0.1; done");
        let mut dir = OwnedFd::from(File::open(&running.outputs).unwrap());
        // From outside, where no filter refuses the bits.
        let settle = |file: &OwnedFd| {
            fchown(file, Some(uid), Some(gid)).unwrap();
            fchmod(file, Mode::from_bits_truncate(0o6777)).unwrap();
        };
        for _ in 0..5000 {
            mkdirat(&dir, c"d", Mode::S_IRWXU).unwrap();
            dir = openat(&dir, c"d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            settle(&dir);
        }
        settle(&openat(&dir, c"tool", OFlag::O_CREAT | OFlag::O_RDWR, Mode::S_IRWXU).unwrap());
        fs::set_permissions(&running.outputs, fs::Permissions::from_mode(0o2777)).unwrap();
        fs::write(running.outputs.join("go"), "").unwrap();
        let outputs = running.outputs.clone();
        running.finish().exits(0);

        assert_eq!(fs::metadata(&outputs).unwrap().mode() & 0o7777, 0o700);
        let mut at = OwnedFd::from(File::open(&outputs).unwrap());
        for depth in 0..5000 {
            at = openat(&at, c"d", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            let found = fstat(&at).unwrap();
            assert_eq!((found.st_mode & 0o7777, found.st_uid), (0o777, uid.as_raw()), "{depth}");
        }
        let tool = openat(&at, c"tool", OFlag::O_RDONLY, Mode::empty()).unwrap();
        assert_eq!(fstat(&tool).unwrap().st_mode & 0o7777, 0o777);
        let record = host.records().pop().unwrap();
        assert_eq!(record["outputs"]["set_ids"], 5001, "{record}");
        assert!(record["outputs"]["refused"].to_string().contains("deeper than 256 levels"), "{record}");
        assert!(Command::new("rm").arg("-rf").arg(&outputs).status().unwrap().success());
    }
}

#[test]
fn acls_and_extended_attributes_do_not_stay_on_outputs() {
    for host in hosts() {
        let running = host.start(
            &[],
            "echo x > /safe_outputs/f; : > /safe_outputs/made; while [ ! -e /safe_outputs/go ]; do sleep 0.1; done",
        );
        crate::support::wait_until("the file is there", || running.outputs.join("made").exists());
        let file = running.outputs.join("f");
        let set = |path: &Path, name: &str, value: &[u8]| {
            rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
        };
        if set(&file, "user.note", b"hidden").is_err() {
            crate::support::skip::<()>("the file system of the tests has no extended attributes");
            return;
        }
        // acl(5) as the kernel stores it: version 2; user, a named user, group, mask, others.
        let mut acl = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in
            [(1_u16, 6_u16, u32::MAX), (2, 7, 45999), (4, 0, u32::MAX), (0x10, 7, u32::MAX), (0x20, 0, u32::MAX)]
        {
            acl.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        let with_acl = set(&file, "system.posix_acl_access", &acl).is_ok();
        let top_acl = set(&running.outputs, "system.posix_acl_default", &acl).is_ok();
        fs::write(running.outputs.join("go"), "").unwrap();
        let (ran, file) = (running.finish(), file);
        ran.exits(0);
        let mut names = [0_u8; 256];
        assert_eq!(rustix::fs::listxattr(&file, &mut names[..]).unwrap(), 0, "{names:?}");
        assert_eq!(
            fs::metadata(&file).unwrap().mode() & 0o070,
            if with_acl { 0 } else { fs::metadata(&file).unwrap().mode() & 0o070 }
        );
        // A file made under a default ACL has one of its own.
        let removed = host.records().pop().unwrap()["outputs"]["attributes"].as_u64().unwrap();
        assert!(removed >= 1 + u64::from(with_acl) + u64::from(top_acl), "{removed}");
        assert!(ran.stderr.contains("extended attributes were removed"), "{ran:?}");
    }
}

#[test]
fn what_is_exchanged_or_removed_while_outputs_are_collected_is_that_entrys_alone() {
    let Some(host) = Host::with_demo() else { return };
    let (uid, gid) = (host.researcher().uid.as_raw(), host.researcher().gid.as_raw());
    // A colleague's file that others may write, and so link.
    let theirs = host.home().join("theirs");
    fs::write(&theirs, "theirs").unwrap();
    chown(&theirs, Some(45999), Some(45999)).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o666)).unwrap();
    for round in 0..5 {
        let name = |what: &str| host.home().join(format!("{what}{round}"));
        fs::hard_link(&theirs, name("link")).unwrap();
        fs::create_dir(name("dir")).unwrap();
        chown(name("dir"), Some(uid), Some(gid)).unwrap();
        let script = "cd /safe_outputs; for i in $(seq 500); do echo $i > f$i; done; mkdir d
            : > made; while [ ! -e go ]; do sleep 0.05; done";
        let running = host.start(&[], script);
        let outputs = running.outputs.clone();
        crate::support::wait_until("the files are there", || outputs.join("made").exists());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (inside, outside) in [("f1", name("link")), ("f250", name("dir")), ("d", name("link"))] {
                let (inside, over) = (outputs.join(inside), &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        renameat2(AT_FDCWD, &inside, AT_FDCWD, &outside, RenameFlags::RENAME_EXCHANGE).ok();
                    }
                });
            }
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::remove_file(outputs.join("f400")).ok();
                    fs::write(outputs.join("f400"), "").ok();
                }
            });
            fs::write(outputs.join("go"), "").unwrap();
            let ran = running.finish();
            over.store(true, Ordering::Relaxed);
            ran.exits(0);
        });
        let found = fs::metadata(&theirs).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (45999, 0o666));
        let lines = listed(&host);
        for n in [2, 100, 249, 251, 399, 401, 500] {
            assert!(line(&lines, &format!("f{n}"))["sha256"].is_string());
            assert_eq!(fs::metadata(outputs.join(format!("f{n}"))).unwrap().uid(), uid);
        }
        assert_eq!(fs::metadata(&outputs).unwrap().mode() & 0o7777, 0o700);
    }
}

#[test]
fn what_is_mounted_in_the_outputs_and_never_answers_holds_nobody_up() {
    let Some(host) = Host::with_demo() else { return };
    let running =
        host.start(&["--name", "held"], "cd /safe_outputs; mkdir below; echo x > below/f; echo x > made; sleep 2");
    let outputs = running.outputs.clone();
    crate::support::wait_until("the files are there", || outputs.join("made").exists());
    // As ces sees it.
    let _silent = host.mount_silent(&host.researcher().dir.join(outputs.file_name().unwrap()).join("below"));
    let began = Instant::now();
    let ran = running.finish();
    ran.exits(0);
    let lines = listed(&host);
    assert!(line(&lines, "made")["sha256"].is_string(), "{lines:?}");
    assert!(line(&lines, "below").to_string().contains("another file system is mounted there"), "{lines:?}");
    for command in [["show", "held"].as_slice(), &["verify", "held"], &["ps"]] {
        let ran = Ran::from(host.ces().args(command).output());
        assert!(ran.code.is_some() && !ran.stdout.contains("below/f"), "{ran:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[test]
fn what_is_mounted_in_scratch_and_never_answers_holds_nobody_up_and_is_told() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], "cd /scratch; mkdir below; echo x > below/f; echo x > file; sleep 2");
    let scratch = host.named("scratch_").pop().unwrap();
    crate::support::wait_until("the files are there", || scratch.join("file").exists());
    let _silent = ["below", "file"]
        .map(|name| host.mount_silent(&host.researcher().dir.join(scratch.file_name().unwrap()).join(name)));
    let began = Instant::now();
    let ran = running.finish();
    // It ran, and its scratch is not gone: that is an error.
    assert!(ran.code == Some(125) && ran.stderr.contains("exit 0"), "{ran:?}");
    assert!(ran.stderr.contains("cannot empty") && ran.stderr.contains("busy"), "{ran:?}");
    assert_eq!(host.records().pop().unwrap()["exit"], 0);
    for command in [["show", "last"].as_slice(), &["ps"]] {
        assert!(Ran::from(host.ces().args(command).output()).code.is_some());
    }
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
}

#[test]
fn what_is_written_in_the_last_moment_is_found_and_told() {
    for host in hosts() {
        host.policy("[limits]\nscratch = { max = \"1M\" }\noutputs = { max = \"1M\" }\n");
        let fill = "dd if=/dev/zero of=/safe_outputs/big bs=1M count=4 2>/dev/null";
        let ran = host.sh(&[], fill);
        ran.exits(137);
        assert!(ran.stderr.contains("outputs limit: "), "{ran:?}");
        let record = host.records().pop().unwrap();
        assert_eq!(record["exit"], 137, "{record}");
        // What failed for another reason stays that, and the record has both.
        host.sh(&[], &format!("{fill}; exit 3")).exits(3);
        let ended = host.records().pop().unwrap()["ended"].as_str().unwrap().to_owned();
        assert!(ended.starts_with("exit 3 (outputs limit: "), "{ended}");
        host.nothing_is_left();
    }
}

#[test]
fn a_file_that_is_deleted_and_open_counts() {
    for host in hosts() {
        host.policy("[limits]\nscratch = { max = \"2M\" }\n");
        for place in ["/scratch", "/tmp"] {
            let script = format!(
                "exec 3> {place}/x; rm {place}/x; dd if=/dev/zero bs=1M count=8 >&3 2>/dev/null; sync; sleep 60"
            );
            let ran = host.sh(&[], &script);
            ran.exits(137);
            assert!(ran.stderr.contains("deleted but open"), "{place}: {ran:?}");
        }
        let small =
            "exec 3> /scratch/x; rm /scratch/x; dd if=/dev/zero bs=64k count=1 >&3 2>/dev/null; sleep 1.5; echo well";
        assert_eq!(host.sh(&[], small).exits(0), "well\n");
        host.nothing_is_left();
    }
}

#[test]
fn hashing_ends_with_a_signal_and_the_rest_is_listed() {
    for host in hosts() {
        // As much as takes a moment to read: with no holes, and more than is hashed at once.
        let script =
            "cd /safe_outputs; dd if=/dev/zero of=a bs=1M count=600 2>/dev/null; for i in b c d e f; do cp a $i; done
            : > made; while [ ! -e go ]; do sleep 0.05; done";
        let running = host.start(&[], script);
        let outputs = running.outputs.clone();
        crate::support::wait_until("the files are there", || outputs.join("made").exists());
        fs::write(outputs.join("go"), "").unwrap();
        let list = host.root().join(format!("log/runs/{}.outputs.jsonl", running.id()));
        crate::support::wait_until("the list is begun", || list.exists());
        running.signal(nix::sys::signal::Signal::SIGTERM);
        let began = Instant::now();
        let ran = running.finish();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        // The payload may have seen the signal, too.
        assert!(matches!(ran.code, Some(0 | 143)), "{ran:?}");
        let record = host.records().pop().unwrap();
        assert_eq!(record["state"], "finished", "{record}");
        if record["outputs"]["not_hashed"].as_u64().unwrap() > 0 {
            assert!(listed(&host).iter().any(|line| line["not_hashed"] == "interrupted"));
        }
        host.nothing_is_left();
    }
}
