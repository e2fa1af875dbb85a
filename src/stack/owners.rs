//! Which package owns which file.
//!
//! Takes the lists of files that packages claim, and the paths that somebody wants to know of; gives their owners. The lists of
//! an image have hundreds of thousands of paths: they are gone through once, and only what is wanted is kept.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::facts::Claims;
use super::package::PackageType;
use super::tree::{Resolver, Tree};

/// Owners of paths.
#[derive(Debug, Default)]
pub struct Owners {
    /// A distribution's packages.
    distribution: HashMap<String, (PackageType, String)>,
    /// Packages of languages.
    language: HashMap<String, (PackageType, String)>,
    /// Directories all of which belongs to a package.
    directories: BTreeMap<String, (PackageType, String)>,
}

/// Whether packages of this type are a distribution's.
pub fn is_distribution(kind: PackageType) -> bool {
    matches!(kind, PackageType::Deb | PackageType::Apk | PackageType::Rpm | PackageType::Alpm)
}

impl Owners {
    /// Finds the owners of the `wanted` paths among what is claimed.
    pub fn find<'a>(tree: &Tree, claims: impl Iterator<Item = &'a Claims>, wanted: &HashSet<&str>) -> Self {
        let mut owners = Self::default();
        let mut resolver = Resolver::new(tree);
        let mut real = String::new();
        for claim in claims {
            let owner = || (claim.kind, claim.package.clone());
            for path in claim.paths.split('\n') {
                if let Some(directory) = path.strip_suffix('/') {
                    resolver.real(directory, &mut real);
                    owners.directories.entry(real.clone()).or_insert_with(owner);
                    continue;
                }
                resolver.real(path, &mut real);
                if !wanted.contains(real.as_str()) {
                    continue;
                }
                let of = if is_distribution(claim.kind) { &mut owners.distribution } else { &mut owners.language };
                of.entry(real.clone()).or_insert_with(owner);
            }
        }
        owners
    }

    /// The distribution's package that owns `path`.
    pub fn distribution(&self, path: &str) -> Option<&(PackageType, String)> {
        self.distribution.get(path)
    }

    /// The package of a language that owns `path`.
    pub fn language(&self, path: &str) -> Option<&(PackageType, String)> {
        if let Some(owner) = self.language.get(path) {
            return Some(owner);
        }
        let mut above = path;
        while let Some((directory, _)) = above.rsplit_once('/') {
            if let Some(owner) = self.directories.get(directory) {
                return Some(owner);
            }
            above = directory;
        }
        None
    }

    /// Whichever package owns `path`; the distribution's first.
    pub fn any(&self, path: &str) -> Option<&(PackageType, String)> {
        self.distribution(path).or_else(|| self.language(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::listing::{Entry, Kind};

    #[test]
    fn a_path_is_owned_where_it_really_is() {
        let mut tree = Tree::default();
        let link = Entry { path: "bin".into(), kind: Kind::Link, mode: 0o777, size: 0, content: "usr/bin".into() };
        tree.put(0, link);
        let claim = |kind, package: &str, paths: &str| Claims {
            kind,
            package: package.to_owned(),
            place: "x".to_owned(),
            paths: paths.to_owned(),
        };
        let claims = [
            claim(PackageType::Deb, "bash", "bin/bash\nusr/share/doc"),
            claim(PackageType::Npm, "lodash", "app/node_modules/lodash/"),
            claim(PackageType::Pypi, "pip", "usr/bin/bash\nusr/bin/pip"),
        ];
        let wanted = HashSet::from(["usr/bin/bash", "usr/bin/pip", "app/node_modules/lodash/a/b", "x"]);
        let owners = Owners::find(&tree, claims.iter(), &wanted);
        let name = |path: &str| owners.any(path).map(|(_, name)| name.as_str());
        assert_eq!(name("usr/bin/bash"), Some("bash"));
        assert_eq!(name("usr/bin/pip"), Some("pip"));
        assert_eq!(name("app/node_modules/lodash/a/b"), Some("lodash"));
        assert_eq!(name("x"), None);
        assert!(owners.distribution("usr/bin/pip").is_none());
    }
}
