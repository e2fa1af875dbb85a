//! `~/safe_data` is a name of the researcher's: what it leads to is a project with that project's rules, or a directory of their
//! own, and the record says which.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::Ran;
use crate::support::attack::Attack;

/// Reads which data it is, and tries to write there.
const LOOK: &str = "cat /safe_data/which; echo x 2>/dev/null > /safe_data/made && echo written; exit 0";

/// How long a race lasts at most, without CES_LONG.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

/// A file in each project's data that tells which it is.
fn labelled() -> Option<Attack> {
    let attack = Attack::new()?;
    for project in ["pa", "pb", "pc"] {
        attack.file(&attack.data(project).join("which"), project, (0, 0), 0o644);
    }
    let own = attack.desk.owner();
    attack.directory(&attack.data("pa").join("sub"), (0, 46001), 0o2770);
    attack.file(&attack.data("pa/sub/which"), "pa/sub", (0, 0), 0o644);
    attack.file(&attack.home("safe_data/which"), "own", (own, own), 0o644);
    Some(attack)
}

fn look(attack: &Attack) -> Ran {
    attack.ces(&["run", "localhost/demo", "/bin/sh", "-c", LOOK])
}

/// Project and data directory of the last run, by its record.
fn recorded(attack: &Attack) -> (Option<String>, PathBuf) {
    let record = attack.record();
    (record["project"].as_str().map(str::to_owned), PathBuf::from(record["data"].as_str().unwrap()))
}

#[test]
fn safe_data_that_is_a_link_to_a_project_is_that_project_with_its_rules() {
    let Some(attack) = labelled() else { return };
    let link = attack.home("safe_data");
    fs::remove_dir_all(&link).unwrap();
    for (target, project, said) in
        [("pa", "pa", "pa\nwritten\n"), ("pa/sub", "pa", "pa/sub\nwritten\n"), ("pc", "pc", "pc\n")]
    {
        attack.link(&attack.data(target), &link);
        let ran = look(&attack);
        assert_eq!(ran.exits(0), said, "{target}");
        assert_eq!(recorded(&attack), (Some(project.to_owned()), attack.data(target)));
    }
    // By way of another link, in their own directory or in the data of a project that they may write to.
    attack.link(&attack.data("pc"), &attack.data("pa").join("way"));
    attack.link(&attack.data("pa").join("way"), &attack.home("way"));
    attack.link(&attack.home("way"), &link);
    assert_eq!(look(&attack).exits(0), "pc\n");
    assert_eq!(recorded(&attack), (Some("pc".to_owned()), attack.data("pc")));
    assert!(!attack.data("pc").join("made").exists());
}

#[test]
fn safe_data_that_leads_anywhere_else_is_refused_and_nothing_runs() {
    let Some(attack) = labelled() else { return };
    let link = attack.home("safe_data");
    fs::remove_dir_all(&link).unwrap();
    let canary = attack.canary().and(&attack.data("pa")).and(&attack.data("pc"));
    let shared = attack.movable("theirs");
    let of_the_host = [
        "/dev/shm",
        "/dev",
        "/proc",
        "/proc/self/root",
        "/sys",
        "/run",
        "/var/log",
        "/var/lib/ces",
        "/home",
        "/etc",
        "/tmp",
        "/",
        "/root",
        "/usr",
        "/sys/fs/cgroup",
        "/proc/1",
        ".",
        "..",
    ];
    let of_others = [attack.others(""), attack.data(""), attack.data("pb"), shared.clone()];
    for place in of_the_host.iter().map(PathBuf::from).chain(of_others) {
        attack.link(&place, &link);
        let ran = look(&attack);
        assert_eq!(ran.code, Some(125), "{}: {ran:?}", place.display());
        assert_eq!(ran.stdout, "", "{}", place.display());
        canary.is_unchanged();
    }
    assert_eq!(attack.desk.named("outputs_"), Vec::<PathBuf>::new());
    // A real directory that is not theirs is none either, nor a file.
    fs::remove_file(&link).unwrap();
    fs::rename(&shared, &link).unwrap();
    assert_eq!(look(&attack).code, Some(125));
}

#[test]
fn a_project_named_by_word_is_bound_by_the_same_rules() {
    let Some(attack) = labelled() else { return };
    let canary = attack.canary().and(&attack.data("pc"));
    for project in ["pb", "..", ".", "../safe/pc", "pa/../pb", "/etc", "", "never"] {
        let ran = attack.ces(&["run", "--project", project, "localhost/demo", "/bin/sh", "-c", LOOK]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{project}: {ran:?}");
    }
    let ran = attack.ces(&["run", "--project", "pc", "localhost/demo", "/bin/sh", "-c", LOOK]);
    assert_eq!(ran.exits(0), "pc\n");
    assert_eq!(recorded(&attack), (Some("pc".to_owned()), attack.data("pc")));
    canary.is_unchanged();
    // Nor is it to be had as something else.
    attack.link(&attack.data("pb"), &attack.home("b"));
    attack.link(&attack.data("pc"), &attack.home("c"));
    attack.policy("[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n");
    for source in ["b", "c", "~/c", "~/../safe/pc", &attack.data("pc").display().to_string()] {
        let bind = format!("{source}:/mnt");
        let script = "cat /mnt/which; echo x > /mnt/made";
        let ran = attack.ces(&["run", "-v", &bind, "localhost/demo", "/bin/sh", "-c", script]);
        assert_ne!(ran.code, Some(0), "{source}: {ran:?}");
        assert!(!attack.data("pc").join("made").exists(), "{source}");
    }
}

/// Runs beside a process that exchanges names: whatever was mounted is what the record says, and what may not be written is not.
fn raced(attack: &Attack, a: &Path, b: &Path) {
    let began = Instant::now();
    let canary = attack.canary().and(&attack.data("pc"));
    let (mut rounds, mut ran_on) = (0, Vec::new());
    let limit = LONG_ENOUGH * u32::try_from(attack.rounds() / 100).unwrap();
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let swapper = attack.swapper(a, b);
        let ran = look(attack);
        assert!(swapper.stop() > 0, "nothing was exchanged");
        canary.is_unchanged();
        if ran.code != Some(0) {
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{ran:?}");
            continue;
        }
        let (project, path) = recorded(attack);
        let said = match project.as_deref() {
            Some("pc") => "pc\n",
            None => "own\nwritten\n",
            other => panic!("{other:?}"),
        };
        assert_eq!(ran.stdout, said, "{project:?} {}", path.display());
        ran_on.push(project);
    }
    attack.tried(rounds, None);
    assert!(!ran_on.is_empty(), "in {rounds} rounds nothing ran");
}

#[test]
fn safe_data_that_is_exchanged_while_a_run_begins_is_what_the_record_says() {
    let Some(attack) = labelled() else { return };
    attack.link(&attack.data("pc"), &attack.home("other"));
    raced(&attack, &attack.home("safe_data"), &attack.home("other"));
}

#[test]
fn a_directory_on_the_way_to_safe_data_that_is_exchanged_is_what_the_record_says() {
    let Some(attack) = labelled() else { return };
    let own = attack.desk.owner();
    attack.directory(&attack.home("way"), (own, own), 0o755);
    fs::rename(attack.home("safe_data"), attack.home("way/pc")).unwrap();
    attack.link(&attack.data(""), &attack.home("other"));
    attack.link(Path::new("way/pc"), &attack.home("safe_data"));
    raced(&attack, &attack.home("way"), &attack.home("other"));
}

#[test]
fn a_payload_that_plants_a_link_for_the_next_run_gains_nothing_by_it() {
    let Some(attack) = labelled() else { return };
    attack.policy("[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n");
    let canary = attack.canary().and(&attack.data("pc"));
    for target in [attack.data("pc"), PathBuf::from("/dev/shm"), PathBuf::from("/proc")] {
        let plant = format!("rm -rf /mnt/safe_data; ln -s {} /mnt/safe_data; ls -l /mnt/safe_data", target.display());
        let words = ["run", "--project", "pa", "-v", "~:/mnt", "localhost/demo", "/bin/sh", "-c", &plant];
        attack.ces(&words).exits(0);
        assert!(attack.home("safe_data").is_symlink());
        let ran = look(&attack);
        match target == attack.data("pc") {
            true => {
                assert_eq!(ran.exits(0), "pc\n");
                assert_eq!(recorded(&attack), (Some("pc".to_owned()), attack.data("pc")));
            }
            false => assert_eq!((ran.code, ran.stdout.as_str()), (Some(125), ""), "{ran:?}"),
        }
        canary.is_unchanged();
    }
}
