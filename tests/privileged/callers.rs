//! The same promises to whoever calls: root, the researcher through sudo, the researcher with subordinate ids, the
//! researcher without. `scripts/test-vm` runs these on a host with systemd as well.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use serde_json::json;

use crate::support::callers::{Caller, Desk};
use crate::support::{children, wait_until};

/// One test a caller, so that each line of the matrix is seen.
macro_rules! for_each_caller {
    ($($promise:ident),* $(,)?) => {
        mod root { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::Root); })* }
        mod sudo { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::Sudo); })* }
        mod user_with_subids { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::UserWithSubids); })* }
        mod user { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::User); })* }
    };
}

for_each_caller!(
    data_is_read_and_outputs_belong_to_the_caller,
    every_user_of_an_image_writes_as_the_caller,
    scratch_goes_whatever_was_made_in_it,
    limits_hold_or_are_recorded_as_missing,
    want_of_memory_is_named_where_there_is_a_limit,
    data_that_belongs_to_the_projects_group_is_read,
    a_killed_run_leaves_nothing_after_the_next_command,
    doctor_ends_in_the_word_that_holds,
    a_rehearsal_tells_what_an_image_lacks_and_what_is_laxer_than_inside,
);

fn data_is_read_and_outputs_belong_to_the_caller(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let ran = desk.sh(&[], "id -u; cp /safe_data/ward.csv /safe_outputs/; ls -ld /home/analyst | cut -c1-10");
    assert_eq!(ran.exits(0).lines().next(), Some("1000"), "{ran:?}");
    let copy = desk.outputs().join("ward.csv");
    assert_eq!(fs::read_to_string(&copy).unwrap(), crate::support::WARD_CSV);
    assert_eq!(fs::metadata(&copy).unwrap().uid(), desk.owner());
    assert_eq!(fs::metadata(desk.outputs()).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(desk.record()["mode"], if caller.is_enforced() { "enforced" } else { "advisory" });
}

fn every_user_of_an_image_writes_as_the_caller(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let safe = desk.home().join("safe_data");
    for (user, ids) in [("root", "0:0"), ("33", "33:0"), ("analyst", "1000:1000"), ("12:34", "12:34")] {
        let script = "echo $(id -u):$(id -g); : > /safe_outputs/f; : > /tmp/f; mkdir /scratch/d
            echo x > /safe_data/made && chmod 600 /safe_data/made";
        assert_eq!(desk.sh(&["--user", user], script).exits(0).trim(), ids, "{user}");
        let outputs = desk.outputs();
        assert_eq!(fs::metadata(outputs.join("f")).unwrap().uid(), desk.owner(), "{user}");
        fs::remove_dir_all(outputs).unwrap();
        let made = fs::metadata(safe.join("made")).unwrap();
        if caller != Caller::Root {
            // The data is theirs to write to: what the container leaves there is theirs too.
            assert_eq!((made.uid(), made.gid()), (desk.owner(), desk.host.researcher().gid.as_raw()), "{user}");
        }
        fs::remove_file(safe.join("made")).unwrap();
    }
}

#[test]
fn what_belongs_to_an_images_user_is_given_to_the_researcher_once_at_the_pull() {
    let Some(desk) = Desk::with_demo(Caller::UserWithSubids) else { return };
    let store = desk.host.home().join(".local/share/ces");
    let own = || {
        let images = children(&store.join("images/sha256"));
        images.iter().map(|image| image.join("own-1000-1000")).find(|own| own.is_dir()).expect("a layer on top")
    };
    let home = own().join("home/analyst");
    assert_eq!(fs::metadata(&home).unwrap().uid(), desk.owner());
    assert_eq!(children(&own()).len(), 1, "and nothing else is in it");
    let before = fs::metadata(&home).unwrap();
    let script = "cat /home/analyst/whose; : > /home/analyst/new; stat -c %U /home/analyst /bin/busybox";
    assert_eq!(desk.sh(&[], script).exits(0), "analyst\nanalyst\nanalyst\n");
    let after = fs::metadata(&home).unwrap();
    assert_eq!((before.ino(), before.mtime(), before.ctime()), (after.ino(), after.mtime(), after.ctime()));
    desk.ces(&["rmi", "localhost/demo"]).exits(0);
    assert!(
        children(&store.join("images/sha256")).is_empty() && children(&store.join("tmp")).is_empty(),
        "it goes with the image"
    );
}

fn a_rehearsal_tells_what_an_image_lacks_and_what_is_laxer_than_inside(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let laxer = !caller.is_enforced();
    let home = if caller == Caller::Root { Path::new("/root") } else { &desk.host.researcher().dir };
    let named = home.join("report.json");
    let rehearse = |script: &str| {
        desk.ces(&["rehearse", "--json", named.to_str().unwrap(), "localhost/demo", "/bin/sh", "-c", script])
    };
    let ran = rehearse("touch /bin/new && rm /bin/new && echo written; true");
    assert_eq!(ran.exits(0) == "written\n", laxer, "{ran:?}");
    let said = ran.stderr.contains("READY, but for what is laxer here than inside");
    assert_eq!((said, ran.stderr.contains("not as inside: ")), (laxer, laxer), "{ran:?}");
    assert!(laxer || ran.stderr.contains("\nREADY: 1 wanted"), "{ran:?}");
    let ran = rehearse("echo 1 > /home/analyst/result.csv; nslookup pypi.example || exit 3");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(desk.home().join("report.json")).unwrap()).unwrap();
    assert_eq!(crate::support::rehearsal::objections(&report), None);
    let found = |verdict: &str, kind: &str, object: &str| {
        let mut all = report["findings"].as_array().unwrap().iter();
        all.any(|f| f["verdict"] == verdict && f["kind"] == kind && f["object"] == object)
    };
    assert!(found("fails", "name", "pypi.example") && found("lost", "lost", "/home/analyst"), "{report:#}");
    // What it used, where this host gives this caller a control group; the kernel counts a peak of processes from 6.1 on.
    assert_eq!(report["peak_memory"].is_u64(), has_limits(caller), "{report:#}");
    assert_eq!(report["conditions"]["not_as_inside"].as_array().unwrap().is_empty(), !laxer);
    assert!(desk.sh(&[], "true").stderr.contains("same image, same rules: NOT READY"));
}

fn scratch_goes_whatever_was_made_in_it(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    desk.sh(
        &["--user", "33"],
        "mkdir -p /scratch/a/b; : > /scratch/a/b/f; chmod 0 /scratch/a/b/f /scratch/a/b; chmod 0 /scratch/a; chmod 0 /scratch",
    )
    .exits(0);
    assert_eq!(desk.named("scratch_"), Vec::<std::path::PathBuf>::new());
    assert_eq!(desk.record()["warnings"].as_array().map(Vec::len), Some(expected_warnings(&desk)));
}

/// Whether this host gives this caller limits: root always; a user where systemd runs a manager for them.
fn has_limits(caller: Caller) -> bool {
    caller.is_enforced() || crate::support::has_user_manager()
}

fn expected_warnings(desk: &Desk) -> usize {
    usize::from(!has_limits(desk.caller))
}

#[test]
fn files_of_an_images_other_user_in_a_bound_directory_are_named_with_the_remedy() {
    for caller in [Caller::Sudo, Caller::UserWithSubids] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let database = desk.home().join("db");
        fs::create_dir(&database).unwrap();
        chown(&database, Some(desk.owner()), None).unwrap();
        let place = desk.host.researcher().dir.join("db").display().to_string();
        let service = ["--profile", "service", "--user", "0", "-v"];
        let ran = desk.sh(
            &[&service[..], &[&format!("{place}:/db")]].concat(),
            ": > /db/mine; mkdir -p /db/main; : > /db/main/f; chown -R 33:33 /db/main",
        );
        ran.exits(0);
        assert_ne!(fs::metadata(database.join("main")).unwrap().uid(), desk.owner());
        let said = format!("{place} holds files of another user of the image");
        assert!(ran.stderr.contains(&format!("note: {said}")), "{ran:?}");
        assert!(desk.record()["warnings"].to_string().contains(&said));
        // The remedy is a line to copy.
        let remedy = ran.stderr.split("to make them yours: ces ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let mended = desk.ces(&remedy.split(' ').collect::<Vec<_>>());
        mended.exits(0);
        assert!(!mended.stderr.contains("holds files"), "{mended:?}");
        for path in ["main", "main/f", "mine"] {
            assert_eq!(fs::metadata(database.join(path)).unwrap().uid(), desk.owner(), "{caller:?} {path}");
        }
    }
}

fn limits_hold_or_are_recorded_as_missing(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let options = ["--memory", "64m", "--pids-limit", "40", "--cpus", "0.5"];
    let ran = desk.sh(&options, "sleep 0.1");
    ran.exits(0);
    let record = desk.record();
    if has_limits(caller) {
        let limits = json!({"memory": 64 << 20, "memory_and_swap": 64 << 20, "cpus": 0.5, "pids": 40});
        assert_eq!(record["enforced"]["limits"], limits);
        assert!(!record["warnings"].to_string().contains("limits"), "{record}");
        if Path::new("/run/systemd/system").exists() {
            let id = record["id"].as_str().unwrap();
            let scope = format!("/ces.slice/ces-{id}.scope/ces-{id}");
            assert!(record["enforced"]["cgroups"][0].as_str().unwrap().ends_with(&scope), "{record}");
        }
        assert!(record["peak_memory"].as_u64().is_some_and(|bytes| bytes > 0), "{record}");
        // On an emulated processor sixty of them take half a minute to begin.
        let forks = desk.sh(&options, "i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done; wait");
        assert!(forks.stderr.contains("can't fork"), "{forks:?}");
    } else {
        assert!(ran.stderr.contains("warning: no resource limits"), "{ran:?}");
        assert_eq!(record["enforced"]["limits"], json!(null));
        let mut warnings = record["warnings"].as_array().expect("warnings").iter().filter_map(|said| said.as_str());
        assert!(warnings.any(|said| said.starts_with("no resource limits")), "{record}");
        desk.host.policy("[limits]\nrequired = true\n");
        desk.sh(&options, "true").refuses(125, &["control group", "limits.required"]);
    }
}

fn want_of_memory_is_named_where_there_is_a_limit(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    if !has_limits(caller) {
        // Said by the test above; here there is nothing to reach.
        return;
    }
    let ran = desk.sh(&["--memory", "24m"], "head -c 100m /dev/zero | tail");
    assert_eq!(ran.code, Some(137), "{ran:?}");
    assert!(ran.stderr.contains("out of memory: limit 24 MiB"), "{ran:?}");
}

fn data_that_belongs_to_the_projects_group_is_read(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let data = desk.host.tmp().join("safe");
    let project = data.join("projx");
    fs::create_dir_all(&project).unwrap();
    fs::write(project.join("d.csv"), "42\n").unwrap();
    for (path, mode) in [(&data, 0o755), (&project, 0o2770), (&project.join("d.csv"), 0o640)] {
        let group = (path != &data).then_some(45678);
        chown(path, Some(0), group).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    desk.host.policy(&format!("[data]\nroot = \"{}\"\n[limits]\nrequired = false\n", data.display()));
    let ran = desk.sh(&["--project", "projx"], "cat /safe_data/d.csv; echo new > /safe_data/made");
    if caller == Caller::Root {
        // No researcher, so nobody's groups.
        assert_ne!(ran.code, Some(0), "{ran:?}");
        return;
    }
    assert_eq!(ran.exits(0), "42\n");
    let made = fs::metadata(project.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (desk.owner(), 45678));
}

fn a_killed_run_leaves_nothing_after_the_next_command(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let script = "mkdir -p /scratch/a; chmod 0 /scratch/a; : > /safe_outputs/ready; sleep 100";
    let mut child = desk.command(&["run", "localhost/demo", "/bin/sh", "-c", script]).spawn().unwrap();
    let ready = || desk.named("outputs_").iter().any(|dir| dir.join("ready").exists());
    wait_until("the payload has started", ready);
    let id = desk.outputs().file_name().unwrap().to_str().unwrap().trim_start_matches("outputs_").to_owned();
    let scratch = desk.named("scratch_");
    assert_eq!(scratch.len(), 1, "it is there while the run lasts");
    let processes = desk.host.processes();
    let ces = processes.iter().find(|process| process.ends_with(" ces")).expect("ces runs");
    let supervisor: i32 = supervisor(&desk, &id).unwrap_or_else(|| ces.split(' ').next().unwrap().parse().unwrap());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    wait_until("the container dies with ces", || {
        desk.host.processes().iter().all(|process| !process.ends_with(" sleep") && !process.ends_with(" ces"))
    });
    let verb = match caller {
        Caller::Root | Caller::UserWithSubids => "ps",
        Caller::Sudo => "images",
        Caller::User => "runs",
    };
    let next = desk.ces(&[verb]);
    next.exits(0);
    assert_eq!(desk.named("scratch_"), Vec::<std::path::PathBuf>::new(), "{next:?}");
    assert_eq!(desk.record()["state"], "interrupted");
    assert_eq!(fs::metadata(desk.outputs().join("ready")).unwrap().uid(), desk.owner());
    // Systemd removes a scope in its own time.
    wait_until("no control group is left", || groups_named(&id).is_empty());
}

/// The process that supervises the run, from its journal.
fn supervisor(desk: &Desk, id: &str) -> Option<i32> {
    let dirs = [desk.host.root().join("run"), desk.home().join(".local/state/ces/run")];
    let text = dirs.iter().find_map(|dir| fs::read_to_string(dir.join(id).join("job.json")).ok())?;
    let journal: serde_json::Value = serde_json::from_str(&text).ok()?;
    journal["pid"].as_i64()?.try_into().ok()
}

fn groups_named(id: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut look = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = look.pop() {
        for path in children_that_stay(&dir) {
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(id)) {
                found.push(path.clone());
            }
            look.push(path);
        }
    }
    found
}

/// Directories in a directory; a group may vanish meanwhile.
fn children_that_stay(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn doctor_ends_in_the_word_that_holds(caller: Caller) {
    let Some(desk) = Desk::new(caller) else { return };
    let word = if caller.is_enforced() { "enforced" } else { "advisory" };
    let ran = desk.ces(&["doctor"]);
    assert!(ran.exits(0).contains(&format!("\n{word}: ")), "{ran:?}");
    let json: serde_json::Value = serde_json::from_str(desk.ces(&["doctor", "--json"]).exits(0)).unwrap();
    assert_eq!(json["result"], word);
    assert!(json["findings"].as_array().unwrap().iter().all(|f| f["grade"] != "refused"), "{json}");
    assert_eq!(children(&desk.log().join("runs")), Vec::<std::path::PathBuf>::new(), "it is no run");
}
