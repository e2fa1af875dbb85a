//! How much an image may ask of the store, as the site's policy says.

use std::fs;
use std::process::Command;

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};

/// Pulls, by the binary itself, an image of two layers under this `[images.limits]`; gives exit status and report.
fn pull(limits: &str) -> (Option<i32>, String) {
    let site = Site::new();
    let layer = |name: &str| Layer::new(&Tar::default().dir("d/").file(name, &[7; 5000]).end(), Pack::Gzip);
    site.store();
    let layout = LayoutDir::of(&[layer("d/a"), layer("d/b")]);
    let policy = site.directory.path().join("policy.toml");
    fs::write(&policy, format!("[images.limits]\n{limits}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ces"));
    command.env_remove("SUDO_UID").env_remove("SUDO_USER");
    command.arg("--root").arg(site.directory.path()).arg("--policy").arg(policy);
    let output = command
        .args(["pull", "--name", "localhost/test"])
        .arg(format!("oci:{}", layout.path().display()))
        .output()
        .unwrap();
    site.assert_no_leftovers();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_sites_limits_hold_for_every_pull() {
    for (limits, why) in [
        ("layer = \"6k\"", "more than 6144 bytes"),
        ("image = \"12k\"", "the image expands to more than 12288 bytes"),
        ("entries = 1", "more than 1 entries"),
        ("layers = 1", "it has 2 layers; at most 1 are allowed"),
    ] {
        let (code, report) = pull(limits);
        assert!(code == Some(1) && report.contains(why) && report.contains("hint: "), "{limits}: {code:?} {report}");
    }
    let (code, report) = pull("layer = \"1m\"\nimage = \"1m\"\nentries = 10\nlayers = 2");
    assert_eq!(code, Some(0), "{report}");
    let (code, report) = pull("layer = 5");
    assert!(code == Some(3) && report.contains("images.limits.layer must be a size"), "{report}");
}
