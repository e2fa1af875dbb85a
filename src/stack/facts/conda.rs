//! conda, mamba, pixi: `conda-meta/*.json` in a prefix (<https://docs.conda.io/projects/conda/en/latest/dev-guide/specs/>).

use serde::Deserialize;

use super::super::package::{Package, PackageType};
use super::{Claims, is_below, is_worth_claiming, join, licence, package, split, word};

#[derive(Deserialize)]
struct Record {
    name: String,
    version: String,
    #[serde(default)]
    license: Option<String>,
    #[serde(default)]
    subdir: Option<String>,
    #[serde(default)]
    files: Vec<String>,
}

/// Whether a file describes a package.
pub fn describes(path: &str) -> bool {
    let (directory, name) = split(path);
    split(directory).1 == "conda-meta" && name.ends_with(".json")
}

/// The package, and the files that it claims; `is_script` tells which sources can be executed: those are programs.
pub fn record(bytes: &[u8], place: &str, is_script: &dyn Fn(&str) -> bool) -> Option<(Package, Claims)> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let mut found = package(PackageType::Conda, &record.name, &record.version, place)?;
    found.licence = record.license.as_deref().and_then(licence);
    found.architecture = record.subdir.as_deref().and_then(word);
    let prefix = split(split(place).0).0;
    let describes =
        |path: &str| path.ends_with("METADATA") || path.ends_with("PKG-INFO") || path.ends_with(".egg-info");
    let paths = record.files.iter().filter(|path| !path.contains('\n')).map(|path| join(prefix, path));
    let paths = paths.filter(|path| is_below(prefix, path));
    let paths: Vec<String> =
        paths.filter(|path| is_worth_claiming(path) || describes(path) || is_script(path)).collect();
    let claims = Claims {
        kind: PackageType::Conda,
        package: found.name.clone(),
        place: place.to_owned(),
        paths: paths.join("\n"),
    };
    Some((found, claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_describes_a_package_and_claims_its_files() {
        let text = br#"{"name":"numpy","version":"1.26.0","build":"x","license":"BSD-3-Clause","subdir":"linux-64","files":["bin/f2py","lib/python3.11/site-packages/numpy/__init__.py","lib/python3.11/site-packages/numpy-1.26.0.dist-info/METADATA"],"more":{}}"#;
        let (found, claims) = record(text, "opt/conda/conda-meta/numpy-1.26.0-x.json", &|_| false).unwrap();
        assert_eq!((found.name.as_str(), found.licence.as_deref()), ("numpy", Some("BSD-3-Clause")));
        assert_eq!(
            claims.paths,
            "opt/conda/bin/f2py\nopt/conda/lib/python3.11/site-packages/numpy-1.26.0.dist-info/METADATA"
        );
        assert!(record(b"{}", "x", &|_| false).is_none() && record(b"[", "x", &|_| false).is_none());
        assert!(describes("opt/conda/conda-meta/x.json") && !describes("opt/conda/conda-meta/history"));
    }
}
