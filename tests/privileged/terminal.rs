//! Runs at a terminal: it is the payload's own, and the caller's comes back as it was.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::termios::Termios;
use serde_json::Value;

use crate::support::terminal::Terminal;
use crate::support::{Host, Ran, python_layout, wait_until};

/// A run at a terminal, whose summary is not printed.
fn at_terminal(host: &Host, words: &[&str]) -> Terminal {
    Terminal::start(&host.run_command(&[&["-q"], words].concat()))
}

/// A run of the demonstration image's shell.
fn shell(host: &Host) -> Terminal {
    let mut terminal = at_terminal(host, &["-it", "localhost/demo", "sh"]);
    terminal.shows("$ ");
    terminal
}

fn same(one: &Termios, other: &Termios) -> bool {
    (one.input_flags, one.output_flags, one.control_flags, one.local_flags, one.control_chars)
        == (other.input_flags, other.output_flags, other.control_flags, other.local_flags, other.control_chars)
}

#[test]
fn a_payload_has_a_terminal_of_its_own_as_large_as_the_callers() {
    let Some(host) = Host::with_demo() else { return };
    let mut terminal = shell(&host);
    let said = terminal.says("tty; stty size; ls -l $(tty) /dev/console; id -un");
    assert!(said.contains("/dev/pts/0\r\n24 80\r\n"), "{said}");
    let user = said.lines().rev().nth(1).unwrap_or_default().trim().to_owned();
    let own = said.lines().filter(|line| line.starts_with("crw--w") && line.contains(&format!(" {user} "))).count();
    assert_eq!(own, 2, "the terminal is the user's: {said}");
    terminal.types("sh -c 'trap \"stty size\" WINCH; echo wait\"\"ing; while :; do sleep 0.1; done'\r");
    terminal.shows("waiting");
    terminal.resize(40, 132);
    terminal.shows("40 132");
    terminal.types("\x03");
    terminal.shows("$ ");
    terminal.types("exit 7\r");
    assert_eq!(terminal.finish().code(), Some(7));
    host.nothing_is_left();
    let record = host.records().pop().expect("a record");
    assert_eq!(record["exit"], 7);
    assert_eq!(record["enforced"]["streams"][0], record["enforced"]["streams"][2]);
    assert_eq!(record["enforced"]["terminal"], record["enforced"]["streams"][0]["device"]);
}

#[test]
fn keys_do_in_the_payloads_shell_what_they_do_at_any_terminal() {
    let Some(host) = Host::with_demo() else { return };
    let mut terminal = shell(&host);
    // Ctrl-C ends what the shell runs, not the shell.
    terminal.types("sh -c 'echo beg\"\"un; exec sleep 100'\r");
    terminal.shows("begun\r\n");
    terminal.types("\x03");
    terminal.shows("$ ");
    assert!(terminal.says("echo $?").contains("130"), "{}", terminal.all());
    // Ctrl-Z stops it, and it goes on in the foreground.
    terminal.types("sh -c 'echo wait\"\"ing; read line; echo got $line'\r");
    terminal.shows("waiting");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    assert!(terminal.says("jobs").contains("Stopped"), "{}", terminal.all());
    terminal.types("fg\r");
    // The shell names what goes on.
    terminal.shows("fg\r\n");
    terminal.shows("\r\n");
    terminal.types("hello\r");
    terminal.shows("got hello\r\n");
    // Ctrl-D ends a program's input, and then the shell's.
    terminal.shows("$ ");
    terminal.types("echo read''ing; cat; echo read''\r");
    terminal.shows("reading");
    terminal.types("\x04");
    terminal.shows("read\r\n");
    terminal.types("\x04");
    assert_eq!(terminal.finish().code(), Some(0), "{}", terminal.all());
    host.nothing_is_left();
}

/// A shell with job control, at a terminal, that has `words` in its arguments.
fn caller(host: &Host, script: &str, words: &[&str]) -> Terminal {
    let run = host.run_command(&[&["-q"], words].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("set -m; {script}; echo status $?"), "sh"]).arg(run.get_program()).args(run.get_args());
    shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Terminal::start(&shell)
}

#[test]
fn ctrl_z_without_a_terminal_of_its_own_stops_no_supervisor_and_the_deadline_holds() {
    let Some(host) = Host::with_demo() else { return };
    let words = ["--timeout", "2s", "localhost/demo", "sh", "-c", "echo begun; exec sleep 100"];
    let mut terminal = caller(&host, "\"$@\"", &words);
    terminal.shows("begun");
    terminal.types("\x1a");
    terminal.shows("status 124");
    terminal.finish();
    // In the background, at a terminal that stops whoever writes to it from there.
    let mut terminal = caller(&host, "stty tostop; \"$@\" & wait $!", &words);
    terminal.shows("status 124");
    terminal.finish();
    host.nothing_is_left();
}

#[test]
fn job_control_works_in_bash_and_at_the_prompt_of_python() {
    let (Some(host), Some(layout)) = (Host::new(), python_layout()) else { return };
    host.pull(&layout, "python");
    let mut terminal = at_terminal(&host, &["-it", "-e", "PS1=in> ", "localhost/python", "bash", "--norc"]);
    terminal.shows("in> ");
    terminal.types("sh -c 'echo beg\"\"un; exec sleep 100'\r");
    terminal.shows("begun\r\n");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    assert!(terminal.says("jobs -l").contains("sleep 100"), "{}", terminal.all());
    // Not `wait`: bash says nothing of a job that has ended by then.
    terminal.types("bg; kill %1; while kill -0 %1 2>/dev/null; do sleep 0.1; done\r");
    terminal.shows("Terminated");
    // A line is edited before it is sent.
    terminal.types("echo wrong\x15echo ri''ght\r");
    terminal.shows("right\r\n");
    terminal.types("python3\r");
    terminal.shows(">>> ");
    terminal.types("import time; time.sleep(100)\r");
    terminal.shows("100)\r\n");
    terminal.types("\x03");
    terminal.shows("KeyboardInterrupt");
    terminal.types("import sys; sys.stdout.isatty(), 6 * 7\r");
    terminal.shows("(True, 42)");
    terminal.types("\x04");
    terminal.shows("in> ");
    terminal.types("exit 3\r");
    assert_eq!(terminal.finish().code(), Some(3), "{}", terminal.all());
    host.nothing_is_left();
}

#[test]
fn the_callers_terminal_is_as_before_however_the_run_ends() {
    let Some(host) = Host::with_demo() else { return };
    let ends: [(&str, &[&str], Option<Signal>, i32); 5] = [
        ("head -c 1", &[], None, 0),
        ("sleep 100", &["--timeout", "1s"], None, 124),
        ("sleep 100", &[], Some(Signal::SIGTERM), 143),
        ("sleep 100", &[], Some(Signal::SIGHUP), 129),
        ("sleep 100", &[], Some(Signal::SIGQUIT), 131),
    ];
    for (script, options, signal, code) in ends {
        let script = format!("stty raw -echo; printf '\\033[?1000h\\033[?25lready'; exec {script}");
        let words = [&["-it"], options, &["localhost/demo", "sh", "-c", &script]].concat();
        let mut terminal = at_terminal(&host, &words);
        let before = terminal.modes();
        terminal.shows("ready");
        assert!(terminal.is_raw(), "every key is the payload's");
        // Typed ahead, or a terminal's late answer: the payload does not read it all, and nor shall the caller's shell.
        terminal.types("\x1b[24;80R");
        if let Some(signal) = signal {
            terminal.signal(signal);
        }
        assert_eq!(terminal.finish().code(), Some(code), "{}", terminal.all());
        assert!(same(&before, &terminal.modes()), "after {script} and {signal:?}: {:?}", terminal.modes());
        assert!(terminal.all().contains("\x1b[?1000l") && terminal.all().contains("\x1b[?25h"), "{}", terminal.all());
        assert_eq!(terminal.left_to_read(), b"", "nothing is left for the caller's shell");
        host.nothing_is_left();
    }
}

#[test]
fn a_stage_process_that_is_killed_leaves_the_terminal_as_before() {
    let Some(host) = Host::with_demo() else { return };
    let mut terminal = shell(&host);
    assert!(terminal.is_raw());
    let task = format!("/proc/{0}/task/{0}/children", terminal.pid());
    for stage in fs::read_to_string(task).expect("the children of ces").split_whitespace() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(stage.parse().expect("a number")), Signal::SIGKILL)
            .expect("the stage is there");
    }
    assert_eq!(terminal.finish().code(), Some(137), "{}", terminal.all());
    assert!(!terminal.is_raw());
    host.nothing_is_left();
}

#[test]
fn a_run_ends_with_the_terminal_that_started_it() {
    let Some(host) = Host::with_demo() else { return };
    // The last one ignores the hang-up: it is ended after the time of grace.
    for (options, script) in [
        (&["-it"][..], "exec sleep 100"),
        (&["-t"], "exec sleep 100"),
        (&["-i"], "exec sleep 100"),
        (&[], "exec sleep 100"),
        (&["-it"], "trap '' HUP; sleep 100"),
    ] {
        let script = format!(": > /safe_outputs/ready; {script}");
        let words = [options, &["localhost/demo", "sh", "-c", &script]].concat();
        let before = host.named("outputs_");
        let mut terminal = at_terminal(&host, &words);
        wait_until("the payload's start", || {
            host.named("outputs_").iter().any(|outputs| !before.contains(outputs) && outputs.join("ready").exists())
        });
        terminal.closes();
        let status = terminal.finish();
        assert!(status.code().is_some_and(|code| code > 128), "{options:?}: {status:?}");
        host.nothing_is_left();
    }
}

#[test]
fn what_draws_reaches_the_callers_terminal_and_what_reaches_beyond_it_does_not() {
    let Some(host) = Host::with_demo() else { return };
    let script = "printf '\\033[1;31mred\\033[0m\\033]52;c;ZXZpbA==\\007\\033]0;title\\007\\033P$qm\\033\\\\end'";
    let mut terminal = at_terminal(&host, &["-it", "localhost/demo", "sh", "-c", script]);
    assert_eq!(terminal.finish().code(), Some(0));
    assert!(terminal.all().starts_with("\x1b[1;31mred\x1b[0mend"), "{:?}", terminal.all());
    // Into a file it goes as it is: nothing obeys there.
    let mut command = host.run_command(&["-q", "-t", "localhost/demo", "sh", "-c", script]);
    assert!(Ran::from(command.output()).exits(0).contains("\x1b]52;c;ZXZpbA==\x07"));
}

#[test]
fn without_a_terminal_of_its_own_output_is_harmless_on_the_callers_and_raw_is_a_wish_to_be_spoken() {
    let Some(host) = Host::with_demo() else { return };
    let script = "printf '\\033]52;c;ZXZpbA==\\007out\\n'; printf '\\033[2Jerr\\n' >&2";
    let shown = |options: &[&str]| {
        let mut terminal = at_terminal(&host, &[options, &["localhost/demo", "sh", "-c", script]].concat());
        assert_eq!(terminal.finish().code(), Some(0));
        terminal.all().to_owned()
    };
    let harmless = shown(&["-q"]);
    assert!(!harmless.contains('\x1b') && !harmless.contains('\x07'), "{harmless:?}");
    assert!(harmless.contains("\\x1b]52;c;ZXZpbA==\\x07out") && harmless.contains("\\x1b[2Jerr"), "{harmless:?}");
    for options in [&["-q", "--raw"][..], &["-q", "--raw", "-t"]] {
        let raw = shown(options);
        assert!(raw.contains("\x1b]52;c;ZXZpbA==\x07out") && raw.contains("\x1b[2Jerr"), "{options:?}: {raw:?}");
    }
}

#[test]
fn a_flood_that_nobody_reads_is_held_back_and_the_deadline_holds() {
    let Some(host) = Host::with_demo() else { return };
    for options in [&[][..], &["-t"]] {
        // The terminal's buffer is full in a moment, and nobody empties it.
        let ready = host.run_command(&[options, &["-q", "--timeout", "2s", "localhost/demo", "/bin/yes"]].concat());
        let ends = nix::pty::openpty(None, None).expect("a terminal");
        nix::fcntl::fcntl(&ends.master, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .expect("its flags");
        let mut command = host.command("setsid");
        command.args(ready.get_args().skip_while(|word| *word != "--").skip(1));
        ready.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
            command.env(name, value);
        });
        let mut child =
            command.stdout(ends.slave.try_clone().expect("a copy")).stderr(ends.slave).spawn().expect("ces");
        let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mut most = 0;
        let began = std::time::Instant::now();
        let code = loop {
            let line = |status: String| {
                status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            };
            most = most.max(line(status(child.id())).unwrap_or(0));
            if let Some(ended) = child.try_wait().expect("its status") {
                break ended.code();
            }
            // What is held back at the end is read at last, as by a person who comes back.
            if began.elapsed() > std::time::Duration::from_secs(6) {
                // EAGAIN: everything is read.
                while nix::unistd::read(&ends.master, &mut [0; 4096]).is_ok_and(|n| n > 0) {}
            }
            assert!(
                began.elapsed() < std::time::Duration::from_secs(30),
                "{options:?}: ces hangs: {}",
                status(child.id())
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        assert_eq!(code, Some(124), "{options:?}");
        assert!(most > 0 && most < 100_000, "{most} kB of memory in ces, {options:?}");
        host.nothing_is_left();
    }
}

#[test]
fn a_payload_cannot_type_into_any_terminal() {
    let Some(host) = Host::with_probe() else { return };
    let script = "/safe_data/probe calls > /safe_outputs/calls; echo terminals: $(ls /dev/pts) end";
    let mut terminal = at_terminal(&host, &["-it", "localhost/demo", "sh", "-c", script]);
    let shown = terminal.shows("end");
    assert!(shown.contains("terminals: 0 ptmx end"), "no other terminal is there: {shown}");
    assert_eq!(terminal.finish().code(), Some(0));
    let calls: Value = serde_json::from_str(&host.output("calls")).expect("the probe's report");
    let typed =
        calls.as_array().expect("calls").iter().filter(|call| call["call"].as_str().unwrap().contains("TIOCSTI"));
    // On its standard input, which is its own terminal.
    assert_eq!(typed.map(|call| call["errno"].as_i64()).collect::<Vec<_>>(), [Some(1), Some(1)]);
    assert_eq!(terminal.left_to_read(), b"");
}

#[test]
fn a_terminal_without_input_shows_what_the_payload_prints_and_keeps_its_own_modes() {
    let Some(host) = Host::with_demo() else { return };
    let script = "tty; stty size; echo ready; read line; echo \"got $line\"";
    let mut terminal = at_terminal(&host, &["-t", "--timeout", "1m", "localhost/demo", "sh", "-c", script]);
    let before = terminal.modes();
    let shown = terminal.shows("ready");
    assert!(shown.contains("/dev/pts/0") && shown.contains("24 80"), "{shown}");
    assert!(same(&before, &terminal.modes()));
    // Without -i nothing is passed on; Ctrl-C is the caller's own, and reaches the payload as a signal.
    terminal.types("typed\r");
    terminal.types("\x03");
    assert_eq!(terminal.finish().code(), Some(130), "{}", terminal.all());
    assert!(!terminal.all().contains("got"), "{}", terminal.all());
    host.nothing_is_left();
}

#[test]
fn a_payload_with_a_terminal_reads_from_a_pipe_to_its_end() {
    let Some(host) = Host::with_demo() else { return };
    // With and without a last end of line.
    for (input, payload, output) in [("tty; exit 4\n", "sh", "/dev/pts/0"), ("half", "cat", "halfhalf")] {
        let mut command = host.run_command(&["-it", "localhost/demo", payload]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
        let mut stdin = child.stdin.take().expect("its standard input");
        std::io::Write::write_all(&mut stdin, input.as_bytes()).expect("input");
        drop(stdin);
        let ran = Ran::from(child.wait_with_output());
        assert!(ran.exits(if payload == "sh" { 4 } else { 0 }).contains(output), "{ran:?}");
        assert!(ran.stderr.contains("warning: standard input is not a terminal"), "{ran:?}");
    }
    host.nothing_is_left();
}

#[test]
fn the_policy_may_forbid_terminals_and_says_so() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("[interactive]\nallow = false\n");
    for option in ["-it", "-t", "-i"] {
        let ran = Ran::from(host.run_command(&[option, "localhost/demo", "sh"]).output());
        ran.refuses(125, &["interactive", "policy.toml line 2"]);
    }
    host.nothing_ran();
}

#[test]
fn options_in_the_order_of_epcc_give_a_terminal_too() {
    let Some(host) = Host::with_demo() else { return };
    let link = host.tmp().join("ces-run");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ces"), &link).expect("a link");
    fs::write(host.home().join("opts"), "--rm -it # a terminal\n").expect("options");
    let mut command = host.command(&link);
    for (name, value) in host.ces().get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let opts = format!("--opt-file={}", host.researcher().dir.join("opts").display());
    command.args(["podman", &opts, "localhost/demo", "sh"]);
    let mut terminal = Terminal::start(&command);
    terminal.shows("$ ");
    assert!(terminal.says("tty").contains("/dev/pts/0"), "{}", terminal.all());
    terminal.types("exit 9\r");
    assert_eq!(terminal.finish().code(), Some(9), "{}", terminal.all());
    host.nothing_is_left();
}
