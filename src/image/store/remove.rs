//! Deleting what nobody holds and nothing uses.
//!
//! Takes names, or nothing; gives what was freed.
//! Trusts the locks: a layer or image with a shared lock on it is in use.
//! Refuses root to remove an image that a running container uses, and researchers to remove what they have not pulled.
//!
//! Root, and a user in their own store, remove for everybody. A researcher lets go: of their names, and with the last of them
//! of the image, which goes with its last holder. What they are told is the same whoever else holds the image, runs it, or has
//! layers of it: anything else would tell of other projects.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use serde::Serialize;

use super::names::{Name, Space};
use super::partial::AGE_MAX;
use super::workspace::discard;
use super::{ImageRecord, LayerRecord, Lock, Store, digests, list, read_json, write_json};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::reference::{Digest, Reference};
use crate::image::unpack::parent::Unpacker;

/// What a removal has freed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Names taken away.
    pub names: Vec<String>,
    /// Images deleted; of a researcher: those that they do not hold any more.
    pub images: Vec<Digest>,
    /// Bytes of blobs whose transfer was cut off, which were kept for the next pull: the caller's own.
    pub partial_bytes: u64,
    /// The layers deleted; no researcher is told of them.
    #[serde(flatten)]
    pub layers: Option<FreedLayers>,
}

/// Layers that were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FreedLayers {
    /// Their number.
    pub layers: u64,
    /// Bytes of file contents in them.
    pub bytes: u64,
}

impl Store {
    /// Takes a name away, or all names of an image given by digest; deletes what nobody holds any more.
    ///
    /// # Errors
    /// When there is no such image; when it is in use; when a researcher has not pulled it.
    pub fn remove(&self, words: &str, unpacker: &Unpacker) -> Result<Freed> {
        as_root(|_| {
            let held = self.exclusive()?;
            let (name, manifest) = self.resolve(&held, words)?;
            // By its own name only that name goes; by digest, the image with all its names.
            let by_name = Reference::in_store(words).is_some_and(|r| r.to_string() == name);
            let is_meant = |known: &Name| !by_name || known.reference == name;
            let mut freed = if self.is_roots() {
                self.remove_for_everybody(&held, &name, &manifest, is_meant)?
            } else {
                self.let_go(&held, &name, &manifest, is_meant)?
            };
            self.settle_layers(&held, &mut freed)?;
            drop(held);
            self.sweep(unpacker)?;
            Ok(freed)
        })
    }

    fn remove_for_everybody(
        &self,
        held: &Lock,
        shown: &str,
        manifest: &Digest,
        is_meant: impl Fn(&Name) -> bool,
    ) -> Result<Freed> {
        let mut all = self.all_names()?;
        all.retain(|name| name.manifest == *manifest);
        let (dropped, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_meant);
        let mut freed = Freed::default();
        if kept.is_empty() {
            if !self.set_aside_unused(held, &self.image_path(manifest))? {
                return Err(Error::new(Stage::Store, Kind::Failed, format!("image {shown} is in use"))
                    .because("a container of it is running")
                    .hint("ces ps shows it; stop it first"));
            }
            freed.images.push(manifest.clone());
        }
        for name in &dropped {
            self.drop_name(held, name)?;
            freed.names.push(name.reference.clone());
        }
        // Whoever has no name of it left does not hold it any more either.
        for giver in dropped.iter().flat_map(Name::givers).collect::<BTreeSet<_>>() {
            let others = self.readable(manifest).is_some_and(|record| !record.is_held_by_none_but(*giver));
            if others && !kept.iter().any(|name| name.givers().contains(giver)) {
                self.release(held, manifest, *giver)?;
            }
        }
        Ok(freed)
    }

    /// Takes the caller's own names away, and with the last one their hold of the image.
    fn let_go(&self, held: &Lock, shown: &str, manifest: &Digest, is_meant: impl Fn(&Name) -> bool) -> Result<Freed> {
        let uid = self.viewer.uid();
        let (dropped, kept): (Vec<_>, Vec<_>) = self.names_given_by(uid, manifest)?.into_iter().partition(is_meant);
        let record = self.readable(manifest);
        let holds = record.as_ref().is_some_and(|record| record.is_held_by(uid));
        // Somebody else may have moved the name on and back again.
        if dropped.is_empty() && !(holds && kept.is_empty()) {
            let is_roots = record.is_some_and(|record| record.is_held_by(0));
            let why = if is_roots { "it was pulled by the administrator" } else { "it was not pulled by you" };
            return Err(Error::new(Stage::Policy, Kind::Policy, format!("image {shown} is not yours to remove"))
                .because(why)
                .hint("ask whoever keeps the policy (ces policy show)"));
        }
        let mut freed = Freed::default();
        for name in &dropped {
            self.drop_giver(held, name, uid)?;
            freed.names.push(name.reference.clone());
        }
        freed.names.dedup();
        if kept.is_empty() {
            self.release(held, manifest, uid)?;
            freed.images.push(manifest.clone());
        }
        Ok(freed)
    }

    /// Ends a person's hold of an image: it goes with its last holder, at once or when no container uses it any more.
    fn release(&self, held: &Lock, manifest: &Digest, uid: u32) -> Result<()> {
        let Some(before) = self.readable(manifest) else { return Ok(()) };
        let was_everybodys = before.holders.is_none();
        let record = before.released_by(uid);
        let is_nobodys = record.is_nobodys();
        if is_nobodys || (was_everybodys && record.holders.is_some()) {
            // Names of everybody's are for what is everybody's.
            for name in self.all_names()?.iter().filter(|name| name.manifest == *manifest) {
                if is_nobodys || name.space == Space::Everybodys {
                    self.drop_name(held, name)?;
                }
            }
        }
        if is_nobodys && self.set_aside_unused(held, &self.image_path(manifest))? {
            return Ok(());
        }
        if self.would_go(self.released(manifest, uid)) {
            return Ok(());
        }
        write_json(&self.aside(), &self.image_path(manifest).join("image.json"), &record)
    }

    /// Deletes images without a name, layers without an image, and what crashes have left. Of a researcher: lets go of the images
    /// that they have no name for any more.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn prune(&self, unpacker: &Unpacker) -> Result<Freed> {
        as_root(|_| {
            let mut freed = Freed::default();
            let held = self.exclusive()?;
            let named: HashSet<Digest> = self.all_names()?.into_iter().map(|name| name.manifest).collect();
            for manifest in self.manifests()? {
                let record = self.readable(&manifest);
                if record.as_ref().is_some_and(ImageRecord::is_nobodys) {
                    // A container of it may have ended by now.
                    self.set_aside_unused(&held, &self.image_path(&manifest))?;
                } else if self.is_roots() {
                    if !named.contains(&manifest) && self.set_aside_unused(&held, &self.image_path(&manifest))? {
                        freed.images.push(manifest);
                    }
                } else if record.is_some_and(|record| record.is_held_by(self.viewer.uid()))
                    && self.names_given_by(self.viewer.uid(), &manifest)?.is_empty()
                {
                    self.release(&held, &manifest, self.viewer.uid())?;
                    freed.images.push(manifest);
                }
            }
            self.settle_layers(&held, &mut freed)?;
            freed.partial_bytes = self.free_partials(true)?;
            drop(held);
            self.sweep(unpacker)?;
            Ok(freed)
        })
    }

    /// Frees layers; root alone is told which.
    fn settle_layers(&self, held: &Lock, freed: &mut Freed) -> Result<()> {
        let layers = self.free_layers(held, |_| true)?;
        freed.layers = self.is_roots().then_some(layers);
        Ok(())
    }

    /// Moves every layer that no image uses, and that is to go, to `tmp/`.
    fn free_layers(&self, held: &Lock, goes: impl Fn(&Path) -> bool) -> Result<FreedLayers> {
        let mut freed = FreedLayers::default();
        let mut used = HashSet::new();
        for manifest in self.manifests()? {
            match read_json::<ImageRecord>(&self.image_path(&manifest).join("image.json")) {
                Ok(record) => used.extend(record.into_iter().flat_map(|record| record.layers).map(|(_, key)| key)),
                // Nobody knows which layers it uses, so all stay; root is told which image it is.
                Err(_) if !self.is_roots() => return Ok(freed),
                Err(error) => return Err(error),
            }
        }
        for key in digests(&self.root().join("layers"))? {
            if used.contains(&key) {
                continue;
            }
            let path = self.layer_path(&key);
            if !goes(&path) {
                continue;
            }
            let bytes = read_json::<LayerRecord>(&path.join("layer.json")).ok().flatten().map_or(0, |r| r.file_bytes);
            if self.set_aside_unused(held, &path)? {
                freed.layers += 1;
                freed.bytes += bytes;
            }
        }
        Ok(freed)
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
                if !self.would_go(path.to_owned()) {
                    self.set_aside(held, path)?;
                }
                Ok(true)
            }
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(e)) => Err(self.error("cannot lock a directory").because(e)),
        }
    }

    /// In a dry run, remembers that what is at `path` would be gone from now on, and says so.
    pub(super) fn would_go(&self, path: PathBuf) -> bool {
        let Some(gone) = &self.dry else { return false };
        gone.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
        true
    }

    /// Whether a dry run has come to the end that what is at `path` would be gone.
    pub(super) fn would_be_gone(&self, path: &Path) -> bool {
        self.dry.as_ref().is_some_and(|gone| gone.lock().unwrap_or_else(PoisonError::into_inner).contains(path))
    }

    /// What stands in a dry run for a person's hold of an image that would have ended; there is no such file.
    pub(super) fn released(&self, manifest: &Digest, uid: u32) -> PathBuf {
        self.image_path(manifest).join(format!("released-by-{uid}"))
    }

    /// Moves a directory to `tmp/`, where the next sweep deletes it.
    pub(crate) fn set_aside(&self, _held: &Lock, path: &Path) -> Result<()> {
        let fail = |e: std::io::Error| self.error("cannot set something aside").because(e);
        let aside = tempfile::Builder::new().prefix("gone-").tempdir_in(self.root().join("tmp")).map_err(fail)?.keep();
        // A rename replaces an empty directory.
        fs::rename(path, &aside).map_err(fail)
    }

    /// Deletes everything below `tmp/` that nobody works on, and what pulls that came to nothing have left for too long: parts of
    /// blobs, and whole layers that no image uses.
    ///
    /// # Errors
    /// When something cannot be deleted.
    pub fn sweep(&self, unpacker: &Unpacker) -> Result<()> {
        if self.dry.is_some() {
            return Ok(());
        }
        as_root(|_| {
            self.free_partials(false)?;
            let directory = self.root().join("tmp");
            let mut stale: Vec<(PathBuf, File)> = Vec::new();
            let held = self.exclusive()?;
            // Where a record cannot be read nobody knows which layers are used: then all stay, and whoever uses it is told.
            self.free_layers(&held, is_too_old).ok();
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
        })
    }
}

/// Whether a layer was put in its place longer ago than what came of a pull is kept.
fn is_too_old(layer: &Path) -> bool {
    let written = fs::metadata(layer.join("layer.json")).and_then(|found| found.modified());
    // A clock that was set back makes it no older than new.
    written.is_ok_and(|written| written.elapsed().unwrap_or_default() > AGE_MAX)
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
