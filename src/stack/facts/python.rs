//! Python: `*.dist-info/METADATA` and `RECORD` (<https://packaging.python.org/specifications/recording-installed-packages/>),
//! `*.egg-info/PKG-INFO`, `*.egg-info` as a file.

use super::super::package::{Package, PackageType};
use super::{Claims, header, is_below, is_worth_claiming, join, licence, package, split};

/// Whether a file describes a package: one that a program finds when it imports. Copies that another package has inside itself
/// (`setuptools/_vendor/…`) are that package's own affair.
pub fn describes(path: &str) -> bool {
    let (directory, name) = split(path);
    let last = split(directory).1;
    let is_metadata = (name == "METADATA" && last.ends_with(".dist-info"))
        || (name == "PKG-INFO" && (last.ends_with(".egg-info") || last == "EGG-INFO"))
        || (name.ends_with(".egg-info") && !name.starts_with('.'));
    is_metadata && !is_inside_a_package(if name.ends_with(".egg-info") { path } else { directory })
}

/// Whether what lies at `path` is deeper than directly in a directory of packages.
fn is_inside_a_package(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let root = parts.iter().rposition(|part| matches!(*part, "site-packages" | "dist-packages"));
    let Some(root) = root else {
        return parts.iter().any(|part| matches!(*part, "_vendor" | "_vendored" | "vendored"));
    };
    let below = parts.len().saturating_sub(root + 1);
    // `NAME.egg/EGG-INFO` is one deeper.
    below > 1 && !(below == 2 && parts.last() == Some(&"EGG-INFO"))
}

/// The package that metadata describe (core metadata, <https://packaging.python.org/specifications/core-metadata/>).
pub fn metadata(bytes: &[u8], place: &str) -> Option<Package> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = package(PackageType::Pypi, header(&text, "Name")?, header(&text, "Version")?, place)?;
    let classifiers = || {
        let lines = text.lines().take_while(|line| !line.trim_end().is_empty());
        let all: Vec<&str> = lines
            .filter_map(|line| line.strip_prefix("Classifier:")?.trim().strip_prefix("License ::"))
            .filter_map(|line| line.rsplit(" :: ").next())
            .map(str::trim)
            .filter(|name| *name != "OSI Approved")
            .collect();
        licence(&all.join(", "))
    };
    // The field `License` may hold a whole licence text; its first line is then no name of one.
    let named = || header(&text, "License").filter(|line| line.len() <= 100).and_then(licence);
    found.licence = header(&text, "License-Expression").and_then(licence).or_else(named).or_else(classifiers);
    Some(found)
}

/// What a `RECORD` claims: paths relative to the directory that the dist-info directory is in. `is_script` tells which sources can be
/// executed: those are programs.
pub fn record(bytes: &[u8], package: &str, place: &str, is_script: &dyn Fn(&str) -> bool) -> Claims {
    let base = split(split(place).0).0;
    let text = String::from_utf8_lossy(bytes);
    let prefix = prefix(base);
    let paths = text.lines().map(first_field).map(|path| join(base, &path));
    let paths = paths.filter(|path| is_below(prefix, path));
    let paths = paths.filter(|path| is_worth_claiming(path) || is_script(path));
    let paths = paths.collect::<Vec<_>>().join("\n");
    Claims { kind: PackageType::Pypi, package: package.to_owned(), place: place.to_owned(), paths }
}

/// What an `installed-files.txt` claims: paths relative to the egg-info directory.
pub fn installed_files(bytes: &[u8], package: &str, place: &str, is_script: &dyn Fn(&str) -> bool) -> Claims {
    let base = split(place).0;
    let text = String::from_utf8_lossy(bytes);
    let prefix = prefix(split(base).0);
    let paths = text.lines().map(|path| join(base, path)).filter(|path| is_below(prefix, path));
    let paths = paths.filter(|path| is_worth_claiming(path) || is_script(path));
    let paths = paths.collect::<Vec<_>>().join("\n");
    Claims { kind: PackageType::Pypi, package: package.to_owned(), place: place.to_owned(), paths }
}

/// The environment that a directory of packages is of: `PREFIX/lib/python3.11/site-packages`; else the directory itself.
fn prefix(packages: &str) -> &str {
    let (python, name) = split(packages);
    let (lib, version) = split(python);
    let (prefix, lib) = split(lib);
    let is_of_one = matches!(name, "site-packages" | "dist-packages")
        && (version.starts_with("python") || version.starts_with("pypy"))
        && lib.starts_with("lib");
    if is_of_one { prefix } else { packages }
}

/// The first field of a line of comma-separated values, which may be quoted (RFC 4180).
fn first_field(line: &str) -> String {
    let Some(quoted) = line.strip_prefix('"') else { return line.split(',').next().unwrap_or_default().to_owned() };
    let mut field = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' => break,
            c => field.push(c),
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_of_what_can_be_imported() {
        assert!(describes("usr/lib/python3/dist-packages/numpy-1.24.2.egg-info/PKG-INFO"));
        assert!(describes("usr/lib/python3/dist-packages/six-1.16.0.egg-info"));
        assert!(describes("opt/venv/lib/python3.11/site-packages/Django-3.2.dist-info/METADATA"));
        assert!(describes("opt/target/requests-2.0.dist-info/METADATA"));
        assert!(describes("a/site-packages/x-1.egg/EGG-INFO/PKG-INFO"));
        assert!(!describes("a/site-packages/setuptools/_vendor/wheel-0.43.0.dist-info/METADATA"));
        assert!(!describes("a/site-packages/x/METADATA"));
    }

    #[test]
    fn metadata_name_version_and_licence() {
        let found = metadata(b"Metadata-Version: 2.1\nName: Django\nVersion: 3.2\nLicense: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License\n\nName: no\n", "x").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("Django", "3.2"));
        assert_eq!(found.licence.as_deref(), Some("BSD-3-Clause"));
        let found = metadata(
            b"Name: a\r\nVersion: 1\r\nLicense: UNKNOWN\r\nClassifier: License :: OSI Approved :: MIT License\r\n",
            "x",
        );
        assert_eq!(found.unwrap().licence.as_deref(), Some("MIT License"));
        assert!(metadata(b"Name: a\n", "x").is_none());
    }

    #[test]
    fn a_record_claims_programs_and_libraries() {
        let record = record(
            b"../../../bin/pip,sha256=x,227\npip/__init__.py,sha256=y,1\npip/tool.py,,\n\"pip/_a,\"\"b.so\",,\n",
            "pip",
            "v/lib/python3.11/site-packages/pip-23.dist-info/RECORD",
            &|path| path.ends_with("/tool.py"),
        );
        let packages = "v/lib/python3.11/site-packages/pip";
        assert_eq!(record.paths, format!("v/bin/pip\n{packages}/tool.py\n{packages}/_a,\"b.so"));
    }

    #[test]
    fn a_record_claims_nothing_outside_its_environment() {
        let lines = b"../../../../srv/tool,,\n/etc/x,,\n../../../bin/tool,,\n";
        let of = |place: &str| super::record(lines, "tool", place, &|_| false).paths;
        assert_eq!(of("opt/v/lib/python3.11/site-packages/tool-1.dist-info/RECORD"), "opt/v/bin/tool");
        assert_eq!(of("a/b/c/d/target/tool-1.dist-info/RECORD"), "");
    }
}
