//! Manifests, indexes and configurations.
//!
//! Takes bytes whose digest was checked; gives a `Manifest` with its layers, or the entry of an index for a platform.
//! Trusts nothing in them: sizes, counts, types and digests are checked before anything is fetched.
//! Refuses ambiguous documents, nested indexes, unknown layer types. Whether a configuration is an image's is told by its
//! contents, not by its media type. Addresses that a descriptor lists (`urls`) are never fetched.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::reference::{DiffId, Digest};
use crate::error::{Error, Kind, Result, Stage};

/// The largest manifest, index or configuration that is read.
pub const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// The most layers an image may have: overlayfs stacks at most 500 (`OVL_MAX_STACK`).
pub const LAYERS_MAX: usize = 500;

/// Media types a registry is asked for.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// How a layer's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A tar stream as it is.
    None,
    /// gzip, in one member or many.
    Gzip,
    /// Zstandard, in one frame or many.
    Zstd,
}

/// What to fetch: how large it is and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The digest of the bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// A layer as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Its blob.
    pub blob: Descriptor,
    /// How the blob is packed.
    pub compression: Compression,
    /// Whether the manifest says that the blob is to be had elsewhere: a "foreign" or "non-distributable" layer.
    pub foreign: bool,
}

/// A checked image manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its bytes, as received.
    pub bytes: Vec<u8>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<LayerDescriptor>,
}

/// A checked image configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its bytes, as received.
    pub bytes: Vec<u8>,
    /// The parsed document.
    pub parsed: ImageConfiguration,
    /// Its diff ids, base first; as many as the manifest has layers.
    pub diff_ids: Vec<DiffId>,
}

/// What a manifest request may answer.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list of images, one a platform.
    Index(Index),
}

/// A checked image index (Docker: manifest list).
#[derive(Debug, Clone)]
pub struct Index {
    entries: Vec<(Descriptor, Option<Platform>, Option<String>, bool)>,
}

/// An operating system, an architecture and perhaps a variant of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64` …, as Go calls them.
    pub architecture: String,
    /// `v8`, `v3` ….
    pub variant: Option<String>,
}

impl Platform {
    /// What this machine runs.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// The platform that an index names, in whatever form builders write it: with an empty or null variant, in capitals,
    /// with the variant in the architecture, under the kernel's names. `None`: it names none.
    fn offered(value: &serde_json::Value) -> Option<Self> {
        let text = |key| {
            let text = value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
            text.trim().to_ascii_lowercase()
        };
        let (os, mut architecture, mut variant) = (text("os"), text("architecture"), text("variant"));
        if let Some((name, rest)) = architecture.clone().split_once('/') {
            if variant.is_empty() {
                rest.clone_into(&mut variant);
            }
            name.clone_into(&mut architecture);
        }
        let architecture = canonical(architecture);
        let variant = (!variant.is_empty()).then_some(variant);
        (!os.is_empty() && !architecture.is_empty()).then_some(Self { os, architecture, variant })
    }

    /// How well an offered platform serves this one; `None` if not at all, else smaller is better.
    fn rank(&self, offered: &Self) -> Option<u8> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        match (&self.variant, offered.variant.as_deref()) {
            (Some(wanted), Some(variant)) => (wanted == variant).then_some(0),
            (None, None) => Some(0),
            // The variants that every processor of the architecture has.
            (_, None) => Some(1),
            (None, Some("v1")) if self.architecture == "amd64" => Some(1),
            (None, Some("v8")) if self.architecture == "arm64" => Some(1),
            (None, Some("v6" | "v7")) if self.architecture == "arm" => Some(2),
            (None, Some(_)) => None,
        }
    }
}

/// Go's name of an architecture, for those that the kernel calls otherwise.
fn canonical(architecture: String) -> String {
    match architecture.as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        _ => architecture,
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        match parts.as_slice() {
            [os, architecture] if word(os) && word(architecture) => {
                Ok(Self { os: (*os).to_owned(), architecture: canonical((*architecture).to_owned()), variant: None })
            }
            [os, architecture, variant] if word(os) && word(architecture) && word(variant) => Ok(Self {
                os: (*os).to_owned(),
                architecture: canonical((*architecture).to_owned()),
                variant: Some((*variant).to_owned()),
            }),
            _ => Err(Error::new(Stage::Pull, Kind::Usage, format!("\"{text}\" is not a platform"))
                .hint("write os/architecture or os/architecture/variant, such as linux/arm64/v8")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    /// As it comes: a builder's odd platform must not spoil the entries beside it.
    platform: Option<serde_json::Value>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// # Errors
    /// When the document is malformed, ambiguous, too old, or asks for what `ces` does not do.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let raw: RawDocument = serde_json::from_slice(&bytes).map_err(|e| {
            let old = bytes.windows(9).any(|window| window == b"fsLayers\"");
            let error = malformed("the image's manifest is malformed").because(e);
            if old { error.hint("it is in Docker's schema 1, which is obsolete: push the image again") } else { error }
        })?;
        if raw.schema_version != 2 {
            return Err(malformed("the image's manifest is malformed")
                .because(format!("schema version {} is not supported", raw.schema_version)));
        }
        let declared_index = raw.media_type.as_deref().map(|t| t.contains("index") || t.contains("manifest.list"));
        match (raw.config, raw.layers, raw.manifests) {
            // A document that is both is read differently by different programs (CVE-2021-41190).
            (None, None, Some(manifests)) if declared_index != Some(false) => {
                let entry = |raw: RawDescriptor| {
                    let nested = raw.media_type.contains("index") || raw.media_type.contains("manifest.list");
                    let name = raw.annotations.and_then(|mut a| a.remove("org.opencontainers.image.ref.name"));
                    (
                        Descriptor { digest: raw.digest, size: raw.size },
                        raw.platform.as_ref().and_then(Platform::offered),
                        name,
                        nested,
                    )
                };
                Ok(Self::Index(Index { entries: manifests.into_iter().map(entry).collect() }))
            }
            (Some(config), Some(layers), None) if declared_index != Some(true) => {
                let layer = |raw| layer_descriptor(raw, &config.media_type);
                let layers = layers.into_iter().map(layer).collect::<Result<Vec<_>>>()?;
                let config = config_descriptor(&config)?;
                if layers.len() > LAYERS_MAX {
                    return Err(malformed(format!(
                        "the image has {} layers; at most {LAYERS_MAX} can be stacked",
                        layers.len()
                    )));
                }
                Ok(Self::Manifest(Manifest { digest: Digest::of(&bytes), bytes, config, layers }))
            }
            _ => Err(malformed("the image's manifest is ambiguous")
                .because("it must have either config and layers, or manifests, as its media type says")),
        }
    }

    /// The manifest, if this is one.
    ///
    /// # Errors
    /// When it is an index: an index within an index is not followed.
    pub fn manifest(self) -> Result<Manifest> {
        match self {
            Self::Manifest(manifest) => Ok(manifest),
            Self::Index(_) => Err(malformed("the image index points to another index, which is not followed")),
        }
    }
}

impl Index {
    /// The entry for `platform`.
    ///
    /// # Errors
    /// When none matches (the error lists what there is), or the match is itself an index.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let best = self
            .entries
            .iter()
            .filter_map(|entry| entry.1.as_ref().and_then(|offered| platform.rank(offered)).map(|rank| (rank, entry)))
            .min_by_key(|(rank, _)| *rank);
        // An entry that names no platform leaves the check to the configuration; the first one counts, as with podman.
        let only = self.entries.iter().find(|entry| entry.1.is_none());
        match best.map(|(_, entry)| entry).or(only) {
            Some((_, _, _, true)) => Err(malformed("the image index points to another index, which is not followed")),
            Some((descriptor, _, _, false)) => Ok(descriptor),
            None => {
                let mut offered: Vec<String> =
                    self.entries.iter().filter_map(|entry| entry.1.as_ref().map(Platform::to_string)).collect();
                offered.retain(|platform| platform != "unknown/unknown");
                offered.truncate(20);
                Err(Error::new(Stage::Pull, Kind::Missing, format!("the image does not exist for {platform}"))
                    .because(format!("it exists for: {}", offered.join(", ")))
                    .hint("ask its author for a build for this machine, or choose with --platform"))
            }
        }
    }

    /// The entries of a layout's `index.json` that carry `tag`, or the only one if none is asked for.
    ///
    /// # Errors
    /// When there is no such entry, or no way to choose.
    pub fn tagged(&self, tag: Option<&str>) -> Result<&Descriptor> {
        let names = || self.entries.iter().filter_map(|e| e.2.as_deref()).take(20).collect::<Vec<_>>().join(", ");
        let found: Vec<_> = match tag {
            Some(tag) => self.entries.iter().filter(|entry| entry.2.as_deref() == Some(tag)).collect(),
            None => self.entries.iter().collect(),
        };
        match (found.as_slice(), tag) {
            ([entry], _) => Ok(&entry.0),
            ([], Some(tag)) => {
                Err(Error::new(Stage::Pull, Kind::Missing, format!("no image is tagged \"{tag}\" here"))
                    .because(format!("there are: {}", names()))
                    .hint("choose one of these"))
            }
            ([], None) => Err(Error::new(Stage::Pull, Kind::Missing, "the image layout is empty")
                .hint("its index.json names no manifest; write the layout again")),
            (_, None) => Err(Error::new(Stage::Pull, Kind::Usage, "there are several images here")
                .because(format!("there are: {}", names()))
                .hint("choose one: add its tag after a colon")),
            (_, Some(tag)) => Err(malformed(format!("several images are tagged \"{tag}\" here"))),
        }
    }

    /// Whether every entry is for some platform: then an index without tags is one image.
    pub fn is_one_image(&self) -> bool {
        self.entries.len() > 1 && self.entries.iter().all(|entry| entry.1.is_some() && entry.2.is_none())
    }
}

impl Config {
    /// Reads an image configuration and compares it with its manifest.
    ///
    /// # Errors
    /// When it is malformed, or lists another number of layers than the manifest.
    pub fn parse(bytes: Vec<u8>, layers: usize) -> Result<Self> {
        let parsed: ImageConfiguration = serde_json::from_slice(&bytes).map_err(|e| {
            // Charts and other artifacts have configurations of their own, or empty ones.
            match serde_json::from_slice::<serde_json::Value>(&bytes) {
                Ok(value) if value.get("rootfs").is_none() => malformed("this is not a container image")
                    .because("its configuration lists no layers (rootfs)")
                    .hint("charts, SIF files and other artifacts are no images: ask its author for an image"),
                _ => malformed("the image's configuration is malformed").because(e),
            }
        })?;
        if parsed.rootfs().typ() != "layers" {
            return Err(malformed("the image's configuration is malformed")
                .because("its root file system is not made of layers"));
        }
        let diff_ids =
            parsed.rootfs().diff_ids().iter().map(|text| text.parse().map(DiffId::new)).collect::<Result<Vec<_>>>()?;
        if diff_ids.len() != layers {
            return Err(malformed("the image contradicts itself")
                .because(format!("its manifest lists {layers} layers, its configuration {}", diff_ids.len())));
        }
        Ok(Self { bytes, parsed, diff_ids })
    }

    /// Compares the configuration with the platform that is wanted.
    ///
    /// # Errors
    /// When the image is for another one, whatever its index said.
    pub fn check_platform(&self, wanted: &Platform) -> Result<()> {
        let lower = |text: String| text.to_ascii_lowercase();
        let (os, architecture) =
            (lower(self.parsed.os().to_string()), canonical(lower(self.parsed.architecture().to_string())));
        if (os.as_str(), architecture.as_str()) == (wanted.os.as_str(), wanted.architecture.as_str()) {
            return Ok(());
        }
        Err(Error::new(Stage::Pull, Kind::Missing, format!("the image is for {os}/{architecture}, not for {wanted}"))
            .hint("ask its author for a build for this machine, or choose with --platform"))
    }

    /// The chain id of each layer: what it and all below it are together (image-spec, config.md, "Layer ChainID").
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            let next = match chain.last() {
                None => diff_id.digest().clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

/// Whether a configuration's media type says that it is an image's. Others do not say that it is none: builders write
/// `application/octet-stream`, `text/plain` or nothing.
fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json")
}

fn config_descriptor(raw: &RawDescriptor) -> Result<Descriptor> {
    if raw.size > DOCUMENT_MAX {
        return Err(malformed(format!(
            "the image's configuration is {} bytes; at most {DOCUMENT_MAX} are read",
            raw.size
        )));
    }
    Ok(Descriptor { digest: raw.digest.clone(), size: raw.size })
}

/// A layer; foreign ones (Docker) and non-distributable ones (OCI) are as others, if the blob is there.
fn layer_descriptor(raw: RawDescriptor, config_type: &str) -> Result<LayerDescriptor> {
    let (compression, foreign) = match raw.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
            (Compression::None, false)
        }
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            (Compression::Gzip, false)
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            (Compression::Zstd, false)
        }
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar" => (Compression::None, true),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => (Compression::Gzip, true),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd" => (Compression::Zstd, true),
        other if !is_image_config(config_type) => {
            return Err(malformed("this is not a container image")
                .because(format!("its configuration is of type \"{config_type}\", its contents of type \"{other}\""))
                .hint("charts, SIF files and other artifacts are no images: ask its author for an image"));
        }
        other => {
            return Err(malformed("a layer is of a type that ces does not unpack")
                .because(format!("{other} (known: tar, tar with gzip, tar with zstd)"))
                .hint("build the image again without encrypted, bzip2 or xz layers"));
        }
    };
    let foreign = foreign || raw.urls.is_some_and(|urls| !urls.is_empty());
    Ok(LayerDescriptor { blob: Descriptor { digest: raw.digest, size: raw.size }, compression, foreign })
}

fn malformed(what: impl Into<String>) -> Error {
    Error::new(Stage::Pull, Kind::Hostile, what)
}
