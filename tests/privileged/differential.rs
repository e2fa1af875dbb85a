//! What comes out is what the image says: the tree that a container sees, compared with what umoci makes of the same
//! image.
//!
//! **Differences by rule**, and no others: devices are left out; files lose set-user-ID and set-group-ID bits; of extended
//! attributes only `user.*` is kept; the root directory's time is set when a run stacks the layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use ces::host::idmap::FOREIGN_BASE;
use ces::image::reference::{Digest, Pick};
use ces::image::source::layout::Layout;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};
use crate::support::{have, python_layout};

/// A tree: what each path is, and which paths are one file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    entries: BTreeMap<Vec<u8>, String>,
    shared: BTreeSet<Vec<Vec<u8>>>,
}

/// Lists a tree; ids are told less `base`.
fn see(root: &Path, base: u32) -> Seen {
    let mut seen = Seen::default();
    let mut groups: HashMap<(u64, u64), Vec<Vec<u8>>> = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let path = root.join(&below);
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let name = below.into_os_string().into_vec();
        if kind.is_block_device() || kind.is_char_device() {
            continue;
        }
        let content = if kind.is_file() {
            Digest::of(&fs::read(&path).unwrap()).to_string()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        let (mode, size) = match (kind.is_file(), kind.is_dir()) {
            (true, _) => (stat.mode() & !0o6000, stat.len()),
            (_, true) => (stat.mode(), 0),
            _ => (stat.mode(), stat.len()),
        };
        let time = if name.is_empty() { String::new() } else { format!("{}.{}", stat.mtime(), stat.mtime_nsec()) };
        let (uid, gid) = (stat.uid().wrapping_sub(base), stat.gid().wrapping_sub(base));
        let attributes = if kind.is_file() || kind.is_dir() { attributes(&path) } else { Vec::new() };
        let line = format!("{mode:o} {uid}:{gid} {size} {time} {content} {attributes:?}");
        if kind.is_dir() {
            let children = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            todo.extend(children.map(|path| path.strip_prefix(root).unwrap().to_owned()));
        } else {
            groups.entry((stat.dev(), stat.ino())).or_default().push(name.clone());
        }
        seen.entries.insert(name, line);
    }
    for mut names in groups.into_values().filter(|names| names.len() > 1) {
        names.sort();
        seen.shared.insert(names);
    }
    seen
}

fn attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let mut all = Vec::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
        all.push(format!("{}={:?}", String::from_utf8_lossy(name), &value[..length]));
    }
    // What overlayfs keeps for itself is not the image's.
    all.retain(|attribute| !attribute.starts_with("user.overlay."));
    all.sort();
    all
}

/// What a container sees: the layers, base first, stacked by overlayfs.
fn stacked(site: &Site, layers: &[PathBuf]) -> Seen {
    let empty = site.directory.path().join("empty");
    let place = site.directory.path().join("stacked");
    [&empty, &place].into_iter().for_each(|path| fs::create_dir_all(path).unwrap());
    let mut lower: Vec<String> = layers.iter().rev().map(|path| path.display().to_string()).collect();
    if lower.len() == 1 {
        lower.push(empty.display().to_string());
    }
    // In a mount namespace of this thread's own, which ends with it.
    let seen = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let options = format!("userxattr,lowerdir={}", lower.join(":"));
        mount(Some("overlay"), &place, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        see(&place, FOREIGN_BASE)
    });
    seen.join().unwrap()
}

fn umoci(layout: &Path, tag: &str, site: &Site) -> Seen {
    let root = site.directory.path().join("umoci");
    let image = format!("{}:{tag}", layout.display());
    let output = Command::new("umoci").args(["raw", "unpack", "--image", &image]).arg(&root).output().unwrap();
    assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
    see(&root, 0)
}

/// Unpacks a tag of a layout both ways and compares; gives the number of entries.
#[track_caller]
fn compare(layout: &Path, tag: &str) -> usize {
    compare_but(layout, tag, |seen| seen)
}

/// The same after `change` has left out of both what may differ.
#[track_caller]
fn compare_but(layout: &Path, tag: &str, change: fn(Seen) -> Seen) -> usize {
    let site = Site::new();
    site.pull_from(&Layout::directory(layout, Pick::Named(tag.to_owned())).unwrap(), "localhost/test").unwrap();
    let image = site.store().find("localhost/test").unwrap();
    let layers: Vec<PathBuf> = image.layers().iter().map(|layer| layer.path().to_owned()).collect();
    let (ours, theirs) = (change(stacked(&site, &layers)), change(umoci(layout, tag, &site)));
    let names: BTreeSet<_> = ours.entries.keys().chain(theirs.entries.keys()).collect();
    let mut different = Vec::new();
    for name in names {
        let (ours, theirs) = (ours.entries.get(name), theirs.entries.get(name));
        if ours != theirs {
            different.push(format!("{}\n  ces:   {ours:?}\n  umoci: {theirs:?}", String::from_utf8_lossy(name)));
        }
    }
    different.truncate(10);
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(ours.shared, theirs.shared, "names of one file");
    site.assert_canary_unharmed();
    ours.entries.len()
}

fn layout(layers: &[Tar]) -> LayoutDir {
    let layers: Vec<_> = layers.iter().map(|tar| Layer::new(&tar.clone().end(), Pack::Gzip)).collect();
    let layout = LayoutDir::of(&layers);
    let manifest = layout.image(&layers, &ces::image::document::Platform::host().architecture);
    layout.index(&[(manifest, Some("latest"))]);
    layout
}

/// A root directory as builders list it.
fn root() -> Tar {
    Tar::default().raw(b"./", b'5', b"", |h| h.set_mode(0o755))
}

#[test]
fn odd_trees_come_out_as_umoci_unpacks_them() {
    let Some(()) = have("umoci") else { return };
    let farm = (0..500).fold(root().dir("farm/").file("farm/0", b"shared"), |tar, n| {
        tar.hardlink(&format!("farm/link{n}"), if n % 2 == 0 { "farm/0" } else { "/farm/0" })
    });
    let odd = root()
        .raw(b"sealed/", b'5', b"", |h| h.set_mode(0))
        .raw(b"sealed/in", b'5', b"", |h| h.set_mode(0o111))
        .raw(b"sealed/in/file", b'0', b"x", |h| {
            h.set_mode(0);
            h.set_uid(65_535);
            h.set_gid(65_535);
        })
        .file("a name\twith \u{1f980}\n", b"1")
        .raw(b"not\xff\xfeutf8", b'0', b"2", |_| {})
        .file("-rf", b"3")
        .file("zeros", &vec![0; 1 << 20])
        .raw(b"sticky/", b'5', b"", |h| h.set_mode(0o3777))
        .file("sticky/inherits", b"4")
        .raw(b"setuid", b'0', b"5", |h| h.set_mode(0o6755))
        .raw(b"pipe", b'6', b"", |h| h.set_mode(0o640))
        .raw(b"null", b'3', b"", |h| h.set_device_minor(3).unwrap())
        .symlink("dangling", "../../nowhere")
        .hardlink("also-dangling", "dangling")
        .pax(&[("SCHILY.xattr.user.note", b"\x00\xffvalue"), ("SCHILY.xattr.security.capability", CAPABILITY)])
        .file("noted", b"6")
        .pax(&[("path", format!("{}/{}", "long".repeat(60), "n".repeat(255)).as_bytes()), ("mtime", b"1000.000000007")])
        .file("x", b"7");
    let long = root().dir("d/").pax(&[("path", format!("d/{}", "l".repeat(255)).as_bytes())]).dir("x");
    // The directory that `odd` only implies gets no time from umoci: list it.
    let odd_parent = root().pax(&[("path", "long".repeat(60).as_bytes())]).dir("x");
    for layers in [&[farm][..], &[odd_parent, odd], &[long]] {
        compare(layout(layers).path(), "latest");
    }
}

/// `cap_net_raw+ep`, version 2.
const CAPABILITY: &[u8] = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

/// The same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

/// A tree in the making: its paths and what they are.
type Model = BTreeMap<String, char>;

fn forget(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|known, _| known != path && !known.starts_with(&below));
}

fn pick(model: &Model, numbers: &mut Numbers, kinds: &str) -> Option<String> {
    let fitting: Vec<_> = model.iter().filter(|(_, kind)| kinds.contains(**kind)).map(|(path, _)| path).collect();
    (!fitting.is_empty()).then(|| fitting[numbers.below(fitting.len())].clone())
}

/// A layer of changes to `model`: removals first, then entries new and replaced.
fn grow(model: &mut Model, numbers: &mut Numbers, number: usize) -> Tar {
    let mut tar = root();
    for removal in 0..4 {
        let Some(path) = pick(model, numbers, "dfl").filter(|_| number > 0) else { break };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let slash = if parent.is_empty() { "" } else { "/" };
        if removal == 0 && model[&path] == 'd' {
            tar = tar.file(&format!("{path}/.wh..wh..opq"), b"");
            let below = format!("{path}/");
            model.retain(|known, _| !known.starts_with(&below));
        } else {
            tar = tar.file(&format!("{parent}{slash}.wh.{name}"), b"");
            forget(model, &path);
        }
    }
    // Links to files of this layer alone: what a link to one below becomes is told in `unpack::settle`.
    let mut own = Model::new();
    for entry in 0..60 {
        let parent = pick(model, numbers, "d").filter(|_| numbers.below(5) > 0).map_or(String::new(), |p| p + "/");
        let fresh = format!("{parent}n{number}-{entry}");
        let path = if numbers.below(6) == 0 { pick(model, numbers, "dfl").unwrap_or(fresh) } else { fresh };
        if path.len() > 90 {
            continue;
        }
        let kind = ['d', 'f', 'f', 'f', 'l', 'h'][numbers.below(6)];
        let mode = [0o644, 0o755, 0, 0o4755, 0o2711, 0o600, 0o1777][numbers.below(7)];
        let (uid, gid) = (numbers.below(65_536) as u64, numbers.below(65_536) as u64);
        let time = numbers.below(2_000_000_000) as u64;
        let set = |h: &mut tar::Header| {
            h.set_mode(mode);
            h.set_uid(uid);
            h.set_gid(gid);
            h.set_mtime(time);
        };
        if kind != 'd' || model.get(&path).is_some_and(|known| *known != 'd') {
            forget(&mut own, &path);
            forget(model, &path);
        }
        tar = match kind {
            'd' => tar.raw(format!("{path}/").as_bytes(), b'5', b"", |h| {
                set(h);
                h.set_mode(mode & 0o1777);
            }),
            'f' => {
                let data = vec![b'x'; numbers.below(3000)];
                let tar = if numbers.below(4) == 0 { tar.pax(&[("SCHILY.xattr.user.n", b"v")]) } else { tar };
                tar.raw(path.as_bytes(), b'0', &data, set)
            }
            'l' => tar.symlink(&path, ["n0-1", "/n0-2", "../nowhere", "."][numbers.below(4)]),
            _ => match pick(&own, numbers, "f") {
                Some(target) => tar.hardlink(&path, &target),
                None => continue,
            },
        };
        let kind = if kind == 'h' { 'f' } else { kind };
        own.insert(path.clone(), kind);
        model.insert(path, kind);
    }
    tar
}

#[test]
fn generated_trees_come_out_as_umoci_unpacks_them() {
    let Some(()) = have("umoci") else { return };
    let trees: u64 = if std::env::var_os("CES_LONG").is_some() { 200 } else { 12 };
    let mut entries = 0;
    for tree in 1..=trees {
        let mut numbers = Numbers(tree.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut model = Model::new();
        let layers: Vec<_> = (0..3).map(|number| grow(&mut model, &mut numbers, number)).collect();
        eprintln!("tree {tree}");
        entries += compare(layout(&layers).path(), "latest");
    }
    eprintln!("{trees} trees, {entries} entries compared");
}

/// A base with a merged `/usr`: what Debian, Fedora and their like have, by relative links or absolute ones.
fn merged_usr(absolute: bool) -> Tar {
    let slash = if absolute { "/" } else { "" };
    ["bin", "lib"].into_iter().fold(root().dir("usr/"), |tar, name| {
        tar.raw(format!("usr/{name}/").as_bytes(), b'5', b"", |h| h.set_mode(0o751))
            .file(&format!("usr/{name}/old"), b"old")
            .dir(&format!("usr/{name}/both/"))
            .symlink(name, &format!("{slash}usr/{name}"))
    })
}

/// Entries on both sides of the merged `/usr`, most of directories that are not listed; later ones replace earlier ones.
fn both_sides(numbers: &mut Numbers) -> Tar {
    let mut tar = Tar::default();
    // Of many entries two are almost always one's file and the other's directory, and then all are unpacked in turn.
    for entry in 0..2 + numbers.below(13) as u64 {
        let side = ["lib", "usr/lib", "lib", "usr/lib", "bin", "usr/bin"][numbers.below(6)];
        let name = ["x", "y", "both/x", "both", "old", "deep/er/x", "deep", "x/y"][numbers.below(8)];
        let (path, time) = (format!("{side}/{name}"), 1_000_000_000 + entry);
        tar = match numbers.below(6) {
            0 => tar.raw(format!("{path}/").as_bytes(), b'5', b"", |h| {
                h.set_mode(0o710);
                h.set_mtime(time);
            }),
            1 => tar.symlink(&path, "nowhere"),
            _ => tar.raw(path.as_bytes(), b'0', format!("{entry}").as_bytes(), |h| h.set_mtime(time)),
        };
    }
    tar
}

#[test]
fn both_sides_of_a_merged_usr_come_out_as_umoci_applies_their_entries_in_turn() {
    let Some(()) = have("umoci") else { return };
    let rounds: u64 = if std::env::var_os("CES_LONG").is_some() { 150 } else { 40 };
    let mut compared = 0;
    for round in 1..=rounds {
        let mut numbers = Numbers(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (base, changes) = (merged_usr(round % 2 == 0), both_sides(&mut numbers));
        eprintln!("round {round}");
        // In one layer, and in two.
        let one = Tar([base.0.clone(), changes.0.clone()].concat());
        let (one, two) = (layout(&[one]), layout(&[base, changes]));
        if !umoci_takes(one.path()) {
            continue;
        }
        // Directories that no entry lists get the time of the unpacking from umoci, and so do those in which it works.
        let timeless = |mut seen: Seen| {
            for line in seen.entries.values_mut().filter(|line| line.starts_with('4')) {
                let words: Vec<&str> = line.splitn(4, ' ').collect();
                *line = words[..3].join(" ");
            }
            seen
        };
        compared += compare_but(one.path(), "latest", timeless) + compare_but(two.path(), "latest", timeless);
    }
    assert!(compared > 100, "{compared}");
}

/// Some it refuses itself: an entry below what is a file or a dangling link by then.
fn umoci_takes(layout: &Path) -> bool {
    let place = tempfile::tempdir().unwrap();
    let image = format!("{}:latest", layout.display());
    let output = Command::new("umoci").args(["raw", "unpack", "--image", &image]).arg(place.path().join("r")).output();
    output.unwrap().status.success()
}

#[test]
fn a_debian_with_python_comes_out_as_umoci_unpacks_it() {
    let (Some(()), Some(layout)) = (have("umoci"), python_layout()) else { return };
    let entries = compare(&layout, "python");
    eprintln!("{entries} entries compared");
}
