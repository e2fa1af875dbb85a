//! What the probe sees from inside: identity, namespaces, network, environment, processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::probe::{each_host, field, strings};
use crate::support::{Host, Ran};

/// The five capability sets of `/proc/PID/status`.
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// Every way of running that a researcher has: image's user and root, both profiles.
const WAYS: [(&str, &[&str]); 4] = [
    ("localhost/demo", &[]),
    ("localhost/root", &[]),
    ("localhost/demo", &["--profile", "service"]),
    ("localhost/root", &["--profile", "service"]),
];

/// What holds in every way of running.
fn each_way(words: &[&str], judge: impl Fn(&Host, &str, &Value)) {
    each_host(|host| {
        for (image, options) in WAYS {
            let facts = host.probe(options, image, &[&["facts"], words].concat());
            judge(host, &format!("{image} {options:?}"), &facts);
        }
    });
}

#[test]
fn every_namespace_is_another_than_the_hosts() {
    each_way(&[], |_, way, facts| {
        let inside = facts["namespaces"].as_object().expect("namespaces");
        let names: Vec<&str> = inside.keys().map(String::as_str).collect();
        assert_eq!(names, ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]);
        for (name, is) in inside {
            let hosts = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
            let is = is.as_str().expect("a link");
            assert!(is.contains(":["), "{way}: {name} is {is}");
            assert_ne!(Path::new(is), hosts, "{way}: {name}");
        }
        // Not only another than this test's: no process of the host has it, so two runs share none either.
        assert_eq!(facts["cgroup"].as_str().map(|text| text.lines().all(|line| line.ends_with('/'))), Some(true));
    });
}

#[test]
fn two_runs_share_no_namespace() {
    each_host(|host| {
        let wait = "/safe_data/probe facts > /safe_outputs/facts.new; mv /safe_outputs/facts.new /safe_outputs/facts
            while [ ! -e /safe_outputs/go ]; do sleep 0.05; done";
        let runs = [host.start(&[], wait), host.start(&[], wait)];
        let mut seen = BTreeSet::new();
        for run in &runs {
            crate::support::wait_until("its facts", || run.outputs.join("facts").exists());
            let text = fs::read_to_string(run.outputs.join("facts")).expect("facts");
            let facts: Value = serde_json::from_str(&text).expect("JSON");
            for namespace in facts["namespaces"].as_object().expect("namespaces").values() {
                assert!(seen.insert(namespace.to_string()), "{namespace} is shared");
            }
            fs::write(run.outputs.join("go"), "").expect("a signal to go on");
        }
        for run in runs {
            run.finish().exits(0);
        }
    });
}

#[test]
fn no_address_beyond_loopback_can_be_reached_and_the_refusal_comes_at_once() {
    const ENETUNREACH: i64 = 101;
    each_way(&[], |_, way, facts| {
        assert_eq!(strings(&facts["interfaces"]), ["lo"], "{way}");
        let lines = facts["devices"].as_str().expect("net/dev").lines().filter(|l| l.contains(':')).count();
        assert_eq!(lines, 1, "{way}: {}", facts["devices"]);
        assert_eq!(facts["routes"].as_str().map(|r| r.lines().count()), Some(1), "{way}: a heading and no route");
        for line in facts["routes6"].as_str().unwrap_or_default().lines() {
            assert!(line.ends_with(" lo"), "{way}: {line}");
        }
        let tries = facts["connects"].as_array().expect("attempts");
        assert_eq!(tries.len(), 10, "{way}");
        for tried in tries {
            let errno = tried["errno"].as_i64().expect("an errno");
            // No route; for IPv6 also no such address family, or no address to come from.
            let six = tried["to"].as_str().is_some_and(|to| to.contains(':'));
            let expected = if six { vec![ENETUNREACH, 97, 99] } else { vec![ENETUNREACH] };
            assert!(expected.contains(&errno), "{way}: {tried}");
            assert!(tried["ms"].as_i64().expect("milliseconds") < 1000, "{way}: {tried}");
        }
        let resolvers = facts["resolvers"].as_str().expect("a file");
        assert!(!resolvers.contains("nameserver"), "{way}: nobody to ask for names: {resolvers}");
    });
}

#[test]
fn neither_abstract_nor_path_sockets_of_the_host_are_reached() {
    each_host(|host| {
        let name = format!("{}.abstract", host.token());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("an address");
        let heard = UnixListener::bind_addr(&address).expect("a listener of the host");
        let in_tmp = tempfile::Builder::new().prefix(host.token()).tempdir().expect("a directory");
        let path = in_tmp.path().join("socket");
        let also = UnixListener::bind(&path).expect("a listener of the host");
        for listener in [&heard, &also] {
            listener.set_nonblocking(true).expect("not to wait");
        }
        let words = [format!("abstract={name}"), format!("socket={}", path.display())];
        let facts = host.probe(&[], "localhost/demo", &["facts", &words[0], &words[1]]);
        let tries = facts["connects"].as_array().expect("attempts");
        let errno = |word: &str| tries.iter().find(|t| t["to"] == word).map(|t| t["errno"].as_i64());
        assert_eq!(errno(&words[0]), Some(Some(111)), "refused: nobody listens there");
        assert_eq!(errno(&words[1]), Some(Some(2)), "no such file");
        assert!(heard.accept().is_err() && also.accept().is_err(), "nobody came");
        assert!(!facts["unix_sockets"].as_str().expect("net/unix").contains(host.token()));
    });
}

#[test]
fn a_service_of_the_host_that_listens_in_what_is_bound_is_a_refusal() {
    each_host(|host| {
        host.policy("[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n");
        let home = &host.researcher().dir;
        let run = |options: &[&str]| host.run(&[options, &["localhost/demo", "/bin/true"]].concat());
        // Bound by the name that it has on the test's host, as a service there would have bound it.
        let serve = |name: &str| {
            let script = "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True); time.sleep(60)";
            let path = home.join(name);
            let mut service = host
                .command("python3")
                .args(["-c", script])
                .arg(&path)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a service");
            let mut line = String::new();
            BufReader::new(service.stdout.take().expect("its output")).read_line(&mut line).expect("its word");
            assert_eq!(line, "up\n");
            (service, path)
        };
        run(&[]).exits(0);
        fs::create_dir(host.home().join("work")).expect("a directory to bind");
        let bind = format!("{}:/work:ro", home.join("work").display());
        for (name, options) in [("safe_data/service", &[][..]), ("work/service", &["-v", &bind])] {
            let outputs = host.named("outputs_").len();
            let (mut service, path) = serve(name);
            let ran = run(options);
            service.kill().expect("it is there");
            service.wait().expect("its end");
            ran.refuses(125, &[&path.display().to_string(), "socket of the host"]);
            assert_eq!(host.named("outputs_").len(), outputs, "nothing ran");
            // What is left of it is a name: nobody listens.
            run(options).exits(0);
        }
    });
}

#[test]
fn batch_has_five_empty_capability_sets_and_service_exactly_seven_capabilities() {
    each_way(&[], |_, way, facts| {
        let batch = !way.contains("service");
        // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7.
        let seven = 0b1111_1011_u64;
        for status in [&facts["status"], &facts["init_status"]] {
            for set in SETS {
                let held = u64::from_str_radix(field(status, set), 16).expect("a mask");
                let root = way.contains("root");
                let expected = match set {
                    _ if batch => 0,
                    "CapInh" | "CapAmb" => 0,
                    "CapBnd" => seven,
                    // A user other than root starts with none, and no file gives any.
                    _ if root => seven,
                    _ => held & seven,
                };
                assert_eq!(held, expected, "{way}: {set}");
            }
            assert_eq!(field(status, "NoNewPrivs"), "1", "{way}");
            assert_eq!(field(status, "Seccomp"), "2", "{way}");
            assert_eq!(field(status, "Seccomp_filters"), "1", "{way}");
        }
        if !batch && !way.contains("root") {
            for set in ["CapPrm", "CapEff"] {
                assert_eq!(field(&facts["status"], set), "0000000000000000", "{way}: {set} of an ordinary user");
            }
        }
    });
}

#[test]
fn service_can_drop_to_another_user_but_reaches_no_one_outside() {
    each_host(|host| {
        let service = ["--profile", "service"];
        let dropped = host.probe(&service, "localhost/root", &["drop", "1000", "/safe_data/probe", "ids"]);
        assert_eq!(dropped["uids"], serde_json::json!([1000, 1000, 1000]));
        let batch = host.probe_run(&[], "localhost/root", &["drop", "1000", "/safe_data/probe", "ids"]);
        batch.exits(1);
        assert!(batch.stderr.contains("not permitted"), "{batch:?}");
        // DAC_OVERRIDE counts for mapped owners only: a file of the host's root stays shut.
        let secret = host.home().join("safe_data/secret");
        fs::write(&secret, "of the host's root\n").expect("a secret");
        fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("permissions");
        let script = "! cat /safe_data/secret && ! chown 0:0 /safe_data/secret && ! chmod 777 /safe_data/secret";
        host.run(&["--profile", "service", "localhost/root", "/bin/sh", "-c", script]).exits(0);
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&secret).expect("the secret")) & 0o777, 0o600);
    });
}

#[test]
fn a_setuid_program_has_no_effect() {
    each_host(|host| {
        // One that the host has in the data, of whom the container's root is there; and inside none can be made.
        let tool = host.home().join("safe_data/tool");
        fs::copy(host.home().join("safe_data/probe"), &tool).expect("a copy");
        let user = host.researcher();
        std::os::unix::fs::chown(&tool, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("an owner");
        fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o6755)).expect("its bits");
        // As root of the container with SETUID and CHOWN, so that only nosuid and no_new_privs stand in the way.
        let script = "chmod 755 /scratch && test -u /safe_data/tool -a -g /safe_data/tool || exit 1
            /safe_data/probe drop 1000 /safe_data/tool ids
            for f in /scratch/p /tmp/p /opt.p; do
                cp /safe_data/probe $f && chown 0:0 $f || exit 1
                for mode in 6755 4755 2755 u+s g+s; do ! chmod $mode $f || exit 1; done
                ! test -u $f && ! test -g $f && chmod 755 $f && /safe_data/probe drop 1000 $f ids || exit 1
            done";
        let ran = host.run(&["--profile", "service", "localhost/root", "/bin/sh", "-c", script]);
        let lines: Vec<&str> = ran.exits(0).lines().collect();
        assert_eq!(lines, [r#"{"uids":[1000,1000,1000],"gids":[1000,1000,1000]}"#; 4]);
    });
}

#[test]
fn environment_and_descriptors_are_exactly_those_of_the_run() {
    each_host(|host| {
        let mut command =
            host.run_command(&["-e", "COLOUR=blue", "--name", "n", "localhost/demo", "/safe_data/probe", "facts"]);
        command.env("SECRET", "of the host").env("LD_PRELOAD", "").env("LISTEN_FDS", "3").env("NOTIFY_SOCKET", "/x");
        let ran = Ran::from(command.output());
        let facts: Value = serde_json::from_str(ran.exits(0)).expect("facts");
        let mut names: Vec<&str> =
            strings(&facts["environment"]).iter().map(|e| e.split('=').next().unwrap_or("")).collect();
        names.sort_unstable();
        names.retain(|name| *name != "TERM");
        assert_eq!(names, ["CES_TEST", "COLOUR", "HOME", "HOSTNAME", "PATH", "TMPDIR"]);
        // PID 1 has none, and lets nobody look.
        assert!(
            facts["init_environment"].is_null() || facts["init_environment"] == "",
            "{}",
            facts["init_environment"]
        );
        let command = facts["init_command"].as_str().expect("PID 1's command line");
        assert!(!command.contains("SECRET") && !command.contains(host.token()), "{command}");
        let mut numbers: Vec<i64> = facts["descriptors"]
            .as_array()
            .expect("descriptors")
            .iter()
            .map(|d| d["fd"].as_i64().unwrap_or(-1))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2], "{}", facts["descriptors"]);
    });
}

#[test]
fn no_process_of_the_host_is_seen_and_no_terminal_is_held() {
    each_way(&[], |_, way, facts| {
        // PID 1 and the probe.
        assert_eq!(strings(&facts["processes"]).len(), 2, "{way}: {}", facts["processes"]);
        assert_eq!(field(&facts["status"], "PPid"), "1", "{way}");
        assert_eq!(field(&facts["status"], "NSpid").split_whitespace().count(), 1, "{way}");
        assert_eq!(facts["terminal"], 6, "{way}: ENXIO, no controlling terminal");
        assert_eq!(facts["sysvipc"].as_str().map(|t| t.lines().count()), Some(1), "{way}: no segment");
    });
}

#[test]
fn host_name_limits_and_score_are_what_the_spec_says() {
    each_host(|host| {
        let facts = host.probe(&["--hostname", "ward"], "localhost/demo", &["facts"]);
        assert_eq!(facts["hostname"], "ward");
        assert_eq!(facts["oom_score_adj"], "500\n");
        let limits = facts["limits"].as_str().expect("limits");
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).expect("the core limit");
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        let map = facts["uid_map"].as_str().expect("a map");
        if host.is_of_an_ordinary_user() {
            // Told from the container's own namespace, whose one root is the caller.
            assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["1000", "0", "1"]);
            let record = host.records().pop().expect("a record");
            let on_host = &record["enforced"]["uid_map"][0];
            assert_eq!(on_host["outside"].as_u64(), Some(host.researcher().uid.as_raw().into()), "{record}");
        } else {
            assert!(map.lines().all(|line| line.split_whitespace().nth(1) != Some("0")), "host root is mapped: {map}");
        }
    });
}

#[test]
fn a_crash_leaves_no_core_file_anywhere() {
    let Some(host) = Host::with_demo() else { return };
    let script = "cd /scratch; ulimit -c unlimited 2>/dev/null; ulimit -c; (kill -SEGV $(sh -c 'echo $PPID'); true); ls -A /scratch /safe_outputs /tmp";
    let ran = host.sh(&[], script);
    assert!(!ran.exits(0).contains("core"), "{ran:?}");
    assert_eq!(ran.stdout.lines().next(), Some("0"), "the limit cannot be raised: {ran:?}");
    assert!(host.named("outputs_").is_empty(), "nothing was left");
}
