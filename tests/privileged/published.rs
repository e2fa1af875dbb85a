//! EPCC's command lines, word for word: `ces-pull` and `ces-run`, by links of these names.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::{Host, Ran, demo_layout};

/// The program under another name, as the researcher calls it by sudo, in the researcher's home.
fn link(host: &Host, name: &str, words: &[&str]) -> Command {
    let link = host.tmp().join(name);
    if !link.exists() {
        symlink(env!("CARGO_BIN_EXE_ces"), &link).expect("a link");
    }
    let mut command = host.command("/bin/sh");
    let inner = format!("cd {} && exec {} \"$@\"", host.researcher().dir.display(), link.display());
    command.args(["-c", &inner, "sh"]).args(words);
    command.envs(host.ces().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

fn ran(host: &Host, name: &str, words: &[&str]) -> Ran {
    Ran::from(link(host, name, words).output())
}

#[test]
fn ces_pull_takes_a_runtime_a_user_and_a_token_and_warns_of_the_token() {
    let Some(host) = Host::new() else { return };
    let source = format!("oci:{}:demo", demo_layout().display());
    for words in [
        vec!["podman", "me", "a-token", &source],
        vec!["apptainer", "me", "a-token", &source],
        vec!["k8s", "me", "a-token", &source],
        vec!["me", "a-token", &source],
        vec!["podman", &source],
        vec![&source],
    ] {
        let ran = ran(&host, "ces-pull", &words);
        assert!(ran.exits(0).contains("localhost/demo"), "{words:?}: {ran:?}");
        assert_eq!(ran.stderr.contains("--password-stdin"), words.len() > 2, "{words:?}: {ran:?}");
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("a-token"), "{words:?}: {ran:?}");
    }
    for words in [vec![], vec!["me", "tok"], vec!["podman", "a", "b", "c", "d"]] {
        ran(&host, "ces-pull", &words).refuses(2, &["ces-pull"]);
    }
}

#[test]
fn help_shows_the_published_form() {
    let Some(host) = Host::new() else { return };
    for (name, wanted) in [("ces-pull", "ces-pull [podman|apptainer|k8s] USER TOKEN IMAGE"), ("ces-run", "--opt-file")]
    {
        for flag in ["-h", "--help"] {
            let ran = ran(&host, name, &[flag]);
            assert!(ran.exits(0).contains(wanted), "{name} {flag}: {ran:?}");
        }
    }
}

#[test]
fn ces_run_takes_every_file_with_and_without_an_equals_sign() {
    let Some(host) = Host::with_demo() else { return };
    let home = host.home();
    fs::create_dir(home.join("pgdata")).expect("a directory");
    let nix::unistd::User { uid, gid, .. } = host.researcher();
    std::os::unix::fs::chown(home.join("pgdata"), Some(uid.as_raw()), Some(gid.as_raw())).expect("an owner");
    // Several options a line, quotes, comments, CRLF, a relative host path, nothing executed.
    let options = "# options of the sample\r\n-p 0:8787 -e 'WORDS=two words'\r\n\r\n--mount type=tmpfs,destination=/var/lib/rstudio-server\r\n\
        -v ./pgdata:/var/lib/postgresql  # a relative path\r\n-e \"NOT=$(touch /tmp/executed)\"\r\n--rm --init\r\n";
    fs::write(home.join("options.txt"), options).expect("options");
    fs::write(home.join("env.txt"), "# comment\n\nPOSTGRES_PASSWORD=as it stands\nQUOTED=\"yes\"\nCOLOUR\n")
        .expect("variables");
    fs::write(
        home.join("args.txt"),
        "-c\nenv; echo new > /var/lib/postgresql/new; echo $0 $1\nfirst\nand the second\n",
    )
    .expect("arguments");
    for words in [
        vec![
            "podman",
            "--opt-file=options.txt",
            "--arg-file=args.txt",
            "--env-file=env.txt",
            "--entrypoint=sh",
            "localhost/demo",
        ],
        vec![
            "--opt-file",
            "options.txt",
            "--arg-file",
            "args.txt",
            "--env-file",
            "env.txt",
            "--entrypoint",
            "sh",
            "localhost/demo",
        ],
        vec![
            "k8s",
            "--opt-file=options.txt",
            "--env-file",
            "env.txt",
            "--arg-file=args.txt",
            "--entrypoint=sh",
            "localhost/demo:latest",
        ],
    ] {
        let ran = Ran::from(link(&host, "ces-run", &words).env("COLOUR", "blue").output());
        let said = ran.exits(0);
        for line in [
            "WORDS=two words",
            "NOT=$(touch /tmp/executed)",
            "POSTGRES_PASSWORD=as it stands",
            "QUOTED=\"yes\"",
            "COLOUR=blue",
            "first and the second",
        ] {
            assert!(said.lines().any(|seen| seen == line), "{line}: {ran:?}");
        }
        assert!(
            ran.stderr.contains("QUOTED") && ran.stderr.contains("quotes"),
            "a warning names the quoted value: {ran:?}"
        );
        assert!(ran.stderr.contains("port 8787 of the container"), "{ran:?}");
        assert_eq!(fs::read_to_string(home.join("pgdata/new")).expect("a file of the bind"), "new\n");
        fs::remove_file(home.join("pgdata/new")).expect("the file");
    }
    assert!(!host.inside(std::path::Path::new("/tmp/executed")).exists(), "an option file was executed");
}

#[test]
fn gpu_is_answered_clearly() {
    let Some(host) = Host::with_demo() else { return };
    ran(&host, "ces-run", &["podman", "--gpu", "localhost/demo"]).refuses(125, &["--gpu", "not supported yet"]);
    host.nothing_ran();
}

#[test]
fn an_option_file_widens_nothing_and_its_faults_are_named() {
    let Some(host) = Host::with_demo() else { return };
    for (text, named) in [
        ("--privileged\n", "--privileged"),
        ("-p 0.0.0.0:80:80\n", "0.0.0.0"),
        ("--nosuch x\n", "--nosuch"),
        ("-e 'A=1\n", "options.txt"),
        ("--opt-file other.txt\n", "another option file"),
        ("localhost/demo\n", "options.txt"),
    ] {
        fs::write(host.home().join("options.txt"), text).expect("options");
        ran(&host, "ces-run", &["--opt-file=options.txt", "localhost/demo"]).refuses(125, &[named]);
    }
    ran(&host, "ces-run", &["--opt-file=nosuch.txt", "localhost/demo"]).refuses(125, &["nosuch.txt"]);
    host.nothing_ran();
}
