//! Mounts that a run asks for: `-v`, `--mount`, `--tmpfs`, under the policy's list.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use crate::support::{Host, Ran, children};

/// A directory of the researcher with one file.
fn directory(host: &Host, name: &str) -> std::path::PathBuf {
    let dir = host.home().join(name);
    fs::create_dir_all(&dir).expect("a directory");
    fs::write(dir.join("f"), format!("{name}\n")).expect("a file");
    for path in [&dir, &dir.join("f")] {
        chown(path, Some(host.researcher().uid.as_raw()), Some(host.researcher().gid.as_raw())).expect("an owner");
    }
    dir
}

#[test]
fn a_directory_of_the_home_is_bound_as_asked_and_what_is_written_there_is_the_researchers() {
    let Some(host) = Host::with_demo() else { return };
    let dir = directory(&host, "lab");
    for option in ["-v", "--mount"] {
        let (write, read) = match option {
            "-v" => ("~/lab:/work".to_owned(), "~/lab:/work:ro".to_owned()),
            _ => {
                let at = format!("type=bind,source={},destination=/work", host.researcher().dir.join("lab").display());
                (at.clone(), format!("{at},readonly"))
            }
        };
        assert_eq!(host.sh(&[option, &write], "cat /work/f; echo new > /work/new").exits(0), "lab\n");
        let found = fs::metadata(dir.join("new")).expect("a new file");
        assert_eq!(found.uid(), host.researcher().uid.as_raw());
        fs::remove_file(dir.join("new")).expect("the new file");
        let ran = host.sh(&[option, &read], "cat /work/f; echo new > /work/new");
        assert!(ran.code != Some(0) && ran.stdout == "lab\n" && !dir.join("new").exists(), "{ran:?}");
    }
    host.nothing_is_left();
}

#[test]
fn a_relative_source_begins_at_the_callers_directory_and_missing_ones_are_named() {
    let Some(host) = Host::with_demo() else { return };
    directory(&host, "lab/pgdata");
    let inner = format!(
        "cd {}/lab && exec {} -q run -v ./pgdata:/var/lib/postgresql localhost/demo cat /var/lib/postgresql/f",
        host.researcher().dir.display(),
        env!("CARGO_BIN_EXE_ces")
    );
    let mut command = host.command("/bin/sh");
    command.args(["-c", &inner]).envs(host.ces().get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(Ran::from(command.output()).exits(0), "lab/pgdata\n");
    host.sh(&["-v", "~/nosuch:/work"], "true").refuses(125, &["~/nosuch", "cannot be found"]);
}

#[test]
fn a_link_in_the_source_is_resolved_before_it_is_compared() {
    let Some(host) = Host::with_demo() else { return };
    directory(&host, "lab");
    let outside = host.tmp().join("other");
    fs::create_dir(&outside).expect("a directory that no rule opens");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).expect("permissions");
    for (name, to) in [("etc", "/etc"), ("out", outside.to_str().expect("a path")), ("in", "lab")] {
        symlink(to, host.home().join(name)).expect("a link");
    }
    host.sh(&["-v", "~/etc:/work"], "true").refuses(125, &["/etc", "host's own directories"]);
    host.sh(&["-v", "~/out:/work"], "true").refuses(125, &["~/out", "mounts.allow"]);
    host.sh(&["-v", "~/in/../out:/work"], "true").refuses(125, &["mounts.allow"]);
    assert_eq!(host.sh(&["-v", "~/in:/work"], "cat /work/f").exits(0), "lab\n");
    // A link inside a bound directory is the container's to follow: it leads nowhere outside.
    symlink("/etc/ces", host.home().join("lab/away")).expect("a link");
    let ran = host.sh(&["-v", "~/lab:/work"], "ls /work/away/ 2>&1");
    assert!(ran.code != Some(0) && !ran.stdout.contains("policy"), "{ran:?}");
}

#[test]
fn a_sibling_whose_name_begins_as_an_allowed_directory_is_refused() {
    let Some(host) = Host::with_demo() else { return };
    directory(&host, "lab");
    directory(&host, "laboratory");
    host.policy("[mounts]\nallow = [{ host = \"~/lab\", access = \"ro\" }]\n");
    assert_eq!(host.sh(&["-v", "~/lab:/work:ro"], "cat /work/f").exits(0), "lab\n");
    host.sh(&["-v", "~/laboratory:/work:ro"], "true").refuses(125, &["~/laboratory", "policy.toml line 2"]);
    host.sh(&["-v", "~/lab:/work"], "true").refuses(125, &["for writing", "read-only"]);
}

#[test]
fn a_directory_that_the_researcher_may_not_reach_is_not_bound_for_them() {
    let Some(host) = Host::with_demo() else { return };
    let closed = host.home().join("closed");
    fs::create_dir_all(closed.join("inner")).expect("directories");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("permissions");
    chown(&closed, Some(0), Some(0)).expect("root's");
    host.sh(&["-v", "~/closed/inner:/work"], "true").refuses(125, &["~/closed/inner", "cannot be found"]);
    host.nothing_ran();
}

#[test]
fn destinations_of_ces_and_of_the_kernel_stay_what_they_are() {
    let Some(host) = Host::with_demo() else { return };
    directory(&host, "lab");
    for at in ["/safe_data", "/safe_outputs/x", "/scratch", "/proc", "/sys/fs", "/dev/shm", "/etc", "/"] {
        host.sh(&["-v", &format!("~/lab:{at}")], "true").refuses(125, &["cover"]);
        host.sh(&["--tmpfs", at], "true").refuses(125, &["cover"]);
        host.sh(&["--mount", &format!("type=tmpfs,destination={at}")], "true").refuses(125, &["cover"]);
    }
    host.nothing_ran();
}

#[test]
fn read_only_data_is_not_writable_by_way_of_the_home() {
    let Some(host) = Host::with_demo() else { return };
    fs::create_dir(host.home().join("safe_data/sub")).expect("a directory");
    symlink("safe_data", host.home().join("alias")).expect("a link");
    host.policy("[data]\naccess = \"ro\"\n");
    for source in ["~/safe_data", "~/safe_data/sub", "~/alias", "~"] {
        host.sh(&["-v", &format!("{source}:/work")], "true").refuses(125, &[source, "read-only"]);
    }
    host.sh(&["-v", "~/safe_data:/work:ro"], "cat /work/ward.csv; ! touch /work/x").exits(0);
    host.nothing_is_left();
}

#[test]
fn an_empty_directory_in_memory_has_its_size_and_mode_and_counts_as_memory() {
    let Some(host) = Host::with_demo() else { return };
    let script = "stat -c %a /work; dd if=/dev/zero of=/work/f bs=1M count=20 2>/dev/null; stat -c %s /work/f";
    let ran = host.sh(&["--tmpfs", "/work:size=8m,mode=1777"], script);
    assert_eq!(ran.stdout, format!("1777\n{}\n", 8 << 20), "{ran:?}");
    let ran =
        host.sh(&["--mount", "type=tmpfs,destination=/var/lib/rstudio-server"], "echo x > /var/lib/rstudio-server/f");
    ran.exits(0);
    host.sh(&["--memory", "64m", "--tmpfs", "/work:size=1g"], "true").refuses(125, &["more than this run's memory"]);
}

#[test]
fn mount_points_are_made_once_with_the_image_and_not_by_each_run() {
    for host in [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten() {
        host.pull_demo("demo");
        let running = host.start(&[], "sleep 100");
        let [work] = &host.work()[..] else { panic!("{:?}", host.work()) };
        // The layer over the image has what the run made.
        let made = children(&work.join("upper"));
        assert!(made.is_empty(), "{made:?}");
        running.signal(nix::sys::signal::Signal::SIGTERM);
        running.finish();
        host.nothing_is_left();
    }
}

#[test]
fn an_image_without_mount_points_of_the_store_has_them_made_by_the_run() {
    let Some(host) = Host::with_demo() else { return };
    let [image] = &children(&host.root().join("store/images/sha256"))[..] else { panic!("one image") };
    let script = "ls -d /safe_outputs /scratch /proc/1 /etc/hosts && stat -c %U:%a /safe_data/..";
    let before = host.sh(&[], script).exits(0).to_owned();
    fs::remove_dir_all(image.join("mount-points")).expect("mount points, made with the image");
    assert_eq!(host.sh(&[], script).exits(0), before);
    host.nothing_is_left();
}
