//! Manifests, indexes and configurations.
//!
//! Takes bytes whose digest was checked; gives a `Manifest` with its layers, or the entry of an index for a platform.
//! Trusts nothing in them: sizes, counts, types and digests are checked before anything is fetched.
//! Refuses ambiguous documents, nested indexes, unknown layer types. Whether a configuration is an image's is told by its
//! contents, not by its media type. Addresses that a descriptor lists (`urls`) are never fetched.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::reference::Digest;
use crate::error::{Error, Kind, Result, Stage};

/// Image configurations.
mod config;
/// What Go's programs read in a configuration, as strict JSON.
mod go_json;
/// Image indexes.
mod index;

pub use config::Config;
pub use index::{Index, IndexEntry};

/// What a layout's index calls an image: a whole name (containerd and buildkit write it).
const FULL_NAME: &str = "io.containerd.image.name";
/// The same: a tag, or with podman a whole name (image-spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

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

/// What a manifest request may answer.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list of images, one a platform.
    Index(Index),
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
                    let platform = raw.platform.as_ref().and_then(Platform::offered);
                    let descriptor = Descriptor { digest: raw.digest, size: raw.size };
                    let name = |key| raw.annotations.as_ref().and_then(|all| all.get(key)).cloned();
                    let names = [name(FULL_NAME), name(REF_NAME)].into_iter().flatten().collect();
                    IndexEntry { descriptor, platform, names, nested }
                };
                Ok(Self::Index(Index::new(manifests.into_iter().map(entry).collect())))
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
