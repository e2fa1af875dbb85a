//! Small things that a person at the command line relies on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::callers::{Caller, Desk};
use crate::support::terminal::Terminal;
use crate::support::{Host, Ran, children, demo_layout, have};

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn root(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces_as_root().args(words).output())
}

fn hosts() -> impl Iterator<Item = Host> {
    [Host::with_demo(), Host::of_an_ordinary_user().inspect(|host| host.pull_demo("demo"))].into_iter().flatten()
}

#[test]
fn a_run_says_at_a_terminal_what_begins_and_nowhere_else() {
    let Some(host) = Host::with_demo() else { return };
    let mut terminal = Terminal::start(&host.run_command(&["localhost/demo", "echo", "hello"]));
    let begin = terminal.shows("hello");
    assert!(begin.contains("ces: run 2") && begin.contains("outputs go to ~/outputs_2"), "{begin}");
    assert!(begin.contains("(read and write)"), "{begin}");
    terminal.finish();
    let ran = host.run(&["localhost/demo", "echo", "hello"]);
    ran.exits(0);
    assert!(!ran.stderr.contains("outputs go to"), "{ran:?}");
    let mut quiet = Terminal::start(&host.run_command(&["-q", "localhost/demo", "echo", "hello"]));
    quiet.finish();
    assert_eq!(quiet.all(), "hello\r\n");
}

#[test]
fn a_third_ctrl_c_ends_a_program_that_will_not_end() {
    let Some(host) = Host::with_demo() else { return };
    let script = "trap '' INT; echo begun; while :; do sleep 0.1; done";
    let mut terminal = Terminal::start(&host.run_command(&["localhost/demo", "sh", "-c", script]));
    terminal.shows("begun");
    // Signals of one kind that wait are one (signal(7)): a person is slower.
    terminal.types("\x03");
    std::thread::sleep(std::time::Duration::from_millis(700));
    terminal.types("\x03");
    terminal.shows("press Ctrl-C once more to kill it");
    terminal.types("\x03");
    assert_eq!(terminal.finish().code(), Some(137));
    host.nothing_is_left();
}

#[test]
fn an_empty_outputs_directory_goes_and_what_was_written_elsewhere_is_told() {
    for host in hosts() {
        let ran = host.sh(&["--user", "0"], "echo 1,2 > /output.csv; echo x > /tmp/cache");
        ran.exits(0);
        assert!(ran.stderr.contains("ces: no outputs: nothing was written to /safe_outputs"), "{ran:?}");
        assert!(
            ran.stderr.contains("note: 1 file was written outside /safe_outputs and is gone: /output.csv"),
            "{ran:?}"
        );
        // The record tells how many, and no name that the program chose.
        let shown = ces(&host, &["show", "last"]);
        assert!(shown.exits(0).contains("1 file was written outside /safe_outputs and is gone"), "{shown:?}");
        assert!(!shown.stdout.contains("output.csv"), "{shown:?}");
        assert_eq!(host.named("outputs_"), Vec::<std::path::PathBuf>::new());
        assert!(ces(&host, &["verify", "last"]).exits(0).contains("0 files, unchanged"));
        assert!(ces(&host, &["outputs"]).exits(0).contains("no outputs"));
        assert!(ces(&host, &["show", "last"]).exits(0).contains("unchanged since the run ended"));
        // Something of it is a directory, a link: that is kept.
        host.sh(&[], "mkdir /safe_outputs/empty").exits(0);
        assert_eq!(host.named("outputs_").len(), 1);
        host.nothing_is_left();
    }
}

#[test]
fn ids_alone_are_printed_for_scripts_and_lists_in_three_forms() {
    for host in hosts() {
        host.sh(&["--name", "first"], "echo 1 > /safe_outputs/f").exits(0);
        let running = host.start(&["--name", "second"], "exec sleep 100");
        assert_eq!(ces(&host, &["-q", "ps"]).exits(0), format!("{}\n", running.id()));
        let csv = ces(&host, &["runs", "--format", "csv"]);
        let lines: Vec<&str> = csv.exits(0).split("\r\n").collect();
        assert_eq!(lines[0], "id,started,name,researcher,project,image,time,exit,outputs,ended");
        assert!(lines[1].contains(",first,") && lines[1].contains(",0,1,exit 0"), "{lines:?}");
        assert!(lines[2].contains(",second,") && lines[2].ends_with(",,,,running"), "{lines:?}");
        for verb in ["images", "ps", "runs"] {
            let by_option = ces(&host, &[verb, "--json"]).exits(0).to_owned();
            assert_eq!(ces(&host, &[verb, "--format", "json"]).exits(0), by_option);
            let list: Value = serde_json::from_str(&by_option).unwrap();
            assert!(!list.as_array().unwrap().is_empty());
            ces(&host, &[verb, "--format", "xml"]).refuses(2, &["table, json, csv"]);
        }
        ces(&host, &["stop", "second"]).exits(0);
        running.finish();
    }
}

#[test]
fn what_deletes_tells_first_what_it_would_delete_and_then_deletes_that() {
    for host in hosts() {
        host.pull_demo("plain");
        let names = |host: &Host| ces(host, &["-q", "images"]).exits(0).to_owned();
        let before = names(&host);
        let told = ces(&host, &["rmi", "--dry-run", "localhost/plain"]);
        assert!(told.exits(0).contains("would remove localhost/plain:latest"), "{told:?}");
        assert_eq!(names(&host), before);
        let done = ces(&host, &["rmi", "localhost/plain"]);
        let like = told.stdout.replace("would remove", "removed").replace("would delete", "deleted");
        assert_eq!(done.exits(0), like);
        // By digest, the image goes with its layers.
        let prune = ces(&host, &["prune", "--dry-run", "--json"]);
        let told: Value = serde_json::from_str(prune.exits(0)).unwrap();
        assert_eq!(told["images"], serde_json::json!([]));
        let layers = |host: &Host| children(&host.root().join("store/layers/sha256")).len();
        let told = ces(&host, &["rmi", "--dry-run", "localhost/demo"]);
        let count = layers(&host);
        assert!(told.exits(0).contains("localhost/demo:latest") && count > 0, "{told:?}");
        assert_eq!(layers(&host), count);
        let done = ces(&host, &["rmi", "localhost/demo"]);
        let like = told.stdout.replace("would remove", "removed").replace("would delete", "deleted");
        assert_eq!(done.exits(0), like);
        ces(&host, &["rmi", "--dry-run", "localhost/demo"]).refuses(1, &["localhost/demo"]);
    }
}

#[test]
fn of_two_names_of_one_image_the_second_is_told_to_take_the_image_along_as_it_does() {
    for host in hosts() {
        let layout = demo_layout();
        for name in ["lab/one:1", "lab/two:1"] {
            ces(&host, &["pull", "--name", name, &format!("oci:{}:demo", layout.display())]).exits(0);
        }
        // The demonstration image is gone, so that these two are all that hold the image.
        ces(&host, &["rmi", "localhost/demo"]).exits(0);
        let both = ["localhost/lab/one:1", "localhost/lab/two:1"];
        let told = ces(&host, &[&["rmi", "--dry-run"], &both[..]].concat());
        let named = |name: &str| told.stdout.contains(&format!("would remove {name}\n"));
        assert!(told.code == Some(0) && both.into_iter().all(named), "{told:?}");
        // Root, and a user in their own store, are told which layers go.
        assert_eq!(told.stdout.contains("would delete sha256:"), host.is_of_an_ordinary_user(), "{told:?}");
        let json = ces(&host, &[&["rmi", "--dry-run", "--json"], &both[..]].concat());
        let freed: Vec<Value> =
            serde_json::Deserializer::from_str(json.exits(0)).into_iter().map(Result::unwrap).collect();
        assert!(freed[0]["images"] == serde_json::json!([]) && freed[1]["images"].as_array().unwrap().len() == 1);
        // What has been named is not there a second time.
        ces(&host, &["rmi", "--dry-run", both[0], both[0]]).refuses(1, &["is not in the store"]);
        assert_eq!(ces(&host, &["-q", "images"]).exits(0).lines().count(), 2, "nothing was changed");
        let done = ces(&host, &[&["rmi"], &both[..]].concat());
        let like = told.stdout.replace("would remove", "removed").replace("would delete", "deleted");
        assert_eq!(done.exits(0), like);
        assert_eq!(children(&host.root().join("store/layers/sha256")), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn outputs_of_old_runs_are_deleted_and_each_deletion_is_a_line_of_the_audit_log() {
    for host in hosts() {
        let leave = "mkdir /safe_outputs/d; echo 1 > /safe_outputs/d/f";
        host.sh(&["--name", "first"], leave).exits(0);
        host.sh(&["--name", "second"], leave).exits(0);
        let kept = host.named("outputs_");
        assert_eq!(kept.len(), 2);
        let prune = |words: &[&str]| ces(&host, &[&["outputs", "prune"], words].concat());
        prune(&[]).refuses(2, &["--older"]);
        prune(&["--older", "soon"]).refuses(2, &["--older soon", "30d"]);
        ces(&host, &["outputs", "first", "--dry-run"]).refuses(2, &["ces outputs prune"]);
        assert!(prune(&["--older", "30d"]).exits(0).contains("deleted 0 directories"));
        let told = prune(&["--older", "0s", "--dry-run"]);
        assert!(told.exits(0).contains("would delete 2 directories"), "{told:?}");
        assert_eq!(host.named("outputs_"), kept);
        // A link of such a name is nothing of a run's, and is not followed.
        let of = |name: &str| {
            let place = ces(&host, &["-q", "outputs", name]);
            host.home().join(Path::new(place.exits(0).trim_end()).file_name().unwrap())
        };
        let (elsewhere, link, second) = (host.home().join("elsewhere"), &of("first"), of("second"));
        fs::rename(link, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, link).unwrap();
        let done: Value = serde_json::from_str(prune(&["--older", "0s", "--json"]).exits(0)).unwrap();
        assert_eq!(done["outputs"].as_array().unwrap().len(), 1);
        assert!(elsewhere.join("d/f").is_file() && !second.exists());
        let log = ces(&host, &["audit", "log"]);
        let lines = log.exits(0).lines().filter(|line| line.contains(" deletion ") && line.contains("\"outputs\""));
        assert_eq!(lines.count(), 1, "{log:?}");
        ces(&host, &["audit", "verify"]).exits(0);
        assert!(ces(&host, &["outputs", "second"]).exits(1).contains("not there any more"));
        host.sh(&["--name", "prune"], "true").refuses(125, &["--name prune", "`prune`"]);
    }
}

#[test]
fn records_are_removed_when_the_policy_keeps_them_no_longer_and_the_audit_log_still_holds() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&["--name", "old"], "echo 1 > /safe_outputs/f").exits(0);
    host.sh(&["--name", "new"], "true").exits(0);
    root(&host, &["prune", "--records"]).refuses(2, &["[records] keep"]);
    host.policy("[records]\nkeep = \"90d\"\n");
    ces(&host, &["prune", "--records"]).refuses(3, &["by root alone"]);
    assert!(root(&host, &["prune", "--records"]).exits(0).contains("removed 0 records"));
    // One that ended long ago: its record says so, and so does its line in the index, which is made anew from the records.
    let old = ces(&host, &["record", "old"]);
    let id = serde_json::from_str::<Value>(old.exits(0)).unwrap()["id"].as_str().unwrap().to_owned();
    let runs = host.root().join("log/runs");
    let path = runs.join(format!("{id}.json"));
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for time in ["started", "finished"] {
        record[time] = "2020-01-01T00:00:00.000Z".into();
    }
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    fs::remove_file(host.root().join("log/runs.idx")).unwrap();
    let files = |id: &str| {
        let mut found = children(&runs);
        found.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with(id));
        found.len()
    };
    assert!(files(&id) >= 4, "{:?}", children(&runs));
    let told = root(&host, &["prune", "--records", "--dry-run"]);
    assert!(told.exits(0).contains(&format!("would remove the record of run {id}")), "{told:?}");
    assert!(files(&id) >= 4);
    root(&host, &["audit", "checkpoint"]);
    let done = root(&host, &["prune", "--records"]);
    assert!(done.exits(0).contains("removed 1 record that ended before"), "{done:?}");
    assert_eq!(files(&id), 0);
    let list = root(&host, &["-q", "runs"]);
    assert!(!list.exits(0).contains(&id) && list.stdout.lines().count() == 1, "{list:?}");
    ces(&host, &["show", "old"]).refuses(1, &["there is no record"]);
    // The record that was changed is gone by rule: its removal is told, and the chain holds.
    assert!(root(&host, &["audit", "verify"]).exits(0).contains("hold together"));
    let log = root(&host, &["audit", "log", "--run", &id]);
    assert!(log.exits(0).contains("record.removed") && log.stdout.contains("run.finished"), "{log:?}");
    let by_name = root(&host, &["audit", "log", "--run", "new"]);
    assert_eq!(by_name.exits(0), root(&host, &["audit", "log", "--run", "last"]).exits(0));
    assert!(by_name.stdout.contains("run.finished"), "{by_name:?}");
    // The run is proven by its lines, which no retention removes; to whom it was, and to root.
    root(&host, &["audit", "checkpoint"]).exits(0);
    for proof in [ces(&host, &["audit", "prove", &id]), root(&host, &["audit", "prove", &id])] {
        let shown = proof.exits(0);
        for event in ["run.begun", "run.finished", "record.removed"] {
            assert!(shown.contains(event), "{event}: {proof:?}");
        }
        assert!(proof.stderr.contains("the record of this run was removed on 2") && proof.stderr.contains("keep"));
        let file = host.home().join("proof.json");
        fs::write(&file, shown).unwrap();
        let at = host.researcher().dir.join("proof.json").display().to_string();
        assert!(ces(&host, &["audit", "verify", "--proof", &at]).exits(0).contains("record.removed"));
    }
    ces(&host, &["audit", "prove", "20200101T000000-000000"]).refuses(1, &["there is no record"]);
    // One that is lost without a line is still told.
    let new = ces(&host, &["record", "new"]);
    let id = serde_json::from_str::<Value>(new.exits(0)).unwrap()["id"].as_str().unwrap().to_owned();
    fs::remove_file(runs.join(format!("{id}.json"))).unwrap();
    assert!(root(&host, &["audit", "verify"]).exits(1).contains("is gone"));
    let proof = ces(&host, &["audit", "prove", &id]);
    assert!(proof.exits(0).contains("run.begun") && proof.stderr.contains("no line tells who removed it"), "{proof:?}");
}

#[test]
fn completions_offer_images_runs_projects_and_profiles_also_to_the_links() {
    let Some(desk) = Desk::with_demo(Caller::UserWithSubids) else { return };
    let script = desk.host.tmp().join("ces.bash");
    fs::write(&script, Command::new(env!("CARGO_BIN_EXE_ces")).args(["completions", "bash"]).output().unwrap().stdout)
        .unwrap();
    let project = desk.host.inside(Path::new("/safe_data"));
    if project.is_dir() || fs::create_dir(&project).is_ok() {
        fs::create_dir(project.join("projx")).unwrap();
    }
    desk.sh(&["--name", "night"], "true").exits(0);
    let bin = desk.host.tmp().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ces"), bin.join("ces")).unwrap();
    // As bash calls a completion: the line, its words broken at colons, and the word at the cursor.
    let complete = |line: &str, words: &str, function: &str| {
        let last = words.split_whitespace().count();
        let word = if words.ends_with(' ') { "" } else { words.split_whitespace().next_back().unwrap() };
        let cword = if words.ends_with(' ') { last } else { last - 1 };
        let before = words.split_whitespace().nth(cword - 1).unwrap();
        let call = format!(
            "export PATH={}:$PATH; . {}; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words} {}); COMP_CWORD={cword}; \
             {function} ces '{word}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            bin.display(),
            script.display(),
            if word.is_empty() { "''" } else { "" },
        );
        let mut bash = desk.host.command("runuser");
        bash.args(["--login", "--shell", "/bin/bash", &desk.host.researcher().name, "--command", &call]);
        let ran = Ran::from(bash.output());
        ran.exits(0).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let names = "_ces_with_names";
    assert_eq!(complete("ces run ", "ces run ", names), ["localhost/demo:latest"]);
    assert_eq!(complete("ces run localhost/demo:la", "ces run localhost/demo : la", names), ["latest"]);
    assert!(
        !complete("ces run localhost/demo:latest l", "ces run localhost/demo : latest l", names)
            .contains(&"localhost/demo:latest".to_owned())
    );
    assert!(complete("ces run --me", "ces run --me", names).contains(&"--memory".to_owned()));
    assert_eq!(complete("ces run --project ", "ces run --project ", names), ["projx"]);
    assert_eq!(complete("ces run --profile s", "ces run --profile s", names), ["service"]);
    assert!(complete("ces show ni", "ces show ni", names).contains(&"night".to_owned()));
    assert!(complete("ces show la", "ces show la", names).contains(&"last".to_owned()));
    assert_eq!(complete("ces-run lo", "ces-run lo", "_ces_link_run"), ["localhost/demo:latest"]);
    assert!(complete("ces im", "ces im", names).contains(&"images".to_owned()));
    for (shell, program) in [("zsh", "zsh"), ("fish", "fish")] {
        // The shell reads its script without a complaint.
        let Some(()) = have(program) else { continue };
        let text = Command::new(env!("CARGO_BIN_EXE_ces")).args(["completions", shell]).output().unwrap().stdout;
        let file = desk.host.tmp().join(format!("ces.{shell}"));
        fs::write(&file, text).unwrap();
        let checked = Command::new(program).arg("-n").arg(&file).stderr(Stdio::piped()).output().unwrap();
        assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}
