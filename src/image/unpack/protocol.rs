//! The words that parent and child exchange: one JSON document a line, over a socket pair.
//!
//! Takes and gives messages; the parent speaks first.
//! Trusts: the child trusts its parent's job; the parent treats what the child says as text from outside.
//! Refuses messages longer than `MESSAGE_MAX`.
//!
//! ```text
//! parent                        child
//!   Job ───────────────────────▶ opens the directories, leaves its namespaces
//!   (writes the id maps) ◀────── Unshared
//!   Go ────────────────────────▶ becomes root in its user namespace, shuts itself in
//!   blob on standard input ────▶
//!        ◀────────────────────── Done(report) or Failed(fault)
//! ```

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::limits::Limits;
use crate::host::idmap::IdMap;
use crate::image::document::Compression;
use crate::image::reference::Digest;

/// The longest message: a report names at most [`NOTES_MAX`] paths of each sort.
pub const MESSAGE_MAX: u64 = 64 << 20;
/// How many paths a report may name.
pub const NOTES_MAX: usize = 10_000;
/// Bytes of the names of what was left out: they are in a layer's record, which every run reads.
pub const NAMES_MAX: usize = 256 << 10;

/// The file of an archive that was decompressed, in the directory of the job.
pub const EXPANDED: &str = "archive";

/// What the child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The directory to work in; the only one the child can write to.
    pub directory: PathBuf,
    /// The sort of work.
    pub work: Work,
    /// A new file for the listing of the tree, as it is in the end. A layer that is to be settled has none yet: then the
    /// file tells what is known of its files.
    pub listing: Option<PathBuf>,
    /// A file that tells what is known of the tree's files.
    pub known: Option<PathBuf>,
    /// The id map of the child's user namespace.
    pub ids: IdMap,
    /// What is too much.
    pub limits: Limits,
}

/// The sorts of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// Unpack the blob on standard input.
    Unpack {
        /// How it is packed.
        compression: Compression,
        /// Its size.
        blob_size: u64,
        /// Whether layers may lie below this one: without them a hard link to nothing is an error.
        has_base: bool,
        /// The layers below, base first, where their links are to be followed entry by entry.
        lower: Vec<PathBuf>,
    },
    /// Adapt an unpacked layer to the layers below it.
    Settle {
        /// The layers below, base first.
        lower: Vec<PathBuf>,
        /// What unpacking left open.
        open: Open,
    },
    /// Write what the compressed archive on standard input is uncompressed to the new file [`EXPANDED`].
    Expand {
        /// How it is packed.
        compression: Compression,
        /// Its size.
        size: u64,
    },
    /// List the tree as it is; nothing is changed.
    List,
    /// Read what the tree says of packages, in the files that a listing names; nothing is changed.
    Facts {
        /// The digest of the listing.
        tree: String,
    },
    /// Read the vulnerability data on standard input, and write what is kept of it to the new file; the directory is empty.
    Import {
        /// The time of day, RFC 3339.
        time: String,
    },
    /// Delete everything in the directory: its files may belong to ids that only the namespace maps.
    Remove,
}

/// What a layer says about things that it does not contain; the layers below decide what is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Directories that entries lie in, but that the layer does not list.
    pub implied: Vec<RawPath>,
    /// Hard links whose target the layer does not contain: link, then target.
    pub links: Vec<(RawPath, RawPath)>,
}

impl Open {
    /// Whether the layer stands on its own.
    pub fn is_empty(&self) -> bool {
        self.implied.is_empty() && self.links.is_empty()
    }
}

/// A path below the layer's root: bytes, not text; in JSON with `\xNN` for what is not plain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawPath(#[serde(with = "raw_bytes")] pub Vec<u8>);

/// How unpacking ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The digest of the uncompressed bytes.
    pub diff_id: Digest,
    /// Their number.
    pub bytes: u64,
    /// Bytes of file contents written.
    pub file_bytes: u64,
    /// Entries applied.
    pub entries: u64,
    /// What was left out, by rule.
    pub omitted: Omitted,
    /// What the layers below decide.
    pub open: Open,
    /// The root directory's metadata, if the layer lists it.
    pub root: Option<RootMeta>,
    /// The first entry that belongs to nobody because its id is not mapped, and that id.
    pub unmapped: Option<(RawPath, u64)>,
}

/// The metadata of an image's root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootMeta {
    /// Permission bits.
    pub mode: u32,
    /// The owner, as the image says.
    pub uid: u32,
    /// The group, as the image says.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

impl Default for RootMeta {
    /// What an image has that never lists its root.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: 0 }
    }
}

/// What was left out of a layer, by rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    /// Block and character devices.
    pub devices: u64,
    /// Files whose set-user-ID or set-group-ID bit was removed.
    pub set_id_bits: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// Entries whose user or group is not among the ids mapped here, so that they belong to nobody (65534).
    #[serde(default)]
    pub unmapped_ids: u64,
    /// Which devices, files with such bits, and files with capabilities: the first [`NOTES_MAX`], as far as they fit
    /// [`NAMES_MAX`] bytes. Layers of older stores have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<OmittedName>,
}

/// Something that was left out of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OmittedName {
    /// What it is.
    pub what: OmittedSort,
    /// Its path in the layer.
    pub path: RawPath,
}

/// Sorts of what is left out by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OmittedSort {
    /// A set-user-ID bit.
    SetUserId,
    /// A set-group-ID bit.
    SetGroupId,
    /// File capabilities (`security.capability`).
    Capabilities,
    /// A block or character device.
    Device,
}

/// Why a child stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What sort of failure.
    pub kind: FaultKind,
    /// The entry it happened at.
    pub entry: Option<RawPath>,
    /// In words.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Sorts of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The bytes are not what they should be (perhaps damaged on the way).
    Malformed,
    /// The layer asks for what no layer may have.
    Refused,
    /// Only the order of the layer's entries tells what it means: it is to be unpacked again, with the layers below at hand.
    InTurn,
    /// The file system is full, or a quota is used up.
    NoSpace,
    /// The host did not do what was asked.
    Host,
}

impl Fault {
    /// A failure of `kind`.
    pub fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, entry: None, text: text.into(), hint: None }
    }

    /// The bytes are not a layer.
    pub fn malformed(text: impl Into<String>) -> Self {
        Self::new(FaultKind::Malformed, text)
    }

    /// The layer asks for what no layer may have.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::new(FaultKind::Refused, text)
    }

    /// A system call failed.
    pub fn host(action: &str, errno: nix::errno::Errno) -> Self {
        use nix::errno::Errno;
        let kind = match errno {
            Errno::ENOSPC | Errno::EDQUOT => FaultKind::NoSpace,
            Errno::ENAMETOOLONG => FaultKind::Refused,
            _ => FaultKind::Host,
        };
        Self::new(kind, format!("cannot {action}: {}", errno.desc()))
    }

    /// Names the entry, unless one is named already.
    #[must_use]
    pub fn at(mut self, entry: &[u8]) -> Self {
        self.entry.get_or_insert_with(|| RawPath(entry.to_vec()));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What the child says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Said {
    /// It is in its own namespaces and waits for its maps.
    Unshared,
    /// The work is done; a report if it was unpacking.
    Done(Option<Box<Report>>),
    /// The work failed.
    Failed(Fault),
}

/// Writes one message.
///
/// # Errors
/// When the other side is gone.
pub fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one message.
///
/// # Errors
/// When the other side is gone, or sends something else.
pub fn receive<M: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<M> {
    let mut line = Vec::new();
    from.take(MESSAGE_MAX).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

mod raw_bytes {
    //! Bytes as text: printable ASCII as it is, everything else and `\` as `\xNN`.
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                b'\\' => text.push_str("\\x5c"),
                b' '..=b'~' => text.push(char::from(byte)),
                _ => text.push_str(&format!("\\x{byte:02x}")),
            }
        }
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find("\\x") {
            let (before, after) = rest.split_at(at);
            bytes.extend_from_slice(before.as_bytes());
            let digits = after.get(2..4).ok_or_else(|| D::Error::custom("an escape is cut short"))?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(D::Error::custom)?);
            rest = after.get(4..).unwrap_or_default();
        }
        bytes.extend_from_slice(rest.as_bytes());
        Ok(bytes)
    }
}
