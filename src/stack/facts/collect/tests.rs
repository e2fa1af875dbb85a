//! What is told of files that are too large, unreadable, or many.

use std::fs::File;
use std::io::{self, Write as _};

use super::super::OpenFile;
use super::*;

/// Files that all have one content.
struct Alike(File);

impl Files for Alike {
    fn open(&self, _path: &str) -> io::Result<OpenFile> {
        OpenFile::new(self.0.try_clone()?)
    }
}

/// What is found in files at these paths that begin with `text` and have `size` bytes.
fn found(paths: &[String], text: &str, size: u64) -> Vec<Finding> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_len(size).unwrap();
    let entry =
        |path: &String| Entry { path: path.clone(), kind: Kind::File, mode: 0o644, size, content: "-".to_owned() };
    let entries: Vec<Entry> = paths.iter().map(entry).collect();
    collect(&entries, &Alike(file), "t").findings
}

#[test]
fn a_document_that_would_become_too_large_in_memory_is_not_read() {
    for path in ["opt/environments/v1/Manifest.toml", "app/node_modules/x/package.json", "opt/conda-meta/x.json"] {
        let all = found(&[path.to_owned()], "a=[{},{},{}", 31 << 20);
        let [one] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.kind, one.place.as_str()), (FindingKind::NotReadable, path));
        assert!(one.what.starts_with("too large"), "{one:?}");
    }
}

#[test]
fn a_file_that_is_called_like_a_secret_and_too_large_to_look_at_is_told_as_one() {
    let all = found(&["srv/id_rsa".to_owned()], "-----BEGIN ", 5 << 20);
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert!(one.kind == FindingKind::Secret && one.what.contains("too large"), "{one:?}");
}

#[test]
fn no_number_of_other_findings_takes_a_secrets_place() {
    let mut paths: Vec<String> = (0..FINDINGS_MAX + 5).map(|number| format!("conda-meta/{number}.json")).collect();
    paths.push("srv/id_rsa".to_owned());
    let text = "-----BEGIN PRIVATE KEY-----\n";
    let all = found(&paths, text, text.len() as u64);
    assert!(all.iter().any(|found| found.kind == FindingKind::Secret && found.place == "srv/id_rsa"));
    assert!(all.iter().any(|found| found.what.contains("more findings")));
}

#[test]
fn the_authors_changelog_is_read_only_where_there_is_none_of_debians() {
    let mut packed = flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
    packed.write_all(b"x (1-1) unstable; urgency=high\n\n  * CVE-2026-12345\n").unwrap();
    let file = packed.finish().unwrap();
    let size = file.metadata().unwrap().len();
    let entry = |path: &str| Entry {
        path: format!("usr/share/doc/{path}"),
        kind: Kind::File,
        mode: 0o644,
        size,
        content: "-".to_owned(),
    };
    // In the order of a listing.
    let entries = ["a/changelog.Debian.gz", "a/changelog.gz", "b/changelog.gz"].map(entry);
    let facts = collect(&entries, &Alike(file), "t");
    let places: Vec<&str> = facts.changelogs.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["usr/share/doc/a/changelog.Debian.gz", "usr/share/doc/b/changelog.gz"]);
}

/// A layer with none of the files that are asked for.
struct Nothing;

impl Files for Nothing {
    fn open(&self, _path: &str) -> io::Result<OpenFile> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[test]
fn a_link_in_node_modules_is_followed_or_told() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(br#"{"name":"x","version":"1.0.0"}"#).unwrap();
    let entry = |path: &str, target: &str| Entry {
        path: path.to_owned(),
        kind: Kind::Link,
        mode: 0o777,
        size: 0,
        content: target.to_owned(),
    };
    // Two names of one package are one package.
    let links = [entry("app/node_modules/x", "../packages/x"), entry("srv/node_modules/y", "/app/packages/x")];
    let facts = collect(&links, &Alike(file), "t");
    let packages: Vec<(&str, &str)> =
        facts.packages.iter().map(|package| (package.name.as_str(), package.place.as_str())).collect();
    assert_eq!((packages, facts.findings), (vec![("x", "app/packages/x/package.json")], vec![]));
    let facts = collect(&links, &Nothing, "t");
    let places: Vec<&str> = facts.findings.iter().map(|found| found.place.as_str()).collect();
    assert_eq!(places, ["app/node_modules/x", "srv/node_modules/y"]);
}
