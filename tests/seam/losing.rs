//! A stage process that leaves one protection out: it changes what it is asked for before the library's stage reads it,
//! or it answers a system call with a lie. The functions below have the names of the C library's, so the linker takes
//! them for all of this program; each passes on what it does not lie about.
#![allow(unsafe_code, reason = "stands in for functions of the C library")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers as registers hold them")]

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ces::run::protocol::StageRequest;
use libc::{c_char, c_int, c_long, c_uint, c_ulong, c_void, gid_t, size_t};
use nix::sched::CloneFlags;
use serde_json::Value;

use super::keys;
use super::losses::{FAILURES, LOSSES, WORD};

/// What only the host's root can take away again.
const HELPED: [&str; 4] = ["the_control_group", "the_memory_limit", "the_limit_of_processes", "the_processor_limit"];

/// One more user namespace, in which there is root alone.
fn nest() {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    // SAFETY: takes a number.
    let made = unsafe { real(libc::SYS_unshare, [flags as c_ulong, 0, 0, 0, 0, 0]) };
    assert_eq!(made, 0, "a nested user namespace");
    // Or the files below would be the host root's (proc_pid(5)).
    nix::sys::prctl::set_dumpable(true).unwrap();
    for (name, text) in [("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")] {
        fs::write(format!("/proc/self/{name}"), text).unwrap();
    }
}

static ACTIVE: OnceLock<String> = OnceLock::new();
/// What only the host's root can do is done by a process that stayed so.
static HELPER: OnceLock<UnixStream> = OnceLock::new();

fn lies(name: &str) -> bool {
    ACTIVE.get().is_some_and(|active| active == name)
}

/// The stage, less what the run says.
pub fn stage() -> u8 {
    ces::run::stage::child_main_reading(|request| Ok(changed(request)))
}

fn changed(request: OwnedFd) -> StageRequest {
    let mut request: Value = serde_json::from_reader(File::from(request)).unwrap();
    let env = request["spec"]["process"]["env"].as_array().unwrap();
    let word =
        env.iter().find_map(|e| e.as_str()?.strip_prefix(WORD)?.strip_prefix('=')).unwrap_or("nothing").to_owned();
    if let Some(loss) = LOSSES.iter().chain(&FAILURES).find(|loss| loss.name == word) {
        (loss.change)(&mut request);
        if HELPED.contains(&loss.name) {
            start_helper(loss.name, request["job"].as_str().unwrap());
        }
        if loss.name == "closed_descriptors" {
            // SAFETY: makes a descriptor.
            leave_open(unsafe { libc::eventfd(0, 0) });
        }
        if loss.name == "descriptors_that_close_on_exec" {
            let (a, b) = UnixStream::pair().unwrap();
            [a, b].into_iter().for_each(|end| leave_open(end.into_raw_fd()));
        }
    }
    ACTIVE.set(word.to_owned()).unwrap();
    serde_json::from_value(request).unwrap()
}

/// Beyond the numbers that mean something to the stage, and not closed on exec.
fn leave_open(fd: c_int) {
    // SAFETY: copies an open descriptor to a free number, and closes the original, which nobody owns.
    unsafe {
        assert!(libc::fcntl(fd, libc::F_DUPFD, 100) >= 100);
        libc::close(fd);
    }
}

fn start_helper(loss: &str, job: &str) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let stage = nix::unistd::Pid::this();
    // SAFETY: this process has one thread.
    if unsafe { libc::fork() } == 0 {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let mut byte = [0];
        theirs.write_all(&byte).unwrap();
        theirs.read_exact(&mut byte).unwrap();
        loosen(loss, job, stage.as_raw());
        theirs.write_all(&byte).unwrap();
        // Ends with the stage.
        theirs.read_exact(&mut byte).ok();
        std::process::exit(0);
    }
    (&ours).read_exact(&mut [0]).unwrap();
    HELPER.set(ours).unwrap();
}

/// As the host's root: out of the group, or its limits away. A file that is not there belongs to the other version.
fn loosen(loss: &str, job: &str, stage: i32) {
    let groups: Vec<PathBuf> = [vec![PathBuf::from("/sys/fs/cgroup")], below("/sys/fs/cgroup")].concat();
    let own: Vec<PathBuf> =
        groups.iter().map(|dir| dir.join(format!("ces-{job}"))).filter(|dir| dir.is_dir()).collect();
    assert!(!own.is_empty(), "the job's control group");
    let write = |name: &str, value: &str| own.iter().filter(|dir| fs::write(dir.join(name), value).is_ok()).count();
    let done = match loss {
        "the_control_group" => {
            own.iter().filter(|dir| fs::write(dir.join("../cgroup.procs"), stage.to_string()).is_ok()).count()
        }
        "the_memory_limit" => {
            write("memory.memsw.limit_in_bytes", "-1")
                + write("memory.limit_in_bytes", "-1")
                + write("memory.max", "max")
        }
        "the_limit_of_processes" => write("pids.max", "max"),
        _ => write("cpu.cfs_quota_us", "-1") + write("cpu.max", "max 100000"),
    };
    assert!(done > 0, "nothing was loosened");
}

fn below(dir: &str) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// The C library's own function.
fn next(name: &CStr, known: &AtomicUsize) -> usize {
    let mut found = known.load(Ordering::Relaxed);
    if found == 0 {
        // SAFETY: looks a name up.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
        known.store(found, Ordering::Relaxed);
    }
    found
}

/// There is a network namespace of its own.
static OWN_NETWORK: AtomicBool = AtomicBool::new(false);

type Syscall = unsafe extern "C" fn(c_long, c_ulong, c_ulong, c_ulong, c_ulong, c_ulong, c_ulong) -> c_long;

/// Passes a call on.
///
/// # Safety
/// As the call's own.
unsafe fn real(number: c_long, args: [c_ulong; 6]) -> c_long {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let [a, b, c, d, e, f] = args;
    // SAFETY: the C library's function takes up to six numbers, in the registers in which these come.
    unsafe { std::mem::transmute::<usize, Syscall>(next(c"syscall", &NEXT))(number, a, b, c, d, e, f) }
}

/// # Safety
/// As syscall(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_ulong,
    b: c_ulong,
    c: c_ulong,
    d: c_ulong,
    e: c_ulong,
    f: c_ulong,
) -> c_long {
    // What is being made a mount of: fsopen(2), fsconfig(2), fsmount(2).
    static PROC: AtomicU64 = AtomicU64::new(0);
    if lies("proc_of_its_own") || lies("the_pid_namespace") {
        // SAFETY: by the call's contract, the first argument leads to a C string.
        if number == libc::SYS_fsopen && unsafe { CStr::from_ptr(a as *const c_char) } == c"proc" {
            // SAFETY: the caller's own.
            let made = unsafe { real(number, [a, b, c, d, e, f]) };
            PROC.store(made as u64, Ordering::Relaxed);
            return made;
        }
        let proc = a != 0 && a == PROC.load(Ordering::Relaxed);
        if number == libc::SYS_fsconfig && proc {
            return 0;
        }
        if number == libc::SYS_fsmount && proc {
            let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as c_uint;
            let hosts = [libc::AT_FDCWD as c_ulong, c"/proc".as_ptr() as c_ulong, c_ulong::from(flags), 0, 0, 0];
            PROC.store(0, Ordering::Relaxed);
            // SAFETY: a constant string.
            return unsafe { real(libc::SYS_open_tree, hosts) };
        }
    }
    if number == libc::SYS_keyctl && a == keys::JOIN_SESSION_KEYRING as c_ulong && keys::are_kept() {
        return 0;
    }
    if number == libc::SYS_seccomp && a == 1 {
        if lies(keys::LOOK) {
            keys::look();
        }
        if lies("seccomp_filters_that_load") {
            // SAFETY: the C library's own place for the number.
            unsafe { *libc::__errno_location() = libc::EINVAL };
            return -1;
        }
        if lies("seccomp") {
            return 0;
        }
    }
    if number == libc::SYS_close_range && lies("descriptors_that_close_on_exec") {
        return 0;
    }
    if number == libc::SYS_mount_setattr && d != 0 {
        // SAFETY: by the call's contract, the fourth argument leads to such a struct.
        let mut attr = unsafe { *(d as *const libc::mount_attr) };
        let mut flags = c;
        if lies("nosuid_on_the_data") {
            attr.attr_set &= !libc::MOUNT_ATTR_NOSUID;
        }
        if lies("nodev_on_the_outputs") {
            attr.attr_set &= !libc::MOUNT_ATTR_NODEV;
        }
        if lies("read_only_data_to_its_depth") {
            flags &= !(libc::AT_RECURSIVE as c_ulong);
        }
        let changed = (&raw mut attr) as c_ulong;
        // SAFETY: as the caller's call, with a struct of our own that lives over it.
        return unsafe { real(number, [a, b, flags, changed, e, f]) };
    }
    // SAFETY: the caller's own.
    unsafe { real(number, [a, b, c, d, e, f]) }
}

/// # Safety
/// As unshare(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unshare(flags: c_int) -> c_int {
    let mut kept = flags;
    if flags & libc::CLONE_NEWNET != 0
        && let Some(mut helper) = HELPER.get()
    {
        helper.write_all(&[0]).unwrap();
        helper.read_exact(&mut [0]).unwrap();
    }
    if lies("the_user_namespace") {
        kept &= !libc::CLONE_NEWUSER;
    }
    if lies("the_network_namespace") {
        kept &= !libc::CLONE_NEWNET;
    }
    if lies("the_ipc_namespace") {
        kept &= !libc::CLONE_NEWIPC;
    }
    if lies("the_cgroup_namespace") {
        kept &= !libc::CLONE_NEWCGROUP;
    }
    if flags & libc::CLONE_NEWCGROUP != 0 && (lies("the_uid_map") || lies("the_gid_map")) {
        nest();
    }
    OWN_NETWORK.fetch_or(flags & libc::CLONE_NEWNET != 0, Ordering::Relaxed);
    if flags & libc::CLONE_NEWCGROUP != 0 && OWN_NETWORK.load(Ordering::Relaxed) && lies("loopback_alone") {
        // An ordinary user's network is made before it is known what is to be left out.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(rename_loopback(socket.as_raw_fd()), 0, "another name for loopback");
    }
    // SAFETY: takes a number.
    unsafe { real(libc::SYS_unshare, [c_ulong::from(kept as c_uint), 0, 0, 0, 0, 0]) as c_int }
}

/// # Safety
/// As prctl(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn prctl(option: c_int, a: c_ulong, b: c_ulong, c: c_ulong, d: c_ulong) -> c_int {
    if option == libc::PR_SET_NO_NEW_PRIVS && lies("no_new_privs") {
        return 0;
    }
    // SAFETY: the caller's own.
    unsafe { real(libc::SYS_prctl, [option as c_ulong, a, b, c, d, 0]) as c_int }
}

/// # Safety
/// As setgroups(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setgroups(count: size_t, groups: *const gid_t) -> c_int {
    let roots: [gid_t; 2] = [0, 27];
    let (count, groups) = if lies("the_groups") { (roots.len(), roots.as_ptr()) } else { (count, groups) };
    // SAFETY: the caller's own, or a list of two.
    unsafe { real(libc::SYS_setgroups, [count as c_ulong, groups as c_ulong, 0, 0, 0, 0]) as c_int }
}

/// # Safety
/// As ioctl(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int {
    // SAFETY: the caller's own.
    let pass = |request: c_ulong, argument| unsafe {
        real(libc::SYS_ioctl, [fd as c_ulong, request, argument, 0, 0, 0]) as c_int
    };
    if request == libc::SIOCSIFFLAGS && lies("the_network_namespace") {
        return 0;
    }
    if request == libc::SIOCSIFFLAGS && lies("loopback_alone") {
        return rename_loopback(fd);
    }
    let done = pass(request, argument);
    if request == libc::SIOCSIFFLAGS && lies("no_route") {
        // SAFETY: plain data: a route to every address that begins with 10 over the interface that is up by now.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = address([10, 0, 0, 0]);
        route.rt_genmask = address([255, 0, 0, 0]);
        route.rt_flags = libc::RTF_UP;
        route.rt_dev = c"lo".as_ptr().cast_mut();
        assert_eq!(pass(libc::SIOCADDRT, (&raw const route) as c_ulong), 0, "a route");
    }
    done
}

/// Takes loopback down, and names it as a card would be.
fn rename_loopback(socket: c_int) -> c_int {
    // SAFETY: ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as c_char;
    }
    let pass = |number: c_ulong, request: &libc::ifreq| {
        // SAFETY: these requests read an ifreq.
        unsafe {
            real(libc::SYS_ioctl, [socket as c_ulong, number, std::ptr::from_ref(request) as c_ulong, 0, 0, 0]) as c_int
        }
    };
    if pass(libc::SIOCSIFFLAGS, &request) != 0 {
        return -1;
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(*b"eth0") {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_newname = name;
    pass(libc::SIOCSIFNAME, &request)
}

fn address(bytes: [u8; 4]) -> libc::sockaddr {
    // SAFETY: plain data.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = libc::AF_INET as libc::sa_family_t;
    for (to, from) in address.sa_data.iter_mut().skip(2).zip(bytes) {
        *to = from as c_char;
    }
    address
}

/// # Safety
/// As mount(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mount(
    source: *const c_char,
    target: *const c_char,
    kind: *const c_char,
    flags: c_ulong,
    data: *const c_void,
) -> c_int {
    // SAFETY: by the call's contract these are C strings or null.
    let text = |pointer: *const c_char| (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) });
    let (mut from, mut kept) = (source, flags);
    if text(kind) == Some(c"overlay") {
        if lies("nosuid_on_the_root") {
            kept &= !libc::MS_NOSUID;
        }
        if lies("nodev_on_the_root") {
            kept &= !libc::MS_NODEV;
        }
    }
    if text(kind) == Some(c"cgroup2") && lies("the_cgroup_namespace") {
        // One of another cgroup namespace cannot be mounted here: the host's own.
        (from, kept) = (c"/sys/fs/cgroup/unified".as_ptr(), libc::MS_BIND | libc::MS_REC);
    }
    if flags & libc::MS_BIND != 0 && text(source) == Some(c"/dev/full") && lies("the_right_devices") {
        from = c"/dev/kmsg".as_ptr();
    }
    let args = [from as c_ulong, target as c_ulong, kind as c_ulong, kept, data as c_ulong, 0];
    // SAFETY: the caller's own, or constant strings.
    unsafe { real(libc::SYS_mount, args) as c_int }
}
