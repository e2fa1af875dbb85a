//! What one layer of an image says of packages, read in a process that is shut into that layer.
//!
//! Takes a layer's listing and its files; gives `Facts`: who describes which package, which files a package claims,
//! programs, secrets, models. No judgement: what is visible, who owns what and which layer brought it is decided where all
//! layers are known (`stack::merge`).
//! Trusts nothing: every byte comes from the image. Every reader is a pure function over bytes with bounds of its own; what
//! is too large or malformed becomes a finding, "not readable", and the rest is told all the same.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::package::{Distribution, Finding, FindingKind, Package, PackageType};

/// Debian's package database.
pub mod dpkg;
/// Alpine's.
pub mod apk;
/// Arch's.
pub mod pacman;
/// RPM's, in its three forms.
pub mod rpm;
/// Python.
pub mod python;
/// conda.
pub mod conda;
/// R, Octave: `DESCRIPTION` files.
pub mod description;
/// Julia.
pub mod julia;
/// JavaScript.
pub mod npm;
/// Ruby.
pub mod gem;
/// Perl.
pub mod perl;
/// Java archives.
pub mod jar;
/// Programs: ELF, and what Go and Rust write into it.
pub mod elf;
/// Files of models, and pickles.
pub mod model;
/// What looks like a secret.
pub mod secret;
/// os-release(5).
pub mod os_release;
/// Symbolic links in the places of such files.
pub mod links;
/// Which reader reads which file.
pub mod collect;

/// Version of the readers: facts that an older one wrote are made anew.
pub const VERSION: u32 = 4;
/// The longest name, version or other word that is kept; what is longer is no name.
pub const WORD_MAX: usize = 512;
/// The longest licence text that is kept.
pub const LICENCE_MAX: usize = 1024;

/// What one layer says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`VERSION`] of the readers.
    pub version: u32,
    /// The digest of the listing that the layer's files were taken from.
    pub tree: String,
    /// Packages that it describes; `layer` and `owner` are not known here.
    pub packages: Vec<Package>,
    /// Files that packages claim.
    pub claims: Vec<Claims>,
    /// Programs and libraries.
    pub programs: Vec<Program>,
    /// Secrets, pickles, and what could not be read; `layer` and `hidden` are not known here.
    pub findings: Vec<Finding>,
    /// os-release files: place and what it says.
    pub distributions: Vec<(String, Distribution)>,
    /// Debian's copyright files: place, and the short names of the licences in it.
    pub licences: Vec<(String, String)>,
    /// Debian's changelogs: place, and the vulnerabilities that they name as fixed.
    pub changelogs: Vec<(String, Vec<String>)>,
}

/// The files that a package says are its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who describes the package.
    pub kind: PackageType,
    /// Its name.
    pub package: String,
    /// The file that says so.
    pub place: String,
    /// Paths, a line each, without leading slash; one that ends in `/` claims all that is below.
    pub paths: String,
}

/// A program or library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Where it is.
    pub place: String,
    /// What it is.
    pub kind: ProgramKind,
}

/// What sort of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgramKind {
    /// An executable in the ELF format.
    Program,
    /// A shared object.
    Library,
    /// An executable file that begins with `#!`.
    Script,
    /// A script that RubyGems has made to start a gem's program.
    GemScript,
}

/// Bytes that can be read anywhere, as in a file.
pub trait Source {
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// When the bytes end before, or cannot be read.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// `length` bytes at `offset`; refuses more than `most`.
    ///
    /// # Errors
    /// When they end before, cannot be read, or are too many.
    fn bytes(&self, offset: u64, length: u64, most: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length).ok().filter(|length| *length <= most).ok_or_else(|| bad("too long"))?;
        if offset.checked_add(length as u64).is_none_or(|end| end > self.size()) {
            return Err(bad("ends too early"));
        }
        let mut bytes = vec![0; length];
        self.fill(offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl Source for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| bad("ends too early"))?;
        let end = from.checked_add(buffer.len()).ok_or_else(|| bad("ends too early"))?;
        buffer.copy_from_slice(self.get(from..end).ok_or_else(|| bad("ends too early"))?);
        Ok(())
    }
}

/// An open file and its size.
#[derive(Debug)]
pub struct OpenFile {
    file: std::fs::File,
    size: u64,
}

impl OpenFile {
    /// Takes an open file.
    ///
    /// # Errors
    /// When it cannot be looked at, or is no regular file.
    pub fn new(file: std::fs::File) -> io::Result<Self> {
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(bad("no regular file"));
        }
        Ok(Self { file, size: found.len() })
    }
}

impl Source for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// The files of a layer.
pub trait Files {
    /// Opens the regular file at `path`, a text as [`path_text`] gives it.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    fn open(&self, path: &str) -> io::Result<OpenFile>;

    /// At most `most` bytes of it.
    ///
    /// # Errors
    /// As [`Files::open`].
    fn read(&self, path: &str, most: usize) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        file.bytes(0, file.size().min(most as u64), most)
    }
}

/// Bytes as text, what is no UTF-8 replaced; what is, as nearly all of it, is looked at once and not copied.
pub fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// An error about bytes that are not what they should be.
pub fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A package; none where the name is empty or no word.
pub fn package(kind: PackageType, name: &str, version: &str, place: &str) -> Option<Package> {
    let word = |text: &str| text.len() <= WORD_MAX && !text.contains(['\n', '\0']);
    let (name, version) = (name.trim(), version.trim());
    (!name.is_empty() && word(name) && word(version)).then(|| Package {
        kind,
        name: name.to_owned(),
        version: version.to_owned(),
        source: None,
        architecture: None,
        licence: None,
        place: place.to_owned(),
        layer: 0,
        owner: None,
        module: None,
        unjudged: false,
        changelog_fixes: Vec::new(),
    })
}

/// A licence as declared: in one line, at most [`LICENCE_MAX`] bytes; none where nothing is declared.
pub fn licence(text: &str) -> Option<String> {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let known = !line.is_empty() && !line.eq_ignore_ascii_case("unknown") && line != "UNLICENSED";
    (known && line.len() <= LICENCE_MAX).then_some(line)
}

/// A short text from a field; none where it is empty or no word.
pub fn word(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= WORD_MAX && !text.contains('\n')).then(|| text.to_owned())
}

/// A finding of what could not be read.
pub fn not_readable(place: &str, what: impl Into<String>) -> Finding {
    Finding { kind: FindingKind::NotReadable, place: place.to_owned(), what: what.into(), layer: None, hidden: false }
}

/// A path as text, and no two paths as the same: bytes that are not UTF-8, and a backslash before an `x`, as `\xNN`.
pub fn path_text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(&chunk.valid().replace("\\x", "\\x5cx"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The path that [`path_text`] gave this text for.
pub fn path_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// `path` below `base`, both without leading slash; `.` and `..` taken as words, never beyond the root.
pub fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = if path.starts_with('/') { Vec::new() } else { base.split('/').collect() };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join("/")
}

/// Whether a joined path is below `directory`; all are below the root.
pub fn is_below(directory: &str, path: &str) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The directory and the name of a path.
pub fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Whether a file that a language's package claims is worth keeping: programs, libraries, data that may be findings, and what
/// describes a package itself. Sources, which no finding is made of unless they can be executed, are most of a list.
pub fn is_worth_claiming(path: &str) -> bool {
    const NOISE: [&str; 22] = [
        "py", "pyi", "h", "hpp", "cuh", "txt", "rst", "md", "html", "css", "json", "csv", "svg", "png", "js", "ts",
        "map", "mo", "po", "gz", "xml", "pxd",
    ];
    let (_, name) = split(path);
    match name.rsplit_once('.') {
        Some((stem, extension)) => {
            !NOISE.contains(&extension) || name == "package.json" || stem.is_empty() || path.contains("/conda-meta/")
        }
        None => true,
    }
}

/// The value of the first header of that name (RFC 822, as Debian's and Python's metadata have it): continued lines end it.
pub fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().take_while(|line| !line.trim_end().is_empty());
    lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_text_and_no_two_paths_are_the_same() {
        for path in [&b"usr/bin/x"[..], b"a\\x2db", b"caf\xe9", b"\xff\\xff", "\u{e9}".as_bytes(), b"a\\b"] {
            assert_eq!(path_bytes(&path_text(path)), path);
        }
        assert_ne!(path_text(b"\xff"), path_text(b"\\xff"));
        assert_eq!(path_text(b"a\\b"), "a\\b");
    }

    #[test]
    fn a_joined_path_stays_below_the_root() {
        assert_eq!(join("usr/lib/python3/site-packages", "../../../bin/pip"), "usr/bin/pip");
        assert_eq!(join("a", "../../../../etc/passwd"), "etc/passwd");
        assert_eq!(join("a/b", "/c/./d"), "c/d");
        assert_eq!(join("", "x"), "x");
    }

    #[test]
    fn a_name_that_is_none_makes_no_package() {
        assert!(package(PackageType::Npm, " ", "1", "x").is_none());
        assert!(package(PackageType::Npm, &"a".repeat(600), "1", "x").is_none());
        assert_eq!(package(PackageType::Npm, " a ", " 1\r", "x").unwrap().version, "1");
    }
}
