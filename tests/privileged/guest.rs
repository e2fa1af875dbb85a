//! What only a host of one's own can show, for it changes the host: batch systems, NFS, switches of the kernel, no systemd.
//! `scripts/test-vm` runs these in its guest, one after the other.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Once;

use serde_json::Value;

use crate::support::callers::{Caller, Desk};
use crate::support::{PATIENCE, Ran, WARD_CSV, demo_layout, wait_until};

mod quotas;

const CES: &str = env!("CARGO_BIN_EXE_ces");

/// Refuses to change a host that is somebody's.
fn of_the_guest() {
    let host = std::env::var("CES_HOST").unwrap_or_default();
    assert!(
        host == "vm" || host == "bare",
        "this test changes the settings of the host: it runs in the guest of scripts/test-vm alone"
    );
}

/// A script of root's on the guest itself.
#[track_caller]
fn root(script: &str) -> String {
    let ran = Ran::from(Command::new("/bin/sh").args(["-ec", script]).output());
    ran.exits(0).trim().to_owned()
}

/// A script of the researcher's, after a login.
fn researcher(desk: &Desk, script: &str) -> Command {
    let mut command = desk.host.command("runuser");
    command.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
    command.arg(format!("export CES_TEST={}; {script}", desk.host.token()));
    command
}

/// How `caller` calls `ces` in a shell of theirs.
fn ces(desk: &Desk) -> String {
    match desk.caller {
        Caller::Sudo => format!("sudo -n {CES}"),
        _ => CES.to_owned(),
    }
}

fn group(record: &Value) -> &str {
    record["enforced"]["cgroups"][0].as_str().unwrap()
}

const HOG: &str = "head -c 200m /dev/zero | tail";

/// Ends every `ces` of a test, as the kernel does that is out of memory.
fn kill_ces(desk: &Desk) {
    for process in desk.host.processes().iter().filter(|process| process.ends_with(" ces")) {
        let pid = process.split(' ').next().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
    }
}

// --- groups that were given away ----------------------------------------------------------------------------------------

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn in_a_delegated_scope_a_run_stays_below_it_and_within_its_limits() {
    of_the_guest();
    for caller in [Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let scope = "systemd-run --user --scope --quiet -p Delegate=yes -p MemoryMax=60M --";
        let run = format!("{CES} run --memory 1g localhost/demo");
        let ran = Ran::from(researcher(&desk, &format!("{scope} sh -c '{run} true; cat /proc/self/cgroup'")).output());
        let own = ran.exits(0).trim().trim_start_matches("0::").to_owned();
        let record = desk.record();
        let id = record["id"].as_str().unwrap();
        assert!(own.ends_with(".scope"), "whoever made room is back: {own}");
        assert_eq!(group(&record), format!("0::{own}/ces-{id}"));
        assert_eq!(record["enforced"]["limits"]["memory"], 60 << 20, "the tightest counts");
        let ran = Ran::from(researcher(&desk, &format!("{scope} {run} /bin/sh -c '{HOG}'")).output());
        assert!(ran.code == Some(137) && ran.stderr.contains("out of memory: limit 60 MiB"), "{ran:?}");
    }
    let Some(desk) = Desk::with_demo(Caller::Root) else { return };
    let mut command = desk.host.command("systemd-run");
    command.args(["--scope", "--quiet", "-p", "Delegate=yes", "-p", "MemoryMax=60M", "--", CES, "run"]);
    command.args(["localhost/demo", "true"]).env("HOME", "/root").env("CES_ROOT", desk.host.tmp().join("ces"));
    Ran::from(command.output()).exits(0);
    let record = desk.record();
    assert!(group(&record).starts_with("0::/system.slice/run-"), "{record}");
    assert_eq!(record["enforced"]["limits"]["memory"], 60 << 20);
}

/// Starts a batch system of one node, whose jobs have limits of memory and processors.
fn slurm() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Its name service looks for an address that is not loopback's.
        root(
            "modprobe dummy; ip link show dummy0 >/dev/null 2>&1 || ip link add dummy0 type dummy
            ip addr replace 10.99.0.1/24 dev dummy0; ip link set dummy0 up
            sed -i /ces-guest/d /etc/hosts; echo 10.99.0.1 ces-guest >>/etc/hosts
            mkdir -p /var/spool/slurmctld /var/spool/slurmd
            cat >/etc/slurm/slurm.conf <<END
ClusterName=ces
SlurmctldHost=ces-guest
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
KillWait=5
NodeName=ces-guest CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
END
            printf 'CgroupPlugin=cgroup/v2\\nConstrainCores=yes\\nConstrainRAMSpace=yes\\nConstrainSwapSpace=yes\\n' \\
                >/etc/slurm/cgroup.conf
            systemctl start munge slurmctld slurmd",
        );
        wait_until("the node is idle", || {
            Command::new("sinfo").args(["-h", "-o", "%t"]).output().is_ok_and(|said| said.stdout.starts_with(b"idle"))
        });
    });
}

/// The job's group, from that of a run in it.
fn job_of(group: &str) -> &str {
    let job = group.split_inclusive('/').find(|part| part.starts_with("job_"));
    job.unwrap_or_else(|| panic!("no group of a batch job: {group}"))
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn in_a_batch_job_a_run_stays_in_it_and_the_jobs_limits_hold() {
    of_the_guest();
    slurm();
    for caller in [Caller::Sudo, Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let job = format!("cd /; srun --ntasks=1 --mem=100 {} run --memory 1g localhost/demo", in_namespace(&desk));
        let ran = Ran::from(researcher(&desk, &format!("{job} id -u")).output());
        assert_eq!(ran.exits(0).trim(), "1000", "{caller:?}: {ran:?}");
        let record = desk.record();
        job_of(group(&record));
        if caller == Caller::Sudo {
            let limits = &record["enforced"]["limits"];
            assert_eq!(
                (&limits["memory"], &record["warnings"]),
                (&Value::from(100 << 20), &serde_json::json!([])),
                "{record}"
            );
            assert!(limits["pids"].as_u64().is_some_and(|limit| limit > 0), "the batch system divides none: {limits}");
        } else {
            // Slurm gives nothing of a job's group to its user.
            assert!(record["warnings"].to_string().contains("\"no resource limits"), "{record}");
        }
        let ran = Ran::from(researcher(&desk, &format!("{job} /bin/sh -c '{HOG}'")).output());
        let said = if caller == Caller::Sudo { "out of memory: limit 100 MiB" } else { "out of memory: the group" };
        assert!(ran.code != Some(0) && ran.stderr.contains(said), "{caller:?}: {ran:?}");
        if caller != Caller::Sudo {
            desk.host.policy("[limits]\nrequired = true\n");
            let ran = Ran::from(researcher(&desk, &format!("{job} true")).output());
            assert!(ran.stderr.contains("limits.required") && ran.code == Some(125), "{ran:?}");
        }
    }
}

/// `ces` for a job: the batch system starts it outside the test's mount namespace, and it goes there first.
fn in_namespace(desk: &Desk) -> String {
    let wrapper = desk.host.tmp().join("enter");
    let holder = desk.host.inside(Path::new("/")).display().to_string();
    let namespace = holder.trim_end_matches("/root/").trim_end_matches("/root").to_owned() + "/ns/mnt";
    let home = desk.host.researcher().dir.display();
    let back = format!("runuser --user {} -- env HOME={home}", desk.host.researcher().name);
    let script = format!("#!/bin/sh\nexec sudo -n nsenter --mount={namespace} {back} {} \"$@\"\n", ces(desk));
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = format!("{} ALL=(root) NOPASSWD: /usr/bin/nsenter\n", desk.host.researcher().name);
    fs::write("/etc/sudoers.d/enter", line).unwrap();
    wrapper.display().to_string()
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_batch_job_that_is_cancelled_ends_its_run_and_the_next_command_leaves_nothing_of_it() {
    of_the_guest();
    slurm();
    for caller in [Caller::Sudo, Caller::UserWithSubids] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        let script = "cd /; sbatch --parsable --ntasks=1 --mem=100 --output=/dev/null --wrap";
        let run = format!("{} run localhost/demo sleep 1000", in_namespace(&desk));
        let job = Ran::from(researcher(&desk, &format!("{script} '{run}'")).output()).exits(0).trim().to_owned();
        wait_until("the run has its scratch", || desk.named("scratch_").len() == 1);
        wait_until("its payload runs", || desk.host.processes().iter().any(|process| process.ends_with(" sleep")));
        Ran::from(researcher(&desk, &format!("scancel {job}")).output()).exits(0);
        wait_until("the job is over", || root("squeue --noheader").is_empty());
        desk.ces(&["images"]).exits(0);
        assert_eq!(desk.named("scratch_"), Vec::<std::path::PathBuf>::new(), "{caller:?}");
        wait_until("no process is left", || desk.host.processes().is_empty());
        assert_eq!(root("find /sys/fs/cgroup -name 'ces-2*'"), "", "{caller:?}");
    }
}

/// While a researcher has what runs `ces` stopped, by a service that is root's, again and again.
#[track_caller]
fn ends_by_its_deadline(desk: &Desk, stop: &str) {
    let sleeps = || desk.host.processes().iter().any(|process| process.ends_with(" sleep"));
    wait_until("its payload runs", sleeps);
    let (began, mut stops) = (std::time::Instant::now(), 0);
    while sleeps() && began.elapsed() < 4 * PATIENCE {
        stops += u32::from(Ran::from(researcher(desk, stop).output()).code == Some(0));
    }
    assert!(!sleeps() && stops > 1, "after {stops} stops the payload is still there");
    wait_until("the record is closed", || desk.record()["state"] == "finished");
    assert_eq!(desk.record()["ended"], "deadline passed", "{}", desk.record());
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_session_that_its_researcher_has_stopped_by_logind_keeps_the_deadline_of_its_run() {
    of_the_guest();
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let who = &desk.host.researcher().name;
    let run = format!("{} run --timeout 20s localhost/demo sleep 1000", in_namespace(&desk));
    root(&format!(
        "systemd-run --quiet --collect --uid={who} -p PAMName=login --unit=ces-test-session /bin/sh -c 'cd /; {run}'"
    ));
    let session = || root(&format!("loginctl --no-legend list-sessions | awk '$3 == \"{who}\" {{ print $1 }}'"));
    wait_until("the session is there", || !session().is_empty());
    let session = session();
    // logind lets everybody send signals to all that is in a session of theirs, and sends them as root.
    ends_by_its_deadline(&desk, &format!("loginctl kill-session {session} --signal=STOP"));
    root(&format!("loginctl kill-session {session} --signal=CONT; loginctl terminate-session {session} || true"));
    wait_until("the session is over", || {
        root("systemctl show --value --property=ActiveState ces-test-session") == "inactive"
    });
    wait_until("no process is left", || desk.host.processes().is_empty());
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_batch_job_whose_researcher_has_it_stopped_keeps_the_deadline_of_its_run() {
    of_the_guest();
    slurm();
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let script = "cd /; sbatch --parsable --ntasks=1 --mem=100 --output=/dev/null --wrap";
    let run = format!("{} run --timeout 20s localhost/demo sleep 1000", in_namespace(&desk));
    let job = Ran::from(researcher(&desk, &format!("{script} '{run}'")).output()).exits(0).trim().to_owned();
    // Slurm sends it as root, to all of the job.
    ends_by_its_deadline(&desk, &format!("scancel --full --signal=STOP {job}"));
    Ran::from(researcher(&desk, &format!("scancel --full --signal=CONT {job}; scancel {job}")).output());
    wait_until("the job is over", || root("squeue --noheader").is_empty());
    wait_until("no process is left", || desk.host.processes().is_empty());
}

// --- homes on NFS -------------------------------------------------------------------------------------------------------

/// An NFS server on loopback that squashes root, and the researcher's home on it.
fn nfs_home(desk: &Desk) -> std::path::PathBuf {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        root("modprobe nfsd; mkdir -p /srv/nfs /var/lib/nfs/v4recovery; mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
            echo '/srv/nfs 127.0.0.1(rw,sync,root_squash,no_subtree_check,insecure)' >/etc/exports
            exportfs -r; rpc.mountd -N 3; rpc.nfsd -N 3 --lease-time 10 --grace-time 10 4");
    });
    let behind = Path::new("/srv/nfs").join(desk.host.token());
    let (home, there, owner) = (desk.host.researcher().dir.display().to_string(), behind.display(), desk.owner());
    root(&format!(
        "mkdir -p {there}/safe_data; printf '{WARD_CSV}' >{there}/safe_data/ward.csv; chown -R {owner} {there}; chmod -R go= {there}"
    ));
    let mount = format!("mount -t nfs4 127.0.0.1:{there} {home}");
    Ran::from(desk.host.command("/bin/sh").args(["-ec", &mount]).output()).exits(0);
    // Root has no rights there, or this is no test.
    assert_ne!(Ran::from(desk.host.command("ls").arg(&home).output()).code, Some(0));
    behind
}

/// Directories of the home whose names begin so, as the server has them.
fn at_home(behind: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let mut found = crate::support::children(behind);
    found.retain(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes())));
    found
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_home_on_nfs_that_squashes_root_works_through_sudo() {
    of_the_guest();
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let behind = nfs_home(&desk);
    let script =
        "cat /safe_data/ward.csv >/safe_outputs/copy; mkdir -p /scratch/a; mkdir /scratch/a/b /safe_outputs/d; : >/scratch/a/b/f; : >/safe_outputs/d/f
        chmod 0 /scratch/a/b /scratch/a /safe_outputs/d; echo x >/safe_data/made";
    desk.sh(&["--user", "33"], script).exits(0);
    let copy = at_home(&behind, "outputs_")[0].join("copy");
    assert_eq!(fs::read_to_string(&copy).unwrap(), WARD_CSV);
    for path in [&copy, &behind.join("safe_data/made")] {
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap()), desk.owner(), "{path:?}");
    }
    assert_eq!(at_home(&behind, "scratch_"), Vec::<std::path::PathBuf>::new());
    // With a bound that has to be watched, and with what the caller names.
    fs::write(behind.join("vars"), "NAME=value\n").unwrap();
    std::os::unix::fs::chown(behind.join("vars"), Some(desk.owner()), None).unwrap();
    desk.host.policy("[limits]\nscratch = { max = \"1M\" }\noutputs = { max = \"1M\" }\n");
    let env = format!("--env-file={}", desk.host.researcher().dir.join("vars").display());
    assert_eq!(desk.sh(&[&env], "echo $NAME; sleep 3").exits(0), "value\n");
    let ran = desk.sh(&[], "head -c 3m /dev/zero >/scratch/f; sleep 20");
    assert!(ran.code == Some(137) && ran.stderr.contains("scratch limit"), "{ran:?}");
    let doctor = desk.ces(&["doctor"]);
    assert!(doctor.exits(0).contains("\nenforced: "), "{doctor:?}");
    assert!(doctor.stdout.contains("a directory that a program makes unreadable ends the run"), "{doctor:?}");
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_home_on_nfs_works_for_a_user_whose_store_is_elsewhere_and_what_is_killed_is_swept() {
    of_the_guest();
    for caller in [Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::new(caller) else { return };
        let behind = nfs_home(&desk);
        let layout = format!("oci:{}:demo", demo_layout().display());
        let pulled = desk.ces(&["pull", &layout]);
        if pulled.code == Some(0) {
            desk.sh(&[], "true").refuses(125, &["--root"]);
        } else {
            pulled.refuses(1, &["--root", "local"]);
        }
        // Images on a local disk; running jobs and records stay in the home, where other machines see them too.
        let local = desk.host.tmp().join("local");
        fs::create_dir(&local).unwrap();
        std::os::unix::fs::chown(&local, Some(desk.owner()), None).unwrap();
        let ces = format!("XDG_DATA_HOME={} {CES}", local.display());
        let ran = |script: &str| Ran::from(researcher(&desk, &format!("cd /; {ces} {script}")).output());
        ran(&format!("pull {layout}")).exits(0);
        ran("run --name one localhost/demo cp /safe_data/ward.csv /safe_outputs/copy").exits(0);
        assert_eq!(fs::read_to_string(at_home(&behind, "outputs_")[0].join("copy")).unwrap(), WARD_CSV, "{caller:?}");
        let mut killed =
            researcher(&desk, &format!("cd /; {ces} run localhost/demo sleep 1000")).spawn().expect("a login");
        wait_until("its payload runs", || desk.host.processes().iter().any(|process| process.ends_with(" sleep")));
        kill_ces(&desk);
        killed.wait().unwrap();
        assert_eq!(at_home(&behind, "scratch_").len(), 1);
        ran("images").exits(0);
        assert_eq!(at_home(&behind, "scratch_"), Vec::<std::path::PathBuf>::new(), "{caller:?}");
        assert_eq!(at_home(&behind.join(".local/state/ces/run"), ""), [behind.join(".local/state/ces/run/.names")]);
    }
}

// --- hosts that say no --------------------------------------------------------------------------------------------------

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn a_kernel_that_says_no_is_refused_with_the_setting_and_doctor_says_the_same() {
    of_the_guest();
    let everybody = [Caller::Root, Caller::Sudo, Caller::UserWithSubids, Caller::User];
    let settings = [
        ("user.max_user_namespaces", &everybody[..]),
        ("user.max_net_namespaces", &everybody[..]),
        // Debian's: root is not bound by it.
        ("kernel.unprivileged_userns_clone", &everybody[2..]),
    ];
    for caller in everybody {
        let Some(desk) = Desk::with_demo(caller) else { return };
        for (setting, whom) in settings {
            let was = root(&format!("sysctl -n {setting}"));
            root(&format!("sysctl -qw {setting}=0"));
            let (ran, doctor) = (desk.sh(&[], "true"), desk.ces(&["doctor"]));
            root(&format!("sysctl -qw {setting}={was}"));
            if whom.contains(&caller) {
                ran.refuses(125, &[setting, "is 0", "sysctl", "ces doctor"]);
                assert!(doctor.code == Some(1) && doctor.stdout.contains("\nrefused: "), "{doctor:?}");
                let said = |text: &str| doctor.stdout.lines().any(|line| line.contains(setting) && line.contains(text));
                assert!(said("is 0") && said("as root: sysctl"), "{doctor:?}");
            } else {
                ran.exits(0);
                assert!(doctor.exits(0).contains("\nenforced: "), "{doctor:?}");
            }
        }
        desk.sh(&[], "true").exits(0);
    }
}

#[test]
#[ignore = "wants the guest of scripts/test-vm"]
fn traffic_with_disks_has_a_limit_where_the_controller_was_given_away() {
    of_the_guest();
    let policy = |required: bool| format!("[limits]\nio = {{ max = \"8M\" }}\nrequired = {required}\n");
    let limits = |desk: &Desk| {
        let record = desk.record();
        let io = record["enforced"]["limits"]["io"].as_object().cloned().unwrap_or_default();
        (io.values().filter_map(Value::as_u64).collect::<Vec<_>>(), record["warnings"].clone())
    };
    for caller in [Caller::Root, Caller::Sudo] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        desk.host.policy(&policy(true));
        // What io.max says while the payload runs; its own group is the root of all it sees.
        desk.sh(&[], "true").exits(0);
        assert_eq!(limits(&desk), (vec![8 << 20], serde_json::json!([])), "{caller:?}");
    }
    let Some(desk) = Desk::with_demo(Caller::UserWithSubids) else { return };
    desk.host.policy(&policy(false));
    desk.sh(&[], "true").exits(0);
    let (io, warnings) = limits(&desk);
    assert!(io.is_empty() && warnings.to_string().contains("no limit of io"), "{warnings}");
    desk.host.policy(&policy(true));
    desk.sh(&[], "true").refuses(125, &["no limit of io"]);
    // As the documentation says.
    let manager = format!("user@{}.service", desk.owner());
    root(&format!(
        "mkdir -p /etc/systemd/system/user@.service.d
        printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' >/etc/systemd/system/user@.service.d/io.conf
        systemctl daemon-reload; systemctl restart {manager}"
    ));
    let ran = desk.sh(&[], "true");
    root(&format!(
        "rm /etc/systemd/system/user@.service.d/io.conf; systemctl daemon-reload; systemctl restart {manager}"
    ));
    ran.exits(0);
    let (io, warnings) = limits(&desk);
    assert!(io == [8 << 20] && !warnings.to_string().contains("no limit"), "{io:?} {warnings}");
}

/// The guest started without systemd, by another program as PID 1.
mod bare {
    use super::*;

    #[test]
    #[ignore = "wants the guest of scripts/test-vm"]
    fn without_systemd_a_user_has_limits_in_a_group_that_was_given_to_them() {
        of_the_guest();
        assert!(!Path::new("/run/systemd/system").exists(), "for a host without systemd");
        for caller in [Caller::UserWithSubids, Caller::User] {
            let Some(desk) = Desk::with_demo(caller) else { return };
            let mine = "/sys/fs/cgroup/mine";
            root(&format!(
                "echo '+memory +cpu +pids' >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {mine}; chown -R {} {mine}
                echo 60M >{mine}/memory.max",
                desk.owner()
            ));
            let ces = |words: &str| {
                let name = &desk.host.researcher().name;
                let call = format!("{CES} run localhost/demo {words}; echo $?; cat /proc/self/cgroup");
                let script = format!(
                    "echo $$ >{mine}/cgroup.procs; exec runuser --login --shell /bin/sh {name} --command \"{call}\""
                );
                Ran::from(desk.host.command("/bin/sh").args(["-c", &script]).output())
            };
            let ran = ces("id -u");
            assert_eq!(ran.exits(0), "1000\n0\n0::/mine\n", "whoever made room is back: {ran:?}");
            let record = desk.record();
            assert_eq!(group(&record), format!("0::/mine/ces-{}", record["id"].as_str().unwrap()));
            // One of the image's groups is told where it has no id (`Caller::User`).
            let (limits, warnings) = (&record["enforced"]["limits"], record["warnings"].to_string());
            assert!(limits["memory"] == 60 << 20 && !warnings.contains("limit"), "{limits} {warnings}");
            let ran = ces(&format!("/bin/sh -c '{HOG}'"));
            assert!(ran.stderr.contains("out of memory: limit 60 MiB"), "{ran:?}");
            assert_eq!(root(&format!("find {mine} -name 'ces-*'")), "", "{caller:?}");
        }
    }
}
