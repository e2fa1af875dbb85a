//! A bundle is made in a directory that its researcher may exchange at any moment: what is given to root or to the payload, and
//! what is removed, is what was made for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::attack::Attack;

/// Bundles are made as long as this at most, without CES_LONG.
const LONG_ENOUGH: Duration = Duration::from_secs(9);

/// Makes bundles at `dir` for so long, beside processes that exchange names.
fn beside(attack: &Attack, dir: &Path, names: &[(PathBuf, PathBuf)], long: Duration, prepare: &dyn Fn()) -> u64 {
    let began = Instant::now();
    let canary = attack.canary();
    let (mut swapped, mut rounds) = (0, 0);
    let limit = long * u32::try_from(attack.rounds() / 100).unwrap();
    while rounds < attack.rounds() && began.elapsed() < limit {
        prepare();
        let swappers: Vec<_> = names.iter().map(|(a, b)| attack.swapper(a, b)).collect();
        attack.ces(&["bundle", "localhost/demo", &dir.display().to_string()]);
        swapped += swappers.into_iter().map(|swapper| swapper.stop()).sum::<u64>();
        let changes = canary.changes();
        assert!(changes.is_empty(), "after {rounds} rounds: {changes:#?}");
        // They may write there themselves, but give it to nobody.
        let data = fs::metadata(attack.data("pa")).unwrap();
        assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (0, 46001, 0o2770), "after {rounds} rounds");
        rounds += 1;
    }
    attack.tried(rounds, Some(swapped));
    swapped
}

fn clear(dir: &Path) {
    fs::remove_dir_all(dir).or_else(|_| fs::remove_file(dir)).ok();
}

#[test]
fn a_bundle_whose_directory_is_exchanged_for_a_link_reaches_nothing_through_it() {
    let Some(attack) = Attack::new() else { return };
    let (dir, other) = (attack.home("bundle"), attack.home("other"));
    let targets = [attack.others(""), PathBuf::from("/root"), attack.data("pa"), PathBuf::from("/etc/ces")];
    let turn = std::cell::Cell::new(0_usize);
    let prepare = || {
        clear(&dir);
        turn.set(turn.get() + 1);
        attack.link(&targets[turn.get() % targets.len()], &other);
    };
    assert!(beside(&attack, &dir, &[(dir.clone(), other.clone())], LONG_ENOUGH, &prepare) > 0, "nothing was exchanged");
}

#[test]
fn a_bundle_whose_parent_is_exchanged_for_a_link_reaches_nothing_through_it() {
    let Some(attack) = Attack::new() else { return };
    let (parent, other) = (attack.home("parent"), attack.home("other"));
    let own = attack.desk.owner();
    let prepare = || {
        clear(&parent);
        attack.directory(&parent, (own, own), 0o755);
        attack.link(&attack.others(""), &other);
    };
    let dir = parent.join("bundle");
    assert!(
        beside(&attack, &dir, &[(parent.clone(), other.clone())], LONG_ENOUGH, &prepare) > 0,
        "nothing was exchanged"
    );
}

#[test]
fn a_part_of_a_bundle_that_is_exchanged_for_a_link_is_not_filled_nor_given_away() {
    let Some(attack) = Attack::new() else { return };
    let dir = attack.home("bundle");
    let mut swapped = 0;
    for part in ["rootfs", "scratch", "safe_outputs", "config.json"] {
        let other = attack.home("other");
        let prepare = || {
            clear(&dir);
            let target = if part == "config.json" { attack.others("open.txt") } else { attack.data("pa") };
            attack.link(&target, &other);
        };
        swapped += beside(&attack, &dir, &[(dir.join(part), other.clone())], LONG_ENOUGH / 2, &prepare);
    }
    assert!(swapped > 0, "nothing was exchanged");
}

#[test]
fn another_researchers_directory_put_into_a_bundle_stays_theirs() {
    let Some(attack) = Attack::new() else { return };
    let dir = attack.home("bundle");
    let mut given = Vec::new();
    let mut swapped = 0;
    for part in ["rootfs", "scratch", "safe_outputs"] {
        let theirs = attack.movable("theirs");
        let inode = fs::metadata(&theirs).unwrap().ino();
        let began = Instant::now();
        // The root file system is opened again, long after it was made.
        let long = if part == "rootfs" { LONG_ENOUGH * 2 } else { LONG_ENOUGH / 2 };
        let mut rounds = 0;
        while rounds < attack.rounds() && began.elapsed() < long {
            rounds += 1;
            clear(&dir);
            attack.movable("theirs");
            let swapper = attack.swapper(&dir.join(part), &theirs);
            attack.ces(&["bundle", "localhost/demo", &dir.display().to_string()]);
            swapped += swapper.stop();
            // Wherever it is now, it is as it was.
            let here = [theirs.clone(), dir.join(part)].into_iter().find(|at| is(at, inode));
            match here {
                None => given.push(format!("{part}: it was removed")),
                Some(at) => {
                    let found = fs::metadata(&at).unwrap();
                    let owner = found.uid();
                    let notes = fs::read_to_string(at.join("notes.txt"));
                    if owner != crate::support::callers::OTHER_ID || notes.is_err() {
                        let names: Vec<_> = crate::support::children(&at);
                        given.push(format!("{part}: it is uid {owner}'s, and holds {names:?}"));
                    }
                }
            }
            if !is(&theirs, inode) {
                // What a failed bundle left there, or took away.
                clear(&theirs);
                break;
            }
        }
        attack.tried(rounds, Some(swapped));
    }
    assert!(given.is_empty(), "{given:#?}");
    assert!(swapped > 0, "nothing was exchanged");
}

fn is(at: &Path, inode: u64) -> bool {
    fs::symlink_metadata(at).is_ok_and(|found| found.ino() == inode)
}

#[test]
fn a_bundle_is_made_only_where_its_researcher_could_make_it() {
    let Some(attack) = Attack::new() else { return };
    let canary = attack.canary().and(&attack.data("pc"));
    let own = attack.desk.owner();
    attack.directory(&attack.home("full"), (own, own), 0o755);
    attack.file(&attack.home("full/kept.txt"), "kept", (own, own), 0o644);
    attack.link(&attack.others("new"), &attack.home("dangling"));
    attack.link(&attack.others(""), &attack.home("to-other"));
    for dir in [
        "/root/bundle".into(),
        "/etc/bundle".into(),
        "/bundle".into(),
        "/var/lib/ces/store/bundle".into(),
        "/".into(),
        "..".into(),
        attack.others("bundle").display().to_string(),
        attack.data("pb").join("bundle").display().to_string(),
        attack.home("to-other/bundle").display().to_string(),
        attack.home("dangling").display().to_string(),
        attack.home("full").display().to_string(),
        attack.home("full/../../lab").display().to_string(),
    ] {
        let ran = attack.ces(&["bundle", "localhost/demo", &dir]);
        assert_eq!(ran.code, Some(1), "{dir}: {ran:?}");
        canary.is_unchanged();
    }
    assert_eq!(fs::read_to_string(attack.home("full/kept.txt")).unwrap(), "kept\n");
    attack.ces(&["bundle", "localhost/demo", "bundle"]).exits(0);
    canary.is_unchanged();
}
