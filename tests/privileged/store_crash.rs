//! A pull that is killed at any moment leaves a store that is right.

use std::fs;
use std::time::Duration;

use crate::image_support::{Again, Layer, LayoutDir, Pack, Site, Tar};

fn layout() -> LayoutDir {
    let layer = |n: u32| {
        let tar = (0..300).fold(Tar::default().dir("d/"), |tar, file| tar.file(&format!("d/{n}-{file}"), &[9; 3000]));
        Layer::new(&tar.end(), Pack::Gzip)
    };
    LayoutDir::of(&[layer(1), layer(2), layer(3), layer(4)])
}

#[test]
fn a_pull_that_is_killed_at_any_moment_leaves_a_right_store() {
    let kills: u64 = if std::env::var_os("CES_LONG").is_some() { 200 } else { 25 };
    let again = Again::new();
    let layout = layout();
    let site = Site::new();
    let command = || {
        let mut command = again.command("store_crash::pull_once");
        command.env("CES_TEST_SITE", site.directory.path()).env("CES_TEST_LAYOUT", layout.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    let mut whole = 0;
    for kill in 0..kills {
        let mut child = command().spawn().unwrap();
        // Over the time that a pull takes, and a little more, in an order that is no order.
        std::thread::sleep(Duration::from_millis(3 + (kill * 37) % 240));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = site.store();
        store.images().unwrap();
        if let Ok(image) = store.find("localhost/test") {
            whole += 1;
            assert_eq!(image.layers().len(), 4);
            for layer in image.layers() {
                assert_eq!(fs::read_dir(layer.path().join("d")).unwrap().count(), 300);
            }
            drop(image);
            store.remove("localhost/test", &site.unpacker()).unwrap();
        }
    }
    site.pull(&layout).unwrap();
    site.store().prune(&site.unpacker()).unwrap();
    site.assert_no_leftovers();
    site.assert_canary_unharmed();
    eprintln!("{kills} kills, {whole} pulls were faster");
}

#[test]
#[ignore = "run by the test above, which kills it"]
fn pull_once() {
    let directory = std::env::var_os("CES_TEST_SITE").expect("the test above tells where");
    let layout = std::env::var_os("CES_TEST_LAYOUT").expect("the test above tells what");
    let site = Site::existing(directory.as_ref());
    let layout = ces::image::source::layout::Layout::directory(layout.as_ref(), None);
    site.pull_from(&layout, "localhost/test").unwrap();
}
