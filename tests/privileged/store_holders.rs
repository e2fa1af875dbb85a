//! Whose images and names are whose in a store that researchers share through sudo: what one does changes nothing for the next
//! and tells them nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::image_support::{Layer, LayoutDir, Pack, Tar};
use crate::registry_support::RealRegistry;
use crate::support::callers::{Caller, Desk};
use crate::support::layout::with_config;
use crate::support::scripted_registry::{Reply, Scripted};
use crate::support::{Ran, children, demo_layout};

/// Whoever has this in their words has said something of the other researcher.
const OTHERS: &str = "cesother";

fn root(desk: &Desk, words: &[&str]) -> Ran {
    Ran::from(desk.host.ces_as_root().args(words).output())
}

/// An image of its own at a place that everybody can read, by the name `tag`.
fn layout(desk: &Desk, dir: &str, tag: &str) -> String {
    let at = desk.host.tmp().join(dir);
    fs::create_dir_all(&at).unwrap();
    format!("oci:{}:{tag}", with_config(&at, tag, &json!({"Env": [format!("FROM={dir}")]})).display())
}

fn digest(pulled: &Ran) -> String {
    pulled.exits(0).trim().rsplit('@').next().unwrap().to_owned()
}

#[test]
fn two_researchers_may_give_the_same_name_and_root_is_told_both_digests() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let anns = digest(&desk.ces(&["pull", &layout(&desk, "ann", "tool")]));
    let bobs = digest(&desk.other_ces(&format!("pull {}", layout(&desk, "bob", "tool"))));
    assert_ne!(anns, bobs);
    let of = |ran: Ran| serde_json::from_str::<serde_json::Value>(ran.exits(0)).unwrap()["digest"].clone();
    assert_eq!(of(desk.ces(&["inspect", "localhost/tool"])), anns);
    assert_eq!(of(desk.other_ces("inspect localhost/tool")), bobs);
    assert_eq!(desk.other_ces("images --quiet").exits(0), "localhost/tool:latest\n");
    root(&desk, &["inspect", "localhost/tool"]).refuses(2, &["several images", &anns, &bobs, "digest"]);
    assert_eq!(of(root(&desk, &["inspect", &anns])), anns);
    assert_eq!(desk.ces(&["run", "localhost/tool", "/bin/sh", "-c", "echo $FROM"]).exits(0), "ann\n");
    // Root's own name moves neither, and is not moved.
    let roots = digest(&root(&desk, &["pull", &layout(&desk, "root", "tool")]));
    assert_eq!(of(root(&desk, &["inspect", "localhost/tool"])), roots);
    assert_eq!(of(desk.ces(&["inspect", "localhost/tool"])), anns);
    desk.other_ces("rmi localhost/tool").exits(0);
    assert_eq!(of(desk.other_ces("inspect localhost/tool")), roots);
    root(&desk, &["fsck"]).exits(0);
}

#[test]
fn rmi_drops_ones_own_hold_and_says_the_same_whoever_else_has_the_image() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let source = layout(&desk, "both", "tool");
    let image = digest(&desk.ces(&["pull", &source]));
    let alone = desk.ces(&["rmi", "localhost/tool"]).exits(0).to_owned();
    assert_eq!(alone, "removed localhost/tool:latest\n");
    assert!(children(&desk.host.root().join("store/layers/sha256")).is_empty());
    // The same pull again, for two.
    desk.ces(&["pull", &source]).exits(0);
    desk.other_ces(&format!("pull {source} --name theirs")).exits(0);
    let json = desk.ces(&["inspect", "localhost/tool"]);
    assert!(!json.exits(0).contains("theirs") && !json.stdout.contains(OTHERS), "{json:?}");
    assert_eq!(desk.ces(&["rmi", &image]).exits(0), alone);
    desk.ces(&["inspect", &image]).refuses(1, &["is not in the store"]);
    desk.ces(&["rmi", &image]).refuses(1, &["is not in the store"]);
    assert_eq!(desk.ces(&["prune"]).exits(0), "removed 0 images\n");
    desk.other_ces("inspect localhost/theirs").exits(0);
    assert_eq!(desk.other_ces("rmi --json localhost/theirs").exits(0).matches("layers").count(), 0);
    assert!(children(&desk.host.root().join("store/layers/sha256")).is_empty());
}

#[test]
fn what_root_pulled_goes_by_root_alone() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    desk.host.policy("contact = \"Information Governance\"\n");
    let image = digest(&root(&desk, &["pull", &layout(&desk, "root", "tool")]));
    for words in ["localhost/tool", image.as_str()] {
        let why = ["not yours to remove", "it was pulled by the administrator", "Information Governance"];
        desk.ces(&["rmi", words]).refuses(3, &why);
    }
    // Also of a researcher's own hold of it no more than that goes.
    desk.ces(&["pull", &layout(&desk, "root", "tool"), "--name", "mine"]).exits(0);
    assert_eq!(desk.ces(&["rmi", "localhost/mine"]).exits(0), "removed localhost/mine:latest\n");
    desk.ces(&["run", "localhost/tool", "true"]).exits(0);
    // Nor is it theirs to repair.
    let layer = children(&desk.host.root().join("store/layers/sha256")).remove(0);
    let passwd = fs::read(layer.join("fs/etc/passwd")).unwrap();
    fs::write(layer.join("fs/etc/passwd"), "damaged").unwrap();
    let said = desk.ces(&["fsck", "--repair"]);
    assert!(said.code == Some(1) && said.stdout.contains("not removed"), "{said:?}");
    fs::write(layer.join("fs/etc/passwd"), passwd).unwrap();
    assert!(root(&desk, &["rmi", "localhost/tool"]).exits(0).contains("deleted sha256:"));
    desk.other_ces("inspect localhost/tool").refuses(1, &["is not in the store"]);
}

#[test]
fn an_image_of_a_registry_of_everybodys_stays_for_those_who_pulled_it_too() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let image = |content: &[u8]| LayoutDir::of(&[Layer::new(&Tar::default().file("a", content).end(), Pack::Gzip)]);
    registry.push(&image(b"one"));
    desk.host.policy(&format!("[registries]\nallow = [\"{}\"]\n", registry.host));
    let name = format!("{}/lab/tool:1", registry.host);
    desk.ces(&["pull", &name]).exits(0);
    assert_eq!(desk.other_ces("images --quiet").exits(0), format!("{name}\n"));
    // Pulled by another: neither who, nor theirs to remove.
    let said = desk.other_ces("images --json");
    assert!(!said.exits(0).contains(&desk.host.researcher().name), "{said:?}");
    let refused = desk.other_ces(&format!("rmi {name}"));
    assert!(refused.code == Some(3) && refused.stderr.contains("not pulled by you"), "{refused:?}");
    assert!(!refused.stderr.contains(&desk.host.researcher().name), "{refused:?}");
    desk.other_ces(&format!("pull {name}")).exits(0);
    assert_eq!(desk.ces(&["rmi", &name]).exits(0), format!("removed {name}\n"));
    desk.other_ces(&format!("inspect {name}")).exits(0);
    assert_eq!(desk.other_ces(&format!("rmi {name}")).exits(0), format!("removed {name}\n"));
    assert!(children(&desk.host.root().join("store/images/sha256")).is_empty());
}

#[test]
fn what_a_registry_on_this_machine_gives_is_its_researchers_own_unless_the_policy_lists_it() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let image = |content: &[u8]| LayoutDir::of(&[Layer::new(&Tar::default().file("a", content).end(), Pack::Gzip)]);
    let name = format!("{}/lab/tool:1", registry.host);
    registry.push(&image(b"one"));
    let first = digest(&desk.ces(&["pull", &name]));
    assert_eq!(desk.other_ces("images --quiet").exits(0), "");
    desk.other_ces(&format!("inspect {first}")).refuses(1, &["is not in the store"]);
    // Who runs the registry gives the next one another image: the first one's name stays where it was.
    registry.push(&image(b"two"));
    let second = digest(&desk.other_ces(&format!("pull {name}")));
    assert_ne!(first, second);
    assert!(desk.ces(&["inspect", &name]).exits(0).contains(&first));
    // A name of everybody's is root's to give, or a registry's of everybody's.
    desk.host.policy(&format!("[registries]\nallow = [\"{}\"]\n", registry.host));
    root(&desk, &["pull", &layout(&desk, "root", "tool")]).exits(0);
    let other = format!("{}/lab/other:1", registry.host);
    let refused = desk.other_ces(&format!("pull {name} --name {other}"));
    assert!(refused.code == Some(3) && refused.stderr.contains("cannot be called"), "{refused:?}");
    desk.other_ces(&format!("pull {name} --name tool")).exits(0);
    assert!(!desk.ces(&["inspect", "localhost/tool"]).exits(0).contains(&second));
    assert!(desk.other_ces("inspect localhost/tool").exits(0).contains(&second));
}

/// A copy of the demonstration layout that belongs to the researcher.
fn own_layout(desk: &Desk, at: &Path) -> PathBuf {
    let copied = Command::new("cp").args(["-r".as_ref(), demo_layout().as_os_str(), at.as_os_str()]).status().unwrap();
    assert!(copied.success());
    let all = Command::new("chown").args(["-R", &desk.owner().to_string()]).arg(at).status().unwrap();
    assert!(all.success());
    desk.host.researcher().dir.join(at.file_name().unwrap())
}

#[test]
fn a_layout_whose_parts_lie_in_another_users_directory_is_refused_and_the_part_named() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    // The other researcher's image, that only they can read.
    let secret = desk.host.tmp().join("secret");
    own_layout(&desk, &secret);
    let all = Command::new("chown").args(["-R", "45999:45999"]).arg(&secret).status().unwrap();
    assert!(all.success());
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    for (case, object) in ["blobs", "blobs/sha256", "index.json"].into_iter().enumerate() {
        let at = desk.host.home().join(format!("layout{case}"));
        let seen = own_layout(&desk, &at);
        let part = at.join(object);
        if part.is_dir() {
            fs::remove_dir_all(&part).unwrap()
        } else {
            fs::remove_file(&part).unwrap()
        }
        symlink(secret.join(object), &part).unwrap();
        let ran = desk.ces(&["pull", &format!("oci:{}:demo", seen.display())]);
        ran.refuses(1, &[&format!("cannot read {object} of the layout"), "it is a symbolic link"]);
    }
    for source in [format!("oci:{}:demo", secret.display()), format!("oci-archive:{}/index.json", secret.display())] {
        desk.ces(&["pull", &source]).refuses(1, &["cannot read", "ermission denied"]);
    }
    // A name that leads to a directory of one's own is as good as that directory.
    let own = own_layout(&desk, &desk.host.home().join("own"));
    let link = desk.host.home().join("link");
    symlink(&own, &link).unwrap();
    chown(desk.host.home(), Some(desk.owner()), None).unwrap();
    let link = desk.host.researcher().dir.join("link");
    desk.ces(&["pull", &format!("oci:{}:demo", link.display())]).exits(0);
    desk.sh(&[], "true").exits(0);
}

#[test]
fn what_one_researchers_pull_has_left_is_not_taken_up_by_another() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let layer = Layer::new(&Tar::default().file("a", &[7; 300_000]).end(), Pack::Plain);
    let layout = LayoutDir::of(std::slice::from_ref(&layer));
    let (blob, bytes) = (format!("/v2/x/blobs/{}", layer.diff_id), layer.blob.clone());
    let registry = Scripted::start(layout.path(), "x", move |asked| {
        let cut = [Reply::bytes(&bytes).cut_after(100_000), Reply::status(404)];
        (asked.path == blob).then(|| cut.get(asked.before).cloned()).flatten()
    });
    let name = format!("{}/x:1", registry.host);
    desk.ces(&["pull", &name]).refuses(1, &["does not exist"]);
    desk.other_ces(&format!("pull {name}")).exits(0);
    desk.ces(&["pull", &name]).exits(0);
    let from: Vec<_> = registry
        .asked_for("/blobs/")
        .iter()
        .filter(|a| a.path.contains(layer.diff_id.hex()))
        .map(|a| a.from())
        .collect();
    assert_eq!(from, [0, 100_000, 0, 100_000]);
}

#[test]
fn a_near_name_is_proposed_of_ones_own_and_never_of_another_researchers() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    desk.ces(&["pull", &layout(&desk, "ann", "tool")]).exits(0);
    desk.ces(&["inspect", "tol"]).refuses(1, &["did you mean localhost/tool:latest?"]);
    let said = desk.other_ces("inspect tol");
    said.refuses(1, &["is not in the store"]);
    assert!(!said.stderr.contains("tool"), "{said:?}");
}
