//! Packages and findings of an image as types.
//!
//! All text here comes from the image and is hostile: it is bounded where it is read, and made harmless
//! (`crate::text`) where it is shown.

use serde::{Deserialize, Serialize};

use crate::image::reference::Digest;

/// Which package manager or format describes a package. The names are those of package URLs
/// (<https://github.com/package-url/purl-spec>) where they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageType {
    /// Debian and its descendants.
    Deb,
    /// Alpine.
    Apk,
    /// RPM, in any of its three databases.
    Rpm,
    /// Arch Linux (`pacman`).
    Alpm,
    /// Python: dist-info and egg-info directories.
    Pypi,
    /// conda, mamba, pixi.
    Conda,
    /// R libraries.
    Cran,
    /// Julia depots and manifests.
    Julia,
    /// JavaScript.
    Npm,
    /// Ruby.
    Gem,
    /// Perl distributions outside the distribution's packages.
    Cpan,
    /// Octave packages.
    Octave,
    /// Java archives.
    Maven,
    /// Go modules in a program.
    Golang,
    /// Rust crates in a program (`cargo-auditable`).
    Cargo,
    /// Libraries known by their shared object's name: CUDA, cuDNN, MATLAB's runtime.
    Generic,
    /// Files of a machine-learning model.
    Model,
}

/// A package that is visible in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Who describes it.
    pub kind: PackageType,
    /// Its name as its package manager writes it; `group:artifact` for Maven, the module's path for Go.
    pub name: String,
    /// Its version as written: with epoch and revision for distributions.
    pub version: String,
    /// The distribution's source package and its version, where they differ or are named; of a conda package, the Python
    /// package that its files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<(String, String)>,
    /// Architecture as the package manager writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// The licence text as declared, untouched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The path in the image of what describes it, without a leading slash: `var/lib/dpkg/status`,
    /// a dist-info directory, a program.
    pub place: String,
    /// The lowest layer, counted from 0, since which it is present without a break.
    pub layer: usize,
    /// The distribution package (`deb`, `apk`, `rpm`, `alpm` name) that owns `place`: then it is judged by the
    /// distribution's data alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// RPM's module label, `name:stream:version:context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// For a Go main module or one with `(devel)` or a pseudo-version: listed, not judged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unjudged: bool,
    /// Ids of vulnerabilities that its own changelog says are fixed: evidence beside the verdict.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changelog_fixes: Vec<String>,
}

/// The distribution, from `/etc/os-release` or `/usr/lib/os-release` (os-release(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// `ID`: `debian`, `ubuntu`, `alpine`, `rocky`.
    pub id: String,
    /// `ID_LIKE`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub id_like: Vec<String>,
    /// `VERSION_ID`: `12`, `24.04`, `3.20.1`, `9.4`.
    pub version_id: String,
    /// `VERSION_CODENAME`: `bookworm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    /// `PRETTY_NAME`, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
}

/// What a reviewer looks at, beside the packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A program or library that no package owns.
    Unowned,
    /// A file with a set-user-ID or set-group-ID bit.
    SetId,
    /// A file with file capabilities.
    Capabilities,
    /// A device node.
    Device,
    /// Something that looks like a secret: `what` tells its kind, never its value.
    Secret,
    /// A pickle, which runs code when it is loaded.
    Pickle,
    /// A `.pyc` without its source.
    BytecodeAlone,
    /// A file of a package that a later layer replaced without touching the package's row.
    Replaced,
    /// Something that could not be read, or not whole.
    NotReadable,
}

/// One finding and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub kind: FindingKind,
    /// The path in the image, without a leading slash; `Env NAME` for a variable of the configuration.
    pub place: String,
    /// What exactly, in plain words.
    pub what: String,
    /// The layer, counted from 0; `None` for the configuration.
    pub layer: Option<usize>,
    /// Whether a later layer deletes or replaces it: the bytes are in the image all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

/// One layer and the history line that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOrigin {
    /// The layer's diff id.
    pub diff_id: String,
    /// `created_by` of the history, where the counts of layers and of history lines that are not empty agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
}

/// Everything in an image, merged over its layers: deterministic, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Version of this document.
    pub version: u32,
    /// The image's manifest digest, `sha256:…`.
    pub image: String,
    /// When it was pulled, RFC 3339: the documents' time stamp, so that they are the same twice.
    pub pulled: String,
    /// Platform, `linux/amd64`.
    pub platform: String,
    /// The distribution, if it names itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
    /// Layers from the base up.
    pub layers: Vec<LayerOrigin>,
    /// Entry point and command as the configuration has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entry: Vec<String>,
    /// The configured user, as written.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Packages, sorted by kind, name, version, place.
    pub packages: Vec<Package>,
    /// Findings, sorted.
    pub findings: Vec<Finding>,
}

impl Stack {
    /// What names all that was read of the image, `sha256:…`: the same for everybody, whenever it was pulled. Other readers than
    /// those of this version may read more, and give another.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn digest(&self) -> std::io::Result<Digest> {
        Ok(Digest::of(&serde_json::to_vec(&Self { pulled: String::new(), ..self.clone() })?))
    }
}
