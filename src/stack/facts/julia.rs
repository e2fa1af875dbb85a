//! Julia: packages in a depot (`packages/NAME/SLUG/Project.toml`), and what the manifests of environments name
//! (<https://pkgdocs.julialang.org/v1/toml-files/>).

use super::super::package::{Package, PackageType};
use super::{Claims, package, split};

/// What a file of Julia's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// A package in a depot.
    Project,
    /// What an environment was resolved to.
    Manifest,
}

/// What the file at `path` is, if it is one of Julia's.
pub fn document(path: &str) -> Option<Document> {
    let parts: Vec<&str> = path.rsplit('/').collect();
    match parts.as_slice() {
        ["Project.toml", slug, _, "packages", ..] if slug.len() == 5 => Some(Document::Project),
        ["Manifest.toml", _, "environments", ..] => Some(Document::Manifest),
        _ => None,
    }
}

/// The package of a depot, and the directory that it claims.
pub fn project(bytes: &[u8], place: &str) -> Option<(Package, Claims)> {
    let table: toml::Table = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
    let text = |key: &str| table.get(key).and_then(toml::Value::as_str);
    let found = package(PackageType::Julia, text("name")?, text("version")?, place)?;
    let paths = format!("{}/", split(place).0);
    let claims = Claims { kind: PackageType::Julia, package: found.name.clone(), place: place.to_owned(), paths };
    Some((found, claims))
}

/// The packages that a manifest names with a version; those without are of Julia itself.
pub fn manifest(bytes: &[u8], place: &str) -> Option<Vec<Package>> {
    let table: toml::Table = toml::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
    // Format 1 has the packages at the top.
    let packages = table.get("deps").and_then(toml::Value::as_table).unwrap_or(&table);
    let mut found = Vec::new();
    for (name, entries) in packages {
        for entry in entries.as_array().into_iter().flatten() {
            // What a registry has is known by its tree; the libraries of Julia itself have none.
            let version = entry.get("version").and_then(toml::Value::as_str);
            if let (Some(version), Some(_)) = (version, entry.get("git-tree-sha1")) {
                found.extend(package(PackageType::Julia, name, version, place));
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_depot_and_a_manifest_name_packages() {
        let place = "root/.julia/packages/HTTP/aBc12/Project.toml";
        assert_eq!(document(place), Some(Document::Project));
        assert_eq!(document("root/.julia/packages/HTTP/aBc12/test/Project.toml"), None);
        let (found, claims) = project(b"name = \"HTTP\"\nversion = \"1.10.0\"\n", place).unwrap();
        assert_eq!((found.version.as_str(), claims.paths.as_str()), ("1.10.0", "root/.julia/packages/HTTP/aBc12/"));
        assert_eq!(document("opt/julia/environments/v1.10/Manifest.toml"), Some(Document::Manifest));
        let text = b"manifest_format = \"2.0\"\n[[deps.HTTP]]\nversion = \"1.10.0\"\ngit-tree-sha1 = \"ab\"\n[[deps.Dates]]\nuuid = \"x\"\n[[deps.LibCURL]]\nversion = \"0.6\"\n";
        let found = manifest(text, "m").unwrap();
        assert_eq!(found.len(), 1);
        assert!(manifest(b"= 1", "m").is_none());
    }
}
