//! Archives of images as people have them: compressed, with several images, with names of their own; and hostile ones.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ces::error::Result;
use ces::image::document::{Compression, Platform};
use ces::image::reference::Pick;
use ces::image::source::layout::Layout;
use ces::image::source::{Origin, archive, docker_archive};
use serde_json::{Value, json};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar, gzip};
use crate::support::callers::{Caller, Desk};
use crate::support::{Host, Ran, have};

fn layer(name: &str) -> Layer {
    Layer::new(&Tar::default().dir("d/").file(&format!("d/{name}"), name.as_bytes()).end(), Pack::Plain)
}

/// For archives that are not compressed.
fn never(_: &File, name: &str, _: Compression) -> Result<File> {
    panic!("{name} is not compressed")
}

/// What `docker save` writes of images with these names, each with a file and a variable that tell it from the others.
fn docker(images: &[&[&str]]) -> Tar {
    let mut list = Vec::new();
    let mut archive = Tar::default();
    for (place, tags) in images.iter().enumerate() {
        let layer = layer(&format!("image{place}"));
        let config = json!({"architecture": Platform::host().architecture, "os": "linux",
            "config": {"Env": [format!("IMAGE={place}")]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}});
        archive = archive
            .file(&format!("config{place}.json"), config.to_string().as_bytes())
            .file(&format!("layer{place}.tar"), &layer.blob);
        let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
        list.push(json!({"Config": format!("config{place}.json"), "RepoTags": tags,
            "Layers": [format!("layer{place}.tar")]}));
    }
    archive.file("manifest.json", json!(list).to_string().as_bytes())
}

/// A layout's archive, whose images have these annotations.
fn oci(images: &[Value]) -> Vec<u8> {
    let layout = LayoutDir::of(&[layer("one")]);
    let entries: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(place, annotations)| {
            let bytes = layout.image(&[layer(&format!("image{place}"))], &Platform::host().architecture);
            let digest = layout.blob(&bytes);
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": bytes.len(),
                "annotations": annotations})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "manifests": entries});
    fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
    let archive = Command::new("tar").arg("-C").arg(layout.path()).args(["-cf", "-", "."]).output().unwrap();
    assert!(archive.status.success());
    archive.stdout
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

/// A file of the test's that everybody can read.
fn put(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// Name and digest, as `ces pull` prints them.
fn pulled(ran: &Ran) -> (String, String) {
    let (name, digest) = ran.exits(0).trim().split_once('@').unwrap();
    (name.to_owned(), digest.to_owned())
}

#[test]
fn archives_of_all_sorts_are_read_in_place() {
    let site = Site::new();
    let layers = [layer("a"), layer("b")];
    let layout = LayoutDir::of(&layers);
    let file = site.directory.path().join("image.tar");
    let tar = |directory: &Path| {
        let status = Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(&file).arg(".").status();
        assert!(status.unwrap().success());
    };
    tar(layout.path());
    let named = |name: &str| Pick::Named(name.to_owned());
    let archive = archive::layout(&file, named("test"), &never).unwrap();
    let first = site.pull_from(&archive, "localhost/archive:1").unwrap();
    let directory = Layout::directory(layout.path(), Pick::Only).unwrap();
    assert_eq!(first.digest, directory.manifest(&Platform::host()).unwrap().digest);

    let docker = tempfile::tempdir().unwrap();
    let config = json!({"architecture": Platform::host().architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layers[0].diff_id, layers[1].diff_id]}});
    fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    fs::create_dir(docker.path().join("one")).unwrap();
    fs::write(docker.path().join("one/layer.tar"), &layers[0].blob).unwrap();
    fs::write(docker.path().join("real.tar"), gzip(&layers[1].blob)).unwrap();
    fs::create_dir(docker.path().join("two")).unwrap();
    std::os::unix::fs::symlink("../real.tar", docker.path().join("two/layer.tar")).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": ["tool:1"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    fs::write(docker.path().join("manifest.json"), manifest.to_string()).unwrap();
    tar(docker.path());
    let archive = docker_archive::open(&file, &Pick::Only, &never).unwrap();
    site.pull_from(&archive, "localhost/docker:1").unwrap();
    let image = site.store().find("localhost/docker:1").unwrap();
    assert_eq!(fs::read(image.layers()[1].path().join("d/b")).unwrap(), b"b");
    assert!(docker_archive::open(&file, &named("none"), &never).is_err());

    let bytes = fs::read(&file).unwrap();
    for cut in [100, 700, bytes.len() / 2] {
        fs::write(&file, &bytes[..cut]).unwrap();
        let whole = docker_archive::open(&file, &Pick::Only, &never)
            .and_then(|archive| site.pull_from(&archive, "localhost/cut:1"));
        assert!(whole.is_err(), "cut at {cut}");
    }
}

#[test]
fn a_compressed_archive_is_the_image_that_it_is_uncompressed_whoever_pulls_it() {
    for caller in [Caller::Root, Caller::Sudo, Caller::UserWithSubids, Caller::User] {
        let Some(desk) = Desk::new(caller) else { return };
        let saved = docker(&[&["lab/tool:1"]]).end();
        let layout = oci(&[json!({"org.opencontainers.image.ref.name": "lab/other:2"})]);
        let at = desk.host.tmp();
        // Several members, as `pigz` and parallel writers leave them.
        let halves = saved.split_at(saved.len() / 2);
        let members = [gzip(halves.0), gzip(halves.1)].concat();
        let frames = [zstd(halves.0), zstd(halves.1)].concat();
        let mut all = Vec::new();
        for (kind, files) in [
            ("docker-archive", vec![("a.tar", saved.clone()), ("a.tar.gz", gzip(&saved)), ("a.tgz", members)]),
            ("docker-archive", vec![("a.tar", saved.clone()), ("a.tar.zst", zstd(&saved)), ("a.zst", frames)]),
            ("oci-archive", vec![("b.tar", layout.clone()), ("b.tar.gz", gzip(&layout)), ("b", zstd(&layout))]),
        ] {
            let of_one: Vec<_> = files
                .into_iter()
                .map(|(name, bytes)| {
                    let path = put(at, name, &bytes);
                    pulled(&desk.ces(&["pull", &format!("{kind}:{}", path.display())]))
                })
                .collect();
            assert!(of_one.iter().all(|one| *one == of_one[0]), "{caller:?}: {of_one:?}");
            all.push(of_one[0].0.clone());
        }
        assert_eq!(all, ["localhost/lab/tool:1", "localhost/lab/tool:1", "localhost/lab/other:2"]);
        let tmp = if caller.is_enforced() { "ces/store/tmp" } else { "home/.local/share/ces/store/tmp" };
        let left: Vec<_> = fs::read_dir(at.join(tmp)).map(Iterator::collect).unwrap_or_default();
        assert!(left.is_empty(), "{caller:?}: {left:?}");
    }
}

#[test]
fn what_ces_does_not_decompress_is_named_with_the_program_that_does() {
    let Some(host) = Host::new() else { return };
    for (start, words) in [
        (&b"BZh91AY&SY"[..], ["compressed with bzip2", "bunzip2 <"]),
        (b"\xfd7zXZ\0\0\x04", ["compressed with xz", "unxz <"]),
        (b"\x04\x22\x4d\x18....", ["compressed with lz4", "unlz4 <"]),
        (b"\x5d\0\0\x80\0\xff\xff", ["compressed with lzma", "unlzma <"]),
        (b"\x1f\x9d\x90....", ["compressed with compress", "uncompress <"]),
        (b"PK\x03\x04.......", ["compressed with zip", "unzip"]),
        (b"hello, this is no archive", ["is not an archive of an image", "docker save"]),
        (b"", ["has no", "hint"]),
    ] {
        let path = put(host.tmp(), "image.tar", &[start, &[0; 600]].concat());
        if start.is_empty() {
            fs::write(&path, "").unwrap();
        }
        for kind in ["docker-archive", "oci-archive"] {
            let ran = Ran::from(host.ces().args(["pull", &format!("{kind}:{}", path.display())]).output());
            ran.refuses(1, &words);
        }
    }
    // Compressed twice: what comes out is no archive, and is named too.
    let twice = put(host.tmp(), "twice.tar.gz", &gzip(&zstd(&docker(&[&["a:1"]]).end())));
    let ran = Ran::from(host.ces().args(["pull", &format!("docker-archive:{}", twice.display())]).output());
    ran.refuses(1, &["compressed twice", "inside with zstd"]);
}

#[test]
fn an_archive_that_expands_without_measure_or_is_damaged_is_refused_and_leaves_nothing() {
    let site = Site::new();
    let expand = |site: &Site, bytes: &[u8]| {
        let path = put(site.directory.path(), "bomb", bytes);
        let (store, unpacker) = (site.store(), site.unpacker());
        let expand = |file: &File, name: &str, compression| {
            ces::image::expand::expand(&store, &unpacker, &Silent, (file, name), compression)
        };
        let report = docker_archive::open(&path, &Pick::Only, &expand).map(drop).unwrap_err().report();
        site.assert_no_leftovers();
        site.assert_canary_unharmed();
        report
    };
    let mut small = Site::new();
    small.limits.image_bytes = 1 << 20;
    let zeros = gzip(&vec![0; 2 << 20]);
    assert!(expand(&small, &zeros).contains("the archive expands to more than 1048576 bytes"));
    assert!(expand(&small, &zstd(&vec![0; 2 << 20])).contains("the archive expands to more than 1048576 bytes"));
    let mut steep = Site::new();
    (steep.limits.ratio_from, steep.limits.ratio) = (1 << 20, 50);
    assert!(expand(&steep, &zeros).contains("more than 50 times"));

    let whole = docker(&[&["a:1"]]).end();
    for packed in [gzip(&whole), zstd(&whole)] {
        for cut in [4, 20, packed.len() / 2, packed.len() - 5] {
            assert!(expand(&site, &packed[..cut]).contains("cannot be decompressed"), "cut at {cut}");
        }
    }
    // Of gzip every bit is checked.
    let mut turned = gzip(&whole);
    let at = turned.len() / 2;
    turned[at] ^= 0x40;
    assert!(expand(&site, &turned).contains("cannot be decompressed"));
    let garbage = [gzip(&whole), b"garbage".to_vec()].concat();
    assert!(expand(&site, &garbage).contains("garbage after the end"));
    // A window that no policy allows.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.write_all(&whole).unwrap();
    let report = expand(&site, &encoder.finish().unwrap());
    assert!(report.contains("256 MiB of memory for the window"), "{report}");
}

#[derive(Debug)]
struct Silent;

impl ces::image::source::Watch for Silent {
    fn go_on(&self) -> Result<()> {
        Ok(())
    }

    fn tell(&self, _: &str) {}
}

#[test]
fn of_several_images_one_is_chosen_by_its_name_its_tag_or_its_number() {
    let Some(host) = Host::new() else { return };
    let names: [&[&str]; 5] =
        [&["lab/tool:1", "lab/tool:latest"], &["ghcr.io/lab/tool:2"], &[], &["debian:12"], &["localhost:5000/x:1"]];
    let path = put(host.tmp(), "all.tar", &docker(&names).end()).display().to_string();
    let pull = |choice: &str| Ran::from(host.ces().args(["pull", &format!("docker-archive:{path}{choice}")]).output());
    pull("").refuses(
        2,
        &["the archive has 5 images", "@0 lab/tool:1 = lab/tool:latest, @1 ghcr.io/lab/tool:2", "@2 without a name"],
    );
    for (choice, kept, place) in [
        (":lab/tool:1", "localhost/lab/tool:1", 0),
        (":lab/tool", "localhost/lab/tool:latest", 0),
        (":docker.io/lab/tool:1", "localhost/lab/tool:1", 0),
        (":@0", "localhost/lab/tool:1", 0),
        (":ghcr.io/lab/tool:2", "localhost/lab/tool:2", 1),
        (":2", "localhost/lab/tool:2", 1),
        (":@2", "localhost/all:latest", 2),
        (":docker.io/library/debian:12", "localhost/debian:12", 3),
        (":localhost:5000/x:1", "localhost/x:1", 4),
    ] {
        let ran = pull(choice);
        assert_eq!(pulled(&ran).0, kept, "{choice}");
        let inspected = Ran::from(host.ces().args(["inspect", kept]).output());
        assert!(inspected.exits(0).contains(&format!("IMAGE={place}")), "{choice}: {inspected:?}");
    }
    pull(":lab/tool:9").refuses(1, &["the archive has no image \"lab/tool:9\"", "@3 debian:12", "hint"]);
    pull(":1").refuses(2, &["\"1\" stands for 2 images", "hint"]);
    pull(":@5").refuses(1, &["the archive has no image \"@5\""]);
    for no_number in [":@", ":@-1", ":@x", ":@99999999999999999999"] {
        pull(no_number).refuses(2, &["is not the number of an image"]);
    }
    let names = ["t/x:1", "t/y:1"].map(|name| json!({"org.opencontainers.image.ref.name": name}));
    let path = put(host.tmp(), "two.tar", &oci(&names)).display().to_string();
    let pull = |choice: &str| Ran::from(host.ces().args(["pull", &format!("oci-archive:{path}{choice}")]).output());
    pull("").refuses(2, &["the layout has 2 images", "@0 t/x:1, @1 t/y:1"]);
    let both = [pulled(&pull(":t/y:1")), pulled(&pull(":@1"))];
    assert!(both[0] == both[1] && both[0].0 == "localhost/t/y:1", "{both:?}");
}

#[test]
fn an_archive_names_its_image_but_never_as_one_of_a_registry() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let at = desk.host.tmp().to_owned();
    let of_registry = put(&at, "saved.tar", &docker(&[&["ghcr.io/lab/tool:1"]]).end()).display().to_string();
    for root in [false, true] {
        let ran = if root {
            Ran::from(desk.host.ces_as_root().args(["pull", &format!("docker-archive:{of_registry}")]).output())
        } else {
            desk.ces(&["pull", &format!("docker-archive:{of_registry}")])
        };
        assert_eq!(pulled(&ran).0, "localhost/lab/tool:1");
        assert!(
            ran.stderr.contains("calls the image ghcr.io/lab/tool:1; it is kept as localhost/lab/tool:1"),
            "{ran:?}"
        );
    }
    desk.ces(&["run", "ghcr.io/lab/tool:1"]).refuses(125, &["not in the store", "did you mean localhost/lab/tool:1?"]);
    let full =
        json!({"io.containerd.image.name": "docker.io/library/tool:3", "org.opencontainers.image.ref.name": "3"});
    for (name, archive, kept) in [
        ("x.tar", oci(&[full]), "localhost/tool:3"),
        ("y.tar", oci(&[json!({"org.opencontainers.image.ref.name": "demo"})]), "localhost/demo:latest"),
        ("z.tar", oci(&[json!({})]), "localhost/z:latest"),
        ("w.v2.tar", oci(&[json!({"org.opencontainers.image.ref.name": "../../etc"})]), "localhost/w.v2:latest"),
    ] {
        let path = put(&at, name, &archive);
        let ran = desk.ces(&["pull", &format!("oci-archive:{}", path.display())]);
        assert_eq!(pulled(&ran).0, kept, "{name}");
    }
    // What a terminal would obey is no name, and is not shown as it is.
    let hostile = put(&at, "hostile.tar", &docker(&[&["\x1b]52;c;x\x07/a:1"], &["b:1"]]).end());
    let ran = desk.ces(&["pull", &format!("docker-archive:{}", hostile.display())]);
    ran.refuses(2, &["the archive has 2 images"]);
    assert!(!ran.stderr.contains('\x1b') && !ran.stderr.contains('\x07'), "{ran:?}");
}

#[test]
fn names_and_numbers_mean_what_they_mean_to_skopeo() {
    let Some(()) = have("skopeo") else { return };
    let Some(host) = Host::new() else { return };
    let names: [&[&str]; 3] = [&["docker.io/lab/tool:1"], &["docker.io/library/debian:12"], &["ghcr.io/lab/tool:2"]];
    let path = put(host.tmp(), "all.tar", &docker(&names).end()).display().to_string();
    for choice in ["lab/tool:1", "debian:12", "ghcr.io/lab/tool:2", "@0", "@1", "@2", "@3", "lab/tool:3", "lab/tool"] {
        let source = format!("docker-archive:{path}:{choice}");
        let theirs = Command::new("skopeo").args(["inspect", "--config", &source]).output().unwrap();
        let theirs: Option<Value> = theirs.status.success().then(|| serde_json::from_slice(&theirs.stdout).unwrap());
        let ours = Ran::from(host.ces().args(["pull", "--name", "chosen", &source]).output());
        assert_eq!(ours.code == Some(0), theirs.is_some(), "{choice}: {ours:?}");
        let Some(theirs) = theirs else { continue };
        let inspected = Ran::from(host.ces().args(["inspect", "chosen"]).output());
        let variable = theirs["config"]["Env"][0].as_str().unwrap();
        assert!(inspected.exits(0).contains(variable), "{choice}: {inspected:?}");
    }
}
