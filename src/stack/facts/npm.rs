//! JavaScript: `package.json` of a directory directly in `node_modules`.

use serde_json::Value;

use super::super::package::{Package, PackageType};
use super::{Claims, licence, package, split};

/// Whether the file describes an installed package: `node_modules/NAME/package.json`, `node_modules/@SCOPE/NAME/…`. What a
/// package has in other directories of its own (fixtures of tests) is none.
pub fn describes(path: &str) -> bool {
    let (directory, name) = split(path);
    if name != "package.json" {
        return false;
    }
    let mut parts = directory.split('/').skip_while(|part| *part != "node_modules").peekable();
    let mut is_package = false;
    while let Some(part) = parts.next() {
        // Below `node_modules`: a name, or a scope and a name, and then nothing or `node_modules` again.
        if part != "node_modules" {
            return false;
        }
        is_package = match (parts.next(), parts.peek()) {
            // pnpm keeps each package with its own dependencies: `.pnpm/NAME@VERSION/node_modules`.
            (Some(".pnpm"), Some(_)) => {
                parts.next();
                false
            }
            (Some(scope), Some(_)) if scope.starts_with('@') => parts.next().is_some(),
            (Some(name), _) => !name.starts_with(['.', '@']),
            (None, _) => false,
        };
    }
    is_package
}

/// The package, and the directory that it claims.
pub fn read(bytes: &[u8], place: &str) -> Option<(Package, Claims)> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| document.get(key).and_then(Value::as_str);
    let mut found = package(PackageType::Npm, text("name")?, text("version")?, place)?;
    let license = document.get("license");
    let types = |list: &Value| {
        let all = list.as_array().into_iter().flatten().filter_map(|one| one.get("type")?.as_str());
        all.collect::<Vec<_>>().join(", ")
    };
    found.licence = text("license")
        .or_else(|| license?.get("type")?.as_str())
        .and_then(licence)
        .or_else(|| document.get("licenses").map(types).as_deref().and_then(licence));
    let paths = format!("{}/", split(place).0);
    let claims = Claims { kind: PackageType::Npm, package: found.name.clone(), place: place.to_owned(), paths };
    Some((found, claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_directly_in_node_modules() {
        for path in [
            "app/node_modules/lodash/package.json",
            "app/node_modules/@types/node/package.json",
            "usr/lib/node_modules/npm/node_modules/abbrev/package.json",
            "a/node_modules/@x/y/node_modules/@z/w/package.json",
            "app/node_modules/.pnpm/foo@1.0.0/node_modules/foo/package.json",
        ] {
            assert!(describes(path), "{path}");
        }
        for path in [
            "app/package.json",
            "app/node_modules/lodash/fp/package.json",
            "app/node_modules/resolve/test/x/node_modules/y/package.json",
            "app/node_modules/@types/package.json",
            "app/node_modules/.bin/package.json",
            "app/node_modules/package.json",
        ] {
            assert!(!describes(path), "{path}");
        }
    }

    #[test]
    fn a_licence_is_declared_in_three_ways() {
        let licence = |text: &str| read(text.as_bytes(), "n/node_modules/a/package.json").unwrap().0.licence;
        assert_eq!(licence(r#"{"name":"a","version":"1","license":"MIT"}"#).as_deref(), Some("MIT"));
        assert_eq!(licence(r#"{"name":"a","version":"1","license":{"type":"ISC"}}"#).as_deref(), Some("ISC"));
        assert_eq!(
            licence(r#"{"name":"a","version":"1","licenses":[{"type":"BSD"},{"type":"X"}]}"#).as_deref(),
            Some("BSD, X")
        );
        assert!(read(br#"{"name":"a"}"#, "x").is_none());
    }
}
