//! Unix sockets of the host that a bind would lead a payload to.
//!
//! Takes directories that are going to be bound; gives the sockets below them on which something listens; trusts the
//! kernel's list of the sockets of this network namespace, but not their names; refuses nothing itself.
//!
//! A network namespace does not hide a socket that has a path, and a read-only mount does not keep anyone from connecting
//! (unix(7)): a service that listens in the project's data would be a way out of the container.
//!
//! A name is what the service called its socket, in its own mount namespace: anybody can make one in which
//! `/safe_data/project` is a directory of theirs. So a name counts only where it leads to that very socket here.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statfs::{self, EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC};

use crate::host::kernel_files;

/// The kernel's own list, with the file of each socket.
mod diag;

/// A socket with a path for a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    /// By which it was bound.
    name: PathBuf,
    /// Its file, if the kernel tells.
    file: Option<File>,
}

/// A file, as the kernel knows it inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    /// `s_dev`: twelve bits of major and twenty of minor number (linux/kdev_t.h), not as stat(2) has them.
    device: u32,
    /// The low half of the inode's number.
    inode: u32,
}

impl File {
    fn of(found: &fs::Metadata) -> Self {
        let device = major(found.dev()) << 20 | minor(found.dev());
        Self { device: low(device), inode: low(found.ino()) }
    }
}

fn low(number: u64) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or_default()
}

/// The sockets in one of `directories` or below, by the names under which they were bound.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn below<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<Vec<PathBuf>> {
    // A kernel without unix_diag tells names alone.
    let bound = match diag::list() {
        Ok(bound) => bound,
        Err(_) => named(&kernel_files::read_bytes("/proc/net/unix")?),
    };
    Ok(those_below(bound, &directories.into_iter().collect::<Vec<_>>()))
}

fn those_below(bound: Vec<Bound>, directories: &[&Path]) -> Vec<PathBuf> {
    let known: Vec<File> =
        directories.iter().filter_map(|dir| fs::metadata(dir).ok()).map(|at| File::of(&at)).collect();
    let is_below = |socket: &Bound| {
        // By its name; or else by another name of the same directory, as a bind mount or a link gives one.
        directories.iter().any(|dir| socket.name.starts_with(dir))
            || socket.file.is_some_and(|file| known.iter().any(|dir| dir.device == file.device))
                && socket
                    .name
                    .ancestors()
                    .skip(1)
                    .filter_map(|dir| fs::metadata(dir).ok())
                    .any(|dir| known.contains(&File::of(&dir)))
    };
    let mut found: Vec<PathBuf> =
        bound.into_iter().filter(|socket| is_below(socket) && is_here(socket)).map(|socket| socket.name).collect();
    found.sort();
    found.dedup();
    found
}

/// Whether the name leads to the socket in this mount namespace. Where that cannot be known, it counts.
fn is_here(socket: &Bound) -> bool {
    match fs::symlink_metadata(&socket.name) {
        Ok(found) if !found.file_type().is_socket() => false,
        Ok(found) => socket.file.is_none_or(|file| file == File::of(&found) || !tells_inodes(&socket.name)),
        Err(e) => !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// Whether stat(2) shows device and inode as the kernel has them: btrfs and overlay, for two, show others.
fn tells_inodes(path: &Path) -> bool {
    let kind = statfs::statfs(path).map(|found| found.filesystem_type());
    kind.is_ok_and(|kind| [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, TMPFS_MAGIC].contains(&kind))
}

/// The paths in `/proc/net/unix`: after a heading, seven fields, and then the name; `@` begins one that is no path.
fn named(list: &[u8]) -> Vec<Bound> {
    let name = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        // Stream sockets that accept, and those for datagrams, are listed alike: any can be sent to.
        (line.get(..at)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).count() == 7)
            .then(|| PathBuf::from(OsStr::from_bytes(line.get(at..).unwrap_or_default())))
    };
    let names = list.split(|byte| *byte == b'\n').skip(1).filter_map(name);
    names.map(|name| Bound { name, file: None }).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn paths_are_told_from_other_names() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 101\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 102 @/abstract\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 103 @x/y\n";
        assert_eq!(named(list), [Bound { name: PathBuf::from("/run/a b"), file: None }]);
    }

    #[test]
    fn a_socket_is_found_below_its_directory_and_no_other() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let path = dirs[0].path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(below([dirs[0].path()]).unwrap(), std::slice::from_ref(&path));
        assert_eq!(below([dirs[1].path()]).unwrap(), Vec::<PathBuf>::new());
        drop(listener);
        assert_eq!(below([dirs[0].path()]).unwrap(), Vec::<PathBuf>::new());
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(below([dirs[0].path()]).unwrap(), [path]);
    }

    #[test]
    fn a_socket_bound_by_another_name_of_the_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir_all(real.join("sub")).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let _listener = UnixListener::bind(link.join("sub/s")).unwrap();
        for directory in [&real, &link] {
            assert_eq!(below([directory.as_path()]).unwrap(), [link.join("sub/s")]);
        }
    }

    #[test]
    fn a_name_counts_only_where_it_leads_to_that_socket() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("s"), dir.path().join("other"));
        let _listeners = [UnixListener::bind(&path).unwrap(), UnixListener::bind(&other).unwrap()];
        fs::write(dir.path().join("file"), "").unwrap();
        let file = |path: &Path| Some(File::of(&fs::symlink_metadata(path).unwrap()));
        assert!(tells_inodes(&path), "the tests' directory is on ext4, XFS or tmpfs");
        for (name, file, counts) in [
            ("s", file(&path), true),
            ("s", file(&other), false),
            // A kernel that tells no file: what is there is a socket, or is not.
            ("s", None, true),
            ("file", None, false),
            ("file", file(&path), false),
            ("absent", None, false),
            ("absent", file(&path), false),
            ("file/s", None, false),
        ] {
            let bound = vec![Bound { name: dir.path().join(name), file }];
            assert_eq!(those_below(bound, &[dir.path()]).len(), usize::from(counts), "{name} {file:?}");
        }
    }
}
