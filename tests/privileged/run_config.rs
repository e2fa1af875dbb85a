//! What becomes of arguments, users and configuration: as Docker merges them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::layout::with_config;
use crate::support::{Host, Ran, have, layout};

#[test]
fn entrypoint_command_and_arguments_merge_as_docker_merges_them() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("entrypoint");
    host.pull_demo("demo");
    let both = "localhost/entrypoint";
    let table: [(&[&str], &str); 6] = [
        (&[both], "entry cmd\n"),
        (&[both, "given"], "entry given\n"),
        (&["--entrypoint", "/bin/basename", both, "/a/b"], "b\n"),
        // An entrypoint of one's own drops the image's command.
        (&["--entrypoint", "/bin/echo", both], "\n"),
        (&["--entrypoint", "", both, "/bin/echo", "bare"], "bare\n"),
        (&["localhost/demo", "echo", "found in PATH"], "found in PATH\n"),
    ];
    for (words, said) in table {
        assert_eq!(host.run(words).exits(0), said, "{words:?}");
    }
}

#[test]
fn arguments_arrive_as_they_are() {
    let Some(host) = Host::with_demo() else { return };
    let words = ["two words", "", "it's", "\"quoted\"", "$HOME", "-x", "--", "line\nbreak", "ümlaut", "*"];
    let script = "for word in \"$@\"; do printf '<%s>' \"$word\"; done";
    let ran = host.run(&[&["localhost/demo", "sh", "-c", script, "sh"][..], &words].concat());
    let wanted: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(ran.exits(0), wanted);
}

#[test]
fn a_user_may_be_a_name_a_number_or_a_pair() {
    let Some(host) = Host::with_demo() else { return };
    let table = [
        ("analyst", "1000 1000"),
        ("1000", "1000 1000"),
        ("1000:2000", "1000 2000"),
        ("analyst:readers", "1000 2000"),
        ("root", "0 0"),
        ("0", "0 0"),
        ("4321", "4321 0"),
        ("4321:1234", "4321 1234"),
    ];
    for (user, ids) in table {
        let ran = host.sh(&["--user", user], "echo $(id -u) $(id -g); : > /safe_outputs/mine");
        assert_eq!(ran.exits(0), format!("{ids}\n"), "{user}");
        let owner = std::os::unix::fs::MetadataExt::uid(&host.outputs().join("mine").metadata().expect("the output"));
        assert_eq!(owner, host.researcher().uid.as_raw(), "{user}: the output is the researcher's");
    }
}

#[test]
fn the_images_environment_and_working_directory_hold_and_can_be_replaced() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("entrypoint");
    let run = |options: &[&str]| {
        let words =
            [options, &["--entrypoint", "/bin/sh", "localhost/entrypoint", "-c", "pwd; echo $COLOUR $SHAPE"]].concat();
        host.run(&words).exits(0).to_owned()
    };
    assert_eq!(run(&[]), "/made/by/config\nblue\n");
    assert_eq!(
        run(&["-w", "/made/by/me", "-e", "COLOUR=green", "-e", "SHAPE=round one"]),
        "/made/by/me\ngreen round one\n"
    );
}

#[test]
fn the_home_is_that_of_the_images_user() {
    let Some(host) = Host::with_demo() else { return };
    assert_eq!(host.sh(&[], "echo $HOME; cat ~/whose").exits(0), "/home/analyst\nanalyst\n");
    assert_eq!(host.sh(&["--user", "root"], "echo $HOME").exits(0), "/root\n");
}

#[test]
fn host_names_resolve_and_nothing_else_does() {
    let Some(host) = Host::with_demo() else { return };
    let ran = host.sh(
        &["--hostname", "analysis"],
        "hostname; cat /etc/hostname; grep -c localhost /etc/hosts; cat /etc/resolv.conf",
    );
    let lines: Vec<&str> = ran.exits(0).lines().collect();
    assert_eq!(lines[..2], ["analysis", "analysis"], "{lines:?}");
    assert_ne!(lines[2], "0", "{lines:?}");
    assert_eq!(lines[3..], ["options timeout:1 attempts:1"], "{lines:?}");
    let ran = host.sh(&["--hostname", "analysis"], "nc -l -p 8000 -e echo heard & sleep 0.3; nc analysis 8000");
    assert_eq!(ran.exits(0), "heard\n");
}

#[test]
fn a_lookup_fails_soon_also_in_a_program_of_musls() {
    let Some(host) = Host::with_demo() else { return };
    if have("musl-gcc").is_none() {
        return;
    }
    let (source, program) = (host.tmp().join("lookup.c"), host.home().join("safe_data/lookup"));
    let text = "#include <netdb.h>\nint main(void) { struct addrinfo *a; return getaddrinfo(\"a.example\", \"80\", 0, &a) ? 7 : 0; }\n";
    std::fs::write(&source, text).expect("a source");
    let built = Command::new("musl-gcc").arg("-static").arg("-o").arg(&program).arg(&source).status();
    assert!(built.expect("musl-gcc").success());
    let began = Instant::now();
    let ran = host.run(&["localhost/demo", "/safe_data/lookup"]);
    assert_eq!(ran.code, Some(7), "{ran:?}");
    // Five seconds are musl's own time.
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
}

#[test]
fn layers_replace_hide_and_bring_back_as_they_should() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("layers");
    let script = "cd /data; find . | sort; cat replaced other-name gone link";
    let ran = host.run(&["localhost/layers", "/bin/sh", "-c", script]);
    let wanted = "./gone\n./hidden\n./hidden/new\n./kept\n./kept/a\n./link\n./other-name\n./replaced\n";
    assert_eq!(ran.exits(0), format!(".\n{wanted}second\nfirst\nthird\nthird\n"));
}

#[test]
fn every_compression_of_a_layer_gives_the_same_files() {
    let Some(host) = Host::new() else { return };
    let script =
        "find / -xdev -type f ! -path '/etc/hos*' ! -path /etc/resolv.conf | sort | xargs sha256sum | sha256sum;
        find /bin /home /root /etc/passwd ! -type d -exec stat -c '%n %f %u %g %Y' {} + 2>/dev/null | sort | sha256sum";
    let mut seen = Vec::new();
    for tag in ["demo", "zstd", "plain"] {
        host.pull_demo(tag);
        seen.push(host.run(&[&format!("localhost/{tag}"), "/bin/sh", "-c", script]).exits(0).to_owned());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[test]
fn labels_volumes_and_ports_of_an_image_steer_nothing() {
    let Some(host) = Host::new() else { return };
    let config = json!({
        "User": "1000",
        "Env": ["PATH=/bin"],
        "Labels": { "run.oci.hooks": "/bin/false", "ces.profile": "service" },
        "Volumes": { "/../../etc": {}, "/data": {} },
        "ExposedPorts": { "80/tcp": {} },
        "Healthcheck": { "Test": ["CMD", "/bin/false"] },
        "Cmd": ["/bin/sh", "-c", "test ! -e /etc/shadow && wc -l < /proc/self/mountinfo"],
    });
    let plain =
        json!({ "User": "1000", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh", "-c", "wc -l < /proc/self/mountinfo"] });
    let mut mounts = Vec::new();
    for (tag, config) in [("labels", config), ("bare", plain)] {
        host.pull(&layout::with_config(host.tmp(), tag, &config), tag);
        mounts.push(host.run(&[&format!("localhost/{tag}")]).exits(0).to_owned());
    }
    assert_eq!(mounts[0], mounts[1], "an image adds no mount");
}

#[test]
fn a_volume_that_the_image_lacks_is_a_directory_of_the_run() {
    let Some(host) = Host::new() else { return };
    let config = json!({
        "Env": ["PATH=/bin"],
        "Volumes": { "/var/cache/tool": {}, "/scratch": {}, "/etc/passwd": {}, "/proc/x": {}, "/../../up": {}, "relative": {} },
        "Cmd": ["/bin/sh", "-c", "echo x > /var/cache/tool/f && cat /var/cache/tool/f && ls -d /up /relative /proc/x"],
    });
    host.pull(&layout::with_config(host.tmp(), "volumes", &config), "volumes");
    let ran = host.run(&["localhost/volumes"]);
    assert_eq!(ran.stdout, "x\n", "{ran:?}");
    assert_eq!(ran.stderr.matches("No such file").count(), 3, "{ran:?}");
    // Each run has its own.
    assert_eq!(host.run(&["localhost/volumes", "/bin/sh", "-c", "ls /var/cache/tool"]).exits(0), "");
    host.nothing_is_left();
}

#[test]
fn the_project_is_the_one_that_a_group_of_the_researcher_names() {
    let Some(host) = Host::with_demo() else { return };
    fs::rename(host.home().join("safe_data"), host.home().join("elsewhere")).expect("a rename");
    let root = host.tmp().join("projects");
    for (project, gid) in [("alpha", 61_001), ("beta", 61_002), ("gamma", 61_003)] {
        let dir = root.join(project);
        fs::create_dir_all(&dir).expect("a project directory");
        fs::write(dir.join("which"), format!("{project}\n")).expect("its data");
        // Access is the group's alone, as on a real site.
        chown(&dir, Some(0), Some(gid)).expect("an owner");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2770)).expect("permissions");
    }
    host.policy(&format!("[data]\nroot = \"{}\"\n", root.display()));
    let file = host.inside(Path::new("/etc/group"));
    let mut groups = fs::OpenOptions::new().append(true).open(file).expect("the group file");
    let member = &host.researcher().name;
    write!(groups, "alpha:x:61001:\nlab-beta:x:61002:{member}\nlab-gamma:x:61003:{member}\n").expect("groups");

    assert_eq!(host.sh(&[], "cat /safe_data/which").exits(0), "beta\n");
    assert_eq!(host.sh(&["--project", "gamma"], "cat /safe_data/which; touch /safe_data/new").exits(0), "gamma\n");
    host.sh(&["--project", "alpha"], "true").refuses(125, &["cannot read from", "alpha"]);
    // One project's group opens nothing of another's.
    let ran = host.sh(&["--project", "gamma"], "cat /proc/self/status | grep ^Groups:");
    // Of the host's groups one at most, which has no number in the container; the other is the image's own.
    let groups: Vec<&str> = ran.exits(0).split_whitespace().skip(1).collect();
    assert!(groups.iter().filter(|gid| **gid != "2000").count() <= 1, "{ran:?}");
}

#[test]
fn an_entrypoint_that_fails_as_root_without_capabilities_gets_the_hint_to_try_service() {
    let Some(host) = Host::with_demo() else { return };
    host.pull_demo("root");
    // As entrypoints of databases do: a directory is prepared, given away, and its new owner takes over.
    let prepares = json!({"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sh", "-c", "mkdir -p /srv/db && chown 1000:1000 /srv/db || exit 1; echo ready"]});
    host.pull(&with_config(host.tmp(), "prepares", &prepares), "prepares");
    let hinted = |ran: &Ran| ran.stderr.contains("--profile service may help");

    let ran = host.run(&["localhost/prepares"]);
    ran.exits(1);
    assert!(hinted(&ran) && ran.stderr.contains("not permitted"), "{ran:?}");
    let ran = host.run(&["--profile", "service", "localhost/prepares"]);
    assert_eq!(ran.exits(0), "ready\n", "the hint is true: {ran:?}");
    assert!(!hinted(&ran), "{ran:?}");

    // Of these the profile is not the cause, as far as can be told.
    for (words, code) in [
        (vec!["--user", "1000", "localhost/prepares"], 1),
        (vec!["--entrypoint", "[\"/bin/false\"]", "localhost/prepares"], 1),
        (vec!["--profile", "service", "--user", "1000", "localhost/prepares"], 1),
        (vec!["localhost/root", "/bin/false"], 1),
        (vec!["localhost/root", "/bin/no-such"], 127),
    ] {
        let ran = host.run(&words);
        ran.exits(code);
        assert!(!hinted(&ran), "{words:?}: {ran:?}");
    }
    // Nor is a way shown that the policy closes.
    host.policy("[profiles]\nallow = [\"batch\"]\n");
    let ran = host.run(&["localhost/prepares"]);
    ran.exits(1);
    assert!(!hinted(&ran), "{ran:?}");
    host.nothing_is_left();
}
