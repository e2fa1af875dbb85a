//! Records as tests read them: with the documents beside them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Whether it is a record, and not a document beside one.
pub fn is_record(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_suffix(".json").is_some_and(|id| !id.is_empty() && !id.contains('.'))
}

/// A record with the documents beside it.
pub fn record_at(path: &Path) -> Value {
    let read =
        |path: &Path| -> Value { serde_json::from_str(&fs::read_to_string(path).expect("a record")).expect("JSON") };
    let mut record = read(path);
    for (document, told) in record["documents"].as_object().cloned().unwrap_or_default() {
        record[document] = read(&path.with_file_name(told["file"].as_str().expect("a name")));
    }
    record
}

/// The one that was made last: two runs of one second have names in any order.
pub fn newest(paths: Vec<PathBuf>) -> Option<PathBuf> {
    paths.into_iter().max_by_key(born)
}

/// When it was made.
pub fn born(path: &PathBuf) -> std::time::SystemTime {
    fs::metadata(path).and_then(|found| found.created()).expect("a time of birth")
}
