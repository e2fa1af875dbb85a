//! Debian's package database (dpkg(1), deb-control(5)): `var/lib/dpkg/status`, `status.d/*` of images without a package
//! manager, `info/*.list`, and copyright files in the machine-readable format (DEP-5).

use std::io::Read;

use super::super::package::{Package, PackageType};
use super::{Claims, header, lossy, package, path_text, split, word};

/// The database.
pub const STATUS: &str = "var/lib/dpkg/status";
/// One file a package, where there is no `dpkg` in the image.
pub const STATUS_D: &str = "var/lib/dpkg/status.d/";
/// Lists of files.
pub const INFO: &str = "var/lib/dpkg/info/";

/// As much of a changelog is read, and as many names are kept of it.
const CHANGELOG_MAX: u64 = 1 << 20;
const FIXES_MAX: usize = 2000;

/// The packages of which files are there (dpkg(1), "PACKAGE STATES").
pub fn status(bytes: &[u8], place: &str) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    text.split("\n\n").filter_map(|stanza| stanza_of(stanza.trim_start_matches('\n'), place)).collect()
}

fn stanza_of(text: &str, place: &str) -> Option<Package> {
    // `status.d` has no states: what is described there is there.
    let state = header(text, "Status").and_then(|status| status.rsplit(' ').next());
    if state.is_some_and(|state| matches!(state, "not-installed" | "config-files")) {
        return None;
    }
    let version = header(text, "Version")?;
    let mut found = package(PackageType::Deb, header(text, "Package")?, version, place)?;
    found.architecture = header(text, "Architecture").and_then(word);
    found.source = header(text, "Source").and_then(|source| {
        let (name, named) = source.split_once(' ').unwrap_or((source, ""));
        let of = named.trim().trim_start_matches('(').trim_end_matches(')');
        Some((word(name)?, word(if of.is_empty() { version } else { of })?))
    });
    Some(found)
}

/// The files of the package that `place` (`info/NAME.list`, `info/NAME:ARCH.list`) lists.
pub fn list(bytes: &[u8], place: &str) -> Option<Claims> {
    let name = split(place).1.strip_suffix(".list")?;
    Some(Claims {
        kind: PackageType::Deb,
        package: word(name.split(':').next()?)?,
        place: place.to_owned(),
        paths: lines(bytes, b""),
    })
}

/// The files of a package whose sums `place` (`status.d/NAME.md5sums`) has.
pub fn sums(bytes: &[u8], place: &str) -> Option<Claims> {
    let package = word(split(place).1.strip_suffix(".md5sums")?)?;
    let after_sum = |line: &[u8]| line.splitn(2, |&b| b == b' ').nth(1).map(<[u8]>::trim_ascii_start).map(path_text);
    let paths: Vec<String> = bytes.split(|&b| b == b'\n').filter_map(after_sum).collect();
    Some(Claims { kind: PackageType::Deb, package, place: place.to_owned(), paths: paths.join("\n") })
}

/// Paths, a line each, without their leading slashes and without `skipped`.
pub fn lines(bytes: &[u8], skipped: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for line in bytes.split(|&b| b == b'\n') {
        let start = line.iter().position(|b| *b != b'/').unwrap_or(line.len());
        let path = line.get(start..).unwrap_or_default();
        if path.is_empty() || path == b"." || path == skipped {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&path_text(path));
    }
    text
}

/// The short names of the licences in a machine-readable copyright file, each once, in their order; none in another.
pub fn copyright(bytes: &[u8]) -> Option<String> {
    let text = lossy(bytes);
    text.lines().next().filter(|line| line.starts_with("Format"))?;
    let mut names: Vec<&str> = Vec::new();
    for name in text.lines().filter_map(|line| line.strip_prefix("License:")).map(str::trim) {
        if !name.is_empty() && name.len() <= 100 && !names.contains(&name) && names.len() < 40 {
            names.push(name);
        }
    }
    super::licence(&names.join(", "))
}

/// The vulnerabilities that a packed changelog names (Debian Policy, 12.7): what it names is fixed in the version at its top.
/// A changelog is read up to a bound; what is old is at its end.
pub fn fixes(packed: &[u8]) -> Vec<String> {
    let mut text = Vec::new();
    // One that is cut off says as much as there is.
    flate2::read::MultiGzDecoder::new(packed).take(CHANGELOG_MAX).read_to_end(&mut text).ok();
    let text = lossy(&text);
    let mut ids: Vec<String> = Vec::new();
    // `V` is rarer in prose than `C`.
    for (at, _) in text.match_indices('V') {
        let before = at.checked_sub(1).and_then(|before| text.get(before..));
        let Some(rest) = before.and_then(|text| text.strip_prefix("CVE-")) else { continue };
        let id: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '-').take(15).collect();
        let is_id = id.split_once('-').is_some_and(|(year, number)| {
            year.len() == 4 && number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit())
        });
        if is_id && ids.len() < FIXES_MAX {
            ids.push(format!("CVE-{id}"));
        }
    }
    ids.sort();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_lists_what_is_there() {
        let text = b"Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.15-2+b7\nSource: bash (5.2.15-2)\nDescription: a\n shell\n  Package: nothing\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\nPackage: half\nStatus: install ok half-configured\nVersion: 2:1-1\nSource: whole\n\nnonsense\n\nPackage: x\nStatus: install ok installed\n";
        let found = status(text, STATUS);
        let names: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(names, [("bash", "5.2.15-2+b7"), ("half", "2:1-1")]);
        assert_eq!(found[0].source, Some(("bash".to_owned(), "5.2.15-2".to_owned())));
        assert_eq!(found[1].source, Some(("whole".to_owned(), "2:1-1".to_owned())));
        assert_eq!(found[0].architecture.as_deref(), Some("amd64"));
    }

    #[test]
    fn images_without_a_package_manager_have_a_file_a_package() {
        let found = status(b"Package: base-files\nVersion: 12.4\nArchitecture: amd64\n", "var/lib/dpkg/status.d/base");
        assert_eq!(found.len(), 1);
        let claims =
            sums(b"d41d8cd98f00b204e9800998ecf8427e  etc/a b\n\n", "var/lib/dpkg/status.d/base.md5sums").unwrap();
        assert_eq!((claims.package.as_str(), claims.paths.as_str()), ("base", "etc/a b"));
    }

    #[test]
    fn a_list_names_its_package_and_paths() {
        let claims = list(b"/.\n/usr\n/usr/bin/x\n/usr/caf\xe9\n", "var/lib/dpkg/info/libx:amd64.list").unwrap();
        assert_eq!((claims.package.as_str(), claims.paths.as_str()), ("libx", "usr\nusr/bin/x\nusr/caf\\xe9"));
        assert!(list(b"", "var/lib/dpkg/info/.list").is_none());
    }

    #[test]
    fn a_copyright_file_declares_licences_if_it_is_machine_readable() {
        let text = b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nFiles: *\nLicense: GPL-2+\n text\n\nLicense: MIT\n\nLicense: GPL-2+\n";
        assert_eq!(copyright(text).as_deref(), Some("GPL-2+, MIT"));
        assert_eq!(copyright(b"This is free software\nLicense: GPL\n"), None);
    }

    #[test]
    fn a_changelog_names_what_is_fixed() {
        use std::io::Write as _;
        let text = "bash (5.2-1) unstable; urgency=high\n\n  * CVE-2024-12345: fixed (CVE-2023-0001,CVE-2024-12345)\n  * CVE-2024-x CVE-\n";
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(fixes(&packed), ["CVE-2023-0001", "CVE-2024-12345"]);
        assert!(fixes(b"no").is_empty());
    }
}
