//! What `docker save` and `podman save` write: a tar file with `manifest.json`, configurations and layers.
//!
//! Takes the archive and which image of it; gives the image, and what the archive calls it.
//! Trusts nothing in it: layers are compared with the configuration's diff ids when they are unpacked.
//! Refuses an archive without the list of its images, and one whose list and configuration contradict each other.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::archive::Archive;
use super::layout::Files;
use super::{Expand, Origin, Sink, copy};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::{Compression, Config, Descriptor, Document, Manifest, Platform};
use crate::image::magic::{self, Packing};
use crate::image::reference::{DiffId, Digest, Pick};
use crate::image::selection::{choose, own_name};

/// Opens what `docker save` has written.
///
/// # Errors
/// When it is none, or the image is not in it.
pub fn open(path: &Path, pick: &Pick, expand: &Expand<'_>) -> Result<DockerArchive> {
    let archive = Archive::open(path, expand)?;
    if !archive.has("manifest.json") {
        return Err(Error::new(Stage::Pull, Kind::Hostile, format!("{} is not a Docker archive", path.display()))
            .because("it has no manifest.json")
            .hint("an archive of an OCI layout is read as oci-archive:FILE"));
    }
    DockerArchive::new(archive, pick)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image as `docker save` writes it. It has no manifest, so one is written here: from the archive's own
/// configuration and layers, always the same for the same archive.
#[derive(Debug)]
pub struct DockerArchive {
    archive: Archive,
    manifest: Manifest,
    names: BTreeMap<Digest, String>,
    own_name: Option<String>,
}

impl DockerArchive {
    /// The image of `archive` that is meant.
    ///
    /// # Errors
    /// When the archive contradicts itself, or the image is not in it.
    pub fn new(archive: Archive, pick: &Pick) -> Result<Self> {
        let malformed =
            |why: String| Error::new(Stage::Pull, Kind::Hostile, "the Docker archive is malformed").because(why);
        let images: Vec<SavedImage> =
            serde_json::from_slice(&archive.whole("manifest.json")?).map_err(|e| malformed(e.to_string()))?;
        let names: Vec<&[String]> = images.iter().map(|image| image.repo_tags.as_deref().unwrap_or_default()).collect();
        let place = choose(&names, pick, "the archive")?;
        let image = images.get(place).ok_or_else(|| malformed("it has no image".to_owned()))?;
        let own_name = own_name(names.get(place).copied().unwrap_or_default(), pick).cloned();
        let config = archive.whole(&image.config)?;
        let diff_ids = Config::parse(config.clone(), image.layers.len())?.diff_ids;
        let config_digest = Digest::of(&config);
        let mut names = BTreeMap::from([(config_digest.clone(), image.config.clone())]);
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
            let (digest, size, compression) = layer(&archive, name, diff_id)?;
            names.insert(digest.clone(), name.clone());
            layers.push(
                json!({"mediaType": crate::image::pull::media_type(compression), "digest": digest, "size": size}),
            );
        }
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": layers,
        }))
        .map_err(|e| malformed(e.to_string()))?;
        Ok(Self { manifest: Document::parse(manifest)?.manifest()?, archive, names, own_name })
    }
}

/// A layer's digest, size and compression; an uncompressed one's digest is its diff id, and is checked when it is read.
fn layer(archive: &Archive, name: &str, diff_id: &DiffId) -> Result<(Digest, u64, Compression)> {
    let size = archive.size(name)?;
    let fail = |e: io::Error| Error::new(Stage::Pull, Kind::Failed, format!("cannot read \"{name}\"")).because(e);
    let mut start = Vec::new();
    archive.open(name)?.take(magic::LENGTH as u64).read_to_end(&mut start).map_err(fail)?;
    let compression = match Packing::of(&start) {
        Packing::Known(Compression::None) | Packing::Other(..) => {
            return Ok((diff_id.digest().clone(), size, Compression::None));
        }
        Packing::Known(compression) => compression,
    };
    let mut hasher = diff_id.digest().hasher();
    copy(
        archive.open(name)?,
        &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        },
        name,
    )?;
    Ok((hasher.finish(), size, compression))
}

impl Origin for DockerArchive {
    fn own_name(&self, _platform: &Platform) -> Result<Option<String>> {
        Ok(self.own_name.clone())
    }

    fn manifest(&self, _platform: &Platform) -> Result<Manifest> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        let name = self.names.get(&descriptor.digest).map(String::as_str).unwrap_or_default();
        copy(self.archive.open(name)?.take(descriptor.size.saturating_add(1)), sink, name)
    }
}
