//! Hostile layers: nothing beside the layer's directory changes, and what is refused leaves nothing behind.
//!
//! Each [`Site`] has a canary beside its layers; `refuse` and `kept` check it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::image_support::{Site, Tar, alone, empty, kept, on_disk, refused};

/// The path of the canary as links in an image might name it.
fn victim(site: &Site) -> String {
    site.directory.path().join("store/canary/victim").display().to_string()
}

// A1
#[test]
fn a_name_that_leaves_the_root_is_refused_and_named() {
    for name in ["../x", "../../x", "..", "a/../../x", "/../x", "/./.././x", "data/../../etc/cron.d/x"] {
        refused(empty().file(name, b"x"), "leaves the image root");
        refused(empty().file(name, b"x"), &format!("\"{name}\""));
    }
}

// A2
#[test]
fn absolute_and_odd_names_are_taken_from_the_root() {
    for name in ["/etc/x", "//etc/x", "./etc/x", "/./etc//./x", "etc/y/../x"] {
        let tree = alone(empty().file(name, b"x"));
        assert_eq!(fs::read(tree.join("etc/x")).unwrap(), b"x", "{name}");
    }
}

// A3
#[test]
fn the_root_stays_a_directory() {
    for name in [".", "/", "./", "a/.."] {
        refused(empty().symlink(name, "/tmp"), "root");
        refused(empty().file(name, b"x"), "root");
    }
    refused(empty().hardlink(".", "x"), "root");
    let tree = alone(empty().raw(b"./", b'5', b"", |h| h.set_mode(0o555)).file("a", b"x"));
    let root = fs::metadata(&*tree).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o555, 1_000_000_000));
}

// A4, A5
#[test]
fn a_link_leads_within_the_root_whatever_it_says() {
    let site = Site::new();
    let outside = victim(&site);
    let directory = outside.strip_suffix("/victim").unwrap();
    let up = "../".repeat(9);
    for target in [directory.to_owned(), format!("{up}{}", &directory[1..])] {
        let tree = kept(&site, empty().symlink("l", &target).file("l/victim", b"changed"));
        assert_eq!(fs::read(tree.join(&outside[1..])).unwrap(), b"changed");
        site.store().remove("localhost/test:latest", &site.unpacker()).unwrap();
    }
    let hops = empty()
        .dir("inner/")
        .symlink("inner/go_up", "..")
        .symlink("inner/go_up/escape", "../victim")
        .file("inner/go_up/escape/file", b"x");
    let tree = kept(&site, hops);
    assert_eq!(fs::read(tree.join("victim/file")).unwrap(), b"x");
}

// A6: the tree's directory is called `fs`.
#[test]
fn a_directory_whose_name_begins_as_the_roots_is_outside() {
    for name in ["../fs-evil/x", "../fsx", "a/../../fs-evil/x"] {
        refused(empty().file(name, b"x"), "leaves the image root");
    }
    let tree = alone(empty().symlink("l", "../fs-evil").file("l/x", b"x"));
    assert_eq!(fs::read(tree.join("fs-evil/x")).unwrap(), b"x");
    assert!(!tree.parent().unwrap().join("fs-evil").exists());
}

#[test]
fn links_in_a_circle_are_refused() {
    refused(empty().symlink("a", "b").symlink("b", "a").file("a/x", b"x"), "circle");
}

// A7
#[test]
fn a_hard_link_names_nothing_outside() {
    let site = Site::new();
    let outside = victim(&site);
    let report = site.refuse(&[empty().hardlink("l", &format!("../../{outside}"))]);
    assert!(report.contains("leaves the image root"), "{report}");
    for target in [outside.clone(), format!("/{outside}")] {
        let report = site.refuse(&[empty().hardlink("l", &target)]);
        assert!(report.contains("which is not there"), "{report}");
    }
    let through = empty().symlink("d", outside.strip_suffix("/victim").unwrap()).hardlink("l", "d/victim");
    assert!(site.refuse(&[through]).contains("which is not there"));
    assert_eq!(fs::metadata(outside).unwrap().nlink(), 1);
}

#[test]
fn a_hard_link_by_an_absolute_name_or_through_a_link_works_within_the_root() {
    let archive = empty().dir("d/").file("d/f", b"x").symlink("s", "/d").hardlink("a", "/d/f").hardlink("b", "s/f");
    let tree = alone(archive);
    let inode = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("b")), (inode("d/f"), inode("d/f")));
}

// A8
#[test]
fn a_hard_link_to_a_link_is_that_link() {
    let site = Site::new();
    let outside = victim(&site);
    let archive = empty().symlink("s", &outside).raw(b"l", b'1', b"", |h| {
        h.as_old_mut().linkname[0] = b's';
        h.set_mode(0o4777);
        h.set_uid(5);
    });
    let tree = kept(&site, archive);
    assert!(fs::symlink_metadata(tree.join("l")).unwrap().is_symlink());
}

// A9
#[test]
fn a_hard_link_to_what_comes_later_is_refused() {
    refused(empty().hardlink("a", "b").file("b", b"x"), "which is not there");
    refused(empty().dir("d/").hardlink("a", "d"), "directory");
    refused(empty().hardlink("a", ""), "hard link to the root directory, or to nothing");
}

// A10
#[test]
fn a_hard_link_has_no_content_and_no_metadata_of_its_own() {
    let archive = empty().file("a", b"content").raw(b"b", b'1', b"", |h| {
        h.as_old_mut().linkname[0] = b'a';
        h.set_size(1);
        h.set_mode(0o777);
        h.set_uid(9);
        h.set_mtime(5);
    });
    let tree = alone(archive.file("c", b"next"));
    let b = fs::metadata(tree.join("b")).unwrap();
    assert_eq!((b.mode() & 0o7777, b.uid(), b.mtime(), b.nlink()), (0o644, on_disk(0, 0).0, 1_000_000_000, 2));
    assert_eq!(fs::read(tree.join("b")).unwrap(), b"content");
    assert_eq!(fs::read(tree.join("c")).unwrap(), b"next");
}

// A11
#[test]
fn a_directory_replaced_by_a_link_is_not_what_the_link_names() {
    let site = Site::new();
    let directory = victim(&site).strip_suffix("/victim").unwrap().to_owned();
    let archive = empty().dir("d/").file("d/old", b"x").symlink("d", &directory).file("d/victim", b"changed");
    let tree = kept(&site, archive);
    assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_symlink());
    assert_eq!(fs::read(tree.join(&directory[1..]).join("victim")).unwrap(), b"changed");
    let tree = alone(empty().file("f", b"x").file("f/below", b"y"));
    assert_eq!(fs::read(tree.join("f/below")).unwrap(), b"y");
}

// A12
#[test]
fn a_directory_entry_replaces_a_link_and_spares_its_target() {
    let site = Site::new();
    let directory = victim(&site).strip_suffix("/victim").unwrap().to_owned();
    let archive = empty().symlink("d", &directory).raw(b"d/", b'5', b"", |h| h.set_mode(0o777)).file("d/x", b"x");
    let tree = kept(&site, archive);
    assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_dir());
    assert_eq!(fs::read(tree.join("d/x")).unwrap(), b"x");
}

// A13
#[test]
fn of_two_entries_with_one_name_the_last_counts_and_other_links_keep_their_bytes() {
    let archive =
        empty().file("a", b"first").hardlink("b", "a").file("a", b"second").symlink("s", "b").file("s", b"own");
    let tree = alone(archive);
    let read = |name: &str| fs::read(tree.join(name)).unwrap();
    assert_eq!((read("a"), read("b"), read("s")), (b"second".to_vec(), b"first".to_vec(), b"own".to_vec()));
    let archive = empty().dir("d/").file("d/x", b"x").file("d", b"file").dir("e/").file("e/x", b"x").dir("e/");
    let tree = alone(archive);
    assert!(tree.join("d").is_file() && tree.join("e/x").is_file());
}

// A14
#[test]
fn a_whiteout_of_nothing_is_refused() {
    for name in [".wh.", ".wh..", ".wh...", "dir/.wh.", "dir/.wh..", "dir/.wh..."] {
        refused(empty().file(name, b""), "whiteout that names nothing");
    }
}

// A17
#[test]
fn a_whiteout_through_a_link_stays_in_the_root() {
    let site = Site::new();
    let directory = victim(&site).strip_suffix("/victim").unwrap().to_owned();
    let tree = kept(&site, empty().symlink("d", &directory).file("d/.wh.victim", b""));
    assert!(fs::symlink_metadata(tree.join(&directory[1..]).join("victim")).unwrap().file_type().is_char_device());
}

// A18, A19
#[test]
fn a_directory_that_looks_like_a_whiteout_is_a_directory_and_builders_files_are_left_out() {
    let archive = empty().file(".wh.name/child", b"x").file(".wh..wh.plnk/1.2", b"x").file(".wh..wh.aufs", b"");
    let tree = alone(archive);
    let names: Vec<_> = fs::read_dir(&*tree).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".wh.name"]);
}

// A20
#[test]
fn a_whiteout_leaves_its_directorys_time_alone() {
    let archive =
        empty().raw(b"d/", b'5', b"", |h| h.set_mtime(99)).file("d/.wh.x", b"").file("e", b"").file("d/.wh.y", b"");
    assert_eq!(fs::metadata(alone(archive).join("d")).unwrap().mtime(), 99);
}

// A21, A22
#[test]
fn devices_are_left_out_and_counted() {
    let device = |tar: Tar, name: &str, kind: u8, major: u32, minor: u32| {
        tar.raw(name.as_bytes(), kind, b"", |h| {
            h.set_device_major(major).unwrap();
            h.set_device_minor(minor).unwrap();
        })
    };
    let archive = device(empty().file("f", b"x"), "null", b'3', 1, 3);
    let archive = device(device(archive, "sda", b'4', 8, 0), "whiteout", b'3', 0, 0);
    let site = Site::new();
    let tree = kept(&site, archive);
    assert_eq!(fs::read_dir(&*tree).unwrap().count(), 1);
    let image = site.store().find("localhost/test:latest").unwrap();
    assert_eq!(image.layers()[0].record().omitted.devices, 3);
    let large = empty().raw(b"d", b'3', b"", |h| h.as_ustar_mut().unwrap().dev_major = [0x80, 1, 0, 0, 0, 0, 0, 0]);
    refused(large, "device number is too large");
}

// A23
#[test]
fn pipes_are_made_and_never_opened_and_unknown_types_are_refused() {
    let tree = alone(empty().raw(b"p", b'6', b"", |h| h.set_mode(0o622)));
    let pipe = fs::symlink_metadata(tree.join("p")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.mode() & 0o7777, 0o622);
    for kind in [b'V', b'M', b'D', b'N', b'Z'] {
        refused(empty().raw(b"x", kind, b"", |_| {}), "unknown type");
    }
    let tree = alone(empty().raw(b"c", b'7', b"contiguous", |_| {}));
    assert_eq!(fs::read(tree.join("c")).unwrap(), b"contiguous");
    let global = empty().raw(b"g", b'g', b"16 path=../evil\n", |_| {}).file("f", b"x");
    assert_eq!(fs::read(alone(global).join("f")).unwrap(), b"x");
}

// A24
#[test]
fn files_lose_their_set_id_bits_and_directories_keep_the_sticky_bit() {
    let archive = empty()
        .raw(b"su", b'0', b"x", |h| {
            h.set_mode(0o6755);
            h.set_uid(1);
        })
        .raw(b"t/", b'5', b"", |h| h.set_mode(0o1777))
        .raw(b"g/", b'5', b"", |h| {
            h.set_mode(0o2775);
            h.set_gid(50);
        })
        .file("g/f", b"x")
        .dir("g/d/");
    let site = Site::new();
    let tree = kept(&site, archive);
    let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("su"), mode("t"), mode("g"), mode("g/d")), (0o755, 0o1777, 0o2775, 0o755));
    let gid = |name: &str| fs::metadata(tree.join(name)).unwrap().gid();
    let (users, root) = (on_disk(0, 50).1, on_disk(0, 0).1);
    assert_eq!((gid("g"), gid("g/f"), gid("g/d")), (users, root, root));
    assert_eq!(site.store().find("localhost/test:latest").unwrap().layers()[0].record().omitted.set_id_bits, 1);
}

// A25, A26, A27, A28
#[test]
fn only_the_users_own_attributes_are_kept() {
    let archive = empty()
        .pax(&[
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.security.capability", b"\x01\x00\x00\x02"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:0755"),
            ("SCHILY.xattr.user.rootlesscontainers", b"x"),
            ("SCHILY.xattr.system.posix_acl_access", b"x"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .dir("d/");
    let tree = alone(archive);
    let output = std::process::Command::new("python3")
        .args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]), os.getxattr(sys.argv[1], 'user.note'))"])
        .arg(tree.join("d"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "['user.note'] b'kept'");
}

// A29
#[test]
fn attributes_are_limited_in_size_and_no_trouble_where_they_cannot_be() {
    let long = vec![b'x'; 70_000];
    refused(empty().pax(&[("SCHILY.xattr.user.a", &long)]).file("f", b""), "extended attributes of more than");
    alone(empty().pax(&[("SCHILY.xattr.user.a", b"1")]).symlink("l", "x"));
}
