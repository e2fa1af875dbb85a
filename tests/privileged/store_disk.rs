//! What an image takes on disk: its layers' trees, and a little beside them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use ces::image::reference::Pick;
use ces::image::source::layout::Layout;
use serde_json::Value;

use crate::image_support::Site;
use crate::support::{children, have, python_layout};

/// Bytes that a layer's listing may take for each of its entries: most of them is the content's digest (32 bytes).
const LISTING_BYTES: u64 = 96;
/// Bytes that a layer or an image may take beside tree and listing: documents and directories, a block (4 KiB) each.
const DOCUMENT_BYTES: u64 = 6 * 4096;

/// Bytes on disk of all that is below `path` and itself, each file once, and how many names these are.
fn on_disk(path: &Path, seen: &mut HashSet<u64>) -> (u64, u64) {
    let found = fs::symlink_metadata(path).unwrap();
    let own = if seen.insert(found.ino()) { found.blocks() * 512 } else { 0 };
    let below = if found.is_dir() { children(path) } else { Vec::new() };
    below.iter().fold((own, 1), |(bytes, names), path| {
        let (more, count) = on_disk(path, seen);
        (bytes + more, names + count)
    })
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_store_takes_no_more_disk_than_its_layers_unpacked_and_a_little_for_each() {
    let (Some(()), Some(layout)) = (have("tar"), python_layout()) else { return };
    let blob = |descriptor: &Value| layout.join("blobs").join(descriptor["digest"].as_str().unwrap().replace(':', "/"));
    let index = read(&layout.join("index.json"));
    let tagged = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == "python";
    let manifest = read(&blob(index["manifests"].as_array().unwrap().iter().find(tagged).unwrap()));

    let site = Site::new();
    site.pull_from(&Layout::directory(&layout, Pick::Named("python".to_owned())).unwrap(), "localhost/test:latest")
        .unwrap();
    let image = site.store().find("localhost/test").unwrap();
    let plain = tempfile::tempdir().unwrap();
    let mut trees = 0;
    let mut listings = 0;
    let mut entries = 0;
    for (number, (layer, descriptor)) in image.layers().iter().zip(manifest["layers"].as_array().unwrap()).enumerate() {
        let unpacked = plain.path().join(number.to_string());
        fs::create_dir(&unpacked).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&unpacked).args(["--numeric-owner", "-xpzf"]).arg(blob(descriptor));
        assert!(tar.status().unwrap().success());
        // Blocks are counted when they are given, not when they are promised.
        nix::unistd::sync();
        let (by_tar, _) = on_disk(&unpacked, &mut HashSet::new());
        let (by_ces, names) = on_disk(layer.path(), &mut HashSet::new());
        // A file that the file system had to split takes a block more for the list of its parts: the luck of either.
        let luck = names / 100 * 4096;
        assert!(by_ces <= by_tar + luck, "layer {number}: {by_ces} bytes on disk, {by_tar} when tar unpacks it");
        let listing = fs::metadata(layer.path().with_file_name("tree.zst")).unwrap().blocks() * 512;
        assert!(listing <= names * LISTING_BYTES + 4096, "layer {number}: {listing} bytes for {names} names");
        (trees, listings, entries) = (trees + by_ces, listings + listing, entries + names);
    }
    // Nothing else: no blob is kept, nothing is written twice.
    let (all, _) = on_disk(&site.directory.path().join("store"), &mut HashSet::new());
    let (canary, _) = on_disk(&site.directory.path().join("store/canary"), &mut HashSet::new());
    let documents = all - canary - trees - listings;
    let few = (image.layers().len() as u64 + 2) * DOCUMENT_BYTES;
    assert!(documents <= few, "{documents} bytes beside trees and listings, more than {few}");
    eprintln!("{entries} entries: {trees} bytes of trees, {listings} of listings, {documents} of documents");
}
