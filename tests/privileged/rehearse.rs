//! `ces rehearse`: what a payload tried and did not get, and that it got the same as in a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::probe::{PROBE, each_host};
use crate::support::{Host, Ran, children, python_layout, wait_until};

#[test]
fn names_programs_and_files_are_told_with_who_wanted_them_and_what_to_do() {
    each_host(|host| {
        let script = "nslookup huggingface.example; echo 12345678 > /home/analyst/result.csv; echo x > /tmp/scratch;
            echo kept > /safe_outputs/kept; echo kept > /scratch/x; wget -q http://192.0.2.7/x; true";
        let rehearsal = host.rehearse_sh(&[], script);
        assert_eq!(rehearsal.ran.code, Some(1), "{rehearsal:?}");
        let name = rehearsal.found("missed", "name", "huggingface.example");
        assert!(name["what"].as_str().expect("words").contains("Hugging Face hub"), "{name}");
        assert!(name["fix"].as_str().expect("words").contains("HF_HUB_OFFLINE"), "{name}");
        assert_eq!(name["by"], serde_json::json!(["busybox"]), "{name}");
        rehearsal.found("missed", "address", "192.0.2.7 80");
        let lost = rehearsal.found("lost", "lost", "/home/analyst");
        assert_eq!(lost["times"], 1, "{lost}");
        assert!(lost["what"].as_str().expect("words").contains("/home/analyst/result.csv"), "{lost}");
        rehearsal.found("harmless", "lost", "/tmp");
        let told = rehearsal.all().iter().filter(|f| f["kind"] == "lost").count();
        assert_eq!(told, 2, "nothing of the outputs or of scratch is lost: {rehearsal:#?}");
        assert!(rehearsal.ran.stderr.contains("NOT READY: 1 will be lost, 2 wanted and not had"), "{rehearsal:?}");
        assert!(rehearsal.ran.stderr.contains("WILL BE LOST\n  1 file"), "{rehearsal:?}");
        assert_eq!(host.output("kept"), "kept\n");
        host.nothing_is_left();
    });
}

#[test]
fn an_image_that_lacks_nothing_is_ready_and_one_that_fails_is_told_why() {
    each_host(|host| {
        let ready = host.rehearse_sh(&[], "cat /etc/passwd > /safe_outputs/copy");
        assert_eq!(ready.ran.code, Some(0), "{ready:?}");
        assert_eq!((&ready.report["ready"], &ready.report["exit"]), (&Value::Bool(true), &Value::from(0)));
        assert!(ready.ran.stderr.contains("READY"), "{ready:?}");
        let failed = host.rehearse_sh(&[], "nslookup early.example; sleep 1; nslookup pypi.example || exit 3");
        assert_eq!((failed.ran.code, &failed.report["exit"]), (Some(1), &Value::from(3)), "{failed:?}");
        let why = failed.found("fails", "name", "pypi.example");
        assert_eq!(why["probably_why"], true, "{why}");
        failed.found("missed", "name", "early.example");
        // What a program goes on without is no obstacle, unless that is asked for.
        let missed = "nslookup early.example; true";
        assert_eq!(host.rehearse_sh(&[], missed).ran.code, Some(0));
        assert_eq!(host.rehearse_sh(&["--strict"], missed).ran.code, Some(1));
    });
}

#[test]
fn every_call_gets_the_answer_of_a_run_and_each_refusal_is_told() {
    each_host(|host| {
        let data = host.researcher().dir.join("synthetic");
        let here = host.home().join("synthetic");
        fs::create_dir(&here).expect("a directory");
        fs::copy(host.home().join("safe_data/probe"), here.join("probe")).expect("the probe");
        std::os::unix::fs::chown(&here, Some(host.researcher().uid.as_raw()), Some(host.researcher().gid.as_raw()))
            .expect("the researcher's own");
        let data = data.to_str().expect("a path");
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let calls = |text: &str| -> BTreeMap<String, i64> {
                let report: Value = serde_json::from_str(text).expect("the probe's report");
                let calls = report.as_array().expect("a list").iter();
                calls
                    .map(|c| (c["call"].as_str().expect("a name").to_owned(), c["errno"].as_i64().expect("a number")))
                    .collect()
            };
            for question in ["calls", "needed"] {
                let run = host.probe_run(options, image, &[question]);
                let words = [options, &["--data", data, image, PROBE, question]].concat();
                let rehearsal = host.rehearse(&words);
                assert!(rehearsal.report.is_object(), "{rehearsal:?}");
                assert_eq!(calls(&rehearsal.ran.stdout), calls(run.exits(0)), "{image} {question}");
                if question == "calls" {
                    for call in ["mount", "bpf", "ptrace", "unshare", "keyctl"] {
                        assert!(rehearsal.finding("call", call).is_some(), "{call}: {rehearsal:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn closed_paths_are_told_with_their_error_and_not_with_light() {
    let Some(host) = Host::with_demo() else { return };
    let script = "echo x > /bin/new; cat /etc/shadow; ls /dev/nvidia0; su root -c true; : > /safe_data/x; true";
    let whole = host.rehearse_sh(&[], script);
    let path = whole.found("missed", "path", "/bin/new");
    assert!(path["what"].as_str().expect("words").contains("wanted to write /bin/new (EACCES)"), "{path}");
    whole.found("missed", "absent", "/dev/nvidia0");
    let light = host.rehearse_sh(&["--light"], script);
    light.found("missed", "path", "/bin/new");
    assert!(light.finding("absent", "/dev/nvidia0").is_none(), "{light:?}");
    assert!(light.report["not_seen"].to_string().contains("--light"), "{light:?}");
    host.nothing_is_left();
}

/// The process that holds the listener of a rehearsal's filter, among those that `ces` started.
pub fn witness_of(ces: u32) -> Option<Pid> {
    let parent = |pid: u32| -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let of_ces =
        |pid: u32| std::iter::successors(Some(pid), |pid| parent(*pid).filter(|pid| *pid != 0)).any(|pid| pid == ces);
    let holds = |pid: u32| {
        let links = children(Path::new(&format!("/proc/{pid}/fd")));
        links.iter().any(|link| fs::read_link(link).is_ok_and(|to| to.as_os_str() == "anon_inode:seccomp notify"))
    };
    let all = children(Path::new("/proc")).into_iter().filter_map(|dir| dir.file_name()?.to_str()?.parse().ok());
    let found: Vec<u32> = all.filter(|pid| of_ces(*pid) && holds(*pid)).collect();
    // The container has no copy of it: that would keep calls waiting for ever when the witness is gone.
    assert!(found.len() <= 1, "{found:?}");
    found.first().and_then(|pid| i32::try_from(*pid).ok()).map(Pid::from_raw)
}

#[test]
fn without_its_witness_no_call_is_allowed_and_a_rehearsal_says_nothing_of_the_image() {
    each_host(|host| {
        let script = ": > /safe_outputs/ready; while [ ! -e /scratch/go ]; do :; done";
        let mut command = host.ces();
        command.args(["rehearse", "--timeout", "60s", "localhost/demo", "/bin/sh", "-c", script]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
        wait_until("the payload runs", || host.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
        let witness = witness_of(child.id()).expect("a witness");
        kill(witness, Signal::SIGKILL).expect("the witness is there");
        let ran = Ran::from(child.wait_with_output());
        assert_eq!(ran.code, Some(125), "{ran:?}");
        assert!(ran.stderr.contains("the witness of the rehearsal is gone"), "{ran:?}");
        assert!(!ran.stderr.contains("READY"), "{ran:?}");
        host.nothing_is_left();
    });
}

#[test]
fn a_local_archive_is_pulled_first_and_reports_are_written_in_three_forms() {
    let Some(host) = Host::new() else { return };
    let layout = format!("oci:{}:demo", crate::support::demo_layout().display());
    let markdown = host.researcher().dir.join("report.md");
    let words = ["--markdown", markdown.to_str().expect("a path"), &layout, "/bin/sh", "-c", "echo '<b>' > /a_b"];
    let rehearsal = host.rehearse(&words);
    assert_eq!(rehearsal.ran.code, Some(1), "{rehearsal:?}");
    let report = &rehearsal.report;
    assert!(report["digest"].as_str().expect("a digest").starts_with("sha256:"), "{rehearsal:?}");
    assert_eq!(report["conditions"]["filter"].as_str().map(str::len), Some(64), "{rehearsal:?}");
    let text = fs::read_to_string(host.home().join("report.md")).expect("a report");
    assert!(text.starts_with("### Rehearsal of "), "{text}");
    host.nothing_is_left();
}

#[test]
fn a_projects_data_is_refused_and_so_is_what_makes_no_sense() {
    let Some(host) = Host::with_demo() else { return };
    let project = host.inside(Path::new("/safe_data/projx"));
    if fs::create_dir_all(&project).is_err() {
        return;
    }
    host.rehearse(&["--data", "/safe_data/projx", "localhost/demo", "true"])
        .ran
        .refuses(3, &["is refused", "synthetic data"]);
    host.rehearse(&["--data", "/", "localhost/demo", "true"]).ran.refuses(3, &["is refused", "synthetic data"]);
    host.rehearse(&["--data", "/nowhere", "localhost/demo", "true"]).ran.refuses(2, &["no directory"]);
    host.rehearse(&["-d", "localhost/demo", "true"]).ran.refuses(2, &["detached"]);
    host.rehearse(&["localhost/none", "true"]).ran.refuses(125, &["localhost/none"]);
    assert!(
        children(&host.home()).iter().all(|path| !path.ends_with("report.json")),
        "nothing ran, so there is no report"
    );
}

#[test]
fn of_a_python_program_the_hosts_the_installer_and_the_lost_file_are_told() {
    let (Some(host), Some(layout)) = (Host::new(), python_layout()) else { return };
    host.pull(&layout, "python");
    let script = "import urllib.request as u, subprocess, sys
subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', 'lifelines'], stderr=subprocess.DEVNULL)
for host in ['files.pythonhosted.example', 'huggingface.example']:
    try: u.urlopen('http://' + host + '/')
    except OSError: pass
try: open('/usr/bin/new', 'w')
except OSError: pass
import numpy
u.urlopen('http://cran.lab.example/')";
    let rehearsal = host.rehearse(&["localhost/python", "python3", "-c", script]);
    assert_eq!(rehearsal.ran.code, Some(1), "{rehearsal:?}");
    assert_eq!(rehearsal.found("fails", "name", "cran.lab.example")["probably_why"], true);
    for name in ["files.pythonhosted.example", "huggingface.example"] {
        let by = &rehearsal.found("missed", "name", name)["by"];
        assert!(by[0].as_str().expect("a program").starts_with("python3"), "{by}");
    }
    // Its user is root, who may write there; the file is gone with the container.
    rehearsal.found("lost", "lost", "/usr/bin");
    let installers = rehearsal.all().iter().filter(|f| f["kind"] == "program" && f["verdict"] == "fails").count();
    assert_eq!(installers, 1, "{rehearsal:#?}");
    assert!(rehearsal.ran.stderr.split("NOT READY").nth(1).expect("a report").lines().count() < 40, "{rehearsal:?}");
    host.nothing_is_left();
}
