//! What a payload sees and what it may do; what it leaves to the researcher.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use crate::support::{Host, Ran, WARD_CSV, wait_until};

#[test]
fn the_only_network_interface_is_loopback_and_it_is_up() {
    let Some(host) = Host::with_demo() else { return };
    let links = host.sh(&[], "ip -o link");
    let links = links.exits(0);
    assert_eq!(links.lines().count(), 1, "{links}");
    assert!(links.contains(": lo: ") && links.contains("LOOPBACK,UP"), "{links}");
    host.sh(&[], "nc -l -p 8000 -e echo heard & sleep 0.3; nc 127.0.0.1 8000").exits(0);
}

#[test]
fn a_connection_to_the_outside_fails_at_once() {
    let Some(host) = Host::with_demo() else { return };
    // "At once" is the kernel's own word: no route, rather than a timeout.
    for address in ["192.0.2.1", "169.254.169.254", "10.0.0.1"] {
        let ran = host.sh(&[], &format!("nc -w 20 {address} 80 </dev/null"));
        assert_ne!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains("unreachable"), "{ran:?}");
    }
    let ran = host.sh(&[], "nslookup example.org; ! grep nameserver /etc/resolv.conf");
    ran.exits(0);
}

#[test]
fn the_payload_has_no_capability_and_gains_none() {
    let Some(host) = Host::with_demo() else { return };
    host.pull_demo("root");
    for image in ["localhost/demo", "localhost/root"] {
        let ran = host.run(&[image, "/bin/cat", "/proc/self/status"]);
        let status = ran.exits(0);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(status, set), "0000000000000000", "{image}: {set}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1", "{image}");
        assert_eq!(field(status, "Seccomp"), "2", "{image}");
    }
}

#[test]
fn the_images_user_inside_is_the_researcher_outside() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&[], "id -un; id -u; id -g; echo mine > /safe_outputs/table; stat -c %u /safe_outputs/table");
    assert_eq!(ran.exits(0), "analyst\n1000\n1000\n1000\n");
    let found = fs::metadata(host.outputs().join("table")).expect("the output file");
    assert_eq!(found.uid(), host.researcher().uid.as_raw());
    assert_eq!(found.gid(), host.researcher().gid.as_raw());
}

#[test]
fn an_image_that_runs_as_root_writes_files_of_the_researcher() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("root");
    host.run(&["localhost/root", "/bin/sh", "-c", "id -u; mkdir /safe_outputs/d; : > /safe_outputs/d/f"]).exits(0);
    for path in ["", "d", "d/f"] {
        let found = fs::metadata(host.outputs().join(path)).expect("an output");
        assert_eq!(found.uid(), host.researcher().uid.as_raw(), "{path}");
    }
}

#[test]
fn host_root_is_not_in_the_containers_user_namespace() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("root");
    let script = "cat /proc/self/uid_map /proc/self/gid_map";
    for command in [host.run_command(&["localhost/root", "/bin/sh", "-c", script]), {
        let mut command = host.ces_as_root();
        host.policy(&format!("[data]\nroot = \"{}\"\naccess = \"ro\"\n", host.tmp().join("home").display()));
        command.args(["run", "--project", "safe_data", "localhost/root", "/bin/sh", "-c", script]);
        command
    }] {
        let mut command = command;
        let ran = Ran::from(command.output());
        for line in ran.exits(0).lines() {
            let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().expect("a number")).collect();
            assert!(numbers[1] > 0, "host id 0 is mapped: {line}");
        }
    }
}

#[test]
fn the_environment_is_exactly_what_was_asked_for() {
    let Some(host) = Host::with_demo() else { return };
    let mut command = host.run_command(&["-e", "COLOUR=blue", "localhost/demo", "/bin/env"]);
    command.env("SECRET", "of the host").env("LD_PRELOAD", "").env("COLOUR", "red");
    let ran = Ran::from(command.output());
    let seen: Vec<&str> = ran.exits(0).lines().collect();
    for wanted in ["COLOUR=blue", "HOME=/home/analyst", "PATH=/bin", "TMPDIR=/scratch"] {
        assert!(seen.contains(&wanted), "{wanted}: {seen:?}");
    }
    let allowed = ["CES_TEST", "COLOUR", "HOME", "HOSTNAME", "PATH", "TERM", "TMPDIR", "USER"];
    for line in &seen {
        let name = line.split('=').next().unwrap_or_default();
        assert!(allowed.contains(&name), "{line} came from nowhere: {seen:?}");
    }
}

#[test]
fn a_payload_gets_three_descriptors_and_no_more() {
    let Some(host) = Host::with_demo() else { return };
    // The caller holds a file it should not hand on, and claims to pass sockets.
    let mut command = host.command("/bin/sh");
    let ces = env!("CARGO_BIN_EXE_ces");
    let inner =
        format!("exec 7</etc/shadow 9</etc/shadow; exec {ces} run localhost/demo /bin/sh -c 'ls /proc/$$/fd; true'");
    let ready = host.ces();
    command.args(["-c", &inner]).env("LISTEN_FDS", "7").env("LISTEN_PID", "1");
    for (name, value) in ready.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let ran = Ran::from(command.output());
    assert_eq!(ran.exits(0).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
}

#[test]
fn standard_input_output_and_error_pass_through() {
    let Some(host) = Host::with_demo() else { return };
    let mut command = host.run_command(&["-i", "localhost/demo", "/bin/sh", "-c", "cat; echo to stderr >&2"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
    let lines = "line\n".repeat(50_000);
    let mut stdin = child.stdin.take().expect("its standard input");
    let sent = lines.clone();
    let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()));
    let ran = Ran::from(child.wait_with_output());
    writer.join().expect("the writer").expect("all was read");
    assert!(ran.exits(0) == lines, "{} bytes came back of {}", ran.stdout.len(), lines.len());
    assert!(ran.stderr.contains("to stderr\n"), "{}", ran.stderr);
}

#[test]
fn output_that_nobody_wants_can_be_written_all_the_same() {
    let Some(host) = Host::with_demo() else { return };
    let script = "echo out && echo err >&2 && : > /safe_outputs/written";
    let mut command = host.run_command(&["localhost/demo", "/bin/sh", "-c", script]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("ces");
    assert_eq!(status.code(), Some(0));
    assert!(host.outputs().join("written").exists());
}

#[test]
fn outputs_are_kept_and_scratch_is_gone() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&[], "echo kept > /safe_outputs/kept; echo gone > /scratch/gone; mktemp; ls /scratch | wc -l");
    let said = ran.exits(0);
    assert!(said.starts_with("/scratch/"), "TMPDIR is /scratch: {said}");
    assert!(said.ends_with("\n2\n"), "{said}");
    assert_eq!(host.output("kept"), "kept\n");
    assert!(ran.stderr.contains("outputs_"), "where the outputs are is to be said: {}", ran.stderr);
    host.nothing_is_left();
}

#[test]
fn outputs_are_private_and_carry_no_special_bits() {
    let Some(host) = Host::with_demo() else { return };
    // The filter refuses set-ID bits; the sticky bit shows that what is there is taken off.
    let script =
        "cd /safe_outputs; cp /bin/busybox tool; chmod 1755 tool && ! chmod 6755 tool && ln -s /etc/shadow link";
    host.sh(&[], &format!("{script} && mkdir -m 700 d")).exits(0);
    let outputs = host.outputs();
    assert_eq!(fs::metadata(&outputs).expect("outputs").mode() & 0o077, 0);
    assert_eq!(fs::metadata(outputs.join("tool")).expect("the tool").permissions().mode() & 0o7000, 0);
    // A symbolic link stays text.
    assert_eq!(fs::read_link(outputs.join("link")).expect("the link"), Path::new("/etc/shadow"));
}

#[test]
fn safe_data_is_read_and_written_as_the_policy_says() {
    let Some(host) = Host::with_demo() else { return };
    assert_eq!(host.sh(&[], "cat /safe_data/ward.csv").exits(0), WARD_CSV);
    host.sh(&[], "echo note > /safe_data/note").exits(0);
    let note = fs::metadata(host.home().join("safe_data/note")).expect("the note");
    assert_eq!(note.uid(), host.researcher().uid.as_raw());

    let ran = host.sh(&["--data-ro"], "echo x > /safe_data/more");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    host.policy("[data]\naccess = \"ro\"\n");
    let ran = host.sh(&[], "echo x > /safe_data/more");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:?}");
    assert!(!host.home().join("safe_data/more").exists());
}

#[test]
fn a_mount_below_safe_data_is_read_only_too_when_the_data_is() {
    let Some(host) = Host::with_demo() else { return };
    let below = host.researcher().dir.join("safe_data/below");
    let mounted = Ran::from(
        host.command("/bin/sh")
            .args(["-c", "mkdir -m 777 \"$1\" && mount -t tmpfs -o mode=1777 tmpfs \"$1\"", "sh"])
            .arg(&below)
            .output(),
    );
    mounted.exits(0);
    let ran = host.sh(&["--data-ro"], "echo x > /safe_data/below/x; test ! -e /safe_data/below/x");
    assert!(ran.exits(0).is_empty() && ran.stderr.contains("Read-only file system"), "{ran:?}");
}

#[test]
fn the_three_directories_honour_no_setuid_bit_and_no_device() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(&[], "cat /proc/self/mountinfo");
    let mounts = ran.exits(0);
    for place in ["/safe_data", "/safe_outputs", "/scratch"] {
        let line = mounts.lines().find(|l| l.split(' ').nth(4) == Some(place)).expect("its mount");
        let options = line.split(' ').nth(5).unwrap_or_default();
        assert!(options.contains("nosuid") && options.contains("nodev"), "{line}");
    }
    let tool = "cp /bin/busybox /scratch; ! chmod 4755 /scratch/busybox && /scratch/busybox id -u; ! ln /safe_data/ward.csv /safe_outputs/x";
    assert_eq!(host.sh(&[], tool).exits(0), "1000\n");
}

#[test]
fn the_containers_root_can_be_written_and_is_thrown_away() {
    let Some(host) = Host::with_demo() else { return };
    host.pull_demo("root");
    let script = "test ! -e /bin/new && : > /bin/new && : > /new && rm /bin/vi && mkdir -p /opt/tool && echo changed > /etc/passwd";
    for _ in 0..2 {
        host.run(&["localhost/root", "/bin/sh", "-c", script]).exits(0);
    }
    host.sh(&[], "test -e /bin/vi && echo temporary > /tmp/x && grep analyst /etc/passwd").exits(0);
    host.nothing_is_left();
}

#[test]
fn a_read_only_root_takes_writes_in_the_three_directories_alone() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("root");
    let script = "for d in / /bin /etc /root; do ! touch $d/x || exit 1; done 2>/dev/null
        touch /scratch/x /safe_outputs/x /dev/shm/x";
    host.run(&["--read-only", "localhost/root", "/bin/sh", "-c", script]).exits(0);
}

#[test]
fn what_the_host_has_in_tmp_and_shared_memory_is_not_seen() {
    let Some(host) = Host::with_demo() else { return };
    let name = format!("{}.canary", host.token());
    let canary = tempfile::Builder::new().prefix(&name).tempfile_in("/dev/shm").expect("a file in shared memory");
    let ran = host.sh(&["--shm-size", "8m"], "ls -a /tmp /dev/shm; df -k /dev/shm | tail -n 1; ps");
    let seen = ran.exits(0);
    assert!(!seen.contains(host.token()), "{seen}");
    assert!(seen.contains(" 8192 "), "/dev/shm has the size asked for: {seen}");
    assert!(!seen.contains("nsenter") && !seen.contains("infinity"), "no process of the host: {seen}");
    drop(canary);
}

#[test]
fn what_the_kernel_tells_about_the_host_is_masked_or_read_only() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("root");
    let script = "for f in kcore keys timer_list sched_debug latency_stats; do
            test ! -e /proc/$f || test -z \"$(head -c 1 /proc/$f 2>/dev/null)\" || { echo readable $f; exit 1; }; done
        for d in acpi scsi asound; do test -z \"$(ls /proc/$d 2>/dev/null)\" || { echo listed $d; exit 1; }; done
        for f in /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/sys/vm/drop_caches /proc/irq/default_smp_affinity; do
            ! echo 1 2>/dev/null > $f || { echo written $f; exit 1; }; done
        test -z \"$(find /sys -type f -perm -200 -exec sh -c ': >> \"$1\"' sh {} \\; -print -quit 2>/dev/null)\"";
    let ran = host.run(&["localhost/root", "/bin/sh", "-c", script]);
    ran.exits(0);
}

#[test]
fn devices_are_the_harmless_ones() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("root");
    let script = "find /dev -type c -o -type b | sort; ! mknod /scratch/d c 1 3; echo x > /dev/null && head -c 1 /dev/zero | wc -c";
    let ran = host.run(&["localhost/root", "/bin/sh", "-c", script]);
    let harmless = ["full", "null", "ptmx", "random", "tty", "urandom", "zero", "console"];
    for line in ran.exits(0).lines().filter(|line| line.starts_with("/dev/") && !line.starts_with("/dev/pts/")) {
        assert!(harmless.contains(&line.trim_start_matches("/dev/")), "{line}");
    }
}

#[test]
fn two_jobs_at_once_do_not_meet() {
    let Some(host) = Host::with_demo() else { return };
    let wait = "while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; ls /scratch; ps -o comm | grep -c '^sleep$'";
    // Until it is executed, a shell's child has the shell's name.
    let asleep = "sleep 100 & until [ \"$(cat /proc/$!/comm)\" = sleep ]; do :; done";
    let first = host.start(&[], &format!("{asleep}; echo 1 > /scratch/one; {wait}"));
    let second = host.start(&[], &format!("{asleep}; echo 2 > /scratch/two; {wait}"));
    assert_ne!(first.id(), second.id());
    for running in [&first, &second] {
        fs::write(running.outputs.join("go"), "").expect("a signal to go on");
    }
    assert_eq!(first.finish().exits(0), "one\n1\n");
    assert_eq!(second.finish().exits(0), "two\n1\n");
    host.nothing_is_left();
}

#[test]
fn a_record_is_begun_before_the_payload_and_finished_after_it() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], "while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; exit 3");
    let file = host.root().join(format!("log/runs/{}.json", running.id()));
    let begun = fs::read_to_string(&file).expect("a record while the payload runs");
    assert!(begun.contains("localhost/demo") && begun.contains("sha256:"), "image and digest: {begun}");
    fs::write(running.outputs.join("go"), "").expect("a signal to go on");
    let id = running.id();
    let ran = running.finish();
    ran.exits(3);
    let finished = fs::read_to_string(&file).expect("the record");
    assert_ne!(begun, finished);
    for word in [id.as_str(), host.researcher().name.as_str(), "enforced"] {
        assert!(finished.contains(word), "{word}: {finished}");
    }
    assert_eq!(host.records().len(), 1);
    wait_until("an audit line", || !crate::support::children(&host.root().join("log/audit")).is_empty());
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).unwrap_or_default()
}
