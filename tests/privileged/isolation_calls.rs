//! System calls made for real by a payload: the error number of each, also with bits set that the kernel ignores, and by
//! the entries for other numberings.

use std::collections::BTreeMap;

use crate::support::probe::each_host;

const EPERM: i64 = 1;
const EINVAL: i64 = 22;
const ENOTTY: i64 = 25;
const ENOSYS: i64 = 38;
const EPROTONOSUPPORT: i64 = 93;
const EAFNOSUPPORT: i64 = 97;

/// Each answers what its callers take for "not available here": bundles/seccomp says which and why.
fn expected(call: &str) -> i64 {
    let first = call.split(' ').next().unwrap_or_default();
    let unknown = [
        "clone3",
        "clock_adjtime",
        "io_uring_setup",
        "io_setup",
        "memfd_secret",
        "personality",
        "add_key",
        "keyctl",
        "request_key",
        "no",
        "modify_ldt",
        "uselib",
        "openat2",
    ];
    match call {
        // The kernel's own refusal: family and protocol are allowed, the capability is missing.
        "socket raw" => EPERM,
        // As of a kernel and a file system that do not have them.
        _ if first == "protocol" || call.starts_with("socket netlink") => EPROTONOSUPPORT,
        _ if first == "flags" => ENOTTY,
        _ if first == "socket" => EAFNOSUPPORT,
        _ if ["splice", "tee", "vmsplice"].contains(&first) => EINVAL,
        _ if unknown.contains(&first) => ENOSYS,
        _ => EPERM,
    }
}

#[test]
fn every_dangerous_call_is_refused_with_and_without_high_bits() {
    each_host(|host| {
        for (image, options) in
            [("localhost/demo", &[][..]), ("localhost/root", &[]), ("localhost/root", &["--profile", "service"])]
        {
            let report = host.probe(options, image, &["calls"]);
            let calls: BTreeMap<&str, i64> = report
                .as_array()
                .expect("a report")
                .iter()
                .map(|call| (call["call"].as_str().expect("a name"), call["errno"].as_i64().expect("a number")))
                .collect();
            assert!(calls.len() > 260, "{} calls were made", calls.len());
            for (call, errno) in calls {
                assert_eq!(errno, expected(call), "{image} {options:?}: {call}");
            }
        }
    });
}

#[test]
fn what_programs_need_beside_the_refused_calls_goes_through() {
    each_host(|host| {
        for (image, options) in [("localhost/demo", &[][..]), ("localhost/root", &["--profile", "service"])] {
            let report = host.probe(options, image, &["needed"]);
            let calls = report.as_array().expect("a report");
            assert!(calls.len() > 20, "{} calls were made", calls.len());
            for call in calls {
                assert_eq!(call["errno"].as_i64(), Some(0), "{image} {options:?}: {call}");
            }
        }
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_entry_for_32_bit_programs_kills_or_refuses() {
    each_host(|host| {
        // getpid, mount, ptrace and unshare in the numbering of 32-bit programs.
        for number in ["20", "21", "26", "310"] {
            let ran = host.probe_run(&[], "localhost/root", &["enter", number, "int80"]);
            let killed = matches!(ran.code, Some(159 | 139));
            assert!(killed || ran.stdout == "-38\n" || ran.stdout == "-1\n", "{number}: {ran:?}");
        }
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_entry_for_x32_programs_is_unknown() {
    each_host(|host| {
        for number in ["39", "165", "101", "272", "520"] {
            let ran = host.probe_run(&[], "localhost/root", &["enter", number, "x32"]);
            assert_eq!(ran.exits(0), "-38\n", "{number}");
        }
    });
}

#[test]
fn time_and_names_of_the_host_stay_as_they_are() {
    each_host(|host| {
        let before = nix::unistd::gethostname().expect("a name");
        let script = "hostname other; date -s 2000-01-01; hwclock -w; date -u +%Y; hostname";
        let ran = host.run(&["--profile", "service", "--hostname", "ward", "localhost/root", "/bin/sh", "-c", script]);
        let lines: Vec<&str> = ran.exits(0).lines().collect();
        assert!(lines.ends_with(&[&jiff::Timestamp::now().strftime("%Y").to_string(), "ward"]), "{ran:?}");
        assert_eq!(nix::unistd::gethostname().expect("a name"), before);
    });
}
