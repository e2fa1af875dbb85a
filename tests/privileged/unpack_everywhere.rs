//! The hazards again: for an ordinary user, on tmpfs, on ext4.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, statfs};
use nix::unistd::User;

use crate::image_support::Again;

/// Files of tests that hold for anyone, anywhere.
const FOR_ALL: [&str; 4] = ["unpack_hazards::", "unpack_archive::", "unpack_bounds::", "unpack_confined::"];
/// Those that look at layers through overlayfs, which takes root here.
const FOR_ROOT: [&str; 1] = ["unpack_in_turn::"];

/// All tests of these files, with their stores below `place`; every one has to run.
#[track_caller]
fn again(place: &Path, user: Option<&User>, files: &[&str]) {
    let again = Again::new();
    let scratch = tempfile::tempdir_in(place).unwrap();
    fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let output = |arguments: &[&str]| {
        let mut command: Command = again.binary();
        command.args(files).args(arguments).env("TMPDIR", scratch.path());
        if let Some(user) = user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let all = output(&["--list"]).lines().filter(|line| line.ends_with(": test")).count();
    assert!(all >= 10 * files.len(), "only {all} tests in {files:?}");
    // One after another: a lock that one test holds is open in the children of the others as well.
    let text = output(&["--test-threads=1"]);
    assert!(text.contains(&format!("test result: ok. {all} passed; 0 failed; 0 ignored")), "{text}");
}

fn holds(place: &Path, kind: FsType) -> bool {
    statfs(place).is_ok_and(|found| found.filesystem_type() == kind)
}

#[test]
fn every_hazard_is_one_for_an_ordinary_user_as_well() {
    let user = User::from_name("cesresearcher").unwrap();
    let user = user.expect("./scripts/setup test makes the user cesresearcher, with subordinate ids");
    again(&std::env::temp_dir(), Some(&user), &FOR_ALL);
}

#[test]
fn every_hazard_is_one_on_tmpfs() {
    let place = Path::new("/dev/shm");
    assert!(holds(place, TMPFS_MAGIC), "/dev/shm is no tmpfs here");
    again(place, None, &[FOR_ALL.as_slice(), &FOR_ROOT].concat());
}

#[test]
fn every_hazard_is_one_on_ext4() {
    // In a mount namespace of this test's own thread, where the file system vanishes with it.
    let work = tempfile::tempdir().unwrap();
    let (image, place) = (work.path().join("image"), work.path().join("mounted"));
    fs::create_dir(&place).unwrap();
    fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
        done(Command::new("mount").args(["--make-rprivate", "/"]));
        done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place));
        assert!(holds(&place, EXT4_SUPER_MAGIC));
        again(&place, None, &[FOR_ALL.as_slice(), &FOR_ROOT].concat());
    })
    .join()
    .unwrap();
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
