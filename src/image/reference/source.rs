//! What `ces pull` may be given: a reference, or a file or directory of this machine.
//!
//! Takes what the user typed, in the forms of containers-transports(5); gives a [`Source`]; touches no file.
//! Trusts nothing; what an archive calls its images is text from outside.
//! Refuses a source that names no file, and numbers of images that are none.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Reference, clip, looks_like_host};
use crate::error::{Error, Kind, Result, Stage};

/// Which of the images in a layout or an archive is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The only one.
    Only,
    /// The one with this name or tag.
    Named(String),
    /// The one at this place of the list, from 0 (`@N`).
    At(usize),
}

impl Pick {
    /// What stands after the file's name and its colon.
    fn parse(text: &str) -> Result<Self> {
        let Some(place) = text.strip_prefix('@') else { return Ok(Self::Named(text.to_owned())) };
        let plain = !place.is_empty() && place.bytes().all(|b| b.is_ascii_digit());
        place.parse().ok().filter(|_| plain).map(Self::At).ok_or_else(|| {
            Error::new(Stage::Pull, Kind::Usage, format!("\"@{}\" is not the number of an image", clip(place)))
                .hint("write @0 for the first image, @1 for the second; without a number the images are listed")
        })
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Named(name) => write!(f, "{name}"),
            Self::At(place) => write!(f, "@{place}"),
        }
    }
}

/// What `ces pull` may be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image in a registry.
    Registry(Reference),
    /// A directory in the OCI image layout, and which image of it.
    Layout(PathBuf, Pick),
    /// A tar file of an OCI image layout, and which image of it.
    LayoutArchive(PathBuf, Pick),
    /// What `docker save` writes, and which image of it.
    DockerArchive(PathBuf, Pick),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let local = |rest: &str| -> Result<(PathBuf, Pick)> {
            // As containers-transports(5): the first colon ends the path. A name cannot begin with a slash: there the path goes on.
            let ends = rest.match_indices(':').map(|(at, _)| rest.split_at(at));
            let mut parts = ends.map(|(path, after)| (path, after.strip_prefix(':').unwrap_or_default()));
            let (path, pick) = match parts.find(|(_, after)| !after.is_empty() && !after.starts_with('/')) {
                Some((path, after)) => (path, Pick::parse(after)?),
                None => (rest, Pick::Only),
            };
            if path.is_empty() {
                return Err(Error::new(Stage::Pull, Kind::Usage, format!("\"{}\" names no file", clip(text))).hint(
                    "write oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]; for NAME also @N",
                ));
            }
            Ok((path.into(), pick))
        };
        if let Some(rest) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(rest.parse()?));
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return local(rest).map(|(path, pick)| Self::Layout(path, pick));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return local(rest).map(|(path, pick)| Self::LayoutArchive(path, pick));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            return local(rest).map(|(path, pick)| Self::DockerArchive(path, pick));
        }
        if Self::is_local(text) {
            return Err(Error::new(Stage::Pull, Kind::Usage, format!("\"{}\" is a file: say of which sort", clip(text)))
                .hint("docker-archive:FILE is what docker save and podman save write, oci-archive:FILE an archive of an OCI layout, oci:DIR a layout"));
        }
        Ok(Self::Registry(text.parse()?))
    }
}

impl Source {
    /// Whether `words` name a file or directory of this machine rather than an image.
    pub fn is_local(words: &str) -> bool {
        let schemes = ["oci:", "oci-archive:", "docker-archive:", "dir:", "docker-daemon:", "containers-storage:"];
        let path = matches!(words, "." | "..") || ["/", "./", "../", "~"].iter().any(|start| words.starts_with(start));
        path || schemes.iter().any(|scheme| words.starts_with(scheme))
    }

    /// The reference under which the store keeps the image, unless the user names another; `own` is what the file calls it.
    ///
    /// The name of a registry's image says where it comes from, and policies go by that: what a file claims is kept below
    /// `localhost/`, without the registry.
    ///
    /// # Errors
    /// When nothing of it can be part of a reference.
    pub fn default_reference(&self, own: Option<&str>) -> Result<Reference> {
        let (path, pick) = match self {
            Self::Registry(reference) => return Ok(reference.clone()),
            Self::Layout(path, pick) | Self::LayoutArchive(path, pick) | Self::DockerArchive(path, pick) => {
                (path, pick)
            }
        };
        // In a directory, a word alone is a tag, which tells its images apart; archives are named by it, as podman does.
        let is_name = |name: &&str| !matches!(self, Self::Layout(..)) || name.contains(['/', ':']);
        if let Some(reference) = own.filter(is_name).and_then(local_name) {
            return Ok(reference);
        }
        let name = match pick {
            Pick::Named(name) => name.as_str(),
            _ => stem(path.file_name().and_then(|name| name.to_str()).unwrap_or_default()),
        };
        local_name(&name.to_lowercase()).ok_or_else(|| {
            Error::new(Stage::Pull, Kind::Usage, format!("\"{}\" cannot be the name of an image", clip(name)))
                .hint("choose one with --name, such as --name localhost/tool:1.0")
        })
    }
}

/// A file's name without what it says of its format.
fn stem(name: &str) -> &str {
    let lower = name.to_ascii_lowercase();
    let formats = [".tar.gz", ".tar.zst", ".tar.zstd", ".tgz", ".tzst"];
    let known = formats.into_iter().find(|format| lower.len() > format.len() && lower.ends_with(format));
    let end = known.map(|format| name.len() - format.len());
    let end = end.or_else(|| name.rfind('.').filter(|end| *end > 0)).unwrap_or(name.len());
    name.get(..end).unwrap_or(name)
}

/// The name below `localhost/` of what a file calls `name`: without a registry, and without a digest.
fn local_name(name: &str) -> Option<Reference> {
    let name = name.split('@').next()?;
    let rest = match name.split_once('/') {
        Some((first, rest)) if looks_like_host(first) => {
            // Docker Hub's own images have no directory in the names that people use.
            rest.strip_prefix("library/").filter(|_| first == "docker.io").unwrap_or(rest)
        }
        _ => name,
    };
    format!("localhost/{rest}").parse().ok()
}
