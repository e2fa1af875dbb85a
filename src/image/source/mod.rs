//! Where the bytes of an image come from.
//!
//! Takes a source and, for registries, the rules; gives manifests, configurations and blobs by descriptor.
//! Trusts no source: every byte is counted and hashed against the descriptor that named it.
//! Refuses what is longer, shorter or other than announced.

use std::fs::File;
use std::io::{self, Read};

use super::document::{Compression, Descriptor, Manifest, Platform};
use super::reference::{Digest, Hasher, Source};
use crate::error::{Error, Kind, Result, Stage};

/// Which registries may be asked, and how they are reached.
pub mod rules;
/// Who one is at a registry.
pub mod credentials;
/// The OCI image layout, as a directory.
pub mod layout;
/// Archives: a tar file of a layout, or what `docker save` writes.
pub mod archive;
/// What `docker save` writes.
pub mod docker_archive;
/// The grammar of `WWW-Authenticate`.
pub mod www_authenticate;
/// What a registry asks of those it does not know.
pub mod challenge;
/// Registries.
pub mod registry;

pub use credentials::Credentials;
pub use rules::{RegistryRule, RegistryRules, Upstream};

/// Gives what a compressed archive, which messages call by the name, is uncompressed.
pub type Expand<'a> = dyn Fn(&File, &str, Compression) -> Result<File> + 'a;

/// Opens a source, with the rights that this process has now: what a path stands for is decided here, once, and the
/// directory or file is held open until the image is there. Archives that are compressed are decompressed by `expand`.
///
/// # Errors
/// When the policy refuses it, or it cannot be opened.
pub fn open(
    source: &Source,
    rules: &RegistryRules,
    credentials: Option<Credentials>,
    watch: Box<dyn Watch>,
    expand: &Expand<'_>,
) -> Result<Box<dyn Origin>> {
    match source {
        Source::Registry(reference) => {
            let registry = registry::Registry::new(reference.clone(), rules, credentials)?;
            Ok(Box::new(registry.watched_by(watch)))
        }
        Source::Layout(path, pick) => Ok(Box::new(layout::Layout::directory(path, pick.clone())?)),
        Source::LayoutArchive(path, pick) => Ok(Box::new(archive::layout(path, pick.clone(), expand)?)),
        Source::DockerArchive(path, pick) => Ok(Box::new(docker_archive::open(path, pick, expand)?)),
    }
}

/// Takes a blob's bytes as they come.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Whom a transfer tells what it waits for, and asks whether to go on.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// Whether to go on; asked several times a second.
    ///
    /// # Errors
    /// Why not.
    fn go_on(&self) -> Result<()>;

    /// What is waited for.
    fn tell(&self, what: &str);
}

/// Something that gives a blob from any byte on.
pub trait Resumable: Sync {
    /// As [`Origin::blob`], without the first `from` bytes, which are there already.
    ///
    /// # Errors
    /// As [`Origin::blob`]; and when what is there cannot be the beginning of the blob.
    fn blob_from(&self, descriptor: &Descriptor, from: u64, sink: &mut Sink<'_>) -> Result<()>;
}

/// Something that has an image.
pub trait Origin: Sync {
    /// What the image is called where it lies, if it has a name there: text from outside.
    ///
    /// # Errors
    /// When there is no such image.
    fn own_name(&self, _platform: &Platform) -> Result<Option<String>> {
        Ok(None)
    }

    /// The manifest for `platform`, its bytes checked against the digest that named it.
    ///
    /// # Errors
    /// When there is none, or it is not what was announced.
    fn manifest(&self, platform: &Platform) -> Result<Manifest>;

    /// Hands the bytes of a blob to `sink`, as they come; the caller counts and hashes them.
    ///
    /// # Errors
    /// When the blob cannot be read, or `sink` fails.
    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()>;

    /// Blobs from any byte on, where it is worth keeping what came of one that was cut off.
    fn resumable(&self) -> Option<&dyn Resumable> {
        None
    }

    /// A small blob, whole and checked.
    ///
    /// # Errors
    /// When it cannot be read or is not what was announced.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let mut checked = Checked::new(descriptor);
        let mut bytes = Vec::new();
        self.blob(descriptor, &mut |piece| {
            checked.update(piece)?;
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        checked.finish()?;
        Ok(bytes)
    }
}

/// Compares bytes with the descriptor that announced them: first their number, at the end their digest.
#[derive(Debug)]
pub struct Checked {
    digest: Digest,
    size: u64,
    seen: u64,
    hasher: Hasher,
}

impl Checked {
    /// Expects what `descriptor` announces.
    pub fn new(descriptor: &Descriptor) -> Self {
        Self { digest: descriptor.digest.clone(), size: descriptor.size, seen: 0, hasher: descriptor.digest.hasher() }
    }

    /// More bytes.
    ///
    /// # Errors
    /// As soon as there are more than announced.
    pub fn update(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen += bytes.len() as u64;
        if self.seen > self.size {
            return Err(self.differs(format!("more than the announced {} bytes came", self.size)));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// All bytes were seen.
    ///
    /// # Errors
    /// When they are fewer than announced, or others.
    pub fn finish(self) -> Result<()> {
        if self.seen < self.size {
            let text = format!("only {} of {} bytes came", self.seen, self.size);
            return Err(self.differs(text).hint("try again: the transfer may have been cut off"));
        }
        let found = self.hasher.clone().finish();
        if found != self.digest {
            return Err(self.differs(format!("its digest is {found}")));
        }
        Ok(())
    }

    fn differs(&self, cause: String) -> Error {
        Error::new(Stage::Pull, Kind::Hostile, format!("{} is not what was announced", self.digest))
            .because(cause)
            .hint("the copy is damaged or was tampered with; nothing of it was kept")
    }
}

/// Hands all of `reader` to `sink`.
///
/// # Errors
/// When reading or the sink fails.
pub fn copy(mut reader: impl Read, sink: &mut Sink<'_>, name: &str) -> Result<()> {
    let mut buffer = vec![0_u8; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => sink(buffer.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::new(Stage::Pull, Kind::Failed, format!("cannot read {name}")).because(e)),
        }
    }
}
