//! Bundles under other runtimes, and a real image: Debian with Python and numpy in three layers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::support::runtimes::{RUNTIMES, both_are_here};
use crate::support::{Host, Ran, fixtures, have, python_layout};

#[test]
fn a_bundle_runs_under_crun_and_runc_with_the_same_output() {
    let Some(host) = Host::with_demo() else { return };
    let Some(()) = both_are_here() else { return };
    let script = "id -u; id -g; ip -o link | wc -l; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /safe_data/ward.csv
        echo $HOME $TMPDIR; hostname; ls -d /scratch /safe_outputs; ulimit -c; ! echo x 2>/dev/null > /proc/sysrq-trigger
        chroot / true 2>/dev/null || echo refused; unshare -r true 2>/dev/null || echo refused; exit 7";
    let options = ["--hostname", "analysis"];
    let ours = host.sh(&options, script);
    ours.exits(7);
    let bundle = host.bundle("bundle", &options, "localhost/demo", &["/bin/sh", "-c", script]);
    let found = host.home().join("bundle");
    assert!(found.join("config.json").is_file() && found.join("rootfs/bin/sh").exists());

    for runtime in RUNTIMES {
        assert_eq!(host.run_bundle(runtime, &bundle).exits(7), ours.stdout, "{runtime}");
    }
    host.nothing_is_left();
}

#[test]
fn the_spec_shown_is_the_one_in_the_bundle() {
    let Some(host) = Host::with_demo() else { return };
    let bundle = host.researcher().dir.join("bundle");
    Ran::from(host.ces().args(["bundle", "--hostname", "analysis", "localhost/demo"]).arg(&bundle).output()).exits(0);
    let shown = Ran::from(host.ces().args(["spec", "--hostname", "analysis", "localhost/demo"]).output());
    let shown: serde_json::Value = serde_json::from_str(shown.exits(0)).expect("JSON");
    let written = fs::read_to_string(host.home().join("bundle/config.json")).expect("config.json");
    let written: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    for part in ["ociVersion", "process", "hostname"] {
        assert_eq!(shown[part], written[part], "{part}");
    }
    for part in ["namespaces", "seccomp", "maskedPaths", "readonlyPaths", "uidMappings", "gidMappings"] {
        assert_eq!(shown["linux"][part], written["linux"][part], "{part}");
        assert!(!shown["linux"][part].is_null(), "{part} is there");
    }
    assert!(host.records().is_empty(), "neither is a run");
}

#[test]
fn numpy_computes_on_safe_data_and_the_output_is_the_researchers() {
    let Some(host) = Host::new() else { return };
    let Some(layout) = python_layout() else { return };
    host.pull(&layout, "python");
    let program = "import numpy, csv, os
nights = numpy.array([int(row['nights']) for row in csv.DictReader(open('/safe_data/ward.csv'))])
a = numpy.random.default_rng(1).random((200, 200))
assert numpy.allclose(a @ numpy.linalg.inv(a), numpy.eye(200))
open('/safe_outputs/mean.txt', 'w').write(f'{nights.mean():.2f}\\n')
print(os.getuid(), nights.sum())";
    let ran = host.run(&["localhost/python", "python3", "-c", program]);
    assert_eq!(ran.exits(0), "0 9\n");
    assert_eq!(host.output("mean.txt"), "3.00\n");
    let owner = fs::metadata(host.outputs().join("mean.txt")).expect("the output");
    assert_eq!((owner.uid(), owner.gid()), (host.researcher().uid.as_raw(), host.researcher().gid.as_raw()));
    host.nothing_is_left();
}

#[test]
fn pythons_threads_processes_and_shared_memory_work() {
    let Some(host) = Host::new() else { return };
    let Some(layout) = python_layout() else { return };
    host.pull(&layout, "python");
    let program = "import multiprocessing as m, threading, sqlite3, tempfile, socket, subprocess
from multiprocessing import shared_memory
with m.Pool(2) as pool: assert pool.map(abs, [-1, -2]) == [1, 2]
s = shared_memory.SharedMemory(create=True, size=1 << 20); s.close(); s.unlink()
t = threading.Thread(target=lambda: None); t.start(); t.join()
d = sqlite3.connect(tempfile.mktemp()); d.execute('pragma journal_mode=wal'); d.execute('create table t(x)'); d.commit()
l = socket.create_server(('127.0.0.1', 0)); socket.create_connection(l.getsockname())
assert tempfile.gettempdir() == '/scratch'
print(subprocess.check_output(['uname', '-s'], text=True), end='')";
    let ran = host.run(&["localhost/python", "python3", "-c", program]);
    assert_eq!(ran.exits(0), "Linux\n");
}

/// Lists every path that root without capabilities can see: type, mode, owner, size, seconds, link target; then digests.
/// What it cannot read it leaves out: directories of other users, in both listings.
const LISTING: &str = "cd /
own='( -path ./proc -o -path ./sys -o -path ./dev -o -path ./safe_data -o -path ./safe_outputs -o -path ./scratch
    -o -path ./etc/hosts -o -path ./etc/hostname -o -path ./etc/resolv.conf )'
set -f
find . $own -prune -o -type d -printf '%p %y %m %U %G\\n' -o -printf '%p %y %m %U %G %s %n %Ts %l\\n' 2>/dev/null
find . $own -prune -o -type f -readable -exec sha256sum {} + 2>/dev/null
true";

#[test]
fn an_ordinary_image_unpacks_as_umoci_unpacks_it_file_by_file() {
    let Some(host) = Host::new() else { return };
    let Some(layout) = python_layout() else { return };
    let Some(()) = have("umoci") else { return };
    host.pull(&layout, "python");
    let ours = host.run(&["localhost/python", "/bin/sh", "-c", LISTING]);
    ours.exits(0);

    let peer = tempfile::tempdir_in(fixtures()).expect("a directory");
    let unpacked = peer.path().join("bundle");
    let image = format!("{}:python", layout.display());
    Ran::from(Command::new("umoci").args(["unpack", "--image", &image]).arg(&unpacked).output()).exits(0);
    // What ces leaves out on purpose: set-user-ID and set-group-ID bits mean nothing in its containers.
    let strip = ["-xdev", "-type", "f", "-perm", "/6000", "-exec", "chmod", "ug-s", "{}", "+"];
    Ran::from(Command::new("find").arg(unpacked.join("rootfs")).args(strip).output()).exits(0);
    // The image's own setpriv takes the capabilities away that the payload does not have either.
    let mut command = Command::new("chroot");
    command.arg(unpacked.join("rootfs")).args(["/usr/bin/setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]);
    command.args(["/bin/sh", "-c", LISTING]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let theirs = Ran::from(command.output());
    theirs.exits(0);

    let differences = differences(&by_path(&ours.stdout), &by_path(&theirs.stdout));
    assert!(ours.stdout.lines().count() > 5_000, "the listing is whole: {}", ours.stdout.lines().count());
    assert!(
        differences.is_empty(),
        "{} differences (ours, theirs), the first:\n{}",
        differences.len(),
        differences[..differences.len().min(20)].join("\n")
    );
}

#[test]
fn zstd_layers_unpack_to_the_same_files_as_gzip_layers() {
    let Some(host) = Host::new() else { return };
    let Some(layout) = python_layout() else { return };
    host.pull(&layout, "python");
    host.pull(&layout, "python-zstd");
    let listings: Vec<Ran> = ["python", "python-zstd"]
        .iter()
        .map(|tag| host.run(&[&format!("localhost/{tag}"), "/bin/sh", "-c", LISTING]))
        .collect();
    let differences = differences(&by_path(listings[0].exits(0)), &by_path(listings[1].exits(0)));
    assert!(differences.is_empty(), "{differences:?}");
}

/// Lines by what they describe: `.` begins a file's entry, and a path ends a digest's line.
fn by_path(listing: &str) -> BTreeMap<(bool, &str), &str> {
    fn key(line: &str) -> (bool, &str) {
        match line.split_once("  ") {
            Some((_, path)) if !line.starts_with('.') => (true, path),
            _ => (false, line.split(' ').next().unwrap_or_default()),
        }
    }
    listing.lines().map(|line| (key(line), line)).collect()
}

fn differences(ours: &BTreeMap<(bool, &str), &str>, theirs: &BTreeMap<(bool, &str), &str>) -> Vec<String> {
    let mut found = Vec::new();
    for (key, line) in ours {
        match theirs.get(key) {
            Some(other) if other == line => {}
            other => found.push(format!("- {line}\n+ {}", other.copied().unwrap_or("not there"))),
        }
    }
    found.extend(
        theirs.iter().filter(|(key, _)| !ours.contains_key(*key)).map(|(_, line)| format!("- not there\n+ {line}")),
    );
    found
}
