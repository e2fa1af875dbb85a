//! Images come from what the researcher may read, and are removed by who holds them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::image_support::{Layer, LayoutDir, Pack, Tar};
use crate::registry_support::RealRegistry;
use crate::support::Ran;
use crate::support::attack::Attack;
use crate::support::callers::OTHER_ID;
use crate::support::layout::with_config;

/// A layout that says whose it is, and an archive of it, the other's ones for them alone.
fn two(attack: &Attack) -> [(PathBuf, PathBuf); 2] {
    let own = attack.desk.owner();
    ["own", "theirs"].map(|whose| {
        let (top, uid) = if whose == "own" { (attack.home(""), own) } else { (attack.others(""), OTHER_ID) };
        let made = with_config(&top, whose, &json!({"Env": [format!("FROM={whose}")]}));
        let archive = top.join(format!("{whose}.tar"));
        let packed = Command::new("tar").args(["-cf"]).arg(&archive).arg("-C").arg(&made).arg(".").status().unwrap();
        assert!(packed.success());
        let all = [made.as_path(), archive.as_path()];
        let given = Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).args(all).status().unwrap();
        assert!(given.success());
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        (made, archive)
    })
}

/// Whether an image of the first researcher's is the other's: none has their variable.
fn nothing_of_theirs(attack: &Attack) {
    let ran = attack.ces(&["images", "--quiet"]);
    for name in ran.exits(0).lines() {
        let inspected = attack.ces(&["inspect", name]);
        assert!(!inspected.exits(0).contains("FROM=theirs"), "{name}");
    }
}

#[test]
fn a_layout_or_archive_of_anothers_is_read_by_no_link_and_in_no_moment() {
    let Some(attack) = Attack::new() else { return };
    let [(own, own_archive), (theirs, their_archive)] = two(&attack);
    let canary = attack.canary();
    let sources = |layout: &Path, archive: &Path| {
        let (layout, archive) = (layout.display(), archive.display());
        [format!("oci:{layout}"), format!("oci-archive:{archive}"), format!("docker-archive:{archive}")]
    };
    for source in sources(&theirs, &their_archive) {
        attack.ces(&["pull", &source, "--name", "x"]).refuses(1, &["cannot read"]);
    }
    let (dir, file) = (attack.home("by-link"), attack.home("by-link.tar"));
    attack.link(&theirs, &dir);
    attack.link(&their_archive, &file);
    for source in sources(&dir, &file) {
        attack.ces(&["pull", &source, "--name", "x"]).refuses(1, &["cannot read"]);
    }
    // What is exchanged while it is read is read whole from one of the two, and from theirs not at all.
    let began = Instant::now();
    let (mut swapped, mut rounds, mut pulled) = (0, 0, 0);
    let limit = Duration::from_secs(8) * u32::try_from(attack.rounds() / 100).unwrap();
    let blobs = attack.home("blobs");
    attack.link(&theirs.join("blobs"), &blobs);
    while rounds < attack.rounds() && began.elapsed() < limit {
        rounds += 1;
        let (a, b, source) = match rounds % 3 {
            0 => (own_archive.clone(), file.clone(), format!("oci-archive:{}", own_archive.display())),
            1 => (own.clone(), dir.clone(), format!("oci:{}", own.display())),
            _ => (own.join("blobs"), blobs.clone(), format!("oci:{}", own.display())),
        };
        let swapper = attack.swapper(&a, &b);
        pulled += usize::from(attack.ces(&["pull", &source, "--name", "x"]).code == Some(0));
        swapped += swapper.stop();
    }
    attack.tried(rounds, Some(swapped));
    assert!(swapped > 0 && pulled > 0, "{swapped} exchanges, {pulled} of {rounds} pulled");
    nothing_of_theirs(&attack);
    canary.is_unchanged();
}

#[test]
fn a_file_of_credentials_is_the_callers_own_to_read() {
    let Some(registry) = RealRegistry::start(true) else { return };
    let Some(attack) = Attack::new() else { return };
    attack.file(&attack.others("creds"), "researcher:secret", (OTHER_ID, OTHER_ID), 0o600);
    attack.file(&attack.desk.host.inside(Path::new("/root/creds")), "researcher:secret", (0, 0), 0o600);
    let canary = attack.canary();
    let name = format!("{}/lab/tool:1", registry.host);
    registry.push(&LayoutDir::of(&[Layer::new(&Tar::default().file("a", b"one").end(), Pack::Gzip)]));
    for target in [attack.others("creds"), "/root/creds".into(), "/root/secret.txt".into(), attack.others("secret.txt")]
    {
        attack.link(&target, &attack.home("creds"));
        for file in [target.display().to_string(), "creds".into()] {
            let ran = attack.ces(&["pull", "--creds", &file, &name]);
            assert!(ran.code.is_some_and(|code| code != 0), "{file}: {ran:?}");
            assert!(!ran.stderr.contains("secret\"") && !ran.stderr.contains(":secret"), "{ran:?}");
        }
    }
    let own = attack.desk.owner();
    fs::remove_file(attack.home("creds")).unwrap();
    attack.file(&attack.home("creds"), "researcher:secret", (own, own), 0o600);
    attack.ces(&["pull", "--creds", "creds", &name]).exits(0);
    // Nor do they go to a registry that another user runs, by a name that the caller did not give.
    attack.other(&format!("sudo -n $CES run {name} true")).refuses(125, &["is not in the store"]);
    canary.is_unchanged();
}

#[test]
fn a_registry_that_another_runs_on_this_host_gives_names_to_nobody_else() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let Some(attack) = Attack::new() else { return };
    let image = |content: &[u8]| LayoutDir::of(&[Layer::new(&Tar::default().file("a", content).end(), Pack::Gzip)]);
    let name = format!("{}/lab/tool:1", registry.host);
    registry.push(&image(b"good"));
    let first = attack.other(&format!("sudo -n $CES pull {name}")).exits(0).trim().to_owned();
    for host in ["localhost", "127.0.0.2", "127.1", "[::1]", "0.0.0.0", "127.0.0.1"] {
        registry.push(&image(host.as_bytes()));
        let port = registry.host.rsplit(':').next().unwrap();
        // What cannot be pulled so changes nothing either.
        attack.ces(&["pull", &format!("{host}:{port}/lab/tool:1")]);
        attack.ces(&["pull", &name, "--name", &name]);
    }
    let digest = first.rsplit('@').next().unwrap();
    assert!(attack.other(&format!("sudo -n $CES inspect {name}")).exits(0).contains(digest));
    let listed = attack.other("sudo -n $CES images --quiet");
    let seen: Vec<_> = listed.exits(0).lines().collect();
    assert_eq!(seen, [name.as_str(), "localhost/demo:latest"], "{listed:?}");
}

#[test]
fn what_root_or_others_hold_is_removed_by_no_verb_of_a_researchers() {
    let Some(attack) = Attack::new() else { return };
    let [(own, _), (theirs, _)] = two(&attack);
    let digest = |said: &str| said.trim().rsplit('@').next().unwrap().to_owned();
    let held = digest(attack.other(&format!("sudo -n $CES pull oci:{} --name held", theirs.display())).exits(0));
    let demo = attack.ces(&["inspect", "localhost/demo"]);
    let demo: serde_json::Value = serde_json::from_str(demo.exits(0)).unwrap();
    let demo = demo["digest"].as_str().unwrap().to_owned();
    let canary = attack.canary();
    for image in ["localhost/demo", &demo, "localhost/held", &held, "localhost/never"] {
        let ran = attack.ces(&["rmi", image]);
        assert!(matches!(ran.code, Some(1 | 3)), "{image}: {ran:?}");
        canary.is_unchanged();
    }
    // The same image, held besides: only that goes.
    attack.ces(&["pull", &format!("oci:{}", own.display()), "--name", "held"]).exits(0);
    for words in [&["rmi", "localhost/held"][..], &["prune"], &["fsck", "--repair"]] {
        attack.ces(words);
        canary.is_unchanged();
    }
    attack.other("sudo -n $CES run localhost/held true").exits(0);
    let root = Ran::from(attack.desk.host.ces_as_root().env_remove("CES_ROOT").args(["rmi", &demo]).output());
    root.exits(0);
    assert!(!canary.changes().is_empty(), "what root may remove, goes");
}
