//! Perl: distributions that `cpanm` and its like have installed (`.meta/NAME/install.json`), and the lists of files that every
//! installer leaves (`auto/…/.packlist`, ExtUtils::Packlist).

use serde_json::Value;

use super::super::package::{Package, PackageType};
use super::{Claims, package, split};

/// Whether the file describes a distribution.
pub fn describes(path: &str) -> bool {
    let (directory, name) = split(path);
    name == "install.json" && split(split(directory).0).1 == ".meta"
}

/// The distribution.
pub fn install(bytes: &[u8], place: &str) -> Option<Package> {
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| document.get(key).and_then(Value::as_str);
    package(PackageType::Cpan, text("name")?, text("version")?, place)
}

/// What a `.packlist` claims; its module is named by the directories between `auto` and the list.
pub fn packlist(bytes: &[u8], place: &str) -> Option<Claims> {
    let directory = split(place).0;
    let (_, module) = directory.rsplit_once("/auto/")?;
    let text = String::from_utf8_lossy(bytes);
    let paths = text.lines().filter_map(|line| line.split(' ').next()).map(|path| path.trim_start_matches('/'));
    Some(Claims {
        kind: PackageType::Cpan,
        package: super::word(&module.replace('/', "::"))?,
        place: place.to_owned(),
        paths: paths.filter(|path| !path.is_empty()).collect::<Vec<_>>().join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_says_what_it_has_installed() {
        let place = "usr/local/lib/perl5/x86_64/.meta/JSON-PP-4.16/install.json";
        assert!(describes(place) && !describes("x/install.json"));
        let found = install(br#"{"name":"JSON::PP","version":"4.16","dist":"JSON-PP-4.16"}"#, place).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("JSON::PP", "4.16"));
        let claims = packlist(
            b"/usr/local/bin/json_pp type=file\n/usr/local/x.pm\n",
            "usr/local/lib/perl5/auto/JSON/PP/.packlist",
        )
        .unwrap();
        assert_eq!(
            (claims.package.as_str(), claims.paths.as_str()),
            ("JSON::PP", "usr/local/bin/json_pp\nusr/local/x.pm")
        );
    }
}
