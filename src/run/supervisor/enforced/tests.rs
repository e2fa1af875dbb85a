//! For each protection: a container that lacks it is refused, and the difference is named.

use super::*;
use crate::host::privilege::as_root;

const PAYLOAD: u32 = 1000;

/// What `batch` promises, on a small scale.
fn promised() -> Expected {
    let map = |inside, outside| vec![Extent { inside, outside, count: 1 }];
    let mounts: [(&str, &[&'static str]); 9] = [
        ("/", &["nosuid", "nodev"]),
        ("/proc", &["nosuid", "nodev", "noexec"]),
        ("/proc/sys", &["ro"]),
        ("/dev", &["nosuid", "noexec"]),
        ("/dev/shm", &["nosuid", "nodev", "noexec"]),
        ("/sys", &["ro", "nosuid", "nodev", "noexec"]),
        ("/safe_data", &["ro", "nosuid", "nodev"]),
        ("/safe_data/own", &["nosuid", "nodev"]),
        ("/etc/hosts", &["ro", "nosuid", "nodev", "noexec"]),
    ];
    Expected {
        payload: HostIds { uid: PAYLOAD, gid: PAYLOAD, groups: vec![2000] },
        groups: vec![2000],
        map: IdMap { uids: map(0, PAYLOAD), gids: map(0, PAYLOAD) },
        capabilities: 0,
        mounts: mounts.into_iter().map(|(at, flags)| (PathBuf::from(at), flags.to_vec())).collect(),
        own: ["/", "/proc", "/dev", "/dev/shm", "/sys"].map(PathBuf::from).into(),
        seccomp_filters: Some(2),
        rlimits: [("core", 0), ("nofile", 1024)].map(|(name, most)| (name.to_owned(), rlimit(most))).into(),
        // This path is there on every Linux.
        masked: ["/proc/keys"].map(PathBuf::from).into(),
        limits: Some(limits()),
        cgroup: Some("ces-20261122T143015-7f3a9c".to_owned()),
        terminal: Some(TERMINAL),
    }
}

fn rlimit(most: u64) -> Rlimit {
    Rlimit { soft: Some(most), hard: Some(most) }
}

const TERMINAL: Device = Device { file_system: 85, device: 136 << 8 };

fn limits() -> Observed {
    Observed {
        memory: Some(1 << 30),
        memory_and_swap: Some(1 << 30),
        cpus: Some(2.0),
        pids: Some(1024),
        io: [("8:16".to_owned(), 1 << 20)].into(),
    }
}

/// What the kernel says of a container that has it all.
fn found() -> Enforced {
    let expected = promised();
    let options = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
    let mut mounts: BTreeMap<PathBuf, Vec<String>> =
        expected.mounts.iter().map(|(at, flags)| (at.clone(), options(flags))).collect();
    mounts.insert(PathBuf::from("/proc/keys"), options(&["rw", "nosuid"]));
    mounts.insert(PathBuf::from("/dev/null"), options(&["rw", "nosuid"]));
    mounts.insert(PathBuf::from("/safe_data/below"), options(&["ro", "nosuid", "nodev"]));
    Enforced {
        uids: vec![PAYLOAD; 4],
        gids: vec![PAYLOAD; 4],
        groups: vec![2000],
        capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| (set.to_owned(), 0)).into(),
        no_new_privs: true,
        seccomp_mode: 2,
        seccomp_filters: Some(2),
        uid_map: expected.map.uids,
        gid_map: expected.map.gids,
        own_namespaces: NAMESPACES.iter().map(|name| (*name).to_owned()).collect(),
        mounts,
        descriptors: vec!["socket:[1]".to_owned(), "pipe:[2]".to_owned()],
        of_the_host: [PathBuf::from("/safe_data")].into(),
        peers: BTreeMap::new(),
        interfaces: vec!["lo".to_owned(), "sit0".to_owned()],
        routes: Vec::new(),
        streams: [Some(TERMINAL); 3],
        of_the_caller: Vec::new(),
        terminal: TERMINAL.device,
        devices: [("null", "c 1:3"), ("tty", "c 5:0"), ("console", "c 136:3")]
            .map(|(name, number)| (name.to_owned(), number.to_owned()))
            .into(),
        rlimits: [("core", rlimit(0)), ("nofile", rlimit(512))].map(|(name, is)| (name.to_owned(), is)).into(),
        cgroups: vec!["0::/".to_owned(), "4:memory:/ces-20261122T143015-7f3a9c".to_owned()],
        limits: Some(limits()),
    }
}

/// A protection less, and the words that name it.
type Loss = (&'static str, fn(&mut Enforced));

const LOSSES: [Loss; 64] = [
    ("the controlling terminal", |f| f.terminal = 0),
    ("a standard stream", |f| f.streams[0] = Some(Device { file_system: 24, ..TERMINAL })),
    ("a standard stream", |f| f.streams[2] = None),
    ("a standard stream", |f| f.of_the_caller = vec!["/home/researcher/log".to_owned()]),
    ("the user", |f| f.uids = vec![0; 4]),
    ("the user", |f| f.uids[2] = 0),
    ("the user", |f| f.uids.clear()),
    ("the group", |f| f.gids[3] = 0),
    ("supplementary groups", |f| f.groups.push(0)),
    ("supplementary groups", |f| f.groups = vec![2000, 27]),
    ("CapInh", |f| hold(f, "CapInh", 1)),
    ("CapPrm", |f| hold(f, "CapPrm", 1 << 21)),
    ("CapEff", |f| hold(f, "CapEff", 1 << 40)),
    ("CapBnd", |f| hold(f, "CapBnd", 1 << 7)),
    ("CapAmb", |f| hold(f, "CapAmb", 1)),
    ("the number of capability sets", |f| f.capabilities.retain(|set, _| set != "CapBnd")),
    ("no_new_privs", |f| f.no_new_privs = false),
    ("the seccomp mode", |f| f.seccomp_mode = 0),
    ("the seccomp mode", |f| f.seccomp_mode = 1),
    ("the number of seccomp filters", |f| f.seccomp_filters = Some(1)),
    ("the number of seccomp filters", |f| f.seccomp_filters = None),
    ("the uid map", |f| f.uid_map[0].outside = 0),
    ("the uid map", |f| f.uid_map.clear()),
    ("the gid map", |f| f.gid_map[0].count = 65_536),
    ("the cgroup namespace", |f| share(f, "cgroup")),
    ("the ipc namespace", |f| share(f, "ipc")),
    ("the mnt namespace", |f| share(f, "mnt")),
    ("the net namespace", |f| share(f, "net")),
    ("the pid namespace", |f| share(f, "pid")),
    ("the user namespace", |f| share(f, "user")),
    ("the uts namespace", |f| share(f, "uts")),
    ("the mount /dev/shm", |f| unmount(f, "/dev/shm")),
    ("the mount /", |f| lose(f, "/", "nosuid")),
    ("the mount /sys", |f| lose(f, "/sys", "ro")),
    ("the mount /proc/sys", |f| lose(f, "/proc/sys", "ro")),
    ("the mount /safe_data", |f| lose(f, "/safe_data", "nodev")),
    ("the mount /etc/hosts", |f| lose(f, "/etc/hosts", "noexec")),
    // Mounted below the data: it has to carry the data's flags.
    ("the mount /safe_data/below", |f| lose(f, "/safe_data/below", "ro")),
    ("the mount /safe_data/below", |f| lose(f, "/safe_data/below", "nosuid")),
    ("an unexpected mount is \"/host\"", |f| add(f, "/host")),
    ("an unexpected mount is \"/dev/sda\"", |f| add(f, "/dev/sda")),
    ("a masked path is \"/proc/keys\"", |f| unmount(f, "/proc/keys")),
    ("an open descriptor", |f| f.descriptors.push("/etc/shadow".to_owned())),
    ("an open descriptor", |f| f.descriptors.push("anon_inode:[eventpoll]".to_owned())),
    ("an open descriptor", |f| f.descriptors.push("anon_inode:seccomp notify".to_owned())),
    ("an open descriptor", |f| f.descriptors.push("socket:[7] kept open".to_owned())),
    ("the process limit core", |f| f.rlimits.clear()),
    ("the process limit core", |f| bound(f, "core", Rlimit { soft: Some(0), hard: Some(1) })),
    ("the process limit nofile", |f| bound(f, "nofile", Rlimit { soft: Some(512), hard: None })),
    ("the process limit nofile", |f| bound(f, "nofile", rlimit(1025))),
    ("the control group", |f| f.cgroups = vec!["0::/".to_owned(), "4:memory:/".to_owned()]),
    // In one hierarchy, not in the other.
    ("the control group", |f| f.cgroups.push("5:cpu,cpuacct:/".to_owned())),
    ("the control group", |f| f.cgroups = vec!["0::/".to_owned()]),
    ("the control group", |f| f.cgroups.clear()),
    ("the mount /proc", |f| f.of_the_host = [PathBuf::from("/proc")].into()),
    ("the mount /safe_data", |f| drop(f.peers.insert(PathBuf::from("/safe_data"), "shared:1".to_owned()))),
    ("a network interface is \"eth0\"", |f| f.interfaces.push("eth0".to_owned())),
    ("a network route", |f| f.routes.push("lo 000200C0".to_owned())),
    ("the device /dev/null", |f| drop(f.devices.insert("null".to_owned(), "c 1:11".to_owned()))),
    ("the device /dev/sda", |f| drop(f.devices.insert("sda".to_owned(), "b 8:0".to_owned()))),
    ("the device /dev/console", |f| drop(f.devices.insert("console".to_owned(), "c 5:1".to_owned()))),
    ("a limit", |f| f.limits = None),
    ("the limit of traffic with the disk 8:16", |f| f.limits = Some(Observed { io: BTreeMap::new(), ..limits() })),
    ("the processor limit", |f| f.limits = Some(Observed { cpus: None, ..limits() })),
];

fn share(facts: &mut Enforced, namespace: &str) {
    facts.own_namespaces.retain(|name| name != namespace);
}

fn hold(facts: &mut Enforced, set: &str, mask: u64) {
    facts.capabilities.insert(set.to_owned(), mask);
}

fn bound(facts: &mut Enforced, name: &str, is: Rlimit) {
    facts.rlimits.insert(name.to_owned(), is);
}

fn unmount(facts: &mut Enforced, at: &str) {
    facts.mounts.retain(|point, _| point != Path::new(at));
}

fn lose(facts: &mut Enforced, at: &str, flag: &str) {
    facts.mounts.get_mut(Path::new(at)).expect("a mount").retain(|option| option != flag);
}

fn add(facts: &mut Enforced, at: &str) {
    facts.mounts.insert(PathBuf::from(at), vec!["rw".to_owned()]);
}

#[test]
fn a_container_with_every_protection_is_let_through() {
    assert_eq!(compare(&promised(), &found()), Vec::<String>::new());
    let fewer = |change: fn(&mut Expected)| {
        let mut expected = promised();
        change(&mut expected);
        compare(&expected, &found())
    };
    // Where the host gives no limits and the policy does without, none are asked for.
    assert_eq!(fewer(|e| (e.limits, e.cgroup) = (None, None)), Vec::<String>::new());
    assert_eq!(fewer(|e| e.groups = vec![1, 2000]), Vec::<String>::new());
    // A kernel before 5.9 does not count filters.
    assert_eq!(fewer(|e| e.seccomp_filters = None), Vec::<String>::new());
    assert_eq!(fewer(|e| e.capabilities = 0xfb), Vec::<String>::new());
}

#[test]
fn each_missing_protection_is_named() {
    for (number, (words, lose)) in LOSSES.iter().enumerate() {
        let mut facts = found();
        lose(&mut facts);
        assert_ne!(facts, found(), "loss {number} changes nothing");
        let differences = compare(&promised(), &facts);
        assert!(differences.iter().any(|d| d.contains(words)), "loss {number}, {words}: {differences:?}");
        assert!(differences.iter().all(|d| d.contains(", must be ")), "{differences:?}");
    }
}

#[test]
fn each_limit_is_compared_and_may_be_stricter_but_not_looser() {
    let looser: [fn(&mut Observed); 10] = [
        |l| l.memory = None,
        |l| l.memory = Some((1 << 30) + 1),
        |l| l.memory_and_swap = None,
        |l| l.memory_and_swap = Some(2 << 30),
        |l| l.pids = None,
        |l| l.pids = Some(1025),
        |l| l.cpus = Some(2.5),
        |l| l.cpus = None,
        |l| l.io = [("8:16".to_owned(), (1 << 20) + 1)].into(),
        |l| l.io = [("8:0".to_owned(), 1)].into(),
    ];
    for (number, change) in looser.iter().enumerate() {
        let mut facts = found();
        change(facts.limits.as_mut().expect("limits"));
        let differences = compare(&promised(), &facts);
        assert_eq!(differences.len(), 1, "{number}: {differences:?}");
        assert!(differences[0].contains("limit"), "{number}: {differences:?}");
    }
    let mut facts = found();
    let io = [("8:16".to_owned(), 1)].into();
    facts.limits = Some(Observed { memory: Some(1), memory_and_swap: Some(1), cpus: Some(0.5), pids: Some(1), io });
    assert_eq!(compare(&promised(), &facts), Vec::<String>::new());
}

#[test]
fn no_protection_of_this_very_process_is_taken_for_in_force() {
    // A process of the host, asked by itself: nothing of what is promised holds.
    let host = Host::observe().expect("facts about the host");
    let facts = observe(Pid::this(), &host).expect("facts about this process");
    assert!(facts.own_namespaces.is_empty(), "{:?}", facts.own_namespaces);
    let differences = compare(&promised(), &facts);
    assert!(differences.len() > 15, "{differences:?}");
    assert!(as_root(|root| check(root, Pid::this(), &host, &promised(), None)).is_err());
}

#[test]
fn a_terminal_that_was_not_asked_for_is_named() {
    let expected = Expected { terminal: None, ..promised() };
    assert!(compare(&expected, &found()).iter().any(|what| what.contains("controlling terminal")));
    let piped = Enforced { terminal: 0, streams: [None; 3], ..found() };
    assert_eq!(compare(&expected, &piped), Vec::<String>::new());
    let null = Device { file_system: 5, device: nix::sys::stat::makedev(1, 3) };
    assert_eq!(compare(&expected, &Enforced { streams: [Some(null); 3], ..piped.clone() }), Vec::<String>::new());
    let of_the_caller = Enforced { streams: [None, None, Some(TERMINAL)], ..piped };
    assert!(compare(&expected, &of_the_caller).iter().any(|what| what.contains("a standard stream")));
}

#[test]
fn a_descriptor_that_is_closed_meanwhile_is_none_and_one_that_never_tells_is_kept_open() {
    let dir = tempfile::tempdir().unwrap();
    let (link, info) = (dir.path().join("3"), dir.path().join("info"));
    assert_eq!(observe::descriptor(&link, &info), None);
    std::os::unix::fs::symlink("socket:[1]", &link).unwrap();
    assert_eq!(observe::descriptor(&link, &info).unwrap(), "socket:[1] kept open");
    std::fs::write(&info, "pos:\t0\nflags:\t02000002\n").unwrap();
    assert_eq!(observe::descriptor(&link, &info).unwrap(), "socket:[1]");
    std::fs::write(&info, "pos:\t0\nflags:\t02\n").unwrap();
    assert_eq!(observe::descriptor(&link, &info).unwrap(), "socket:[1] kept open");
    std::fs::remove_file(&link).unwrap();
    assert_eq!(observe::descriptor(&link, &info), None);
}
