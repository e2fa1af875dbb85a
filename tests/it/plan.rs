//! From a tar header to an action: pure, so a table says it all.

use ces::host::idmap::{Extent, IdMap};
use ces::image::unpack::Limits;
use ces::image::unpack::plan::{Action, Decision, decide};
use ces::image::unpack::protocol::{Fault, FaultKind, RawPath};
use ces::image::unpack::tarstream::{Entry, Type};

fn entry(path: &str, kind: Type) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        target: b"target".to_vec(),
        kind,
        size: 0,
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: (10, 20),
        xattrs: Vec::new(),
    }
}

fn ids(count: u32) -> IdMap {
    let map = vec![Extent { inside: 0, outside: 100_000, count }];
    IdMap { uids: map.clone(), gids: map }
}

fn plan(entry: Entry) -> Result<Decision, Fault> {
    decide(entry, &ids(65_536), &Limits::default())
}

fn parts(path: &str) -> Vec<Vec<u8>> {
    path.split('/').filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect()
}

#[test]
fn names_become_actions() {
    let path = |action: &Action| match action {
        Action::Directory(path, _) => ("directory", path.clone()),
        Action::File(path, _) => ("file", path.clone()),
        Action::Symlink(path, ..) => ("symlink", path.clone()),
        Action::Link(path, _) => ("link", path.clone()),
        Action::Fifo(path, _) => ("fifo", path.clone()),
        Action::Whiteout(path) => ("whiteout", path.clone()),
        Action::Opaque(path) => ("opaque", path.clone()),
        Action::Device => ("device", Vec::new()),
        Action::Nothing => ("nothing", Vec::new()),
    };
    let table = [
        ("a/b", Type::File, "file", "a/b"),
        ("./a//b/", Type::Directory, "directory", "a/b"),
        ("/a/../b", Type::Fifo, "fifo", "b"),
        ("./", Type::Directory, "directory", ""),
        ("l", Type::Symlink, "symlink", "l"),
        ("h", Type::HardLink, "link", "h"),
        ("d/null", Type::Device, "device", ""),
        ("d/.wh.x", Type::File, "whiteout", "d/x"),
        ("d/.wh.x", Type::Device, "whiteout", "d/x"),
        (".wh..wh..opq", Type::File, "opaque", ""),
        ("d/.wh..wh..opq", Type::File, "opaque", "d"),
        (".wh.d/", Type::Directory, "directory", ".wh.d"),
        (".wh.d/x", Type::File, "file", ".wh.d/x"),
        (".wh..wh.aufs", Type::File, "nothing", ""),
        (".wh..wh.plnk/7", Type::HardLink, "nothing", ""),
        (".whx", Type::File, "file", ".whx"),
        ("...", Type::File, "file", "..."),
    ];
    for (name, kind, what, target) in table {
        let decision = plan(entry(name, kind)).unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
        assert_eq!(path(&decision.action), (what, parts(target)), "{name}");
    }
}

#[test]
fn refusals_name_the_entry_and_why() {
    let table = [
        ("..", Type::Directory, "leaves the image root"),
        ("a/../../b", Type::File, "leaves the image root"),
        ("", Type::File, "no name"),
        ("a\0b", Type::File, "NUL"),
        (".", Type::Symlink, "root"),
        (".wh.", Type::File, "whiteout"),
        ("d/.wh...", Type::File, "whiteout"),
    ];
    for (name, kind, why) in table {
        let fault = plan(entry(name, kind)).unwrap_err();
        assert!(fault.text.contains(why), "{name}: {}", fault.text);
        assert_eq!(fault.entry, Some(RawPath(name.as_bytes().to_vec())));
        assert!(matches!(fault.kind, FaultKind::Refused | FaultKind::Malformed));
    }
    let link = Entry { target: b"../x".to_vec(), ..entry("l", Type::HardLink) };
    assert!(plan(link).unwrap_err().text.contains("leaves the image root"));
}

#[test]
fn a_symbolic_links_text_is_the_images_own_business() {
    for target in ["../../../etc/passwd", "/etc/passwd", "."] {
        let link = Entry { target: target.as_bytes().to_vec(), ..entry("l", Type::Symlink) };
        let Action::Symlink(_, text, _) = plan(link).unwrap().action else { panic!("not a link") };
        assert_eq!(text, target.as_bytes());
    }
}

#[test]
fn metadata_is_kept_as_far_as_it_may_be() {
    let file = Entry {
        mode: 0o106_755,
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec()), (b"security.capability".to_vec(), b"2".to_vec())],
        ..entry("f", Type::File)
    };
    let decision = plan(file.clone()).unwrap();
    let Action::File(_, meta) = decision.action else { panic!("not a file") };
    assert_eq!((meta.mode, meta.owner, meta.mtime), (0o755, Some((1, 2)), (10, 20)));
    assert_eq!(meta.xattrs, [(b"user.a".to_vec(), b"1".to_vec())]);
    assert!(decision.set_id_bit);
    assert_eq!(decision.dropped_xattrs, 1);

    // With one id, everything is its own, and it can read and write all of it.
    let single = decide(Entry { mode: 0, ..file }, &ids(1), &Limits::default()).unwrap();
    let Action::File(_, meta) = single.action else { panic!("not a file") };
    assert_eq!((meta.mode, meta.owner), (0o600, None));
}

#[test]
fn owners_outside_the_map_are_nobodys_or_refused_with_advice_where_nobody_has_no_id_either() {
    let decided = |uid, gid, map| decide(Entry { uid, gid, ..entry("f", Type::File) }, &ids(map), &Limits::default());
    for uid in [65_536, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let Ok(Decision { action: Action::File(_, meta), unmapped, .. }) = decided(uid, 2, 65_536) else {
            panic!("{uid}: not a file")
        };
        assert_eq!((meta.owner, unmapped), (Some((65_534, 2)), Some(uid)));
        for (user, group) in [(uid, 2), (1, uid)] {
            let fault = decided(user, group, 500).unwrap_err();
            assert!(fault.text.contains(&uid.to_string()) && fault.hint.unwrap().contains("/etc/subuid"), "{uid}");
        }
    }
    assert!(decided(1000, 2, 500).is_err());
    let Ok(Decision { action: Action::File(_, meta), unmapped, .. }) = decided(65_534, 65_534, 65_536) else {
        panic!("not a file")
    };
    assert_eq!((meta.owner, unmapped), (Some((65_534, 65_534)), None));
}
