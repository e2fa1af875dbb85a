//! Everything in the store against what was recorded when it was written.
//!
//! Takes the store; gives what was checked, and what is not as it should be.
//! Trusts nothing but digests: a manifest has the one it is named by, a configuration the one its manifest says, a
//! layer's listing the one in its record, and a tree is what its listing says, every file's content read again.
//! Refuses nothing; what is damaged is told, and on demand moved out of the way, unless a container uses it.
//!
//! A researcher's check, through sudo, is of what they may see: another project's damage names its images. What they remove is
//! what they alone hold.
//!
//! A layer's own record is not signed: who can write to the store can change both. This finds failing disks, strayed
//! programs and hands, not an administrator who covers up.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use super::layer::{LISTING, LayerRecord, digest_of};
use super::names::Space;
use super::{ImageRecord, Lock, Store, digests, mount_points, read_json};
use crate::error::Result;
use crate::host::privilege::as_root;
use crate::image::reference::Digest;
use crate::image::unpack::parent::Unpacker;

/// Two listings compared.
pub mod compare;

pub use compare::Difference;

/// As many differences of a layer are told.
const DIFFERENCES_MAX: usize = 10;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Whether everything was checked, or only what the caller may see.
    pub everything: bool,
    /// Images checked.
    pub images: u64,
    /// Layers checked.
    pub layers: u64,
    /// Entries of these layers.
    pub entries: u64,
    /// Layers that were unpacked before trees were recorded: nobody can say whether they are whole.
    pub unrecorded: Vec<Digest>,
    /// What is damaged.
    pub damaged: Vec<Damage>,
}

/// Something damaged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// What sort of thing.
    pub what: What,
    /// Its digest or name.
    pub name: String,
    /// What is wrong with it.
    pub because: String,
    /// Where a layer's tree differs, the first paths.
    pub differences: Vec<Difference>,
    /// Names of the images that are affected.
    pub images: Vec<String>,
    /// Whether it was removed.
    pub removed: bool,
}

/// Sorts of things that can be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A name.
    Name,
    /// An image: its manifest, configuration or record.
    Image,
    /// A layer.
    Layer,
    /// What is kept of a layer's packages.
    Facts,
    /// What is kept of an approved image's stack; a later stage's affair (`stack::kept`).
    Stack,
}

impl Findings {
    /// Whether the store is now as it should be.
    pub fn is_clean(&self) -> bool {
        self.damaged.iter().all(|damage| damage.removed)
    }
}

impl Store {
    /// Checks everything; with `repair`, what is damaged and not in use is removed, so that the next pull fetches it.
    ///
    /// # Errors
    /// When the store cannot be read or written at all.
    pub fn check(&self, unpacker: &Unpacker, repair: bool) -> Result<Findings> {
        as_root(|_| {
            let mut findings = Findings { everything: self.is_roots(), ..Findings::default() };
            // Layers first: an image is none the worse for a layer that is about to be removed.
            self.check_layers(unpacker, &mut findings)?;
            self.check_images(&mut findings)?;
            self.check_names(&mut findings)?;
            if repair {
                for damage in &mut findings.damaged {
                    damage.removed = match damage.what {
                        What::Name => self.remove_name(&damage.name)?,
                        What::Image => self.remove_image(&damage.name)?,
                        What::Layer => self.remove_layer(&damage.name)?,
                        What::Facts => self.remove_facts(&damage.name.parse()?)?,
                        What::Stack => false,
                    };
                }
                self.sweep(unpacker)?;
            }
            Ok(findings)
        })
    }

    fn check_layers(&self, unpacker: &Unpacker, findings: &mut Findings) -> Result<()> {
        for key in digests(&self.root().join("layers"))? {
            if !self.shows_layer(&key)? {
                continue;
            }
            let path = self.layer_path(&key);
            let held = self.shared()?;
            // Removed meanwhile, perhaps.
            let Ok(lock) = File::open(&path) else { continue };
            lock.lock_shared().map_err(|e| self.error("cannot lock a layer").because(e))?;
            drop(held);
            findings.layers += 1;
            let mut what = What::Layer;
            let (because, differences) = match self.check_layer(unpacker, &key, &path)? {
                Checked::Whole(entries) => {
                    findings.entries += entries;
                    continue;
                }
                Checked::OtherFacts(entries) => {
                    findings.entries += entries;
                    what = What::Facts;
                    ("what is kept of its packages is not what its tree says".to_owned(), Vec::new())
                }
                Checked::Unrecorded => {
                    findings.unrecorded.push(key);
                    continue;
                }
                Checked::Damaged(because) => (because, Vec::new()),
                Checked::Different(differences) => ("its tree is not as it was unpacked".to_owned(), differences),
            };
            let images = self.names_of_images_with(&key)?;
            let name = key.to_string();
            findings.damaged.push(Damage { what, name, because, differences, images, removed: false });
        }
        Ok(())
    }

    fn check_layer(&self, unpacker: &Unpacker, key: &Digest, path: &Path) -> Result<Checked> {
        let damaged = |why: &str| Ok(Checked::Damaged(why.to_owned()));
        let record = match read_json::<LayerRecord>(&path.join("layer.json")) {
            Ok(Some(record)) => record,
            Ok(None) => return damaged("its record is missing"),
            Err(error) => return Ok(Checked::Damaged(error.to_string())),
        };
        if record.key != *key {
            return damaged("its record is another layer's");
        }
        if !path.join("fs").symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return damaged("its tree is missing");
        }
        let Some(digest) = record.tree else { return Ok(Checked::Unrecorded) };
        let listing = path.join(LISTING);
        if digest_of(&listing).ok().as_ref() != Some(&digest) {
            return damaged("its listing is missing or does not have its digest");
        }
        let fail = |e: std::io::Error| self.error("cannot compare a layer with its listing").because(e);
        let scratch = tempfile::Builder::new().prefix("check-").tempdir_in(self.root().join("tmp")).map_err(fail)?;
        let at_work = File::open(scratch.path()).map_err(fail)?;
        at_work.lock_shared().map_err(fail)?;
        let found = scratch.path().join(LISTING);
        if let Err(fault) = unpacker.list(&path.join("fs"), &found)? {
            let entry = fault.entry.map_or_else(String::new, |entry| crate::text::neutral_bytes(&entry.0));
            return Ok(Checked::Different(vec![Difference { path: entry, what: fault.text }]));
        }
        let differences =
            compare::differences(open(&listing).map_err(fail)?, open(&found).map_err(fail)?, DIFFERENCES_MAX)
                .map_err(fail)?;
        if !differences.is_empty() {
            return Ok(Checked::Different(differences));
        }
        let entries = compare::count(open(&listing).map_err(fail)?).map_err(fail)?;
        let other = self.facts_differ(unpacker, path, &digest, scratch.path())?;
        Ok(if other { Checked::OtherFacts(entries) } else { Checked::Whole(entries) })
    }

    fn check_images(&self, findings: &mut Findings) -> Result<()> {
        for manifest in self.manifests()? {
            let held = self.shared()?;
            if !self.image_path(&manifest).is_dir() || !self.shows_image(&manifest) {
                continue;
            }
            findings.images += 1;
            let because = match self.documents(manifest.as_str(), &manifest) {
                Ok((_, _, record)) => {
                    let gone = |(_, key): &&(_, Digest)| !self.layer_path(key).is_dir();
                    let changed = || mount_points::difference(&self.image_path(&manifest), &self.ids);
                    match (record.layers.iter().find(gone), changed()) {
                        (Some((diff_id, _)), _) => format!("its layer {diff_id} is missing"),
                        (None, Ok(None)) => continue,
                        (None, Ok(Some(what))) => format!("{what} is not as it was made"),
                        (None, Err(e)) => format!("its mount points cannot be read: {e}"),
                    }
                }
                Err(error) => error.to_string(),
            };
            let images = self.names_of(&manifest)?;
            drop(held);
            let name = manifest.to_string();
            let differences = Vec::new();
            findings.damaged.push(Damage { what: What::Image, name, because, differences, images, removed: false });
        }
        Ok(())
    }

    fn check_names(&self, findings: &mut Findings) -> Result<()> {
        let _held = self.shared()?;
        for (space, file) in self.ref_files()? {
            let because = match self.ref_file(&file) {
                Ok(Some(record)) if !self.shows_name(space, &record) => continue,
                Err(_) if !self.knows_damaged(space) => continue,
                Ok(Some(record)) if !self.ref_path(space, &record.reference).ends_with(&file) => {
                    "it is another name's".to_owned()
                }
                Ok(Some(record)) if !self.image_path(&record.manifest).is_dir() => {
                    format!("{} stands for an image that is not there", record.reference)
                }
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            let (differences, images) = (Vec::new(), Vec::new());
            findings.damaged.push(Damage {
                what: What::Name,
                name: file,
                because,
                differences,
                images,
                removed: false,
            });
        }
        Ok(())
    }

    /// The files that hold names of the image, and the names. Names that are damaged are told as such.
    fn ref_files_of(&self, manifest: &Digest) -> Result<Vec<(Space, String, String)>> {
        let mut all = Vec::new();
        for (space, file) in self.ref_files()? {
            if let Ok(Some(record)) = self.ref_file(&file)
                && record.manifest == *manifest
            {
                all.push((space, file, record.reference));
            }
        }
        Ok(all)
    }

    /// The image's names that the caller may know.
    fn names_of(&self, manifest: &Digest) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (space, file, name) in self.ref_files_of(manifest)? {
            let shown = self.ref_file(&file)?.is_some_and(|record| self.shows_name(space, &record));
            names.extend(shown.then_some(name));
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The images whose records list the layer.
    fn images_with(&self, key: &Digest) -> Result<Vec<Digest>> {
        let uses = |manifest: &Digest| {
            let record = read_json::<ImageRecord>(&self.image_path(manifest).join("image.json"));
            matches!(record, Ok(Some(record)) if record.layers.iter().any(|(_, layer)| layer == key))
        };
        Ok(self.manifests()?.into_iter().filter(|manifest| uses(manifest)).collect())
    }

    fn names_of_images_with(&self, key: &Digest) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for manifest in self.images_with(key)?.into_iter().filter(|manifest| self.shows_image(manifest)) {
            let names = self.names_of(&manifest)?;
            all.extend(if names.is_empty() { vec![manifest.to_string()] } else { names });
        }
        Ok(all)
    }

    fn remove_name(&self, file: &str) -> Result<bool> {
        let held = self.exclusive()?;
        self.remove_ref_file(&held, file).map(|()| true)
    }

    fn remove_image(&self, manifest: &str) -> Result<bool> {
        let manifest: Digest = manifest.parse()?;
        let held = self.exclusive()?;
        Ok(self.may_repair(&manifest) && self.drop_image(&held, &manifest)?)
    }

    /// Whether the caller may remove the image, damaged as it is: a researcher what they alone hold, root everything.
    fn may_repair(&self, manifest: &Digest) -> bool {
        let own = |record: ImageRecord| record.is_held_by_none_but(self.viewer.uid());
        self.is_roots() || self.readable(manifest).is_some_and(own)
    }

    fn drop_image(&self, held: &Lock, manifest: &Digest) -> Result<bool> {
        if !self.set_aside_unused(held, &self.image_path(manifest))? {
            return Ok(false);
        }
        for (_, file, _) in self.ref_files_of(manifest)? {
            self.remove_ref_file(held, &file)?;
        }
        Ok(true)
    }

    /// Removes a layer and the images that cannot be without it.
    fn remove_layer(&self, key: &str) -> Result<bool> {
        let key: Digest = key.parse()?;
        let held = self.exclusive()?;
        // A container holds its image; that holds the layers.
        let images = self.images_with(&key)?;
        if !images.iter().all(|manifest| self.may_repair(manifest)) {
            return Ok(false);
        }
        for manifest in images {
            if !self.drop_image(&held, &manifest)? {
                return Ok(false);
            }
        }
        self.set_aside_unused(&held, &self.layer_path(&key))
    }
}

/// What a look at a layer gave.
enum Checked {
    Whole(u64),
    OtherFacts(u64),
    Unrecorded,
    Damaged(String),
    Different(Vec<Difference>),
}

fn open(listing: &Path) -> std::io::Result<BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>> {
    Ok(BufReader::new(zstd::stream::read::Decoder::new(File::open(listing)?)?))
}
