//! The mount points that every container needs, as the lowest layer of an image.
//!
//! Takes an image's directory; gives a tree of empty directories and files in it. Trusts the store's own directory;
//! refuses nothing: where an image has something of these names its own is seen, as every layer hides those below it,
//! and what this leaves missing a run makes itself.
//!
//! Made once, at the pull, they cost a run nothing: to make and remove ten of them on disk takes as long as a tenth of a
//! short run.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use crate::host::idmap::IdMap;

/// The directory's name.
const NAME: &str = "mount-points";
/// Parents first.
const DIRECTORIES: [&str; 7] = ["proc", "sys", "dev", "etc", "safe_data", "safe_outputs", "scratch"];
const FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Where they are in an image's directory, if they are there: images of older stores have none.
pub(super) fn of(image: &Path) -> Option<PathBuf> {
    Some(image.join(NAME)).filter(|tree| tree.is_dir())
}

/// Makes them, as root of the container on disk.
pub(super) fn make(image: &Path, ids: &IdMap) -> io::Result<()> {
    let tree = image.join(NAME);
    let settle = |path: &Path, mode: u32| {
        // Whatever the umask.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        lchown(path, ids.uid_outside(0), ids.gid_outside(0))
    };
    for name in [""].iter().chain(&DIRECTORIES) {
        let path = tree.join(name);
        DirBuilder::new().mode(DIRECTORY_MODE).create(&path)?;
        settle(&path, DIRECTORY_MODE)?;
    }
    for name in FILES {
        let path = tree.join(name);
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        settle(&path, FILE_MODE)?;
    }
    Ok(())
}

/// What is not as it was made, the first of it.
pub(super) fn difference(image: &Path, ids: &IdMap) -> io::Result<Option<String>> {
    let Some(tree) = of(image) else { return Ok(None) };
    let directory = libc::S_IFDIR | DIRECTORY_MODE;
    let mut expected: BTreeMap<PathBuf, u32> = DIRECTORIES.map(|name| (PathBuf::from(name), directory)).into();
    expected.insert(PathBuf::new(), directory);
    expected.extend(FILES.map(|name| (PathBuf::from(name), libc::S_IFREG | FILE_MODE)));
    let owner = (ids.uid_outside(0), ids.gid_outside(0));
    let mut look = vec![PathBuf::new()];
    while let Some(path) = look.pop() {
        let found = fs::symlink_metadata(tree.join(&path))?;
        let empty = found.is_dir() || found.len() == 0;
        let as_made = expected.remove(&path) == Some(found.mode())
            && (Some(found.uid()), Some(found.gid())) == owner
            && empty
            && (found.is_dir() || found.nlink() == 1);
        if !as_made {
            return Ok(Some(format!("{NAME}/{}", crate::text::neutral_bytes(path.as_os_str().as_encoded_bytes()))));
        }
        if found.is_dir() {
            for entry in fs::read_dir(tree.join(&path))? {
                look.push(path.join(entry?.file_name()));
            }
        }
    }
    Ok(expected.into_keys().next().map(|missing| format!("{NAME}/{}", missing.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> IdMap {
        let one = |outside| vec![crate::host::idmap::Extent { inside: 0, outside, count: 1 }];
        IdMap { uids: one(nix::unistd::getuid().as_raw()), gids: one(nix::unistd::getgid().as_raw()) }
    }

    #[test]
    fn every_change_is_seen() {
        let changes: [fn(&Path) -> io::Result<()>; 8] = [
            |at| fs::write(at.join("etc/hosts"), "10.0.0.1 registry"),
            |at| fs::write(at.join("etc/ld.so.preload"), ""),
            |at| fs::create_dir(at.join("usr")),
            |at| fs::remove_dir(at.join("scratch")),
            |at| fs::set_permissions(at.join("etc"), Permissions::from_mode(0o777)),
            |at| fs::remove_file(at.join("etc/hostname")),
            |at| fs::remove_dir(at.join("dev")).and_then(|()| std::os::unix::fs::symlink("/", at.join("dev"))),
            |at| fs::hard_link(at.join("etc/hosts"), at.with_file_name("other")),
        ];
        for (number, change) in changes.iter().enumerate() {
            let image = tempfile::tempdir().unwrap();
            assert_eq!((of(image.path()), difference(image.path(), &own()).unwrap()), (None, None));
            make(image.path(), &own()).unwrap();
            assert_eq!(difference(image.path(), &own()).unwrap(), None);
            change(&of(image.path()).unwrap()).unwrap();
            assert!(difference(image.path(), &own()).unwrap().is_some(), "change {number}");
        }
    }
}
