//! The seccomp filter, by the kernel itself: it is installed in a thread, which then makes the calls.
#![allow(unsafe_code, reason = "forbidden system calls have no safe wrappers; the kernel refuses them")]

use std::thread;

use ces::bundle::seccomp::{self, Arch};

const EPERM: i32 = 1;
const EBADF: i32 = 9;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;
const ENOTTY: i32 = 25;
const ENOSYS: i32 = 38;
const EPROTONOSUPPORT: i32 = 93;
const EAFNOSUPPORT: i32 = 97;
const HIGH: u64 = 1 << 32;

/// Runs `work` in a thread under the filter of a run.
fn under_the_filter<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let restricted = move || {
        seccompiler::apply_filter(&seccomp::program().unwrap()).unwrap();
        work()
    };
    thread::spawn(restricted).join().unwrap()
}

/// The error of a call by number, or 0.
fn raw(number: i64, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the calls below are refused by the filter, or fail on a descriptor that does not exist.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

fn call(name: &str, args: &[u64]) -> i32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    raw(Arch::native().unwrap().number(name).unwrap(), all)
}

#[test]
fn what_is_forbidden_is_not_permitted() {
    under_the_filter(|| {
        for name in [
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "unshare",
            "setns",
            "open_tree",
            "move_mount",
            "fsopen",
            "mount_setattr",
            "bpf",
            "perf_event_open",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "kcmp",
            "pidfd_getfd",
            "userfaultfd",
            "open_by_handle_at",
            "name_to_handle_at",
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "swapon",
            "syslog",
            "acct",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "fanotify_init",
            "move_pages",
        ] {
            assert_eq!(call(name, &[0; 6]), EPERM, "{name}");
            assert_eq!(call(name, &[u64::MAX; 6]), EPERM, "{name}");
        }
    });
}

#[test]
fn what_is_not_named_does_not_exist() {
    under_the_filter(|| {
        for name in [
            "clone3",
            "keyctl",
            "add_key",
            "request_key",
            "adjtimex",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "io_setup",
            "memfd_secret",
            "openat2",
        ] {
            assert_eq!(call(name, &[0; 6]), ENOSYS, "{name}");
        }
        assert_eq!(raw(1_000_000, [0; 6]), ENOSYS);
        // What a file answers that cannot be spliced: Go copies by itself after nothing else.
        for name in ["splice", "tee", "vmsplice"] {
            assert_eq!(call(name, &[0; 6]), EINVAL, "{name}");
        }
    });
}

#[test]
fn forbidden_arguments_cannot_hide_behind_high_bits() {
    under_the_filter(|| {
        for family in [3_u64, 17, 31, 38, 40, 44, 45] {
            assert_eq!(call("socket", &[family, 1, 0]), EAFNOSUPPORT, "{family}");
            assert_eq!(call("socket", &[family | HIGH, 1, 0]), EAFNOSUPPORT, "{family}");
        }
        for command in [0x5412_u64, 0x541C, 0x5412 | HIGH, 0x541C | HIGH << 31] {
            assert_eq!(call("ioctl", &[u64::MAX, command, 0]), EPERM, "{command:#x}");
        }
        for namespace in [0x20000_u64, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000] {
            assert_eq!(call("clone", &[namespace | 17]), EPERM, "{namespace:#x}");
            assert_eq!(call("clone", &[namespace | 17 | HIGH]), EPERM, "{namespace:#x}");
        }
        for persona in [0x40000_u64, 0x400000, HIGH] {
            assert_eq!(call("personality", &[persona]), ENOSYS, "{persona:#x}");
        }
        for mode in [0o020666_u64, 0o060666, 0o020666 | HIGH] {
            assert_eq!(call("mknodat", &[u64::MAX, 0, mode, 0]), EPERM, "{mode:o}");
        }
        for protocol in [262_u64, 136, 132, 33, 262 | HIGH, 136 | HIGH << 31] {
            assert_eq!(call("socket", &[2, 1, protocol]), EPROTONOSUPPORT, "{protocol:#x}");
            assert_eq!(call("socket", &[10, 1, protocol]), EPROTONOSUPPORT, "{protocol:#x}");
        }
        for command in [0x4008_6602_u64, 0x401c_5820, 0x4008_6602 | HIGH, 0x401c_5820 | HIGH << 31] {
            assert_eq!(call("ioctl", &[u64::MAX, command, 0]), ENOTTY, "{command:#x}");
        }
        for mode in [0o4755_u64, 0o2755, 0o6755 | HIGH, u64::MAX] {
            assert_eq!(call("fchmod", &[u64::MAX, mode]), EPERM, "{mode:o}");
            for flags in [0o101_u64, 0o20200002, 0o101 | HIGH] {
                assert_eq!(call("openat", &[u64::MAX, 0, flags, mode]), EPERM, "{flags:o} {mode:o}");
            }
        }
    });
}

#[test]
fn what_programs_need_reaches_the_kernel() {
    under_the_filter(|| {
        // The kernel's own answer to a descriptor that does not exist.
        for name in ["read", "write", "fstat", "fsync", "getdents64", "ftruncate", "accept4", "fchdir", "recvmsg"] {
            assert_eq!(call(name, &[u64::MAX]), EBADF, "{name}");
        }
        assert_eq!(call("ioctl", &[u64::MAX, 0x5401, 0]), EBADF);
        assert_eq!(call("ioctl", &[u64::MAX, 0x5413, 0]), EBADF);
        // No file is made, so that there is no mode, whatever a program has left there; the path is none.
        assert_eq!(call("openat", &[u64::MAX, 0, 0, u64::MAX]), EFAULT);
        assert_eq!(call("openat", &[u64::MAX, 0, 0o101, 0o644]), EFAULT);
        assert_eq!(call("ioctl", &[u64::MAX, 0x8008_6601, 0]), EBADF);
        assert_eq!(call("personality", &[0xffff_ffff]), 0);
        // The best-effort class, which every process has: IOPRIO_PRIO_VALUE(2, 4), of this thread.
        assert_eq!(call("ioprio_set", &[1, 0, 2 << 13 | 4]), 0);
        assert_eq!(call("ioprio_set", &[3, 0, 2 << 13 | 4]), EPERM);
        // Threads, files, sockets and time, as programs use them.
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        assert!(std::fs::read_to_string("/proc/self/status").unwrap().contains("Threads"));
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_ok());
        assert!(std::os::unix::net::UnixStream::pair().is_ok());
        assert!(std::time::SystemTime::now().elapsed().is_ok());
        assert!(std::process::Command::new("true").status().unwrap().success());
    });
}

#[test]
fn the_kernel_says_that_a_filter_is_in_force() {
    let status = under_the_filter(|| std::fs::read_to_string("/proc/thread-self/status").unwrap());
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert!(field("Seccomp_filters:").parse::<u32>().unwrap() >= 1);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_x32_entry_is_closed() {
    under_the_filter(|| {
        // getpid and mount of x32: other numbers for the same calls.
        assert_eq!(raw(0x4000_0000 + 39, [0; 6]), ENOSYS);
        assert_eq!(raw(0x4000_0000 + 165, [0; 6]), ENOSYS);
    });
}
