//! The process that reads a layer is killed, or has no memory: that is told, and nothing is kept that would make the image look clean.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Host, Ran, children, python_layout};

/// What such a process is called (`argv[0]`).
const READER: &[u8] = b"ces: unpack\0";

/// The files in which facts of layers are kept.
fn kept(host: &Host) -> Vec<PathBuf> {
    let layers = children(&host.root().join("store/layers/sha256"));
    layers.into_iter().map(|layer| layer.join("facts.zst")).filter(|file| file.exists()).collect()
}

/// A process below `above` that reads a layer.
fn reader(above: u32) -> Option<Pid> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let is_below = |pid: u32| std::iter::successors(Some(pid), |pid| parent(*pid)).take(8).any(|pid| pid == above);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(READER)) && is_below(*pid)
    });
    found.map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()))
}

/// An image that takes some time to read, and the words that ask for its stack.
fn host() -> Option<(Host, [&'static str; 4])> {
    let host = Host::new()?;
    host.pull(&python_layout()?, "python");
    Some((host, ["stack", "--format", "json", "python"]))
}

#[test]
fn a_layer_whose_reader_is_killed_at_any_moment_is_told_and_never_looks_empty() {
    let Some((host, words)) = host() else { return };
    let whole = Ran::from(host.ces().args(words).output()).exits(0).to_owned();
    let (layers, mut killed) = (kept(&host).len(), 0);
    assert!(layers > 1);
    for round in 0..20_u64 {
        kept(&host).iter().for_each(|file| fs::remove_file(file).unwrap());
        let mut asked = host.ces();
        let asked = asked.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut asked = asked.spawn().unwrap();
        // Its answer may be longer than a pipe holds: whether it has ended is seen from the reader, and not waited for.
        for _ in 0..5000 {
            if let Some(reader) = reader(asked.id()) {
                sleep(Duration::from_millis(3 * round));
                kill(reader, Signal::SIGKILL).ok();
                break;
            }
            if kept(&host).len() == layers || asked.try_wait().unwrap().is_some() {
                break;
            }
            sleep(Duration::from_micros(200));
        }
        let said = Ran::from(asked.wait_with_output());
        if said.code == Some(0) {
            // It had read all of its layer before.
            assert_eq!(said.stdout, whole, "round {round}");
            continue;
        }
        killed += 1;
        said.refuses(1, &["nothing of the layer", "could be read"]);
        assert!(kept(&host).len() < layers, "round {round}");
    }
    assert!(killed > 3, "{killed} of 20");
    assert_eq!(Ran::from(host.ces().args(words).output()).exits(0), whole);
    assert!(children(&host.root().join("store/tmp")).is_empty());
}

#[test]
fn a_layer_that_cannot_be_read_for_want_of_memory_is_told_and_its_image_does_not_run_under_rules_for_stacks() {
    let Some((host, words)) = host() else { return };
    let whole = Ran::from(host.ces().args(words).output()).exits(0).to_owned();
    kept(&host).iter().for_each(|file| fs::remove_file(file).unwrap());
    host.policy("[images.limits]\nmemory = \"2M\"\n[images.stack]\nsecrets = \"report\"\n");
    Ran::from(host.ces().args(words).output()).refuses(1, &["nothing of the layer", "could be read"]);
    let ran = host.run(&["localhost/python", "true"]);
    assert!(ran.code == Some(125) && ran.stderr.contains("nothing of the layer"), "{ran:?}");
    // Neither facts nor a standing.
    assert_eq!(kept(&host), Vec::<PathBuf>::new());
    let standings = host.root().join("store/stacks");
    assert!(!standings.exists() || children(&standings).is_empty(), "{:?}", children(&standings));
    host.policy("");
    assert_eq!(Ran::from(host.ces().args(words).output()).exits(0), whole);
}
