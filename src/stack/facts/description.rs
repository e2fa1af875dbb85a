//! R and Octave: files called `DESCRIPTION` (Writing R Extensions, 1.1.1; Octave's `pkg`).
//!
//! An R package is a directory of a library that R has installed: it has `Meta/package.rds`. Sources and the fixtures of other
//! packages' tests have a `DESCRIPTION` too, and are none.

use super::super::package::{Package, PackageType};
use super::{Claims, header, licence, package, split};

/// Which sort of package a `DESCRIPTION` may describe; none for one that is none.
pub fn kind(path: &str) -> Option<PackageType> {
    let (directory, name) = split(path);
    if name != "DESCRIPTION" {
        return None;
    }
    let is_octave = split(directory).1 == "packinfo" && path.contains("octave");
    Some(if is_octave { PackageType::Octave } else { PackageType::Cran })
}

/// What proves that R has installed the package whose `DESCRIPTION` is at `path`.
pub fn proof(path: &str) -> String {
    super::join(split(path).0, "Meta/package.rds")
}

/// The package, and the directory that it claims.
pub fn read(bytes: &[u8], kind: PackageType, place: &str) -> Option<(Package, Claims)> {
    let text = String::from_utf8_lossy(bytes);
    // R's fields go on over lines and blank lines end nothing in them; Octave's begin likewise.
    let (name, directory) = match kind {
        PackageType::Octave => (header(&text, "Name")?, split(split(place).0).0),
        _ => (header(&text, "Package")?, split(place).0),
    };
    // R looks for a package by its directory's name: another directory, `usr` for one, is not a package's.
    let is_called_so = split(directory).1 == name || kind == PackageType::Octave;
    let mut found = package(kind, name, header(&text, "Version")?, place).filter(|_| is_called_so)?;
    found.licence = header(&text, "License").and_then(licence);
    let claims = Claims { kind, package: found.name.clone(), place: place.to_owned(), paths: format!("{directory}/") };
    Some((found, claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_and_octave_packages_are_told_apart() {
        assert_eq!(kind("usr/lib/R/site-library/Rcpp/DESCRIPTION"), Some(PackageType::Cran));
        assert_eq!(proof("usr/lib/R/site-library/Rcpp/DESCRIPTION"), "usr/lib/R/site-library/Rcpp/Meta/package.rds");
        let place = "usr/share/octave/packages/statistics-1.5.3/packinfo/DESCRIPTION";
        assert_eq!(kind(place), Some(PackageType::Octave));
        let (found, claims) =
            read(b"Name: statistics\nVersion: 1.5.3\nLicense: GPLv3+\n", PackageType::Octave, place).unwrap();
        assert_eq!(found.licence.as_deref(), Some("GPLv3+"));
        assert_eq!(claims.paths, "usr/share/octave/packages/statistics-1.5.3/");
        let (found, _) = read(b"Package: Rcpp\nVersion: 1.0.10\n", PackageType::Cran, "l/Rcpp/DESCRIPTION").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("Rcpp", "1.0.10"));
        assert!(read(b"Package: Rcpp\nVersion: 1.0.10\n", PackageType::Cran, "usr/DESCRIPTION").is_none());
    }
}
