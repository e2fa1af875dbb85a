//! A researcher who would hold up what root's process does for them: it holds locks that everybody waits for, and keeps deadlines.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::attack::Attack;
use crate::support::terminal::Terminal;
use crate::support::{PATIENCE, Ran, children, skip, wait_until};

/// A verb that waits for its standard input, before it does anything.
const WAITS: &str = "exec sudo -n $CES pull --username me --password-stdin registry.invalid/image";

/// A field of a process's status (proc_pid_status(5)).
fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

/// A field of its state, counted from 1 (proc_pid_stat(5)).
fn stat(pid: i32, field: usize) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').nth(field - 3).unwrap_or_default().to_owned()
}

/// All processes.
fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// This process, and all below it.
fn below(top: i32) -> impl Iterator<Item = i32> {
    processes().filter(move |pid| {
        let mut above = *pid;
        while above > 1 && above != top {
            above = stat(above, 4).parse().unwrap_or(0);
        }
        above == top
    })
}

/// The process of `ces` below this one, once it has become the researcher.
#[track_caller]
fn ces_below(top: i32) -> i32 {
    let program = Path::new(env!("CARGO_BIN_EXE_ces"));
    let find = || {
        // Its children come later.
        below(top)
            .filter(|pid| {
                let is_ces = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
                is_ces && status(*pid, "Uid:").split_whitespace().nth(1).is_some_and(|effective| effective != "0")
            })
            .min()
    };
    let mut found = None;
    wait_until("ces is there", || {
        found = find();
        found.is_some()
    });
    found.expect("ces")
}

/// The process that continues `ces`, by what it holds (a pidfd: proc_pid_fdinfo(5)).
fn continues(ces: i32) -> Option<i32> {
    processes().find(|pid| {
        let is_named = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ces-continues");
        let held = fs::read_to_string(format!("/proc/{pid}/fdinfo/3")).unwrap_or_default();
        is_named
            && held.lines().any(|line| line.strip_prefix("Pid:").is_some_and(|held| held.trim() == ces.to_string()))
    })
}

/// A program that is ended with the test.
struct Started(Child);

impl Started {
    fn new(mut command: Command) -> Self {
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It waits for this to be closed.
        self.0.stdin.take();
        self.0.wait().ok();
    }
}

#[test]
fn keys_and_job_control_do_not_stop_it_whatever_it_does() {
    let Some(attack) = Attack::new() else { return };
    let mut terminal = Terminal::start(&attack.script(WAITS));
    let ces = ces_below(terminal.pid().as_raw());
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        let blocked = u64::from_str_radix(&status(ces, "SigBlk:"), 16).unwrap();
        assert!(blocked >> (signal as i32 - 1) & 1 == 1, "{signal}");
    }
    terminal.types("\x1a");
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        kill(Pid::from_raw(ces), signal).unwrap();
    }
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        assert_ne!(stat(ces, 3), "T", "it is stopped");
    }
    // sudo, which is not, goes on with this.
    kill(terminal.pid(), Signal::SIGCONT).unwrap();
    attack.desk.host.clear();
    terminal.finish();
}

#[test]
fn stopped_from_outside_again_and_again_it_keeps_its_deadline() {
    let Some(attack) = Attack::new() else { return };
    let command = attack.script("exec sudo -n $CES run --timeout 2s localhost/demo sleep 1000");
    let mut run = Started::new(command);
    let ces = ces_below(run.pid());
    wait_until("there is a process that continues it", || continues(ces).is_some());
    let other = continues(ces).unwrap();
    assert_eq!(status(other, "Uid:").split_whitespace().nth(1), Some("0"), "nobody but root may end it");
    assert_ne!(stat(other, 6), stat(ces, 6), "it is in another session");
    let (began, mut stops) = (Instant::now(), 0);
    let is_over = || matches!(&*stat(ces, 3), "" | "Z");
    // As root, which is who sends what a batch system was asked to send.
    while !is_over() && began.elapsed() < PATIENCE {
        stops += u32::from(kill(Pid::from_raw(ces), Signal::SIGSTOP).is_ok());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_over() && stops > 2, "after {stops} stops it is {}", stat(ces, 3));
    // sudo stops when what it started does, and is the researcher's to continue.
    while run.0.try_wait().unwrap().is_none() {
        below(run.pid()).for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(attack.record()["ended"], "deadline passed", "{}", attack.record());
    wait_until("nothing continues what is over", || {
        continues(ces).is_none() && !Path::new(&format!("/proc/{other}")).exists()
    });
}

#[test]
fn a_supervisor_of_its_own_is_continued_as_well() {
    let Some(attack) = Attack::new() else { return };
    let id = attack.sh("ces run -d --timeout 3s localhost/demo sleep 1000").exits(0).trim().to_owned();
    let journal = fs::read_to_string(attack.tmp("ces/run").join(&id).join("job.json")).unwrap();
    let journal: serde_json::Value = serde_json::from_str(&journal).unwrap();
    let ces = i32::try_from(journal["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(ces), Signal::SIGSTOP).unwrap();
    wait_until("the run is over", || !attack.tmp("ces/run").join(&id).exists());
    assert_eq!(attack.record()["ended"], "deadline passed", "{}", attack.record());
}

#[test]
fn who_yields_to_everybody_does_so_with_the_payload_and_not_with_ces() {
    let Some(attack) = Attack::new() else { return };
    let yields = "nice -n 19 ionice --class idle chrt --idle 0";
    let waits = Started::new(attack.script(&WAITS.replace("exec", &format!("exec {yields}"))));
    let ces = ces_below(waits.pid());
    // Nice value and policy (proc_pid_stat(5)).
    assert_eq!((stat(ces, 19), stat(ces, 41)), ("0".to_owned(), "0".to_owned()));
    let ran = attack.sh(&format!("{yields} sudo -n $CES run localhost/demo cat /proc/self/stat"));
    let of_payload =
        ran.exits(0).rsplit_once(") ").map(|(_, after)| after.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let of_payload = of_payload.unwrap();
    assert_eq!((&*of_payload[19 - 3], &*of_payload[41 - 3]), ("19", "5"), "SCHED_IDLE, as the researcher chose");
}

/// A control group of the test's, in the first tree that has a freezer.
struct Group(PathBuf);

impl Group {
    fn new(owner: u32) -> Option<Self> {
        let trees = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let tree = trees.iter().map(Path::new).find(|tree| tree.join("cgroup.procs").exists())?;
        let group = Self(tree.join(format!("ces-test-held-up-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        for file in ["", "cgroup.procs"] {
            chown(group.0.join(file), Some(owner), Some(owner)).ok()?;
        }
        Some(group)
    }

    fn has(&self, pid: i32) -> bool {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap().lines().any(|line| line == pid.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let began = Instant::now();
        while fs::remove_dir(&self.0).is_err() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn it_leaves_a_group_that_the_researcher_may_freeze_whatever_it_does() {
    let Some(attack) = Attack::new() else { return };
    let Some(group) = Group::new(attack.desk.owner()).or_else(|| skip("no control group can be made here")) else {
        return;
    };
    let waits = Started::new(attack.script(&format!("read go; {WAITS}")));
    // As systemd gives it to a researcher's scope; only root moves a process there from outside.
    let in_group = || below(waits.pid()).filter(|pid| group.has(*pid)).count();
    wait_until("the shell is there", || {
        below(waits.pid()).for_each(|pid| fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap_or_default());
        in_group() > 1
    });
    waits.0.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
    let ces = ces_below(waits.pid());
    wait_until("ces has left", || !group.has(ces));
    assert!(in_group() > 0, "what called it is there still");
}

#[test]
fn where_it_cannot_leave_the_callers_job_it_does_nothing() {
    let Some(attack) = Attack::new() else { return };
    // A group of root's, as a batch system makes one for a job and sends signals to: not the researcher's to freeze.
    let Some(group) = Group::new(0).or_else(|| skip("no control group can be made here")) else { return };
    let mut mount = attack.desk.host.command("/bin/sh");
    let read_only = "mount --make-rprivate / && for at in $(sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\) .* - cgroup2* .*/\\1/p' /proc/self/mountinfo); do
        mount -o remount,bind,ro $at || exit; done";
    assert!(mount.args(["-c", read_only]).status().unwrap().success());
    let job = |words: &str| {
        let mut script = attack.script(&format!("read go; exec sudo -n $CES {words}"));
        let mut started = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let top = started.id().cast_signed();
        wait_until("the shell is there", || {
            below(top).for_each(|pid| fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap_or_default());
            below(top).filter(|pid| group.has(*pid)).count() > 1
        });
        started.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Ran::from(started.wait_with_output())
    };
    for words in ["images", "prune", "run localhost/demo true"] {
        job(words).refuses(if words.starts_with("run") { 125 } else { 1 }, &["caller's job", "hint:", "read-only"]);
    }
}

#[test]
fn a_policy_of_real_time_that_only_root_gives_stays_whatever_else_was_chosen() {
    let Some(attack) = Attack::new() else { return };
    // No run: where the kernel divides real time among groups, none of it is for a new group.
    let waits = Started::new(attack.script(&format!("echo 500 > /proc/self/oom_score_adj; read go; {WAITS}")));
    let adjusted =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).is_ok_and(|text| text == "500\n");
    let shells = || below(waits.pid()).filter(adjusted).collect::<Vec<_>>();
    wait_until("the shell is there", || !shells().is_empty());
    for pid in shells() {
        assert!(Command::new("chrt").args(["--rr", "--pid", "1", &pid.to_string()]).status().unwrap().success());
    }
    waits.0.stdin.as_ref().unwrap().write_all(b"go\n").unwrap();
    let ces = ces_below(waits.pid());
    assert_eq!(stat(ces, 41), "2", "SCHED_RR");
    assert_eq!(fs::read_to_string(format!("/proc/{ces}/oom_score_adj")).unwrap().trim(), "0");
}

#[test]
fn who_never_reads_what_is_printed_holds_nobody_else_up() {
    const VERBS: [&str; 22] = [
        "run localhost/demo /bin/sh -c 'seq 100000'",
        "run -d localhost/demo true",
        "run localhost/demo no-such-program",
        "images",
        "inspect localhost/demo",
        "stack localhost/demo",
        "fsck",
        "prune",
        "rmi localhost/none",
        "pull oci:$HOME/none",
        "runs",
        "show last",
        "record last",
        "outputs last",
        "verify last",
        "precheck last",
        "report last",
        "rerun last",
        "request localhost/demo --reason why",
        "request list",
        "policy show",
        "doctor",
    ];
    let Some(attack) = Attack::new() else { return };
    attack.sh("ces run localhost/demo /bin/sh -c 'echo kept > /safe_outputs/a'").exits(0);
    // A pipe that is full already, with both streams in it: whatever ces says, it waits there.
    let stuck = |verb: &str| format!("ces {verb} > $HOME/full 2>&1 < /dev/null &");
    let verbs: String = VERBS.map(stuck).join("\n");
    let fill = "mkfifo $HOME/full; exec 9<>$HOME/full; timeout 1 dd if=/dev/zero of=$HOME/full bs=4096 2>/dev/null";
    let all = Started::new(attack.script(&format!("{fill}\n{verbs}\nread end; wait")));
    let is_ces = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("ces"));
    wait_until("all have begun", || below(all.pid()).filter(is_ces).count() > VERBS.len() / 2);
    // They come to where they wait one by one; meanwhile and afterwards another works.
    for _ in 0..4 {
        for verb in ["images", "run localhost/demo true", "runs", "request list", "prune", "policy show"] {
            attack.other(&format!("ces {verb}")).exits(0);
        }
    }
    let waiting = below(all.pid()).filter(is_ces).count();
    attack.desk.host.clear();
    assert!(waiting > VERBS.len() / 2, "{waiting} are still there: most of them have something to say");
}

#[test]
fn nobody_waits_for_what_a_researcher_can_lock() {
    let Some(attack) = Attack::new() else { return };
    attack.policy("[images]\napproved = \"/etc/ces/approved.toml\"");
    let list = attack.desk.host.inside(Path::new("/etc/ces/approved.toml"));
    fs::write(&list, "").unwrap();
    let first = attack.sh("ces images --json").exits(0).to_owned();
    let images: serde_json::Value = serde_json::from_str(&first).unwrap();
    let digest = images[0]["manifest"].as_str().unwrap().to_owned();
    // Whatever they can open, directories above all.
    let script = "for f in /etc/ces /etc/ces/* /etc/ces/.lock /var/lib/ces /var/lib/ces/* /var/log/ces /var/log/ces/* /run/ces* $(find /sys/fs/cgroup -maxdepth 3 -type d | head -n 60); do
        flock -x \"$f\" sleep 1000 2>/dev/null & done; echo all; read end; kill $(jobs -p)";
    let locks = Started::new(attack.script(script));
    wait_until("something is locked", || {
        below(locks.pid())
            .any(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep"))
    });
    for round in 0..2 {
        let words = ["approve", "add", &format!("lab/tool@{digest}"), "--project", "*", "--until", "2099-01-01"];
        let mut add = attack.desk.host.ces_as_root();
        add.args(if round == 0 { &words[..] } else { &["approve", "list"] });
        let (ran, is_late) = attack.within(Duration::from_secs(10), add);
        assert!(!is_late && ran.code == Some(0), "{ran:?}");
        attack.other("ces run localhost/demo true").exits(0);
    }
    attack.desk.host.clear();
}

#[test]
fn want_of_memory_ends_a_researchers_program_before_the_ces_of_root() {
    let Some(attack) = Attack::new() else { return };
    let first = "echo 500 > /proc/self/oom_score_adj && ";
    let ran = attack.sh(&format!("{first}exec sudo -n $CES run localhost/demo cat /proc/self/oom_score_adj"));
    assert_eq!(ran.exits(0).trim(), "500", "{ran:?}");
    let waits = Started::new(attack.script(&format!("{first}{WAITS}")));
    let ces = ces_below(waits.pid());
    assert_eq!(fs::read_to_string(format!("/proc/{ces}/oom_score_adj")).unwrap().trim(), "0");
}

#[test]
fn a_pull_is_in_the_audit_log_before_it_says_anything() {
    let Some(attack) = Attack::new() else { return };
    // Something to be said: a health check, which is not used.
    let config = serde_json::json!({"Cmd": ["/bin/true"], "Healthcheck": {"Test": ["CMD", "true"]}});
    let layout = crate::support::layout::with_config(&attack.home("layout"), "odd", &config);
    let fill = "mkfifo $HOME/full; exec 9<>$HOME/full; timeout 1 dd if=/dev/zero of=$HOME/full bs=4096 2>/dev/null";
    let pull = format!("{fill}; exec sudo -n $CES pull oci:{}:odd --name odd > $HOME/full 2>&1", layout.display());
    let pulls = Started::new(attack.script(&pull));
    let is_there = || attack.sh("ces images").exits(0).contains("localhost/odd");
    wait_until("the image is there", is_there);
    let log = |what: &str| {
        let logs = children(&attack.tmp("ces/log/audit"));
        logs.iter().any(|path| {
            fs::read_to_string(path)
                .is_ok_and(|text| text.lines().any(|line| line.contains(what) && line.contains("pull")))
        })
    };
    wait_until("the line is there", || log("localhost/odd"));
    let still = below(pulls.pid())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("ces")));
    assert!(still.count() > 0, "it waits to be read");
    attack.desk.host.clear();
}
