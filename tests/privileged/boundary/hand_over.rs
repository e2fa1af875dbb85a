//! After a run its outputs become the researcher's: what the run made, and nothing that lies there besides.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::attack::{Attack, SECRETS};
use crate::support::callers::OTHER_ID;

/// Files of a tree, with set-user-ID or set-group-ID.
fn set_id(top: &Path) -> Vec<PathBuf> {
    let found = Command::new("find").arg(top).args(["-type", "f", "-perm", "/6000"]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).lines().map(PathBuf::from).collect()
}

#[test]
fn a_payload_gives_nothing_set_id_bits_wherever_it_may_write() {
    let Some(attack) = Attack::new() else { return };
    let own = attack.desk.owner();
    attack.policy("[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n");
    attack.directory(&attack.home("bound"), (own, own), 0o755);
    fs::remove_dir_all(attack.home("safe_data")).unwrap();
    let script = "for dir in /safe_outputs /scratch /mnt /safe_data /tmp; do
            cp /bin/sh $dir/tool; chmod 755 $dir/tool || echo no plain mode in $dir
            for mode in 4755 2755 6755 u+s g+s; do
                chmod $mode $dir/tool 2>/dev/null && echo $mode in $dir
                chmod 0755 $dir/tool
            done
            mkdir -m 2755 $dir/made 2>/dev/null && [ -g $dir/made ] && [ $dir != /safe_data ] && echo a directory in $dir
        done; chmod 0777 /safe_outputs";
    let began = attack.start(&["-v", "~/bound:/mnt"], script);
    // While it runs, too.
    let tops =
        [began.outputs.clone(), attack.home("bound"), attack.data("pa"), attack.home(&format!("scratch_{}", began.id))];
    for top in &tops {
        assert_eq!(set_id(top), Vec::<PathBuf>::new());
    }
    assert_eq!(began.go().exits(0), "");
    for top in &tops {
        assert_eq!(set_id(top), Vec::<PathBuf>::new());
    }
    let outputs = fs::metadata(&tops[0]).unwrap();
    assert_eq!((outputs.mode() & 0o7777, outputs.uid()), (0o700, own), "the top is its researcher's alone");
}

#[test]
fn set_id_files_put_into_outputs_from_outside_are_stripped_at_any_depth() {
    for depth in [0, 10, 300] {
        let Some(attack) = Attack::new() else { return };
        let began = attack.start(&[], "");
        let outputs = began.outputs.display();
        let ran = attack.sh(&format!(
            "cd {outputs} && n=0 && while [ $n -lt {depth} ]; do mkdir d && cd d && n=$((n+1)) || exit 1; done
            for mode in 4755 2755 6711; do cp /bin/true tool$mode && chmod $mode tool$mode || exit 1; done"
        ));
        ran.exits(0);
        // It was possible.
        assert_eq!(set_id(&began.outputs).len(), 3, "{depth}");
        let outputs = began.outputs.clone();
        let ran = began.go();
        assert_eq!(set_id(&outputs), Vec::<PathBuf>::new(), "{depth} directories deep: {ran:?}");
        assert_eq!(fs::metadata(&outputs).unwrap().mode() & 0o7777, 0o700);
    }
}

#[test]
fn what_lies_in_outputs_and_is_somebody_elses_stays_theirs_and_is_not_read() {
    let Some(attack) = Attack::new() else { return };
    let theirs = attack.movable("theirs");
    let moved = attack.movable("moved");
    let canary = attack.canary().and(&theirs);
    let began = attack.start(&[], "");
    let outputs = began.outputs.clone();
    // As members of a group may: a link to a file that they may write, a directory that they may rename.
    let ran = attack.sh(&format!(
        "cd {} && ln {}/notes.txt notes.txt && ln -s {} link && ln -s /etc/shadow shadow && mkdir -p a/b && mv {} a/b/moved",
        outputs.display(),
        theirs.display(),
        attack.others("secret.txt").display(),
        moved.display()
    ));
    ran.exits(0);
    let ran = began.go();
    canary.is_unchanged();
    for path in ["a/b/moved", "a/b/moved/notes.txt", "a/b/moved/below", "a/b/moved/below/deep.txt", "notes.txt"] {
        let found = fs::metadata(outputs.join(path)).unwrap();
        assert_eq!(found.uid(), OTHER_ID, "{path}: {ran:?}");
    }
    assert_eq!(fs::metadata(outputs.join("a/b/moved/below/deep.txt")).unwrap().mode() & 0o7777, 0o600);
    let record = attack.record().to_string();
    assert!(SECRETS.iter().all(|secret| !record.contains(secret)), "{record}");
    assert!(!record.contains("deep.txt"), "what is below another's private directory was listed: {record}");
    assert_eq!(fs::metadata(&outputs).unwrap().uid(), attack.desk.owner());
}

/// Pairs that are exchanged while outputs are collected.
const PAIRS: usize = 40;

/// Runs at whose end names in the outputs are exchanged in a loop: `own` makes what may be given, `theirs` what may not.
fn exchanged(own: &dyn Fn(&Path), theirs: &dyn Fn(&Attack, &Path, usize)) {
    let Some(attack) = Attack::new() else { return };
    let kept = attack.movable("theirs");
    let canary = attack.canary().and(&kept);
    let began = Instant::now();
    let limit = Duration::from_secs(8) * u32::try_from(attack.rounds() / 100).unwrap();
    let (mut swapped, mut rounds) = (0, 0);
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let run = attack.start(&[], "");
        for n in 0..PAIRS {
            let (a, b) = (run.outputs.join(format!("a{n}")), run.outputs.join(format!("b{n}")));
            own(&a);
            std::os::unix::fs::lchown(&a, Some(attack.desk.owner()), Some(attack.desk.owner())).unwrap();
            theirs(&attack, &b, n);
        }
        let spinner = attack.spinner(&run.outputs, PAIRS);
        let outputs = run.outputs.clone();
        let ran = run.go();
        swapped += spinner.stop();
        let changes = canary.changes();
        assert!(changes.is_empty(), "after {rounds} runs: {changes:#?}: {ran:?}");
        fs::remove_dir_all(outputs).unwrap();
    }
    attack.tried(rounds, Some(swapped));
    assert!(swapped > 0, "nothing was exchanged");
}

/// Members of the group may link to a file that they may write (proc(5), `protected_hardlinks`).
fn notes(attack: &Attack, at: &Path, _: usize) {
    fs::hard_link(attack.shared("theirs/notes.txt"), at).unwrap();
}

#[test]
fn a_file_of_anothers_exchanged_for_ones_own_while_outputs_are_collected_stays_theirs() {
    exchanged(&|at| fs::write(at, "own").unwrap(), &notes);
}

#[test]
fn a_link_exchanged_for_anothers_file_while_outputs_are_collected_gives_nothing_away() {
    exchanged(&|at| symlink("/etc/passwd", at).unwrap(), &notes);
}

#[test]
fn a_directory_exchanged_for_anothers_while_outputs_are_collected_gives_nothing_away() {
    // Anothers' directories lie there already: that they may be moved is all that the attack needs.
    exchanged(&|at| fs::create_dir(at).unwrap(), &|attack, at, n| {
        fs::create_dir(at).unwrap();
        fs::hard_link(attack.shared("theirs/notes.txt"), at.join(format!("notes{n}"))).unwrap();
        chown(at, Some(OTHER_ID), Some(46004)).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o770)).unwrap();
    });
}

#[test]
fn scratch_is_emptied_of_what_is_its_researchers_while_names_in_it_are_exchanged() {
    let Some(attack) = Attack::new() else { return };
    let theirs = attack.movable("theirs");
    let canary = attack.canary();
    let began = Instant::now();
    let limit = Duration::from_secs(8) * u32::try_from(attack.rounds() / 100).unwrap();
    let mut rounds = 0;
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let run = attack.start(&[], "mkdir -p /scratch/a/b/c /scratch/d; : > /scratch/a/b/f; chmod 0 /scratch/a/b");
        let scratch = attack.home(&format!("scratch_{}", run.id));
        let inodes = ["", "notes.txt", "below", "below/deep.txt"]
            .map(|name| (fs::metadata(theirs.join(name)).unwrap().ino(), name));
        let swappers = [
            attack.swapper(&scratch.join("a"), &theirs),
            attack.swapper(&scratch.join("d"), &theirs.join("below")),
            attack.swapper(&scratch, &theirs),
        ];
        let ran = run.go();
        drop(swappers);
        // Wherever they are now: they are as they were.
        for (inode, name) in &inodes {
            let find = ["-inum", &inode.to_string(), "-uid", &OTHER_ID.to_string()];
            let tops = [attack.home(""), attack.shared("")];
            let found = Command::new("find").args(tops).args(find).output().unwrap();
            assert!(!found.stdout.is_empty(), "{name} of another's is gone, or no longer theirs: {ran:?}");
        }
        fs::remove_dir_all(&scratch).ok();
        fs::remove_dir_all(&theirs).ok();
        attack.movable("theirs");
    }
    attack.tried(rounds, None);
    canary.is_unchanged();
}
