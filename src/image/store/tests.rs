//! Several researchers' names and holdings in one store, without any of their bytes.

use std::fs;

use super::record::ImageRecord;
use super::viewer::{Rights, Viewer};
use super::{Store, write_json};
use crate::error::{Kind, Result};
use crate::host::caller::Caller;
use crate::host::idmap::{Extent, IdMap};
use crate::image::reference::Digest;
use crate::image::unpack::Limits;
use crate::image::unpack::parent::Unpacker;

const PUBLIC: Rights = Rights { own: false, own_name: false, group: None };
const PRIVATE: Rights = Rights { own: true, own_name: true, group: None };
const FOR_PROJECT: Rights = Rights { own: true, own_name: true, group: Some(70) };

/// A store, and whoever comes to it.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["refs", "tmp", "images/sha256", "layers/sha256"] {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        Self(directory)
    }

    fn seen_by(&self, viewer: Viewer) -> Store {
        let one = |outside| vec![Extent { inside: 0, outside, count: 1 }];
        let ids = IdMap { uids: one(nix::unistd::getuid().as_raw()), gids: one(nix::unistd::getgid().as_raw()) };
        Store { root: self.0.path().to_owned(), ids, viewer, dry: None }
    }

    fn root(&self) -> Store {
        self.seen_by(Viewer::Everyone)
    }

    /// A researcher of the project 70.
    fn member(&self, uid: u32) -> Store {
        self.seen_by(Viewer::Researcher { uid, groups: vec![uid, 70], shared: false })
    }

    /// A researcher of no project.
    fn stranger(&self, uid: u32) -> Store {
        self.seen_by(Viewer::Researcher { uid, groups: vec![uid], shared: false })
    }
}

/// What a pull leaves of an image with this content.
fn pull(store: &Store, name: &str, content: &str, rights: Rights) -> Digest {
    let manifest = Digest::of(content.as_bytes());
    let pull = store.pull_by("somebody", &format!("from {content}"), "2026".to_owned(), rights);
    let record = ImageRecord::new(manifest.clone(), Vec::new(), (0, 0, 0), pull);
    let record = match store.readable(&manifest) {
        Some(before) => record.joined_to(&before),
        None => record,
    };
    let held = store.exclusive().unwrap();
    fs::create_dir_all(store.image_path(&manifest)).unwrap();
    write_json(&store.aside(), &store.image_path(&manifest).join("image.json"), &record).unwrap();
    store.set_name(&held, name, &manifest, rights).unwrap();
    manifest
}

fn found(store: &Store, words: &str) -> Result<Digest> {
    store.resolve(&store.shared().unwrap(), words).map(|(_, manifest)| manifest)
}

#[track_caller]
fn missing(store: &Store, words: &str) {
    let error = found(store, words).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing, "{error}");
}

fn unpacker() -> Unpacker {
    Unpacker::with_exe(&Caller::find().unwrap(), &Limits::default(), "/proc/self/exe".as_ref()).unwrap()
}

fn remove(store: &Store, words: &str) -> Result<super::remove::Freed> {
    store.remove(words, &unpacker())
}

fn listed(store: &Store) -> Vec<String> {
    let name = |image: super::Listed| image.reference.unwrap_or_else(|| "<none>".to_owned());
    store.images().unwrap().into_iter().map(name).collect()
}

const NAME: &str = "localhost/tool:1";

#[test]
fn a_name_of_ones_own_neither_hides_nor_moves_anybody_elses() {
    let desk = Desk::new();
    let (root, ann, bob) = (desk.root(), desk.stranger(1), desk.stranger(2));
    let roots = pull(&root, NAME, "root's", PUBLIC);
    let anns = pull(&ann, NAME, "ann's", PRIVATE);
    assert_eq!(found(&bob, NAME).unwrap(), roots);
    let bobs = pull(&bob, NAME, "bob's", PRIVATE);
    assert_eq!([&root, &ann, &bob].map(|who| found(who, NAME).unwrap()), [roots.clone(), anns.clone(), bobs.clone()]);
    assert_eq!(found(&desk.stranger(3), NAME).unwrap(), roots);
    // Nor is one's image told by another's name.
    missing(&ann, bobs.hex());
    missing(&ann, &format!("localhost/tool@{bobs}"));
    assert_eq!(listed(&ann), ["<none>", NAME]);
    assert_eq!(listed(&root), [NAME, NAME, NAME]);
    // Without a name of everybody's, root is told of both.
    remove(&root, NAME).unwrap();
    let error = found(&root, NAME).unwrap_err();
    assert!(error.report().contains(anns.as_str()) && error.report().contains(bobs.as_str()), "{error}");
    assert_eq!(found(&root, anns.hex()).unwrap(), anns);
    missing(&desk.stranger(3), NAME);
}

#[test]
fn what_is_nearest_is_meant() {
    let desk = Desk::new();
    let (ann, bob, cat) = (desk.member(1), desk.member(2), desk.stranger(3));
    let public = pull(&cat, "ghcr.io/tool:1", "public", PUBLIC);
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), public);
    let anns = pull(&ann, "ghcr.io/tool:1", "ann's", FOR_PROJECT);
    // The project's before everybody's; of those who pulled everybody's, that; one's own before all.
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), anns);
    assert_eq!(found(&cat, "ghcr.io/tool:1").unwrap(), public);
    pull(&bob, "ghcr.io/tool:1", "public", PUBLIC);
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), public);
    let bobs = pull(&bob, "ghcr.io/tool:1", "bob's", PRIVATE);
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), bobs);
    // And whoever pulls everybody's again means that.
    pull(&ann, "ghcr.io/tool:1", "public", PUBLIC);
    assert_eq!(found(&ann, "ghcr.io/tool:1").unwrap(), public);
}

#[test]
fn two_of_a_project_who_mean_different_images_are_told_apart_by_digest() {
    let desk = Desk::new();
    let digests = [1, 2].map(|uid| pull(&desk.member(uid), NAME, &uid.to_string(), FOR_PROJECT));
    assert_eq!(found(&desk.member(1), NAME).unwrap(), digests[0]);
    let error = found(&desk.member(3), NAME).unwrap_err();
    assert!(digests.iter().all(|digest| error.report().contains(digest.as_str())), "{error}");
    assert_eq!(found(&desk.member(3), digests[1].hex()).unwrap(), digests[1]);
    missing(&desk.stranger(4), NAME);
}

#[test]
fn an_image_goes_with_its_last_holder() {
    let desk = Desk::new();
    let (ann, bob) = (desk.stranger(1), desk.stranger(2));
    for (rights, name) in [(PUBLIC, "ghcr.io/tool:1"), (PRIVATE, NAME)] {
        let image = pull(&ann, name, "x", rights);
        pull(&bob, name, "x", rights);
        let freed = remove(&ann, name).unwrap();
        // Not a word about what others have.
        assert_eq!((freed.names, freed.images, freed.layers), (vec![name.to_owned()], vec![image.clone()], None));
        assert_eq!(found(&bob, name).unwrap(), image);
        assert!(!ann.readable(&image).unwrap().is_held_by(1));
        let freed = remove(&bob, image.hex()).unwrap();
        assert_eq!((freed.names, freed.images, freed.layers), (vec![name.to_owned()], vec![image.clone()], None));
        assert!(!ann.image_path(&image).exists());
        missing(&desk.root(), name);
    }
}

#[test]
fn a_researcher_removes_nothing_that_they_have_not_pulled() {
    let desk = Desk::new();
    let (root, ann, bob) = (desk.root(), desk.stranger(1), desk.stranger(2));
    let image = pull(&root, "ghcr.io/tool:1", "x", PUBLIC);
    for words in ["ghcr.io/tool:1", image.hex()] {
        let error = remove(&ann, words).unwrap_err();
        assert_eq!(error.kind(), Kind::Policy);
        assert!(error.report().contains("it was pulled by the administrator"), "{error}");
    }
    // Who pulled it too lets go of it, and it stays root's.
    pull(&ann, "ghcr.io/tool:1", "x", PUBLIC);
    remove(&ann, "ghcr.io/tool:1").unwrap();
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), image);
    assert!(remove(&ann, "ghcr.io/tool:1").is_err());
    // Another's, that is everybody's: the same refusal, without a word about whose it is.
    pull(&bob, "ghcr.io/other:1", "y", PUBLIC);
    let report = remove(&ann, "ghcr.io/other:1").unwrap_err().report();
    assert!(report.contains("it was not pulled by you") && !report.contains("somebody"), "{report}");
    // One of their project's is no exception.
    pull(&desk.member(3), NAME, "z", FOR_PROJECT);
    assert_eq!(remove(&desk.member(4), NAME).unwrap_err().kind(), Kind::Policy);
    // Root removes for everybody.
    pull(&ann, "ghcr.io/tool:1", "x", PUBLIC);
    remove(&root, "ghcr.io/tool:1").unwrap();
    missing(&ann, "ghcr.io/tool:1");
    assert!(!root.image_path(&image).exists());
}

#[test]
fn what_one_name_of_an_image_frees_is_kept_by_the_other() {
    let desk = Desk::new();
    let (root, ann) = (desk.root(), desk.stranger(1));
    let image = pull(&ann, "localhost/one:1", "x", PRIVATE);
    pull(&ann, "localhost/two:1", "x", PRIVATE);
    assert!(remove(&ann, "localhost/one:1").unwrap().images.is_empty());
    assert_eq!(found(&ann, "localhost/two:1").unwrap(), image);
    // Root takes its own name and lets go with it: what is left is the researcher's alone again.
    pull(&root, "ghcr.io/tool:1", "x", PUBLIC);
    assert_eq!(found(&desk.stranger(2), image.hex()).unwrap(), image);
    assert!(remove(&root, "ghcr.io/tool:1").unwrap().images.is_empty());
    missing(&desk.stranger(2), image.hex());
    assert_eq!(found(&ann, "localhost/two:1").unwrap(), image);
}

#[test]
fn an_image_in_use_by_somebody_is_let_go_without_a_word_and_goes_later() {
    let desk = Desk::new();
    let (ann, bob) = (desk.stranger(1), desk.stranger(2));
    let image = pull(&ann, "ghcr.io/tool:1", "x", PUBLIC);
    let in_use = fs::File::open(ann.image_path(&image)).unwrap();
    in_use.lock_shared().unwrap();
    assert_eq!(remove(&ann, "ghcr.io/tool:1").unwrap().images, std::slice::from_ref(&image));
    for who in [&ann, &bob] {
        missing(who, "ghcr.io/tool:1");
        missing(who, image.hex());
        who.prune(&unpacker()).unwrap();
    }
    assert!(ann.image_path(&image).exists());
    drop(in_use);
    assert!(bob.prune(&unpacker()).unwrap().images.is_empty());
    assert!(!ann.image_path(&image).exists());
}

#[test]
fn pruning_takes_from_nobody_else() {
    let desk = Desk::new();
    let (ann, bob) = (desk.stranger(1), desk.stranger(2));
    let old = pull(&ann, "ghcr.io/tool:1", "old", PUBLIC);
    let anns = pull(&ann, NAME, "ann's", PRIVATE);
    // The name goes to a newer image.
    let new = pull(&bob, "ghcr.io/tool:1", "new", PUBLIC);
    assert!(bob.prune(&unpacker()).unwrap().images.is_empty());
    assert!([&old, &anns, &new].iter().all(|image| ann.image_path(image).exists()));
    assert_eq!(ann.prune(&unpacker()).unwrap().images, std::slice::from_ref(&old));
    assert!(!ann.image_path(&old).exists() && ann.image_path(&new).exists());
    assert!(desk.root().prune(&unpacker()).unwrap().images.is_empty());
}

#[test]
fn names_of_older_stores_are_everybodys_or_their_images_holders() {
    let desk = Desk::new();
    let (root, ann, bob) = (desk.root(), desk.stranger(1), desk.stranger(2));
    let older = |name: &str, content: &str, holders: serde_json::Value| {
        let manifest = Digest::of(content.as_bytes());
        let mut record = serde_json::json!({"manifest": manifest, "layers": [], "bytes": 0, "blob_bytes": 0,
            "pulled": "2025", "by": "ann", "source": "oci:/home/ann/x"});
        if !holders.is_null() {
            record["holders"] = holders;
        }
        fs::create_dir_all(root.image_path(&manifest)).unwrap();
        fs::write(root.image_path(&manifest).join("image.json"), record.to_string()).unwrap();
        let file = desk.0.path().join(format!("refs/{}.json", Digest::of(name.as_bytes()).hex()));
        fs::write(file, serde_json::json!({"reference": name, "manifest": manifest}).to_string()).unwrap();
        manifest
    };
    let public = older("ghcr.io/tool:1", "public", serde_json::Value::Null);
    let anns = older(NAME, "ann's", serde_json::json!([{"uid": 1, "group": null}]));
    assert_eq!(found(&bob, "ghcr.io/tool:1").unwrap(), public);
    assert_eq!(found(&ann, NAME).unwrap(), anns);
    missing(&bob, NAME);
    assert_eq!(remove(&ann, "ghcr.io/tool:1").unwrap_err().kind(), Kind::Policy);
    // Whoever comes by that name has their own, or everybody's, and the holder keeps theirs.
    let bobs = pull(&bob, NAME, "bob's", PRIVATE);
    assert_eq!((found(&ann, NAME).unwrap(), found(&bob, NAME).unwrap()), (anns.clone(), bobs));
    let roots = pull(&root, NAME, "root's", PUBLIC);
    assert_eq!((found(&ann, NAME).unwrap(), found(&root, NAME).unwrap()), (anns.clone(), roots.clone()));
    remove(&ann, NAME).unwrap();
    assert_eq!((found(&ann, NAME).unwrap(), ann.image_path(&anns).exists()), (roots, false));
}

#[test]
fn a_damaged_name_is_its_owners_and_roots_to_know() {
    let desk = Desk::new();
    let (root, ann, bob) = (desk.root(), desk.stranger(1), desk.stranger(2));
    pull(&ann, NAME, "x", PRIVATE);
    let bobs = pull(&bob, "localhost/other:1", "y", PRIVATE);
    let file = ann.ref_path(super::names::Space::Of(1), NAME);
    fs::write(&file, "damaged").unwrap();
    missing(&bob, NAME);
    assert_eq!(found(&bob, "localhost/other:1").unwrap(), bobs);
    assert_eq!(listed(&bob), ["localhost/other:1"]);
    // They are told of the name; the images here have no documents, which is told beside it.
    let names = |store: &Store| {
        let found = store.check(&unpacker(), false).unwrap().damaged;
        found.into_iter().filter(|damage| damage.what == super::check::What::Name).map(|d| d.name).collect::<Vec<_>>()
    };
    assert!(names(&bob).is_empty());
    for who in [&root, &ann] {
        assert_eq!(names(who).len(), 1);
        assert!(names(who)[0].starts_with("u1/") && found(who, NAME).is_err());
    }
    pull(&ann, NAME, "x", PRIVATE);
    assert!(names(&root).is_empty());
}
