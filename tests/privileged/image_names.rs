//! How an image that was pulled is found again, and what is said of one that cannot run.

use std::fs;

use crate::image_support::{Layer, LayoutDir, Pack, Tar};
use crate::support::callers::{Caller, Desk};
use crate::support::{Host, Ran};

/// An image of one file for `architecture`, where everybody can read it; the words to pull it by.
fn image(host: &Host, name: &str, architecture: &str) -> String {
    let layer = Layer::new(&Tar::default().dir("bin/").file("bin/true", name.as_bytes()).end(), Pack::Gzip);
    let layout = LayoutDir::of(std::slice::from_ref(&layer));
    let manifest = layout.image(&[layer], architecture);
    layout.index(&[(manifest, Some(name))]);
    let place = host.tmp().join(format!("{name}-{architecture}"));
    let copied = std::process::Command::new("cp").arg("-r").arg(layout.path()).arg(&place).status().unwrap();
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(&place).status().unwrap();
    assert!(copied.success() && opened.success());
    format!("oci:{}:{name}", place.display())
}

fn own() -> String {
    ces::image::document::Platform::host().architecture
}

#[test]
fn an_image_is_found_by_its_short_name_with_docker_and_in_any_case_wherever_one_is_named() {
    let Some(host) = Host::with_demo() else { return };
    let ces = |words: &[&str]| Ran::from(host.ces().args(words).output());
    ces(&["pull", "--name", "t/x:1", &image(&host, "x", &own())]).exits(0);
    for words in ["t/x:1", "docker://t/x:1", "docker://localhost/t/x:1", "LocalHost/t/x:1"] {
        assert!(ces(&["inspect", words]).exits(0).contains("\"localhost/t/x:1\""), "{words}");
        assert!(ces(&["policy", "explain", words]).exits(0).contains("localhost/t/x:1@sha256:"), "{words}");
        ces(&["spec", words]).exits(0);
    }
    host.run(&["demo", "/bin/true"]).exits(0);
    host.run(&["docker://localhost/demo", "/bin/true"]).exits(0);
    ces(&["inspect", "t/y:1"]).refuses(1, &["not in the store", "did you mean localhost/t/x:1?"]);
    host.run(&["ghcr.io/t/x:1"]).refuses(125, &["did you mean localhost/t/x:1?"]);
    assert_eq!(ces(&["rmi", "t/x:1"]).exits(0).lines().next(), Some("removed localhost/t/x:1"));
}

#[test]
fn of_a_file_the_command_that_stores_it_is_said_and_nothing_is_pulled() {
    let Some(host) = Host::new() else { return };
    let archive = host.tmp().join("image.tar");
    fs::write(&archive, "anything").unwrap();
    let path = archive.display().to_string();
    host.run(&[&path]).refuses(125, &["is a file", &format!("ces pull oci-archive:{path}")]);
    host.run(&[&format!("docker-archive:{path}")])
        .refuses(125, &[&format!("ces pull docker-archive:{path} stores it")]);
    let images = Ran::from(host.ces().args(["images", "-q"]).output());
    assert_eq!(images.exits(0), "");
}

#[test]
fn an_image_for_another_platform_is_told_at_pull_and_refused_before_the_start() {
    let Some(host) = Host::new() else { return };
    let pulled = host.ces().args(["pull", "--platform", "linux/mips64le", &image(&host, "far", "mips64le")]).output();
    let pulled = Ran::from(pulled);
    pulled.exits(0);
    assert!(pulled.stderr.contains("is for linux/mips64le and will not run on this host"), "{pulled:?}");
    let platform = ces::image::document::Platform::host().to_string();
    host.run(&["far"]).refuses(125, &["cannot run on this host", "linux/mips64le", &platform, "nothing was run"]);
    assert!(host.records().is_empty());
}

#[test]
fn a_pull_says_that_the_image_may_not_run_before_its_layers_come() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let list = desk.host.inside(std::path::Path::new("/etc/ces/approved.toml"));
    let policy = |entries: &str| {
        fs::write(&list, entries).unwrap();
        desk.host.policy("[images]\napproved = \"/etc/ces/approved.toml\"\n");
    };
    policy("");
    let source = image(&desk.host, "new", &own());
    let pulled = desk.ces(&["pull", &source]);
    let digest = pulled.exits(0).trim().rsplit('@').next().unwrap().to_owned();
    let warned = format!("the image may not run here: image {digest} is not approved");
    assert!(pulled.stderr.contains(&warned) && pulled.stderr.contains("ask for it: ces request sha256:"), "{pulled:?}");
    let entry = |projects: &str, end: &str| {
        format!("[[image]]\ndigest = \"{digest}\"\nprojects = {projects}\nexpires = {end}\napprover = \"A. Person\"\n")
    };
    policy(&entry("[\"*\"]", "2020-01-31"));
    let pulled = desk.ces(&["pull", &source]);
    assert!(pulled.code == Some(0) && pulled.stderr.contains("ended on 2020-01-31"), "{pulled:?}");
    policy(&entry("[\"of-nobody\"]", "2999-01-31"));
    let pulled = desk.ces(&["pull", &source]);
    assert!(pulled.code == Some(0) && pulled.stderr.contains("may not run here"), "{pulled:?}");
    policy(&entry("[\"*\"]", "2999-01-31"));
    let pulled = desk.ces(&["pull", &source]);
    assert!(pulled.code == Some(0) && !pulled.stderr.contains("may not run"), "{pulled:?}");
}
