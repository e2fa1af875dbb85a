//! Through sudo the caller chooses no place, and what they name is theirs to write.

use std::fs;
use std::path::Path;

use crate::support::Ran;
use crate::support::attack::{Attack, SECRETS};

/// A journal of a run that never was, whose fields name what is not its own; also those that older versions obeyed.
fn forged(attack: &Attack, id: &str) -> String {
    let own = attack.desk.owner();
    serde_json::json!({
        "id": id, "pid": 1, "name": null, "image": "x", "researcher": "root", "uid": own, "gid": own, "started": "",
        "home": "/etc", "outputs": "/etc", "scratch": "/root", "work": attack.others(""), "sockets": [], "quotas": [],
    })
    .to_string()
}

#[test]
fn another_root_or_policy_is_refused_by_name_through_sudo_and_nothing_there_is_obeyed() {
    let Some(attack) = Attack::new() else { return };
    let root = attack.home("root");
    for id in ["20261122T143015-7f3a9c", "x1"] {
        let journal = root.join("run").join(id);
        fs::create_dir_all(&journal).unwrap();
        fs::write(journal.join("lock"), "").unwrap();
        fs::write(journal.join("job.json"), forged(&attack, id)).unwrap();
    }
    fs::write(root.join("policy.toml"), "[interactive]\nexec = true\n").unwrap();
    let canary = attack.canary();
    let (root, policy) = (root.display().to_string(), root.join("policy.toml").display().to_string());
    let verbs: [(&[&str], i32); 9] = [
        (&["ps"], 3),
        (&["runs"], 3),
        (&["images"], 3),
        (&["prune"], 3),
        (&["fsck", "--repair"], 3),
        (&["stop", "x1"], 3),
        (&["logs", "x1"], 3),
        (&["record", "x1"], 3),
        (&["run", "localhost/demo", "true"], 125),
    ];
    for (verb, code) in verbs {
        for place in [root.as_str(), "/", "/run", "/var/lib/ces", "/nowhere", "relative"] {
            let mut words = vec!["--root", place];
            words.extend(verb);
            attack.ces(&words).refuses(code, &["--root", "sudo"]);
        }
        let mut words = verb.to_vec();
        words.insert(1, "--policy");
        words.insert(2, &policy);
        attack.ces(&words).refuses(code, &["--policy", "sudo"]);
        canary.is_unchanged();
    }
    assert!(!attack.home("relative").exists() && !Path::new("/nowhere").exists());
    // Sudo passes no such variable on; where a site lets it, ces refuses it by name.
    let set = format!("sudo -n CES_ROOT={root} $CES ps");
    assert_ne!(attack.sh(&set).code, Some(0));
    for (name, value, said) in [("CES_ROOT", &root, "--root"), ("CES_POLICY", &policy, "--policy")] {
        let sudoers = attack.desk.host.inside(Path::new("/etc/sudoers.d/keep"));
        fs::write(&sudoers, format!("Defaults env_keep += \"{name}\"\n")).unwrap();
        attack.sh(&format!("export {name}={value}; ces ps")).refuses(3, &[said, "sudo"]);
        attack.sh(&format!("export {name}={value}; ces run localhost/demo true")).refuses(125, &[said, "sudo"]);
        fs::remove_file(sudoers).unwrap();
    }
    let changes = canary.changes();
    assert!(changes.iter().all(|change| change.contains("/sudoers.d: ")), "{changes:#?}");
    // All of it works for who may choose: the refusal is what stops it.
    let mut command = attack.desk.host.ces_as_root();
    Ran::from(command.env("CES_ROOT", "/root/ces").args(["--policy", &policy, "ps"]).output()).exits(0);
}

#[test]
fn who_calls_is_what_sudo_says_and_no_variable_of_the_callers() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    for set in ["SUDO_UID=0", "SUDO_USER=cesother SUDO_UID=45999", "SUDO_UID=", "HOME=/root", "SUDO_GID=0"] {
        let ran =
            attack.sh(&format!("env {set} sudo -n $CES run localhost/demo sh -c 'id -u >/safe_outputs/who; id -u'"));
        assert_eq!(ran.exits(0), "1000\n", "{set}");
        // As words of sudo's they are sudo's to refuse.
        assert_ne!(attack.sh(&format!("sudo -n {set} $CES runs --json")).code, Some(0), "{set}");
    }
    assert!(attack.desk.named("outputs_").len() == 5);
    canary.is_unchanged();
    // Without sudo nobody becomes anybody.
    for set in ["SUDO_UID=0 SUDO_USER=root", "SUDO_UID=45999 SUDO_USER=cesother"] {
        let ran = attack.sh(&format!("{set} $CES --root ~/mine ps --json"));
        assert_eq!(ran.exits(0).trim(), "[]", "{set}");
    }
    let mine = fs::metadata(attack.home("mine")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&mine), attack.desk.owner());
}

#[test]
fn manual_pages_are_written_with_the_callers_rights_and_through_no_link_to_what_is_not_theirs() {
    let Some(attack) = Attack::new() else { return };
    fs::write(attack.tmp("ces/log/audit.jsonl"), "{}\n").unwrap();
    let canary = attack.canary();
    let targets = [
        "/etc/passwd",
        "/etc/new-file",
        "/root/secret.txt",
        "/root/new-file",
        "/var/log/ces/audit.jsonl",
        "/var/lib/ces/new-file",
        &attack.others("secret.txt").display().to_string(),
        &attack.data("pb").join("ward.csv").display().to_string(),
    ];
    for (n, target) in targets.into_iter().enumerate() {
        for page in ["ces.1", "ces-run.1"] {
            let dir = attack.home(&format!("man{n}{page}"));
            attack.directory(&dir, (attack.desk.owner(), attack.desk.owner()), 0o755);
            attack.link(Path::new(target), &dir.join(page));
            let ran = attack.ces(&["man", &dir.display().to_string()]);
            assert_eq!(ran.code, Some(1), "{target}: {ran:?}");
            canary.is_unchanged();
        }
    }
    for dir in ["/etc", "/root", "/root/man", "/var/lib/ces/run", "/var/log/ces"] {
        assert_eq!(attack.ces(&["man", dir]).code, Some(1), "{dir}");
    }
    for dir in [attack.others(""), attack.others("man"), attack.data("pb")] {
        assert_eq!(attack.ces(&["man", &dir.display().to_string()]).code, Some(1), "{dir:?}");
    }
    canary.is_unchanged();
    // What is theirs is written, and is theirs; root's own hand does write through such a link.
    attack.ces(&["man", "pages"]).exits(0);
    let page = fs::metadata(attack.home("pages/ces.1")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&page), attack.desk.owner());
    let linked = attack.home("man0ces.1");
    attack.link(Path::new("/root/new-file"), &linked.join("ces.1"));
    Ran::from(attack.desk.host.ces_as_root().env_remove("CES_ROOT").arg("man").arg(&linked).output()).exits(0);
    assert!(!canary.changes().is_empty());
}

#[test]
fn what_others_have_is_not_told_apart_from_what_is_not_there() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary();
    let (is, never) = (attack.others(SECRETS[3]), attack.others("never"));
    let calls: [&[&str]; 6] = [
        &["policy", "check", "PLACE"],
        &["pull", "oci:PLACE:x"],
        &["pull", "oci-archive:PLACE"],
        &["run", "-v", "PLACE:/mnt", "localhost/demo", "true"],
        &["run", "--env-file", "PLACE", "localhost/demo", "true"],
        &["man", "PLACE"],
    ];
    for call in calls {
        let said = |at: &Path| {
            let at = at.display().to_string();
            let words: Vec<String> = call.iter().map(|word| word.replace("PLACE", &at)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = Ran::from(attack.desk.command(&words).output());
            (ran.code, format!("{}{}", ran.stdout, ran.stderr).replace(&at, "PLACE"))
        };
        let (is, never) = (said(&is), said(&never));
        assert_ne!(is.0, Some(0));
        assert_eq!(is, never);
    }
    canary.is_unchanged();
}
