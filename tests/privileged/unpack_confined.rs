//! The process that reads a layer, seen from outside while it works.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ces::host::idmap::IdMap;

use crate::image_support::{Layer, LayoutDir, Pack, Site, empty};

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
    let ids = IdMap::on_disk(&site.caller).unwrap().uids;
    let map: Vec<_> = ids.iter().map(|e| format!("{} {} {}", e.inside, e.outside, e.count)).collect();
    assert!(seen.contains(&format!("uid_map: {}\n", map.join(" "))), "{seen}");
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
        ces::image::source::layout::Layout::directory(layout.path(), ces::image::reference::Pick::Only)
            .unwrap()
            .manifest(platform)
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
