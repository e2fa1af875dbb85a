//! A compressed archive becomes a plain one, so that its members can be read where they are.
//!
//! Takes an open file and its compression; gives another open file, which has no name any more and so goes with this process.
//! Trusts nothing in the archive: it is decompressed by the child that unpacks layers, shut into an empty directory of the
//! store, within the limits of memory, of expansion and of a whole image.
//! Refuses what expands to more, and what is no such archive.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use super::document::Compression;
use super::source::Watch;
use super::store::Store;
use super::unpack::parent::Unpacker;
use super::unpack::protocol::{EXPANDED, Fault, FaultKind};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;

/// Decompresses `archive`, which messages call `name`.
///
/// # Errors
/// When it is damaged, expands to more than an image may, does not fit the disk, or `watch` says that it is enough.
pub fn expand(
    store: &Store,
    unpacker: &Unpacker,
    watch: &dyn Watch,
    (archive, name): (&File, &str),
    compression: Compression,
) -> Result<File> {
    let unreadable =
        |e: std::io::Error| Error::new(Stage::Pull, Kind::Failed, format!("cannot read {name}")).because(e);
    let size = archive.metadata().map_err(unreadable)?.len();
    watch.tell(&format!("decompressing {name}"));
    // Also swept by the next pull, should this process be killed before it has the file.
    let workspace = store.workspace(unpacker)?;
    let ended = unpacker.expand(&workspace.fs(), compression, size, |pipe| {
        let mut buffer = vec![0_u8; 256 << 10];
        let mut archive = archive;
        loop {
            watch.go_on()?;
            let piece = match archive.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => buffer.get(..n).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(unreadable(e)),
            };
            match pipe.write_all(piece) {
                Ok(()) => {}
                // The child has stopped, and says why.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(e) => return Err(unreadable(e)),
            }
        }
    })?;
    ended.map_err(|fault| refuse(fault, name, store))?;
    let plain = workspace.fs().join(EXPANDED);
    let mut options = File::options();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW);
    // Its name goes with the workspace.
    as_root(|_| options.open(plain)).map_err(|e| {
        Error::new(Stage::Store, Kind::Failed, format!("cannot read what {name} was decompressed to")).because(e)
    })
}

fn refuse(fault: Fault, name: &str, store: &Store) -> Error {
    let (kind, what, hint) = match fault.kind {
        FaultKind::Malformed | FaultKind::Refused | FaultKind::InTurn => (
            Kind::Hostile,
            format!("{name} cannot be decompressed"),
            "the file is damaged, or made to fill the disk; nothing of it was kept".to_owned(),
        ),
        FaultKind::NoSpace => (
            Kind::Host,
            format!("no space left to decompress {name}"),
            format!(
                "make room in {} (ces prune deletes what nothing uses), or give the archive as it is uncompressed",
                store.root().display()
            ),
        ),
        FaultKind::Host => (Kind::Host, format!("cannot decompress {name}"), "nothing of it was kept".to_owned()),
    };
    Error::new(Stage::Unpack, kind, what).because(fault.text).hint(fault.hint.unwrap_or(hint))
}
