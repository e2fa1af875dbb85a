//! Which reader reads which file of a layer.
//!
//! Takes the layer's entries and its files; gives its facts, in a fixed order. A file that cannot be read, or not whole, is a
//! finding; the others are read all the same.

use std::collections::HashSet;
use std::rc::Rc;

use super::super::listing::{Entry, Kind};
use super::super::package::{Finding, FindingKind, Package, PackageType};
use super::rpm::Form;
use super::{
    Claims, Facts, Files, Program, ProgramKind, Source, VERSION, apk, conda, description, dpkg, elf, gem,
    is_worth_claiming, jar, julia, links, model, not_readable, npm, os_release, package, pacman, perl, python, rpm,
    secret, split,
};

/// The largest database of a distribution's packages.
const DATABASE_MAX: usize = 64 << 20;
/// The largest file that lists files, or describes one package.
const LIST_MAX: usize = 32 << 20;
/// The largest document that is held as a tree of values, which is a hundred times as large.
const DOCUMENT_MAX: usize = 2 << 20;
/// The largest record of conda's, which lists files.
const RECORD_MAX: usize = 16 << 20;
/// As much of metadata is read; what is wanted stands at the beginning.
const METADATA_MAX: usize = 256 << 10;
/// What a layer may say, all together: more is cut off, and told.
const PACKAGES_MAX: usize = 300_000;
const CLAIMED_MAX: usize = 64 << 20;
const PROGRAMS_MAX: usize = 500_000;
const FINDINGS_MAX: usize = 20_000;
/// Secrets are counted by themselves: nothing else takes their place.
const SECRETS_MAX: usize = 20_000;

/// A file that should describe a package, and does not.
const NO_PACKAGE: &str = "does not describe a package as its format has it";

/// Collects what the layer with these entries says. `tree` is the digest of its listing.
pub fn collect(entries: &[Entry], files: &dyn Files, tree: &str) -> Facts {
    let files_of = || entries.iter().filter(|entry| entry.kind == Kind::File);
    let is_script = |entry: &&Entry| entry.mode & 0o111 != 0 && !is_worth_claiming(&entry.path);
    let scripts = files_of().filter(is_script).map(|entry| entry.path.as_str()).collect::<HashSet<_>>();
    let scripts = Rc::new(scripts);
    let mut collector = Collector {
        files,
        scripts,
        facts: Facts::default(),
        claimed: 0,
        secrets: 0,
        cut: Vec::new(),
        debians: String::new(),
    };
    collector.facts.version = VERSION;
    tree.clone_into(&mut collector.facts.tree);
    for entry in files_of() {
        collector.file(entry);
    }
    let mut followed = HashSet::new();
    for link in entries.iter().filter(|entry| entry.kind == Kind::Link) {
        match links::npm(&link.path, &link.content) {
            // What another layer has is not seen here.
            Some(to) if followed.contains(&to) => {}
            Some(to) if files.open(&to).is_ok() => {
                collector.npm(&to);
                followed.insert(to);
            }
            Some(_) => collector.find(not_readable(&link.path, links::WHAT)),
            None if links::hides(&link.path, &link.content) => {
                collector.find(not_readable(&link.path, links::WHAT));
            }
            None => {}
        }
    }
    collector.finish()
}

struct Collector<'a> {
    files: &'a dyn Files,
    /// Sources that can be executed.
    scripts: Rc<HashSet<&'a str>>,
    facts: Facts,
    claimed: usize,
    secrets: usize,
    cut: Vec<&'static str>,
    /// The last directory with a changelog of Debian's.
    debians: String,
}

impl Collector<'_> {
    fn file(&mut self, entry: &Entry) {
        let path = entry.path.as_str();
        if self.described(path, entry) {
            return;
        }
        if jar::is_archive(path) && entry.size > 0 {
            self.jar(path);
        } else if model::may_be(path) && entry.size > 0 {
            self.model(entry);
        } else if secret::may_be(path, entry.size) {
            self.secret(path, entry.size);
        }
        self.program(entry);
    }

    /// Reads a file that describes packages; false where it is none.
    fn described(&mut self, path: &str, entry: &Entry) -> bool {
        let name = split(path).1;
        if let Some(rest) = path.strip_prefix("var/lib/dpkg/") {
            return self.dpkg(rest, path);
        }
        if let Some(form) = rpm::form(path) {
            self.rpm(path, form, entry);
        } else if apk::PLACES.contains(&path) {
            if let Some(bytes) = self.read(path, DATABASE_MAX) {
                let (packages, claims) = apk::installed(&bytes, path);
                packages.into_iter().for_each(|package| self.add(package));
                claims.into_iter().for_each(|claims| self.claim(claims));
            }
        } else if path.starts_with(pacman::LOCAL) {
            match name {
                "desc" => self.one(path, METADATA_MAX, |bytes| Some((pacman::desc(bytes, path)?, None))),
                "files" => {
                    let claims = self.read(path, LIST_MAX).and_then(|bytes| pacman::files(&bytes, path));
                    claims.into_iter().for_each(|claims| self.claim(claims));
                }
                _ => return false,
            }
        } else if os_release::PLACES.contains(&path) {
            let found = self.read(path, METADATA_MAX).and_then(|bytes| os_release::read(&bytes));
            self.facts.distributions.extend(found.map(|found| (path.to_owned(), found)));
        } else if path.starts_with("usr/share/doc/") && name == "copyright" {
            let found = self.start(path, METADATA_MAX).and_then(|bytes| dpkg::copyright(&bytes));
            self.facts.licences.extend(found.map(|found| (path.to_owned(), found)));
        } else if path.starts_with("usr/share/doc/") && matches!(name, "changelog.Debian.gz" | "changelog.gz") {
            self.changelog(path);
        } else {
            return self.language(path, name);
        }
        true
    }

    /// Beside Debian's changelog, which comes first, `changelog.gz` is the authors' own: long, and it names no version of Debian's.
    fn changelog(&mut self, path: &str) {
        let (directory, name) = split(path);
        if name == "changelog.Debian.gz" {
            directory.clone_into(&mut self.debians);
        } else if directory == self.debians {
            return;
        }
        let found = self.start(path, METADATA_MAX).map(|bytes| dpkg::fixes(&bytes)).filter(|ids| !ids.is_empty());
        self.facts.changelogs.extend(found.map(|found| (path.to_owned(), found)));
    }

    fn dpkg(&mut self, rest: &str, path: &str) -> bool {
        if rest == "status" {
            if let Some(bytes) = self.read(path, DATABASE_MAX) {
                dpkg::status(&bytes, path).into_iter().for_each(|package| self.add(package));
            }
        } else if let Some(name) = rest.strip_prefix("status.d/") {
            let bytes = self.read(path, LIST_MAX).unwrap_or_default();
            if name.ends_with(".md5sums") {
                dpkg::sums(&bytes, path).into_iter().for_each(|claims| self.claim(claims));
            } else {
                dpkg::status(&bytes, path).into_iter().for_each(|package| self.add(package));
            }
        } else if rest.starts_with("info/") && rest.ends_with(".list") {
            let bytes = self.read(path, LIST_MAX).unwrap_or_default();
            dpkg::list(&bytes, path).into_iter().for_each(|claims| self.claim(claims));
        } else {
            // Scripts of packages, which `dpkg` runs.
            return rest.starts_with("info/");
        }
        true
    }

    fn rpm(&mut self, path: &str, form: Form, entry: &Entry) {
        let wal = format!("{path}-wal");
        if form == Form::Sqlite && self.files.open(&wal).is_ok_and(|file| file.size() > 0) {
            self.find(not_readable(&wal, "changes of the package database that are not in it yet"));
        }
        let found = match self.files.open(path) {
            Ok(file) => rpm::read(&file, form, path),
            Err(e) => return self.find(not_readable(path, e.to_string())),
        };
        let any = !found.packages.is_empty();
        found.packages.into_iter().for_each(|package| self.add(package));
        found.claims.into_iter().for_each(|claims| self.claim(claims));
        // A new database is empty.
        if any || entry.size > 0 {
            found.unread.into_iter().for_each(|why| self.find(not_readable(path, why)));
        }
    }

    fn language(&mut self, path: &str, name: &str) -> bool {
        if python::describes(path) {
            self.python(path);
        } else if conda::describes(path) {
            let scripts = Rc::clone(&self.scripts);
            let read = |bytes: &[u8]| conda::record(bytes, path, &|path| scripts.contains(path));
            match self.document(path, RECORD_MAX).map(|bytes| read(&bytes)) {
                Some(Some((package, claims))) => {
                    self.add(package);
                    self.claim(claims);
                }
                Some(None) => self.find(not_readable(path, NO_PACKAGE)),
                None => {}
            }
        } else if npm::describes(path) {
            self.npm(path);
        } else if let Some(kind) = description::kind(path) {
            if kind == PackageType::Cran && self.files.open(&description::proof(path)).is_err() {
                return false;
            }
            let read = |bytes: &[u8]| description::read(bytes, kind, path);
            self.one(path, METADATA_MAX, |bytes| read(bytes).map(|(package, claims)| (package, Some(claims))));
        } else if let Some(document) = julia::document(path) {
            match document {
                julia::Document::Project => {
                    let read = |bytes: &[u8]| julia::project(bytes, path);
                    self.one(path, METADATA_MAX, |bytes| read(bytes).map(|(package, claims)| (package, Some(claims))));
                }
                julia::Document::Manifest => {
                    match self.document(path, DOCUMENT_MAX).map(|bytes| julia::manifest(&bytes, path)) {
                        Some(Some(packages)) => packages.into_iter().for_each(|package| self.add(package)),
                        Some(None) => self.find(not_readable(path, "not a manifest of Julia")),
                        None => {}
                    }
                }
            }
        } else if gem::describes(path) {
            self.one(path, METADATA_MAX, |bytes| {
                gem::read(bytes, path).map(|(package, claims)| (package, Some(claims)))
            });
        } else if perl::describes(path) {
            self.one(path, METADATA_MAX, |bytes| Some((perl::install(bytes, path)?, None)));
        } else if name == ".packlist" {
            let claims = self.read(path, LIST_MAX).and_then(|bytes| perl::packlist(&bytes, path));
            if let Some(claims) = claims {
                self.packlist(path, claims);
            }
        } else {
            return false;
        }
        true
    }

    /// A package and perhaps the files that it claims, or a finding.
    fn one(&mut self, path: &str, most: usize, read: impl FnOnce(&[u8]) -> Option<(Package, Option<Claims>)>) {
        match self.start(path, most).map(|bytes| read(&bytes)) {
            Some(Some((package, claims))) => {
                self.add(package);
                claims.into_iter().for_each(|claims| self.claim(claims));
            }
            Some(None) => self.find(not_readable(path, NO_PACKAGE)),
            None => {}
        }
    }

    /// A document that is of no use but whole; a finding where it is larger than that.
    fn document(&mut self, path: &str, most: usize) -> Option<Vec<u8>> {
        let bytes = self.start(path, most + 1)?;
        if bytes.len() > most {
            self.find(not_readable(path, format!("too large: more than {} MiB", most >> 20)));
            return None;
        }
        Some(bytes)
    }

    fn python(&mut self, path: &str) {
        let Some(bytes) = self.start(path, METADATA_MAX) else { return };
        let Some(found) = python::metadata(&bytes, path) else {
            return self.find(not_readable(path, "no metadata of a Python package"));
        };
        let (directory, name) = split(path);
        if name == "METADATA" {
            let record = format!("{directory}/RECORD");
            if let Ok(bytes) = self.files.read(&record, LIST_MAX) {
                self.claim(python::record(&bytes, &found.name, &record, &|path| self.scripts.contains(path)));
            }
        } else {
            let record = format!("{directory}/installed-files.txt");
            if let Ok(bytes) = self.files.read(&record, LIST_MAX) {
                self.claim(python::installed_files(&bytes, &found.name, &record, &|path| self.scripts.contains(path)));
            }
        }
        self.add(found);
    }

    /// A directory in `node_modules` without a version is part of another package.
    fn npm(&mut self, path: &str) {
        match self.document(path, DOCUMENT_MAX).map(|bytes| (npm::read(&bytes, path), bytes)) {
            Some((Some((package, claims)), _)) => {
                self.add(package);
                self.claim(claims);
            }
            Some((None, bytes)) if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() => {
                self.find(not_readable(path, "not JSON"));
            }
            _ => {}
        }
    }

    /// A distribution of which nothing tells the version but its module.
    fn packlist(&mut self, path: &str, claims: Claims) {
        let file = format!("{}.pm", claims.package.replace("::", "/"));
        let module = claims.paths.lines().find(|claimed| claimed.ends_with(&file)).map(str::to_owned);
        let bytes = module.and_then(|module| self.files.read(&module, METADATA_MAX).ok()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let version = text.lines().find(|line| line.contains("$VERSION") && line.contains('='));
        let version = version
            .and_then(|line| line.split_once('='))
            .map(|(_, value)| value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ';')));
        let version = version.map(|text| text.split(['\'', '"', ';', ' ']).next().unwrap_or_default());
        if let Some(found) = package(PackageType::Cpan, &claims.package, version.unwrap_or_default(), path) {
            self.add(found);
        }
        self.claim(claims);
    }

    fn jar(&mut self, path: &str) {
        match self.files.open(path) {
            Ok(file) => {
                let found = jar::read(&file, path);
                found.packages.into_iter().for_each(|package| self.add(package));
                found.unread.into_iter().for_each(|(place, why)| self.find(not_readable(&place, why)));
            }
            Err(e) => self.find(not_readable(path, e.to_string())),
        }
    }

    fn model(&mut self, entry: &Entry) {
        let path = entry.path.as_str();
        let Ok(file) = self.files.open(path) else { return };
        let Some(found) = model::read(&file, path) else { return };
        // Of a model nobody writes a version down; its content is what tells two apart.
        let version = entry.content.get(..16).map(|digits| format!("blake3:{digits}")).unwrap_or_default();
        if let Some(package) = package(PackageType::Model, split(path).1, &version, path) {
            self.add(package);
        }
        if let model::Model::Pickle(what) = found {
            let what = format!("{what}: runs code when it is loaded");
            self.find(Finding { kind: FindingKind::Pickle, place: path.to_owned(), what, layer: None, hidden: false });
        }
    }

    /// What is not looked at may be one, and is told as such.
    fn secret(&mut self, path: &str, size: u64) {
        let found: Vec<String> = if size > secret::READ_MAX as u64 {
            vec![format!("not looked at: too large (more than {} MiB)", secret::READ_MAX >> 20)]
        } else {
            match self.files.read(path, secret::READ_MAX) {
                Ok(bytes) => secret::read(&bytes, path).into_iter().map(str::to_owned).collect(),
                Err(e) => vec![format!("not looked at: {e}")],
            }
        };
        for what in found {
            self.find(Finding { kind: FindingKind::Secret, place: path.to_owned(), what, layer: None, hidden: false });
        }
    }

    /// A program or library, and what it was built of.
    fn program(&mut self, entry: &Entry) {
        let path = entry.path.as_str();
        let name = split(path).1;
        let is_library = name.ends_with(".so") || name.contains(".so.");
        if entry.size < 4 || (entry.mode & 0o111 == 0 && !is_library && !name.ends_with(".node")) {
            return;
        }
        let Ok(file) = self.files.open(path) else { return };
        let Ok(head) = file.bytes(0, file.size().min(512), 512) else { return };
        let kind = if head.starts_with(b"\x7fELF") {
            let Some(found) = elf::read(&file, path) else { return };
            found.packages.into_iter().for_each(|package| self.add(package));
            if let Some(why) = found.unread {
                self.find(not_readable(path, why));
            }
            if let Some((vendor, version)) = elf::vendor_library(path)
                && let Some(package) = package(PackageType::Generic, vendor, version, path)
            {
                self.add(package);
            }
            found.kind
        } else if head.starts_with(b"#!") && entry.mode & 0o111 != 0 {
            let by_gem = head.windows(30).any(|window| window == b"This file was generated by Rub");
            if by_gem { ProgramKind::GemScript } else { ProgramKind::Script }
        } else {
            return;
        };
        if self.facts.programs.len() >= PROGRAMS_MAX {
            return self.cut("programs");
        }
        self.facts.programs.push(Program { place: path.to_owned(), kind });
    }

    /// The whole file, or as much as is read, and a finding of what is not.
    fn read(&mut self, path: &str, most: usize) -> Option<Vec<u8>> {
        let bytes = self.start(path, most)?;
        if bytes.len() == most {
            self.find(not_readable(path, format!("larger than {} MiB: what comes after that is not read", most >> 20)));
        }
        Some(bytes)
    }

    /// The beginning of a file.
    fn start(&mut self, path: &str, most: usize) -> Option<Vec<u8>> {
        match self.files.read(path, most) {
            Ok(bytes) => Some(bytes),
            Err(e) => {
                self.find(not_readable(path, e.to_string()));
                None
            }
        }
    }

    fn add(&mut self, package: Package) {
        if self.facts.packages.len() >= PACKAGES_MAX {
            return self.cut("packages");
        }
        self.facts.packages.push(package);
    }

    fn claim(&mut self, claims: Claims) {
        self.claimed = self.claimed.saturating_add(claims.paths.len());
        if self.claimed > CLAIMED_MAX {
            return self.cut("lists of files");
        }
        self.facts.claims.push(claims);
    }

    fn find(&mut self, finding: Finding) {
        let is_secret = finding.kind == FindingKind::Secret;
        if is_secret && self.secrets >= SECRETS_MAX {
            return self.cut("secrets");
        }
        if !is_secret && self.facts.findings.len() - self.secrets >= FINDINGS_MAX {
            return self.cut("findings");
        }
        self.secrets += usize::from(is_secret);
        self.facts.findings.push(finding);
    }

    fn cut(&mut self, what: &'static str) {
        if !self.cut.contains(&what) {
            self.cut.push(what);
        }
    }

    fn finish(mut self) -> Facts {
        for what in &self.cut {
            self.facts.findings.push(not_readable("", format!("the layer has more {what} than are listed")));
        }
        self.facts.packages.sort();
        self.facts.packages.dedup();
        self.facts.findings.sort();
        self.facts.findings.dedup();
        self.facts
    }
}

#[cfg(test)]
mod tests;
