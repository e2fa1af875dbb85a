//! Image configurations (image-spec, config.md, and Docker's own fields).
//!
//! Takes bytes whose digest was checked; gives what is used of them, and what is not.
//! Trusts nothing in them. `docs/images.md` tells of each field what becomes of it.
//! Refuses what contradicts its manifest, and another platform than the one that is wanted.

use oci_spec::image::ImageConfiguration;
use serde_json::Value;

use super::{Platform, canonical, go_json, malformed};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::{DiffId, Digest};

/// A checked image configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its bytes, as received.
    pub bytes: Vec<u8>,
    /// The parsed document.
    pub parsed: ImageConfiguration,
    /// Its diff ids, base first; as many as the manifest has layers.
    pub diff_ids: Vec<DiffId>,
    /// What the image asks for and does not get, in sentences.
    pub unused: Vec<String>,
}

impl Config {
    /// Reads an image configuration and compares it with its manifest.
    ///
    /// # Errors
    /// When it is malformed, or lists another number of layers than the manifest.
    pub fn parse(bytes: Vec<u8>, layers: usize) -> Result<Self> {
        let malformed_because = |why: String| malformed("the image's configuration is malformed").because(why);
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| malformed_because(e.to_string()))?;
        // Charts and other artifacts have configurations of their own, or empty ones.
        if go_json::member(&value, "rootfs").map_err(malformed_because)?.is_none() {
            return Err(malformed("this is not a container image")
                .because("its configuration lists no layers (rootfs)")
                .hint("charts, SIF files and other artifacts are no images: ask its author for an image"));
        }
        let (parsed, unused) = go_json::configuration(&value).map_err(malformed_because)?;
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
        Ok(Self { bytes, parsed, diff_ids, unused })
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
