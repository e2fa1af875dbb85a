//! Hosts that say no, and homes that are not what one is used to: it works, or is refused with cause and remedy.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::callers::{Caller, Desk};
use crate::support::runtimes::{RUNTIMES, both_are_here};
use crate::support::{Host, Ran, children, have, wait_until};

/// Runs a script of root's in the test's mount namespace.
#[track_caller]
fn prepare(host: &Host, script: &str) {
    Ran::from(host.command("/bin/sh").args(["-ec", script]).output()).exits(0);
}

#[test]
fn a_host_without_user_or_network_namespaces_is_refused_with_the_setting_to_change() {
    for setting in ["user.max_user_namespaces", "user.max_net_namespaces"] {
        let Some(host) = Host::with_demo() else { return };
        // In a user namespace of the test's own the setting is its own (namespaces(7)).
        let script = "echo 0 > \"/proc/sys/user/$1\"; exec \"$2\" \"$3\" run localhost/demo true";
        let mut command = host.command("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command.args([setting.trim_start_matches("user."), "env", env!("CARGO_BIN_EXE_ces")]);
        command.env("HOME", "/root").env("CES_ROOT", host.tmp().join("ces"));
        Ran::from(command.output()).refuses(125, &[setting, "is 0", "sysctl", "ces doctor"]);
        host.nothing_ran();
    }
}

#[test]
fn a_helper_that_cannot_be_executed_or_refuses_the_ids_is_named_and_nothing_ran() {
    // One that cannot be executed is as none: the layers were unpacked for more ids than there are now.
    for (there, said) in [
        ("/dev/null", ["was unpacked for other ids", "pull it again"]),
        ("/bin/false", ["newuidmap refused the id map", "package uidmap"]),
    ] {
        let Some(mut host) = Host::of_an_ordinary_user() else { return };
        host.pull_demo("demo");
        prepare(&host, &format!("mount --bind {there} /usr/bin/newuidmap"));
        host.remember_mounts();
        host.sh(&[], "true").refuses(125, &said);
        host.nothing_ran();
    }
}

#[test]
fn a_masked_proc_is_refused_and_doctor_says_so_in_one_word() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    prepare(&desk.host, "mount -t tmpfs tmpfs /proc/irq");
    desk.sh(&[], "true").refuses(125, &["/proc/irq", "another container"]);
    let ran = desk.ces(&["doctor"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("\nrefused: "), "{ran:?}");
    let json: serde_json::Value = serde_json::from_str(&desk.ces(&["doctor", "--json"]).stdout).unwrap();
    assert_eq!(json["result"], "refused");
    let of_proc = json["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "/proc").unwrap();
    for key in ["found", "needed", "fix"] {
        assert!(of_proc[key].as_str().is_some_and(|text| !text.is_empty()), "{of_proc}");
    }
}

#[test]
fn inside_another_container_a_run_is_refused_and_doctor_says_the_same() {
    let Some(()) = both_are_here() else { return };
    let Some(host) = Host::with_demo() else { return };
    let bundle = host.tmp().join("outer");
    let rootfs = bundle.join("rootfs");
    prepare(&host, &format!("mkdir -p {0}; mount --rbind / {0}", rootfs.display()));
    for runtime in RUNTIMES {
        prepare(&host, &format!("cd {}; rm -f config.json; {runtime} spec", bundle.display()));
        let file = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["root"]["readonly"] = false.into();
        // As such a container is started for builds: with every capability, and its /proc masked all the same.
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = serde_json::json!(["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"]);
        }
        for (verb, code) in [("run localhost/demo true", 125), ("doctor", 1)] {
            let call = format!("exec {} --root={} {verb}", env!("CARGO_BIN_EXE_ces"), host.tmp().join("ces").display());
            config["process"]["args"] = serde_json::json!(["/bin/sh", "-c", call]);
            fs::write(&file, config.to_string()).unwrap();
            let ran = host.run_bundle(runtime, &bundle);
            assert_eq!(ran.code, Some(code), "{runtime}: {ran:?}");
            let said = ran.stdout.clone() + &ran.stderr;
            assert!(said.contains("/proc") && said.contains("inside another container"), "{runtime}: {ran:?}");
            assert!(verb != "doctor" || ran.stdout.contains("\nrefused: "), "{runtime}: {ran:?}");
        }
    }
}

/// What an ordinary user's home and the data in it are like on other file systems.
fn works_at_home(desk: &Desk) {
    let ran = desk.sh(&[], "cat /safe_data/ward.csv > /safe_outputs/copy; mkdir -p /scratch/a; chmod 0 /scratch/a");
    ran.exits(0);
    assert_eq!(
        fs::read_to_string(desk.host.inside(&desk.host.researcher().dir).join(name_of_outputs(desk)).join("copy"))
            .unwrap(),
        crate::support::WARD_CSV
    );
    assert_eq!(at_home(desk, "scratch_"), Vec::<String>::new());
}

fn at_home(desk: &Desk, prefix: &str) -> Vec<String> {
    let home = desk.host.researcher().dir.display().to_string();
    let listed = Ran::from(as_researcher(desk, &format!("ls -A {home}")).output());
    listed.exits(0).lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

fn name_of_outputs(desk: &Desk) -> String {
    at_home(desk, "outputs_").pop().expect("outputs")
}

fn as_researcher(desk: &Desk, script: &str) -> Command {
    let mut command = desk.host.command("runuser");
    command.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command", script]);
    command
}

#[test]
fn a_home_with_noexec_and_nodev_works_for_every_caller() {
    for caller in [Caller::Sudo, Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let home = desk.host.researcher().dir.display().to_string();
        prepare(&desk.host, &format!("mount -o remount,bind,noexec,nodev,nosuid {home}"));
        works_at_home(&desk);
    }
}

#[test]
fn a_home_in_memory_works_or_says_where_the_store_should_be() {
    for caller in [Caller::Sudo, Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::new(caller) else { return };
        let (home, uid) = (desk.host.researcher().dir.display().to_string(), desk.owner());
        prepare(
            &desk.host,
            &format!(
                "mount -t tmpfs -o uid={uid},mode=700 tmpfs {home}; mkdir {home}/safe_data; echo 'ward,nights
north,3
south,1
north,5' > {home}/safe_data/ward.csv; chown -R {uid} {home}/safe_data"
            ),
        );
        let pulled = desk.ces(&["pull", &format!("oci:{}:demo", crate::support::demo_layout().display())]);
        let ran = desk.sh(&[], "cat /safe_data/ward.csv > /safe_outputs/copy");
        if pulled.code == Some(0) && ran.code == Some(0) {
            works_at_home(&desk);
        } else {
            // Before kernel 6.6 tmpfs has no attributes of users.
            ran.refuses(125, &["--root"]);
        }
    }
}

/// Puts a FUSE file system of the researcher's own over their home: as with NFS and its like, root has no rights in it.
fn fuse_home(desk: &Desk) {
    let home = desk.host.researcher().dir.display().to_string();
    let behind = desk.host.tmp().join("behind");
    prepare(
        &desk.host,
        &format!(
            "chmod 666 /dev/fuse; mkdir -p {0}; mv {home}/* {home}/.[!.]* {0}/ 2>/dev/null || true; chown -R {1} {0}",
            behind.display(),
            desk.owner()
        ),
    );
    Ran::from(as_researcher(desk, &format!("cd /; exec bindfs --no-allow-other {} {home}", behind.display())).output())
        .exits(0);
    let seen = Ran::from(desk.host.command("ls").arg(&desk.host.researcher().dir).output());
    assert_ne!(seen.code, Some(0), "root can read it, so this is no test: {seen:?}");
}

#[test]
fn a_user_whose_home_has_no_overlay_puts_the_store_elsewhere_and_works() {
    let Some(()) = have("bindfs") else { return };
    for caller in [Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::new(caller) else { return };
        fuse_home(&desk);
        let layout = format!("oci:{}:demo", crate::support::demo_layout().display());
        // On the home itself it is refused, and says what to set.
        let pulled = desk.ces(&["pull", &layout]);
        if pulled.code == Some(0) {
            desk.sh(&[], "true").refuses(125, &["--root"]);
        } else {
            pulled.refuses(1, &["--root", "local"]);
        }
        let elsewhere = desk.host.tmp().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::chown(&elsewhere, Some(desk.owner()), None).unwrap();
        let root = format!("--root={}", elsewhere.display());
        desk.ces(&[&root, "pull", &layout]).exits(0);
        desk.ces(&[&root, "run", "localhost/demo", "cp", "/safe_data/ward.csv", "/safe_outputs/copy"]).exits(0);
        let copy = desk.host.tmp().join("behind").join(name_of_outputs(&desk)).join("copy");
        assert_eq!(fs::read_to_string(copy).unwrap(), crate::support::WARD_CSV, "{caller:?}");
    }
}

#[test]
fn a_home_that_is_missing_is_named_and_nothing_ran() {
    for caller in [Caller::Sudo, Caller::User] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let passwd = desk.host.inside(Path::new("/etc/passwd"));
        let home = desk.host.researcher().dir.display().to_string();
        let text = fs::read_to_string(&passwd).unwrap();
        fs::write(&passwd, text.replace(&format!(":{home}:"), ":/nowhere/at/all:")).unwrap();
        let ran = desk.sh(&[], "true");
        ran.refuses(125, &["/nowhere/at/all"]);
    }
}

/// What doctor finds under that name, with the word it ends in.
fn found_by_doctor(desk: &Desk, what: &str) -> (serde_json::Value, String) {
    let ran = desk.ces(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.code, Some(i32::from(json["result"] == "refused")), "{ran:?}");
    let found = json["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == what).unwrap().clone();
    (found, json["result"].as_str().unwrap().to_owned())
}

#[test]
fn doctor_tells_how_scratch_and_outputs_are_bounded_and_has_tried_it_in_the_home() {
    for caller in [Caller::Root, Caller::Sudo, Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::new(caller) else { return };
        let word = if caller.is_enforced() { "enforced" } else { "advisory" };
        let (found, result) = found_by_doctor(&desk, "scratch, outputs");
        assert_eq!((found["grade"].as_str(), result.as_str()), (Some("warning"), word), "{found}");
        assert_eq!(found["found"], "scratch has no limit; outputs has no limit");
        desk.host
            .policy("[limits]\nrequired = false\nscratch = { max = \"1G\" }\noutputs = { max = \"2G\", files = 7 }\n");
        let (found, result) = found_by_doctor(&desk, "scratch, outputs");
        assert_eq!((found["grade"].as_str(), result.as_str()), (Some("ok"), word), "{found}");
        let said = "scratch: 1 GiB; outputs: 2 GiB, 7 files (watched by ces every second, tested)";
        assert_eq!(found["found"], said, "{caller:?}");
        assert_eq!(found_by_doctor(&desk, "home").0["grade"], "ok");
        let left = children(&desk.home());
        assert!(left.iter().all(|path| !path.display().to_string().contains("doctor")), "{left:?}");
    }
}

#[test]
fn a_home_that_root_cannot_act_in_is_refused_through_sudo_and_doctor_says_so() {
    let Some(()) = have("bindfs") else { return };
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    fuse_home(&desk);
    let home = desk.host.researcher().dir.display().to_string();
    let data = desk.host.tmp().join("safe");
    fs::create_dir_all(data.join("projx")).unwrap();
    std::os::unix::fs::chown(data.join("projx"), Some(desk.owner()), None).unwrap();
    desk.host.policy(&format!("[data]\nroot = \"{}\"\n", data.display()));
    desk.sh(&["--project", "projx"], "true").refuses(125, &[&home, "home directory"]);
    let (found, result) = found_by_doctor(&desk, "home");
    assert_eq!((found["grade"].as_str(), result.as_str()), (Some("refused"), "refused"), "{found}");
    assert!(found["found"].as_str().is_some_and(|text| text.contains(&home)), "{found}");
}

#[test]
fn what_is_known_of_a_run_outlives_the_login_that_started_it() {
    for caller in [Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let session = desk.host.tmp().join("session");
        fs::create_dir(&session).unwrap();
        std::os::unix::fs::chown(&session, Some(desk.owner()), None).unwrap();
        let script = "mkdir /scratch/a; : > /safe_outputs/ready; sleep 100";
        let call = format!(
            "export CES_TEST={} XDG_RUNTIME_DIR={}; exec {} run localhost/demo /bin/sh -c '{script}'",
            desk.host.token(),
            session.display(),
            env!("CARGO_BIN_EXE_ces")
        );
        let mut login = as_researcher(&desk, &call).spawn().unwrap();
        wait_until("the payload runs", || desk.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
        // All of it at once, as a host does that is told to end a session.
        for process in desk.host.processes() {
            let pid = process.split(' ').next().unwrap().parse().unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
        login.wait().unwrap();
        fs::remove_dir_all(&session).unwrap();
        wait_until("all of it is gone", || desk.host.processes().is_empty());
        assert_eq!(desk.named("scratch_").len(), 1);
        Ran::from(
            as_researcher(&desk, &format!("unset XDG_RUNTIME_DIR; {} images", env!("CARGO_BIN_EXE_ces"))).output(),
        )
        .exits(0);
        assert_eq!(desk.named("scratch_"), Vec::<std::path::PathBuf>::new(), "{caller:?}");
        assert_eq!(desk.record()["state"], "interrupted");
    }
}
