//! Ordinary users, with subordinate ids and without, unpack as root does; each in a process of its own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;

use ces::host::idmap::IdMap;
use nix::unistd::User;

use crate::image_support::{Again, Site, Tar};

#[track_caller]
fn run_as(user: &User) {
    let again = Again::new();
    let output = again
        .command("unpack_as_user::what_a_user_gets")
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_user_without_subordinate_ids_owns_everything() {
    run_as(&User::from_name("nobody").unwrap().unwrap());
}

#[test]
fn a_user_with_subordinate_ids_gets_the_images_owners() {
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let user = subuid.lines().filter_map(|line| User::from_name(line.split(':').next()?).ok()?).next();
    match user {
        Some(user) => run_as(&user),
        None if std::env::var_os("CES_MUST_RUN").is_some() => panic!("nobody has subordinate ids (/etc/subuid)"),
        None => eprintln!("skipped: nobody has subordinate ids (/etc/subuid)"),
    }
}

#[test]
#[ignore = "run by the tests above, as another user"]
fn what_a_user_gets() {
    let site = Site::new();
    let ids = IdMap::on_disk(&site.caller).unwrap();
    assert!(!site.caller.is_privileged());
    let outside = site.directory.path().join("store/canary").display().to_string();
    let archive = Tar::default()
        .raw(b"d/", b'5', b"", |h| {
            h.set_mode(0);
            h.set_uid(5);
            h.set_gid(6);
        })
        .raw(b"d/f", b'0', b"x", |h| {
            h.set_mode(0o4711);
            h.set_uid(7);
            h.set_gid(8);
        })
        .symlink("out", &outside)
        .file("out/victim", b"changed")
        .file("d/.wh.gone", b"");
    let trees = site.unpack(&[archive]).unwrap_or_else(|e| panic!("{}", e.report()));
    site.assert_canary_unharmed();
    let directory = fs::symlink_metadata(trees[0].join("d")).unwrap();
    let expected = |uid, gid| (ids.uid_outside(uid).unwrap(), ids.gid_outside(gid).unwrap());
    if ids.is_single() {
        assert_eq!((directory.uid(), directory.gid()), expected(0, 0));
        assert_eq!(directory.mode() & 0o7777, 0o700);
        let file = fs::symlink_metadata(trees[0].join("d/f")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (directory.uid(), directory.gid(), 0o711));
    } else {
        assert_eq!((directory.uid(), directory.gid()), expected(5, 6));
        assert_eq!(directory.mode() & 0o7777, 0);
    }
    let report = site.refuse(&[Tar::default().file("../x", b"")]);
    assert!(report.contains("leaves the image root"), "{report}");
    site.store().remove("localhost/test", &site.unpacker()).unwrap();
    site.assert_no_leftovers();
    site.assert_canary_unharmed();
}
