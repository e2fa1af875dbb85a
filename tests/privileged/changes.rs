//! What runs change in data that they may write: told name by name, whatever the names are and whatever the payload does.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::callers::Desk;
use crate::support::{Host, Ran, wait_until};

fn hosts() -> Vec<Host> {
    let hosts: Vec<Host> = [Host::with_demo(), Host::of_an_ordinary_user()].into_iter().flatten().collect();
    hosts.iter().filter(|host| host.is_of_an_ordinary_user()).for_each(|host| host.pull_demo("demo"));
    hosts
}

fn data(host: &Host) -> PathBuf {
    host.home().join("safe_data")
}

fn put(host: &Host, name: impl AsRef<Path>, text: &str) {
    let path = data(host).join(name);
    let owner = Some(host.researcher().uid.as_raw());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    chown(path.parent().unwrap(), owner, owner).unwrap();
    fs::write(&path, text).unwrap();
    chown(&path, owner, owner).unwrap();
}

/// What the last run has of it in its record.
fn told(host: &Host) -> Value {
    host.records().pop().unwrap()["changes"].clone()
}

/// The lines of the last run: the first one, and those of entries.
fn lines(host: &Host) -> (Value, Vec<Value>) {
    let file = host.root().join("log/runs").join(told(host)["list"]["file"].as_str().expect("a list"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.next().expect("a first line"), lines.collect())
}

fn line<'a>(lines: &'a [Value], path: &str) -> &'a Value {
    let found: Vec<&Value> = lines.iter().filter(|line| line["path"] == path || line["path_hex"] == path).collect();
    assert_eq!(found.len(), 1, "{path}: {found:?} of {lines:#?}");
    found[0]
}

fn hex(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_kind_of_change_is_a_line_with_the_exact_name_and_nothing_else_is() {
    for host in hosts() {
        for name in
            ["keep.csv", "gone.csv", "old.csv", "mode.csv", "edit.csv", "back.csv", "tree/in", "dir/in", "link.csv"]
        {
            put(&host, name, "0123456789\n");
        }
        let script = "cd /safe_data || exit 9
            echo new > made.csv; rm gone.csv; mv old.csv 'new
name.csv'; chmod 600 mode.csv; echo more >> edit.csv; touch -r back.csv /tmp/then; printf 9876543210 > back.csv; echo >> back.csv
            touch -r /tmp/then back.csv; ln link.csv second.csv; rm -r tree; mv dir moved; ln -s keep.csv way
            : > \"$(printf 'bad\\377')\"; mkdir empty; cat keep.csv > /dev/null; : > short; rm short";
        host.sh(&[], script).exits(0);
        let (first, lines) = lines(&host);
        let summary = told(&host);
        let of = |path: &str| line(&lines, path).clone();
        let change = |path: &str| (of(path)["change"].clone(), of(path)["told_by"].clone());
        assert_eq!(of("made.csv")["change"], "created");
        assert_eq!(of("made.csv")["sha256"], "7aa7a5359173d05b63cfd682e3c38487f3cb4f7f1d60659fe59fab1505977d4c");
        assert_eq!((&of("gone.csv")["change"], &of("gone.csv")["before"]["size"]), (&json!("removed"), &json!(11)));
        let moved = of(&hex("new\nname.csv"));
        assert_eq!((&moved["change"], &moved["from"]), (&json!("renamed"), &json!("old.csv")), "{moved}");
        assert_eq!(change("mode.csv"), (json!("attributes"), json!(["mode"])));
        assert_eq!(of("mode.csv")["after"]["mode"], "0600");
        assert_eq!(change("edit.csv"), (json!("changed"), json!(["size", "mtime"])));
        assert_eq!((&of("edit.csv")["before"]["size"], &of("edit.csv")["after"]["size"]), (&json!(11), &json!(16)));
        // A time that was set back hides nothing.
        assert_eq!(change("back.csv"), (json!("changed"), json!(["ctime"])));
        assert!(of("back.csv")["sha256"].is_string());
        assert_eq!(change("link.csv"), (json!("attributes"), json!(["links"])));
        assert_eq!(of("second.csv")["change"], "created");
        for gone in ["tree", "tree/in"] {
            assert_eq!(of(gone)["change"], "removed", "{gone}");
        }
        assert_eq!((&of("moved")["from"], &of("moved/in")["from"]), (&json!("dir"), &json!("dir/in")));
        assert_eq!((&of("way")["kind"], &of("way")["target"]), (&json!("link"), &json!("keep.csv")));
        assert_eq!(of("626164ff")["change"], "created");
        // What was made and removed again is seen by the directory that it was in.
        assert_eq!(change("."), (json!("changed"), json!(["mtime"])));
        assert_eq!(of("empty")["kind"], "directory");
        assert!(!lines.iter().any(|line| line["path"] == "keep.csv" || line["path"] == "ward.csv"), "{lines:?}");
        let count = |change: &str| lines.iter().filter(|line| line["change"] == change).count();
        for change in ["created", "changed", "attributes", "removed", "renamed"] {
            assert_eq!(summary[change], count(change), "{change}: {summary}");
        }
        assert_eq!((&first["of"], &first["before"]), (&json!("/safe_data"), &summary["before"]));
        assert!(summary["cannot_see"].to_string().contains("who changed it"), "{summary}");
        assert!(summary["before"].get("cut").is_none() && summary["after"].get("cut").is_none(), "{summary}");

        // It is told, and is not to be changed unseen.
        let id = host.records().pop().unwrap()["id"].as_str().unwrap().to_owned();
        let ces = |words: &[&str]| Ran::from(host.ces().args(words).output());
        let page = ces(&["show", &id]);
        assert!(page.exits(0).contains(&format!("{id}.changes.jsonl beside the record")), "{page:?}");
        assert!(ces(&["report", &id]).exits(0).contains("3 renamed"));
        ces(&["verify", &id]).exits(0);
        let out = host.researcher().dir.join("bag").display().to_string();
        ces(&["export", "--bagit", &id, "-o", &out]).exits(0);
        let released = fs::read_to_string(host.home().join("bag/data/run.json")).unwrap();
        assert!(released.contains("\"renamed\": 3") && !released.contains("gone.csv"), "{released}");
        let list = host.root().join(format!("log/runs/{id}.changes.jsonl"));
        let text = fs::read_to_string(&list).unwrap();
        fs::write(&list, text.replace("gone.csv", "kept.csv")).unwrap();
        assert!(ces(&["verify", &id]).exits(1).contains("changed: the list of changes of the data"));
        fs::remove_file(&list).unwrap();
        assert!(ces(&["verify", &id]).exits(1).contains("missing: the list of changes of the data"));
        host.nothing_is_left();
    }
}

#[test]
fn data_that_is_read_only_or_of_a_site_that_wants_none_has_no_list_of_changes() {
    let Some(host) = Host::with_demo() else { return };
    let none = || {
        let record = host.records().pop().unwrap();
        let id = record["id"].as_str().unwrap();
        assert!(record.get("changes").is_none(), "{record}");
        assert!(!host.root().join(format!("log/runs/{id}.changes.jsonl")).exists());
    };
    host.sh(&["--data-ro"], "true").exits(0);
    none();
    host.policy("[data]\naccess = \"ro\"\n");
    host.sh(&[], "true").exits(0);
    none();
    host.policy("[records]\nchanges = \"off\"\n");
    host.sh(&[], "echo x > /safe_data/x").exits(0);
    none();
    host.policy("[records]\nchanges = \"some\"\n");
    host.sh(&[], "true").refuses(125, &["records.changes"]);
    host.policy("");
    host.sh(&[], "true").exits(0);
    assert_eq!((lines(&host).1.len(), &told(&host)["created"]), (0, &json!(0)));
    host.nothing_is_left();
}

#[test]
fn what_a_payload_hides_is_not_told_as_removed_and_what_is_deep_or_on_another_file_system_is_named() {
    let Some(host) = Host::with_demo() else { return };
    put(&host, "closed/a.csv", "a");
    put(&host, "closed/b.csv", "b");
    put(&host, "over/under", "x");
    // As ces sees it.
    let below = host.researcher().dir.join("safe_data/over");
    let mount = host.command("mount").args(["-t", "tmpfs", "none"]).arg(&below).output().unwrap();
    assert!(mount.status.success(), "{mount:?}");
    let owner = format!("{}:{}", host.researcher().uid, host.researcher().gid);
    assert!(host.command("chown").arg(owner).arg(&below).status().unwrap().success());
    let script = "cd /safe_data; rm closed/a.csv; chmod 0 closed; echo x > over/there
        i=0; while [ $i -lt 300 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done; echo deep > f";
    host.sh(&[], script).exits(0);
    let (_, lines) = lines(&host);
    let told = told(&host);
    assert!(
        !lines.iter().any(|line| line["path"].as_str().is_some_and(|path| path.starts_with("closed/"))),
        "{lines:?}"
    );
    assert_eq!((&line(&lines, "closed")["change"], &told["not_compared"]), (&json!("changed"), &json!(2)), "{told}");
    let failed = told["after"]["failed"].to_string();
    assert!(failed.contains("closed: ") && failed.contains("deeper than 256 levels"), "{failed}");
    // Nobody takes it for the whole.
    let ces = |words: &[&str]| Ran::from(host.ces().args(words).output());
    assert!(ces(&["show", "last"]).exits(0).contains("in what was looked at, which is not all"));
    let out = host.researcher().dir.join("bag").display().to_string();
    ces(&["export", "--bagit", "last", "-o", &out]).exits(0);
    let released: Value =
        serde_json::from_str(&fs::read_to_string(host.home().join("bag/data/run.json")).unwrap()).unwrap();
    assert_eq!(released["changes"]["whole"], false, "{released}");
    // Nobody knows whose it is, and whether it answers: it is told, and not entered.
    assert!(failed.contains("over: another file system is mounted there"), "{failed}");
    assert!(!lines.iter().any(|line| line["path"].as_str().is_some_and(|path| path.starts_with("over"))), "{lines:?}");
    assert_eq!(
        lines.iter().filter(|line| line["path"].as_str().is_some_and(|path| path.starts_with('d'))).count(),
        256
    );
}

#[test]
fn names_that_are_exchanged_while_a_run_looks_cost_it_nothing_and_are_told_as_what_they_are() {
    let Some(host) = Host::with_demo() else { return };
    for n in 0..400 {
        put(&host, format!("f{n}"), "x");
    }
    put(&host, "one", "1");
    put(&host, "two", "22");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (data, over) = (data(&host), &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &data.join("one"), AT_FDCWD, &data.join("two"), RenameFlags::RENAME_EXCHANGE).ok();
                fs::remove_file(data.join("f200")).ok();
                fs::write(data.join("f200"), "y").ok();
                std::os::unix::fs::symlink("/etc/shadow", data.join("f201.new")).ok();
                fs::rename(data.join("f201.new"), data.join("f201")).ok();
            }
        });
        for _ in 0..5 {
            let ran = host
                .sh(&[], "cd /safe_data; for i in 1 2 3; do mv f7 f7.moved; mv f7.moved f7; done; rm f9; echo x > f9");
            ran.exits(0);
            let (_, lines) = lines(&host);
            // The moment decides what is told of those alone.
            let others = ["one", "two", "f200", "f201", "f201.new", ".", "f7", "f9"];
            assert!(lines.iter().all(|line| others.contains(&line["path"].as_str().unwrap())), "{lines:?}");
            assert_eq!(line(&lines, "f7")["told_by"], json!(["ctime"]));
            assert!(matches!(line(&lines, "f9")["change"].as_str(), Some("changed")), "{lines:?}");
            let text = serde_json::to_string(&lines).unwrap();
            assert!(!text.contains(&sha256(Path::new("/etc/shadow"))), "no link is followed");
            let id = host.records().pop().unwrap()["id"].as_str().unwrap().to_owned();
            Ran::from(host.ces().args(["verify", &id]).output()).exits(0);
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn sha256(path: &Path) -> String {
    let ran = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8_lossy(&ran.stdout).split_whitespace().next().unwrap_or("none").to_owned()
}

#[test]
fn of_many_files_that_are_looked_at_twice_the_three_that_changed_are_told() {
    let Some(host) = Host::with_demo() else { return };
    // A hundred thousand of them with CES_LONG.
    let each: u32 = if std::env::var_os("CES_LONG").is_some() { 1000 } else { 150 };
    let owner = Some(host.researcher().uid.as_raw());
    for dir in 0..100 {
        put(&host, format!("d{dir}/first"), "");
        for n in 1..each {
            let name = format!("d{dir}/a-name-that-is-neither-short-nor-long-{n}.csv");
            let path = data(&host).join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            fs::write(&path, "").unwrap();
            chown(&path, owner, owner).unwrap();
        }
    }
    host.sh(&[], "cd /safe_data; echo x > d7/first; rm d42/first; mv d99/first d1/moved").exits(0);
    let (told, (_, lines)) = (told(&host), lines(&host));
    // 100 directories, the files, and the table of the demonstration.
    let before = 101 + 100 * each;
    assert_eq!((&told["before"]["entries"], &told["after"]["entries"]), (&json!(before), &json!(before - 1)), "{told}");
    let names: Vec<&str> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["d1", "d1/moved", "d42", "d42/first", "d7/first", "d99"]);
    assert!(told["before"].get("cut").is_none() && told["after"].get("cut").is_none(), "{told}");
    host.nothing_is_left();
}

#[test]
fn a_file_that_is_renamed_is_hashed_for_what_it_holds_may_be_another() {
    for host in hosts() {
        put(&host, "a.csv", "12345");
        put(&host, "dir/in.csv", "12345");
        let script =
            "cd /safe_data; touch -r a.csv /tmp/then; printf 99999 > a.csv; touch -r /tmp/then a.csv; mv a.csv z.csv
            mv dir moved";
        host.sh(&[], script).exits(0);
        let (_, lines) = lines(&host);
        let of = |path: &str| line(&lines, path).clone();
        assert_eq!((&of("z.csv")["change"], &of("z.csv")["from"]), (&json!("renamed"), &json!("a.csv")));
        assert_eq!(of("z.csv")["sha256"], sha256(&data(&host).join("z.csv")), "{}", of("z.csv"));
        // Of the file below a directory that got another name nothing was touched, and it is not read.
        assert!(of("moved/in.csv").get("sha256").is_none(), "{}", of("moved/in.csv"));
        assert!(told(&host)["cannot_see"].to_string().contains("has another name"));
    }
}

#[test]
fn who_ends_the_look_after_the_run_is_not_told_that_nothing_was_changed() {
    let Some(host) = Host::with_demo() else { return };
    let script = "mkdir /safe_data/m; cd /safe_data/m; i=0; while [ $i -lt 20000 ]; do : > $i; i=$((i+1)); done; : > /safe_outputs/ready";
    let running = host.start(&[], script);
    let id = running.outputs.file_name().unwrap().to_str().unwrap().trim_start_matches("outputs_").to_owned();
    let list = host.root().join(format!("log/runs/{id}.changes.jsonl"));
    wait_until("the look after the end begins", || list.exists());
    for _ in 0..3 {
        running.signal(Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(20));
    }
    running.finish();
    let (told, page) = (told(&host), Ran::from(host.ces().args(["show", &id]).output()));
    let page = page.exits(0);
    assert!(!page.contains("no change was seen"), "{page}");
    // Where it came too late the files are told; else no number is.
    if told.get("created").is_none() {
        assert!(page.contains("not known: ") && told["after"]["cut"].is_string(), "{told} {page}");
    } else {
        assert!(told["created"].as_u64().is_some_and(|created| created > 0), "{told}");
    }
}

#[test]
fn a_run_that_is_killed_says_that_nobody_looked_at_what_it_changed() {
    let Some(host) = Host::with_demo() else { return };
    let running = host.start(&[], "rm /safe_data/ward.csv; : > /safe_outputs/done; sleep 100");
    let outputs = running.outputs.clone();
    wait_until("the payload", || outputs.join("done").exists());
    running.signal(Signal::SIGKILL);
    running.finish();
    Ran::from(host.ces().args(["runs"]).output()).exits(0);
    let record = host.records().pop().unwrap();
    assert_eq!((&record["state"], record.get("changes")), (&json!("interrupted"), None), "{record}");
    assert!(record["warnings"].to_string().contains("what it changed in its data is not known"), "{record}");
    host.nothing_is_left();
}

#[test]
fn the_data_of_a_project_is_looked_at_as_the_researcher_who_cannot_see_all_of_it() {
    let Some((desk, data)) = Desk::of_a_project("") else { return };
    desk.host.policy(&format!("[data]\nroot = \"{}\"\n", data.display()));
    let others = data.join("projx/others");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("secret"), "x").unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o700)).unwrap();
    desk.sh(&[], "echo x > /safe_data/made").exits(0);
    let record = desk.record();
    let changes = &record["changes"];
    assert_eq!((&changes["created"], &changes["removed"]), (&json!(1), &json!(0)), "{changes}");
    assert!(changes["before"]["failed"].to_string().contains("others: Permission denied"), "{changes}");
    let text = fs::read_to_string(desk.log().join("runs").join(changes["list"]["file"].as_str().unwrap())).unwrap();
    assert!(!text.contains("secret"), "{text}");
}
