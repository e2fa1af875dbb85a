//! Pages and exports of a run: checked by programs that know nothing of ces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::callers::{Caller, Desk};
use crate::support::{Ran, audit_log, children, have};

/// A desk with a run that left hostile things, and the words that must not come out of it.
fn desk() -> Option<Desk> {
    let desk = Desk::with_demo(Caller::Sudo)?;
    let script = "cd /safe_outputs; printf 'sex,n\\nF,263\\n' > good.csv; mkdir d; printf 'ward,deaths\\na,3\\n' > 'd/<b>x%.csv';
        ln -s /etc/passwd link.csv";
    desk.sh(&["--name", "fit"], &format!("{script}; : --password=s3cret")).exits(0);
    Some(desk)
}

/// A path of the researcher's home: for the test, and for `ces`.
fn places(desk: &Desk, name: &str) -> (PathBuf, String) {
    (desk.home().join(name), desk.host.researcher().dir.join(name).display().to_string())
}

fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = vec![dir.to_owned()];
    while let Some(at) = look.pop() {
        for path in children(&at) {
            match path.is_dir() && !path.is_symlink() {
                true => look.push(path),
                false => found.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_bag_is_whole_by_coreutils_has_no_argument_and_no_link_and_a_changed_output_is_not_exported() {
    let Some(desk) = desk() else { return };
    if have("sha512sum").is_none() {
        return;
    }
    let (bag, shown) = places(&desk, "fit.bag");
    let exported = desk.ces(&["export", "--bagit", "fit", "-o", &shown]);
    exported.exits(0);
    assert!(exported.stderr.contains("left out: link.csv: a link"), "{exported:?}");
    let expected = [
        "bag-info.txt",
        "bagit.txt",
        "data/outputs/d/<b>x%.csv",
        "data/outputs/good.csv",
        "data/precheck.json",
        "data/run.json",
        "manifest-sha512.txt",
        "tagmanifest-sha512.txt",
    ];
    assert_eq!(files_below(&bag), expected);
    // As sha512sum(1) has names as they are: the one percent sign, which a bag writes otherwise, is put back.
    let manifest = fs::read_to_string(bag.join("manifest-sha512.txt")).unwrap();
    assert!(manifest.contains("  data/outputs/d/<b>x%25.csv\n") && manifest.lines().count() == 4, "{manifest}");
    let check = |name: &str, text: &str| {
        let plain = desk.host.tmp().join(name);
        fs::write(&plain, text.replace("%25", "%")).unwrap();
        Command::new("sha512sum")
            .args(["--strict", "--quiet", "-c"])
            .arg(&plain)
            .current_dir(&bag)
            .status()
            .unwrap()
            .success()
    };
    assert!(
        check("manifest", &manifest) && check("tags", &fs::read_to_string(bag.join("tagmanifest-sha512.txt")).unwrap())
    );
    assert!(!check("other", &manifest.replacen(['0', '1', '2'], "9", 1)), "the check can fail");
    let info = fs::read_to_string(bag.join("bag-info.txt")).unwrap();
    let payload = ["data/outputs/d/<b>x%.csv", "data/outputs/good.csv", "data/precheck.json", "data/run.json"];
    let bytes: u64 = payload.iter().map(|name| fs::metadata(bag.join(name)).unwrap().len()).sum();
    assert!(info.contains(&format!("Payload-Oxum: {bytes}.4\n")), "{info}");
    for name in ["run.json", "precheck.json"] {
        let text = fs::read_to_string(bag.join("data").join(name)).unwrap();
        assert!(!text.contains("s3cret") && !text.contains("/home") && !text.contains("cesresearcher"), "{text}");
    }
    let run = fs::read_to_string(bag.join("data/run.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&run).unwrap()["left_out"][0], "link.csv: a link");
    // Nothing is written over; and what is not as the run left it does not go out.
    desk.ces(&["export", "--bagit", "fit", "-o", &shown]).refuses(1, &["name one that is not there yet"]);
    fs::write(desk.outputs().join("good.csv"), "sex,n\nF,264\n").unwrap();
    let (other, shown) = places(&desk, "other.bag");
    desk.ces(&["export", "--bagit", "fit", "-o", &shown]).refuses(1, &["good.csv is not what it was", "ces verify"]);
    assert!(!other.exists());
    desk.ces(&["export", "--bagit", "fit", "-o", "/root/x.bag"]).refuses(1, &["cannot make the directory"]);
    desk.other_ces("export --bagit fit -o /tmp/none.bag").refuses(1, &["there is no record of run fit"]);
    desk.ces(&["export", "fit", "-o", &shown]).refuses(2, &["--bagit"]);
    let log = fs::read_to_string(audit_log(&desk.log())).unwrap();
    assert_eq!(log.matches("\"event\":\"export\"").count(), 1, "{log}");
}

#[test]
fn an_output_that_was_not_hashed_when_the_run_ended_is_in_no_export() {
    let Some(desk) = Desk::with_demo(Caller::Sudo) else { return };
    let script = "cd /safe_outputs; printf 'sex,n\\nF,263\\n' > good.csv; truncate -s 16492674416640 hole.csv";
    desk.sh(&["--name", "fit"], script).exits(0);
    // Something that was not there when the run ended.
    fs::remove_file(desk.outputs().join("hole.csv")).unwrap();
    fs::write(desk.outputs().join("hole.csv"), "sex,n\nM,233\n").unwrap();
    let (bag, shown) = places(&desk, "fit.bag");
    let exported = desk.ces(&["export", "--bagit", "fit", "-o", &shown]);
    exported.exits(0);
    assert!(exported.stderr.contains("left out: hole.csv: not hashed when the run ended"), "{exported:?}");
    assert!(bag.join("data/outputs/good.csv").exists() && !bag.join("data/outputs/hole.csv").exists());
    let document = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(bag.join("data").join(name)).unwrap()).unwrap()
    };
    assert!(document("run.json")["left_out"][0].as_str().unwrap().starts_with("hole.csv: not hashed"));
    assert_eq!(document("precheck.json")["summary"]["block"], 1);
}

#[test]
fn a_page_of_a_run_is_one_document_without_script_and_says_the_worst_first() {
    let Some(desk) = desk() else { return };
    let (page, shown) = places(&desk, "report.html");
    desk.ces(&["report", "fit", "-o", &shown]).exits(0);
    let text = fs::read_to_string(&page).unwrap();
    assert_eq!(desk.ces(&["report", "fit"]).exits(0).len(), text.len());
    assert!(
        !text.contains("<script") && !text.contains("<b>") && !text.contains("s3cret") && !text.contains("://"),
        "{text}"
    );
    let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
    assert!(
        at("1 block, 1 review, 0 note, 1 nothing found") < at("Not looked at:") && at("Not looked at:") < at("The run")
    );
    assert!(at("link.csv") < at("d/&lt;b&gt;x%.csv") && at("d/&lt;b&gt;x%.csv") < at("good.csv"), "{text}");
    for word in [
        "localhost/demo:latest",
        "sha256:",
        "unchanged",
        "the policy bound the researcher",
        "whole numbers from 1 to 9",
    ] {
        at(word);
    }
    // Root sees it too, and that is a line in the audit log.
    let id = desk.record()["id"].as_str().unwrap().to_owned();
    let root = Ran::from(desk.host.ces_as_root().args(["report", &id]).output());
    assert!(root.exits(0).contains("good.csv"));
    assert!(fs::read_to_string(audit_log(&desk.log())).unwrap().contains("\"record.read\""));
    desk.other_ces(&format!("report {id}")).refuses(1, &["there is no record of run"]);
    desk.ces(&["report", "fit", "-o", "/root/x.html"]).refuses(1, &["cannot write /root/x.html"]);
}
