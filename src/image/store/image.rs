//! Images on disk.
//!
//! Takes a name or the beginning of a digest; gives a `StoredImage`, every document checked by its digest.
//! Trusts the documents' digests, and the store's own records where they agree with them.
//! Refuses an image with anything damaged or missing, by name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::Serialize;

use super::layer::LayerDir;
use super::missing::missing;
use super::record::Pull;
use super::viewer::Rights;
use super::{ImageRecord, Lock, Store, full, mount_points, read_json, sync_directory, write_file, write_json};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::document::{Config, Document, Manifest};
use crate::image::reference::{Digest, Reference};
use crate::image::unpack::protocol::RootMeta;

/// An image that is ready to run; nothing of it is removed while this lives.
#[derive(Debug)]
pub struct StoredImage {
    reference: String,
    manifest: Manifest,
    config: Config,
    record: ImageRecord,
    layers: Vec<LayerDir>,
    directory: PathBuf,
    _lock: File,
}

/// A line of `ces images`.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The name; `None` if a newer image has taken it.
    pub reference: Option<String>,
    /// Whose name it is, if not everybody's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<u32>,
    /// What the store notes, as far as it is for whoever asks.
    #[serde(flatten)]
    pub record: ImageRecord,
}

impl StoredImage {
    /// The name it was found by, or its digest.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The digest of its manifest.
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest.digest
    }

    /// Its configuration.
    pub fn config(&self) -> &ImageConfiguration {
        &self.config.parsed
    }

    /// The digest of its configuration (Docker calls it the image's id).
    pub fn config_digest(&self) -> &Digest {
        &self.manifest.config.digest
    }

    /// Its layers, base first; one that an image lists twice appears once, at its upper place.
    pub fn layers(&self) -> &[LayerDir] {
        &self.layers
    }

    /// The metadata of its root directory: those of the uppermost layer that lists it.
    ///
    /// Most layers do not list the root, and it is not copied from layer to layer: whoever stacks them gives it to the
    /// directory on top.
    pub fn root(&self) -> RootMeta {
        self.layers.iter().rev().find_map(|layer| layer.record().root).unwrap_or_default()
    }

    /// What belongs below its layers: the mount points of a container, if the store has them made.
    pub fn mount_points(&self) -> Option<PathBuf> {
        as_root(|_| mount_points::of(&self.directory))
    }

    /// Its directory in the store: what belongs to this image alone and goes with it.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the store notes about it.
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }
}

impl Store {
    /// Finds an image by its name, or by its digest or the beginning of that.
    ///
    /// # Errors
    /// When there is none, there are several, or something of it is damaged.
    pub fn find(&self, reference_or_digest_prefix: &str) -> Result<StoredImage> {
        as_root(|_| {
            let held = self.shared()?;
            let (reference, manifest) = self.resolve(&held, reference_or_digest_prefix)?;
            self.load(reference, &manifest)
        })
    }

    /// The name and the manifest that somebody asks for.
    pub(crate) fn resolve(&self, _held: &Lock, asked: &str) -> Result<(String, Digest)> {
        let reference = Reference::in_store(asked);
        if let Some(reference) = &reference
            && let Some(manifest) = self.look_up(reference)?
        {
            return Ok((reference.to_string(), manifest));
        }
        let name_of = |manifest: &Digest| -> Result<Option<String>> {
            Ok(self.names()?.into_iter().find(|name| name.manifest == *manifest).map(|name| name.reference))
        };
        // host/name@sha256:… of an image that was pulled by tag.
        if let Some(pinned) = &reference
            && let Some(digest) = pinned.digest()
        {
            let repository = pinned.name();
            let is_of_it = |name: &str| name.parse::<Reference>().is_ok_and(|name| name.name() == repository);
            if self.known_names()?.iter().any(|(_, name)| name.manifest == *digest && is_of_it(&name.reference)) {
                return Ok((pinned.to_string(), digest.clone()));
            }
        }
        let prefix = asked.strip_prefix("sha256:").unwrap_or(asked);
        let is_prefix = prefix.len() >= 4 && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_prefix {
            let mut matching = Vec::new();
            for manifest in self.manifests()?.into_iter().filter(|m| m.hex().starts_with(prefix)) {
                if self.shows_image(&manifest) {
                    matching.push(manifest);
                }
            }
            match matching.as_slice() {
                [manifest] => {
                    let name = name_of(manifest)?.unwrap_or_else(|| manifest.to_string());
                    return Ok((name, manifest.clone()));
                }
                [] => {}
                _ => {
                    return Err(Error::new(
                        Stage::Store,
                        Kind::Usage,
                        format!("\"{asked}\" is the beginning of several images"),
                    )
                    .because(matching.iter().map(Digest::to_string).collect::<Vec<_>>().join(", "))
                    .hint("write more of the digest"));
                }
            }
        }
        let known: Vec<String> = self.names()?.into_iter().map(|name| name.reference).collect();
        Err(missing(asked, reference.as_ref(), &known))
    }

    /// The documents of an image, checked; a lock is held.
    pub(crate) fn documents(&self, reference: &str, manifest: &Digest) -> Result<(Manifest, Config, ImageRecord)> {
        let path = self.image_path(manifest);
        let damaged = |why: String| damaged(reference, manifest, why);
        let bytes = read(&path, "manifest.json").map_err(&damaged)?;
        if !manifest.matches(&bytes) {
            return Err(damaged("its manifest does not have its digest".to_owned()));
        }
        let manifest = match Document::parse(bytes)? {
            // The digest that names it, should the two algorithms differ.
            Document::Manifest(parsed) => Manifest { digest: manifest.clone(), ..parsed },
            Document::Index(_) => return Err(damaged("its manifest is an index".to_owned())),
        };
        let bytes = read(&path, "config.json").map_err(&damaged)?;
        if !manifest.config.digest.matches(&bytes) {
            return Err(damaged("its configuration does not have its digest".to_owned()));
        }
        let config = Config::parse(bytes, manifest.layers.len())?;
        let record: ImageRecord =
            read_json(&path.join("image.json"))?.ok_or_else(|| damaged("its record is missing".to_owned()))?;
        if !record.layers.iter().map(|(diff_id, _)| diff_id).eq(&config.diff_ids) {
            return Err(damaged("its record lists other layers than its configuration".to_owned()));
        }
        Ok((manifest, config, record))
    }

    /// Loads and checks an image; a lock is held.
    fn load(&self, reference: String, manifest: &Digest) -> Result<StoredImage> {
        let path = self.image_path(manifest);
        let damaged = |why: String| damaged(&reference, manifest, why);
        let lock = File::open(&path).map_err(|e| damaged(format!("{}: {e}", path.display())))?;
        lock.lock_shared().map_err(|e| damaged(format!("cannot be locked: {e}")))?;
        let (manifest, config, record) = self.documents(&reference, manifest)?;
        let record = record.told_to(&self.viewer);
        let chain_ids = config.chain_ids();
        let mut layers = Vec::with_capacity(record.layers.len());
        for (position, (diff_id, key)) in record.layers.iter().enumerate() {
            if key != diff_id.digest() && chain_ids.get(position) != Some(key) {
                return Err(damaged(format!("its record calls layer {diff_id} {key}")));
            }
            // Overlayfs takes a directory once; what the upper one says decides anyway.
            if record.layers.iter().skip(position + 1).any(|(_, later)| later == key) {
                continue;
            }
            match self.layer(key, diff_id)?.zip(manifest.layers.get(position)) {
                Some((layer, descriptor)) => layers.push(layer.come_in(&descriptor.blob)),
                None => return Err(damaged(format!("layer {diff_id} is missing, or was unpacked for other ids"))),
            }
        }
        Ok(StoredImage { reference, manifest, config, record, layers, directory: path, _lock: lock })
    }

    /// How many entries of the image belong to nobody for want of an id; none if it is not here, whole, where it may be seen.
    pub(crate) fn has(&self, manifest: &Digest) -> Result<Option<u64>> {
        as_root(|_| {
            let _held = self.shared()?;
            if !self.image_path(manifest).is_dir() || self.hides_image(manifest) {
                return Ok(None);
            }
            Ok(self.load(manifest.to_string(), manifest).ok().map(|image| image.record.unmapped_ids))
        })
    }

    /// Writes an image whose layers are in place, and lets `reference` stand for it.
    pub(crate) fn commit(
        &self,
        reference: &str,
        manifest: &Manifest,
        config: &Config,
        record: ImageRecord,
        rights: Rights,
    ) -> Result<()> {
        as_root(|_| {
            let held = self.exclusive()?;
            let path = self.image_path(&manifest.digest);
            if path.is_dir() {
                // A damaged one is replaced.
                let record = match self.readable(&manifest.digest) {
                    Some(before) => record.joined_to(&before),
                    None => record,
                };
                self.write_documents(&path, manifest, config, &record)?;
                return self.set_name(&held, reference, &manifest.digest, rights);
            }
            let fail = |e: std::io::Error| {
                full(self.error("cannot write an image"), self.root(), "a few inodes and blocks", &e)
            };
            // Whole and on disk before it has its place; until then a sweep may have it.
            let made = tempfile::Builder::new().prefix("image-").tempdir_in(self.aside()).map_err(fail)?;
            self.write_documents(made.path(), manifest, config, &record)?;
            mount_points::make(made.path(), &self.ids).map_err(fail)?;
            let parent = path.parent().unwrap_or(&path);
            fs::create_dir_all(parent).map_err(fail)?;
            fs::rename(made.path(), &path).map_err(fail)?;
            // It has moved: there is nothing to delete, unless it gets no name; then it was never here.
            let aside = made.keep();
            let named = sync_directory(parent).and_then(|()| self.set_name(&held, reference, &manifest.digest, rights));
            named.inspect_err(|_| {
                // The error is what matters; an image without a name is the next prune's.
                fs::rename(&path, &aside).and_then(|()| fs::remove_dir_all(&aside)).ok();
            })
        })
    }

    /// The documents of an image, in its directory; the exclusive lock is held.
    fn write_documents(&self, at: &Path, manifest: &Manifest, config: &Config, record: &ImageRecord) -> Result<()> {
        let aside = self.aside();
        write_file(&aside, &at.join("manifest.json"), &manifest.bytes)?;
        write_file(&aside, &at.join("config.json"), &config.bytes)?;
        // Last: an image without its record does not exist.
        write_json(&aside, &at.join("image.json"), record)
    }

    /// Lets `reference` stand for an image that is here, which whoever pulled it holds from now on.
    pub(crate) fn hold(&self, reference: &str, manifest: &Digest, pull: Pull, rights: Rights) -> Result<()> {
        as_root(|_| {
            let held = self.exclusive()?;
            let path = self.image_path(manifest).join("image.json");
            if let Some(record) = read_json::<ImageRecord>(&path)? {
                write_json(&self.aside(), &path, &record.pulled_also(pull))?;
            }
            self.set_name(&held, reference, manifest, rights)
        })
    }

    /// All images and their names, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images(&self) -> Result<Vec<Listed>> {
        as_root(|_| {
            let _held = self.shared()?;
            let names = self.names()?;
            let mut all = Vec::new();
            for manifest in self.manifests()? {
                if !self.shows_image(&manifest) {
                    continue;
                }
                let Some(record) = read_json::<ImageRecord>(&self.image_path(&manifest).join("image.json"))? else {
                    continue;
                };
                let record = record.told_to(&self.viewer);
                let before = all.len();
                all.extend(names.iter().filter(|name| name.manifest == manifest).map(|name| Listed {
                    reference: Some(name.reference.clone()),
                    holder: name.holder(),
                    record: record.clone(),
                }));
                if all.len() == before {
                    all.push(Listed { reference: None, holder: None, record });
                }
            }
            all.sort_by(|a, b| b.record.pulled.cmp(&a.record.pulled).then(a.reference.cmp(&b.reference)));
            Ok(all)
        })
    }
}

fn damaged(reference: &str, manifest: &Digest, why: String) -> Error {
    Error::new(Stage::Store, Kind::Failed, format!("image {reference} ({manifest}) is damaged"))
        .because(why)
        .hint(format!("pull it again: ces pull {reference}"))
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, String> {
    fs::read(directory.join(name)).map_err(|e| format!("{name}: {e}"))
}
