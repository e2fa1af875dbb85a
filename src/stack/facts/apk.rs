//! Alpine's package database (<https://wiki.alpinelinux.org/wiki/Apk_spec>, "Installed database V2"): a line a field, a
//! blank line between packages; `F:` a directory, `R:` a file in it.

use super::super::package::{Package, PackageType};
use super::{Claims, licence, package, path_text, word};

/// Where the database is.
pub const PLACES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Packages, and the files of each.
pub fn installed(bytes: &[u8], place: &str) -> (Vec<Package>, Vec<Claims>) {
    let (mut packages, mut claims) = (Vec::new(), Vec::new());
    let mut stanza: Vec<(u8, &[u8])> = Vec::new();
    for line in bytes.split(|&b| b == b'\n').chain([&b""[..]]) {
        match line {
            [key, b':', value @ ..] => stanza.push((*key, value)),
            [] if !stanza.is_empty() => {
                if let Some((package, files)) = one(&stanza, place) {
                    packages.push(package);
                    claims.push(files);
                }
                stanza.clear();
            }
            _ => {}
        }
    }
    (packages, claims)
}

fn one(stanza: &[(u8, &[u8])], place: &str) -> Option<(Package, Claims)> {
    let field = |wanted: u8| {
        let value = stanza.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let mut found = package(PackageType::Apk, &field(b'P')?, &field(b'V')?, place)?;
    found.architecture = field(b'A').as_deref().and_then(word);
    found.licence = field(b'L').as_deref().and_then(licence);
    found.source = field(b'o').as_deref().and_then(word).map(|origin| (origin, found.version.clone()));
    let (mut directory, mut paths) = (String::new(), Vec::new());
    for (key, value) in stanza {
        match key {
            b'F' => directory = path_text(value),
            b'R' if directory.is_empty() => paths.push(path_text(value)),
            b'R' => paths.push(format!("{directory}/{}", path_text(value))),
            _ => {}
        }
    }
    let claims = Claims {
        kind: PackageType::Apk,
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
    fn packages_have_their_files() {
        let text = b"C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\nF:\nR:x\n\nP:busybox\nV:1\nF:bin\nR:busybox";
        let (packages, claims) = installed(text, PLACES[0]);
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("musl", "1.2.4-r2"));
        assert_eq!(packages[0].licence.as_deref(), Some("MIT"));
        assert_eq!(claims[0].paths, "lib/ld-musl-x86_64.so.1\nx");
        assert_eq!((packages[1].name.as_str(), claims[1].paths.as_str()), ("busybox", "bin/busybox"));
    }
}
