//! Deleting what nothing uses.
//!
//! Takes names, or nothing; gives what was freed.
//! Trusts the locks: a layer or image with a shared lock on it is in use.
//! Refuses to remove an image that a running container uses.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::workspace::discard;
use super::{ImageRecord, LayerRecord, Lock, Store, digests, list, read_json};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::Digest;
use crate::image::unpack::parent::Unpacker;

/// What a removal has freed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Names taken away.
    pub names: Vec<String>,
    /// Images deleted.
    pub images: Vec<Digest>,
    /// Number of layers deleted.
    pub layers: u64,
    /// Bytes of file contents in them.
    pub bytes: u64,
}

impl Store {
    /// Takes a name away, or all names of an image given by digest; deletes what nothing uses any more.
    ///
    /// # Errors
    /// When there is no such image, or it is in use.
    pub fn remove(&self, words: &str, unpacker: &Unpacker) -> Result<Freed> {
        let held = self.exclusive()?;
        let (name, manifest) = self.resolve(&held, words)?;
        let all: Vec<String> =
            self.refs()?.into_iter().filter(|r| r.manifest == manifest).map(|r| r.reference).collect();
        // By its own name only that name goes; by digest, the image with all its names.
        let by_name = words.parse().is_ok_and(|r: crate::image::reference::Reference| r.to_string() == name);
        let names: Vec<String> =
            if by_name { all.iter().filter(|n| **n == name).cloned().collect() } else { all.clone() };
        let mut freed = Freed::default();
        if names.len() == all.len() {
            if !self.set_aside_unused(&held, &self.image_path(&manifest))? {
                return Err(Error::new(Stage::Store, Kind::Failed, format!("image {name} is in use"))
                    .because("a container of it is running")
                    .hint("ces ps shows it; stop it first"));
            }
            freed.images.push(manifest);
        }
        for name in names {
            self.drop_ref(&held, &name)?;
            freed.names.push(name);
        }
        self.free_layers(&held, &mut freed)?;
        drop(held);
        self.sweep(unpacker)?;
        Ok(freed)
    }

    /// Deletes images without a name, layers without an image, and what crashes have left.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn prune(&self, unpacker: &Unpacker) -> Result<Freed> {
        let mut freed = Freed::default();
        let held = self.exclusive()?;
        let named: HashSet<Digest> = self.refs()?.into_iter().map(|r| r.manifest).collect();
        for manifest in self.manifests()? {
            if !named.contains(&manifest) && self.set_aside_unused(&held, &self.image_path(&manifest))? {
                freed.images.push(manifest);
            }
        }
        self.free_layers(&held, &mut freed)?;
        drop(held);
        self.sweep(unpacker)?;
        Ok(freed)
    }

    /// Moves every layer that no image uses to `tmp/`.
    fn free_layers(&self, held: &Lock, freed: &mut Freed) -> Result<()> {
        let mut used = HashSet::new();
        for manifest in self.manifests()? {
            match read_json::<ImageRecord>(&self.image_path(&manifest).join("image.json")) {
                Ok(record) => used.extend(record.into_iter().flat_map(|record| record.layers).map(|(_, key)| key)),
                // Nobody knows which layers it uses, so all stay; root is told which image it is.
                Err(_) if !self.shows_all() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for key in digests(&self.root().join("layers"))? {
            if used.contains(&key) {
                continue;
            }
            let path = self.layer_path(&key);
            let bytes = read_json::<LayerRecord>(&path.join("layer.json")).ok().flatten().map_or(0, |r| r.file_bytes);
            if self.set_aside_unused(held, &path)? {
                freed.layers += 1;
                freed.bytes += bytes;
            }
        }
        Ok(())
    }

    /// Moves a directory to `tmp/`, unless it is in use.
    pub(crate) fn set_aside_unused(&self, held: &Lock, path: &Path) -> Result<bool> {
        let directory = match File::open(path) {
            Ok(directory) => directory,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(self.error("cannot open a directory").because(e)),
        };
        match directory.try_lock() {
            Ok(()) => {
                self.set_aside(held, path)?;
                Ok(true)
            }
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(e)) => Err(self.error("cannot lock a directory").because(e)),
        }
    }

    /// Moves a directory to `tmp/`, where the next sweep deletes it.
    pub(crate) fn set_aside(&self, _held: &Lock, path: &Path) -> Result<()> {
        let fail = |e: std::io::Error| self.error("cannot set something aside").because(e);
        let aside = tempfile::Builder::new().prefix("gone-").tempdir_in(self.root().join("tmp")).map_err(fail)?.keep();
        // A rename replaces an empty directory.
        fs::rename(path, &aside).map_err(fail)
    }

    /// Deletes everything below `tmp/` that nobody works on.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn sweep(&self, unpacker: &Unpacker) -> Result<()> {
        let directory = self.root().join("tmp");
        let mut stale: Vec<(PathBuf, File)> = Vec::new();
        let held = self.exclusive()?;
        for name in list(&directory)? {
            let path = directory.join(name);
            // Deleted by someone else meanwhile, perhaps.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                stale.push((path, file));
            }
        }
        drop(held);
        // Deleting takes long; the locks keep others from doing the same, and nobody else knows these names.
        stale.iter().try_for_each(|(path, _)| settled(|| discard(path, unpacker)))
    }
}

/// How often, and how long in between, a removal is tried again: half a second in all.
const SETTLE_LOOKS: u32 = 50;
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// Does `work` again while it fails and may not for long: of a pull that was killed, the locks are gone before the process that
/// unpacks for it, which may still make a file (PR_SET_PDEATHSIG(2const): sent when the parent is gone).
fn settled(work: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 1..SETTLE_LOOKS {
        if work().is_ok() {
            return Ok(());
        }
        std::thread::sleep(SETTLE_PAUSE);
    }
    work()
}
