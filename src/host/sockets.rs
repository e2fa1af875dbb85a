//! Unix sockets of the host that a bind would lead a payload to.
//!
//! Takes directories that are going to be bound; gives the sockets below them on which something listens; trusts the
//! kernel's list, which knows the names by which sockets were bound in this network namespace; refuses nothing itself.
//!
//! A network namespace does not hide a socket that has a path, and a read-only mount does not keep anyone from connecting
//! (unix(7)): a service that listens in the project's data would be a way out of the container.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::host::kernel_files;

/// The sockets with a path below one of `directories`.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn below<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<Vec<PathBuf>> {
    let list = kernel_files::read_bytes("/proc/net/unix")?;
    let directories: Vec<&Path> = directories.into_iter().collect();
    Ok(named(&list).into_iter().filter(|path| directories.iter().any(|dir| path.starts_with(dir))).collect())
}

/// The paths in `/proc/net/unix`: after a heading, seven fields, and then the name; `@` begins one that is no path.
fn named(list: &[u8]) -> Vec<PathBuf> {
    let name = |line: &[u8]| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        // Stream sockets that accept, and those for datagrams, are listed alike: any can be sent to.
        (line.get(..at)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).count() == 7)
            .then(|| PathBuf::from(OsStr::from_bytes(line.get(at..).unwrap_or_default())))
    };
    let mut found: Vec<PathBuf> = list.split(|byte| *byte == b'\n').skip(1).filter_map(name).collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_other_names() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 100 /run/a b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 101\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 102 @/abstract\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 103 @x/y\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 104 /run/a b\n";
        assert_eq!(named(list), [PathBuf::from("/run/a b")]);
    }

    #[test]
    fn a_socket_is_found_below_its_directory_and_no_other() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let path = dirs[0].path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(below([dirs[0].path()]).unwrap(), [path]);
        assert_eq!(below([dirs[1].path()]).unwrap(), Vec::<PathBuf>::new());
        drop(listener);
        assert_eq!(below([dirs[0].path()]).unwrap(), Vec::<PathBuf>::new());
    }
}
