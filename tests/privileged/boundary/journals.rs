//! Journals are root's own, and even then what they say is no path that is followed, and no process that is ended.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::Ran;
use crate::support::attack::{Attack, Canary, SECRETS};
use crate::support::callers::OTHER_ID;

const ID: &str = "20261122T143015-7f3a9c";

/// Where the journal of a run is.
fn place(attack: &Attack, id: &str) -> PathBuf {
    attack.tmp("ces/run").join(id)
}

/// What `ces` itself would have written of a run of the first researcher's that was killed.
fn honest(attack: &Attack) -> Value {
    let own = attack.desk.owner();
    json!({"id": ID, "machine": null, "pid": 1_000_000_000, "name": null, "project": null, "detached": false, "image": "x",
        "researcher": "x", "uid": own, "gid": own, "started": "2026-11-22T14:30:15.000Z", "home": "/etc", "sockets": [],
        "quotas": []})
}

/// Puts a journal there, as root.
fn write(attack: &Attack, name: &str, journal: &Value, made: Option<&Value>) {
    let dir = place(attack, name);
    attack.directory(&dir, (0, 0), 0o700);
    attack.file(&dir.join("lock"), &made.map(Value::to_string).unwrap_or_default(), (0, 0), 0o600);
    attack.file(&dir.join("job.json"), &journal.to_string(), (0, 0), 0o600);
}

/// What three people's next commands do of it.
#[track_caller]
fn everybody_looks(attack: &Attack, what: &str, canary: &Canary) {
    for words in ["ps", "runs"] {
        let ran = attack.ces(&[words]);
        assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        let ran = attack.other(&format!("sudo -n $CES {words}"));
        assert_eq!(ran.code, Some(0), "{what}: {ran:?}");
        let mut command = attack.desk.host.ces_as_root();
        command.env_remove("CES_ROOT").arg(words);
        let (ran, is_late) = attack.within(crate::support::attack::SOON, command);
        assert!(!is_late && ran.code == Some(0), "{what}: {ran:?}");
    }
    let changes = canary.changes();
    assert!(changes.is_empty(), "{what}: {changes:#?}");
}

#[test]
fn a_journal_with_one_odd_field_moves_nothing_that_is_not_that_runs_own() {
    let Some(attack) = Attack::new() else { return };
    let (own, others) = (attack.desk.owner(), attack.others(""));
    let theirs = attack.movable("theirs");
    let canary = attack.canary().and(&theirs).and(&attack.data("pa"));
    let inode = |at: &Path| {
        let found = fs::metadata(at).unwrap();
        json!([found.dev(), found.ino()])
    };
    let pid = std::process::id();
    let odd: Vec<(&str, Value)> = vec![
        ("id", json!("20261122T143015-ffffff")),
        ("id", json!("../../../etc")),
        ("id", json!("")),
        ("uid", json!(0)),
        ("uid", json!(OTHER_ID)),
        ("uid", json!(4_000_000_000_u32)),
        ("uid", json!(-1)),
        ("gid", json!(0)),
        ("gid", json!(46002)),
        ("home", json!(others)),
        ("work", json!("/etc")),
        ("outputs", json!(others)),
        ("scratch", json!("/root")),
        ("dirs", json!({"work": "/etc", "outputs": others, "scratch": "/root"})),
        ("places", json!({"home": others, "outputs": "secret.txt", "scratch": SECRETS[3], "work": "/etc"})),
        ("pid", json!(pid)),
        ("pid", json!(1)),
        ("pid", json!(0)),
        ("name", json!("\u{1b}]0;x\u{7}\n../x")),
        ("machine", json!({"host": "x", "id": "x", "boot": "x"})),
        ("quotas", json!([{"what": "x", "on": ["work", "outputs"], "project": 0, "bytes": 1, "files": 1}])),
        ("quotas", json!([{"what": "x", "on": ["outputs"], "project": 4_294_967_295_u32, "bytes": 0, "files": 0}])),
        ("sockets", json!([{"path": "/etc/passwd", "device": 0, "inode": 0}])),
    ];
    for (field, value) in odd {
        for name in [ID, "x1"] {
            let mut journal = honest(&attack);
            journal[field] = value.clone();
            if field != "id" {
                journal["id"] = json!(name);
            }
            write(&attack, name, &journal, None);
            everybody_looks(&attack, &format!("{field} = {value} of {name}"), &canary);
            fs::remove_dir_all(place(&attack, name)).ok();
        }
    }
    // What was noted of directories, without and with what it names in the home.
    for made in [json!({"scratch": inode(&theirs), "outputs": inode(Path::new("/etc"))}), json!({"scratch": [0, 0]})] {
        write(&attack, ID, &honest(&attack), Some(&made));
        attack.link(&theirs, &attack.home(&format!("scratch_{ID}")));
        attack.link(&attack.others(""), &attack.home(&format!("outputs_{ID}")));
        everybody_looks(&attack, &made.to_string(), &canary);
        fs::remove_dir_all(place(&attack, ID)).ok();
        for name in ["scratch", "outputs"] {
            fs::remove_file(attack.home(&format!("{name}_{ID}"))).ok();
        }
    }
    // The test's own process, whose number was in one of them, is there to say so; and the honest one is obeyed.
    attack.directory(&attack.home(&format!("scratch_{ID}")), (own, own), 0o700);
    let made = json!({"scratch": inode(&attack.home(&format!("scratch_{ID}"))), "outputs": null});
    write(&attack, ID, &honest(&attack), Some(&made));
    everybody_looks(&attack, "as it should be", &canary);
    assert!(!attack.home(&format!("scratch_{ID}")).exists() && !place(&attack, ID).exists());
}

#[test]
fn a_socket_that_a_journal_names_goes_with_its_researchers_rights_or_not_at_all() {
    let Some(attack) = Attack::new() else { return };
    let at = |dir: PathBuf| dir.join("service.sock");
    let root = attack.desk.host.inside(Path::new("/root"));
    let theirs = attack.movable("theirs");
    let places = [
        (at(attack.others("")), attack.others("service.sock")),
        (at(root), PathBuf::from("/root/service.sock")),
        (at(theirs.join("below")), theirs.join("below/service.sock")),
    ];
    let _listening: Vec<_> = places.iter().map(|(outside, _)| UnixListener::bind(outside).unwrap()).collect();
    let canary = attack.canary().and(&theirs);
    for (outside, inside) in &places {
        let found = fs::metadata(outside).unwrap();
        let mut journal = honest(&attack);
        journal["sockets"] = json!([{"path": inside, "device": found.dev(), "inode": found.ino()}]);
        write(&attack, ID, &journal, None);
        everybody_looks(&attack, &inside.display().to_string(), &canary);
        fs::remove_dir_all(place(&attack, ID)).ok();
    }
}

#[test]
fn a_journal_that_others_than_root_could_have_written_is_left_alone() {
    let Some(attack) = Attack::new() else { return };
    let own = attack.desk.owner();
    let scratch = attack.home(&format!("scratch_{ID}"));
    attack.directory(&scratch, (own, own), 0o700);
    let found = fs::metadata(&scratch).unwrap();
    let made = json!({"scratch": [found.dev(), found.ino()], "outputs": null});
    let canary = attack.canary();
    let dir = place(&attack, ID);
    let mode = |name: &str, mode| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    let replace = |name: &str, with: &dyn Fn(&Path)| {
        fs::remove_file(dir.join(name)).unwrap();
        with(&dir.join(name));
    };
    let fifo = |at: &Path| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let elsewhere = attack.tmp("elsewhere.json");
    attack.file(&elsewhere, &honest(&attack).to_string(), (0, 0), 0o600);
    let odd: [(&str, &dyn Fn()); 14] = [
        ("its directory is a researcher's", &|| chown(&dir, Some(own), None).unwrap()),
        ("its directory may be written by a group", &|| mode("", 0o770)),
        ("its directory may be written by all", &|| mode("", 0o1777)),
        ("it is a researcher's", &|| chown(dir.join("job.json"), Some(own), None).unwrap()),
        ("it may be written by a group", &|| mode("job.json", 0o660)),
        ("it may be written by all", &|| mode("job.json", 0o606)),
        ("its lock is a researcher's", &|| chown(dir.join("lock"), Some(own), None).unwrap()),
        ("it is a link", &|| replace("job.json", &|at| symlink(&elsewhere, at).unwrap())),
        ("its lock is a link", &|| replace("lock", &|at| symlink("/etc/passwd", at).unwrap())),
        ("it is a fifo", &|| replace("job.json", &fifo)),
        ("its lock is a fifo", &|| replace("lock", &fifo)),
        ("it is a directory", &|| replace("job.json", &|at| fs::create_dir(at).unwrap())),
        ("it is a device", &|| replace("job.json", &|at| symlink("/dev/zero", at).unwrap())),
        ("what was made, as versions before noted it, is a researcher's", &|| {
            fs::write(dir.join("lock"), "").unwrap();
            attack.file(&dir.join("made.json"), &made.to_string(), (own, own), 0o600);
        }),
    ];
    for (what, change) in odd {
        write(&attack, ID, &honest(&attack), Some(&made));
        change();
        everybody_looks(&attack, what, &canary);
        assert!(scratch.exists() && dir.exists(), "{what}: it was obeyed");
        fs::remove_dir_all(&dir).unwrap();
    }
    // The directory as a whole is a link to one that is as it should be.
    write(&attack, ID, &honest(&attack), Some(&made));
    fs::rename(&dir, attack.tmp("ces/journal")).unwrap();
    symlink(attack.tmp("ces/journal"), &dir).unwrap();
    everybody_looks(&attack, "a link", &canary);
    assert!(scratch.exists(), "a link was followed");
    // Real root is told of what makes no sense, and nobody else.
    let mut command = attack.desk.host.ces_as_root();
    let said = Ran::from(command.env_remove("CES_ROOT").arg("ps").output()).stderr;
    assert!(said.contains(ID), "{said}");
    assert!(!attack.ces(&["ps"]).stderr.contains(ID) && !attack.other("sudo -n $CES ps").stderr.contains(ID));
    // As it was written first, it is obeyed: what was changed is what stopped it.
    fs::remove_file(&dir).unwrap();
    fs::rename(attack.tmp("ces/journal"), &dir).unwrap();
    attack.ces(&["ps"]).exits(0);
    assert!(!scratch.exists() && !dir.exists());
}

#[test]
fn a_journal_of_a_version_before_is_obeyed_like_one_of_today() {
    let Some(attack) = Attack::new() else { return };
    let own = attack.desk.owner();
    for (lock, beside) in [(true, false), (false, true)] {
        let scratch = attack.home(&format!("scratch_{ID}"));
        attack.directory(&scratch, (own, own), 0o700);
        let found = fs::metadata(&scratch).unwrap();
        let made = json!({"scratch": [found.dev(), found.ino()], "outputs": null});
        write(&attack, ID, &honest(&attack), lock.then_some(&made));
        if beside {
            attack.file(&place(&attack, ID).join("made.json"), &made.to_string(), (0, 0), 0o600);
        }
        attack.ces(&["ps"]).exits(0);
        assert!(!scratch.exists() && !place(&attack, ID).exists(), "in the lock: {lock}");
    }
}

#[test]
fn names_that_are_no_journals_are_left_alone_and_hold_nobody_up() {
    let Some(attack) = Attack::new() else { return };
    let run = attack.tmp("ces/run");
    let canary = attack.canary();
    let kept = [".new-x", ".new-a:b:c:1:x", ".new-:::1:", ".names-too", "a b", "..x", "\u{7}", "x.json"];
    for name in kept {
        attack.directory(&run.join(name), (0, 0), 0o700);
        attack.file(&run.join(name).join("job.json"), "{}", (0, 0), 0o600);
    }
    attack.file(&run.join("file"), "", (0, 0), 0o600);
    symlink("/etc", run.join("etc")).unwrap();
    symlink("/etc", run.join(".new-etc")).unwrap();
    everybody_looks(&attack, "odd names", &canary);
    assert!(kept.iter().all(|name| run.join(name).join("job.json").exists()));
    // A run of one's own is not in their way either.
    attack.ces(&["run", "--name", "x", "localhost/demo", "true"]).exits(0);
    canary.is_unchanged();
}
