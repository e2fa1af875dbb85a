//! Published ports: from the host's loopback or a socket to the container's loopback, and nothing the other way.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::probe::PROBE;
use crate::support::{Host, Ran, Running, wait_until};

mod refused;

/// The port that the payload listens on.
const INSIDE: &str = "8000";

/// A host whose payload is the probe as a server (`tests/probe/serve.c`), and where its first port is on the host.
fn serve(host: &Host, options: &[&str], server: &str) -> (Running, String) {
    let running = host.start(options, &format!("exec {PROBE} serve {server}"));
    wait_until("the payload listens", || running.outputs.join("listening").exists());
    let at = published(host, &running, 0);
    (running, at)
}

/// Where a published port of a running container is, as its record says.
fn published(host: &Host, running: &Running, number: usize) -> String {
    let path = host.root().join(format!("log/runs/{}.json", running.id()));
    let record: Value = serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON");
    record["ports"][number]["host"].as_str().expect("a published port").to_owned()
}

/// A server at `127.0.0.1:8000` in the container, reached through a port that the kernel chose.
fn serve_at_any(host: &Host, how: &str, bytes: u64) -> (Running, TcpStream) {
    let (running, at) = serve(host, &["-p", "0:8000"], &format!("{how} 127.0.0.1 {INSIDE} {bytes}"));
    (running, TcpStream::connect(at).expect("a connection"))
}

/// Byte `at` of the probe's pattern.
fn pattern(at: u64) -> u8 {
    ((at ^ (at >> 8) ^ (at >> 16) ^ (at >> 24)) & 0xff) as u8
}

fn patterned(from: u64, length: usize) -> Vec<u8> {
    (from..).take(length).map(pattern).collect()
}

fn stop(running: Running) -> Ran {
    running.signal(Signal::SIGTERM);
    running.finish()
}

/// Says a word and hears it again.
fn echoes(mut stream: impl Read + Write, word: &[u8]) {
    stream.write_all(word).expect("a word is sent");
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).expect("a word is heard");
    assert_eq!(heard, word);
}

#[test]
fn a_published_port_is_reached_and_what_is_not_published_is_not() {
    let Some(host) = Host::with_probe() else { return };
    let (running, at) = serve(&host, &["-p", "0:8000"], "echo 127.0.0.1 8000");
    echoes(TcpStream::connect(&at).expect("the published port"), b"hello");
    assert!(at.starts_with("127.0.0.1:"), "{at}");
    // The port inside is not the port outside, and no other address of this host has either.
    let number = at.rsplit(':').next().expect("a port");
    for elsewhere in [format!("127.0.0.2:{number}"), format!("[::1]:{number}")] {
        assert!(TcpStream::connect(&elsewhere).is_err(), "{elsewhere} answers");
    }
    stop(running);
    assert!(TcpStream::connect(&at).is_err(), "{at} answers after the end");
    host.nothing_is_left();
}

#[test]
fn nothing_goes_from_the_container_to_the_host() {
    let Some(host) = Host::with_probe() else { return };
    let theirs = TcpListener::bind("127.0.0.1:0").expect("a service of the host");
    let port = theirs.local_addr().expect("its address").port();
    let script = format!(
        "{PROBE} facts; echo; for port in {port} $1; do nc 127.0.0.1 $port </dev/null && echo reached $port; done; true"
    );
    let ran = host.sh(&["-p", "0:8000", "-p", "unix:8001"], &script);
    let (facts, reached) = ran.exits(0).split_once("\n\n").expect("facts");
    let facts: Value = serde_json::from_str(facts).expect("JSON");
    assert_eq!(facts["descriptors"].as_array().expect("descriptors").len(), 3, "{facts}");
    assert_eq!(reached.trim(), "", "a service of the host is reached");
    let connects = facts["connects"].as_array().expect("attempts");
    assert!(connects.iter().all(|attempt| attempt["errno"] != 0), "{connects:?}");
    theirs.set_nonblocking(true).expect("a listener that does not wait");
    assert!(theirs.accept().is_err(), "the host's service was reached");
    host.nothing_is_left();
}

#[test]
fn the_relay_has_no_capability_and_only_sockets() {
    let Some(host) = Host::with_probe() else { return };
    let (running, at) = serve(&host, &["-p", "0:8000"], "echo 127.0.0.1 8000");
    echoes(TcpStream::connect(at).expect("the published port"), b"hello");
    let relay = relay(&running);
    let status = fs::read_to_string(format!("/proc/{relay}/status")).expect("its status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    let net = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/net")).expect("a network namespace");
    assert_ne!(net(relay), net(Pid::this()), "the relay is in the host's network namespace");
    for entry in fs::read_dir(format!("/proc/{relay}/fd")).expect("its descriptors") {
        let leads = fs::read_link(entry.expect("a descriptor").path()).expect("a link").display().to_string();
        let plain = ["socket:", "pipe:", "anon_inode:", "/dev/null"].iter().any(|kind| leads.starts_with(kind));
        assert!(plain, "the relay holds {leads}");
    }
    stop(running);
}

/// The relay of a running container: the child of the stage process that is not the container.
fn relay(running: &Running) -> Pid {
    let children = |pid: Pid| {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
        list.split_whitespace().map(|n| Pid::from_raw(n.parse().expect("a number"))).collect::<Vec<_>>()
    };
    let stage = children(running.pid()).first().copied().expect("a stage process");
    let space = |pid: Pid| fs::read_link(format!("/proc/{pid}/ns/pid")).expect("a process namespace");
    let host = space(Pid::this());
    children(stage).into_iter().find(|child| space(*child) == host).expect("a relay")
}

#[test]
fn many_connections_at_once_keep_their_bytes_apart() {
    const MANY: usize = 400;
    let Some(host) = Host::with_probe() else { return };
    let (running, at) = serve(&host, &["-p", "0:8000"], "echo 127.0.0.1 8000");
    let mut open: Vec<TcpStream> = (0..MANY).map(|_| TcpStream::connect(&at).expect("a connection")).collect();
    let word = |number: usize| format!("{number:06}").repeat(5000).into_bytes();
    for (number, stream) in open.iter_mut().enumerate() {
        stream.write_all(&word(number)).expect("a word is sent");
        stream.shutdown(Shutdown::Write).expect("an end is sent");
    }
    for (number, stream) in open.iter_mut().enumerate() {
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).expect("a word is heard");
        assert!(heard == word(number), "connection {number} heard {} bytes of another", heard.len());
    }
    // What has ended takes no place: the same number again.
    for number in 0..MANY {
        echoes(TcpStream::connect(&at).expect("a connection"), &word(number));
    }
    stop(running);
    host.nothing_is_left();
}

#[test]
fn connections_for_which_there_are_no_descriptors_wait_and_are_served_later() {
    const MANY: usize = 60;
    let Some(host) = Host::of_an_ordinary_user_with_probe() else { return };
    let ready = host.run_command(&["-p", "0:8000", "localhost/demo", PROBE, "serve", "echo", "127.0.0.1", INSIDE]);
    let mut command = host.command("prlimit");
    command.arg("--nofile=100:100").args(ready.get_args().skip_while(|word| *word != "--").skip(1));
    command.envs(ready.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut ces = command.stderr(std::process::Stdio::null()).spawn().expect("ces");
    wait_until("the payload listens", || {
        host.named("outputs_").pop().is_some_and(|dir| dir.join("listening").exists())
    });
    let at = host.records()[0]["ports"][0]["host"].as_str().expect("an address").to_owned();
    let mut open: Vec<TcpStream> = (0..MANY).map(|_| TcpStream::connect(&at).expect("a connection")).collect();
    // The first are served, and end; then the next.
    for (number, stream) in open.drain(..).enumerate() {
        echoes(&stream, number.to_string().as_bytes());
    }
    kill(Pid::from_raw(i32::try_from(ces.id()).expect("a number")), Signal::SIGTERM).expect("ces is there");
    ces.wait().expect("its end");
    host.nothing_is_left();
}

#[test]
fn either_side_may_end_its_half_first() {
    let Some(host) = Host::with_probe() else { return };
    // The host's half first: the server answers after the end of what it was sent.
    let (running, mut stream) = serve_at_any(&host, "count", 0);
    let sent = patterned(0, 3_000_000);
    stream.write_all(&sent).expect("bytes are sent");
    stream.shutdown(Shutdown::Write).expect("an end is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer.trim(), sent.len().to_string());
    stop(running);
    // The container's half first: its end is seen while this side has not ended.
    let (running, mut stream) = serve_at_any(&host, "flood", 100_000);
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("bytes to the end");
    assert!(heard == patterned(0, 100_000), "{} bytes came", heard.len());
    stop(running);
}

#[test]
fn a_gigabyte_there_and_back_arrives_as_it_was_sent() {
    const BLOCK: usize = 1 << 20;
    const BLOCKS: u64 = 1024;
    let Some(host) = Host::with_probe() else { return };
    let (running, mut stream) = serve_at_any(&host, "echo", 0);
    let mut sender = stream.try_clone().expect("a second handle");
    // One block with another beginning each time: a lost, doubled or moved byte is seen.
    let mut wanted = patterned(7, BLOCK);
    let mut block = wanted.clone();
    let sending = thread::spawn(move || {
        for number in 0..BLOCKS {
            block[..8].copy_from_slice(&number.to_ne_bytes());
            sender.write_all(&block).expect("a block is sent");
        }
        sender.shutdown(Shutdown::Write).expect("an end is sent");
    });
    let mut heard = vec![0; BLOCK];
    for number in 0..BLOCKS {
        stream.read_exact(&mut heard).expect("a block is heard");
        wanted[..8].copy_from_slice(&number.to_ne_bytes());
        assert!(heard == wanted, "block {number} is another");
    }
    assert_eq!(stream.read(&mut heard).expect("the end"), 0);
    sending.join().expect("the sender");
    stop(running);
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_loses_nothing() {
    const BYTES: u64 = 128 << 20;
    let Some(host) = Host::with_probe() else { return };
    let (running, mut stream) = serve_at_any(&host, "flood", BYTES);
    wait_until("the writer is stuck", || {
        fs::read_to_string(running.outputs.join("stuck")).is_ok_and(|n| n.ends_with('\n'))
    });
    let stuck: u64 = host.output("stuck").trim().parse().expect("a number");
    assert!(stuck < BYTES / 4, "{stuck} bytes are held by nobody who reads");
    let relay = fs::read_to_string(format!("/proc/{}/status", relay(&running))).expect("the relay's status");
    let anonymous = relay.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let kib: u64 = anonymous.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 16 << 10, "the relay holds {kib} KiB");
    // Then it all comes, in order.
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let n = stream.read(&mut buffer).expect("bytes");
        if n == 0 {
            break;
        }
        assert!(buffer[..n] == patterned(at, n)[..], "what came after byte {at} is another");
        at += n as u64;
    }
    assert_eq!(at, BYTES);
    stop(running);
}

#[test]
fn before_the_payload_listens_a_connection_is_closed_at_once() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&["-p", "0:8000"], "sleep 60");
    let at = published(&host, &running, 0);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&at).expect("the published port");
        let mut heard = Vec::new();
        // An end or a reset, as the sides' ends meet.
        let read = stream.read_to_end(&mut heard);
        assert!(
            heard.is_empty() && !matches!(&read, Err(e) if e.kind() != std::io::ErrorKind::ConnectionReset),
            "{read:?}"
        );
    }
    stop(running);
}

#[test]
fn a_service_on_the_containers_ipv6_loopback_alone_is_reached_too() {
    let Some(host) = Host::with_probe() else { return };
    let (running, at) = serve(&host, &["-p", "0:8000"], "echo ::1 8000");
    echoes(TcpStream::connect(at).expect("the published port"), b"hello");
    stop(running);
}

#[test]
fn what_the_payload_sent_last_arrives_after_its_end() {
    const BYTES: usize = 2 << 20;
    let Some(host) = Host::with_probe() else { return };
    let (running, mut stream) = serve_at_any(&host, "last", BYTES as u64);
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("bytes to the end");
    assert!(heard == patterned(0, BYTES), "{} bytes came", heard.len());
    running.finish().exits(0);
    host.nothing_is_left();
}

#[test]
fn the_port_that_the_kernel_chose_is_said_and_recorded() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&["-p", "0:8000", "-p", "127.0.0.1:0:8001", "-p", "8002"], "true");
    ran.exits(0);
    let records = host.records();
    let ports = records[0]["ports"].as_array().expect("ports");
    assert_eq!(ports.len(), 3);
    for (port, inside) in ports.iter().zip([8000, 8001, 8002]) {
        assert_eq!(port["container"], inside);
        let at = port["host"].as_str().expect("an address");
        assert!(ran.stderr.contains(&format!("port {inside} of the container is at {at}")), "{ran:?}");
    }
    assert!(ran.stderr.contains("every user of this host") && ran.stderr.contains("-p unix:8000"), "{ran:?}");
    let quiet = host.ces().args(["-q", "run", "-p", "0:8000", "localhost/demo", "/bin/true"]).output();
    assert_eq!(Ran::from(quiet).stderr, "");
}

#[test]
fn a_detached_run_says_its_port_to_who_started_it_and_serves_it_until_it_is_stopped() {
    let Some(host) = Host::with_probe() else { return };
    let words = ["-d", "--name", "db", "-p", "0:8000", "-p", "unix:~/db.sock:8000", "localhost/demo", PROBE];
    let ran = host.run(&[&words[..], &["serve", "echo", "127.0.0.1", INSIDE]].concat());
    ran.exits(0);
    let at = host.records()[0]["ports"][0]["host"].as_str().expect("an address").to_owned();
    assert!(ran.stderr.contains(&format!("port 8000 of the container is at {at}")), "{ran:?}");
    wait_until("the payload listens", || host.outputs().join("listening").exists());
    echoes(TcpStream::connect(&at).expect("the published port"), b"hello");
    echoes(UnixStream::connect(host.home().join("db.sock")).expect("the published socket"), b"hello");
    Ran::from(host.ces().args(["stop", "db"]).output()).exits(0);
    wait_until("the port is closed", || TcpStream::connect(&at).is_err());
    wait_until("the socket is gone", || !host.home().join("db.sock").exists());
    host.nothing_is_left();
}

#[test]
fn a_published_socket_is_the_researchers_alone_and_goes_with_the_run() {
    let Some(host) = Host::with_probe() else { return };
    let (running, named) = serve(&host, &["-p", "unix:~/db.sock:8000", "-p", "unix:8000"], "echo 127.0.0.1 8000");
    assert_eq!(named, host.researcher().dir.join("db.sock").display().to_string());
    let chosen = host.home().join(format!("port_{}_8000.sock", running.id()));
    for path in [host.home().join("db.sock"), chosen.clone()] {
        let found = fs::symlink_metadata(&path).expect("a socket");
        assert!(found.file_type().is_socket(), "{path:?}");
        assert_eq!((found.mode() & 0o777, found.uid()), (0o600, host.researcher().uid.as_raw()), "{path:?}");
        echoes(UnixStream::connect(&path).expect("a connection"), b"hello");
        // Somebody else, who can walk there.
        let mut other = host.command("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c"]);
        let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        let ran = Ran::from(other.arg(script).arg(&path).output());
        assert!(ran.stderr.contains("PermissionError"), "{ran:?}");
    }
    stop(running);
    assert!(!host.home().join("db.sock").exists() && !chosen.exists());

    // After kill -9 the next command removes it, and nothing else that is there by then.
    let (running, _) =
        serve(&host, &["-p", "unix:~/db.sock:8000", "-p", "unix:~/new.sock:8000"], "echo 127.0.0.1 8000");
    running.signal(Signal::SIGKILL);
    running.finish();
    fs::remove_file(host.home().join("new.sock")).expect("a socket left by the killed run");
    fs::write(host.home().join("new.sock"), "something new").expect("a file of the researcher");
    assert!(host.home().join("db.sock").exists());
    Ran::from(host.ces().arg("images").output()).exits(0);
    assert!(!host.home().join("db.sock").exists(), "a socket is left");
    assert_eq!(fs::read_to_string(host.home().join("new.sock")).expect("the file"), "something new");
    host.nothing_is_left();
}

#[test]
fn a_socket_is_never_made_over_something_and_only_where_the_researcher_may() {
    let Some(host) = Host::with_demo() else { return };
    let file = host.home().join("data.csv");
    fs::write(&file, "precious").expect("a file");
    std::os::unix::fs::symlink("/root/elsewhere.sock", host.home().join("link")).expect("a link");
    let live = UnixListener::bind(host.home().join("live.sock")).expect("a service");
    for name in ["data.csv", "link", "live.sock"] {
        host.sh(&["-p", &format!("unix:~/{name}:80")], "true").refuses(125, &[name, "there already"]);
    }
    assert_eq!(fs::read_to_string(&file).expect("the file"), "precious");
    drop(live);
    fs::set_permissions(host.tmp(), fs::Permissions::from_mode(0o755)).expect("permissions");
    for path in ["/root/a.sock", "/etc/a.sock", &format!("~/nosuch/{}", "a.sock")] {
        host.sh(&["-p", &format!("unix:{path}:80")], "true").refuses(125, &["a.sock"]);
    }
    let long = format!("unix:~/{}:80", "x".repeat(120));
    host.sh(&["-p", &long], "true").refuses(125, &["107 bytes"]);
    host.nothing_ran();
}

#[test]
fn when_the_relay_is_killed_the_run_goes_on_and_says_so() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&["-p", "0:8000"], "while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; echo done");
    let at = published(&host, &running, 0);
    kill(relay(&running), Signal::SIGKILL).expect("the relay is there");
    wait_until("the port is closed", || TcpStream::connect(&at).is_err());
    fs::write(running.outputs.join("go"), "").expect("a signal to go on");
    let ran = running.finish();
    assert_eq!(ran.exits(0), "done\n");
    assert!(ran.stderr.contains("the relay of the published ports was killed"), "{ran:?}");
    assert!(host.records()[0]["warnings"].to_string().contains("relay"));
    host.nothing_is_left();
}

#[test]
fn after_kill_9_of_ces_the_port_is_free_again() {
    let Some(host) = Host::with_probe() else { return };
    let (running, at) = serve(&host, &["-p", "0:8000"], "echo 127.0.0.1 8000");
    let mut stream = TcpStream::connect(&at).expect("a connection");
    stream.write_all(b"x").expect("a byte is sent");
    running.signal(Signal::SIGKILL);
    running.finish();
    wait_until("the port is free", || TcpListener::bind(&at).is_ok());
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).ok();
    wait_until("nothing of the run is left", || host.processes().is_empty());
    // The next command removes what a killed one could not.
    host.sh(&[], "true").exits(0);
    host.nothing_is_left();
}

#[test]
fn an_ordinary_users_container_is_reached_just_so() {
    let Some(host) = Host::with_probe() else { return };
    let data = PathBuf::from("/safe_data/probe");
    let user = host.researcher();
    let as_user = |words: &[&str]| {
        let mut command = host.command("setpriv");
        command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]).arg("--init-groups");
        command.arg(env!("CARGO_BIN_EXE_ces")).args(words);
        command.env("HOME", &user.dir).env("CES_TEST", host.token());
        command
    };
    let layout = format!("oci:{}:root", crate::support::demo_layout().display());
    Ran::from(as_user(&["pull", &layout]).output()).exits(0);
    let socket = host.home().join("s.sock");
    let script = format!("{} serve echo 127.0.0.1 8000", data.display());
    let words = [
        "run",
        "-e",
        &format!("CES_TEST={}", host.token()),
        "-p",
        "unix:~/s.sock:8000",
        "localhost/root",
        "/bin/sh",
        "-c",
        &script,
    ];
    let mut child = as_user(&words).spawn().expect("ces");
    wait_until("the payload answers", || {
        UnixStream::connect(&socket).is_ok_and(|mut stream| {
            let mut heard = [0; 1];
            stream.write_all(b"x").is_ok() && stream.read_exact(&mut heard).is_ok() && heard == *b"x"
        })
    });
    echoes(UnixStream::connect(&socket).expect("a connection"), b"hello");
    kill(Pid::from_raw(i32::try_from(child.id()).expect("a number")), Signal::SIGTERM).expect("ces is there");
    child.wait().expect("its end");
    assert!(!socket.exists());
    wait_until("nothing of the run is left", || host.processes().is_empty());
}
