//! A payload's standard streams: pipes of ces's own, whole and in order, and no way to what the caller has there.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, wait_until};

/// One test a caller, so that each line of the matrix is seen.
macro_rules! for_each_caller {
    ($($promise:ident),* $(,)?) => {
        mod root { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::Root); })* }
        mod sudo { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::Sudo); })* }
        mod user_with_subids { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::UserWithSubids); })* }
        mod user { $(#[test] fn $promise() { super::$promise(crate::support::callers::Caller::User); })* }
    };
}

for_each_caller!(
    streams_open_by_name_for_every_user_of_an_image,
    nothing_of_the_callers_streams_is_in_the_container,
    what_is_more_than_bytes_to_read_is_refused_as_standard_input,
    large_outputs_arrive_whole_on_both_streams_at_once,
    a_reader_that_has_enough_ends_the_payload,
    a_command_of_exec_has_such_streams_too,
);

/// Opens each stream by all its names.
const BY_NAME: &str = "set -e
    echo one > /dev/stdout; echo two | tee /dev/fd/1; echo three >> /proc/self/fd/1
    echo four > /dev/stderr; echo five | tee /dev/fd/2 > /dev/null; echo six > /proc/self/fd/2
    exec 3< /dev/stdin; cat <&3";

/// The command run as shell script in the demonstration image, not yet started.
fn script(desk: &Desk, options: &[&str], script: &str) -> Command {
    desk.command(&[&["-q", "run"], options, &["localhost/demo", "/bin/sh", "-c", script]].concat())
}

fn with_input(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
    child.stdin.take().expect("its standard input").write_all(input).expect("input");
    Ran::from(child.wait_with_output())
}

/// A new file in the test's directory, which the caller may write to.
fn file(desk: &Desk, name: &str, text: &[u8]) -> (PathBuf, File) {
    let path = desk.home().join(name);
    fs::write(&path, text).expect("a file");
    std::os::unix::fs::chown(&path, Some(desk.owner()), None).expect("an owner");
    let opened = OpenOptions::new().read(true).append(true).open(&path).expect("a file");
    (path, opened)
}

fn ends_within(child: &mut Child, time: Duration) -> std::process::ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            return status;
        }
        assert!(began.elapsed() < time, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn streams_open_by_name_for_every_user_of_an_image(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    for options in [&["--user", "root"][..], &["--user", "analyst"], &["--user", "33"], &["--user", "12:34"]] {
        let ran = with_input(script(&desk, &[&["-i"], options].concat(), BY_NAME), b"in\n");
        assert_eq!(
            (ran.exits(0), ran.stderr.as_str()),
            ("one\ntwo\ntwo\nthree\nin\n", "four\nfive\nsix\n"),
            "{options:?}"
        );
    }
    // They belong to whom they are given, and stay open to whom that one becomes.
    let owner = "stat -Lc %u /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 2>&1 | uniq";
    let ran = with_input(script(&desk, &["-i", "--user", "33"], &format!("({owner}) | tail -n 1")), b"");
    assert_eq!(ran.exits(0), "33\n");
    if caller != Caller::User {
        let other = format!("stat -Lc %u /proc/self/fd/1; exec su -s /bin/sh analyst -c '{BY_NAME}'");
        let ran = with_input(script(&desk, &["-i", "--user", "0", "--profile", "service"], &other), b"in\n");
        assert_eq!((ran.exits(0), ran.stderr.as_str()), ("0\none\ntwo\ntwo\nthree\nin\n", "four\nfive\nsix\n"));
    }
    // Into a log there are pipes as well.
    let ran = desk.ces(&["-q", "run", "-d", "localhost/demo", "/bin/sh", "-c", BY_NAME]);
    let id = ran.exits(0).trim().to_owned();
    wait_until("the log", || desk.ces(&["logs", &id]).stdout.contains("six"));
    let log = desk.ces(&["logs", &id]);
    for word in ["one", "two", "three", "four", "five", "six"] {
        assert!(log.exits(0).contains(word), "{log:?}");
    }
}

fn nothing_of_the_callers_streams_is_in_the_container(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let (log_path, log) = file(&desk, "log", b"before\n");
    let (in_path, mut input) = file(&desk, "in", b"input\n");
    input.rewind().expect("the beginning");
    let attack = "for n in 0 1 2; do readlink /proc/self/fd/$n; done
        : > /proc/self/fd/1; : > /proc/1/fd/1; echo overwritten 1<> /proc/self/fd/1; echo x >> /proc/self/fd/0
        truncate -s 0 /proc/self/fd/0 /proc/self/fd/1; ls /proc/self/fd/0/.. ; true";
    let mut command = script(&desk, &["-i"], &format!("({attack}) 2> /dev/null; cat; echo end"));
    command.stdin(input).stdout(log.try_clone().expect("a copy")).stderr(log);
    assert!(command.status().expect("ces").success());
    let said = fs::read_to_string(&log_path).expect("the log");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "before", "{said}");
    assert!(lines[1].starts_with("pipe:") && lines[2].starts_with("pipe:"), "{said}");
    assert_eq!(lines.last(), Some(&"end"), "{said}");
    assert_eq!(fs::read_to_string(&in_path).expect("the input"), "input\n");
    // Without -i nothing is read, and nothing of it is there.
    let (_, mut unread) = file(&desk, "unread", b"not for it\n");
    unread.rewind().expect("the beginning");
    let mut command = script(&desk, &[], "readlink /proc/self/fd/0; cat");
    let ran = Ran::from(command.stdin(unread.try_clone().expect("a copy")).output());
    assert_eq!(ran.exits(0), "/dev/null\n");
    assert_eq!(unread.stream_position().expect("a position"), 0);
    // The null device is the container's own, on every stream.
    let words =
        "l=$(for n in 0 1 2; do readlink /proc/$$/fd/$n; done); echo \"$l\" > /safe_outputs/f; echo x; echo x >&2";
    let mut command = script(&desk, &["-i"], words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("ces").success());
    // Runs of one second have names in any order; of those in root's home only this test's count.
    let own = |dir: &Path| {
        let id = dir.file_name().and_then(|name| name.to_str()?.strip_prefix("outputs_"));
        id.is_some_and(|id| desk.log().join(format!("runs/{id}.json")).exists())
    };
    let dirs = desk.named("outputs_").into_iter().filter(|dir| own(dir));
    let mut found = dirs.filter_map(|dir| fs::read_to_string(dir.join("f")).ok());
    let links = found.next().expect("an output");
    assert!(links.lines().count() == 3 && links.lines().all(|line| line.ends_with("/dev/null")), "{links}");
}

fn what_is_more_than_bytes_to_read_is_refused_as_standard_input(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let mut streams: Vec<(OwnedFd, &str)> =
        vec![(File::open("/").expect("a directory").into(), "a directory"), (socket.into(), "a socket")];
    let mut disks = crate::support::children(Path::new("/dev"));
    disks.retain(|path| fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()));
    if let Some(disk) = disks.iter().find_map(|path| File::open(path).ok()) {
        streams.push((disk.into(), "a block device"));
    }
    for (stream, what) in streams {
        for options in [&["-i"][..], &["-it"]] {
            let mut command = script(&desk, options, "touch /safe_outputs/ran");
            command.stdin(stream.try_clone().expect("a copy"));
            Ran::from(command.output()).refuses(125, &["standard input is", what]);
        }
        // It is not read without -i, and harms nobody.
        let mut command = script(&desk, &[], "readlink /proc/self/fd/0");
        assert_eq!(Ran::from(command.stdin(stream).output()).exits(0), "/dev/null\n");
    }
    assert!(desk.named("outputs_").iter().all(|dir| !dir.join("ran").exists()));
}

/// `bytes` of a line, over and over, on standard output; as many of another on standard error.
fn both(bytes: usize) -> String {
    format!("yes output | head -c {bytes} & yes error | head -c {bytes} >&2; wait")
}

#[track_caller]
fn is_whole(found: &[u8], line: &[u8], bytes: usize) {
    assert_eq!(found.len(), bytes, "bytes came of {bytes}");
    let wrong = found.chunks(line.len()).position(|one| one != &line[..one.len()]);
    assert_eq!(wrong, None, "the first line that is wrong");
}

fn large_outputs_arrive_whole_on_both_streams_at_once(caller: Caller) {
    const LARGE: usize = 100_000_000;
    const SMALLER: usize = 10_000_001;
    let Some(desk) = Desk::with_demo(caller) else { return };
    let output = script(&desk, &[], &both(LARGE)).output().expect("ces");
    is_whole(&output.stdout, b"output\n", LARGE);
    is_whole(&output.stderr, b"error\n", LARGE);
    // Into a file and into a log that is appended to.
    let (appended, log) = file(&desk, "log", b"output\n");
    let path = desk.home().join("plain");
    let plain = File::create(&path).expect("a file");
    let mut command = script(&desk, &[], &both(SMALLER));
    assert!(command.stdout(log).stderr(plain).status().expect("ces").success());
    is_whole(&fs::read(appended).expect("the log"), b"output\n", SMALLER + 7);
    is_whole(&fs::read(path).expect("the file"), b"error\n", SMALLER);
    // Into a socket, whose reader is slow to begin.
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    let mut command = script(&desk, &[], &both(SMALLER));
    let mut child = command.stdout(OwnedFd::from(theirs)).stderr(Stdio::null()).spawn().expect("ces");
    drop(command);
    std::thread::sleep(Duration::from_secs(1));
    let mut found = Vec::new();
    ours.read_to_end(&mut found).expect("output");
    assert!(child.wait().expect("its end").success());
    is_whole(&found, b"output\n", SMALLER);
    // From a file and back.
    let (_, mut input) = file(&desk, "in", &b"input\n".repeat(SMALLER / 6));
    input.rewind().expect("the beginning");
    let mut command = script(&desk, &["-i"], "cat");
    is_whole(&command.stdin(input).output().expect("ces").stdout, b"input\n", SMALLER / 6 * 6);
}

fn a_reader_that_has_enough_ends_the_payload(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let mut command = script(&desk, &[], "yes");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ces");
    let mut line = [0; 2];
    child.stdout.take().expect("its output").read_exact(&mut line).expect("a line");
    assert_eq!(ends_within(&mut child, Duration::from_secs(20)).code(), Some(141), "killed by SIGPIPE");
    // A payload that does not want all of its input, or nothing.
    for (words, said) in [("head -c 1", "x"), ("true", ""), ("exec 0<&-; sleep 0.3", "")] {
        let mut command = script(&desk, &["-i"], words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ces");
        let mut stdin = child.stdin.take().expect("its input");
        let writer = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 5_000_000]));
        let ran = Ran::from(child.wait_with_output());
        assert_eq!(ran.exits(0), said, "{words}");
        assert!(writer.join().expect("the writer").is_err(), "and the writer is told: {words}");
    }
}

fn a_command_of_exec_has_such_streams_too(caller: Caller) {
    let Some(desk) = Desk::with_demo(caller) else { return };
    let policy = "[interactive]\nexec = true\n";
    desk.host.policy(policy);
    let wait = ["-q", "run", "-d", "--name", "one", "localhost/demo", "sleep", "100"];
    desk.ces(&wait).exits(0);
    let exec =
        |options: &[&str], words: &str| desk.command(&[&["exec"], options, &["one", "/bin/sh", "-c", words]].concat());
    let ran = with_input(exec(&["-i"], BY_NAME), b"in\n");
    assert_eq!((ran.exits(0), ran.stderr.as_str()), ("one\ntwo\ntwo\nthree\nin\n", "four\nfive\nsix\n"));
    let (path, log) = file(&desk, "log", b"before\n");
    let mut command = exec(&[], "readlink /proc/self/fd/1; : > /proc/self/fd/1; echo end");
    assert!(command.stdout(log).status().expect("ces").success());
    let said = fs::read_to_string(path).expect("the log");
    assert!(said.starts_with("before\npipe:") && said.ends_with("\nend\n"), "{said}");
    let mut command = exec(&["-i"], "true");
    let refused = Ran::from(command.stdin(File::open("/").expect("a directory")).output());
    refused.refuses(125, &["standard input is a directory"]);
    let output = exec(&[], &both(10_000_000)).output().expect("ces");
    is_whole(&output.stdout, b"output\n", 10_000_000);
    is_whole(&output.stderr, b"error\n", 10_000_000);
    // What a command leaves in the background does not hold up who called.
    let mut command = exec(&[], "sleep 90 & echo left");
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ces");
    assert!(ends_within(&mut child, Duration::from_secs(20)).success());
    assert_eq!(Ran::from(child.wait_with_output()).stdout, "left\n");
    desk.ces(&["stop", "-t", "0", "one"]).exits(0);
}

#[test]
fn what_was_written_before_the_end_arrives_and_what_lives_on_holds_nobody_up() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let words = "sleep 100 & (sleep 100 &) ; yes output | head -c 200000; kill -9 $$";
    let mut command = script(&desk, &[], words);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ces");
    // Nobody reads until it is over.
    std::thread::sleep(Duration::from_secs(2));
    let mut found = Vec::new();
    child.stdout.take().expect("its output").read_to_end(&mut found).expect("output");
    is_whole(&found, b"output\n", 200_000);
    assert_eq!(ends_within(&mut child, Duration::from_secs(20)).code(), Some(137));
    desk.host.nothing_is_left();
}

#[test]
fn both_streams_in_one_file_stay_in_order() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let words = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let (path, log) = file(&desk, "log", b"");
    let mut command = script(&desk, &[], words);
    command.stdout(log.try_clone().expect("a copy")).stderr(log);
    assert!(command.status().expect("ces").success());
    let expected: String = (0..500).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(fs::read_to_string(path).expect("the log"), expected);
}

#[test]
fn a_reader_that_stops_stops_the_payload_and_not_the_deadline() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let words = "i=0; while :; do echo $i; echo $i > /safe_outputs/n; i=$((i+1)); done";
    let (ours, theirs) = nix::unistd::pipe().expect("a pipe");
    let shared = theirs.try_clone().expect("a copy");
    let mut command = script(&desk, &["--timeout", "4s"], words);
    let began = Instant::now();
    let mut child = command.stdout(theirs).stderr(Stdio::piped()).spawn().expect("ces");
    drop(command);
    let count = || fs::read_to_string(desk.outputs().join("n")).unwrap_or_default();
    wait_until("the payload", || !desk.named("outputs_").is_empty() && !count().is_empty());
    std::thread::sleep(Duration::from_secs(2));
    // What the caller shares with other programs is as it was.
    let flags = OFlag::from_bits_retain(fcntl(shared.as_fd(), FcntlArg::F_GETFL).expect("flags"));
    assert!(!flags.contains(OFlag::O_NONBLOCK));
    drop(shared);
    let status = ends_within(&mut child, Duration::from_secs(20));
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(124));
    let said = Ran::from(child.wait_with_output());
    said.stderr.contains("not everything was passed on").then_some(()).expect("the loss is told");
    assert!(desk.record()["warnings"].to_string().contains("standard output: the rest was not read in time"));
    drop(ours);
    desk.host.nothing_is_left();
}

#[test]
fn output_for_which_there_is_no_room_is_no_success() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("the full device");
    let mut command = script(&desk, &[], "echo x");
    Ran::from(command.stdout(full()).stderr(Stdio::piped()).output()).refuses(1, &["standard output", "space"]);
    // Its own end is the payload's to tell.
    let mut command = script(&desk, &[], "echo x; exit 7");
    assert_eq!(command.stdout(full()).status().expect("ces").code(), Some(7));
    assert!(desk.record()["warnings"].to_string().contains("standard output: No space left"));
}

#[test]
fn a_file_that_may_not_grow_ends_the_output_and_not_ces() {
    let Some(desk) = Desk::with_demo(Caller::User) else { return };
    let (path, log) = file(&desk, "log", b"");
    let whole = script(&desk, &[], "yes output | head -c 1000000; true");
    // After nsenter(1), which is how a test's host is entered.
    let mut command = Command::new("prlimit");
    command.arg("--fsize=131072:131072").arg("--").arg(whole.get_program()).args(whole.get_args()).env_clear();
    command.envs(whole.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = Ran::from(command.stdin(Stdio::null()).stdout(log).stderr(Stdio::piped()).output());
    ran.refuses(1, &["standard output", "too large"]);
    is_whole(&fs::read(path).expect("the log"), b"output\n", 131_072);
    assert_eq!(desk.record()["state"], "finished");
}
