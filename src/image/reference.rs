//! What an image is called.
//!
//! Takes what the user typed; gives a `Reference`, a `Source` or a `Digest`.
//! Trusts nothing: every part is matched against the grammar of the distribution specification.
//! Refuses a reference without a registry host, any digest that is not exactly an algorithm and its hex digits, and
//! everything else that could turn into another path or URL than it looks like.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use super::registry_host;
use crate::error::{Error, Kind, Result, Stage};

/// What `ces pull` may be given: a reference, or a file or directory of this machine.
mod source;

pub use source::{Pick, Source};

/// Longest host and repository together (distribution specification: 255 characters).
const NAME_MAX: usize = 255;
/// Longest tag.
const TAG_MAX: usize = 128;

/// The digest of some content: `sha256:` and 64, or `sha512:` and 128, lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// The digest of a layer's uncompressed bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(Digest);

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_sha256(&Sha256::digest(bytes))
    }

    /// The digest whose SHA-256 value is `value`.
    pub fn from_sha256(value: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(value)))
    }

    /// The algorithm's name.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The hex digits.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }

    /// The whole, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A hasher for content that should have this digest.
    pub fn hasher(&self) -> Hasher {
        if self.algorithm() == "sha512" {
            Hasher::Sha512(Box::new(Sha512::new()))
        } else {
            Hasher::Sha256(Box::new(Sha256::new()))
        }
    }

    /// Whether `bytes` have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let well_formed = text.split_once(':').is_some_and(|(algorithm, hex)| {
            let length = match algorithm {
                "sha256" => 64,
                "sha512" => 128,
                _ => return false,
            };
            hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if well_formed {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Stage::Pull, Kind::Hostile, format!("\"{}\" is not a digest", clip(text)))
            .hint("a digest is sha256: and 64 lower-case hex digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl DiffId {
    /// A layer's digest; the caller knows that it is one of uncompressed bytes.
    pub fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest itself.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Computes a digest piece by piece.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256, what everyone uses.
    Sha256(Box<Sha256>),
    /// SHA-512, which the image specification also registers.
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(state) => Digest::from_sha256(&state.finalize()),
            Self::Sha512(state) => Digest(format!("sha512:{}", hex(&state.finalize()))),
        }
    }
}

/// Where an image lives in a registry: `host/repository[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, with its port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path below the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; a reference without tag and digest means `latest`.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|_| bad(text, "the digest after @"))?))
            }
            None => (text, None),
        };
        let Some((host, rest)) = rest.split_once('/') else {
            return Err(without_host(text));
        };
        if !looks_like_host(host) {
            return Err(without_host(text));
        }
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        // Before anything compares it: allow lists, credentials, names in the store.
        let host = registry_host::canonical(host).map_err(|why| bad(text, why))?;
        if !repository.split('/').all(is_path_component) {
            return Err(bad(text, "the repository (lower-case letters, digits, and . _ - between them)"));
        }
        if host.len() + repository.len() + 1 > NAME_MAX {
            return Err(bad(text, "the name, which is longer than 255 characters"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(text, "the tag"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { host, repository: repository.to_owned(), tag, digest })
    }
}

impl Reference {
    /// The name in the store that `name` stands for, wherever an image that is there already is meant: `docker://` may come
    /// before it, and a name without a registry is one of `localhost/`, which is where names that a user chose are. None for
    /// digests, and for what can be no name.
    pub fn in_store(name: &str) -> Option<Self> {
        let name = name.strip_prefix("docker://").unwrap_or(name);
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_digest =
            name.starts_with("sha256:") || name.starts_with("sha512:") || (name.len() >= 64 && is_hex(name));
        if is_digest {
            return None;
        }
        if name.split_once('/').is_some_and(|(first, _)| looks_like_host(first)) {
            return name.parse().ok();
        }
        format!("localhost/{name}").parse().ok()
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let plain = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !plain(bytes.first()) || !plain(bytes.last()) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Whether the first part of a name is a registry, as docker and podman tell: it has a dot or a port, or is `localhost`.
pub(super) fn looks_like_host(first: &str) -> bool {
    first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost")
}

fn without_host(text: &str) -> Error {
    Error::new(Stage::Pull, Kind::Usage, format!("\"{}\" names no registry", clip(text)))
        .hint("write the registry's host first, such as ghcr.io/lab/tool:1.0 or docker.io/library/debian:13")
}

fn bad(text: &str, part: &str) -> Error {
    Error::new(Stage::Pull, Kind::Usage, format!("\"{}\" is not an image reference", clip(text)))
        .because(format!("malformed: {part}"))
        .hint("a reference is host/repository:tag or host/repository@sha256:…")
}

/// Text of unknown length, short enough for a message.
fn clip(text: &str) -> String {
    text.chars().take(120).collect()
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        if write!(out, "{byte:02x}").is_err() {
            out.push('?');
        }
        out
    })
}
