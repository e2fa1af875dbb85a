//! What came of blobs whose transfer was cut off: kept for the next pull, of this command or the next.
//!
//! Takes a blob's descriptor and its bytes as they come; gives, next time, the bytes that are there already.
//! Trusts nothing in it: whoever reads it counts and hashes the whole blob, what was kept and what came after.
//! Refuses nothing: what cannot be kept is not kept, and the pull goes on without it.
//!
//! What a researcher's pull has left is that researcher's alone: with somebody else's beginning of a blob and a registry of
//! one's own that gives the end, one would have a blob that one may not have.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Store, list};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::document::Descriptor;

/// So many are kept of one researcher, the newest; a pull leaves at most three.
const KEPT_MAX: usize = 12;
/// So many bytes are kept of one researcher.
const BYTES_MAX: u64 = 32 << 30;
/// So long one is kept; and so long a whole layer of a pull that was refused or broken off.
pub(super) const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is there of a blob. As long as this lives, nobody else has it; what is not discarded stays.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Store {
    fn partial_root(&self) -> PathBuf {
        self.root().join("partial")
    }

    /// What is there of a blob, perhaps nothing yet; none if another pull is at work on it, or nothing can be kept.
    pub(crate) fn partial(&self, blob: &Descriptor) -> Option<Partial> {
        as_root(|_| {
            let directory = self.partial_root().join(format!("u{}", self.viewer.uid()));
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
            let path = directory.join(format!("{}-{}", blob.digest.algorithm(), blob.digest.hex()));
            let mut options = File::options();
            options.read(true).append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
            let file = options.open(&path).ok()?;
            file.try_lock().ok()?;
            let bytes = file.metadata().ok()?.len();
            let mut partial = Partial { file, path, bytes };
            if bytes > blob.size {
                partial.start_over();
            }
            // Before this one grows, and never this one: it is locked.
            let room = BYTES_MAX.saturating_sub(blob.size);
            free(&directory, |place| place.newer >= KEPT_MAX || place.bytes_with_newer > room, Now::Delete).ok();
            Some(partial)
        })
    }

    /// Deletes what nobody works on: everything that the caller may delete, or only what is too old. Gives its bytes.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub(super) fn free_partials(&self, everything: bool) -> Result<u64> {
        let mut freed = 0;
        for name in list(&self.partial_root())? {
            let is_theirs = self.is_roots() || name == format!("u{}", self.viewer.uid());
            let directory = self.partial_root().join(name);
            let goes = |place: &Place| (everything && is_theirs) || place.age > AGE_MAX;
            let now = if self.dry.is_some() { Now::Count } else { Now::Delete };
            freed += free(&directory, goes, now).map_err(|e| {
                let what = format!("cannot delete what came of blobs in {}", directory.display());
                Error::new(Stage::Store, Kind::Failed, what).because(e)
            })?;
        }
        // With their last file the directories go.
        let emptied = if self.dry.is_some() { Vec::new() } else { list(&self.partial_root())? };
        for directory in emptied.iter().map(|name| self.partial_root().join(name)) {
            fs::remove_dir(directory).ok();
        }
        Ok(freed)
    }
}

/// Where a file stands among those of its directory.
struct Place {
    /// How many are newer.
    newer: usize,
    /// Their bytes, and its own.
    bytes_with_newer: u64,
    /// Since when nothing was added.
    age: Duration,
}

/// What becomes of files that go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// They are deleted.
    Delete,
    /// They are counted, and stay.
    Count,
}

/// Deletes the files in `directory` that go and that nobody works on; gives their bytes.
fn free(directory: &Path, goes: impl Fn(&Place) -> bool, now: Now) -> std::io::Result<u64> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // Deleted by someone else meanwhile, perhaps.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_file() {
            files.push((metadata.modified()?, metadata.size(), path));
        }
    }
    files.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
    let (mut freed, mut bytes_with_newer) = (0, 0);
    for (newer, (modified, bytes, path)) in files.into_iter().enumerate() {
        bytes_with_newer += bytes;
        // A clock that was set back makes it no older than new.
        let place = Place { newer, bytes_with_newer, age: modified.elapsed().unwrap_or_default() };
        if !goes(&place) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_ok() {
            if now == Now::Delete {
                fs::remove_file(&path)?;
            }
            freed += bytes;
        }
    }
    Ok(freed)
}

impl Partial {
    /// How much is there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Hands what is there to `sink`.
    ///
    /// # Errors
    /// When it cannot be read, or `sink` fails.
    pub(crate) fn replay(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let fail = |e: std::io::Error| {
            Error::new(Stage::Store, Kind::Failed, "cannot read what came of a blob before")
                .because(e)
                .hint("ces prune deletes it; then the pull begins anew")
        };
        self.file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut buffer = vec![0_u8; 256 << 10];
        let mut remaining = self.bytes;
        while remaining > 0 {
            let read = self.file.read(&mut buffer).map_err(fail)?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                return Err(fail(std::io::ErrorKind::UnexpectedEof.into()));
            }
            remaining = remaining.saturating_sub(piece.len() as u64);
            sink(piece)?;
        }
        Ok(())
    }

    /// Keeps more; gives up all of it if that cannot be (a full disk has a better use for the space).
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        let kept = self.file.write_all(bytes).is_ok();
        if !kept {
            self.start_over();
        }
        kept
    }

    /// Forgets what is there.
    pub(crate) fn start_over(&mut self) {
        // If that fails, what is read next has another digest, and is discarded for that.
        self.file.set_len(0).ok();
        self.bytes = 0;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.bytes == 0 {
            // Still locked: nobody else begins to fill it meanwhile.
            as_root(|_| fs::remove_file(&self.path)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    #[test]
    fn the_oldest_go_first_and_never_what_somebody_works_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: u64| directory.path().join(name.to_string());
        for hours in 0..5 {
            let file = File::create(path(hours)).unwrap();
            file.set_len(10).unwrap();
            let then = file.metadata().unwrap().modified().unwrap() - Duration::from_secs(hours * 3600);
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        }
        let locked = File::open(path(4)).unwrap();
        locked.try_lock().unwrap();
        let kept = || (0..5).filter(|hours| path(*hours).exists()).collect::<Vec<_>>();
        assert_eq!(free(directory.path(), |place| place.newer >= 3, Now::Delete).unwrap(), 10);
        assert_eq!(kept(), [0, 1, 2, 4]);
        assert_eq!(free(directory.path(), |place| place.bytes_with_newer > 20, Now::Delete).unwrap(), 10);
        assert_eq!(kept(), [0, 1, 4]);
        assert_eq!(free(directory.path(), |place| place.age > Duration::from_secs(1800), Now::Delete).unwrap(), 10);
        assert_eq!(kept(), [0, 4]);
        drop(locked);
        for now in [Now::Count, Now::Delete] {
            assert_eq!(free(directory.path(), |_| true, now).unwrap(), 20);
        }
    }
}
