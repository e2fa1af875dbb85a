//! Where the sources are on this host.
//!
//! ```text
//! <store>/vulndb/             0700
//!   lock                      flock, exclusive: sources change
//!   <source>.db               one source, as `builder` writes it
//!   .new-<random>/            a source in the making: `root/`, which the process that reads is shut into, and `db`
//! ```
//!
//! Takes files; gives sources; trusts what is in this directory, which root alone can change; refuses to replace newer data by older,
//! and all data by a part of it: what has become known would be forgotten.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::builder::Source;
use super::database::Database;
use super::index::Index;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::lock_file;
use crate::host::privilege::as_root;
use crate::host::site_dir::SiteDir;
use crate::image::unpack::parent::Unpacker;

/// What the file of a source ends with.
const EXTENSION: &str = "db";
/// The same, with its dot.
pub const ENDING: &str = ".db";
/// The directory, in the store.
pub const NAME: &str = "vulndb";
/// What the name of a source in the making begins with.
const NEW: &str = ".new-";

/// The directory of the sources.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    /// In the store; made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(store: &SiteDir) -> Result<Self> {
        let place = Self(store.join(NAME));
        as_root(|_| DirBuilder::new().recursive(true).mode(0o700).create(&place.0))
            .map_err(|e| place.error("cannot make the directory of vulnerability data").because(e))?;
        Ok(place)
    }

    fn error(&self, what: &str) -> Error {
        Error::new(Stage::Store, Kind::Failed, format!("{what} ({})", self.0.display()))
    }

    /// All sources, open, by name.
    fn indexes(&self) -> Result<Vec<Index>> {
        as_root(|_| {
            let fail = |e: std::io::Error| self.error("cannot list vulnerability data").because(e);
            let mut paths = Vec::new();
            for entry in fs::read_dir(&self.0).map_err(fail)? {
                let path = entry.map_err(fail)?.path();
                if path.extension().is_some_and(|extension| extension == EXTENSION) {
                    paths.push(path);
                }
            }
            paths.sort();
            // One that cannot be read is no reason to judge without it.
            let open = |path: PathBuf| {
                File::open(&path).and_then(Index::open).map_err(|e| {
                    self.error(&format!("cannot read vulnerability data {}", path.display()))
                        .because(e)
                        .hint("import it again, or remove it: ces vulndb")
                })
            };
            paths.into_iter().map(open).collect()
        })
    }

    /// All sources together.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn database(&self) -> Result<Database> {
        self.indexes().map(Database::new)
    }

    /// What was imported, by name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>> {
        Ok(self.indexes()?.iter().map(|index| index.source().clone()).collect())
    }

    fn lock(&self) -> Result<File> {
        let file = lock_file::open(&self.0.join("lock"))
            .map_err(|e| self.error("cannot lock vulnerability data").because(e))?;
        file.lock().map_err(|e| self.error("cannot lock vulnerability data").because(e))?;
        Ok(file)
    }

    /// Imports a file, which the caller calls `name`, at the time of day `now`; gives the source, and the one that it replaces.
    ///
    /// # Errors
    /// When the file is no source, older than what is there, or a part of it.
    pub fn import(&self, unpacker: &Unpacker, file: File, name: &str, now: &str) -> Result<(Source, Option<Source>)> {
        as_root(|_| {
            let fail = |e: std::io::Error| self.error("cannot write vulnerability data").because(e);
            let _held = self.lock()?;
            self.sweep();
            let aside = tempfile::Builder::new().prefix(NEW).tempdir_in(&self.0).map_err(fail)?;
            let (root, new) = (aside.path().join("root"), aside.path().join("db"));
            DirBuilder::new().mode(0o755).create(&root).map_err(fail)?;
            let died = |e: Error| {
                Error::new(Stage::Store, Kind::Host, format!("the process that reads {name} did not end as it should"))
                    .because(e)
                    .hint("signal 6: it holds more than 3 GiB of records; signal 24 or 25: it takes too long, or too much is kept of it")
            };
            let ended = unpacker.import(&root, file, &new, now).map_err(died)?;
            ended.map_err(|fault| {
                Error::new(Stage::Store, Kind::Hostile, format!("{name} is no vulnerability data"))
                    .because(fault.text)
                    .hint("ces vulndb import --help lists the formats; nothing was changed")
            })?;
            let written = File::open(&new).map_err(fail)?;
            written.sync_all().map_err(fail)?;
            let source = Index::open(written).map_err(fail)?.source().clone();
            let target = self.0.join(file_name(&source.name).ok_or_else(|| self.error("a source has no plain name"))?);
            let replaced = match File::open(&target) {
                // A damaged one says nothing that is worth keeping.
                Ok(file) => Index::open(file).ok().map(|index| index.source().clone()),
                Err(_) => None,
            };
            // What is known of all packages would be forgotten for what is known of some.
            if replaced.as_ref().is_some_and(|known| known.is_whole() && !source.is_whole()) {
                let why = match source.unreadable {
                    0 => "it is a part of that data alone, and would replace all of it".to_owned(),
                    unread => format!("{unread} of its records cannot be read ({})", source.examples.join("; ")),
                };
                return Err(Error::new(
                    Stage::Store,
                    Kind::Failed,
                    format!("{name} is not all of the data of {} that is there", source.name),
                )
                .because(why)
                .hint(format!(
                    "import the whole archive; to have this instead all the same, first: ces vulndb remove {}",
                    source.name
                )));
            }
            if let Some(known) = replaced.as_ref().filter(|known| known.dated > source.dated) {
                return Err(Error::new(
                    Stage::Store,
                    Kind::Failed,
                    format!("{name} is older than the data of {} that is there", source.name),
                )
                .because(format!("it is dated {}, and that is dated {}", source.dated, known.dated))
                .hint(format!("to have the older data all the same, first: ces vulndb remove {}", source.name)));
            }
            fs::rename(&new, &target).map_err(fail)?;
            File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(fail)?;
            Ok((source, replaced))
        })
    }

    /// Removes what a killed import has left; what cannot be removed is left to the next.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        for path in entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes())) {
            fs::remove_dir_all(path.path()).ok();
        }
    }

    /// Removes a source, also one that is damaged.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove(&self, name: &str) -> Result<Source> {
        as_root(|_| {
            let missing = || {
                Error::new(Stage::Store, Kind::Missing, format!("no vulnerability data is called {name}"))
                    .hint("ces vulndb list prints the names")
            };
            let _held = self.lock()?;
            let path = self.0.join(file_name(name).ok_or_else(missing)?);
            let file = File::open(&path).map_err(|_| missing())?;
            let source = Index::open(file)
                .map_or_else(|_| Source { name: name.to_owned(), ..Source::default() }, |index| index.source().clone());
            fs::remove_file(&path).map_err(|e| self.error("cannot remove vulnerability data").because(e))?;
            Ok(source)
        })
    }
}

/// The file of a source; none for a name that no source has.
fn file_name(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_name = !name.is_empty() && name.len() < 100 && !name.starts_with('.') && name.chars().all(plain);
    is_name.then(|| format!("{name}.{EXTENSION}"))
}
