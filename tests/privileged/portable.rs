//! The same bundles under `ces run`, crun and runc: every call gets the same answer, and the facts are the same but for
//! those that are listed here with their reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::probe::{mounts, strings};
use crate::support::runtimes::{RUNTIMES, both_are_here};
use crate::support::schema::objections;
use crate::support::terminal::Terminal;
use crate::support::{Host, Ran};

/// Ways of running that differ in what the spec says.
const WAYS: [(&str, &[&str]); 7] = [
    ("localhost/demo", &[]),
    ("localhost/root", &[]),
    ("localhost/demo", &["--profile", "service"]),
    ("localhost/root", &["--profile", "service"]),
    ("localhost/root", &["--read-only", "--data-ro", "--tmpfs", "/work:size=1m,exec"]),
    ("localhost/demo", &["--user", "0", "--ulimit", "nofile=512:1024", "--ulimit", "nproc=100", "--workdir", "/tmp"]),
    ("localhost/demo", &["--memory", "128m", "--cpus", "0.5", "--pids-limit", "50", "--shm-size", "8m"]),
];

/// What every way has, so that host name and environment do not differ by the run's own id.
const ALIKE: [&str; 4] = ["--hostname", "analysis", "-e", "CES_TEST=1"];

/// A host for each kind of caller: by sudo, and an ordinary user.
fn hosts() -> impl Iterator<Item = Host> {
    let hosts = both_are_here().map(|()| [Host::with_probe(), Host::of_an_ordinary_user_with_probe()]);
    hosts.into_iter().flatten().flatten()
}

/// Error numbers by call.
fn by_call(report: &Value) -> BTreeMap<&str, i64> {
    let calls = report.as_array().expect("a report").iter();
    calls.map(|c| (c["call"].as_str().expect("a name"), c["errno"].as_i64().expect("a number"))).collect()
}

#[test]
fn every_call_of_the_attack_gets_the_same_answer_under_crun_and_runc() {
    for host in hosts() {
        for (number, (image, options)) in WAYS[..4].iter().enumerate() {
            let options = [&ALIKE, *options].concat();
            // What is refused, and what is not.
            for (which, least) in [("calls", 240), ("needed", 20)] {
                let ours = host.probe(&options, image, &[which]);
                let bundle = host.probe_bundle_of(&format!("{which}{number}"), &options, image, &[which]);
                for runtime in RUNTIMES {
                    let theirs = host.probe_bundle(runtime, &bundle);
                    assert!(by_call(&ours).len() > least);
                    // No difference is on any list: the two ways from the rules to a filter agree on every call.
                    assert_eq!(by_call(&ours), by_call(&theirs), "{image} {options:?}: {runtime}");
                }
            }
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn other_entries_into_the_kernel_are_closed_under_crun_and_runc_too() {
    let Some(host) = Host::with_probe() else { return };
    let Some(()) = both_are_here() else { return };
    for (number, entry) in [("39", "x32"), ("165", "x32"), ("520", "x32"), ("20", "int80"), ("21", "int80")] {
        let words = ["enter", number, entry];
        let ours = host.probe_run(&[], "localhost/root", &words);
        let bundle = host.probe_bundle_of(&format!("{entry}{number}"), &[], "localhost/root", &words);
        for runtime in RUNTIMES {
            let theirs = host.run_bundle(runtime, &bundle);
            // Killed or unknown: the filters of seccompiler kill a foreign architecture, libseccomp's kill as well, and
            // libseccomp kills an x32 call that seccompiler's answer as unknown.
            let closed = |ran: &Ran| matches!(ran.code, Some(159 | 139)) || ran.stdout == "-38\n";
            assert!(closed(&ours) && closed(&theirs), "{number} by {entry}: {ours:?} {runtime}: {theirs:?}");
        }
    }
}

/// Lines of the status that say when, not what; and those in which `ces run` and the others differ for a reason.
const STATUS: [(&str, &str); 18] = [
    ("Tgid", "ces run has a PID 1 of its own, which reaps: the payload is process 2"),
    ("Pid", "the same"),
    ("PPid", "the same"),
    ("NStgid", "the same"),
    ("NSpid", "the same"),
    ("NSpgid", "the same"),
    ("NSsid", "the same: it starts no session"),
    ("Groups", "ces run keeps the project's group; a bundle does not hold the host's groups"),
    ("FDSize", "the size of a table"),
    ("SigQ", "counts all processes of the user"),
    ("VmHWM", "a measure"),
    ("VmRSS", "a measure"),
    ("RssAnon", "a measure"),
    ("RssFile", "a measure"),
    ("VmPTE", "a measure"),
    ("VmStk", "a measure"),
    ("voluntary_ctxt_switches", "a measure"),
    ("nonvoluntary_ctxt_switches", "a measure"),
];

/// Facts that are compared by other tests, or differ for a reason.
const FACTS: [(&str, &str); 8] = [
    ("namespaces", "each run's own, by number"),
    ("mountinfo", "compared flag by flag"),
    ("status", "compared line by line"),
    ("init_status", "PID 1 is ces's own under ces run"),
    ("init_environment", "the same: it has none"),
    ("init_command", "the same"),
    ("processes", "the same: one more"),
    ("unix_sockets", "the engine's own, unnamed, in ces run"),
];

/// Facts that differ for an ordinary user whose image has a `USER` other than root.
const NESTED: [(&str, &str); 2] = [
    (
        "uid_map",
        "under ces run the payload has a user namespace of its own, in which it is the caller; runtimes have no such",
    ),
    ("gid_map", "the same"),
];

/// Whether one id alone is mapped, as in no bundle.
fn has_a_namespace_of_its_own(facts: &Value) -> bool {
    facts["uid_map"]
        .as_str()
        .is_some_and(|map| map.split_whitespace().collect::<Vec<_>>().get(1..) == Some(&["0", "1"]))
}

/// Flags of mounts that differ, and why; `true`: `ces run` has more.
const FLAGS: [(&str, &str, bool, &str); 9] = [
    ("/", "nosuid", true, "the spec has no flags for the root; ces mounts it itself"),
    ("/", "nodev", true, "the same"),
    ("a read-only path", "nosuid", true, "crun and runc bind /proc/sys and the like with ro alone"),
    ("a read-only path", "nodev", true, "the same"),
    ("a read-only path", "noexec", true, "the same"),
    ("a masked path", "nosuid", true, "directories of /sys are masked by ces itself, with every flag there is"),
    ("a masked path", "nodev", true, "the same"),
    ("a masked path", "noexec", true, "the same"),
    ("a masked path", "ro", false, "the null device is bound read-only by crun, writable by libcontainer"),
];

#[test]
fn the_probes_facts_are_the_same_under_crun_and_runc_but_for_a_list() {
    for host in hosts() {
        for (number, (image, options)) in WAYS.iter().enumerate() {
            let options = [&ALIKE, *options].concat();
            let way = format!("{image} {options:?}");
            let ours = host.probe(&options, image, &["facts"]);
            let spec = host.spec(&options, image);
            let bundle = host.probe_bundle_of(&format!("facts{number}"), &options, image, &["facts"]);
            for runtime in RUNTIMES {
                let theirs = host.probe_bundle(runtime, &bundle);
                let nested = has_a_namespace_of_its_own(&ours);
                assert_eq!(plain(&ours, nested), plain(&theirs, nested), "{way}: {runtime}");
                assert_eq!(status(&ours["status"]), status(&theirs["status"]), "{way}: {runtime}");
                let (ours, theirs) = (flags(&ours, &spec), flags(&theirs, &spec));
                assert_eq!(
                    ours.keys().collect::<Vec<_>>(),
                    theirs.keys().collect::<Vec<_>>(),
                    "{way}: {runtime}: places where something is mounted"
                );
                for (at, (kind, ours)) in &ours {
                    let theirs = &theirs[at].1;
                    let less = ours.difference(theirs).map(|flag| (flag, true));
                    let more = theirs.difference(ours).map(|flag| (flag, false));
                    for (flag, ces_has_it) in less.chain(more) {
                        let listed = FLAGS.iter().any(|(k, f, has, _)| k == kind && f == flag && *has == ces_has_it);
                        // What is bound into /dev carries the flags of /dev or none; a device has no use for any.
                        assert!(
                            listed || kind == "a device",
                            "{way}: {runtime}: {at} {flag}, ces has it: {ces_has_it}"
                        );
                    }
                }
            }
        }
        host.nothing_is_left();
    }
}

/// The facts that are to be the same as they stand.
fn plain(facts: &Value, nested: bool) -> BTreeMap<&str, Value> {
    let listed = |key: &str| FACTS.iter().any(|(name, _)| *name == key);
    let mut out: BTreeMap<&str, Value> = facts
        .as_object()
        .expect("facts")
        .iter()
        .filter(|(key, _)| !listed(key))
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    if nested {
        out.retain(|key, _| !NESTED.iter().any(|(name, _)| name == key));
    }
    // Streams are other pipes, and attempts to connect take other times.
    out.insert(
        "descriptors",
        facts["descriptors"].as_array().expect("a list").iter().map(|d| d["fd"].clone()).collect(),
    );
    let tried = |t: &Value| Value::from(vec![t["to"].clone(), t["errno"].clone()]);
    out.insert("connects", facts["connects"].as_array().expect("a list").iter().map(tried).collect());
    out
}

fn status(status: &Value) -> BTreeMap<&str, &str> {
    let lines = status.as_str().expect("a status").lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name, value.trim())).filter(|(name, _)| STATUS.iter().all(|(n, _)| n != name)).collect()
}

/// Place → what kind of place it is, and the flags of the mount that is seen there.
fn flags(facts: &Value, spec: &Value) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let of = |list: &str, at: &str| strings(&spec["linux"][list]).contains(&at);
    mounts(&facts["mountinfo"])
        .into_iter()
        .map(|mount| {
            let kind = match mount.at.as_str() {
                at if of("maskedPaths", at) => "a masked path",
                at if of("readonlyPaths", at) => "a read-only path",
                at if mount.kind == "devtmpfs" && at.starts_with("/dev/") => "a device",
                at => at,
            };
            let flags = mount.flags.iter().filter(|f| ["ro", "nosuid", "nodev", "noexec"].contains(&f.as_str()));
            (mount.at.clone(), (kind.to_owned(), flags.cloned().collect()))
        })
        .collect()
}

#[test]
fn every_spec_and_every_bundle_is_valid_by_the_schema_of_the_runtime_specification() {
    for host in [Host::with_probe(), Host::of_an_ordinary_user_with_probe()].into_iter().flatten() {
        host.policy("[mounts]\nallow = [{ host = \"/home\", access = \"ro\" }]\n");
        let extra = host.researcher().dir.join("extra");
        std::fs::create_dir(host.home().join("extra")).expect("a directory to bind");
        let volume = format!("{}:/extra:ro", extra.display());
        let mount = format!("type=bind,source={},destination=/more,readonly", extra.display());
        let more: [&[&str]; 4] = [
            &["-v", &volume],
            &["--mount", &mount, "--mount", "type=tmpfs,destination=/fast,tmpfs-size=1m"],
            &["--entrypoint", "[\"/bin/sh\", \"-c\", \"true\"]", "--env", "A=b"],
            &["--user", "1:1", "--hostname", "h", "--name", "n", "--timeout", "1h", "--read-only"],
        ];
        let ways = WAYS.iter().copied().chain(more.into_iter().map(|options| ("localhost/demo", options)));
        for (number, (image, options)) in ways.enumerate() {
            assert_eq!(objections(&host.spec(options, image)), None, "{image} {options:?}");
            if options.contains(&"--entrypoint") {
                continue;
            }
            host.bundle(&format!("valid{number}"), options, image, &["/bin/true"]);
            let written = host.home().join(format!("valid{number}/config.json"));
            let written = std::fs::read_to_string(written).expect("config.json");
            assert_eq!(objections(&serde_json::from_str(&written).expect("JSON")), None, "{image} {options:?}");
        }
    }
}

#[test]
fn a_bundle_with_a_terminal_is_a_session_under_crun_and_runc_too() {
    for host in hosts() {
        let bundle = host.bundle("session", &[&ALIKE[..], &["-t"]].concat(), "localhost/demo", &["sh"]);
        for runtime in RUNTIMES {
            let mut terminal = Terminal::start(&host.bundle_command(runtime, &bundle));
            terminal.shows("$ ");
            let said = terminal.says("tty; id -u; ls /proc/self/fd | wc -l");
            assert!(said.contains("/dev/pts/0\r\n1000\r\n"), "{runtime}: {said}");
            // Job control: Ctrl-C ends what the shell runs, and not the shell.
            terminal.types("sh -c 'echo beg\"\"un; exec sleep 100'\r");
            terminal.shows("begun\r\n");
            terminal.types("\x03");
            terminal.shows("$ ");
            terminal.types("exit 7\r");
            assert_eq!(terminal.finish().code(), Some(7), "{runtime}: {}", terminal.all());
        }
    }
}
