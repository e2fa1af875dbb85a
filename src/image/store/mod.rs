//! Images and layers on disk.
//!
//! Takes checked documents and unpacked layers; gives `StoredImage`s to run.
//! Trusts its own directory (0700, owned by who runs `ces`), but checks every document by its digest at each use.
//! Refuses what was damaged, naming it, with the advice to pull again.
//!
//! ```text
//! <store>/                          0700
//!   lock                            flock: shared while something is looked up, exclusive while names change
//!   turns                           one byte of it is locked for each image that is being pulled
//!   layers/sha256/<key>/            one directory a layer; flock shared on it: in use
//!       fs/                         its tree, ready to be a layer of an overlay
//!       layer.json                  what it is and how it was unpacked
//!       tree.zst                    the tree, listed when it was unpacked; its digest is in layer.json
//!       facts.zst                   what it says of packages (`stack`); made anew where it is missing
//!   images/sha256/<manifest>/       one directory an image; flock shared on it: in use
//!       manifest.json  config.json  the bytes as received
//!       image.json                  its layers' keys; who holds it: pulled when, by whom, from where
//!       mount-points/               empty directories and files that every container has something mounted on
//!       own-<uid>-<gid>/            what of it belongs to that user, as the researcher's (`run::reown`; users' stores alone)
//!   refs/<sha256 of the name>.json  a name that is everybody's, the manifest it stands for, and who pulled it by that name
//!   refs/u<uid>/<sha256>.json       a name that is a researcher's own: to it belongs the group of their project
//!   partial/u<uid>/<digest>         what came of a blob in a researcher's pull that was cut off; flock on it: it is coming
//!   tmp/<random>/                   written aside, then renamed in; flock shared on it: someone is at work
//! ```
//!
//! A layer's key is its diff id, so images share it. A layer that only makes sense on top of what lies below it (it has
//! entries in directories that it does not list, or hard links to files of other layers) is stored as it looks on that
//! base, under its chain id.
//!
//! Order of writing: a layer is renamed in when it is whole and on disk; then the image, likewise; then its name. Order of
//! removing: name, image, layers, each by a rename to `tmp/` before anything in it is deleted. So a crash at any moment
//! leaves at most something that nothing names, which the next `pull` or `prune` removes.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Serialize, de::DeserializeOwned};

use super::reference::Digest;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::host::lock_file;
use crate::host::privilege::as_root;

/// Layers on disk.
pub mod layer;
/// What a layer says of packages.
mod facts;
/// What to say of an image that is not there.
mod missing;
/// Images on disk.
pub mod image;
/// Written aside, renamed in.
pub mod workspace;
/// What came of blobs whose transfer was cut off.
pub(crate) mod partial;
/// Everything against what was recorded.
pub mod check;
/// Deleting what nothing uses.
pub mod remove;
/// Where containers have something mounted.
mod mount_points;

/// Who asks, and who holds.
pub mod viewer;
/// Whose image is whose.
pub mod visibility;
/// What the store notes about an image, and who holds it.
pub mod record;
/// Names, and whose they are.
mod names;
#[cfg(test)]
mod tests;

use viewer::Viewer;

pub use image::{Listed, StoredImage};
pub use layer::{LayerDir, LayerRecord};
pub use record::ImageRecord;

/// The store of one installation.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    ids: IdMap,
    viewer: Viewer,
    /// In a dry run: what would be gone by now.
    dry: Option<Mutex<HashSet<PathBuf>>>,
}

/// Held while names are looked up (shared) or changed (exclusive).
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Store {
    /// Opens the store, or makes an empty one.
    ///
    /// # Errors
    /// When its directory cannot be made, or belongs to or may be written by someone else.
    pub fn open(dirs: &Dirs, caller: &Caller) -> Result<Self> {
        as_root(|_| {
            let root = dirs.store.path().to_path_buf();
            let fail = |e: std::io::Error| {
                Error::new(Stage::Store, Kind::Host, format!("cannot open the store {}", root.display()))
                    .because(e)
                    .hint("name a directory that can be yours, on a local file system, with --root or CES_ROOT")
            };
            for directory in ["layers/sha256", "images/sha256", "refs", "tmp"] {
                DirBuilder::new().recursive(true).mode(0o700).create(root.join(directory)).map_err(fail)?;
            }
            let metadata = fs::metadata(&root).map_err(fail)?;
            if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
                return Err(Error::new(Stage::Store, Kind::Host, format!("the store {} is not safe", root.display()))
                    .because("it belongs to, or may be written by, someone else")
                    .hint("choose another directory with --root, or correct owner and mode (chmod 700)"));
            }
            Ok(Self { root, ids: IdMap::on_disk(caller)?, viewer: Viewer::of(caller)?, dry: None })
        })
    }

    /// The same store, of which removals change nothing: they tell what they would remove.
    #[must_use]
    pub fn changing_nothing(self) -> Self {
        Self { dry: Some(Mutex::default()), ..self }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The id map that layers must have been unpacked with.
    pub(crate) fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// Nothing is removed while this is held.
    pub(crate) fn shared(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        file.lock_shared().map_err(|e| self.error("cannot lock the store").because(e))?;
        Ok(Lock { _file: file })
    }

    /// Nobody else looks anything up while this is held.
    pub(crate) fn exclusive(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        file.lock().map_err(|e| self.error("cannot lock the store").because(e))?;
        Ok(Lock { _file: file })
    }

    fn lock_file(&self) -> Result<File> {
        lock_file::open(&self.root.join("lock"))
            .map_err(|e| full(self.error("cannot lock the store"), &self.root, "an inode", &e))
    }

    /// Waits until no other pull of the same person's is at the image `manifest`: a second one then finds all that it needs. None where that
    /// takes longer than `patience`: two that go on at once both succeed. Nobody waits for somebody else's source, which may be slow.
    /// `go_on` is asked between two looks.
    pub(crate) fn turn(
        &self,
        manifest: &Digest,
        patience: Duration,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Option<Lock>> {
        const LOOK: Duration = Duration::from_millis(20);
        let until = Instant::now() + patience;
        loop {
            let turn = self.turn_now(manifest)?;
            if turn.is_some() || Instant::now() >= until {
                return Ok(turn);
            }
            go_on()?;
            std::thread::sleep(LOOK);
        }
    }

    fn turn_now(&self, manifest: &Digest) -> Result<Option<Lock>> {
        as_root(|_| {
            let fail = || self.error("cannot lock the store");
            let open = lock_file::open(&self.root.join("turns"));
            let file = open.map_err(|e| full(fail(), &self.root, "an inode", &e))?;
            // A byte that need not exist; two images that share one only wait for each other.
            let start = manifest.hex().get(..15).and_then(|digits| i64::from_str_radix(digits, 16).ok()).unwrap_or(0);
            let start = start ^ i64::from(self.viewer.uid()) << 24;
            let short = |value: i32| i16::try_from(value).map_err(|e| fail().because(e));
            let range = nix::libc::flock {
                l_type: short(nix::libc::F_WRLCK)?,
                l_whence: short(nix::libc::SEEK_SET)?,
                l_start: start,
                l_len: 1,
                l_pid: 0,
            };
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&range)) {
                Ok(_) => Ok(Some(Lock { _file: file })),
                Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
                Err(e) => Err(fail().because(e.desc())),
            }
        })
    }

    pub(crate) fn error(&self, what: &str) -> Error {
        Error::new(Stage::Store, Kind::Failed, format!("{what} ({})", self.root.display()))
    }

    /// Where documents are written that replace others; whoever writes holds the exclusive lock, or a sweep takes what is
    /// there for something that a crash has left.
    pub(crate) fn aside(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn layer_path(&self, key: &Digest) -> PathBuf {
        self.root.join("layers").join(file_name(key))
    }

    pub(crate) fn image_path(&self, manifest: &Digest) -> PathBuf {
        self.root.join("images").join(file_name(manifest))
    }

    /// The manifest digests of all images.
    pub(crate) fn manifests(&self) -> Result<Vec<Digest>> {
        let mut all = digests(&self.root.join("images"))?;
        all.retain(|manifest| !self.would_be_gone(&self.image_path(manifest)));
        Ok(all)
    }
}

/// `sha256/<hex>`: the digest was checked when it became a [`Digest`].
fn file_name(digest: &Digest) -> PathBuf {
    Path::new(digest.algorithm()).join(digest.hex())
}

/// The digests that are names below `directory/<algorithm>/`.
pub(crate) fn digests(directory: &Path) -> Result<Vec<Digest>> {
    let mut all = Vec::new();
    for algorithm in list(directory)? {
        for hex in list(&directory.join(&algorithm))? {
            all.extend(format!("{algorithm}:{hex}").parse::<Digest>().ok());
        }
    }
    Ok(all)
}

/// The names in a directory; none if it does not exist.
pub(crate) fn list(directory: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::new(Stage::Store, Kind::Failed, format!("cannot list {}", directory.display())).because(e);
    match fs::read_dir(directory) {
        Ok(entries) => {
            entries.map(|entry| Ok(entry.map_err(fail)?.file_name().to_string_lossy().into_owned())).collect()
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(fail(e)),
    }
}

/// Reads a document of the store's own; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let fail = |what: &str| Error::new(Stage::Store, Kind::Failed, format!("{what} {}", path.display()));
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| fail("the store is damaged:").because(e).hint("pull the image again")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail("cannot read").because(e)),
    }
}

/// Writes a document of the store's own: in the directory `aside`, to disk, and renamed in.
pub(crate) fn write_json(aside: &Path, path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|e| Error::new(Stage::Store, Kind::Failed, e.to_string()))?;
    bytes.push(b'\n');
    write_file(aside, path, &bytes)
}

/// Writes a file: in the directory `aside`, to disk, and renamed in.
pub(crate) fn write_file(aside: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let needed = format!("{} bytes", bytes.len());
    let fail = |e: std::io::Error| {
        full(Error::new(Stage::Store, Kind::Failed, format!("cannot write {}", path.display())), aside, &needed, &e)
    };
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(aside).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    sync_directory(parent)
}

/// Adds the cause `e` to `error`, and what is free at `place` and what was `needed` where that is the cause.
pub(crate) fn full(error: Error, place: &Path, needed: &str, e: &std::io::Error) -> Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let error = error.because(e);
    let found = matches!(e.kind(), StorageFull | QuotaExceeded).then(|| nix::sys::statvfs::statvfs(place));
    let Some(Ok(found)) = found else { return error };
    let bytes = found.blocks_available().saturating_mul(found.fragment_size());
    let inodes = found.files_available();
    error
        .because(format!("{} has {bytes} bytes and {inodes} inodes free; {needed} were needed", place.display()))
        .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy")
}

/// Makes a directory's names survive a power failure.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| {
        Error::new(Stage::Store, Kind::Failed, format!("cannot write {} to disk", path.display())).because(e)
    })
}
