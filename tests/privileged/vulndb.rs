//! Vulnerability data: imported by a process that is shut in, listed, replaced, removed; by root alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Host, Ran, audit_log};

fn as_root(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces_as_root().args(words).output())
}

fn as_researcher(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

/// A record of one package.
fn record(id: &str, modified: &str) -> String {
    format!(
        r#"{{"id":"{id}","modified":"{modified}","affected":[{{"package":{{"ecosystem":"PyPI","name":"thing"}},"versions":["1.0"]}}]}}"#
    )
}

fn file(host: &Host, name: &str, bytes: &[u8]) -> PathBuf {
    let path = host.tmp().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The files below the database, whatever they are.
fn there(host: &Host) -> Vec<String> {
    let entries = fs::read_dir(host.root().join("store/vulndb")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn root_imports_lists_replaces_and_removes_vulnerability_data_and_the_audit_log_has_it() {
    let Some(host) = Host::new() else { return };
    let old = file(&host, "old.json", record("PYSEC-1", "2026-01-01T00:00:00Z").as_bytes());
    let new = file(&host, "new.json", record("PYSEC-2", "2026-02-01T00:00:00Z").as_bytes());
    let done = as_root(&host, &["vulndb", "import", word(&old)]);
    assert!(done.exits(0).contains("imported osv-PyPI: 1 records of 1 packages, dated 2026-01-01"), "{done:?}");
    as_root(&host, &["vulndb", "import", word(&new)]).exits(0);
    // What has become known is not forgotten.
    as_root(&host, &["vulndb", "import", word(&old)])
        .refuses(1, &["is older than the data of osv-PyPI", "ces vulndb remove osv-PyPI"]);
    let listed: Value = serde_json::from_str(as_root(&host, &["vulndb", "list", "--json"]).exits(0)).unwrap();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["dated"]),
        (&Value::from("osv-PyPI"), &Value::from("2026-02-01T00:00:00Z"))
    );
    assert_eq!(there(&host), ["lock", "osv-PyPI.db"]);
    as_root(&host, &["vulndb", "remove", "osv-PyPI"]).exits(0);
    as_root(&host, &["vulndb", "remove", "osv-PyPI"]).refuses(1, &["no vulnerability data is called osv-PyPI"]);
    as_root(&host, &["vulndb", "remove", "../../store"]).refuses(1, &["no vulnerability data is called"]);
    let log = fs::read_to_string(audit_log(&host.root().join("log"))).unwrap();
    let events = |name: &str| log.lines().filter(|line| line.contains(&format!("\"event\":\"{name}\""))).count();
    assert_eq!((events("vulndb.import"), events("vulndb.remove")), (2, 1), "{log}");
}

#[test]
fn a_researcher_sees_what_was_imported_and_changes_nothing() {
    let Some(host) = Host::new() else { return };
    let data = file(&host, "data.json", record("PYSEC-1", "2026-01-01T00:00:00Z").as_bytes());
    as_researcher(&host, &["vulndb", "import", word(&data)]).refuses(3, &["vulnerability data is the site's"]);
    as_root(&host, &["vulndb", "import", word(&data)]).exits(0);
    as_researcher(&host, &["vulndb", "remove", "osv-PyPI"]).refuses(3, &["vulnerability data is the site's"]);
    assert!(as_researcher(&host, &["vulndb", "list"]).exits(0).contains("osv-PyPI"));
}

#[test]
fn hostile_vulnerability_data_changes_nothing_and_is_one_clear_error() {
    let Some(host) = Host::new() else { return };
    // A zip file whose one member says that it is four gigabytes.
    let mut bomb = b"PK\x03\x04".to_vec();
    bomb.extend([0; 26]);
    let start = u32::try_from(bomb.len()).unwrap().to_le_bytes();
    let mut directory = b"PK\x01\x02\x14\0\x14\0\0\0\x08\0\0\0\0\0\0\0\0\0".to_vec();
    directory.extend(
        [&1000_u32.to_le_bytes()[..], &0xffff_fff0_u32.to_le_bytes(), &[6, 0], &[0; 12], &[0; 4], b"a.json"].concat(),
    );
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    bomb.extend([&directory[..], b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &size, &start, &[0, 0]].concat());
    let bomb = file(&host, "bomb.zip", &bomb);
    as_root(&host, &["vulndb", "import", word(&bomb)]).refuses(1, &["is no vulnerability data", "too large"]);
    let deep = file(&host, "deep.json", format!("{{\"id\":{}", "[".repeat(1 << 20)).as_bytes());
    as_root(&host, &["vulndb", "import", word(&deep)]).refuses(1, &["is no vulnerability data"]);
    let named = record("PYSEC-1", "x").replace("\"thing\"", "\"\\u001b[2J\\u0000\"");
    let named = file(&host, "named.json", named.as_bytes());
    as_root(&host, &["vulndb", "import", word(&named)]).refuses(1, &["is no vulnerability data", "control characters"]);
    as_root(&host, &["vulndb", "import", "/nowhere/x.zip"]).refuses(1, &["cannot read /nowhere/x.zip"]);
    as_root(&host, &["vulndb", "import", "/dev/zero"]).refuses(1, &["cannot read /dev/zero"]);
    assert_eq!(there(&host), ["lock"]);
    // One that is damaged is no reason to judge without it.
    let data = file(&host, "data.json", record("PYSEC-1", "2026-01-01T00:00:00Z").as_bytes());
    as_root(&host, &["vulndb", "import", word(&data)]).exits(0);
    fs::write(host.root().join("store/vulndb/osv-PyPI.db"), "damaged").unwrap();
    as_root(&host, &["vulndb", "list"]).refuses(1, &["osv-PyPI.db", "damaged", "import it again"]);
    as_root(&host, &["vulndb", "import", word(&data)]).exits(0);
    as_root(&host, &["vulndb", "list"]).exits(0);
}

#[test]
fn an_ordinary_user_has_vulnerability_data_of_their_own() {
    let Some(host) = Host::of_an_ordinary_user() else { return };
    let data = file(&host, "data.json", record("PYSEC-1", "2026-01-01T00:00:00Z").as_bytes());
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    as_researcher(&host, &["vulndb", "import", word(&data)]).exits(0);
    assert!(as_researcher(&host, &["vulndb", "list"]).exits(0).contains("osv-PyPI"));
}

#[test]
fn the_published_exports_are_imported_whole() {
    let Some(host) = Host::new() else { return };
    let Some(data) = std::env::var_os("CES_TEST_DATA").map(|data| PathBuf::from(data).join("osv")) else {
        eprintln!("not imported: CES_TEST_DATA names no directory");
        return;
    };
    let files: Vec<PathBuf> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    let words: Vec<&str> = ["vulndb", "import"].into_iter().chain(files.iter().map(|path| word(path))).collect();
    as_root(&host, &words).exits(0);
    let listed: Value = serde_json::from_str(as_root(&host, &["vulndb", "list", "--json"]).exits(0)).unwrap();
    let sources = listed.as_array().unwrap();
    assert_eq!(sources.len(), files.len());
    assert!(sources.iter().all(|source| source["unreadable"] == 0), "{listed:#}");
    let records: u64 =
        sources.iter().map(|source| source["records"].as_u64().unwrap() + source["withdrawn"].as_u64().unwrap()).sum();
    assert_eq!(records, 13_852);
}
