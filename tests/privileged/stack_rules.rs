//! The site's rules for software stacks where they count: at a run, at an approval, at a pull.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::image_support::Tar;
use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, audit_log, children, layout};

fn root(desk: &Desk, words: &[&str]) -> Ran {
    Ran::from(desk.host.ces_as_root().args(words).output())
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of root's that everybody can read.
fn file(desk: &Desk, name: &str, document: &Value) -> PathBuf {
    let path = desk.host.tmp().join(name);
    fs::write(&path, document.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

/// The demonstration image with a Python package in it that is known to be vulnerable, as `localhost/vulnerable`.
fn vulnerable(desk: &Desk) {
    let at = "usr/lib/python3/dist-packages/requests-2.25.1.dist-info";
    let mut tar = Tar::default();
    for directory in ["usr", "usr/lib", "usr/lib/python3", "usr/lib/python3/dist-packages", at] {
        tar = tar.dir(&format!("{directory}/"));
    }
    let tar = tar.file(&format!("{at}/METADATA"), b"Metadata-Version: 2.1\nName: requests\nVersion: 2.25.1\n\n");
    let at = tempfile::tempdir_in(desk.host.tmp()).unwrap().keep();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    let layout = layout::with_layers(&at, "vulnerable", &json!({"Cmd": ["/bin/sh"]}), &[tar.end()]);
    desk.ces(&["pull", "--quiet", &format!("oci:{}:vulnerable", layout.display())]).exits(0);
    let record = json!({
        "id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "modified": "2026-11-01T00:00:00Z", "summary": "sends what it should not",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
        "affected": [{
            "package": {"ecosystem": "PyPI", "name": "requests"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.30.0"}]}],
        }],
    });
    let data = file(desk, "osv.json", &record);
    root(desk, &["vulndb", "import", word(&data)]).exits(0);
}

fn run(desk: &Desk) -> Ran {
    desk.ces(&["run", "localhost/vulnerable", "/bin/sh", "-c", "echo ran"])
}

/// What is kept of images.
fn kept(desk: &Desk) -> Vec<PathBuf> {
    let directory = desk.host.root().join("store/stacks");
    if directory.exists() { children(&directory) } else { Vec::new() }
}

/// The digest of the stack of `image`, as its page names it.
fn stack(desk: &Desk, image: &str) -> String {
    let page = root(desk, &["stack", image]);
    let line = page.stdout.lines().find_map(|line| line.strip_prefix("stack ")).unwrap_or_else(|| panic!("{page:?}"));
    line.to_owned()
}

#[test]
fn a_run_of_an_image_whose_stack_the_policy_refuses_is_refused_and_without_such_rules_nothing_is_read() {
    for caller in [Caller::Sudo, Caller::UserWithSubids] {
        let Some(desk) = Desk::with_demo(caller) else { return };
        // The demonstration image has programs of no package.
        desk.sh(&[], "true").exits(0);
        let store =
            if caller == Caller::Sudo { desk.host.root().join("store") } else { desk.home().join(".local/share/ces") };
        assert!(store.join("layers").exists() && !store.join("stacks").exists(), "{}", store.display());

        desk.host.policy("contact = \"IG desk\"\n[images.stack]\nunowned = \"refuse\"\n");
        let refused = desk.sh(&[], "true");
        refused.refuses(
            125,
            &[
                "the software stack of localhost/demo:latest is refused",
                "line 3: images.stack.unowned",
                "of no package",
            ],
        );
        assert!(
            refused.stderr.contains("ces stack localhost/demo:latest shows it") && refused.stderr.contains("IG desk"),
            "{refused:?}"
        );
        let log = fs::read_to_string(audit_log(&desk.log())).unwrap();
        assert!(
            log.lines().any(|line| line.contains("\"event\":\"refused\"") && line.contains("software stack")),
            "{log}"
        );
        assert!(desk.ces(&["stack", "localhost/demo"]).code == Some(3));
        desk.ces(&["spec", "localhost/demo"]).refuses(3, &["the software stack of localhost/demo:latest is refused"]);

        // What is only told is no reason not to run, and the record has it.
        desk.host.policy("[images.stack]\nunowned = \"report\"\n");
        desk.sh(&[], "true").exits(0);
        let decisions = desk.record()["decisions"].clone();
        let of_stack = decisions.as_array().unwrap().iter().find(|decision| decision["what"] == "software stack");
        let value = of_stack.unwrap_or_else(|| panic!("{decisions:#}"))["value"].as_str().unwrap();
        assert!(value.contains("told, not refused: ") && value.contains("unowned"), "{value}");
        assert!(store.join("stacks").exists());
    }
}

#[test]
fn a_pull_tells_that_the_rules_for_stacks_refuse_the_image() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    desk.host.policy("[images.stack]\nunowned = \"refuse\"\n");
    let source = format!("oci:{}:demo", crate::support::demo_layout().display());
    let told = desk.ces(&["pull", &source]);
    told.exits(0);
    for words in ["as things are the image may not run here", "software stack of", "images.stack.unowned"] {
        assert!(told.stderr.contains(words), "{told:?}");
    }
    // What its first run needs is there.
    assert_eq!(kept(&desk).len(), 1);
}

#[test]
fn what_was_kept_is_judged_anew_when_data_waivers_or_rules_change_and_cannot_be_planted() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let waivers = desk.host.inside(Path::new("/etc/ces/vex"));
    fs::create_dir_all(&waivers).unwrap();
    fs::set_permissions(&waivers, fs::Permissions::from_mode(0o755)).unwrap();
    let rules = "[images.stack]\nwaivers = \"/etc/ces/vex\"\n";
    desk.host.policy(rules);
    vulnerable(&desk);
    let path = || kept(&desk).into_iter().find(|path| word(path).ends_with(".standing")).unwrap();
    let one = || fs::read(path()).unwrap();

    // The rules: worse than high is told, then refused.
    assert!(run(&desk).exits(0).contains("ran"));
    let harmless = one();
    desk.host.policy(&format!("{rules}on_finding = \"refuse\"\n"));
    let refuses = |ran: Ran| ran.refuses(125, &["max_severity", "above high without a waiver: CVE-2026-1"]);
    refuses(run(&desk));
    // The same file is read again, and nothing is written.
    let before = one();
    refuses(run(&desk));
    assert_eq!(one(), before);

    // What was said under other rules, or of another image, or by somebody else, is not said of this.
    let path = path();
    let json = harmless.split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
    for planted in [harmless.clone(), json.clone(), [b"\n".to_vec(), json].concat(), Vec::new()] {
        fs::write(&path, planted).unwrap();
        refuses(run(&desk));
    }
    let researcher = desk.host.researcher().name.clone();
    for script in ["echo x > {}", "rm {}", "cat {}"].map(|script| script.replace("{}", word(&path))) {
        let tried =
            Ran::from(desk.host.command("runuser").args(["-u", &researcher, "--", "sh", "-c", &script]).output());
        assert!(tried.code != Some(0) && tried.stderr.contains("ermission denied"), "{tried:?}");
    }

    // A waiver comes, and goes.
    let waiver = json!({
        "@context": "https://openvex.dev/ns/v0.2.0", "author": "A. Person", "timestamp": "2026-11-01T00:00:00Z",
        "statements": [{
            "vulnerability": {"name": "CVE-2026-1"}, "products": [{"@id": "pkg:pypi/requests@2.25.1"}],
            "status": "not_affected", "justification": "vulnerable_code_not_in_execute_path",
        }],
    });
    fs::write(waivers.join("requests.json"), waiver.to_string()).unwrap();
    assert!(run(&desk).exits(0).contains("ran"));
    // One that nobody can read as a waiver is no reason to go on without it.
    fs::write(waivers.join("more.json"), "{").unwrap();
    run(&desk).refuses(125, &["more.json is no document of waivers"]);
    fs::remove_file(waivers.join("more.json")).unwrap();
    fs::remove_file(waivers.join("requests.json")).unwrap();
    refuses(run(&desk));

    // Data goes: nothing is known, and a site that does not want that says so.
    root(&desk, &["vulndb", "remove", "osv-PyPI"]).exits(0);
    assert!(run(&desk).exits(0).contains("ran"));
    desk.host.policy(&format!("{rules}unjudged = \"refuse\"\n"));
    run(&desk).refuses(125, &["images.stack.unjudged", "were not judged"]);
}

#[test]
fn what_cannot_be_read_is_not_judged_and_refused_where_the_site_wants_all_judged() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    desk.host.policy("[images.stack]\nunjudged = \"refuse\"\n");
    let at = tempfile::tempdir_in(desk.host.tmp()).unwrap().keep();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    // Who hides packages behind a database that is damaged hides nothing.
    let tar = Tar::default().dir("var/").dir("var/lib/").dir("var/lib/rpm/");
    let tar = tar.file("var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0 and nothing of it");
    let layout = layout::with_layers(&at, "hidden", &json!({"Cmd": ["/bin/sh"]}), &[tar.end()]);
    desk.sh(&[], "true").exits(0);
    desk.ces(&["pull", &format!("oci:{}:hidden", layout.display())]).exits(0);
    desk.ces(&["run", "localhost/hidden", "true"]).refuses(125, &["images.stack.unjudged", "could not be read"]);
}

#[test]
fn an_approval_says_what_was_read_and_no_other_stack_runs() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let list = desk.host.inside(Path::new("/etc/ces/approved.toml"));
    fs::write(&list, "").unwrap();
    let approved = "[images]\napproved = \"/etc/ces/approved.toml\"\n";
    desk.host.policy(&format!("{approved}[images.stack]\nunowned = \"refuse\"\n"));
    let add = |more: &[&str]| root(&desk, &[&["approve", "add", "localhost/demo", "--project", "*"], more].concat());
    add(&[]).refuses(3, &["the software stack of localhost/demo:latest is refused", "images.stack.unowned"]);
    assert_eq!(fs::read_to_string(&list).unwrap(), "");

    desk.host.policy(approved);
    let (read, other) = (stack(&desk, "localhost/demo"), format!("sha256:{}", "b".repeat(64)));
    add(&["--stack", "sha256:short"]).refuses(2, &["64 hexadecimal digits"]);
    add(&["--stack", &other]).refuses(1, &["does not hold that stack", &read]);
    add(&["--stack", &read]).exits(0);
    assert!(fs::read_to_string(&list).unwrap().contains(&format!("stack = \"{read}\"")));
    desk.sh(&[], "true").exits(0);
    let listed: Value = serde_json::from_str(root(&desk, &["approve", "list", "--json"]).exits(0)).unwrap();
    assert_eq!(listed[0]["stack"], read.as_str());

    let changed = fs::read_to_string(&list).unwrap().replace(&read, &other);
    fs::write(&list, changed).unwrap();
    desk.sh(&[], "true").refuses(125, &["is not the one that was approved", &other, &read]);
}

/// The approved images, judged today: `IMAGE READ KNOWN TODAY` of each.
fn judged(desk: &Desk, code: i32) -> Vec<String> {
    let all: Value =
        serde_json::from_str(root(desk, &["stack", "--approved", "--format", "json"]).exits(code)).unwrap();
    let row = |judged: &Value| {
        let text = |key: &str| judged[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {} {}", text("image"), text("read"), judged["known"], judged["refused"])
    };
    all.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn every_approved_image_is_judged_by_the_data_of_today_and_stays_known_when_it_is_removed() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let list = desk.host.inside(Path::new("/etc/ces/approved.toml"));
    let digest = "c".repeat(64);
    let never =
        format!("[[image]]\ndigest = \"sha256:{digest}\"\nprojects = [\"*\"]\napprover = \"A\"\nname = \"never\"\n");
    fs::write(&list, never).unwrap();
    let rules = "[images]\napproved = \"/etc/ces/approved.toml\"\n[images.stack]\non_finding = \"refuse\"\n";
    desk.host.policy(rules);
    vulnerable(&desk);
    root(&desk, &["vulndb", "remove", "osv-PyPI"]).exits(0);
    root(&desk, &["approve", "add", "localhost/vulnerable", "--project", "*"]).exits(0);
    root(&desk, &["approve", "add", "localhost/demo", "--project", "*"]).exits(0);
    let (never, demo) = ("never no 0 false", "localhost/demo:latest store 0 false");
    assert_eq!(judged(&desk, 0), [never, "localhost/vulnerable:latest store 0 false", demo]);

    // What has become known since is told of what was approved before, in the store or not.
    let data = desk.host.tmp().join("osv.json");
    root(&desk, &["vulndb", "import", word(&data)]).exits(0);
    assert_eq!(judged(&desk, 3), [never, "localhost/vulnerable:latest store 1 true", demo]);
    let page = root(&desk, &["stack", "localhost/vulnerable"]).stdout;
    desk.ces(&["rmi", "localhost/vulnerable"]).exits(0);
    root(&desk, &["prune"]).exits(0);
    assert_eq!(judged(&desk, 3), [never, "localhost/vulnerable:latest kept 1 true", demo]);
    let text = root(&desk, &["stack", "--approved"]);
    let line = text.stdout.lines().find(|line| line.starts_with("localhost/vulnerable")).unwrap();
    assert!(text.code == Some(3) && line.contains("kept") && line.contains("critical"), "{text:?}");
    assert!(line.ends_with("refused: max_severity"), "{line}");
    assert!(page.contains("CVE-2026-1"), "{page}");
    // The list of what is approved is not everybody's.
    desk.ces(&["stack", "--approved"]).refuses(3, &["may not approve images"]);
    root(&desk, &["stack", "--approved", "--format", "html"]).refuses(2, &["text or JSON"]);
    root(&desk, &["stack"]).refuses(2, &["IMAGE"]);

    // A damaged one is told, and not taken for nothing.
    let stack = kept(&desk).into_iter().find(|path| word(path).ends_with(".stack")).unwrap();
    let whole = fs::read(&stack).unwrap();
    let all: Vec<PathBuf> = kept(&desk).into_iter().filter(|path| word(path).ends_with(".stack")).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    for path in &all {
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    root(&desk, &["stack", "--approved"]).refuses(1, &["was kept of", "is damaged", "ces fsck --repair"]);
    let found = root(&desk, &["fsck"]);
    assert!(found.exits(1).contains("damaged: the stack that was kept of image"), "{found:?}");
    root(&desk, &["fsck", "--repair"]).exits(0);
    assert_eq!(judged(&desk, 0), [never, "localhost/vulnerable:latest no 0 false", demo]);

    // Of what is approved no more nothing stays.
    let revoked = root(&desk, &["approve", "revoke", "localhost/demo"]);
    revoked.exits(0);
    root(&desk, &["prune"]).exits(0);
    assert!(kept(&desk).iter().all(|path| !word(path).ends_with(".stack")), "{:?}", kept(&desk));
}

#[test]
fn what_changed_since_the_approved_version_is_told_when_that_was_removed() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let list = desk.host.inside(Path::new("/etc/ces/approved.toml"));
    fs::write(&list, "").unwrap();
    desk.host.policy("[images]\napproved = \"/etc/ces/approved.toml\"\n[images.stack]\n");
    root(&desk, &["approve", "add", "localhost/demo", "--project", "*"]).exits(0);
    vulnerable(&desk);
    // The next version of the same name.
    let at = tempfile::tempdir_in(desk.host.tmp()).unwrap().keep();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
    let tar = Tar::default().dir("opt/").file("opt/new", b"new").end();
    let next = layout::with_layers(&at, "next", &json!({"Cmd": ["/bin/sh"]}), &[tar]);
    desk.ces(&["pull", "--name", "demo:next", &format!("oci:{}:next", next.display())]).exits(0);
    desk.ces(&["rmi", "localhost/demo"]).exits(0);
    let page = root(&desk, &["stack", "localhost/demo:next", "--diff", "approved"]);
    assert!(page.stdout.contains("SINCE LOCALHOST/DEMO"), "{page:?}");
    // To who may not see all that is approved, a version that is not there says nothing.
    desk.ces(&["stack", "localhost/demo:next", "--diff", "approved"]).refuses(1, &["no approved image"]);
}
