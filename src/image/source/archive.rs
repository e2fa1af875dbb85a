//! Archives: a tar file of an OCI layout, or what `docker save` writes.
//!
//! Takes a tar file, plain or compressed with gzip or Zstandard, and which image of it; gives that image.
//! Trusts nothing in the file: it is opened once and read in place, by an index of its regular files; nothing is extracted. What
//! is compressed is decompressed by somebody else, who keeps to limits, and then read in the same way.
//! Refuses other compressions, too many members, and references to members that are not there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Expand;
use super::layout::{Files, Layout, open_regular};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::{Compression, DOCUMENT_MAX};
use crate::image::magic::{self, Packing};
use crate::image::reference::Pick;
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
    /// Reads the index of the archive `path`; if it is compressed, of what `expand` makes of it.
    ///
    /// # Errors
    /// When it is no tar file.
    pub fn open(path: &Path, expand: &Expand<'_>) -> Result<Self> {
        let name = path.display().to_string();
        let file = open_regular(path)?;
        match packing(&file, &name)? {
            Packing::Known(Compression::None) => Self::read(file, &name),
            Packing::Known(compression) => {
                let file = expand(&file, &name, compression)?;
                match packing(&file, &name)? {
                    Packing::Known(Compression::None) => Self::read(file, &name),
                    twice => Err(not_read(&name, &format!("it is compressed twice, inside with {}", twice.name()))
                        .hint("decompress it once, and pull what comes out")),
                }
            }
            other @ Packing::Other(kind, program) => Err(not_read(&name, &format!("it is compressed with {kind}"))
                .hint(match other {
                    Packing::Other("zip" | "7-Zip", _) => {
                        format!("unpack it ({program} {name}), and pull what is in it: a tar archive of an image")
                    }
                    _ => format!(
                        "decompress it ({program} < {name} > image.tar), and pull image.tar; ces itself reads plain, gzip and zstd archives"
                    ),
                })),
        }
    }

    /// Reads the index of an archive that is not compressed.
    ///
    /// # Errors
    /// When it is no tar file.
    pub fn read(file: File, name: &str) -> Result<Self> {
        let fail = |fault: Fault| {
            Error::new(Stage::Pull, Kind::Hostile, format!("{name} is not an archive of an image"))
                .because(fault.text)
                .hint("an archive is what docker save or podman save writes, plain or compressed with gzip or zstd")
        };
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

    /// Where a file's bytes are: offset and size.
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

    /// A file's size.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn size(&self, name: &str) -> Result<u64> {
        self.find(name).map(|(_, size)| size)
    }

    /// A small file, whole.
    ///
    /// # Errors
    /// When there is no such file, or it is longer than a document may be.
    pub fn whole(&self, name: &str) -> Result<Vec<u8>> {
        let (offset, size) = self.find(name)?;
        if size > DOCUMENT_MAX {
            return Err(Error::new(
                Stage::Pull,
                Kind::Hostile,
                format!("\"{name}\" is longer than {DOCUMENT_MAX} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        Part { file: &self.file, at: offset, remaining: size }
            .read_to_end(&mut bytes)
            .map_err(|e| Error::new(Stage::Pull, Kind::Failed, format!("cannot read \"{name}\"")).because(e))?;
        Ok(bytes)
    }
}

impl Files for Archive {
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let (at, remaining) = self.find(path)?;
        Ok(Box::new(Part { file: &self.file, at, remaining }))
    }
}

/// What the file is packed with.
fn packing(file: &File, name: &str) -> Result<Packing> {
    let mut start = Vec::new();
    Part { file, at: 0, remaining: magic::LENGTH as u64 }
        .read_to_end(&mut start)
        .map_err(|e| Error::new(Stage::Pull, Kind::Failed, format!("cannot read {name}")).because(e))?;
    Ok(Packing::of(&start))
}

fn not_read(name: &str, why: &str) -> Error {
    Error::new(Stage::Pull, Kind::Failed, format!("{name} has a form that ces does not read")).because(why)
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
        let remaining = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        self.buffer.resize(limit.min(remaining).min(64 << 10), 0);
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
    remaining: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(out.len());
        let n = self.file.read_at(out.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += n as u64;
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// Opens an archive of an OCI layout.
///
/// # Errors
/// When it is none.
pub fn layout(path: &Path, pick: Pick, expand: &Expand<'_>) -> Result<Layout<Archive>> {
    let archive = Archive::open(path, expand)?;
    if !archive.has("index.json") {
        return Err(Error::new(Stage::Pull, Kind::Hostile, format!("{} is not an OCI archive", path.display()))
            .because("it has no index.json")
            .hint("what docker save writes is read as docker-archive:FILE"));
    }
    Ok(Layout::new(archive, pick))
}
