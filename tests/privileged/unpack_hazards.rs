//! Hostile layers: nothing beside the layer's directory changes, and what is refused leaves nothing behind.
//!
//! Each [`Site`] has a canary beside its layers; `refuse` and `kept` check it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ces::host::idmap::FOREIGN_BASE;

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar, gzip, report};

/// Unpacks one layer that is fine; gives its tree.
#[track_caller]
fn kept(site: &Site, archive: Tar) -> PathBuf {
    let trees = site.unpack(&[archive]).unwrap_or_else(|e| panic!("{}", e.report()));
    site.assert_canary_unharmed();
    site.assert_no_leftovers();
    trees[0].clone()
}

/// A tree in a store that lives as long as it.
struct Alone(PathBuf, #[allow(dead_code, reason = "kept for its directory")] Site);

impl std::ops::Deref for Alone {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// As [`kept`], in a store of its own.
#[track_caller]
fn alone(archive: Tar) -> Alone {
    let site = Site::new();
    Alone(kept(&site, archive), site)
}

#[track_caller]
fn refused(archive: Tar, why: &str) {
    let report = Site::new().refuse(&[archive]);
    assert!(report.contains(why), "not \"{why}\":\n{report}");
    assert!(report.contains("layer 1 of 1 of localhost/test:latest"), "{report}");
}

fn empty() -> Tar {
    Tar::default()
}

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
    assert_eq!((b.mode() & 0o7777, b.uid(), b.mtime(), b.nlink()), (0o644, FOREIGN_BASE, 1_000_000_000, 2));
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
    let gid = |name: &str| fs::metadata(tree.join(name)).unwrap().gid() - FOREIGN_BASE;
    assert_eq!((gid("g"), gid("g/f"), gid("g/d")), (50, 0, 0));
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

// A30
#[test]
fn pax_headers_win_and_malformed_ones_are_refused() {
    let archive = empty()
        .pax(&[("path", b"long/name"), ("mtime", b"1234.75"), ("uid", b"77"), ("gid", b"78")])
        .file("short", b"x")
        .pax(&[("linkpath", b"target")])
        .symlink("l", "other");
    let tree = alone(archive);
    let file = fs::metadata(tree.join("long/name")).unwrap();
    assert_eq!((file.mtime(), file.mtime_nsec()), (1234, 750_000_000));
    assert_eq!((file.uid(), file.gid()), (FOREIGN_BASE + 77, FOREIGN_BASE + 78));
    assert_eq!(fs::read_link(tree.join("l")).unwrap().to_str(), Some("target"));
    let bodies: [&[u8]; 8] = [
        b"x path=a\n",
        b"99 path=a\n",
        b"9 path=a",
        b"10 path=a\nx",
        b"5 =a\n",
        b"0 path=a\n",
        b"12 size=-17\n",
        b"12 path=a\0bc\n",
    ];
    for body in bodies {
        refused(empty().raw(b"h", b'x', body, |_| {}).file("f", b"x"), "pax header is malformed");
    }
}

#[test]
fn the_size_in_a_pax_header_is_the_size_of_the_data() {
    let archive = empty().pax(&[("size", b"5")]).raw(b"f", b'0', b"12345", |h| h.set_size(0)).file("g", b"y");
    let tree = alone(archive);
    assert_eq!(fs::read(tree.join("f")).unwrap(), b"12345");
    assert_eq!(fs::read(tree.join("g")).unwrap(), b"y");
}

// A31
#[test]
fn a_long_name_without_end_is_refused_before_it_is_read() {
    for kind in [b'L', b'K', b'x', b'g'] {
        refused(empty().raw(b"h", kind, b"", |h| h.set_size(8 << 30)), "extended header of");
    }
}

// A32
#[test]
fn sparse_files_are_refused_by_name() {
    refused(empty().raw(b"s", b'S', b"", |_| {}), "sparse");
    refused(
        empty().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.name", b"x")]).file("GNUSparseFile.0/x", b""),
        "sparse",
    );
}

// A33
#[test]
fn names_are_bytes_and_messages_are_harmless() {
    let odd: &[u8] = b"caf\xe9 \\ \x1b]52;c;aGk=\x07\n";
    let tree = alone(empty().raw(odd, b'0', b"x", |_| {}));
    let name = fs::read_dir(&*tree).unwrap().next().unwrap().unwrap().file_name();
    assert_eq!(name.as_bytes(), odd);
    let hostile = [b"../".as_slice(), odd].concat();
    let report = Site::new().refuse(&[empty().raw(&hostile, b'0', b"x", |_| {})]);
    assert!(report.contains("caf\\xe9") && !report.contains('\x1b'), "{report}");
    let long = vec![b'n'; 256];
    refused(empty().pax(&[("path", &long)]).file("f", b""), "more than 255 bytes");
    let long = "d/".repeat(3000);
    refused(empty().pax(&[("path", long.as_bytes())]).file("f", b""), "a path of");
    let long = vec![b'n'; 255];
    alone(empty().pax(&[("path", &long)]).file("f", b""));
}

// A34
#[test]
fn an_entry_without_a_name_or_a_link_to_nothing_is_refused() {
    refused(empty().file("", b"x"), "no name");
    refused(empty().symlink("l", ""), "link to nothing");
}

// A35
#[test]
fn times_outside_what_file_systems_hold_become_1970() {
    let values: [&[u8]; 4] = [b"-5", b"99999999999999999999", b"9223372037", b"-0.5"];
    for time in values {
        let tree = alone(empty().pax(&[("mtime", time)]).file("f", b""));
        assert_eq!(fs::metadata(tree.join("f")).unwrap().mtime(), 0);
    }
    refused(empty().pax(&[("mtime", b"NaN")]).file("f", b""), "pax header is malformed");
}

// A36
#[test]
fn owners_that_cannot_exist_are_refused() {
    for uid in ["4294967295", "4294967296", "65536", "18446744073709551615"] {
        refused(empty().pax(&[("uid", uid.as_bytes())]).file("f", b""), "belongs to user");
        refused(empty().pax(&[("gid", uid.as_bytes())]).file("f", b""), "belongs to group");
    }
    let negative = empty().raw(b"f", b'0', b"", |h| h.as_old_mut().uid = [0xff; 8]);
    refused(negative, "negative");
}

// A37
#[test]
fn a_mode_is_permission_bits_and_no_more() {
    let tree = alone(empty().raw(b"f", b'0', b"", |h| h.set_mode(0o60_640)));
    assert_eq!(fs::symlink_metadata(tree.join("f")).unwrap().mode(), 0o100_640);
}

// A38
#[test]
fn directories_that_forbid_writing_still_get_their_entries() {
    let archive = empty()
        .raw(b"d/", b'5', b"", |h| h.set_mode(0))
        .raw(b"d/e/", b'5', b"", |h| {
            h.set_mode(0o555);
            h.set_uid(1000);
        })
        .file("d/e/f", b"x");
    let tree = alone(archive);
    assert_eq!(fs::metadata(tree.join("d")).unwrap().mode() & 0o7777, 0);
    assert_eq!(fs::metadata(tree.join("d/e")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(tree.join("d/e/f")).unwrap(), b"x");
}

// A39
#[test]
fn entries_and_depth_are_limited() {
    let mut site = Site::new();
    site.limits.entries = 10;
    let many = (0..11).fold(empty(), |tar, n| tar.file(&format!("f{n}"), b""));
    assert!(site.refuse(&[many]).contains("more than 10 entries"));
    let deep = "d/".repeat(257);
    refused(empty().pax(&[("path", deep.as_bytes())]).dir("x"), "nested more than 256 deep");
    // Links make a tree deeper than any name in it.
    let arm = vec!["d"; 200].join("/");
    let through = empty().pax(&[("path", format!("{arm}/f").as_bytes())]).file("f", b"");
    let through = through.pax(&[("linkpath", arm.as_bytes())]).symlink("l", "x");
    let through = through.pax(&[("path", format!("l/{arm}/f").as_bytes())]).file("f", b"");
    refused(through, "nested more than 256 deep");
}

// A40
#[test]
fn a_layer_that_expands_without_measure_is_refused() {
    let mut site = Site::new();
    site.limits.layer_bytes = 1 << 20;
    let zeros = vec![0; 2 << 20];
    assert!(site.refuse(&[empty().file("zeros", &zeros)]).contains("expands to more than 1048576 bytes"));
    // Bytes after the end of the archive count as well.
    let mut trailing = empty().file("f", b"x").end();
    trailing.extend_from_slice(&zeros);
    let error = site.pull(&LayoutDir::of(&[Layer::new(&trailing, Pack::Gzip)])).unwrap_err();
    assert!(report(&error).contains("expands to more than 1048576 bytes"));
    site.assert_no_leftovers();
    let mut site = Site::new();
    site.limits.ratio_from = 1 << 20;
    site.limits.ratio = 50;
    let error = site.pull(&LayoutDir::of(&[Layer::new(&empty().file("zeros", &zeros).end(), Pack::Gzip)])).unwrap_err();
    assert!(report(&error).contains("more than 50 times"), "{}", report(&error));
    let mut site = Site::new();
    site.limits.image_bytes = 3 << 20;
    let error = site.unpack(&[empty().file("a", &zeros), empty().file("b", &zeros)]).unwrap_err();
    assert!(report(&error).contains("the image expands to more than"), "{}", report(&error));
}

// A41
#[test]
fn an_archive_that_ends_anywhere_but_between_entries_is_refused() {
    let whole = empty().dir("d/").file("d/f", &[7; 1500]).pax(&[("path", b"g")]).file("x", b"y").0;
    let between = [0, 512, 512 * 5, 512 * 9];
    for cut in (0..whole.len()).step_by(256) {
        let site = Site::new();
        let pulled = site.pull(&LayoutDir::of(&[Layer::new(&whole[..cut], Pack::Plain)]));
        assert_eq!(pulled.is_ok(), between.contains(&cut), "cut at {cut}");
        site.assert_no_leftovers();
    }
    refused(empty().file("a", b"x").raw(b"b", b'0', b"", |h| h.set_size(9999)), "ends in the middle");
    let mut lone = empty().file("a", b"x");
    lone.0.extend_from_slice(&[0; 512]);
    refused(lone.file("b", b"x"), "single block of zeros");
    let mut sum = empty().file("a", b"x").0;
    sum[5] ^= 1;
    refused(Tar(sum), "checksum");
}

// A42, A43
#[test]
fn all_members_and_frames_of_a_blob_count_and_garbage_behind_them_is_refused() {
    let archive = empty().file("a", b"1").file("b", &[5; 5000]).end();
    let (one, two) = archive.split_at(700);
    let frame = |part: &[u8]| zstd::stream::encode_all(part, 1).unwrap();
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let gzipped = [gzip(one), gzip(b""), gzip(two)].concat();
    let good = [
        (gzipped.clone(), Pack::Gzip),
        ([gzipped.clone(), vec![0; 3000]].concat(), Pack::Gzip),
        ([&skippable, frame(one).as_slice(), &skippable, &frame(two)].concat(), Pack::Zstd),
    ];
    for (blob, pack) in good {
        let site = Site::new();
        let layer = Layer { blob, ..Layer::new(&archive, pack) };
        let image = site.pull(&LayoutDir::of(&[layer])).unwrap();
        assert_eq!(fs::read(image.layers()[0].path().join("b")).unwrap(), [5; 5000]);
    }
    let bad = [
        ([gzipped.as_slice(), b"garbage"].concat(), Pack::Gzip),
        ([gzipped.as_slice(), &[0; 10], b"x"].concat(), Pack::Gzip),
        (gzipped[..gzipped.len() - 4].to_vec(), Pack::Gzip),
        ([frame(one).as_slice(), b"garbage"].concat(), Pack::Zstd),
        (frame(&archive)[..20].to_vec(), Pack::Zstd),
    ];
    for (blob, pack) in bad {
        let site = Site::new();
        let layer = Layer { blob, ..Layer::new(&archive, pack) };
        let error = site.pull(&LayoutDir::of(&[layer])).unwrap_err();
        assert!(report(&error).contains("refused layer 1 of 1"), "{}", report(&error));
        site.assert_no_leftovers();
    }
}

#[test]
fn a_zstd_frame_that_asks_for_too_much_memory_is_refused() {
    use std::io::Write;
    let archive = empty().file("a", &vec![1; 100_000]).end();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&archive).unwrap();
    let layer = Layer { blob: encoder.finish().unwrap(), ..Layer::new(&archive, Pack::Zstd) };
    let error = Site::new().pull(&LayoutDir::of(&[layer])).unwrap_err();
    assert!(report(&error).contains("cannot be decompressed"), "{}", report(&error));
}

// A44, A45
#[test]
fn a_blob_packed_otherwise_than_declared_is_refused() {
    let archive = empty().file("a", b"1").end();
    for (declared, real) in
        [(Pack::Gzip, Pack::Plain), (Pack::Gzip, Pack::Zstd), (Pack::Plain, Pack::Gzip), (Pack::Zstd, Pack::Gzip)]
    {
        let layer = Layer { blob: Layer::new(&archive, real).blob, ..Layer::new(&archive, declared) };
        let error = Site::new().pull(&LayoutDir::of(&[layer])).unwrap_err();
        assert!(report(&error).contains("declared as"), "{}", report(&error));
    }
    let starts: [&[u8]; 2] = [b"BZh91AY&SY", b"\xfd7zXZ\0\0"];
    for start in starts {
        let layer = Layer { blob: start.to_vec(), ..Layer::new(&archive, Pack::Plain) };
        assert!(
            report(&Site::new().pull(&LayoutDir::of(&[layer])).unwrap_err())
                .contains("declared as no known compression")
        );
    }
    let mut layer = Layer::new(&archive, Pack::Plain);
    layer.media_type = "application/vnd.oci.image.layer.v1.tar+bzip2";
    assert!(report(&Site::new().pull(&LayoutDir::of(&[layer])).unwrap_err()).contains("does not unpack"));
}

#[test]
fn a_layer_with_another_diff_id_than_the_configuration_says_is_refused() {
    let layer = Layer {
        blob: gzip(&empty().file("a", b"evil").end()),
        ..Layer::new(&empty().file("a", b"good").end(), Pack::Gzip)
    };
    let site = Site::new();
    let error = site.pull(&LayoutDir::of(&[layer])).unwrap_err();
    assert!(report(&error).contains("its uncompressed digest is"), "{}", report(&error));
    site.assert_no_leftovers();
    site.assert_canary_unharmed();
}

#[test]
fn a_layout_whose_blob_is_a_link_or_a_pipe_is_refused() {
    let layer = Layer::new(&empty().file("a", b"1").end(), Pack::Plain);
    let path = |layout: &LayoutDir| layout.path().join("blobs/sha256").join(layer.diff_id.hex());
    let layout = LayoutDir::of(std::slice::from_ref(&layer));
    fs::rename(path(&layout), layout.path().join("elsewhere")).unwrap();
    symlink(layout.path().join("elsewhere"), path(&layout)).unwrap();
    assert!(report(&Site::new().pull(&layout).unwrap_err()).contains("symbolic link"));
    let layout = LayoutDir::of(std::slice::from_ref(&layer));
    fs::remove_file(path(&layout)).unwrap();
    nix::unistd::mkfifo(&path(&layout), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(report(&Site::new().pull(&layout).unwrap_err()).contains("not a regular file"));
}

#[test]
fn the_unpacking_process_has_no_network_no_privileges_and_one_place_to_write() {
    // Seen from outside while it waits for the rest of its layer.
    let site = Site::new();
    let archive = empty().file("f", &vec![3; 4 << 20]).end();
    let seen = std::sync::Mutex::new(String::new());
    let origin = Watching { archive: archive.clone(), seen: &seen };
    site.pull_from(&origin, "localhost/test:latest").unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.contains("NoNewPrivs:\t1"), "{seen}");
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, and those inside a user namespace alone.
    assert!(seen.contains("CapEff:\t000000000000001f"), "{seen}");
    assert!(seen.contains(&format!("uid_map: 0 {FOREIGN_BASE} 65536")), "{seen}");
    assert!(seen.contains("other net, other mnt, other user"), "{seen}");
    assert!(seen.contains("/fs\n"), "its root directory is not the layer: {seen}");
    let permissions = fs::metadata(site.directory.path().join("store")).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o700);
}

/// An origin of one plain layer that looks at its child when half of the layer is written.
struct Watching<'a> {
    archive: Vec<u8>,
    seen: &'a std::sync::Mutex<String>,
}

impl ces::image::source::Origin for Watching<'_> {
    fn manifest(
        &self,
        platform: &ces::image::document::Platform,
    ) -> ces::error::Result<ces::image::document::Manifest> {
        let layout = LayoutDir::of(&[Layer::new(&self.archive, Pack::Plain)]);
        ces::image::source::layout::Layout::directory(layout.path(), None).manifest(platform)
    }

    fn blob(
        &self,
        descriptor: &ces::image::document::Descriptor,
        sink: &mut ces::image::source::Sink<'_>,
    ) -> ces::error::Result<()> {
        let layout = LayoutDir::of(&[Layer::new(&self.archive, Pack::Plain)]);
        let bytes = fs::read(layout.path().join("blobs/sha256").join(descriptor.digest.hex())).unwrap();
        if descriptor.size < 1 << 20 {
            return sink(&bytes);
        }
        let (first, second) = bytes.split_at(bytes.len() / 2);
        sink(first)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
        *self.seen.lock().unwrap() = look_at_child();
        sink(second)
    }
}

fn look_at_child() -> String {
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let children = fs::read_dir("/proc/self/task").unwrap().flat_map(|task| {
        let list = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let child = children.last().expect("a child is at work");
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let map = fs::read_to_string(format!("/proc/{child}/uid_map")).unwrap();
    let map = map.split_whitespace().collect::<Vec<_>>().join(" ");
    let others: Vec<String> = ["net", "mnt", "user"]
        .iter()
        .filter(|kind| fs::read_link(format!("/proc/{child}/ns/{kind}")).unwrap() != own(kind))
        .map(|kind| format!("other {kind}"))
        .collect();
    let root = fs::read_link(format!("/proc/{child}/root")).unwrap();
    format!("{status}\nuid_map: {map}\n{}\n{}\n", others.join(", "), root.display())
}

// A31, A40
#[test]
fn memory_and_disk_stay_bounded_whatever_a_layer_expands_to() {
    use nix::sys::resource::{UsageWho, getrusage};
    // 10 GiB of zeros in 10 MB: one gzip member of 16 MiB, 640 times over.
    let header = empty().raw(b"zeros", b'0', b"", |h| h.set_size(10 << 30)).0;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![0; 16 << 20]).unwrap();
    let blob = [gzip(&header), encoder.finish().unwrap().repeat(640)].concat();
    let layer = Layer { blob, ..Layer::new(b"", Pack::Gzip) };
    let mut site = Site::new();
    let error = site.pull(&LayoutDir::of(std::slice::from_ref(&layer))).unwrap_err();
    assert!(report(&error).contains("more than 200 times its"), "{}", report(&error));
    site.limits.layer_bytes = 100 << 20;
    let error = site.pull(&LayoutDir::of(&[layer])).unwrap_err();
    assert!(report(&error).contains("more than 104857600 bytes"), "{}", report(&error));
    // Much of it in the form of headers.
    let mut headers = empty();
    for n in 0..64 {
        headers = headers.pax(&[("comment", &vec![b'c'; 1 << 19])]).file(&format!("f{n}"), b"");
    }
    site.limits = ces::image::unpack::Limits::default();
    site.pull(&LayoutDir::of(&[Layer::new(&headers.end(), Pack::Zstd)])).unwrap();
    site.assert_canary_unharmed();
    site.assert_no_leftovers();
    // The largest child; the test itself holds the archives in memory.
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    assert!(peak < 64 << 10, "an unpacking process used {peak} KiB");
}
