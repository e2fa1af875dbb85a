//! One layer's facts, read in the process that is shut into that layer (`image::unpack::child`), and read back.
//!
//! The process is root of a user namespace of its own, without network, its root directory is the layer, Landlock lets it read
//! there and write nowhere but to the file that it was given; memory, processor time and the size of that file have limits.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::facts::{Facts, Files, OpenFile, VERSION, bad, collect, path_bytes};
use super::listing;

/// Facts are mostly lists of paths.
const COMPRESSION: i32 = 3;
/// What a layer's facts may be, unpacked.
const FACTS_MAX: u64 = 256 << 20;

/// Reads the facts of the layer in `root`, whose listing has the digest `tree`, into `out`.
///
/// # Errors
/// When the listing cannot be read, or the facts cannot be written.
pub fn read_layer(root: &OwnedFd, listing: File, out: File, tree: &str) -> io::Result<()> {
    let mut entries = Vec::new();
    listing::read(unpacked(listing)?, &mut |entry| {
        if matches!(entry.kind, listing::Kind::File | listing::Kind::Link) {
            entries.push(entry);
        }
        Ok(())
    })?;
    write(&collect::collect(&entries, &Layer(root), tree), out)
}

/// A packed listing, to be read.
///
/// # Errors
/// When it cannot be read.
pub fn unpacked(listing: File) -> io::Result<impl io::BufRead> {
    Ok(BufReader::with_capacity(128 << 10, zstd::stream::read::Decoder::new(listing)?))
}

fn write(facts: &Facts, out: File) -> io::Result<()> {
    let mut sink = zstd::stream::write::Encoder::new(BufWriter::new(out), COMPRESSION)?;
    // What a failing disk has changed is seen when it is read.
    sink.include_checksum(true)?;
    serde_json::to_writer(&mut sink, facts)?;
    sink.finish()?.flush()
}

/// The facts in a file that the process has written.
///
/// # Errors
/// When it is damaged, too large, of older readers or of another listing than `tree`: then it is to be made anew.
pub fn load(file: File, tree: &str) -> io::Result<Facts> {
    let mut bytes = Vec::new();
    zstd::stream::read::Decoder::new(file)?.take(FACTS_MAX).read_to_end(&mut bytes)?;
    let facts: Facts = serde_json::from_slice(&bytes)?;
    if facts.version == VERSION && facts.tree == tree {
        Ok(facts)
    } else {
        Err(bad("facts of another layer or version"))
    }
}

/// The layer's files; none is reached through a link.
struct Layer<'a>(&'a OwnedFd);

impl Files for Layer<'_> {
    fn open(&self, path: &str) -> io::Result<OpenFile> {
        // Should a pipe be there, opening must not wait for it.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        OpenFile::new(File::from(openat2(self.0, OsStr::from_bytes(&path_bytes(path)), how)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_back_only_where_they_belong() {
        let facts = Facts { version: VERSION, tree: "sha256:a".to_owned(), ..Facts::default() };
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&facts, file.reopen().unwrap()).unwrap();
        assert_eq!(load(file.reopen().unwrap(), "sha256:a").unwrap(), facts);
        assert!(load(file.reopen().unwrap(), "sha256:b").is_err());
        let mut bytes = std::fs::read(file.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file.path(), &bytes).unwrap();
        assert!(load(file.reopen().unwrap(), "sha256:a").is_err());
    }

    #[test]
    fn no_file_is_reached_through_a_link_or_beyond_the_layer() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("layer")).unwrap();
        std::fs::write(directory.path().join("secret"), "x").unwrap();
        std::fs::write(directory.path().join("layer/file"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", directory.path().join("layer/link")).unwrap();
        std::os::unix::fs::symlink(".", directory.path().join("layer/here")).unwrap();
        let root = OwnedFd::from(File::open(directory.path().join("layer")).unwrap());
        let layer = Layer(&root);
        assert!(layer.open("file").is_ok());
        for path in ["link", "../secret", "here/file", ".", "/etc/passwd"] {
            assert!(layer.open(path).is_err(), "{path}");
        }
    }
}
