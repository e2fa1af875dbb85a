//! What a layer says of packages, kept beside its listing (`facts.zst`).
//!
//! Takes a layer that is in use; gives its listing and the file of its facts, made when it is missing. What is in that file is a
//! later stage's affair (`stack`). Trusts the listing by its digest. Refuses a listing that is missing or another one.

use std::fs::{self, File};
use std::path::Path;

use serde::Deserialize;

use super::layer::{LISTING, LayerDir, digest_of};
use super::{Store, full, sync_directory};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::reference::Digest;
use crate::image::unpack::parent::{Ended, Unpacker};

/// The facts, in a layer's directory.
const FACTS: &str = "facts.zst";

impl Store {
    /// The listing of a layer, and its digest.
    ///
    /// # Errors
    /// When the layer was unpacked before trees were recorded, or its listing is damaged.
    pub fn listing(&self, layer: &LayerDir) -> Result<(File, Digest)> {
        as_root(|_| {
            let key = &layer.record().key;
            let Some(tree) = layer.record().tree.clone() else {
                return Err(Error::new(Stage::Store, Kind::Missing, format!("layer {key} has no listing"))
                    .because("it was unpacked before trees were recorded")
                    .hint("remove its images and pull them again"));
            };
            let path = self.layer_path(key).join(LISTING);
            if digest_of(&path).ok().as_ref() != Some(&tree) {
                return Err(self.damaged(key, "its listing is missing or does not have its digest"));
            }
            let file = File::open(&path).map_err(|e| self.damaged(key, &e.to_string()))?;
            Ok((file, tree))
        })
    }

    /// The facts of a layer, if they were read before.
    pub fn facts(&self, layer: &LayerDir) -> Option<File> {
        as_root(|_| File::open(self.layer_path(&layer.record().key).join(FACTS)).ok())
    }

    /// Reads the facts of a layer anew, and keeps them. Somebody must be using the layer: it could be removed meanwhile.
    ///
    /// # Errors
    /// When no process can be started, it died, or the store cannot be written.
    pub fn read_facts(&self, unpacker: &Unpacker, layer: &LayerDir) -> Result<Ended<()>> {
        as_root(|_| {
            let key = &layer.record().key;
            let fail =
                |e: std::io::Error| full(self.error("cannot keep what a layer says"), self.root(), "a few blocks", &e);
            let (_, tree) = self.listing(layer)?;
            let directory = self.layer_path(key);
            // Under the lock, so that nobody takes it for something that a crash has left.
            let held = self.shared()?;
            let scratch = tempfile::Builder::new().prefix("facts-").tempdir_in(self.aside()).map_err(fail)?;
            let at_work = File::open(scratch.path()).map_err(fail)?;
            at_work.lock_shared().map_err(fail)?;
            drop(held);
            let made = scratch.path().join(FACTS);
            if let Err(fault) = unpacker.facts(layer.path(), &directory.join(LISTING), tree.as_str(), &made)? {
                return Ok(Err(fault));
            }
            File::open(&made).and_then(|file| file.sync_all()).map_err(fail)?;
            fs::rename(&made, directory.join(FACTS)).map_err(fail)?;
            sync_directory(&directory).map(Ok)
        })
    }

    /// Whether the facts that are kept of the layer in `directory` are others than its tree gives now. Where none are kept, or
    /// those of other readers, there is nothing to compare.
    pub(super) fn facts_differ(
        &self,
        unpacker: &Unpacker,
        directory: &Path,
        tree: &Digest,
        aside: &Path,
    ) -> Result<bool> {
        let (kept, made) = (directory.join(FACTS), aside.join(FACTS));
        let Ok(bytes) = fs::read(&kept) else { return Ok(false) };
        let (fs, listing) = (directory.join("fs"), directory.join(LISTING));
        if unpacker.facts(&fs, &listing, tree.as_str(), &made)?.is_err() {
            return Ok(false);
        }
        let anew = fs::read(&made).map_err(|e| self.error("cannot read what a layer says").because(e))?;
        Ok(bytes != anew && version(&bytes).is_none_or(|kept| Some(kept) == version(&anew)))
    }

    /// Forgets the facts of a layer: they are read anew when somebody asks.
    pub(super) fn remove_facts(&self, key: &Digest) -> Result<bool> {
        let removed = fs::remove_file(self.layer_path(key).join(FACTS));
        removed.map(|()| true).map_err(|e| self.error("cannot remove what a layer says").because(e))
    }
}

/// The version of the readers that wrote facts; none where they cannot be read.
fn version(facts: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let text = zstd::stream::read::Decoder::new(facts).ok()?;
    serde_json::from_reader::<_, Head>(std::io::BufReader::new(text)).ok().map(|head| head.version)
}
