//! `ces policy`, by the binary itself.

use std::fs;
use std::path::Path;

use crate::command_line::ces;

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("policy.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A place of the test's own: to explain is to look for the image, and root's store is made where it is looked for.
fn store(dir: &Path) -> String {
    dir.join("ces").display().to_string()
}

#[test]
fn a_valid_file_is_said_to_be_valid_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "contact = \"IG\"\n[limits]\nmemory = { max = \"2G\" }\n");
    let output = ces(&["policy", "check", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = ces(&["--policy", &file, "policy", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rules = shown["rules"].as_array().unwrap();
    let memory = rules.iter().find(|rule| rule["what"] == "memory, at most").unwrap();
    assert_eq!(memory["value"], "2 GiB");
    assert!(memory["because"].as_str().unwrap().ends_with("line 3: limits.memory.max"));
}

#[test]
fn a_malformed_file_is_refused_with_its_line_and_never_replaced_by_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "[limits]\nmemroy = { max = \"2G\" }\n");
    for words in [&["policy", "check", &file][..], &["--policy", &file, "policy", "show"]] {
        let output = ces(words);
        assert_eq!(output.status.code(), Some(3));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("error: ") && error.contains("line 2: limits.memroy"), "{error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_refusal_names_figure_line_and_contact_and_nothing_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "contact = \"IG, ext. 1234\"\n[limits]\nmemory = { max = \"2G\" }\n");
    let output =
        ces(&["--root", &store(dir.path()), "--policy", &file, "policy", "explain", "--memory", "3g", "ghcr.io/a/b:1"]);
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8(output.stderr).unwrap();
    for part in ["--memory 3 GiB", "line 3: limits.memory.max", "2 GiB", "IG, ext. 1234"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_run_is_explained_line_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "[registries]\nallow = [\"ghcr.io\"]\n");
    let opts = dir.path().join("opts");
    fs::write(&opts, "--rm -it --memory 64m\n").unwrap();
    let opts = opts.to_str().unwrap();
    let output = ces(&[
        "--root",
        &store(dir.path()),
        "--policy",
        &file,
        "policy",
        "explain",
        "--json",
        "--opt-file",
        opts,
        "ghcr.io/a/b:1",
        "sh",
    ]);
    // There is no such image: a run would be refused.
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let grant: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(grant["limits"]["memory_bytes"], 64 << 20);
    assert!(grant["refused"].as_array().unwrap().iter().any(|why| why.as_str().unwrap().contains("ghcr.io/a/b:1")));
    assert_eq!(grant["args"], serde_json::json!(["sh"]));
    assert!(grant["decisions"].as_array().unwrap().iter().all(|d| !d["because"].as_str().unwrap().is_empty()));
    let output = ces(&["--root", &store(dir.path()), "--policy", &file, "policy", "explain", "docker.io/a/b:1"]);
    assert_eq!(output.status.code(), Some(3));
}
