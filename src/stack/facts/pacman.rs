//! Arch's package database: `var/lib/pacman/local/NAME-VERSION/{desc,files}`, sections headed by `%NAME%`.

use super::super::package::{Package, PackageType};
use super::{Claims, licence, package, split, word};

/// Where the database is.
pub const LOCAL: &str = "var/lib/pacman/local/";

fn section<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let head = format!("%{name}%");
    text.lines().skip_while(move |line| *line != head).skip(1).take_while(|line| !line.is_empty())
}

/// The package that a `desc` file describes.
pub fn desc(bytes: &[u8], place: &str) -> Option<Package> {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| section(&text, name).next();
    let mut found = package(PackageType::Alpm, field("NAME")?, field("VERSION")?, place)?;
    found.architecture = field("ARCH").and_then(word);
    found.source = field("BASE").and_then(word).map(|base| (base, found.version.clone()));
    found.licence = licence(&section(&text, "LICENSE").collect::<Vec<_>>().join(", "));
    Some(found)
}

/// The files that a `files` file lists, whose package is named by the directory: `NAME-VERSION-RELEASE`.
pub fn files(bytes: &[u8], place: &str) -> Option<Claims> {
    let text = String::from_utf8_lossy(bytes);
    let directory = split(split(place).0).1;
    let name = directory.rsplitn(3, '-').nth(2)?;
    // Directories end in a slash, and are everybody's.
    let paths: Vec<&str> = section(&text, "FILES").filter(|path| !path.ends_with('/')).collect();
    Some(Claims { kind: PackageType::Alpm, package: word(name)?, place: place.to_owned(), paths: paths.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_described_and_lists_its_files() {
        let text =
            b"%NAME%\ngcc-libs\n\n%VERSION%\n13.2.1-3\n\n%BASE%\ngcc\n\n%ARCH%\nx86_64\n\n%LICENSE%\nGPL\nFDL\n\n";
        let found = desc(text, "var/lib/pacman/local/gcc-libs-13.2.1-3/desc").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("gcc-libs", "13.2.1-3"));
        assert_eq!(found.licence.as_deref(), Some("GPL, FDL"));
        let claims = files(
            b"%FILES%\nusr/\nusr/lib/libgcc_s.so.1\n\n%BACKUP%\netc/x\n",
            "var/lib/pacman/local/gcc-libs-13.2.1-3/files",
        );
        let claims = claims.unwrap();
        assert_eq!((claims.package.as_str(), claims.paths.as_str()), ("gcc-libs", "usr/lib/libgcc_s.so.1"));
    }
}
