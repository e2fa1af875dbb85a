//! The groups as they are shipped, and files that are none.

use super::*;

#[test]
fn every_name_is_known_to_every_architecture_it_is_for_and_stands_once() {
    let profile = Profile::load().unwrap();
    assert!(profile.names().count() > 300);
    assert!(
        profile.allow.iter().chain(profile.closed.iter().map(|(group, _)| group)).all(|group| !group.reason.is_empty())
    );
}

#[test]
fn an_unknown_name_and_a_name_in_two_lists_are_refused() {
    let group = |names: &[&str]| Group {
        name: "g".to_owned(),
        reason: "r".to_owned(),
        arch: Arch::ALL.to_vec(),
        syscalls: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let profile = |allow: Group, closed: Group| Profile {
        allow: vec![allow],
        conditional: vec![],
        closed: vec![(closed, FORBIDDEN)],
    };
    assert!(profile(group(&["read"]), group(&["bpf"])).check().is_ok());
    for (allow, closed) in
        [(&["raed"][..], &["bpf"][..]), (&["read"], &["read"]), (&["read", "read"], &["bpf"]), (&["fork"], &["bpf"])]
    {
        assert!(profile(group(allow), group(closed)).check().is_err(), "{allow:?} {closed:?}");
    }
}

#[test]
fn what_attacks_the_kernel_is_in_no_list_of_allowed_calls() {
    let profile = Profile::load().unwrap();
    let allowed: Vec<&str> = profile.allow.iter().flat_map(|g| g.syscalls.iter().map(String::as_str)).collect();
    for name in [
        "clone",
        "clone3",
        "unshare",
        "setns",
        "mount",
        "bpf",
        "ptrace",
        "io_uring_setup",
        "io_uring_enter",
        "keyctl",
        "ioctl",
        "socket",
        "userfaultfd",
        "perf_event_open",
        "splice",
        "tee",
        "vmsplice",
        "io_setup",
        "modify_ldt",
        "memfd_secret",
        "process_vm_writev",
        "personality",
        "mknod",
        "mknodat",
        "open",
        "openat",
        "openat2",
        "creat",
        "chmod",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "chroot",
        "syslog",
        "reboot",
        "name_to_handle_at",
    ] {
        assert!(!allowed.contains(&name), "{name}");
    }
}

#[test]
fn the_relay_may_neither_open_nor_execute_nor_fork() {
    let profile = Profile::relay().unwrap();
    let all: Vec<&str> = profile.names().map(|(name, ..)| name).collect();
    assert!(all.contains(&"splice") && all.len() < 40, "{all:?}");
    for name in [
        "open", "openat", "openat2", "execve", "execveat", "clone", "clone3", "fork", "vfork", "ioctl", "write",
        "bind", "listen", "sendmsg", "recvmsg", "kill", "ptrace", "prctl", "unshare", "setns", "mount", "seccomp",
    ] {
        assert!(!all.contains(&name), "{name}");
    }
}

#[test]
fn the_witness_may_neither_execute_nor_fork_nor_write_a_file_nor_reach_a_network() {
    let profile = Profile::witness().unwrap();
    let all: Vec<&str> = profile.names().map(|(name, ..)| name).collect();
    assert!(all.contains(&"process_vm_readv") && all.len() < 60, "{all:?}");
    for name in [
        "open",
        "execve",
        "execveat",
        "clone",
        "clone3",
        "fork",
        "vfork",
        "socket",
        "bind",
        "connect",
        "sendto",
        "sendmsg",
        "kill",
        "ptrace",
        "process_vm_writev",
        "pidfd_getfd",
        "unshare",
        "setns",
        "mount",
        "seccomp",
        "mkdirat",
        "unlinkat",
        "renameat2",
        "ftruncate",
        "fchmodat",
        "fchownat",
        "capset",
        "setuid",
        "setresuid",
    ] {
        assert!(!all.contains(&name), "{name}");
    }
}

#[test]
fn a_condition_must_be_one_of_two_kinds() {
    let rule =
        |condition: &str| format!("[[rule]]\nname = \"n\"\nreason = \"r\"\nsyscalls = [\"read\"]\n{condition}\n");
    for condition in [
        "any = [{ arg = 0, eq = 1 }]",
        "any = [{ arg = 0, eq = 1, and = [{ arg = 1, mask = 6, eq = 4 }] }]\notherwise = \"EPERM\"",
        "refuse = [{ arg = 1, mask = 1, eq = 1, errno = \"ENOTTY\" }]\notherwise = \"allow\"",
    ] {
        assert!(rules(&rule(condition), "f").is_ok(), "{condition}");
    }
    for condition in [
        "",
        "any = []",
        "otherwise = \"allow\"",
        "any = [{ arg = 6, eq = 1 }]",
        "any = [{ arg = 0 }]",
        "any = [{ arg = 0, mask = 1, eq = 2 }]",
        "any = [{ arg = 0, mask = 0x100000000, eq = 0 }]",
        "any = [{ arg = 0, lt = 2 }]",
        "any = [{ arg = 0, eq = 1, errno = \"EPERM\" }]",
        "any = [{ arg = 0, eq = 1, and = [{ arg = 2 }] }]",
        "any = [{ arg = 0, eq = 1, and = [{ eq = 2 }] }]",
        "any = [{ arg = 0, eq = 1, and = [{ arg = 6, eq = 2 }] }]",
        "any = [{ arg = 0, eq = 1, and = [{ arg = 0, eq = 2 }] }]",
        "any = [{ arg = 0, eq = 1, and = [{ arg = 1, eq = 2, and = [] }] }]",
        "refuse = [{ arg = 0, eq = 1, errno = \"EINTR\" }]",
        "any = [{ arg = 0, eq = 1 }]\notherwise = \"deny\"",
    ] {
        assert!(rules(&rule(condition), "f").is_err(), "{condition}");
    }
    assert!(
        rules("[[rule]]\nname = \"n\"\nreason = \"r\"\nsyscalls = []\nany = [{ arg = 0, eq = 1 }]\n", "f").is_err()
    );
}
