//! What the engine would do by itself, and ces has an answer to: images that lead mount points elsewhere, the engine's own
//! program within reach of the payload, its environment.

use std::fs;

use serde_json::json;

use crate::image_support::Tar;
use crate::support::layout::with_layers;
use crate::support::{Host, Ran};

/// Pulls the demonstration image, run as root, with one more layer.
fn pull(host: &Host, tag: &str, layer: Tar) {
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]});
    let layer = [layer.0, vec![0; 1024]].concat();
    host.pull(&with_layers(host.tmp(), tag, &config, &[layer]), tag);
}

#[test]
fn mount_points_that_an_image_leads_elsewhere_are_laid_anew_within_its_root() {
    let Some(host) = Host::with_probe() else { return };
    let canary = host.tmp().join("canary");
    fs::create_dir(&canary).expect("a directory of the host");
    fs::write(canary.join("file"), "unchanged").expect("a file of the host");
    let outside = canary.display().to_string();
    let file = format!("{outside}/file");
    let above = format!("../../../../../../../..{outside}");
    let places = ["dev", "proc", "sys", "safe_data", "safe_outputs", "scratch"];
    let links = |target: &str| places.into_iter().fold(Tar::default(), |tar, place| tar.symlink(place, target));
    let table: [(&str, Tar); 7] = [
        ("absolute", links(&outside)),
        ("above", links(&above)),
        ("magic", links("/proc/1/root")),
        ("loop", places.into_iter().fold(Tar::default(), |tar, place| tar.symlink(place, place))),
        ("files", places.into_iter().fold(Tar::default(), |tar, place| tar.file(place, b"a file"))),
        (
            "etc",
            Tar::default()
                .symlink("etc/hosts", &file)
                .symlink("etc/resolv.conf", "/proc/self/environ")
                .symlink("etc/hostname", "nowhere"),
        ),
        (
            "below",
            Tar::default()
                .dir("dev")
                .symlink("dev/pts", &outside)
                .symlink("dev/shm", &above)
                .symlink("dev/null", &file)
                .symlink("dev/ptmx", &file),
        ),
    ];
    for (tag, layer) in table {
        pull(&host, tag, layer);
        let image = format!("localhost/{tag}");
        let facts = host.probe(&[], &image, &["facts"]);
        let mounted = crate::support::probe::mounts(&facts["mountinfo"]);
        for place in
            ["/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/safe_data", "/safe_outputs", "/scratch", "/etc/hosts"]
        {
            assert!(mounted.iter().any(|mount| mount.at == place), "{tag}: {place}: {mounted:?}");
        }
        let script = "echo x > /scratch/x && echo x > /safe_outputs/x && echo x > /dev/null && echo x > /dev/shm/x && cat /etc/hosts";
        let ran = host.run(&[&image, "/bin/sh", "-c", script]);
        assert!(ran.exits(0).contains("127.0.0.1"), "{tag}: {ran:?}");
        assert_eq!(fs::read_to_string(canary.join("file")).expect("the canary"), "unchanged", "{tag}");
        assert_eq!(fs::read_dir(&canary).expect("the canary").count(), 1, "{tag}");
        host.nothing_is_left();
    }
}

#[test]
fn an_image_that_leads_one_mount_into_another_is_refused() {
    let Some(host) = Host::with_demo() else { return };
    let table: [(&str, Tar, &[&str]); 4] = [
        // The name of a host's file would be made in the project's data.
        ("etc", Tar::default().raw(b".wh.etc", b'0', b"", |_| {}).symlink("etc", "/safe_data"), &[]),
        ("var", Tar::default().raw(b".wh.var", b'0', b"", |_| {}).symlink("var", "/safe_outputs"), &["--read-only"]),
        ("own", Tar::default().symlink("own", "/scratch"), &["--tmpfs", "/own/below"]),
        ("proc", Tar::default().symlink("own", "/proc"), &["--tmpfs", "/own/tty"]),
    ];
    for (tag, layer, options) in table {
        pull(&host, tag, layer);
        let ran = host.run(&[options, &[&format!("localhost/{tag}"), "/bin/true"]].concat());
        ran.refuses(125, &["leads"]);
        host.nothing_ran();
        let data = host.home().join("safe_data");
        assert!(!data.join("hosts").exists() && !data.join("hostname").exists(), "{tag}");
    }
}

#[test]
fn the_program_of_pid_1_can_neither_be_written_nor_taken_for_a_way_out() {
    let Some(host) = Host::with_probe() else { return };
    let program = env!("CARGO_BIN_EXE_ces");
    let before = fs::read(program).expect("the program");
    // CVE-2019-5736: the engine's own program, by the links of the kernel, for writing and as an interpreter.
    let script = "for f in /proc/1/exe /proc/self/exe /proc/$$/exe; do
            (echo x >> $f) 2>/dev/null && echo written $f
        done
        printf '#!/proc/self/exe\\nx' > /scratch/s; chmod 755 /scratch/s; /scratch/s >/dev/null 2>&1
        printf '#!/proc/1/exe\\nx' > /scratch/t; chmod 755 /scratch/t; /scratch/t >/dev/null 2>&1
        (exec 3< /proc/1/exe; [ -e /proc/self/fd/3 ] && (echo x > /proc/self/fd/3) 2>/dev/null && echo written by descriptor)
        echo end";
    for options in [&[][..], &["--profile", "service"]] {
        let ran = host.run(&[options, &["localhost/root", "/bin/sh", "-c", script]].concat());
        assert_eq!(ran.exits(0), "end\n", "{ran:?}");
    }
    for word in ["/proc/self/exe", "/proc/1/exe"] {
        let ran = host.run(&["localhost/root", word]);
        assert!(ran.code.is_some_and(|code| code != 0), "{word}: {ran:?}");
    }
    assert_eq!(fs::read(program).expect("the program"), before);
    host.nothing_is_left();
}

#[test]
fn the_image_is_not_asked_for_the_home_of_its_user() {
    let Some(host) = Host::with_demo() else { return };
    // A name service of the image's would be code of the image's, run by the engine.
    let services = b"passwd: hostile files\n";
    pull(
        &host,
        "names",
        Tar::default().file("etc/nsswitch.conf", services).file("etc/passwd", b"a:x:7:7::/home/a:/bin/sh\n"),
    );
    for (user, home) in [("7", "/home/a"), ("4321", "/")] {
        let ran = host.run(&["--user", user, "localhost/names", "/bin/sh", "-c", "echo $HOME"]);
        assert_eq!(ran.exits(0), format!("{home}\n"));
    }
}

#[test]
fn environment_of_the_caller_that_is_not_text_does_not_reach_the_engine() {
    use std::os::unix::ffi::OsStrExt as _;
    let Some(host) = Host::with_demo() else { return };
    let mut command = host.run_command(&["localhost/demo", "/bin/env"]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe=");
    command
        .env(odd, odd)
        .env("LISTEN_FDS", "9")
        .env("LISTEN_PID", "1")
        .env("NOTIFY_SOCKET", "/x")
        .env("_LIBCONTAINER_X", "1");
    let ran = Ran::from(command.output());
    let names: Vec<&str> = ran.exits(0).lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.iter().all(|name| ["PATH", "HOME", "TMPDIR", "CES_TEST", "HOSTNAME"].contains(name)), "{names:?}");
}
