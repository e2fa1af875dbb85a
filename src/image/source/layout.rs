//! The OCI image layout, as a directory (image-spec, image-layout.md).
//!
//! Takes a directory and which image of it; gives that image, and what the layout calls it.
//! Trusts nothing in the directory: it is opened once, and every file of it is opened below that descriptor, where the
//! kernel follows no link and lets nothing lead out (openat2(2)); what a name stands for is decided by the open descriptor.
//! Refuses links, also in place of `blobs` and the directories in it, pipes and devices, and documents that are too long.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::stat::{SFlag, fstat};

use super::{Origin, Sink, copy};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::{DOCUMENT_MAX, Descriptor, Document, Index, Manifest, Platform};
use crate::image::reference::Pick;
use crate::image::selection::own_name;

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
    pick: Pick,
}

/// A directory of files, held open: whatever its path stands for later, the files are those of this directory.
#[derive(Debug)]
pub struct Directory {
    directory: File,
    /// For messages alone.
    path: PathBuf,
}

impl Layout<Directory> {
    /// The layout in the directory `path`, which is opened here and never by its path again.
    ///
    /// # Errors
    /// When there is none that may be read.
    pub fn directory(path: &Path, pick: Pick) -> Result<Self> {
        let directory =
            File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path).map_err(|e| {
                let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::Missing } else { Kind::Failed };
                Error::new(Stage::Pull, kind, format!("cannot read the directory {}", path.display()))
                    .because(e)
                    .hint("oci:DIR is a directory that you may read, with oci-layout, index.json and blobs")
            })?;
        Ok(Self { files: Directory { directory, path: path.to_owned() }, pick })
    }
}

impl<F: Files> Layout<F> {
    /// The layout in `files`.
    pub fn new(files: F, pick: Pick) -> Self {
        Self { files, pick }
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
    fn own_name(&self, platform: &Platform) -> Result<Option<String>> {
        let index = self.index()?;
        let names = &index.picked(&self.pick, platform)?.names;
        Ok(own_name(names, &self.pick).cloned())
    }

    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        let index = self.index()?;
        match self.document_of(&index.picked(&self.pick, platform)?.descriptor)? {
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
        let refuse = |kind, object: &str, why: String| {
            Error::new(Stage::Pull, kind, format!("cannot read {object} of the layout {}", self.path.display()))
                .because(why)
        };
        let file =
            File::from(self.below(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).map_err(|errno| {
                match errno {
                    Errno::ELOOP => {
                        let link = self.link_on(path);
                        refuse(Kind::Hostile, link, "it is a symbolic link".to_owned()).hint(
                            "a layout has its files in its own directories; copy what the link leads to in its place",
                        )
                    }
                    Errno::ENOENT => refuse(Kind::Missing, path, errno.desc().to_owned())
                        .hint("oci:DIR is a directory with oci-layout, index.json and blobs; is the copy complete?"),
                    errno => refuse(Kind::Failed, path, errno.desc().to_owned()),
                }
            })?);
        let metadata = file.metadata().map_err(|e| refuse(Kind::Failed, path, e.to_string()))?;
        if !metadata.is_file() {
            return Err(refuse(Kind::Hostile, path, "it is not a regular file".to_owned()));
        }
        Ok(Box::new(file))
    }
}

impl Directory {
    /// Opens what is at `path` below the directory: no link is followed on the way or at its end, and nothing leads out.
    fn below(&self, path: &str, flags: OFlag) -> nix::Result<std::os::fd::OwnedFd> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        openat2(&self.directory, path, OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve))
    }

    /// The first part of `path` that is a link, for the message: `path` itself if none is any more.
    fn link_on<'a>(&self, path: &'a str) -> &'a str {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let is_link = |part: &&str| {
            // With both flags the link itself is opened, also where none is followed (openat2(2), RESOLVE_NO_SYMLINKS).
            let found = self.below(part, OFlag::O_PATH | OFlag::O_NOFOLLOW).and_then(fstat);
            found.is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFLNK)
        };
        ends.filter_map(|end| path.get(..end)).find(is_link).unwrap_or(path)
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
                .hint("check the path: the archives are files, oci:DIR is a directory with oci-layout and index.json")
        })?;
    let metadata = file.metadata().map_err(|e| Error::new(Stage::Pull, Kind::Failed, what()).because(e))?;
    if !metadata.is_file() {
        return Err(Error::new(Stage::Pull, Kind::Hostile, what()).because("it is not a regular file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is said of `blobs/sha256/b`, after something was done to a good layout at `one`, with another one beside it.
    fn said(change: impl FnOnce(&Path)) -> String {
        let both = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            fs::create_dir_all(both.path().join(name).join("blobs/sha256")).unwrap();
            fs::write(both.path().join(name).join("blobs/sha256/b"), name).unwrap();
        }
        let layout = Layout::directory(&both.path().join("one"), Pick::Only).unwrap();
        change(both.path());
        let mut text = String::new();
        match layout.files.open("blobs/sha256/b") {
            Ok(mut file) => file.read_to_string(&mut text).map(|_| text).unwrap(),
            Err(error) => error.report(),
        }
    }

    #[test]
    fn a_link_anywhere_in_a_layout_is_refused_and_named() {
        for object in ["blobs", "blobs/sha256", "blobs/sha256/b"] {
            let report = said(|both| {
                let at = both.join("one").join(object);
                if at.is_dir() {
                    fs::remove_dir_all(&at).unwrap()
                } else {
                    fs::remove_file(&at).unwrap()
                }
                symlink(both.join("other").join(object), at).unwrap();
            });
            assert!(report.contains(&format!("cannot read {object} of the layout")), "{report}");
            assert!(report.contains("it is a symbolic link") && report.contains("hint: "), "{report}");
        }
    }

    #[test]
    fn what_is_put_in_the_directorys_place_is_not_read() {
        let read = said(|both| {
            fs::rename(both.join("one"), both.join("away")).unwrap();
            symlink("other", both.join("one")).unwrap();
        });
        assert_eq!(read, "one");
    }

    #[test]
    fn a_link_put_in_place_while_a_layout_is_read_leads_nowhere() {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        use std::sync::atomic::{AtomicBool, Ordering};
        let both = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            fs::create_dir_all(both.path().join(name).join("blobs/sha256")).unwrap();
            fs::write(both.path().join(name).join("blobs/sha256/b"), name).unwrap();
        }
        let layout = Layout::directory(&both.path().join("one"), Pick::Only).unwrap();
        let (blobs, link) = (both.path().join("one/blobs"), both.path().join("one/link"));
        symlink(both.path().join("other/blobs"), &link).unwrap();
        let is_over = AtomicBool::new(false);
        let (mut read, mut refused, mut odd) = (0, 0, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat2(AT_FDCWD, &blobs, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
                }
            });
            // As many rounds as it takes to meet both, and 500 at least.
            for round in 0_u32.. {
                if round >= 500 && read > 0 && refused > 0 || round > 1_000_000 {
                    break;
                }
                let mut text = String::new();
                // Told at the end: a panic here would leave the other thread at work.
                match layout.files.open("blobs/sha256/b").map(|mut file| file.read_to_string(&mut text)) {
                    Ok(Ok(_)) if text == "one" => read += 1,
                    Err(error) if error.report().contains("it is a symbolic link") => refused += 1,
                    other => odd = Some(format!("{text}: {:?}", other.map_err(|error| error.report()))),
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(odd.is_none() && read > 0 && refused > 0, "{read} were read, {refused} refused, {odd:?}");
    }

    #[test]
    fn pipes_sockets_and_directories_are_no_files_and_nobody_waits_for_them() {
        let changes: [fn(&Path); 3] = [
            |at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            |at| drop(std::os::unix::net::UnixListener::bind(at).unwrap()),
            |at| fs::create_dir(at).unwrap(),
        ];
        for change in changes {
            let report = said(|both| {
                let at = both.join("one/blobs/sha256/b");
                fs::remove_file(&at).unwrap();
                change(&at);
            });
            assert!(report.contains("cannot read blobs/sha256/b"), "{report}");
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let gone = file.path().with_extension("gone");
        for path in [file.path(), gone.as_path()] {
            let report = Layout::directory(path, Pick::Only).unwrap_err().report();
            assert!(report.contains("cannot read the directory") && report.contains("hint: "), "{report}");
        }
    }
}
