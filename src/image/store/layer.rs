//! Layers on disk.
//!
//! Takes a key; gives the layer's directory, checked against its own record.
//! Trusts that nobody else writes into the store; the tree itself is not read through here.
//! Refuses a layer that is missing, is another than its name says, or was unpacked for other ids.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Store, read_json};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::privilege::as_root;
use crate::image::document::Descriptor;
use crate::image::reference::{DiffId, Digest, Hasher};
use crate::image::unpack::protocol::{Omitted, RootMeta};

/// The tree as it was unpacked, in a layer's directory.
pub(crate) const LISTING: &str = "tree.zst";

/// What a layer is and how it was unpacked (`layer.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    /// The digest of its uncompressed archive.
    pub diff_id: DiffId,
    /// Its name in the store: the diff id, or a chain id.
    pub key: Digest,
    /// The blob it came from.
    pub blob: Digest,
    /// The blob's size.
    pub blob_bytes: u64,
    /// The archive's size.
    pub bytes: u64,
    /// Bytes of file contents in it.
    pub file_bytes: u64,
    /// Entries in the archive.
    pub entries: u64,
    /// What was left out, by rule.
    pub omitted: Omitted,
    /// The root directory's metadata, if the layer lists it.
    pub root: Option<RootMeta>,
    /// Which ids on disk are which in the image.
    pub ids: IdMap,
    /// The digest of its listing; layers of older stores have none.
    #[serde(default)]
    pub tree: Option<Digest>,
}

/// A layer's directory.
#[derive(Debug, Clone)]
pub struct LayerDir {
    fs: PathBuf,
    record: LayerRecord,
}

/// A layer that will not be removed while this lives.
#[derive(Debug)]
pub(crate) struct PinnedLayer {
    pub(crate) dir: LayerDir,
    _lock: File,
}

/// The digest of a file.
pub(crate) fn digest_of(path: &Path) -> Result<Digest> {
    let fail = |e: std::io::Error| {
        Error::new(Stage::Store, Kind::Failed, format!("cannot read {}", path.display())).because(e)
    };
    let mut file = File::open(path).map_err(fail)?;
    let mut hasher = Hasher::Sha256(Box::default());
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

impl LayerDir {
    /// The tree, ready to be a layer of an overlay.
    pub fn path(&self) -> &Path {
        &self.fs
    }

    /// The digest of the layer's uncompressed archive.
    pub fn diff_id(&self) -> &DiffId {
        &self.record.diff_id
    }

    /// What the layer is and how it was unpacked.
    pub fn record(&self) -> &LayerRecord {
        &self.record
    }
}

impl LayerDir {
    /// The same layer as the image with this `blob` has it: of the blob that somebody else's came in, nothing is told.
    pub(super) fn come_in(mut self, blob: &Descriptor) -> Self {
        (self.record.blob, self.record.blob_bytes) = (blob.digest.clone(), blob.size);
        self
    }
}

impl PinnedLayer {
    /// What was renamed in by who holds `lock` on it.
    pub(crate) fn new(path: &Path, record: LayerRecord, lock: File) -> Self {
        Self { dir: LayerDir { fs: path.join("fs"), record }, _lock: lock }
    }
}

impl Store {
    /// The layer `key`, checked; `None` if there is none, or it is of no use here.
    pub(crate) fn layer(&self, key: &Digest, diff_id: &DiffId) -> Result<Option<LayerDir>> {
        let path = self.layer_path(key);
        let Some(record) = read_json::<LayerRecord>(&path.join("layer.json"))? else { return Ok(None) };
        if record.key != *key || record.diff_id != *diff_id {
            return Err(self.damaged(key, "it is another layer than its name says"));
        }
        if record.ids != *self.ids() {
            return Ok(None);
        }
        let fs = path.join("fs");
        let metadata = fs.symlink_metadata().map_err(|e| self.damaged(key, &e.to_string()))?;
        if !metadata.is_dir() {
            return Err(self.damaged(key, "its tree is not a directory"));
        }
        if Some(metadata.uid()) != self.ids().uid_outside(0) {
            return Err(self.damaged(key, "its tree belongs to someone else"));
        }
        Ok(Some(LayerDir { fs, record }))
    }

    /// The layer `key`, not to be removed while the result lives.
    pub(crate) fn pin_layer(&self, key: &Digest, diff_id: &DiffId) -> Result<Option<PinnedLayer>> {
        as_root(|_| {
            let _held = self.shared()?;
            // A damaged layer is as good as none when an image is being pulled.
            let Ok(Some(dir)) = self.layer(key, diff_id) else { return Ok(None) };
            let fail = |e: std::io::Error| self.error("cannot lock a layer").because(e);
            let lock = File::open(self.layer_path(key)).map_err(fail)?;
            lock.lock_shared().map_err(fail)?;
            Ok(Some(PinnedLayer { dir, _lock: lock }))
        })
    }

    pub(crate) fn damaged(&self, key: &Digest, why: &str) -> Error {
        self.error(&format!("layer {key} is damaged")).because(why).hint("pull the image again")
    }
}
