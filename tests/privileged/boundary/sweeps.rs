//! What a killed run left is removed and given by the next command: with something else in its place, that is left alone, and
//! said.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::support::attack::{Attack, Canary};
use crate::support::callers::OTHER_ID;
use crate::support::{Ran, children, wait_until};

/// A run that was killed: its id, and where its two directories are.
fn killed(attack: &Attack) -> (String, std::path::PathBuf, std::path::PathBuf) {
    let run = attack.start(&[], "echo result > /safe_outputs/result; echo x > /scratch/x");
    let (id, outputs) = run.kill(attack);
    let scratch = attack.home(&format!("scratch_{id}"));
    (id, outputs, scratch)
}

/// The next commands of everybody; what the first one said.
fn next(attack: &Attack) -> Ran {
    let ran = attack.ces(&["ps"]);
    attack.other("sudo -n $CES ps").exits(0);
    Ran::from(attack.desk.host.ces_as_root().env_remove("CES_ROOT").arg("ps").output()).exits(0);
    ran
}

#[track_caller]
fn is_theirs(at: &Path, canary: &Canary, ran: &Ran) {
    let whole = ["notes.txt", "below", "below/deep.txt"].iter().all(|name| at.join(name).exists());
    assert!(whole, "{} was emptied: {ran:?}", at.display());
    for name in ["", "notes.txt", "below", "below/deep.txt"] {
        let found = fs::metadata(at.join(name)).unwrap();
        assert_eq!(found.uid(), OTHER_ID, "{} {name}: {ran:?}", at.display());
    }
    assert_eq!(fs::metadata(at).unwrap().mode() & 0o7777, 0o770, "{ran:?}");
    canary.is_unchanged();
}

#[test]
fn a_payload_does_not_outlive_the_ces_that_bounds_it() {
    // The signal of a parent's death is sent with the rights of the parent (kernel/exit.c, reparent_leader): those of a
    // researcher do not reach a process of the container's root.
    let Some(attack) = Attack::new() else { return };
    let run = attack.start(&[], ":");
    let (_, left) = run.kill_ces_alone(&attack);
    // Whatever it is, the next command ends it.
    let ran = next(&attack);
    let later = attack.desk.host.processes();
    attack.desk.host.clear();
    assert!(left.is_empty(), "it runs on without a deadline: {left:?}; after the next command {later:?}: {ran:?}");
}

#[test]
fn a_group_that_belongs_to_the_caller_has_no_supervisor_in_it_to_freeze() {
    let Some(attack) = Attack::new() else { return };
    let trees = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let tree = trees.into_iter().find(|tree| tree.join("cgroup.controllers").exists()).expect("a tree of version 2");
    let group = tree.join(format!("ces-test-{}", attack.desk.host.token()));
    fs::create_dir(&group).unwrap();
    let owner = Some(attack.desk.owner());
    for path in [group.clone(), group.join("cgroup.procs")] {
        std::os::unix::fs::chown(path, owner, None).unwrap();
    }
    let payload = ": > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done";
    let mut command = attack.script(&format!("read x; ces run localhost/demo /bin/sh -c '{payload}'"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let outputs = || attack.desk.named("outputs_").into_iter().find(|dir| dir.join("ready").exists());
    wait_until("the payload", || outputs().is_some());
    let jobs = children(&attack.tmp("ces/run"));
    let journal = jobs.iter().find_map(|job| fs::read_to_string(job.join("job.json")).ok()).expect("a journal");
    let journal: serde_json::Value = serde_json::from_str(&journal).unwrap();
    let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let (supervisor, sudo) = (of(&journal["pid"].to_string()), of(&child.id().to_string()));
    fs::write(outputs().unwrap().join("go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    wait_until("an empty group", || fs::remove_dir(&group).is_ok());
    let name = group.file_name().unwrap().to_string_lossy().into_owned();
    assert!(sudo.contains(&name) && !supervisor.contains(&name), "{supervisor}");
}

#[test]
fn a_sweep_given_another_researchers_directory_for_a_runs_own_leaves_it_alone_and_says_so() {
    for which in ["outputs", "scratch"] {
        let Some(attack) = Attack::new() else { return };
        let theirs = attack.movable("theirs");
        let (id, outputs, scratch) = killed(&attack);
        let canary = attack.canary();
        let place = if which == "outputs" { outputs } else { scratch };
        let (from, to) = (theirs.display(), place.display());
        attack.sh(&format!("mv {to} {to}.away && mv -T {from} {to}")).exits(0);
        let ran = next(&attack);
        is_theirs(&place, &canary, &ran);
        // To whoever calls next, or in the run's record.
        let told = format!("{}{}", ran.stderr, attack.record()["warnings"]);
        let said = [&format!("{which}_{id}"), "left alone"].iter().all(|word| told.contains(*word));
        assert!(said, "{which}: {told}");
    }
}

#[test]
fn a_directory_of_anothers_with_the_number_of_a_runs_own_is_left_alone_too() {
    // The number of a directory that was removed is the next one's on many file systems: the researcher removes theirs, and
    // waits for another's that has it. Here it is written into what root noted, which nobody but chance could do.
    for which in ["outputs", "scratch"] {
        let Some(attack) = Attack::new() else { return };
        let theirs = attack.movable("theirs");
        let (id, outputs, scratch) = killed(&attack);
        let canary = attack.canary();
        let place = if which == "outputs" { outputs } else { scratch };
        let (from, to) = (theirs.display(), place.display());
        attack.sh(&format!("rm -r {to} && mv -T {from} {to}")).exits(0);
        let found = fs::metadata(&place).unwrap();
        let noted = attack.tmp("ces/run").join(&id).join("lock");
        let mut made: serde_json::Value = serde_json::from_str(&fs::read_to_string(&noted).unwrap()).unwrap();
        made[which] = json!([found.dev(), found.ino()]);
        fs::write(&noted, made.to_string()).unwrap();
        let ran = next(&attack);
        is_theirs(&place, &canary, &ran);
    }
}

#[test]
fn a_sweep_leaves_what_is_anothers_in_a_runs_own_directories() {
    let Some(attack) = Attack::new() else { return };
    let (first, second) = (attack.movable("first"), attack.movable("second"));
    let (_, outputs, scratch) = killed(&attack);
    let canary = attack.canary();
    let script = format!(
        "mkdir -p {0}/a/b {1}/a/b && mv {2} {0}/a/b/theirs && mv {3} {1}/a/b/theirs",
        outputs.display(),
        scratch.display(),
        first.display(),
        second.display()
    );
    attack.sh(&script).exits(0);
    let ran = next(&attack);
    is_theirs(&outputs.join("a/b/theirs"), &canary, &ran);
    // In scratch it may have been moved up, whole.
    let mut found = crate::support::children(&scratch);
    found.push(scratch.join("a/b/theirs"));
    let at = found.into_iter().find(|at| at.join("notes.txt").exists());
    is_theirs(&at.unwrap_or_else(|| panic!("it is gone: {ran:?}")), &canary, &ran);
}

#[test]
fn a_sweep_given_links_follows_none() {
    let Some(attack) = Attack::new() else { return };
    let theirs = attack.movable("theirs");
    let targets = [theirs.clone(), attack.others(""), attack.data("pa"), "/root".into(), "/etc".into()];
    for target in targets {
        let (id, outputs, scratch) = killed(&attack);
        let canary = attack.canary().and(&theirs).and(&attack.data("pa"));
        for place in [&outputs, &scratch] {
            fs::rename(place, place.with_extension("away")).unwrap();
            symlink(&target, place).unwrap();
        }
        let ran = next(&attack);
        canary.is_unchanged();
        assert!(fs::symlink_metadata(&outputs).unwrap().is_symlink(), "{id}: {ran:?}");
    }
}

#[test]
fn a_sweep_beside_a_process_that_exchanges_a_runs_directories_touches_nothing_of_anothers() {
    let Some(attack) = Attack::new() else { return };
    let began = std::time::Instant::now();
    let limit = std::time::Duration::from_secs(8) * u32::try_from(attack.rounds() / 100).unwrap();
    let (mut rounds, mut swapped) = (0, 0);
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let theirs = attack.movable("theirs");
        let (_, outputs, scratch) = killed(&attack);
        let canary = attack.canary();
        let which = if rounds % 2 == 0 { &outputs } else { &scratch };
        let swapper = attack.swapper(which, &theirs);
        let ran = next(&attack);
        swapped += swapper.stop();
        let at = [&theirs, which].into_iter().find(|at| at.join("notes.txt").exists());
        is_theirs(at.unwrap_or_else(|| panic!("it was emptied: {ran:?}")), &canary, &ran);
        attack.ces(&["ps"]).exits(0);
        for place in [&theirs, &outputs, &scratch] {
            fs::remove_dir_all(place).ok();
        }
    }
    attack.tried(rounds, Some(swapped));
    assert!(swapped > 0, "nothing was exchanged");
}

#[test]
fn what_a_killed_run_left_is_given_and_removed_where_nothing_was_changed() {
    let Some(attack) = Attack::new() else { return };
    let (_, outputs, scratch) = killed(&attack);
    let canary = attack.canary();
    let ran = next(&attack);
    assert!(!scratch.exists(), "{ran:?}");
    assert_eq!(fs::read_to_string(outputs.join("result")).unwrap(), "result\n");
    assert_eq!(fs::metadata(outputs.join("result")).unwrap().uid(), attack.desk.owner());
    canary.is_unchanged();
}
