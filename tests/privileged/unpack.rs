//! Ordinary images come out exact.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};

const BASE: u32 = ces::host::idmap::FOREIGN_BASE;

fn sample() -> Tar {
    Tar::default()
        .raw(b"etc/", b'5', b"", |h| h.set_mode(0o755))
        .raw(b"etc/passwd", b'0', b"root:x:0:0::/root:/bin/sh\n", |h| {
            h.set_mode(0o640);
            h.set_uid(7);
            h.set_gid(42);
        })
        .symlink("etc/link", "/etc/passwd")
        .hardlink("etc/hard", "etc/passwd")
        .raw(b"tmp/", b'5', b"", |h| h.set_mode(0o1777))
}

#[test]
fn a_layer_comes_out_as_the_archive_says_whatever_its_compression() {
    for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        let site = Site::new();
        let image = site.pull(&LayoutDir::of(&[Layer::new(&sample().end(), pack)])).unwrap();
        let root = image.layers()[0].path();
        let passwd = fs::symlink_metadata(root.join("etc/passwd")).unwrap();
        assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), b"root:x:0:0::/root:/bin/sh\n");
        assert_eq!(passwd.mode(), 0o100_640);
        assert_eq!((passwd.uid(), passwd.gid()), (BASE + 7, BASE + 42));
        assert_eq!(passwd.nlink(), 2);
        assert_eq!(passwd.mtime(), 1_000_000_000);
        assert_eq!(fs::read_link(root.join("etc/link")).unwrap().to_str(), Some("/etc/passwd"));
        assert_eq!(fs::symlink_metadata(root.join("etc")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::symlink_metadata(root.join("tmp")).unwrap().mode(), 0o041_777);
        site.assert_canary_unharmed();
        site.assert_no_leftovers();
    }
}

#[test]
fn a_whiteout_becomes_what_overlayfs_knows() {
    let site = Site::new();
    let upper = Tar::default().dir("etc/").file("etc/.wh.passwd", b"").dir("tmp/").file("tmp/.wh..wh..opq", b"");
    let trees = site.unpack(&[sample(), upper]).unwrap();
    let whiteout = fs::symlink_metadata(trees[1].join("etc/passwd")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
}

#[test]
fn the_root_directorys_metadata_are_those_of_the_uppermost_layer_that_lists_it() {
    let site = Site::new();
    let root = |mode| Tar::default().raw(b"./", b'5', b"", |h| h.set_mode(mode));
    site.unpack(&[root(0o555), root(0o700), Tar::default().file("a", b"")]).unwrap();
    let image = site.store().find("localhost/test").unwrap();
    assert_eq!((image.root().mode, image.root().uid, image.root().mtime), (0o700, 0, 1_000_000_000));
}
