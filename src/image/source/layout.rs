//! The OCI image layout, as a directory (image-spec, image-layout.md).
//!
//! Takes a directory and perhaps a tag; gives the image so tagged.
//! Trusts nothing in the directory: blobs are opened without following links, and only regular files are read.
//! Refuses links, pipes and devices in place of files, and documents that are too long.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::{Origin, Sink, copy};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::{DOCUMENT_MAX, Descriptor, Document, Index, Manifest, Platform};

/// Files by name: what a layout consists of, wherever it is kept.
pub trait Files: Sync {
    /// Opens a file of the layout by its path in it.
    ///
    /// # Errors
    /// When there is no such regular file.
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>>;
}

/// A layout.
#[derive(Debug)]
pub struct Layout<F> {
    files: F,
    tag: Option<String>,
}

/// A directory of files.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Layout<Directory> {
    /// The layout in the directory `path`.
    pub fn directory(path: &Path, tag: Option<String>) -> Self {
        Self { files: Directory(path.to_owned()), tag }
    }
}

impl<F: Files> Layout<F> {
    /// The layout in `files`.
    pub fn new(files: F, tag: Option<String>) -> Self {
        Self { files, tag }
    }

    fn small(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.files.open(path)?.take(DOCUMENT_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|e| Error::new(Stage::Pull, Kind::Failed, format!("cannot read {path}")).because(e))?;
        if bytes.len() as u64 > DOCUMENT_MAX {
            return Err(Error::new(Stage::Pull, Kind::Hostile, format!("{path} is longer than {DOCUMENT_MAX} bytes")));
        }
        Ok(bytes)
    }

    fn document_of(&self, descriptor: &Descriptor) -> Result<Document> {
        if descriptor.size > DOCUMENT_MAX {
            return Err(Error::new(Stage::Pull, Kind::Hostile, "the image's manifest is too long"));
        }
        Document::parse(self.document(descriptor)?)
    }

    fn index(&self) -> Result<Index> {
        match Document::parse(self.small("index.json")?)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(Error::new(Stage::Pull, Kind::Hostile, "index.json is not an image index")),
        }
    }
}

impl<F: Files> Origin for Layout<F> {
    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        let index = self.index()?;
        let entry = match &self.tag {
            None if index.is_one_image() => index.select(platform)?,
            tag => index.tagged(tag.as_deref())?,
        };
        match self.document_of(entry)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(inner) => self.document_of(inner.select(platform)?)?.manifest(),
        }
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        let path = format!("blobs/{}/{}", descriptor.digest.algorithm(), descriptor.digest.hex());
        // One byte more than announced is enough to see that it is too long.
        let reader = self.files.open(&path)?.take(descriptor.size.saturating_add(1));
        copy(reader, sink, &path)
    }
}

impl Files for Directory {
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let full = self.0.join(path);
        open_regular(&full).map(|file| Box::new(file) as Box<dyn Read>)
    }
}

/// Opens a regular file for reading; never waits for a pipe, never follows a link at the end of the path.
///
/// # Errors
/// When there is none, or it is something else.
pub fn open_regular(path: &Path) -> Result<File> {
    let what = || format!("cannot read {}", path.display());
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::Missing } else { Kind::Failed };
            let why =
                if e.raw_os_error() == Some(libc::ELOOP) { "it is a symbolic link".to_owned() } else { e.to_string() };
            Error::new(Stage::Pull, kind, what())
                .because(why)
                .hint("check the path: oci:DIR is a directory with oci-layout and index.json, the archives are files")
        })?;
    let metadata = file.metadata().map_err(|e| Error::new(Stage::Pull, Kind::Failed, what()).because(e))?;
    if !metadata.is_file() {
        return Err(Error::new(Stage::Pull, Kind::Hostile, what()).because("it is not a regular file"));
    }
    Ok(file)
}
