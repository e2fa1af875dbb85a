//! Archives and blobs as they should not be written: either what every reader sees in them, or a refusal.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar, alone, empty, gzip, kept, on_disk, refused, report};

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
    assert_eq!((file.uid(), file.gid()), on_disk(77, 78));
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

/// What `tree` has, by name, with the size of files.
fn names(tree: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![tree.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(tree).unwrap().display().to_string();
            found.push(if meta.is_dir() { format!("{name}/") } else { format!("{name} {}", meta.len()) });
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn headers_of_every_writer_give_the_names_that_gnu_tar_reads() {
    let prefix = b"p/".repeat(40);
    // Magic and version; how the prefix field is filled; whether `star` has signed.
    let forms: [(&[u8; 8], bool); 6] = [
        (b"ustar\x0000", false),
        (b"ustar\0\0\0", false),
        (b"ustar\0  ", false),
        (b"ustar\x0000", true),
        (b"ustar  \0", false),
        (b"\0\0\0\0\0\0\0\0", false),
    ];
    for (magic, star) in forms {
        let archive = empty().dir("d/").raw(b"f", b'0', b"data", |h| {
            let bytes = h.as_mut_bytes();
            bytes[257..265].copy_from_slice(magic);
            bytes[345..345 + prefix.len() - 1].copy_from_slice(&prefix[..prefix.len() - 1]);
            if star {
                bytes[476..487].copy_from_slice(b"00000000000");
                bytes[488..499].copy_from_slice(b"00000000000");
                bytes[508..512].copy_from_slice(b"tar\0");
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let tar = directory.path().join("a.tar");
        fs::write(&tar, archive.clone().end()).unwrap();
        let theirs = directory.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        let status = std::process::Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&theirs).status().unwrap();
        assert!(status.success(), "{magic:?}");
        assert_eq!(names(&alone(archive)), names(&theirs), "{magic:?}, star: {star}");
    }
}

#[test]
fn numbers_are_read_however_they_are_filled_up() {
    for field in
        [*b"\0\0  640 ", *b"  640 \0\0", *b"0000640\0", *b"00000640", *b"640\0junk", *b"\x80\0\0\0\0\0\x01\xa0"]
    {
        let tree = alone(empty().raw(b"f", b'0', b"", |h| h.as_old_mut().mode = field));
        assert_eq!(fs::metadata(tree.join("f")).unwrap().mode() & 0o7777, 0o640, "{field:?}");
    }
    let tree = alone(empty().raw(b"f", b'0', b"", |h| h.as_old_mut().uid = [0; 8]));
    assert_eq!(fs::metadata(tree.join("f")).unwrap().uid(), on_disk(0, 0).0);
    refused(empty().raw(b"f", b'0', b"", |h| h.as_old_mut().mode = *b"rw-r--r-"), "no number");
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
fn owners_beyond_the_mapped_ids_are_nobodys_and_never_roots() {
    // 2^32 and its multiples are what has wrapped around to root elsewhere.
    for id in ["4294967295", "4294967296", "8589934592", "65536", "1516583083", "18446744073709551615"] {
        let archive = empty()
            .pax(&[("uid", id.as_bytes())])
            .file("user", b"")
            .pax(&[("gid", id.as_bytes())])
            .dir("group/")
            .pax(&[("uid", id.as_bytes()), ("gid", id.as_bytes())])
            .symlink("both", "user")
            .file("own", b"");
        let site = Site::new();
        let tree = kept(&site, archive);
        for (name, owner) in
            [("user", (65_534, 0)), ("group", (0, 65_534)), ("both", (65_534, 65_534)), ("own", (0, 0))]
        {
            let found = fs::symlink_metadata(tree.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), on_disk(owner.0, owner.1), "{id}: {name}");
        }
        let image = site.store().find("localhost/test:latest").unwrap();
        assert_eq!((image.layers()[0].record().omitted.unmapped_ids, image.record().unmapped_ids), (3, 3));
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
    // An ordinary user has to open the door to look in.
    fs::set_permissions(tree.join("d"), PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(fs::metadata(tree.join("d/e")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(tree.join("d/e/f")).unwrap(), b"x");
}

// A41
#[test]
fn an_archive_that_ends_before_an_entry_is_whole_is_refused() {
    let whole = empty().dir("d/").file("d/f", &[7; 1500]).pax(&[("path", b"g")]).file("x", b"y").0;
    // The last: the data is whole, and what fills up its block is missing (as umoci's insert leaves it).
    let between = [0, 512, 512 * 5, 512 * 8 + 256];
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
