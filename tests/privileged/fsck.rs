//! The store against what was recorded when it was written: whatever was changed is seen, named, and repaired.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ces::image::reference::Pick;
use ces::image::source::layout::Layout;
use ces::image::store::check::{Findings, What};
use nix::unistd::User;

use crate::image_support::{Again, Layer, LayoutDir, Pack, Site, Tar};
use crate::support::skip;

fn archive() -> Tar {
    Tar::default()
        .raw(b"d/", b'5', b"", |h| h.set_mode(0o700))
        .raw(b"d/secret", b'0', b"content", |h| {
            h.set_mode(0);
            h.set_uid(7);
        })
        .file("d/file", b"content")
        .hardlink("d/name", "d/file")
        .symlink("d/link", "file")
        .pax(&[("SCHILY.xattr.user.note", b"kept")])
        .file("noted", b"x")
        .file("odd name\u{e9}\n", b"x")
        .file("d/.wh.gone", b"")
        .file("empty", b"")
}

fn site() -> (Site, LayoutDir) {
    let (site, layout) = (Site::new(), LayoutDir::of(&[Layer::new(&archive().end(), Pack::Gzip)]));
    drop(site.pull(&layout).unwrap());
    (site, layout)
}

fn check(site: &Site, repair: bool) -> Findings {
    site.store().check(&site.unpacker(), repair).unwrap()
}

/// Between fork and exec, a child of another test holds this process's locks: then something seems to be in use.
fn repair(site: &Site) -> Findings {
    let mut findings = check(site, true);
    for _ in 0..20 {
        if findings.is_clean() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        findings = check(site, true);
    }
    findings
}

fn tree(site: &Site) -> PathBuf {
    site.store().find("localhost/test").unwrap().layers()[0].path().to_owned()
}

/// Changes something and gives what is said of it, path by path; a repair and a new pull then make all well.
#[track_caller]
fn said(change: impl FnOnce(&Path)) -> String {
    let (site, layout) = site();
    change(&tree(&site));
    let findings = check(&site, false);
    assert!(!findings.is_clean());
    let [damage] = findings.damaged.as_slice() else { panic!("{findings:?}") };
    assert_eq!((damage.what, damage.images.as_slice()), (What::Layer, &["localhost/test:latest".to_owned()][..]));
    let said: Vec<_> = damage.differences.iter().map(|d| format!("{}: {}", d.path, d.what)).collect();
    assert!(repair(&site).is_clean());
    assert!(site.store().find("localhost/test").is_err());
    assert!(check(&site, false).damaged.is_empty());
    assert_eq!(
        site.pull_from(&Layout::directory(layout.path(), Pick::Only).unwrap(), "localhost/test").unwrap().fetched,
        1
    );
    let findings = check(&site, false);
    assert!(findings.damaged.is_empty() && findings.entries > 0, "{findings:?}");
    site.assert_canary_unharmed();
    site.assert_no_leftovers();
    said.join("\n")
}

/// Does something to a file or directory, and gives it its time back.
fn quietly(path: &Path, change: impl FnOnce(&Path)) {
    let time = fs::symlink_metadata(path).unwrap().modified().unwrap();
    change(path);
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn a_store_as_it_was_written_is_clean() {
    let (site, _layout) = site();
    let findings = check(&site, false);
    assert!(findings.is_clean() && findings.unrecorded.is_empty(), "{findings:?}");
    assert_eq!((findings.images, findings.layers, findings.entries), (1, 1, 10));
}

#[test]
fn a_changed_byte_is_seen_even_if_size_and_time_are_the_same() {
    let change = |tree: &Path| quietly(&tree.join("d/secret"), |path| fs::write(path, "Content").unwrap());
    assert_eq!(said(change), "d/secret: content changed");
}

#[test]
fn a_changed_mode_is_seen() {
    let change = |tree: &Path| fs::set_permissions(tree.join("empty"), Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(said(change), "empty: mode is 4755, was 644");
}

#[test]
fn a_changed_time_is_seen() {
    let later = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5));
    let change = |tree: &Path| File::open(tree.join("empty")).unwrap().set_times(later).unwrap();
    assert_eq!(said(change), "empty: time is 5.0, was 1000000000.0");
}

#[test]
fn a_changed_owner_is_seen_even_one_that_no_image_can_have() {
    let change = |tree: &Path| {
        lchown(tree.join("d/link"), Some(0), None).unwrap();
        lchown(tree.join("empty"), None, Some(65_534)).unwrap();
    };
    let text = said(change);
    assert_eq!(text, "d/link: user is 0, was 2147352576\nempty: group is 65534, was 2147352576");
}

#[test]
fn an_added_file_is_seen() {
    let change = |tree: &Path| quietly(&tree.join("d"), |d| fs::write(d.join("added"), "").unwrap());
    assert_eq!(said(change), "d/added: was added");
}

#[test]
fn a_removed_file_is_seen() {
    let change = |tree: &Path| quietly(&tree.join("d"), |d| fs::remove_file(d.join("secret")).unwrap());
    assert_eq!(said(change), "d/secret: is missing");
}

#[test]
fn a_replaced_link_is_seen() {
    let change = |tree: &Path| {
        quietly(&tree.join("d"), |d| {
            fs::remove_file(d.join("link")).unwrap();
            symlink("/etc/passwd", d.join("link")).unwrap();
        });
    };
    let text = said(change);
    assert!(text.starts_with("d/link: ") && text.contains("content is /etc/passwd, was file"), "{text}");
}

#[test]
fn a_name_given_to_a_file_from_elsewhere_is_seen() {
    let change = |tree: &Path| fs::hard_link(tree.join("empty"), tree.parent().unwrap().join("outside")).unwrap();
    assert_eq!(said(change), "empty: links is 2, was 1");
}

#[test]
fn a_name_that_no_longer_shares_its_file_is_seen() {
    let change = |tree: &Path| {
        quietly(&tree.join("d"), |d| {
            fs::remove_file(d.join("name")).unwrap();
            fs::copy(d.join("file"), d.join("name")).unwrap();
        });
    };
    let text = said(change);
    assert!(text.contains("d/file: links is 1, was 2") && text.contains("d/name: is of type f, was h"), "{text}");
}

#[test]
fn a_changed_attribute_is_seen() {
    let change = |tree: &Path| {
        let file = File::open(tree.join("noted")).unwrap();
        rustix::fs::fsetxattr(file, "user.note", b"other", rustix::fs::XattrFlags::empty()).unwrap();
    };
    assert_eq!(said(change), "noted: extended attributes is user.note=other, was user.note=kept");
}

#[test]
fn documents_listings_and_names_are_checked_too() {
    let damages: [(What, &str, &str); 6] = [
        (What::Image, "images/sha256/*/manifest.json", "its manifest does not have its digest"),
        (What::Image, "images/sha256/*/config.json", "its configuration does not have its digest"),
        (What::Image, "images/sha256/*/image.json", "the store is damaged"),
        (What::Layer, "layers/sha256/*/layer.json", "the store is damaged"),
        (What::Layer, "layers/sha256/*/tree.zst", "its listing is missing or does not have its digest"),
        (What::Name, "refs/*", "the store is damaged"),
    ];
    for (what, place, why) in damages {
        let (site, layout) = site();
        let path = resolve(&site.directory.path().join("store"), place);
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, bytes).unwrap();
        let findings = check(&site, false);
        let [damage] = findings.damaged.as_slice() else { panic!("{place}: {findings:?}") };
        assert!(damage.what == what && damage.because.contains(why), "{place}: {damage:?}");
        assert!(repair(&site).is_clean(), "{place}");
        assert!(check(&site, false).damaged.is_empty(), "{place}");
        drop(site.pull(&layout).unwrap());
        assert!(check(&site, false).damaged.is_empty(), "{place}");
    }
    let (site, _layout) = site();
    fs::remove_dir_all(resolve(&site.directory.path().join("store"), "layers/sha256/*")).unwrap();
    let findings = repair(&site);
    assert!(findings.damaged[0].because.contains("is missing") && findings.is_clean(), "{findings:?}");
}

/// The path below `root` in which `*` stands for the only name there is.
fn resolve(root: &Path, place: &str) -> PathBuf {
    place.split('/').fold(root.to_owned(), |at, part| match part {
        "*" => fs::read_dir(&at).unwrap().next().unwrap().unwrap().path(),
        _ => at.join(part),
    })
}

#[test]
fn what_a_container_uses_is_not_removed() {
    let (site, _layout) = site();
    let image = site.store().find("localhost/test").unwrap();
    fs::write(image.layers()[0].path().join("empty"), "no longer").unwrap();
    let findings = check(&site, true);
    assert!(!findings.is_clean() && image.layers()[0].path().exists(), "{findings:?}");
    drop(image);
    assert!(repair(&site).is_clean());
    assert!(check(&site, false).damaged.is_empty());
}

#[test]
fn layers_that_were_unpacked_before_trees_were_recorded_are_told() {
    let (site, _layout) = site();
    let path = resolve(&site.directory.path().join("store"), "layers/sha256/*/layer.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("tree");
    fs::write(&path, record.to_string()).unwrap();
    let findings = check(&site, false);
    assert!(findings.is_clean() && findings.unrecorded.len() == 1, "{findings:?}");
    site.store().find("localhost/test").unwrap();
}

#[test]
fn a_layer_that_was_adapted_to_those_below_is_recorded_as_it_then_is() {
    let site = Site::new();
    let base = Tar::default().dir("d/").file("d/file", b"below").symlink("link", "d");
    let upper = Tar::default().file("link/new", b"x").hardlink("copy", "d/file");
    site.unpack(&[base, upper]).unwrap();
    let findings = check(&site, false);
    assert!(findings.damaged.is_empty() && findings.unrecorded.is_empty() && findings.layers == 2, "{findings:?}");
}

#[test]
fn the_command_says_what_is_damaged_and_exits_with_1() {
    let (site, _layout) = site();
    let fsck = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ces"));
        let output = command.arg("--root").arg(site.directory.path()).arg("fsck").args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = fsck(&[]);
    assert_eq!((code, text.as_str()), (Some(0), "checked 1 images, 1 layers, 10 entries: nothing is damaged\n"));
    fs::write(tree(&site).join("empty"), "no longer").unwrap();
    let (code, text) = fsck(&[]);
    assert!(code == Some(1) && text.contains("of localhost/test:latest") && text.contains("  empty: size"), "{text}");
    let (code, text) = fsck(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(code == Some(1) && json["damaged"][0]["differences"][0]["path"] == "empty", "{text}");
    let (code, text) = fsck(&["--repair"]);
    assert!(code == Some(0) && text.contains("removed; pull again: localhost/test:latest"), "{text}");
}

#[test]
fn users_check_their_own_stores_though_they_cannot_read_every_file() {
    let subuid = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let with = subuid.lines().filter_map(|line| User::from_name(line.split(':').next()?).ok()?).next();
    let without = User::from_name("nobody").unwrap();
    if with.is_none() {
        skip::<()>("nobody has subordinate ids (/etc/subuid): half of this test");
    }
    for user in [with, without].into_iter().flatten() {
        let again = Again::new();
        let mut command = again.command("fsck::what_a_user_sees");
        let output = command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", user.name);
    }
}

#[test]
#[ignore = "run by the test above, as another user"]
fn what_a_user_sees() {
    let (site, _layout) = site();
    let findings = check(&site, false);
    assert!(findings.is_clean() && findings.entries == 10, "{findings:?}");
    fs::write(tree(&site).join("empty"), "no longer").unwrap();
    assert_eq!(check(&site, false).damaged[0].differences[0].path, "empty");
    assert!(repair(&site).is_clean());
    site.assert_no_leftovers();
}
