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
