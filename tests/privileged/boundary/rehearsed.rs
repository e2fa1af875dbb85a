//! `ces rehearse` through sudo: no project's data comes in by it, under no name and at no moment, and nothing is wider than in a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::attack::Attack;
use crate::support::{Ran, wait_until};

/// Reads which directory it is, and tries to write there.
const LOOK: &str = "cat /safe_data/which; echo x 2>/dev/null > /safe_data/made && echo written; exit 0";

/// How long a race lasts at most, without CES_LONG.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

fn rehearse(attack: &Attack, options: &[&str], script: &str) -> Ran {
    attack.ces(&[&["rehearse"], options, &["localhost/demo", "/bin/sh", "-c", script]].concat())
}

/// The first researcher's own synthetic data, and a directory in a project, which the policy makes read-only and the file system lets
/// them move (rename(2): they may write to it and to what it is in).
fn labelled() -> Option<Attack> {
    let attack = Attack::new()?;
    let own = attack.desk.owner();
    attack.directory(&attack.home("synthetic"), (own, own), 0o755);
    attack.file(&attack.home("synthetic/which"), "synthetic", (own, own), 0o644);
    attack.directory(&attack.data("pc/sub"), (0, 46003), 0o2770);
    attack.file(&attack.data("pc/sub/which"), "pc", (0, 0), 0o644);
    Some(attack)
}

/// A policy that lets whoever may reach a directory bind it.
fn opened(attack: &Attack, dir: &Path) {
    attack.policy(&format!("[mounts]\nallow = [{{ host = \"{}\", access = \"rw\" }}]\n", dir.display()));
}

/// Rehearses beside a process that exchanges two names: what is mounted to be written was judged, and is the researcher's.
fn raced(attack: &Attack, a: &Path, b: &Path) {
    let began = Instant::now();
    let (mut rounds, mut ran_on) = (0, 0);
    let limit = LONG_ENOUGH * u32::try_from(attack.rounds() / 100).unwrap();
    let data = attack.home("synthetic").display().to_string();
    opened(attack, &attack.home(""));
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let swapper = attack.swapper(a, b);
        let ran = rehearse(attack, &["--light", "--data", &data], LOOK);
        assert!(swapper.stop() > 0, "nothing was exchanged");
        assert!(!attack.data("pc/sub/made").exists(), "a project's data was written to: {ran:?}");
        // A directory that is moved into their home is in their home, to be read there with their own rights; a link is nothing.
        assert!(!ran.stdout.contains("pc") || !b.is_symlink(), "a project's data was read: {ran:?}");
        ran_on += u32::from(ran.stdout.contains("synthetic"));
        fs::remove_file(attack.home("synthetic/made")).ok();
    }
    attack.tried(rounds, None);
    assert!(ran_on > 0, "in {rounds} rounds nothing ran");
}

#[test]
fn a_directory_that_is_exchanged_for_a_projects_while_a_rehearsal_begins_is_never_written_to() {
    let Some(attack) = labelled() else { return };
    raced(&attack, &attack.home("synthetic"), &attack.data("pc/sub"));
}

#[test]
fn a_link_that_is_exchanged_while_a_rehearsal_begins_leads_to_no_projects_data() {
    let Some(attack) = labelled() else { return };
    attack.link(&attack.data("pc/sub"), &attack.home("other"));
    raced(&attack, &attack.home("synthetic"), &attack.home("other"));
}

#[test]
fn a_projects_data_is_refused_by_every_name_that_leads_to_it() {
    let Some(attack) = labelled() else { return };
    opened(&attack, &attack.tmp(""));
    let (mut names, own) = (Vec::new(), attack.desk.owner());
    // A project whose directory is a link to another disk.
    attack.directory(&attack.tmp("disk"), (0, 0), 0o755);
    attack.directory(&attack.tmp("disk/pd"), (0, 46003), 0o2770);
    attack.file(&attack.tmp("disk/pd/which"), "pd", (0, 0), 0o644);
    std::os::unix::fs::symlink(attack.tmp("disk/pd"), attack.data("pd")).unwrap();
    names.extend([attack.data("pd"), attack.tmp("disk/pd"), attack.tmp("disk")]);
    // The site's own bind mounts, of a project and of a directory in it, and what holds one.
    for (source, at) in [(attack.data("pc"), "mnt-of-all"), (attack.data("pc/sub"), "mnt/of-a-part")] {
        attack.directory(&attack.home(at), (own, own), 0o755);
        let bound = attack.desk.host.command("mount").arg("--bind").arg(source).arg(attack.home(at)).status();
        assert!(bound.unwrap().success());
        names.push(attack.home(at));
    }
    names.push(attack.home("mnt"));
    // Links, and the directory itself.
    attack.link(&attack.data("pc"), &attack.home("link"));
    names.extend([attack.home("link"), attack.data("pc"), attack.data("pc/sub"), attack.data(""), attack.tmp("")]);
    for name in names {
        let name = name.display().to_string();
        let ran = rehearse(&attack, &["--data", &name], LOOK);
        ran.refuses(3, &["is refused", "synthetic data"]);
        // The same directory is not to be had by `-v` either.
        let bind = format!("{name}:/mnt");
        let ran = attack.ces(&["run", "-v", &bind, "localhost/demo", "cat", "/mnt/which"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{name}: {ran:?}");
    }
    for made in [attack.data("pc/made"), attack.data("pc/sub/made"), attack.tmp("disk/pd/made")] {
        assert!(!made.exists(), "{made:?}");
    }
    let own = attack.home("synthetic").display().to_string();
    assert_eq!(rehearse(&attack, &["--data", &own], LOOK).stdout, "synthetic\nwritten\n");
}

#[test]
fn what_no_rule_opens_is_no_data_for_a_rehearsal_and_what_is_read_only_stays_so() {
    let Some(attack) = labelled() else { return };
    attack.policy("[mounts]\nallow = [{ host = \"~/open\", access = \"ro\" }]\n");
    let canary = attack.canary().and(&attack.data("pa"));
    let of_the_host = [
        "/", "/proc", "/proc/1", "/dev", "/dev/shm", "/sys", "/run", "/etc", "/boot", "/tmp", "/usr", "/home", "/root",
    ];
    let of_others = [attack.others(""), attack.shared(""), attack.home(""), attack.home("synthetic")];
    for place in of_the_host.iter().map(PathBuf::from).chain(of_others).filter(|place| place.exists()) {
        let ran = rehearse(&attack, &["--data", &place.display().to_string()], LOOK);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{}: {ran:?}", place.display());
        canary.is_unchanged();
    }
    fs::rename(attack.home("synthetic"), attack.home("open")).unwrap();
    assert_eq!(rehearse(&attack, &["--data", "open"], LOOK).stdout, "synthetic\n");
    assert_eq!(rehearse(&attack, &[], LOOK).stdout, "", "without --data there is nothing, and nothing is written");
    assert!(attack.desk.named("outputs_").is_empty(), "of a rehearsal that wrote nothing there is nothing");
    canary.is_unchanged();
}

#[test]
fn rules_of_the_callers_own_do_not_count_through_sudo() {
    let Some(attack) = labelled() else { return };
    let own = attack.desk.owner();
    attack.policy("[mounts]\nallow = []\n[interactive]\nallow = false\n");
    let rules = "[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n[interactive]\nallow = true\nexec = true\n";
    attack.file(&attack.home("rules.toml"), rules, (own, own), 0o644);
    let rules = attack.home("rules.toml").display().to_string();
    for option in ["--rules", "--policy"] {
        let ran = rehearse(&attack, &[option, &rules, "-v", "~/synthetic:/mnt"], "cat /mnt/which");
        ran.refuses(3, &[option, "sudo"]);
    }
    rehearse(&attack, &["-v", "~/synthetic:/mnt"], "cat /mnt/which").refuses(3, &["mounts.allow"]);
}

#[test]
fn a_rehearsal_that_is_killed_leaves_nothing_in_the_place_of_data() {
    let Some(attack) = labelled() else { return };
    let tmp = || -> Vec<PathBuf> {
        ["/tmp", "/var/tmp"]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()))
            .filter(|path| path.to_string_lossy().contains("ces-rehearsal"))
            .collect()
    };
    let before = tmp();
    let script = ": > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done";
    let mut command = attack.desk.command(&["rehearse", "localhost/demo", "/bin/sh", "-c", script]);
    let mut child = command.spawn().unwrap();
    wait_until("the payload runs", || attack.desk.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
    attack.desk.host.clear();
    child.wait().unwrap();
    assert_eq!(tmp(), before);
    attack.ces(&["ps"]).exits(0);
    assert_eq!(attack.desk.named("scratch_"), Vec::<PathBuf>::new());
}
