//! How much a layer may make ces write, count or remember.

use ces::image::unpack::Limits;
use nix::sys::statfs::{EXT4_SUPER_MAGIC, statfs};

use crate::image_support::{Layer, LayoutDir, Pack, Site, empty, gzip, refused, report};

// A31
#[test]
fn a_long_name_without_end_is_refused_before_it_is_read() {
    for kind in [b'L', b'K', b'x', b'g'] {
        refused(empty().raw(b"h", kind, b"", |h| h.set_size(8 << 30)), "extended header of");
    }
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

#[test]
fn a_zstd_window_is_read_up_to_128_mib_and_within_the_memory_there_is() {
    use std::io::Write;
    let archive = empty().file("a", &vec![1; 100_000]).end();
    let with_window = |log| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&archive).unwrap();
        LayoutDir::of(&[Layer { blob: encoder.finish().unwrap(), ..Layer::new(&archive, Pack::Zstd) }])
    };
    for log in [10, 23, 27] {
        Site::new().pull(&with_window(log)).unwrap();
    }
    for (log, memory, why) in [
        (28, 1 << 30, "it needs 256 MiB of memory for the window of a Zstandard frame; the policy allows 128 MiB"),
        (27, LITTLE, "it needs 128 MiB of memory for the window of a Zstandard frame; the policy allows 8 MiB"),
    ] {
        let mut site = Site::new();
        site.limits.memory = memory;
        let error = site.pull(&with_window(log)).unwrap_err();
        assert!(report(&error).contains(why), "{}", report(&error));
        site.assert_no_leftovers();
    }
    // The decoder takes a window's memory at once where a frame does not tell its size, as here.
    let mut site = Site::new();
    site.limits.memory = LITTLE;
    site.pull(&with_window(23)).unwrap();
}

/// Far less than an unpacking process may hold by default; what it needs whatever the layer is.
const LITTLE: u64 = 32 << 20;

/// One gzip member of 16 MiB of zeros.
fn zeros() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![0; 16 << 20]).unwrap();
    encoder.finish().unwrap()
}

/// A layer that is one entry of 10 GiB of zeros, in 10 MB.
fn ten_gibibytes(kind: u8) -> LayoutDir {
    let header = empty().raw(b"zeros", kind, b"", |h| h.set_size(10 << 30)).0;
    let blob = [gzip(&header), zeros().repeat(640)].concat();
    LayoutDir::of(&[Layer { blob, ..Layer::new(b"", Pack::Gzip) }])
}

// A31, A40
#[test]
fn memory_and_disk_stay_bounded_whatever_a_layer_expands_to() {
    let mut site = Site::new();
    site.limits.memory = LITTLE;
    site.limits.ratio = 20; // that much of it comes to be on this disk
    let bomb = ten_gibibytes(b'0');
    let error = site.pull(&bomb).unwrap_err();
    assert!(report(&error).contains("more than 20 times its"), "{}", report(&error));
    site.limits.layer_bytes = 100 << 20;
    let error = site.pull(&bomb).unwrap_err();
    assert!(report(&error).contains("more than 104857600 bytes"), "{}", report(&error));
    // The same as a name, as a link's target and as a PAX header.
    for kind in *b"LKxg" {
        let error = site.pull(&ten_gibibytes(kind)).unwrap_err();
        assert!(report(&error).contains("header of 10737418240 bytes"), "{}", report(&error));
    }
    // Much of it in the form of headers.
    let mut headers = empty();
    for n in 0..64 {
        headers = headers.pax(&[("comment", &vec![b'c'; 1 << 19])]).file(&format!("f{n}"), b"");
    }
    site.limits = Limits { memory: LITTLE, ..Limits::default() };
    site.pull(&LayoutDir::of(&[Layer::new(&headers.end(), Pack::Zstd)])).unwrap();
    site.assert_canary_unharmed();
    site.assert_no_leftovers();
}

// A39
#[test]
fn more_names_of_one_file_than_the_file_system_counts_are_refused() {
    // ext4 counts to 65,000 (EXT4_LINK_MAX).
    let archive = (0..65_000).fold(empty().file("f", b""), |tar, n| tar.hardlink(&format!("l{n}"), "f"));
    let site = Site::new();
    let on_ext4 = statfs(site.directory.path()).unwrap().filesystem_type() == EXT4_SUPER_MAGIC;
    let pulled = site.pull(&LayoutDir::of(&[Layer::new(&archive.end(), Pack::Gzip)]));
    match pulled {
        Err(error) if on_ext4 => assert!(report(&error).contains("Too many links"), "{}", report(&error)),
        other => assert!(other.is_ok() && !on_ext4),
    }
    site.assert_no_leftovers();
    site.assert_canary_unharmed();
}

// A39
#[test]
fn a_layer_that_makes_ces_remember_too_much_is_refused_and_nothing_of_it_stays() {
    // Each file has two names: the first has to be remembered, until the second comes.
    let arm = vec!["d".repeat(255); 12].join("/");
    let mut archive = empty();
    for n in 0..4000 {
        let (first, second) = (format!("{arm}/a{n}"), format!("{arm}/b{n}"));
        archive = archive.pax(&[("path", first.as_bytes())]).file("x", b"");
        archive = archive.pax(&[("path", second.as_bytes()), ("linkpath", first.as_bytes())]).hardlink("x", "x");
    }
    let layout = LayoutDir::of(&[Layer::new(&archive.end(), Pack::Gzip)]);
    let mut site = Site::new();
    site.limits.memory = 8 << 20;
    let error = site.pull(&layout).unwrap_err();
    assert!(report(&error).contains("images.limits.memory"), "{}", report(&error));
    site.assert_canary_unharmed();
    site.store().prune(&site.unpacker()).unwrap();
    site.assert_no_leftovers();
    site.limits = Limits::default();
    site.pull(&layout).unwrap();
}
