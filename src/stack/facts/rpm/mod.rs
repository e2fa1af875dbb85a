//! RPM's package database, in its three forms: SQLite (`rpmdb.sqlite`), the one of its own (`Packages.db`, "ndb"), and Berkeley
//! DB's (`Packages`). Each holds a header a package (rpm's `docs/manual/format_header.md`).

use std::io;

use super::super::package::{Package, PackageType};
use super::{Claims, Source, bad, licence, package, path_text, word};

/// Berkeley DB, hash.
pub mod bdb;
/// RPM's own.
pub mod ndb;
/// SQLite.
pub mod sqlite;

/// The directories that the database may be in.
pub const DIRECTORIES: [&str; 3] = ["var/lib/rpm/", "usr/lib/sysimage/rpm/", "usr/share/rpm/"];
/// The most packages of a database.
pub const PACKAGES_MAX: usize = 100_000;
/// The largest header.
pub const HEADER_MAX: usize = 64 << 20;
/// Bytes of all headers that are read.
pub const TOTAL_MAX: usize = 2 << 30;

/// What form the database at `path` has, if it is one.
pub fn form(path: &str) -> Option<Form> {
    let name = DIRECTORIES.iter().find_map(|directory| path.strip_prefix(directory))?;
    match name {
        "rpmdb.sqlite" => Some(Form::Sqlite),
        "Packages.db" => Some(Form::Ndb),
        "Packages" => Some(Form::Bdb),
        _ => None,
    }
}

/// The form of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// SQLite.
    Sqlite,
    /// RPM's own.
    Ndb,
    /// Berkeley DB.
    Bdb,
}

/// The packages in a database, and the files of each.
#[derive(Debug, Default)]
pub struct Found {
    /// Packages.
    pub packages: Vec<Package>,
    /// Their files.
    pub claims: Vec<Claims>,
    /// What could not be read.
    pub unread: Vec<String>,
}

/// Reads the database of this form at `place`.
pub fn read(source: &(impl Source + ?Sized), form: Form, place: &str) -> Found {
    let mut found = Found::default();
    let mut total = 0_usize;
    let mut each = |blob: &[u8]| {
        total = total.saturating_add(blob.len());
        if found.packages.len() >= PACKAGES_MAX || total > TOTAL_MAX {
            return Err(bad("more packages than are read"));
        }
        match Header::parse(blob).map(|header| header.package(place)) {
            Ok(Some((package, claims))) => {
                found.packages.push(package);
                found.claims.push(claims);
            }
            Ok(None) => {}
            Err(e) => found.unread.push(e.to_string()),
        }
        Ok(())
    };
    let read = match form {
        Form::Sqlite => sqlite::blobs(source, &mut each),
        Form::Ndb => ndb::blobs(source, &mut each),
        Form::Bdb => bdb::blobs(source, &mut each),
    };
    if let Err(e) = read {
        found.unread.push(e.to_string());
    }
    found.unread.truncate(20);
    found
}

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const LICENSE: u32 = 1014;
const ARCH: u32 = 1022;
const OLD_FILENAMES: u32 = 1027;
const SOURCERPM: u32 = 1044;
const DIRINDEXES: u32 = 1116;
const BASENAMES: u32 = 1117;
const DIRNAMES: u32 = 1118;
const MODULARITYLABEL: u32 = 5096;

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A header: an index of 16 bytes an entry (tag, type, offset, count), and the data that it points into.
struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(blob: &'a [u8]) -> io::Result<Self> {
        let wrong = || bad("a header that is not as the format has it");
        let count = be32(blob, 0).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
        let size = be32(blob, 4).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
        let split = count.checked_mul(16).and_then(|n| n.checked_add(8)).ok_or_else(wrong)?;
        let end = split.checked_add(size).ok_or_else(wrong)?;
        let index = blob.get(8..split).ok_or_else(wrong)?;
        Ok(Self { index, data: blob.get(split..end).ok_or_else(wrong)? })
    }

    /// The data of a tag from its beginning on, and how many values it has.
    fn entry(&self, tag: u32) -> Option<(&'a [u8], usize)> {
        let entry = self.index.chunks_exact(16).find(|entry| be32(entry, 0) == Some(tag))?;
        let at = usize::try_from(be32(entry, 8)?).ok()?;
        Some((self.data.get(at..)?, usize::try_from(be32(entry, 12)?).ok()?))
    }

    fn strings(&self, tag: u32) -> impl Iterator<Item = &'a [u8]> {
        let (data, count) = self.entry(tag).unwrap_or_default();
        data.split(|&b| b == 0).take(count)
    }

    fn text(&self, tag: u32) -> Option<String> {
        Some(String::from_utf8_lossy(self.strings(tag).next()?).into_owned())
    }

    fn numbers(&self, tag: u32) -> impl Iterator<Item = u32> {
        let (data, count) = self.entry(tag).unwrap_or_default();
        data.chunks_exact(4).take(count).filter_map(|four| be32(four, 0))
    }

    fn package(&self, place: &str) -> Option<(Package, Claims)> {
        let name = self.text(NAME)?;
        // Keys that signatures are checked with are in the database as well.
        if name == "gpg-pubkey" {
            return None;
        }
        let (version, release) = (self.text(VERSION)?, self.text(RELEASE)?);
        let epoch = self.numbers(EPOCH).next().filter(|epoch| *epoch > 0).map(|epoch| format!("{epoch}:"));
        let full = format!("{}{version}-{release}", epoch.clone().unwrap_or_default());
        let mut found = package(PackageType::Rpm, &name, &full, place)?;
        found.architecture = self.text(ARCH).as_deref().and_then(word);
        found.licence = self.text(LICENSE).as_deref().and_then(licence);
        found.module = self.text(MODULARITYLABEL).as_deref().and_then(word);
        found.source = self.text(SOURCERPM).and_then(|file| source_package(&file, epoch.as_deref()));
        let claims = Claims {
            kind: PackageType::Rpm,
            package: found.name.clone(),
            place: place.to_owned(),
            paths: self.files(),
        };
        Some((found, claims))
    }

    fn files(&self) -> String {
        let directories: Vec<String> = self.strings(DIRNAMES).map(path_text).collect();
        let mut paths: Vec<String> = Vec::new();
        for (base, directory) in self.strings(BASENAMES).zip(self.numbers(DIRINDEXES)) {
            let directory = usize::try_from(directory).ok().and_then(|at| directories.get(at));
            let Some(directory) = directory else { continue };
            paths.push(format!("{}{}", directory.trim_start_matches('/'), path_text(base)));
        }
        if paths.is_empty() {
            paths =
                self.strings(OLD_FILENAMES).map(|path| path_text(path).trim_start_matches('/').to_owned()).collect();
        }
        paths.retain(|path| !path.is_empty() && !path.contains('\n'));
        paths.join("\n")
    }
}

/// Name and version of `NAME-VERSION-RELEASE.src.rpm`.
fn source_package(file: &str, epoch: Option<&str>) -> Option<(String, String)> {
    let stem = file.strip_suffix(".src.rpm").or_else(|| file.strip_suffix(".nosrc.rpm"))?;
    let mut parts = stem.rsplitn(3, '-');
    let (release, version, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((word(name)?, word(&format!("{}{version}-{release}", epoch.unwrap_or_default()))?))
}

/// A header with these texts and files, for tests.
#[cfg(test)]
pub fn header(name: &str, files: &[&str]) -> Vec<u8> {
    let (mut index, mut data) = (Vec::new(), Vec::new());
    let mut put = |tag: u32, kind: u32, count: usize, bytes: &[u8]| {
        let at = u32::try_from(data.len()).unwrap();
        let count = u32::try_from(count).unwrap();
        index.extend([tag, kind, at, count].map(u32::to_be_bytes).concat());
        data.extend_from_slice(bytes);
        data.resize(data.len().next_multiple_of(4), 0);
    };
    for (tag, text) in [(NAME, name), (VERSION, "5.1.8"), (RELEASE, "6.el9"), (LICENSE, "GPLv3+"), (ARCH, "x86_64")] {
        put(tag, 6, 1, format!("{text}\0").as_bytes());
    }
    put(EPOCH, 4, 1, &2_u32.to_be_bytes());
    put(SOURCERPM, 6, 1, b"bash-5.1.8-6.el9.src.rpm\0");
    let indexes: Vec<u8> = files.iter().flat_map(|_| 0_u32.to_be_bytes()).collect();
    put(DIRINDEXES, 4, files.len(), &indexes);
    put(BASENAMES, 8, files.len(), files.iter().map(|f| format!("{f}\0")).collect::<String>().as_bytes());
    put(DIRNAMES, 8, 1, b"/usr/bin/\0");
    let count = u32::try_from(index.len() / 16).unwrap().to_be_bytes();
    [&count[..], &u32::try_from(data.len()).unwrap().to_be_bytes(), &index, &data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_tells_package_and_files() {
        let blob = header("bash", &["bash", "sh"]);
        let (found, claims) = Header::parse(&blob).unwrap().package("db").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("bash", "2:5.1.8-6.el9"));
        assert_eq!(found.source, Some(("bash".to_owned(), "2:5.1.8-6.el9".to_owned())));
        assert_eq!(found.licence.as_deref(), Some("GPLv3+"));
        assert_eq!(claims.paths, "usr/bin/bash\nusr/bin/sh");
        let key = header("gpg-pubkey", &[]);
        assert!(Header::parse(&key).unwrap().package("db").is_none());
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] = 0xff;
            drop(Header::parse(&changed).map(|header| header.package("db").is_some()));
            drop(Header::parse(&blob[..at]).map(|header| header.package("db").is_some()));
        }
    }

    #[test]
    fn the_form_is_known_by_the_name() {
        assert_eq!(form("var/lib/rpm/rpmdb.sqlite"), Some(Form::Sqlite));
        assert_eq!(form("usr/lib/sysimage/rpm/Packages.db"), Some(Form::Ndb));
        assert_eq!(form("var/lib/rpm/Packages"), Some(Form::Bdb));
        assert_eq!(form("home/x/Packages"), None);
    }
}
