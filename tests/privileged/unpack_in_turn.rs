//! Layers that speak of the layers below them come out as applying all of them in turn would; seen through overlayfs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use crate::image_support::{Site, Tar};

/// Mounts the layers as a container would see them, in a mount namespace of the test's own, and runs a shell in it.
#[track_caller]
fn merged(site: &Site, layers: &[Tar], script: &str) -> String {
    let trees = site.unpack(layers).unwrap();
    let lower: Vec<String> = trees.iter().rev().map(|tree| tree.display().to_string()).collect();
    let lower = if lower.len() == 1 { format!("{}:{}", lower[0], empty(site).display()) } else { lower.join(":") };
    let mount = site.directory.path().join("merged");
    fs::create_dir_all(&mount).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-euc"])
        .arg(format!(
            "mount -t overlay overlay -o ro,userxattr,lowerdir={lower} {m}; cd {m}; {script}",
            m = mount.display()
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.assert_canary_unharmed();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn empty(site: &Site) -> PathBuf {
    let path = site.directory.path().join("empty");
    fs::create_dir_all(&path).unwrap();
    path
}

fn base() -> Tar {
    Tar::default()
        .dir("usr/")
        .raw(b"usr/lib/", b'5', b"", |h| {
            h.set_mode(0o750);
            h.set_uid(3);
            h.set_gid(4);
            h.set_mtime(77);
        })
        .file("usr/lib/old", b"old")
        .symlink("lib", "usr/lib")
        .symlink("abs", "/usr/lib")
        .dir("etc/")
        .file("etc/conf", b"base")
}

#[test]
fn a_directory_that_a_layer_only_implies_keeps_the_metadata_it_has_below() {
    let upper = Tar::default().file("usr/lib/new", b"new");
    let seen = merged(&Site::new(), &[base(), upper], "stat -c '%a %Y' usr/lib; ls usr/lib");
    assert_eq!(seen, "750 77\nnew\nold");
}

#[test]
fn a_file_below_a_link_of_a_lower_layer_lands_where_the_link_leads() {
    for link in ["lib", "abs"] {
        let upper = Tar::default().file(&format!("{link}/new"), b"new").file(&format!("{link}/deep/er"), b"deep");
        let seen = merged(
            &Site::new(),
            &[base(), upper],
            &format!("readlink {link}; cat usr/lib/new usr/lib/deep/er; stat -c '%a %Y' usr/lib; ls -A usr"),
        );
        let target = if link == "lib" { "usr/lib" } else { "/usr/lib" };
        assert_eq!(seen, format!("{target}\nnewdeep750 77\nlib"));
    }
}

#[test]
fn of_a_name_on_both_sides_of_a_link_of_a_lower_layer_the_later_entry_holds() {
    let own = "usr/lib/f";
    for (first, second) in [("lib/f", own), (own, "lib/f"), ("abs/f", own), ("lib/f", "abs/f")] {
        let upper = Tar::default().file(first, b"first").file("usr/lib/g", b"g").file(second, b"second");
        let site = Site::new();
        let seen =
            merged(&site, &[base(), upper], "cat lib/f lib/g; readlink lib; ls usr/lib; stat -c '%a %Y' usr/lib");
        assert_eq!(seen, "secondgusr/lib\nf\ng\nold\n750 77", "{first}, {second}");
        site.assert_no_leftovers();
    }
    for (upper, script, wanted) in [
        // A file gives way to a directory, and a directory to a file, whichever side they are on.
        (Tar::default().file("usr/lib/d", b"x").file("lib/d/in", b"in"), "cat lib/d/in", "in"),
        (Tar::default().file("lib/d/in", b"in").file("usr/lib/d", b"x"), "cat lib/d", "x"),
        (Tar::default().dir("usr/lib/d/").symlink("lib/d", "old"), "cat lib/d", "old"),
        (
            Tar::default().symlink("lib/d", "old").dir("usr/lib/d/").file("lib/d/in", b"in"),
            "ls lib/d; cat lib/old",
            "in\nold",
        ),
        // Links to what came by the other side.
        (
            Tar::default().file("usr/lib/f", b"1").file("lib/f", b"2").hardlink("lib/h", "usr/lib/f"),
            "cat lib/h; test lib/h -ef lib/f && echo one",
            "2one",
        ),
        // What leads nowhere in the layers below leads to what is made now.
        (Tar::default().file("dangling/f", b"made"), "cat not/there/f; readlink dangling", "madenot/there"),
    ] {
        let base = base().symlink("dangling", "not/there");
        assert_eq!(merged(&Site::new(), &[base, upper], script), wanted, "{script}");
    }
}

#[test]
fn a_directory_listed_by_one_of_its_two_paths_is_what_it_is_listed_as() {
    // `lib/d` and `usr/lib/d` are one directory, of which the layer lists one name and implies the other, in either order; below,
    // there may be such a directory already.
    let listed = |tar: Tar, path: &str, mode| {
        tar.raw(path.as_bytes(), b'5', b"", |h| {
            h.set_mode(mode);
            h.set_uid(7);
            h.set_mtime(99);
        })
    };
    for below in [false, true] {
        let base = if below { listed(base(), "usr/lib/d/", 0o755) } else { base() };
        let x = |tar: Tar, side: &str| tar.file(&format!("{side}/d/x"), b"x");
        for (side, other) in [("lib", "usr/lib"), ("usr/lib", "lib"), ("lib", "lib"), ("abs", "lib")] {
            let name = format!("{side}/d/");
            for upper in [
                x(listed(Tar::default(), &name, 0o710), other),
                listed(x(Tar::default(), other), &name, 0o710),
                x(listed(x(Tar::default(), "usr/lib"), &name, 0o710), other),
            ] {
                let seen = merged(&Site::new(), &[base.clone(), upper], "stat -c %a usr/lib/d; cat usr/lib/d/x");
                assert_eq!(seen, "710\nx", "{name}, then {other}/d/x, below: {below}");
            }
        }
        // Both are listed: the later counts, or they say the same.
        for (first, second) in [("lib", "usr/lib"), ("usr/lib", "lib")] {
            let upper = listed(listed(Tar::default(), &format!("{first}/d/"), 0o700), &format!("{second}/d/"), 0o710);
            let seen = merged(&Site::new(), &[base.clone(), x(upper, first)], "stat -c %a usr/lib/d");
            assert_eq!(seen, "710", "{first}, then {second}, below: {below}");
        }
    }
}

#[test]
fn a_layer_that_is_unpacked_in_turn_is_its_images_own_and_checked_like_any_other() {
    let site = Site::new();
    let upper = Tar::default().file("lib/f", b"first").file("usr/lib/f", b"second");
    let first = site.unpack(&[base(), upper.clone()]).unwrap();
    let other_base = Tar::default().dir("lib/").dir("usr/").dir("usr/lib/");
    let second = site.unpack(&[other_base, upper]).unwrap();
    assert_ne!(first[1], second[1]);
    assert!(!first[1].join("lib/f").exists() && second[1].join("lib/f").exists());
    let findings = site.store().check(&site.unpacker(), false).unwrap();
    assert!(findings.damaged.is_empty(), "{findings:?}");
    // Its bytes count once.
    let mut small = Site::new();
    small.limits.image_bytes = 30_000;
    let large = Tar::default().file("lib/f", &[1; 8_000]).file("usr/lib/f", &[2; 8_000]);
    small.unpack(&[base(), large]).unwrap();
}

#[test]
fn a_whiteout_below_a_link_of_a_lower_layer_removes_what_the_link_leads_to() {
    let upper = Tar::default().file("lib/.wh.old", b"");
    assert_eq!(merged(&Site::new(), &[base(), upper], "readlink lib; ls -A usr/lib"), "usr/lib");
}

#[test]
fn a_directory_that_a_layer_lists_replaces_a_link_of_a_lower_layer() {
    let upper = Tar::default().dir("lib/").file("lib/new", b"new");
    assert_eq!(merged(&Site::new(), &[base(), upper], "test ! -L lib; ls -A lib; ls -A usr/lib"), "new\nold");
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_shares_its_content_and_metadata() {
    let upper = Tar::default().dir("etc/").hardlink("etc/conf2", "etc/conf").hardlink("etc/conf3", "/lib/../lib/old");
    let seen = merged(
        &Site::new(),
        &[base(), upper],
        "cat etc/conf2 etc/conf3; stat -c %Y etc/conf2; test etc/conf -ef etc/conf2 && test usr/lib/old -ef etc/conf3 && echo same",
    );
    assert_eq!(seen, "baseold1000000000\nsame");
}

#[test]
fn a_hard_link_to_what_no_layer_has_is_refused() {
    let site = Site::new();
    let report = site.refuse(&[base(), Tar::default().hardlink("x", "no/such")]);
    assert!(report.contains("which is not there") && report.contains("layer 2 of 2"), "{report}");
    let report = site.refuse(&[base(), Tar::default().file("etc/.wh.conf", b"").hardlink("x", "etc/conf")]);
    assert!(report.contains("which is not there"), "{report}");
}

#[test]
fn a_whiteout_of_what_is_not_there_leaves_no_trace() {
    let upper = Tar::default().file("no/such/.wh.thing", b"").file("etc/.wh.nothing", b"");
    assert_eq!(merged(&Site::new(), &[base(), upper], "ls -A; ls -A etc"), "abs\netc\nlib\nusr\nconf");
}

// A15
#[test]
fn an_opaque_directory_hides_the_layers_below_wherever_its_mark_stands() {
    for position in 0..3 {
        let mut upper = Tar::default().dir("etc/");
        for step in 0..3 {
            upper = if step == position {
                upper.file("etc/.wh..wh..opq", b"")
            } else {
                upper.file(&format!("etc/new{step}"), b"x")
            };
        }
        let seen = merged(&Site::new(), &[base(), upper], "ls -A etc | wc -l; test ! -e etc/conf");
        assert_eq!(seen, "2");
    }
}

// A16
#[test]
fn a_whiteout_spares_what_its_own_layer_has_under_the_name() {
    for first in [true, false] {
        let mut upper = Tar::default().dir("etc/");
        if first {
            upper = upper.file(".wh.usr", b"").file("etc/.wh.conf", b"");
        }
        upper = upper.dir("usr/").file("usr/own", b"own").file("etc/conf", b"own");
        if !first {
            upper = upper.file(".wh.usr", b"").file("etc/.wh.conf", b"");
        }
        assert_eq!(merged(&Site::new(), &[base(), upper], "ls -A usr; cat etc/conf"), "own\nown");
    }
}

#[test]
fn a_directory_in_place_of_a_file_of_a_lower_layer_is_new() {
    let upper = Tar::default().file("etc/conf/inside", b"x");
    assert_eq!(merged(&Site::new(), &[base(), upper], "cat etc/conf/inside"), "x");
}

#[test]
fn layers_that_depend_on_those_below_are_not_shared_with_images_of_another_base() {
    let site = Site::new();
    let upper = Tar::default().file("usr/lib/new", b"new");
    let first = site.unpack(&[base(), upper.clone()]).unwrap();
    let other_base = Tar::default().dir("usr/").raw(b"usr/lib/", b'5', b"", |h| h.set_mode(0o700));
    let second = site.unpack(&[other_base, upper]).unwrap();
    assert_ne!(first[1], second[1]);
    assert_eq!(fs::metadata(first[1].join("usr/lib")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(fs::metadata(second[1].join("usr/lib")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_layer_that_an_image_lists_twice_is_stacked_once_on_top() {
    let site = Site::new();
    let layer = Tar::default().dir("etc/").file("etc/a", b"1");
    let trees = site.unpack(&[layer.clone(), Tar::default().dir("etc/").file("etc/.wh.a", b""), layer]).unwrap();
    assert_eq!(trees.len(), 2);
    assert!(fs::symlink_metadata(trees[0].join("etc/a")).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(trees[1].join("etc/a")).unwrap().is_file());
}
