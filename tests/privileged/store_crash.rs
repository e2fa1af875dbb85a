//! A pull that is killed at any moment leaves a store that is right: what it lists is whole and runs, the rest is not there.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::image_support::Tar;
use crate::support::layout::with_layers;
use crate::support::{Host, Ran, children};

const LAYERS: u32 = 4;
const FILES: u32 = 300;

/// What a file of a layer holds: no two are alike.
fn content(layer: u32, file: u32) -> Vec<u8> {
    format!("{layer}-{file} ").repeat(300).into_bytes()
}

/// Layers that each add files, replace one of the layer below, and hide another.
fn layers() -> Vec<Vec<u8>> {
    let layer = |n: u32| {
        let mut tar = Tar::default().dir("d/").file("d/whose", format!("{n}").as_bytes());
        for file in 0..FILES {
            tar = tar.file(&format!("d/{n}-{file}"), &content(n, file));
        }
        if n > 0 { tar.file(&format!("d/.wh.{}-0", n - 1), b"") } else { tar }.end()
    };
    (0..LAYERS).map(layer).collect()
}

/// What a run of the image has to print: its files in the order of the shell's `*`, hashed as one.
fn expected() -> String {
    let mut files: Vec<(String, Vec<u8>)> = vec![("whose".to_owned(), format!("{}", LAYERS - 1).into_bytes())];
    for n in 0..LAYERS {
        let hidden = u32::from(n + 1 < LAYERS);
        files.extend((hidden..FILES).map(|file| (format!("{n}-{file}"), content(n, file))));
    }
    files.sort();
    let all: Vec<u8> = files.iter().flat_map(|(_, content)| content).copied().collect();
    let digest: String = Sha256::digest(&all).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {digest}  -\n", files.len())
}

const LOOK: &str = "cd /d && echo \"$(ls | wc -l) $(cat * | sha256sum)\"";

#[test]
fn after_a_pull_that_was_killed_at_any_moment_what_is_listed_runs_right_and_the_rest_is_not_there() {
    let kills: u32 = if std::env::var_os("CES_LONG").is_some() { 200 } else { 25 };
    let Some(host) = Host::new() else { return };
    let config = json!({ "User": "analyst", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] });
    let layout = with_layers(host.tmp(), "crash", &config, &layers());
    let source = format!("oci:{}:crash", layout.display());
    let expected = expected();
    let pull = || {
        let mut command = host.ces();
        command.args(["pull", &source]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let ces = |words: &[&str]| Ran::from(host.ces().args(words).output());
    let run_of = |image: &str| host.run(&[image, "/bin/sh", "-c", LOOK]);
    let run = || run_of("localhost/crash");
    let began = Instant::now();
    assert!(pull().status().unwrap().success());
    let whole_pull = began.elapsed();
    assert_eq!(run().exits(0), expected);
    ces(&["rmi", "localhost/crash"]).exits(0);

    let store = host.root().join("store");
    let stages = [
        (store.join("layers/sha256"), 1),
        (store.join("layers/sha256"), LAYERS as usize),
        (store.join("images/sha256"), 1),
        // The name is the researcher's own.
        (store.join(format!("refs/u{}", host.researcher().uid)), 1),
    ];
    let (mut met, mut whole, mut unnamed) = (0, 0, 0);
    for kill in 0..kills {
        let mut child = pull().spawn().unwrap();
        match stages.get((kill % 8) as usize) {
            // As soon as something of this sort is there.
            Some((directory, count)) => {
                while child.try_wait().unwrap().is_none() && children(directory).len() < *count {}
            }
            // Spread over the time that a whole pull takes, in an order that is no order.
            None => std::thread::sleep(whole_pull * ((kill * 37) % kills) / kills + Duration::from_micros(500)),
        }
        // It fails when the pull has ended.
        child.kill().ok();
        met += u32::from(child.wait().unwrap().code().is_none());
        let outputs = host.named("outputs_");
        if kill % 5 == 1 {
            assert!(ces(&["fsck"]).exits(0).contains("nothing is damaged"), "after kill {kill}");
        }
        let listed = ces(&["images", "--quiet"]);
        match listed.exits(0) {
            "" => {
                run().refuses(125, &["image \"localhost/crash\" is not in the store", "ces pull"]);
                assert_eq!(host.named("outputs_"), outputs, "a run that was refused made something");
                if kill % 5 == 0 {
                    // The next pull makes of what the killed one left a whole image.
                    let again = ces(&["pull", &source]);
                    assert_eq!(again.code, Some(0), "after kill {kill}: {again:?}");
                    assert_eq!(run().exits(0), expected, "pulled again after kill {kill}");
                    ces(&["rmi", "localhost/crash"]).exits(0);
                }
            }
            "localhost/crash:latest\n" => {
                whole += 1;
                assert_eq!(run().exits(0), expected, "after kill {kill}");
                ces(&["rmi", "localhost/crash"]).exits(0);
            }
            // Killed between the image and its name: it is there whole, under its digest alone.
            digest if digest.starts_with("sha256:") && digest.lines().count() == 1 => {
                unnamed += 1;
                run().refuses(125, &["image \"localhost/crash\" is not in the store"]);
                assert_eq!(run_of(digest.trim()).exits(0), expected, "by digest after kill {kill}");
                ces(&["rmi", digest.trim()]).exits(0);
            }
            other => panic!("after kill {kill}, ces images lists: {other}"),
        }
    }
    assert!(whole > 0, "no kill came after the image was named");
    assert!(met > kills / 2, "only {met} of {kills} kills met a pull at work");
    assert!(pull().status().unwrap().success());
    assert_eq!(run().exits(0), expected);
    ces(&["prune"]).exits(0);
    // Of what the kills have left, nothing passes for damage.
    assert!(ces(&["fsck"]).exits(0).contains("nothing is damaged"));
    let left = children(&store.join("tmp"));
    assert!(left.is_empty(), "left over: {left:?}");
    ces(&["rmi", "localhost/crash"]).exits(0);
    let layers = children(&store.join("layers/sha256"));
    assert!(layers.is_empty(), "layers of no image: {layers:?}");
    host.nothing_is_left();
    eprintln!(
        "{met} of {kills} kills met a pull at work; after {whole} the image was there, after {unnamed} without a name"
    );
}

#[test]
fn a_directory_of_a_layer_that_was_killed_before_the_images_root_got_it_goes_with_the_next_pull() {
    let Some(host) = Host::with_demo() else { return };
    // As mkdir(2) makes it under umask 077: root's, and closed to the ids of images.
    let tree = host.root().join("store/tmp/layer-killed/fs");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::set_permissions(&tree, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    Ran::from(host.ces().args(["prune"]).output()).exits(0);
    assert_eq!(children(&host.root().join("store/tmp")), Vec::<std::path::PathBuf>::new());
}
