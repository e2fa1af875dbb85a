//! Files, mounts and devices, one by one: what the spec promises is what the kernel has, and what it has is promised.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::Ran;
use crate::support::probe::{Mounted, each_host, mounts, strings};

/// The seven devices, and the two ends of terminals that belong to the container alone.
const DEVICES: [&str; 7] = [
    "/dev/full c 1:7",
    "/dev/null c 1:3",
    "/dev/pts/ptmx c 5:2",
    "/dev/random c 1:8",
    "/dev/tty c 5:0",
    "/dev/urandom c 1:9",
    "/dev/zero c 1:5",
];

const FLAGS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

/// A list of paths of the spec.
fn paths<'a>(spec: &'a Value, name: &str) -> Vec<&'a str> {
    strings(&spec["linux"][name])
}

#[test]
fn every_masked_path_is_the_null_device_or_an_empty_directory_nobody_can_write() {
    each_host(|host| {
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let spec = host.spec(options, image);
            let masked = paths(&spec, "maskedPaths");
            assert!(masked.len() > 30, "{masked:?}");
            let report = host.probe(options, image, &[&["look"], masked.as_slice()].concat());
            let mut covered = 0;
            for seen in report.as_array().expect("a report") {
                match seen["kind"].as_str() {
                    // This kernel does not have it.
                    Some("absent") => assert_eq!(seen["errno"], 2, "{seen}"),
                    Some("chr") => {
                        assert_eq!(seen["device"], "1:3", "{seen}");
                        assert_eq!(seen["read"], 0, "{seen}");
                        covered += 1;
                    }
                    Some("dir") => {
                        assert_eq!(seen["entries"], 0, "{seen}");
                        assert_eq!(seen["create"], 30, "read-only file system: {seen}");
                        covered += 1;
                    }
                    _ => panic!("not covered: {seen}"),
                }
            }
            assert!(covered > 15, "only {covered} of the masked paths exist here: {report}");
        }
    });
}

#[test]
fn every_read_only_path_refuses_writes_and_is_mounted_read_only() {
    each_host(|host| {
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let spec = host.spec(options, image);
            let readonly = paths(&spec, "readonlyPaths");
            let report = host.probe(options, image, &[&["look"], readonly.as_slice()].concat());
            let facts = host.probe(options, image, &["facts"]);
            let mounted = last_at_each_point(mounts(&facts["mountinfo"]));
            for seen in report.as_array().expect("a report").iter().filter(|seen| seen["kind"] != "absent") {
                let refused = if seen["kind"] == "dir" { &seen["create"] } else { &seen["write"] };
                assert_ne!(*refused, 0, "{seen}");
                let path = seen["path"].as_str().expect("a path");
                assert!(mounted.get(path).is_some_and(|m| m.flags.iter().any(|f| f == "ro")), "{path}: {mounted:?}");
            }
            let writable = host.probe(options, image, &[&["writable"], readonly.as_slice()].concat());
            assert_eq!(strings(&writable), Vec::<&str>::new(), "{image} {options:?}");
        }
    });
}

#[test]
fn nothing_below_sys_can_be_written() {
    each_host(|host| {
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let writable = host.probe(options, image, &["writable", "/sys"]);
            assert_eq!(strings(&writable), Vec::<&str>::new(), "{image} {options:?}");
        }
    });
}

#[test]
fn there_are_seven_devices_and_no_other() {
    each_host(|host| {
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let spec = host.spec(options, image);
            let masked = paths(&spec, "maskedPaths");
            let report = host.probe(options, image, &["devices", "/"]);
            let mut found = strings(&report);
            // A masked file is the null device once more.
            found.retain(|line| !line.strip_suffix(" c 1:3").is_some_and(|path| masked.contains(&path)));
            found.sort_unstable();
            assert_eq!(found, DEVICES, "{image} {options:?}");
        }
    });
}

/// A later mount at the same point hides the earlier one.
fn last_at_each_point(all: Vec<Mounted>) -> BTreeMap<String, Mounted> {
    all.into_iter().map(|mount| (mount.at.clone(), mount)).collect()
}

#[test]
fn every_mount_is_one_of_the_spec_with_its_flags_and_has_no_peer() {
    each_host(|host| {
        let cases: [(&str, &[&str]); 4] = [
            ("localhost/demo", &[]),
            ("localhost/root", &["--read-only", "--data-ro"]),
            ("localhost/root", &["--profile", "service"]),
            ("localhost/demo", &["--tmpfs", "/work:size=1m"]),
        ];
        for (image, options) in cases {
            let spec = host.spec(options, image);
            let facts = host.probe(options, image, &["facts"]);
            let mounted = last_at_each_point(mounts(&facts["mountinfo"]));
            let mut promised: BTreeMap<String, Vec<&str>> = BTreeMap::new();
            let root =
                if spec["root"]["readonly"] == true { vec!["ro", "nosuid", "nodev"] } else { vec!["nosuid", "nodev"] };
            promised.insert("/".to_owned(), root);
            for mount in spec["mounts"].as_array().expect("mounts") {
                let options = strings(&mount["options"]);
                let flags = FLAGS.into_iter().filter(|flag| options.contains(flag)).collect();
                promised.insert(mount["destination"].as_str().expect("a place").to_owned(), flags);
            }
            for (at, flags) in &promised {
                let mount = mounted.get(at).unwrap_or_else(|| panic!("{at} is not mounted: {mounted:?}"));
                for flag in flags {
                    assert!(mount.flags.iter().any(|f| f == flag), "{at} lacks {flag}: {mount:?}");
                }
            }
            let covers = [paths(&spec, "maskedPaths"), paths(&spec, "readonlyPaths")].concat();
            for (at, mount) in &mounted {
                assert_eq!(mount.peers, "", "it would see or tell of other mounts: {mount:?}");
                if promised.contains_key(at) {
                    continue;
                }
                let device = DEVICES.iter().any(|line| line.split(' ').next() == Some(at.as_str()));
                assert!(covers.contains(&at.as_str()) || device, "{image} {options:?}: {mount:?} is in no list");
                if covers.contains(&at.as_str()) {
                    let null = mount.kind == "devtmpfs" || mount.kind == "tmpfs";
                    assert!(mount.flags.iter().any(|f| f == "ro") || null, "{mount:?}");
                }
            }
        }
    });
}

#[test]
fn data_that_is_read_only_is_so_in_every_mount_below_and_for_every_user() {
    each_host(|host| {
        let below = host.researcher().dir.join("safe_data/below");
        let script = "mkdir -m 777 \"$1\" && mount -t tmpfs -o mode=1777 tmpfs \"$1\" && mkdir -m 777 \"$1/deep\" &&
            mount -t tmpfs -o mode=1777 tmpfs \"$1/deep\"";
        Ran::from(host.command("/bin/sh").args(["-c", script, "sh"]).arg(&below).output()).exits(0);
        for (image, more) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let options = [&["--data-ro"], more].concat();
            let places = ["/safe_data", "/safe_data/below", "/safe_data/below/deep"];
            let report = host.probe(&options, image, &[&["look"], &places[..]].concat());
            for seen in report.as_array().expect("a report") {
                assert_eq!(seen["kind"], "dir", "{seen}");
                assert_eq!(seen["create"], 30, "read-only file system: {seen}");
            }
            let writable = host.probe(&options, image, &["writable", "/safe_data"]);
            assert_eq!(strings(&writable), Vec::<&str>::new());
            let facts = host.probe(&options, image, &["facts"]);
            for mount in mounts(&facts["mountinfo"]).iter().filter(|m| m.at.starts_with("/safe_data")) {
                for flag in ["ro", "nosuid", "nodev"] {
                    assert!(mount.flags.iter().any(|f| f == flag), "{mount:?}");
                }
            }
        }
    });
}

#[test]
fn data_cannot_be_linked_out_and_reading_it_leaves_no_trace() {
    use std::os::unix::fs::MetadataExt as _;
    each_host(|host| {
        let file = host.home().join("safe_data/ward.csv");
        // Long ago, or the kernel would not write a new time (relatime).
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let times = std::fs::FileTimes::new().set_accessed(old).set_modified(old);
        std::fs::File::options().write(true).open(&file).expect("the data").set_times(times).expect("its times");
        let script = "for to in /safe_outputs /scratch /tmp /dev/shm; do
                ln /safe_data/ward.csv $to/link 2>/dev/null && echo linked to $to
            done; cat /safe_data/ward.csv > /dev/null; echo end";
        let ran = host.run(&["--data-ro", "localhost/root", "/bin/sh", "-c", script]);
        assert_eq!(ran.exits(0), "end\n");
        let found = std::fs::metadata(&file).expect("the data");
        assert_eq!(found.nlink(), 1);
        // An ordinary user may not mount so that times stay; then the time of access is one more thing that tells.
        if host.records().pop().expect("a record")["mode"] == "enforced" {
            assert_eq!(found.atime(), 1_000_000_000);
        }
    });
}

#[test]
fn where_a_user_can_write_is_a_short_list() {
    each_host(|host| {
        let report = host.probe(&["--data-ro"], "localhost/demo", &["writable", "/dev", "/etc", "/bin", "/safe_data"]);
        let mut found = strings(&report);
        found.sort_unstable();
        if host.is_of_an_ordinary_user() {
            // What the image's root owns is the caller's, whoever is `USER`: written to the throw-away layer.
            assert_eq!(
                found,
                ["/bin", "/bin/busybox", "/dev", "/dev/mqueue", "/dev/shm", "/etc", "/etc/group", "/etc/passwd"]
            );
        } else {
            assert_eq!(found, ["/dev/mqueue", "/dev/shm"]);
        }
        let report = host.probe(&["--data-ro", "--read-only"], "localhost/root", &["writable", "/"]);
        let mut found = strings(&report);
        found.retain(|path| !path.starts_with("/proc/"));
        found.sort_unstable();
        let places = ["/dev", "/dev/mqueue", "/dev/shm", "/run", "/safe_outputs", "/scratch", "/tmp", "/var/tmp"];
        assert_eq!(found, places);
        // What is not the researcher's own is in memory, and gone with the run.
        let facts = host.probe(&["--read-only"], "localhost/root", &["facts"]);
        for mount in mounts(&facts["mountinfo"]).iter().filter(|m| places.contains(&m.at.as_str())) {
            let own = ["/safe_outputs", "/scratch"].contains(&mount.at.as_str());
            assert!(own || ["tmpfs", "mqueue"].contains(&mount.kind.as_str()), "{mount:?}");
        }
    });
}
