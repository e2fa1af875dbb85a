//! Approvals from the request to their end: who may, what is kept, what is told.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::callers::Desk;
use crate::support::{Ran, audit_log, children};

/// A desk whose site approves images one by one; the demonstration image is pulled, and the researcher is in `projx`.
fn desk(more: &str) -> Option<Desk> {
    let (desk, data) = Desk::of_a_project("# The list of the safe haven.\n")?;
    desk.host.policy(&format!(
        "contact = \"IG desk, ext. 1234\"\n[data]\nroot = \"{}\"\n[images]\napproved = \"/etc/ces/approved.toml\"\n{more}",
        data.display()
    ));
    Some(desk)
}

fn list(desk: &Desk) -> PathBuf {
    desk.host.inside(Path::new("/etc/ces/approved.toml"))
}

fn root(desk: &Desk, words: &[&str]) -> Ran {
    desk.root(words)
}

fn events(desk: &Desk, event: &str) -> Vec<Value> {
    let text = fs::read_to_string(audit_log(&desk.log())).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event).collect()
}

fn days_from_now(days: i64) -> String {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC);
    now.checked_add(jiff::Span::new().days(days)).unwrap().date().to_string()
}

#[test]
fn what_a_refusal_says_to_type_becomes_a_request_then_an_approval_then_a_run_until_it_is_revoked() {
    let Some(desk) = desk("") else { return };
    let refused = desk.sh(&[], "true");
    refused.refuses(125, &["is not approved", "does not list it", "IG desk, ext. 1234"]);
    let command = refused.stderr.split("ask for it: ces ").nth(1).unwrap().split(';').next().unwrap();
    let command = command.replace('"', "");
    let words: Vec<&str> = command.split(' ').collect();
    assert!(words.contains(&"--project") && words.contains(&"projx"), "{words:?}");
    let asked = desk.ces(&words);
    let id = asked.exits(0).trim().to_owned();
    assert!(asked.stderr.contains("IG desk, ext. 1234 decides"), "{asked:?}");
    // Asked again it is the same request.
    assert_eq!(desk.ces(&words).exits(0).trim(), id);
    assert!(desk.ces(&["request", "list"]).exits(0).contains("open"));
    root(&desk, &["approve", "check", &id]).exits(3);
    let until = days_from_now(200);
    assert!(
        root(&desk, &["approve", "add", &id, "--until", &until, "--note", "for paper 3"])
            .exits(0)
            .contains("for projx")
    );
    desk.sh(&[], "true").exits(0);
    assert!(desk.ces(&["request", "list"]).exits(0).contains(&format!("approved until {until}: for paper 3")));
    assert!(desk.ces(&["images"]).exits(0).contains(&format!("until {until}")));
    let checked = root(&desk, &["approve", "check", &id]);
    assert!(checked.exits(0).contains("localhost/demo:latest"), "{checked:?}");
    assert!(root(&desk, &["approve", "list"]).exits(0).contains("localhost/demo:latest"));
    root(&desk, &["approve", "add", &id]).refuses(1, &["is not open"]);
    root(&desk, &["approve", "add", "localhost/demo", "--project", "projx", "--until", &until])
        .refuses(1, &["already", "renew"]);
    let later = days_from_now(400);
    root(&desk, &["approve", "renew", "localhost/demo", "--until", &later]).exits(0);
    let text = fs::read_to_string(list(&desk)).unwrap();
    assert!(
        text.starts_with("# The list of the safe haven.\n") && text.contains(&later) && text.contains(&id),
        "{text}"
    );
    root(&desk, &["approve", "revoke", "localhost/demo", "--note", "withdrawn by its author"]).exits(0);
    assert_eq!(fs::read_to_string(list(&desk)).unwrap(), "# The list of the safe haven.\n");
    desk.sh(&[], "true").refuses(125, &["is not approved"]);
    root(&desk, &["approve", "revoke", "localhost/demo"]).refuses(1, &["is not approved"]);
    let actions = |event| {
        events(&desk, event).iter().map(|l| l["about"]["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions("approve"), ["added", "renewed", "revoked"]);
    assert_eq!(actions("request"), ["asked"]);
    let told = events(&desk, "approve");
    assert!(
        told[0]["uid"] == 0 && told[0]["about"]["request"] == id.as_str() && told[0]["about"]["projects"][0] == "projx",
        "{told:?}"
    );
    root(&desk, &["audit", "verify"]).exits(0);
}

#[test]
fn nobody_approves_but_root_and_whom_the_policy_names_and_their_name_is_in_the_list() {
    let Some(desk) = desk("approvers = [\"cesresearcher\"]\n") else { return };
    for words in [
        "approve list",
        "approve add demo --project '*'",
        "approve revoke demo",
        "approve check demo",
        "approve decline req-000000000000",
    ] {
        desk.other_ces(words).refuses(3, &["may not approve", "images.approvers names cesresearcher", "IG desk"]);
    }
    desk.ces(&["approve", "add", "localhost/demo"]).refuses(2, &["for which project"]);
    desk.ces(&["approve", "add", "localhost/demo", "--project", "../x"]).refuses(2, &["not a project's name"]);
    desk.ces(&["approve", "add", "localhost/demo", "--project", "*", "--until", "2020-01-01"])
        .refuses(2, &["is in the past"]);
    desk.ces(&["approve", "add", "localhost/demo", "--project", "*", "--note", "\u{1b}]52;c;x\u{7}\n[[image]]"])
        .exits(0);
    let found = fs::metadata(list(&desk)).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (0, 0, 0o644));
    let text = fs::read_to_string(list(&desk)).unwrap();
    assert!(
        text.contains("approver = \"cesresearcher\"")
            && !text.contains('\u{1b}')
            && text.matches("[[image]]\n").count() == 1,
        "{text}"
    );
    desk.sh(&[], "true").exits(0);
    // A list that others could write is neither obeyed nor changed.
    fs::set_permissions(list(&desk), fs::Permissions::from_mode(0o666)).unwrap();
    desk.ces(&["approve", "revoke", "localhost/demo"]).refuses(1, &["0666"]);
    assert_eq!(fs::read_to_string(list(&desk)).unwrap(), text);
    let refused = events(&desk, "refused");
    assert_eq!(refused.iter().filter(|line| line["about"]["verb"] == "approve").count(), 5, "{refused:?}");
}

#[test]
fn requests_are_roots_to_read_bounded_and_nobodys_but_their_researchers() {
    let Some(desk) = desk("") else { return };
    let digest = |at: usize| format!("sha256:{at:064x}");
    let ask = |at: usize| {
        desk.ces(&["request", &digest(at), "--project", "projx", "--reason", "\u{1b}]52;c;x\u{7}\nfrom root"])
    };
    let first = ask(0).exits(0).trim().to_owned();
    (1..20).for_each(|at| drop(ask(at).exits(0).to_owned()));
    ask(20).refuses(1, &["20 requests of yours are open", "withdraw"]);
    let kept = desk.log().join("requests");
    let files = children(&kept.join(desk.owner().to_string()));
    assert_eq!(files.len(), 20);
    for place in files.iter().chain([&kept, &kept.join(desk.owner().to_string())]) {
        let found = fs::metadata(place).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o077), (0, 0), "{}", place.display());
    }
    assert!(!fs::read_to_string(&files[0]).unwrap().contains('\u{1b}'));
    assert!(root(&desk, &["request", "list"]).exits(0).contains("\\x1b]52;c;x\\x07\\nfrom root"));
    // Another researcher neither sees nor takes it, and learns nothing of it.
    assert!(!desk.other_ces("request list --all").exits(0).contains("req-"));
    let theirs = desk.other_ces(&format!("request withdraw {first}"));
    let nobodys = desk.other_ces("request withdraw req-000000000000");
    assert_eq!(theirs.stderr.replace(&first, "X"), nobodys.stderr.replace("req-000000000000", "X"));
    desk.other_ces("request demo --project projx --reason x").refuses(1, &["is not in the store"]);
    // Nor asks for a project of others.
    desk.other_ces(&format!("request {} --project projx --reason x", digest(1))).refuses(1, &["cannot read from"]);
    for words in ["request withdraw ../../../etc/passwd", "request withdraw req-../../../x"] {
        desk.other_ces(words).refuses(2, &["is not the name of a request"]);
    }
    desk.ces(&["request", &digest(1), "--project", "../projx", "--reason", "x"]).refuses(2, &["not a project name"]);
    desk.ces(&["request", &digest(1), "--project", "none-such", "--reason", "x"]).refuses(1, &["no project directory"]);
    desk.ces(&["request", &digest(1), "--reason", " "]).refuses(2, &["says nothing"]);
    desk.ces(&["request", "no-such-image", "--reason", "x"]).refuses(1, &["is not in the store"]);
    // Taken back, there is room again; and a decision that is not one's own is none.
    desk.ces(&["request", "withdraw", &first]).exits(0);
    desk.ces(&["request", "withdraw", &first]).refuses(1, &["is not open", "withdrawn"]);
    ask(20).exits(0);
    let id = files[1].file_stem().unwrap().to_str().unwrap();
    root(&desk, &["approve", "decline", id, "--note", "no source"]).exits(0);
    assert!(desk.ces(&["request", "list"]).exits(0).contains("declined: no source"));
    let reasons = events(&desk, "request");
    assert!(reasons.len() == 22 && !Value::from(reasons).to_string().contains("from root"));
}

#[test]
fn ends_of_approvals_are_told_from_thirty_days_before() {
    let Some(desk) = desk("") else { return };
    for (days, left) in [(31, None), (30, Some("in 30 days")), (1, Some("tomorrow")), (0, Some("today"))] {
        let until = days_from_now(days);
        fs::write(list(&desk), "").unwrap();
        root(&desk, &["approve", "add", "localhost/demo", "--project", "projx", "--until", &until]).exits(0);
        let ran = desk.sh(&[], "true");
        ran.exits(0);
        assert_eq!(ran.stderr.contains("the approval of this image"), left.is_some(), "{ran:?}");
        assert!(left.is_none_or(|left| ran.stderr.contains(left)), "{ran:?}");
        assert_eq!(desk.ces(&["images"]).exits(0).contains("days left"), left.is_some());
        let doctor = desk.ces(&["doctor"]).stdout;
        assert_eq!(doctor.contains(&format!("localhost/demo:latest on {until}")), left.is_some(), "{doctor}");
    }
    assert!(root(&desk, &["doctor"]).stdout.contains("ces approve renew IMAGE --until DATE"));
    fs::write(list(&desk), fs::read_to_string(list(&desk)).unwrap().replace("expires = 2", "expires = 1")).unwrap();
    desk.sh(&[], "true").refuses(125, &["its approval in /etc/ces/approved.toml ended on 1", "ces request sha256:"]);
    assert!(desk.ces(&["images"]).exits(0).contains("ended 1"));
}
