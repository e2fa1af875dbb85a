//! Who the payload is, where it starts, and why it does not: what images say in their own ways.

use serde_json::json;

use crate::image_support::Tar;
use crate::support::layout::{with_config, with_layers};
use crate::support::{Host, Ran};

/// An image with these files besides the demonstration's, and this configuration.
fn image(host: &Host, tag: &str, config: &serde_json::Value, files: Tar) {
    host.pull(&with_layers(host.tmp(), tag, config, &[files.end()]), tag);
}

#[test]
fn the_images_user_is_in_its_own_groups_of_the_image_unless_a_group_is_named() {
    let Some(host) = Host::new() else { return };
    let files = Tar(Vec::new())
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n")
        .file("etc/group", b"root:x:0:\nann:x:1000:\nstaff:x:50:ann\nbig:x:70000:ann\nlab:x:60:bob,ann\n");
    let config = json!({"User": "ann", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "id -G"]});
    image(&host, "groups", &config, files);
    let groups = |options: &[&str]| {
        let ran = host.run(&[options, &["localhost/groups"]].concat());
        let mut groups: Vec<u32> = ran.exits(0).split_whitespace().map(|gid| gid.parse().expect("a number")).collect();
        groups.sort_unstable();
        // The project's own group has no number in the container.
        groups.retain(|gid| *gid != 65534);
        (groups, ran)
    };
    let (found, ran) = groups(&[]);
    assert_eq!(found, [50, 60, 1000]);
    assert!(ran.stderr.contains("of the image that this run does not have"), "70000 has no id here: {ran:?}");
    assert_eq!(groups(&["--user", "1000"]).0, [50, 60, 1000], "a number that has a name");
    assert_eq!(groups(&["--user", "ann:1000"]).0, [1000]);
    assert_eq!(groups(&["--user", ":60"]).0, [60]);
    assert_eq!(groups(&["--user", "0"]).0, [0]);
    // They are the image's groups alone: of the host's nothing is opened by them.
    let ran = host.run(&[
        "localhost/groups",
        "/bin/sh",
        "-c",
        "cat /safe_data/ward.csv >/safe_outputs/copy && ls -ln /safe_outputs",
    ]);
    assert!(ran.exits(0).contains("1000"), "{ran:?}");
    host.nothing_is_left();
}

#[test]
fn an_ordinary_users_run_says_that_it_has_no_groups_of_the_image() {
    let Some(host) = Host::of_an_ordinary_user() else { return };
    let named = |path: &str| std::fs::read_to_string(path).is_ok_and(|ids| ids.contains(&host.researcher().name));
    let has_ids = named("/etc/subuid") && named("/etc/subgid");
    let files = Tar(Vec::new()).file("etc/group", b"root:x:0:\nstaff:x:50:analyst\n");
    let config = json!({"User": "analyst", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "id -u"]});
    image(&host, "groups", &config, files);
    let ran = host.run(&["localhost/groups"]);
    assert_eq!(ran.exits(0), "1000\n");
    // With a single id all of the image is the researcher's own.
    assert_eq!(ran.stderr.contains("an ordinary user's container keeps their own groups"), has_ids, "{ran:?}");
}

#[test]
fn a_user_without_an_entry_has_one_of_its_own_in_this_run() {
    for host in [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten() {
        host.pull_demo("demo");
        let ran = host.sh(&["--user", "4321:4322"], "whoami; id -gn; tail -n 1 /etc/passwd; tail -n 1 /etc/group");
        assert_eq!(ran.exits(0), "4321\n4322\n4321:x:4321:4322:container user:/:/bin/sh\n4322:x:4322:\n");
        assert_eq!(host.sh(&["--user", "analyst"], "grep -c 'container user' /etc/passwd; true").exits(0), "0\n");
        assert_eq!(host.sh(&["--read-only", "--user", "4321"], "whoami").exits(0), "4321\n");
    }
}

#[test]
fn what_an_image_has_in_the_place_of_passwd_leads_nowhere_and_is_not_copied() {
    let Some(host) = Host::new() else { return };
    let config =
        json!({"User": "4321:4321", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "grep ^Uid /proc/self/status"]});
    let large = vec![b'\n'; 5 << 20];
    let odd = [
        ("link", Tar(Vec::new()).symlink("etc/passwd", "/safe_data/ward.csv")),
        ("dangling", Tar(Vec::new()).symlink("etc/passwd", "/no/such/place")),
        ("process", Tar(Vec::new()).symlink("etc/passwd", "/proc/1/status")),
        ("loop", Tar(Vec::new()).symlink("etc/passwd", "passwd")),
        ("directory", Tar(Vec::new()).raw(b"etc/passwd", b'5', b"", |_| {})),
        ("fifo", Tar(Vec::new()).raw(b"etc/passwd", b'6', b"", |_| {})),
        ("large", Tar(Vec::new()).file("etc/passwd", &large)),
    ];
    for (tag, files) in odd {
        image(&host, tag, &config, files);
        let ran = host.run(&[&format!("localhost/{tag}")]);
        assert!(ran.exits(0).contains("4321"), "{tag}: {ran:?}");
        // A name needs the file, and the refusal says so.
        if tag == "fifo" || tag == "large" {
            host.run(&["--user", "ann", &format!("localhost/{tag}")]).refuses(125, &["/etc/passwd"]);
        }
    }
    let data = std::fs::read_to_string(host.home().join("safe_data/ward.csv")).expect("the data");
    assert!(!data.contains("container user"), "{data}");
    host.nothing_is_left();
}

#[test]
fn a_working_directory_is_cleaned_by_its_words_and_belongs_to_the_user_where_it_is_made() {
    for host in [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten() {
        host.pull_demo("demo");
        let config = json!({"User": "1000", "Env": ["PATH=/bin"], "WorkingDir": "/made/here/../by/./config//", "Cmd": ["/bin/sh", "-c", "pwd; touch mine ../mine && stat -c %u . .."]});
        host.pull(&with_config(host.tmp(), "cleaned", &config), "cleaned");
        assert_eq!(host.run(&["localhost/cleaned"]).exits(0), "/made/by/config\n1000\n1000\n");
        assert_eq!(host.run(&["-w", "/../../..", "localhost/demo", "pwd"]).exits(0), "/\n");
        for refused in ["/made/../proc/self", "/../dev", "relative/../x"] {
            host.run(&["-w", refused, "localhost/demo", "pwd"]).refuses(125, &["working directory"]);
        }
    }
}

#[test]
fn why_a_command_cannot_be_executed_is_said() {
    for host in [Host::new(), Host::of_an_ordinary_user()].into_iter().flatten() {
        let mut other = std::fs::read("/bin/true").expect("a program");
        other[18] = 243;
        let executable = |header: &mut tar::Header| header.set_mode(0o755);
        let files = Tar(Vec::new())
            .raw(b"crlf", b'0', b"#!/bin/sh\r\necho x\r\n", executable)
            .raw(b"missing", b'0', b"#!/usr/bin/no-such\n", executable)
            .raw(b"loader", b'0', &std::fs::read("/bin/true").expect("a program"), executable)
            .raw(b"other", b'0', &other, executable)
            .raw(b"text", b'0', b"echo x\n", executable)
            .raw(b"closed", b'0', b"#!/bin/sh\n", |header| header.set_mode(0o644));
        image(&host, "commands", &json!({"Env": ["PATH=/:/bin"]}), files);
        for (words, code, said) in [
            ("/crlf", 127, "its interpreter \"/bin/sh\\r\" is not there: the script has the line ends of Windows"),
            ("crlf", 127, "its interpreter \"/bin/sh\\r\""),
            ("/missing", 127, "its interpreter \"/usr/bin/no-such\" is not there"),
            ("/loader", 127, "its loader \"/lib64/ld-linux-x86-64.so.2\" is not there"),
            ("/other", 126, "it is a program for riscv64, and this machine is"),
            ("/text", 126, "neither a program nor a script"),
            ("/closed", 126, "it is not executable: its mode is 0644"),
            ("/bin", 126, "it is a directory"),
            ("/no-such", 127, "was not found in the container"),
        ] {
            if words == "/loader" && cfg!(not(target_arch = "x86_64")) {
                continue;
            }
            let ran: Ran = host.run(&["localhost/commands", words]);
            assert!(ran.code == Some(code) && ran.stderr.contains(said), "{words}: {ran:?}");
        }
        // And of a command in a run that is alive.
        host.policy("[interactive]\nexec = true\n");
        let id = host.run(&["-d", "localhost/commands", "/bin/sh", "-c", "sleep 60"]).exits(0).trim().to_owned();
        let exec = |command: &str| Ran::from(host.ces().args(["exec", &id, command]).output());
        for (command, code, said) in [
            ("/crlf", 127, "its interpreter \"/bin/sh\\r\" is not there: the script has the line ends of Windows"),
            ("missing", 127, "its interpreter \"/usr/bin/no-such\" is not there"),
            ("/text", 126, "neither a program nor a script"),
            ("/no-such", 127, "No such file"),
        ] {
            let ran = exec(command);
            assert!(ran.code == Some(code) && ran.stderr.contains(said), "exec {command}: {ran:?}");
        }
        Ran::from(host.ces().args(["stop", "-t", "0", &id]).output()).exits(0);
    }
}

#[test]
fn without_newuidmap_a_user_with_subordinate_ids_runs_as_one_id_and_is_told() {
    let Some(host) = Host::of_an_ordinary_user() else { return };
    for helper in ["/usr/bin/newgidmap", "/usr/bin/newuidmap"] {
        // On this test's host: what is no plain file is not installed.
        assert!(host.command("mount").args(["--bind", "/dev/null", helper]).status().expect("mount").success());
    }
    host.pull_demo("demo");
    let ran = host.sh(&[], "id -u");
    assert_eq!(ran.exits(0), "1000\n");
    assert!(ran.stderr.contains("newgidmap is not installed"), "{ran:?}");
    let record = host.records().pop().expect("a record");
    assert!(record["warnings"].to_string().contains("newgidmap is not installed"), "{record}");
}
