//! Each bad input: one clear error with a hint, exit 125 (or the verb's), nothing ran, nothing is left.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Host, Ran, demo_layout, layout};

#[test]
fn an_unknown_image_is_named() {
    let Some(host) = Host::with_demo() else { return };
    for image in ["localhost/nosuch", "ghcr.io/lab/nosuch:1", "sha256:0123456789ab"] {
        host.run(&[image, "true"]).refuses(125, &[image]);
    }
    host.nothing_ran();
}

#[test]
fn a_malformed_reference_is_refused() {
    let Some(host) = Host::with_demo() else { return };
    for image in ["", "UPPER/case", "localhost/../demo", "localhost/demo@sha256:xyz", "local host/demo", "-"] {
        host.run(&["--", image, "true"]).refuses(125, &[]);
    }
    host.nothing_ran();
}

#[test]
fn options_that_would_widen_are_refused_by_name() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("contact = \"Governance, ext. 1234\"\n");
    let table: [&[&str]; 8] = [
        &["--privileged"],
        &["--network", "host"],
        &["--network=bridge"],
        &["--cap-add", "SYS_ADMIN"],
        &["--device", "/dev/sda"],
        &["--pid", "host"],
        &["--security-opt", "seccomp=unconfined"],
        &["-v", "/etc:/mnt"],
    ];
    for words in table {
        let option = words[0].split('=').next().unwrap_or_default();
        let named = if option == "-v" { "/etc" } else { option };
        host.sh(words, "true").refuses(125, &[named, "ext. 1234"]);
    }
    host.nothing_ran();
}

#[test]
fn options_that_mean_what_ces_does_anyway_are_accepted() {
    let Some(host) = Host::with_demo() else { return };
    let words = ["--rm", "--init", "--network", "none", "--cap-drop", "all", "--security-opt", "no-new-privileges"];
    let ran = host.sh(&words, "echo ran");
    assert_eq!(ran.exits(0), "ran\n");
    host.sh(&["--userns", "keep-id"], "true").exits(0);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let Some(host) = Host::with_demo() else { return };
    let table: [&[&str]; 11] = [
        &["--no-such-option"],
        &["--memory", "lots"],
        &["--memory", "-1"],
        &["--cpus", "0"],
        &["--timeout", "never"],
        &["--ulimit", "nofile"],
        &["-p", "0.0.0.0:8080:80"],
        &["-p", "8080:99999"],
        &["-w", "relative"],
        &["-e", "=value"],
        &["--env-file", "/no/such/file"],
    ];
    for words in table {
        host.sh(words, "true").refuses(125, &[]);
    }
    host.nothing_ran();
}

#[test]
fn mount_points_that_would_hide_the_kernels_files_are_refused() {
    let Some(host) = Host::with_demo() else { return };
    fs::create_dir(host.home().join("mine")).expect("a directory");
    let mine = format!("{}/mine", host.researcher().dir.display());
    for target in ["/proc", "/proc/self", "/sys/fs", "/dev", "/", "/safe_data", "relative", "/x/../proc"] {
        host.sh(&["-v", &format!("{mine}:{target}")], "true").refuses(125, &[]);
    }
    host.nothing_ran();
}

#[test]
fn a_malformed_image_configuration_is_refused_and_says_what() {
    let Some(host) = Host::new() else { return };
    let path = json!(["PATH=/bin"]);
    let table: [(&str, Value, &[&str]); 14] = [
        ("nocommand", json!({ "Env": path }), &[]),
        ("empty", json!({ "Env": path, "Entrypoint": [], "Cmd": [] }), &[]),
        ("emptyword", json!({ "Env": path, "Entrypoint": [""] }), &[]),
        ("nul", json!({ "Env": path, "Cmd": ["/bin/echo", "a\u{0}b"] }), &[]),
        ("nobody", json!({ "Env": path, "User": "nosuchuser", "Cmd": ["true"] }), &["nosuchuser"]),
        ("nogroup", json!({ "Env": path, "User": "1000:nosuchgroup", "Cmd": ["true"] }), &["nosuchgroup"]),
        ("negative", json!({ "Env": path, "User": "-1", "Cmd": ["true"] }), &["-1"]),
        ("toolarge", json!({ "Env": path, "User": "4294967296", "Cmd": ["true"] }), &["4294967296"]),
        ("nochange", json!({ "Env": path, "User": "4294967295", "Cmd": ["true"] }), &["4294967295"]),
        ("three", json!({ "Env": path, "User": "1:2:3", "Cmd": ["true"] }), &["1:2:3"]),
        ("procfd", json!({ "Env": path, "WorkingDir": "/proc/self/fd/8", "Cmd": ["true"] }), &["/proc/self/fd/8"]),
        ("sys", json!({ "Env": path, "WorkingDir": "/sys/kernel", "Cmd": ["true"] }), &["/sys/kernel"]),
        ("relative", json!({ "Env": path, "WorkingDir": "data", "Cmd": ["true"] }), &["data"]),
        ("dots", json!({ "Env": path, "WorkingDir": "/tmp/../proc", "Cmd": ["true"] }), &["proc"]),
    ];
    for (tag, config, words) in table {
        let layout = layout::with_config(host.tmp(), tag, &config);
        let pulled = Ran::from(host.ces().args(["pull", &format!("oci:{}:{tag}", layout.display())]).output());
        if pulled.code == Some(0) {
            host.run(&[&format!("localhost/{tag}")]).refuses(125, words);
        } else {
            // Refusing it earlier is as good.
            pulled.refuses(1, words);
        }
        host.nothing_ran();
    }
}

#[test]
fn an_odd_environment_in_an_image_neither_crashes_nor_passes() {
    let Some(host) = Host::new() else { return };
    for (tag, odd) in [("noname", "=x"), ("novalue", "NAME"), ("nul", "A=b\u{0}c"), ("empty", "")] {
        let config = json!({ "Env": ["PATH=/bin", odd], "Cmd": ["/bin/env"] });
        let layout = layout::with_config(host.tmp(), tag, &config);
        let pulled = Ran::from(host.ces().args(["pull", &format!("oci:{}:{tag}", layout.display())]).output());
        let ran = if pulled.code == Some(0) { host.run(&[&format!("localhost/{tag}")]) } else { pulled };
        match ran.code {
            Some(0) => assert!(ran.stdout.lines().all(|line| line.find('=') > Some(0)), "{tag}: {ran:?}"),
            _ => ran.refuses(ran.code.unwrap_or_default(), &[]),
        }
        host.nothing_is_left();
    }
}

#[test]
fn data_that_the_researcher_cannot_read_is_an_error_before_the_start() {
    let Some(host) = Host::with_demo() else { return };
    let data = host.home().join("safe_data");
    chown(&data, Some(0), Some(0)).expect("another owner");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("permissions");
    host.sh(&[], "true").refuses(125, &["cannot read from", "safe_data"]);
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("permissions");
    host.sh(&[], "true").refuses(125, &["cannot write to", "safe_data"]);
    host.nothing_ran();
    host.sh(&["--data-ro"], "cat /safe_data/ward.csv").exits(0);
}

#[test]
fn without_a_project_directory_what_was_looked_for_is_listed() {
    let Some(host) = Host::with_demo() else { return };
    fs::rename(host.home().join("safe_data"), host.home().join("elsewhere")).expect("a rename");
    host.sh(&[], "true").refuses(125, &["cannot find a project directory", "cesresearcher"]);
    host.sh(&["--project", "nosuch"], "true").refuses(125, &["nosuch"]);
    for name in ["../etc", "/etc", "", "."] {
        host.sh(&["--project", name], "true").refuses(125, &[]);
    }
    host.nothing_ran();
}

#[test]
fn a_malformed_policy_refuses_everything() {
    let Some(host) = Host::with_demo() else { return };
    for (text, word) in [
        ("contacts = \"typo\"\n", "contacts"),
        ("[limits]\nmemory = \"8G\"\n", "memory"),
        ("[data\n", "line 1"),
        ("[profiles]\nallow = [\"open\"]\n", "open"),
    ] {
        host.policy(text);
        host.sh(&[], "true").refuses(125, &["policy.toml", word]);
    }
    host.policy("");
    let file = host.inside(Path::new("/etc/ces/policy.toml"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("permissions");
    host.sh(&[], "true").refuses(125, &["policy.toml"]);
    host.nothing_ran();
}

#[test]
fn a_policy_file_of_ones_own_is_not_accepted_through_sudo() {
    let Some(host) = Host::with_demo() else { return };
    let own = host.home().join("policy.toml");
    fs::write(&own, "[mounts]\nallow = [{ host = \"/\", access = \"rw\" }]\n").expect("a policy");
    host.sh(&["--policy", &own.display().to_string()], "true").refuses(125, &["sudo"]);
    let ran = Ran::from(host.run_command(&["localhost/demo", "true"]).env("CES_POLICY", &own).output());
    ran.refuses(125, &["sudo"]);
    host.nothing_ran();
}

#[test]
fn a_caller_who_cannot_be_told_is_refused() {
    let Some(host) = Host::with_demo() else { return };
    for (name, value) in
        [("SUDO_UID", "nobody"), ("SUDO_UID", "-1"), ("SUDO_UID", "4000000000"), ("SUDO_USER", "daemon")]
    {
        let ran = Ran::from(host.run_command(&["localhost/demo", "true"]).env(name, value).output());
        ran.refuses(125, &[]);
    }
    host.nothing_ran();
}

#[test]
fn a_home_without_room_is_an_error_and_leaves_nothing() {
    let Some(host) = Host::with_demo() else { return };
    // Three inodes: the directory itself, the data, and one more.
    let script = "mount -t tmpfs -o nr_inodes=3,mode=755 tmpfs \"$1\" && mkdir -m 777 \"$1/safe_data\" && chown \"$2\" \"$1\" \"$1/safe_data\"";
    let mut command = host.command("/bin/sh");
    command.args(["-c", script, "sh"]).arg(&host.researcher().dir).arg(host.researcher().uid.to_string());
    Ran::from(command.output()).exits(0);
    host.sh(&[], "true").refuses(125, &["outputs"]);
    let left: Vec<_> = crate::support::children(&host.inside(&host.researcher().dir));
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(host.processes(), Vec::<String>::new());
    assert_eq!(host.work(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_store_without_room_keeps_nothing_of_a_failed_pull() {
    let Some(host) = Host::new() else { return };
    let mut command = host.command("mount");
    command.args(["-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", "/var/lib/ces"]);
    Ran::from(command.output()).exits(0);
    let pull = || Ran::from(host.ces().args(["pull", &format!("oci:{}:demo", demo_layout().display())]).output());
    pull().refuses(1, &["space"]);
    let images = Ran::from(host.ces().args(["images", "--json"]).output());
    assert!(!images.exits(0).contains("demo"), "{images:?}");
    let largest = largest_below(&host.inside(Path::new("/var/lib/ces")));
    assert!(largest < 65_536, "a file of {largest} bytes is left of the failed pull");
    host.run(&["localhost/demo", "true"]).refuses(125, &["localhost/demo"]);
}

#[test]
fn a_registry_that_does_not_answer_is_named() {
    let Some(host) = Host::new() else { return };
    let ran = Ran::from(host.ces().args(["pull", "127.0.0.1:1/lab/tool:1"]).output());
    ran.refuses(1, &["127.0.0.1:1"]);
    let ran = Ran::from(host.ces().args(["pull", "oci:/no/such/layout"]).output());
    ran.refuses(1, &["/no/such/layout"]);
    let ran = Ran::from(host.ces().args(["pull", &format!("oci:{}:nosuch", demo_layout().display())]).output());
    ran.refuses(1, &["nosuch"]);
}

#[test]
fn root_without_the_capability_to_mount_is_told_so() {
    let Some(host) = Host::with_demo() else { return };
    let ready = host.run_command(&["localhost/demo", "true"]);
    let mut command = host.command("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    // The same command, as nsenter would execute it.
    command.args(ready.get_args().skip_while(|word| *word != "--").skip(1));
    for (name, value) in ready.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    Ran::from(command.output()).refuses(125, &[]);
    host.nothing_ran();
}

fn largest_below(dir: &Path) -> u64 {
    let size = |path: &std::path::PathBuf| match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => largest_below(path),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    crate::support::children(dir).iter().map(size).max().unwrap_or(0)
}

#[test]
fn no_verb_reads_a_file_for_the_researcher_that_only_root_may_read() {
    let Some(host) = Host::with_demo() else { return };
    let secret = host.root().join("only-roots");
    fs::write(&secret, "user:hunter2\n").expect("a file of root's");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
    let file = secret.display().to_string();
    for words in [
        vec!["policy", "explain", "--json", "--env-file", &file, "localhost/demo"],
        vec!["policy", "check", &file],
        vec!["pull", "--creds", &file, "localhost:1/x/y:1"],
        vec!["run", "--env-file", &file, "localhost/demo", "env"],
        vec!["run", "--arg-file", &file, "localhost/demo", "echo"],
    ] {
        let ran = Ran::from(host.ces().args(&words).output());
        assert!(ran.code.is_some_and(|code| code != 0), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains("ermission denied"), "{words:?}: {ran:?}");
        assert!(!format!("{ran:?}").contains("hunter2"), "{words:?}: {ran:?}");
    }
}

#[test]
fn a_terminal_at_standard_input_is_not_handed_to_the_payload() {
    let Some(host) = Host::with_demo() else { return };
    let ces = env!("CARGO_BIN_EXE_ces");
    let look = |option: &str| {
        let line =
            format!("{ces} -q run {option} localhost/demo sh -c 'readlink /proc/self/fd/0; echo x >&0 || echo closed'");
        let mut command = host.command("script");
        for (name, value) in host.ces().get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        Ran::from(command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null()).output()).stdout
    };
    assert!(look("").starts_with("/dev/null"), "{}", look(""));
    assert!(look("-i").contains("closed"), "the terminal may be read, not written: {}", look("-i"));
}
