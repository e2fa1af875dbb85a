//! The store: shared by many at once, right after any crash, and suspicious of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ces::error::Result;
use ces::host::dirs::{Dirs, Places};
use ces::host::privilege::as_root;
use ces::image::document::{Descriptor, Manifest, Platform};
use ces::image::reference::Pick;
use ces::image::source::layout::Layout;
use ces::image::source::{Origin, Sink};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};
use crate::support::wait_until;

fn layer(name: &str) -> Layer {
    Layer::new(&Tar::default().dir("d/").file(&format!("d/{name}"), name.as_bytes()).end(), Pack::Gzip)
}

fn image(names: &[&str]) -> LayoutDir {
    LayoutDir::of(&names.iter().map(|name| layer(name)).collect::<Vec<_>>())
}

fn origin(layout: &LayoutDir) -> Layout<ces::image::source::layout::Directory> {
    Layout::directory(layout.path(), Pick::Only).unwrap()
}

fn layers(site: &Site) -> Vec<PathBuf> {
    let directory = site.directory.path().join("store/layers/sha256");
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// An origin that gives documents, and fails the test when asked for a layer.
struct DocumentsOnly<'a>(&'a LayoutDir);

impl Origin for DocumentsOnly<'_> {
    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        origin(self.0).manifest(platform)
    }

    fn blob(&self, descriptor: &Descriptor, _sink: &mut Sink<'_>) -> Result<()> {
        panic!("{} was fetched again", descriptor.digest)
    }
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let site = Site::new();
    site.pull(&image(&["a", "b"])).unwrap();
    site.pull_from(&DocumentsOnly(&image(&["a", "b"])), "localhost/other:latest").unwrap();
    assert_eq!(site.store().images().unwrap().len(), 2);
    let pulled = site.pull_from(&origin(&image(&["a", "c"])), "localhost/third:latest").unwrap();
    assert_eq!((pulled.fetched, pulled.layers), (1, 2));
    assert_eq!(layers(&site).len(), 3);
}

#[test]
fn each_image_tells_of_its_own_blobs_though_they_share_a_layer() {
    let site = Site::new();
    let tar = Tar::default().file("a", b"a").end();
    for (name, pack) in [("localhost/one:1", Pack::Gzip), ("localhost/two:1", Pack::Zstd)] {
        let layer = Layer::new(&tar, pack);
        site.pull_from(&origin(&LayoutDir::of(std::slice::from_ref(&layer))), name).unwrap();
        let image = site.store().find(name).unwrap();
        let (blob, size) = (ces::image::reference::Digest::of(&layer.blob), layer.blob.len() as u64);
        assert_eq!((&image.layers()[0].record().blob, image.layers()[0].record().blob_bytes), (&blob, size), "{name}");
    }
    assert_eq!(layers(&site).len(), 1);
}

#[test]
fn an_image_is_found_by_name_by_digest_and_by_the_beginning_of_that() {
    let site = Site::new();
    let manifest = site.pull(&image(&["a"])).unwrap().manifest_digest().clone();
    for words in [
        "localhost/test",
        "localhost/test:latest",
        manifest.as_str(),
        manifest.hex(),
        &manifest.hex()[..6],
        &format!("sha256:{}", &manifest.hex()[..12]),
        &format!("localhost/test@{manifest}"),
    ] {
        assert_eq!(site.store().find(words).unwrap().manifest_digest(), &manifest, "{words}");
    }
    for words in ["localhost/unknown:1", "ffffffffffff", "x", "", &format!("localhost/other@{manifest}")] {
        let report = site.store().find(words).unwrap_err().report();
        assert!(report.contains("not in the store") && report.contains("hint: "), "{report}");
    }
}

#[test]
fn removing_a_name_keeps_layers_that_another_image_uses() {
    let site = Site::new();
    site.pull_from(&origin(&image(&["a", "b"])), "localhost/one:1").unwrap();
    site.pull_from(&origin(&image(&["a", "c"])), "localhost/two:1").unwrap();
    site.pull_from(&origin(&image(&["a", "c"])), "localhost/two:again").unwrap();
    let store = site.store();
    assert_eq!(layers(&site).len(), 3);
    let freed = store.remove("localhost/two:again", &site.unpacker()).unwrap();
    assert_eq!((freed.images.len(), freed.layers.unwrap().layers), (0, 0));
    let freed = store.remove("localhost/one:1", &site.unpacker()).unwrap();
    let space = freed.layers.unwrap();
    assert_eq!((freed.images.len(), space.layers, space.bytes), (1, 1, 1));
    assert_eq!(store.find("localhost/two:1").unwrap().layers().len(), 2);
    store.remove("localhost/two:1", &site.unpacker()).unwrap();
    assert!(layers(&site).is_empty());
    assert!(store.remove("localhost/two:1", &site.unpacker()).is_err());
    site.assert_no_leftovers();
}

#[test]
fn an_image_in_use_is_not_removed() {
    let site = Site::new();
    let in_use = site.pull(&image(&["a"])).unwrap();
    let store = site.store();
    let report = store.remove("localhost/test", &site.unpacker()).unwrap_err().report();
    assert!(report.contains("in use"), "{report}");
    // Its name may go to a newer image meanwhile; prune spares it too.
    site.pull(&image(&["b"])).unwrap();
    assert!(store.prune(&site.unpacker()).unwrap().images.is_empty());
    assert_eq!(fs::read(in_use.layers()[0].path().join("d/a")).unwrap(), b"a");
    drop(in_use);
    let freed = store.prune(&site.unpacker()).unwrap();
    assert_eq!((freed.images.len(), freed.layers.unwrap().layers), (1, 1));
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn a_layer_that_a_pull_in_progress_counts_on_is_not_pruned() {
    struct PruneBetween<'a>(&'a LayoutDir, &'a Site);
    impl Origin for PruneBetween<'_> {
        fn manifest(&self, platform: &Platform) -> Result<Manifest> {
            origin(self.0).manifest(platform)
        }
        fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
            let result = origin(self.0).blob(descriptor, sink);
            if descriptor.size == layer("new").blob.len() as u64 {
                self.1.store().prune(&self.1.unpacker())?;
            }
            result
        }
    }
    let site = Site::new();
    site.pull(&image(&["base"])).unwrap();
    // Without a name, the old image and its layer go; the pull counts on the layer.
    let next = image(&["base", "new"]);
    let named = site.directory.path().join("store/refs");
    for name in fs::read_dir(named).unwrap() {
        fs::remove_file(name.unwrap().path()).unwrap();
    }
    site.pull_from(&PruneBetween(&next, &site), "localhost/test:latest").unwrap();
    assert_eq!(site.store().find("localhost/test").unwrap().layers().len(), 2);
}

#[test]
fn two_pulls_of_one_image_at_once_both_succeed() {
    let site = Site::new();
    let layout = image(&["a", "b", "c"]);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|n| {
                let (site, layout) = (&site, &layout);
                scope.spawn(move || site.pull_from(&origin(layout), &format!("localhost/test:{n}")))
            })
            .collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(site.store().images().unwrap().len(), 4);
    assert_eq!(layers(&site).len(), 3);
    site.store().sweep(&site.unpacker()).unwrap();
    site.assert_no_leftovers();
}

#[test]
fn a_pull_that_never_ends_holds_no_other_of_the_same_image_up() {
    struct Hanging<'a>(&'a LayoutDir, &'a AtomicBool, &'a AtomicBool);
    impl Origin for Hanging<'_> {
        fn manifest(&self, platform: &Platform) -> Result<Manifest> {
            origin(self.0).manifest(platform)
        }
        fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
            self.1.store(true, Ordering::SeqCst);
            while !self.2.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            origin(self.0).blob(descriptor, sink)
        }
    }
    let mut site = Site::new();
    site.patience = Duration::from_millis(100);
    let layout = image(&["a", "b", "c"]);
    let (hangs, may_end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| site.pull_from(&Hanging(&layout, &hangs, &may_end), "localhost/test:slow"));
        wait_until("the first has begun", || hangs.load(Ordering::SeqCst));
        let fast = site.pull_from(&origin(&layout), "localhost/test:fast");
        let is_over = slow.is_finished();
        may_end.store(true, Ordering::SeqCst);
        assert!(!is_over, "the first was still at it");
        assert_eq!(fast.unwrap().fetched, 3);
        slow.join().unwrap().unwrap();
    });
    assert_eq!(site.store().images().unwrap().len(), 2);
    assert_eq!(layers(&site).len(), 3);
    site.store().sweep(&site.unpacker()).unwrap();
    site.assert_no_leftovers();
}

/// What the refusal says, and the damage.
type Damage<'a> = (&'a str, &'a dyn Fn(&Site));

#[test]
fn whatever_was_damaged_is_refused_by_name_and_a_new_pull_repairs_it() {
    let damages: [Damage<'_>; 6] = [
        ("its manifest does not have its digest", &|site| damage(site, "images", "manifest.json")),
        ("its configuration does not have its digest", &|site| damage(site, "images", "config.json")),
        ("the store is damaged", &|site| damage(site, "images", "image.json")),
        ("the store is damaged", &|site| damage(site, "layers", "layer.json")),
        ("is missing", &|site| fs::remove_dir_all(&layers(site)[0]).unwrap()),
        ("is damaged", &|site| fs::remove_dir_all(layers(site)[0].join("fs")).unwrap()),
    ];
    for (why, damage) in damages {
        let site = Site::new();
        let layout = image(&["a"]);
        drop(site.pull(&layout).unwrap());
        damage(&site);
        let report = site.store().find("localhost/test").unwrap_err().report();
        assert!(report.contains(why) && report.contains("pull"), "{why}: {report}");
        site.pull(&layout).unwrap();
        site.store().find("localhost/test").unwrap();
    }
}

fn damage(site: &Site, kind: &str, name: &str) {
    let directory = site.directory.path().join("store").join(kind).join("sha256");
    let path = fs::read_dir(directory).unwrap().next().unwrap().unwrap().path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_store_that_others_may_write_to_is_refused() {
    let site = Site::new();
    site.store();
    let root = site.directory.path().join("store");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    let opened = as_root(|root| Dirs::open(root, &site.caller, Some(site.directory.path()), &Places::default()));
    let report = opened.unwrap_err().report();
    assert!(report.contains("not safe"), "{report}");
}

#[test]
fn a_disk_that_is_full_is_said_to_be_full_and_nothing_is_left() {
    // A small tmpfs, in a mount namespace of this thread's own.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=700")).unwrap();
        let inner = tempfile::tempdir_in(&path).unwrap();
        let site = Site::at(inner);
        let large = Tar::default().file("large", &vec![b'x'; 16 << 20]).end();
        let error = site.pull(&LayoutDir::of(&[Layer::new(&large, Pack::Gzip)])).unwrap_err();
        let report = error.report();
        assert!(report.contains("no space left for layer 1 of 1") && report.contains("bytes free"), "{report}");
        site.assert_no_leftovers();
        let error = site.pull(&LayoutDir::of(&[Layer::new(&large, Pack::Plain)])).unwrap_err();
        let report = error.report();
        assert!(report.contains("does not fit the disk") && report.contains("16778752 bytes"), "{report}");
        site.pull(&image(&["small"])).unwrap();
        // Blocks of zeros take no space: as large a file of them fits.
        let zeros = Tar::default().file("zeros", &vec![0; 16 << 20]).end();
        site.pull(&LayoutDir::of(&[Layer::new(&zeros, Pack::Gzip)])).unwrap();
        // Deleted before the mount goes away with the thread.
        drop(site);
    })
    .join()
    .unwrap();
}

#[test]
fn a_store_that_fills_up_at_any_stage_says_what_is_free_and_needed_and_leaves_nothing() {
    // One inode more each time, until a whole pull fits: so it fails at each thing that a pull makes.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let failed = std::thread::spawn(move || {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let layout = image(&["small", "other"]);
        for more in 0..100 {
            mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=700")).unwrap();
            let site = Site::at(tempfile::tempdir_in(&path).unwrap());
            // With its locks: they are there from a store's first use.
            site.store().images().unwrap();
            let used = nix::sys::statvfs::statvfs(&path).unwrap();
            let inodes = used.files() - used.files_free() + more;
            let options = format!("nr_inodes={inodes}");
            mount(None::<&str>, &path, None::<&str>, MsFlags::MS_REMOUNT, Some(options.as_str())).unwrap();
            let pulled = site.pull(&layout);
            site.store().sweep(&site.unpacker()).unwrap();
            site.assert_no_leftovers();
            site.assert_canary_unharmed();
            let whole = match pulled {
                Ok(_) => true,
                Err(error) => {
                    let report = error.report();
                    assert!(report.contains("No space left") || report.contains("no space left"), "{more}: {report}");
                    assert!(report.contains("free") && report.contains("needed"), "{more}: {report}");
                    assert!(report.contains("hint: make room"), "{more}: {report}");
                    assert!(site.store().images().unwrap().is_empty(), "{more}");
                    false
                }
            };
            drop(site);
            umount2(&path, MntFlags::MNT_DETACH).unwrap();
            if whole {
                return more;
            }
        }
        panic!("a hundred inodes do not do for two files");
    })
    .join()
    .unwrap();
    assert!(failed > 10, "only {failed} stages");
}

#[test]
fn whole_layers_of_a_pull_that_came_to_nothing_are_kept_for_a_week_and_no_longer() {
    let site = Site::new();
    // Refused when all others are in their places.
    let bad = Layer::new(&Tar::default().hardlink("x", "no/such").end(), Pack::Gzip);
    let refused = LayoutDir::of(&[layer("good"), bad]);
    let error = site.pull_from(&origin(&refused), "localhost/bad").unwrap_err().report();
    assert!(error.contains("others that were whole for a week") && error.contains("ces prune"), "{error}");
    let whole = image(&["used"]);
    site.pull_from(&origin(&whole), "localhost/good").unwrap();
    let age = |days: u64| {
        for tree in layers(&site) {
            let file = fs::File::options().append(true).open(tree.join("layer.json")).unwrap();
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 3600);
            file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
        }
    };
    // A pull of something else sweeps.
    let other = |name: &str| site.pull_from(&origin(&image(&[name])), &format!("localhost/{name}")).unwrap();
    age(6);
    other("six");
    assert_eq!(layers(&site).len(), 3);
    age(8);
    other("eight");
    // The layers of images stay, whatever their age.
    assert_eq!(layers(&site).len(), 3);
    site.store().find("localhost/good").unwrap();
    site.assert_no_leftovers();
}

#[test]
fn an_image_that_is_pulled_twice_at_once_is_fetched_once() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Slow<'a>(&'a LayoutDir, &'a AtomicUsize);
    impl Origin for Slow<'_> {
        fn manifest(&self, platform: &Platform) -> Result<Manifest> {
            origin(self.0).manifest(platform)
        }
        fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
            if descriptor.size == layer("only").blob.len() as u64 {
                self.1.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            origin(self.0).blob(descriptor, sink)
        }
    }
    let (site, layout, fetched) = (Site::new(), image(&["only"]), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 0..3 {
            let (site, slow) = (&site, Slow(&layout, &fetched));
            scope.spawn(move || site.pull_from(&slow, &format!("localhost/test:{n}")).unwrap());
        }
    });
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
}
