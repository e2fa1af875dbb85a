use std::collections::BTreeSet;

use super::*;
use crate::rehearsal::advice::Advice;
use crate::rehearsal::difference::Difference;
use crate::rehearsal::findings;
use crate::rehearsal::report::{self, Conditions, Peaks};
use crate::run::observations::{
    Address, Lost, LostFiles, Missed, Observations, Program, Refused, Running, Seen, Size, Wanted,
};

fn seen<T>(what: T, by: &str, times: u64, last: u64) -> Seen<T> {
    Seen { what, by: BTreeSet::from([by.to_owned()]), times, first: 100, last }
}

fn program(line: &str) -> Program {
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    Program { path: format!("/usr/bin/{}", args[0]), args }
}

fn missed(path: &str, wanted: Wanted, errno: i32) -> Missed {
    Missed { path: path.to_owned(), wanted, errno }
}

fn lost(below: &str, example: &str, bytes: u64) -> Lost {
    Lost { below: below.to_owned(), files: 1, bytes, examples: vec![example.to_owned()] }
}

/// A script that installs what it lacks, tracks its experiment, looks for a GPU, writes into its home, and fetches a model last.
fn training() -> (Observations, LostFiles) {
    let python = "python3.11";
    let observed = Observations {
        names: vec![
            seen("pypi.example".to_owned(), "pip", 5, 2_000),
            seen("api.wandb.example".to_owned(), python, 2, 3_000),
            seen("huggingface.example".to_owned(), python, 4, 11_900),
        ],
        programs: vec![
            seen(program("pip install -q lifelines"), python, 1, 1_900),
            seen(program("uname -a"), python, 1, 4_100),
        ],
        addresses: vec![seen(Address::Socket("/var/run/nscd/socket".to_owned()), python, 6, 300)],
        missed: vec![
            seen(missed("/usr/share/model.bin", Wanted::Write, libc::EACCES), python, 1, 5_000),
            seen(missed("/dev/nvidia0", Wanted::Look, libc::ENOENT), python, 2, 4_000),
            seen(missed("/usr/lib/python3/torch", Wanted::Look, libc::ENOENT), python, 1, 4_000),
        ],
        refused: vec![seen(Refused { call: "clone3".to_owned(), errno: 38 }, python, 8, 500)],
        elapsed: 12_000,
        ..Observations::default()
    };
    let left = LostFiles {
        lost: vec![
            lost("/home/ann", "/home/ann/metrics.csv", 8_000),
            lost("/home/ann/.cache", "/home/ann/.cache/huggingface/version.txt", 1),
            lost("/tmp", "/tmp/tmpa1b2", 4_096),
        ],
        ..LostFiles::default()
    };
    (observed, left)
}

fn report(seen: &Observations, left: &LostFiles, exit: u8) -> Report {
    let found = findings::from(&Advice::load().unwrap(), seen, left, exit != 0);
    Report {
        version: 1,
        rehearsal: "r".to_owned(),
        image: "localhost/tool".to_owned(),
        digest: "sha256:1".to_owned(),
        command: Vec::new(),
        conditions: Conditions {
            ces: "0.1.0".to_owned(),
            kernel: "6.1.0".to_owned(),
            filter: "f".to_owned(),
            policy: "built-in".to_owned(),
            rules: "r".to_owned(),
            profile: "batch".to_owned(),
            memory: 8 << 30,
            cpus: 2.0,
            pids: 4096,
            time: None,
            light: false,
            not_as_inside: Vec::new(),
        },
        exit,
        ended: format!("exit {exit}"),
        seconds: 12.1,
        peak_memory: Some(310 << 20),
        peaks: Peaks { cpu_seconds: Some(9.3), pids: Some(12), ..Peaks::default() },
        ready: report::ready(exit, &found, false),
        counts: report::count(&found),
        findings: found,
        closed: Vec::new(),
        not_seen: Vec::new(),
        since_last: None,
    }
}

#[test]
fn the_report_of_a_training_script_that_fails_fits_one_screen() {
    let (seen, left) = training();
    let text = plain(&report(&seen, &left, 1));
    assert_eq!(text, include_str!("training.txt"));
    // As a terminal of eighty columns breaks lines.
    let rows: usize = text.lines().map(|line| line.chars().count().max(1).div_ceil(80)).sum();
    assert!(rows <= 32, "{rows} rows:\n{text}");
    assert!(text.lines().count() <= 25, "{} lines:\n{text}", text.lines().count());
}

#[test]
fn however_much_is_found_a_report_is_no_longer_than_three_screens() {
    let (mut seen, mut left) = training();
    let many = 0..500_u64;
    seen.names = many.clone().map(|n| self::seen(format!("{n}.example"), "curl", 1, 11_000 + n)).collect();
    seen.programs =
        many.clone().map(|n| self::seen(program(&format!("curl http://{n}.example")), "sh", 1, n)).collect();
    seen.missed = many.clone().map(|n| self::seen(missed(&format!("/{n}/x"), Wanted::Write, 13), "sh", 1, n)).collect();
    seen.refused = many.clone().map(|n| self::seen(Refused { call: n.to_string(), errno: 1 }, "sh", 1, n)).collect();
    left.lost = many.map(|n| lost(&format!("/opt/{n}"), &format!("/opt/{n}/r.csv"), 1)).collect();
    let mut report = report(&seen, &left, 1);
    let names = |n: u64| format!("looked up {n}.example");
    report.since_last = Some(Difference {
        ago: "1 day ago".to_owned(),
        digest: "sha256:1".to_owned(),
        mended: (0..500).map(names).collect(),
        new: (0..500).map(names).collect(),
    });
    report.findings.push(findings::of_running(&Running { count: 1, names: "sleep".to_owned() }));
    report.peaks.scratch = Size { files: 1, bytes: 1 };
    report.not_seen = vec!["500 things more than are held".to_owned()];
    let text = plain(&report);
    assert!(text.lines().count() <= 72, "{} lines", text.lines().count());
    assert!(text.contains("more (--json FILE has all)"), "{text}");
}
