//! Archives: a tar file of an OCI layout, or what `docker save` writes.
//!
//! Takes a tar file and perhaps a tag; gives the image in it.
//! Trusts nothing in the file: it is opened once and read in place, by an index of its regular files; nothing is extracted.
//! Refuses compressed archives, too many members, and references to members that are not there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use super::layout::{Files, Layout, open_regular};
use super::{Origin, Sink, copy};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::{Compression, DOCUMENT_MAX, Descriptor, Document, Manifest, Platform};
use crate::image::reference::{DiffId, Digest};
use crate::image::unpack::limits::Limits;
use crate::image::unpack::protocol::Fault;
use crate::image::unpack::tarstream::{Bytes, TarStream, Type};

/// The most members an archive may have: an image has a few for each layer.
const MEMBERS_MAX: usize = 20_000;

/// A tar file's regular files, by name.
#[derive(Debug)]
pub struct Archive {
    file: File,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    /// Where its bytes are: offset and size.
    At(u64, u64),
    /// A link to another member (`docker save` shares layers so).
    Link(String),
}

impl Archive {
    /// Reads the index of the archive `path`.
    ///
    /// # Errors
    /// When it is no tar file.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |fault: Fault| {
            Error::new(Stage::Pull, Kind::Hostile, format!("{} is not an archive of an image", path.display()))
                .because(fault.text)
                .hint("if the archive itself is compressed, decompress it first")
        };
        let file = open_regular(path)?;
        let size = file.metadata().map_err(|e| fail(Fault::malformed(e.to_string())))?.len();
        let limits = Limits { entries: 1 << 20, ..Limits::default() };
        let mut cursor = Cursor { file: &file, at: 0, size, buffer: Vec::new() };
        let mut members = BTreeMap::new();
        loop {
            // The reader skips the data of the entry before; only headers are read.
            let mut archive = TarStream::new(&mut cursor);
            let Some(entry) = archive.entry(&limits).map_err(fail)? else { break };
            let offset = cursor.at;
            let Some(name) = clean(&entry.path) else { continue };
            match entry.kind {
                Type::File => {
                    if entry.size > size.saturating_sub(offset) {
                        return Err(fail(Fault::malformed("it is cut short")));
                    }
                    cursor.at = offset.saturating_add(entry.size.div_ceil(512).saturating_mul(512)).min(size);
                    members.insert(name, Member::At(offset, entry.size));
                }
                Type::Symlink | Type::HardLink => {
                    let parent =
                        if entry.kind == Type::Symlink { name.rsplit_once('/').map_or("", |(p, _)| p) } else { "" };
                    let target = [parent.as_bytes(), b"/", &entry.target].concat();
                    if let Some(target) = clean(&target) {
                        members.insert(name, Member::Link(target));
                    }
                }
                Type::Directory | Type::Fifo | Type::Device => {}
            }
            if members.len() > MEMBERS_MAX {
                return Err(fail(Fault::refused(format!("it has more than {MEMBERS_MAX} members"))));
            }
        }
        Ok(Self { file, members })
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn find(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = name;
        for _ in 0..4 {
            match self.members.get(name) {
                Some(Member::At(offset, size)) => return Ok((*offset, *size)),
                Some(Member::Link(target)) => name = target,
                None => break,
            }
        }
        Err(Error::new(Stage::Pull, Kind::Missing, format!("the archive has no file \"{name}\"")))
    }

    fn whole(&self, name: &str) -> Result<Vec<u8>> {
        let (offset, size) = self.find(name)?;
        if size > DOCUMENT_MAX {
            return Err(Error::new(
                Stage::Pull,
                Kind::Hostile,
                format!("\"{name}\" is longer than {DOCUMENT_MAX} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        Part { file: &self.file, at: offset, left: size }
            .read_to_end(&mut bytes)
            .map_err(|e| Error::new(Stage::Pull, Kind::Failed, format!("cannot read \"{name}\"")).because(e))?;
        Ok(bytes)
    }
}

impl Files for Archive {
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let (at, left) = self.find(path)?;
        Ok(Box::new(Part { file: &self.file, at, left }))
    }
}

/// A name without `./`, empty parts and `..`; `None` where it would leave the archive, or is not text.
fn clean(name: &[u8]) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Reads headers at a position of the file.
struct Cursor<'a> {
    file: &'a File,
    at: u64,
    size: u64,
    buffer: Vec<u8>,
}

impl Bytes for &mut Cursor<'_> {
    fn next(&mut self, limit: usize) -> std::result::Result<&[u8], Fault> {
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        self.buffer.resize(limit.min(left).min(64 << 10), 0);
        let n = self
            .file
            .read_at(&mut self.buffer, self.at)
            .map_err(|e| Fault::malformed(format!("cannot be read: {e}")))?;
        self.at += n as u64;
        Ok(self.buffer.get(..n).unwrap_or_default())
    }
}

/// A part of the file; several may be read at once.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let n = self.file.read_at(out.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Opens an archive of an OCI layout.
///
/// # Errors
/// When it is none.
pub fn layout(path: &Path, tag: Option<String>) -> Result<Layout<Archive>> {
    let archive = Archive::open(path)?;
    if !archive.has("index.json") {
        return Err(Error::new(Stage::Pull, Kind::Hostile, format!("{} is not an OCI archive", path.display()))
            .because("it has no index.json")
            .hint("what docker save writes is read as docker-archive:FILE"));
    }
    Ok(Layout::new(archive, tag))
}

/// Opens what `docker save` has written.
///
/// # Errors
/// When it is none, or the tag is not in it.
pub fn docker(path: &Path, tag: Option<String>) -> Result<Box<dyn Origin>> {
    let archive = Archive::open(path)?;
    if !archive.has("manifest.json") {
        return Err(Error::new(Stage::Pull, Kind::Hostile, format!("{} is not a Docker archive", path.display()))
            .because("it has no manifest.json")
            .hint("an archive of an OCI layout is read as oci-archive:FILE"));
    }
    Ok(Box::new(DockerArchive::new(archive, tag.as_deref())?))
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
struct DockerArchive {
    archive: Archive,
    manifest: Manifest,
    names: BTreeMap<Digest, String>,
}

impl DockerArchive {
    fn new(archive: Archive, tag: Option<&str>) -> Result<Self> {
        let malformed =
            |why: String| Error::new(Stage::Pull, Kind::Hostile, "the Docker archive is malformed").because(why);
        let images: Vec<SavedImage> =
            serde_json::from_slice(&archive.whole("manifest.json")?).map_err(|e| malformed(e.to_string()))?;
        let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
        let matches = |image: &&SavedImage| {
            tag.is_none_or(|tag| {
                tags(image).iter().any(|t| t == tag || t.rsplit_once(':').is_some_and(|(_, t)| t == tag))
            })
        };
        let all = || images.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
        let image = match images.iter().filter(matches).collect::<Vec<_>>().as_slice() {
            [image] => *image,
            [] => return Err(Error::new(Stage::Pull, Kind::Missing, "the archive has no such image").because(all())),
            _ => {
                return Err(Error::new(Stage::Pull, Kind::Usage, "the archive has several images")
                    .because(all())
                    .hint("choose one: add its tag after a colon"));
            }
        };
        let config = archive.whole(&image.config)?;
        let parsed: oci_spec::image::ImageConfiguration =
            serde_json::from_slice(&config).map_err(|e| malformed(e.to_string()))?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != image.layers.len() {
            return Err(malformed(format!("{} layers, {} diff ids", image.layers.len(), diff_ids.len())));
        }
        let config_digest = Digest::of(&config);
        let mut names = BTreeMap::from([(config_digest.clone(), image.config.clone())]);
        let mut layers = Vec::new();
        for (name, diff_id) in image.layers.iter().zip(diff_ids) {
            let (digest, size, compression) = layer(&archive, name, &DiffId::new(diff_id.parse()?))?;
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
        Ok(Self { manifest: Document::parse(manifest)?.manifest()?, archive, names })
    }
}

/// A layer's digest, size and compression; an uncompressed one's digest is its diff id, and is checked when it is read.
fn layer(archive: &Archive, name: &str, diff_id: &DiffId) -> Result<(Digest, u64, Compression)> {
    let (at, size) = archive.find(name)?;
    let part = || Part { file: &archive.file, at, left: size };
    let fail = |e: io::Error| Error::new(Stage::Pull, Kind::Failed, format!("cannot read \"{name}\"")).because(e);
    let mut start = Vec::new();
    part().take(4).read_to_end(&mut start).map_err(fail)?;
    let compression = match start.as_slice() {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Compression::Zstd,
        _ => return Ok((diff_id.digest().clone(), size, Compression::None)),
    };
    let mut hasher = diff_id.digest().hasher();
    copy(
        part(),
        &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        },
        name,
    )?;
    Ok((hasher.finish(), size, compression))
}

impl Origin for DockerArchive {
    fn manifest(&self, _platform: &Platform) -> Result<Manifest> {
        Ok(self.manifest.clone())
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        let name = self.names.get(&descriptor.digest).map(String::as_str).unwrap_or_default();
        copy(self.archive.open(name)?.take(descriptor.size.saturating_add(1)), sink, name)
    }
}
