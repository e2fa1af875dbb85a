//! Java archives: what Maven has written into them (`META-INF/maven/…/pom.properties`), else the manifest (JAR File
//! Specification), else the file's name. Archives in archives are read down to the fourth level.

use std::io;

use super::super::package::{Package, PackageType};
use super::super::zip::{Archive, Member};
use super::{Source, licence, package, split};

/// The largest directory of an archive, and the most members.
const DIRECTORY_MAX: usize = 48 << 20;
const MEMBERS_MAX: usize = 200_000;
/// Levels of archives in archives; the jar itself counts.
const DEPTH_MAX: usize = 4;
/// The largest archive in an archive.
const NESTED_MAX: usize = 64 << 20;
/// Bytes of archives in one archive, all together.
const NESTED_TOTAL: usize = 256 << 20;
/// The largest description.
const TEXT_MAX: usize = 256 << 10;
/// After so many that cannot be read the rest is not tried.
const UNREAD_MAX: usize = 100;
/// The most packages of one archive.
const PACKAGES_MAX: usize = 10_000;

/// Whether a file's name is that of a Java archive.
pub fn is_archive(path: &str) -> bool {
    let extension = split(path).1.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|e| ["jar", "war", "ear", "jpi", "hpi"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// What is in an archive, and what of it could not be read.
#[derive(Debug, Default)]
pub struct Found {
    /// Packages; one in an archive in the archive has the place `OUTER!/INNER`.
    pub packages: Vec<Package>,
    /// Places and reasons.
    pub unread: Vec<(String, String)>,
}

/// Reads the archive at `place`.
pub fn read(source: &(impl Source + ?Sized), place: &str) -> Found {
    let (mut found, mut left) = (Found::default(), NESTED_TOTAL);
    archive(source, place, 1, &mut left, &mut found);
    found
}

fn archive(source: &(impl Source + ?Sized), place: &str, depth: usize, left: &mut usize, found: &mut Found) {
    let opened = || -> io::Result<_> {
        let mut zip = Archive::open(source, DIRECTORY_MAX)?;
        let members = zip.members(MEMBERS_MAX)?;
        Ok((zip, members))
    };
    let (zip, members) = match opened() {
        Ok(zip) => zip,
        Err(e) => return found.unread.push((place.to_owned(), e.to_string())),
    };
    let before = found.packages.len();
    let text = |name: &str| {
        let bytes = zip.read(members.iter().find(|member| member.name == name)?, TEXT_MAX).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let manifest = text("META-INF/MANIFEST.MF").map(|text| text.replace("\r\n ", "").replace("\n ", ""));
    let declared = manifest.as_deref().and_then(|text| attribute(text, "Bundle-License")).and_then(licence);
    for member in members.iter().filter(|member| is_properties(&member.name)) {
        if found.unread.len() > UNREAD_MAX {
            break;
        }
        if found.packages.len() - before >= PACKAGES_MAX {
            found.unread.push((place.to_owned(), format!("more than {PACKAGES_MAX} packages in one archive")));
            break;
        }
        match zip.read(member, TEXT_MAX) {
            Ok(bytes) => found.packages.extend(properties(&String::from_utf8_lossy(&bytes), place)),
            Err(e) => found.unread.push((inner(place, member), e.to_string())),
        }
    }
    match found.packages.get_mut(before..) {
        // Its own, if it is one library and not many.
        Some([only]) => only.licence = declared,
        Some([]) => {
            let mut own = by_manifest(manifest.as_deref().unwrap_or_default(), place);
            if let Some(own) = &mut own {
                own.licence = declared;
            }
            found.packages.extend(own);
        }
        _ => {}
    }
    for member in members.iter().filter(|member| is_archive(&member.name) && !member.name.ends_with('/')) {
        let inner = inner(place, member);
        if inner.len() > 4096 {
            continue;
        }
        if depth >= DEPTH_MAX {
            found.unread.push((inner, format!("archives nested deeper than {DEPTH_MAX}")));
            continue;
        }
        match zip.read(member, NESTED_MAX.min(*left)) {
            Ok(bytes) => {
                *left = left.saturating_sub(bytes.len());
                archive(bytes.as_slice(), &inner, depth + 1, left, found);
            }
            Err(e) => found.unread.push((inner, e.to_string())),
        }
        if found.unread.len() > UNREAD_MAX || found.packages.len() > 10 * PACKAGES_MAX {
            return;
        }
    }
}

/// The place of a member of the archive at `place`.
fn inner(place: &str, member: &Member) -> String {
    format!("{place}!/{}", member.name)
}

fn is_properties(name: &str) -> bool {
    name.starts_with("META-INF/maven/") && name.ends_with("/pom.properties")
}

fn properties(text: &str, place: &str) -> Option<Package> {
    let value = |key: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once(['=', ':']));
        pairs.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim()).next()
    };
    let name = format!("{}:{}", value("groupId")?, value("artifactId")?);
    package(PackageType::Maven, &name, value("version")?, place)
}

/// A main attribute of a manifest.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).find(|v| !v.is_empty())
}

fn by_manifest(text: &str, place: &str) -> Option<Package> {
    let file = split(place).1;
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    // `NAME-1.2.3.jar`
    let numbered = stem.match_indices('-').find(|(at, _)| stem.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit));
    let (base, number) = numbered.map_or((stem, ""), |(at, _)| stem.split_at(at));
    let first = |names: &[&str]| names.iter().find_map(|name| attribute(text, name));
    let symbolic = first(&["Bundle-SymbolicName"]).and_then(|name| name.split(';').next());
    let name = symbolic.or_else(|| first(&["Automatic-Module-Name"])).unwrap_or(base);
    let version = first(&["Bundle-Version", "Implementation-Version", "Specification-Version"]);
    package(PackageType::Maven, name, version.unwrap_or_else(|| number.trim_start_matches('-')), place)
}

#[cfg(test)]
mod tests {
    use super::super::super::zip::stored;
    use super::*;

    fn pom(artifact: &str) -> (String, Vec<u8>) {
        let name = format!("META-INF/maven/org.x/{artifact}/pom.properties");
        (name, format!("#c\r\ngroupId=org.x\r\nartifactId={artifact}\r\nversion=1.2\r\n").into_bytes())
    }

    fn names(found: &Found) -> Vec<(String, String)> {
        found.packages.iter().map(|p| (format!("{}@{}", p.name, p.version), p.place.clone())).collect()
    }

    #[test]
    fn a_jar_tells_what_maven_wrote_into_it_and_jars_in_it() {
        let (name, text) = pom("inner");
        let mut bytes = stored(&[(&name, &text)]);
        let (name, text) = pom("a");
        bytes = stored(&[(&name, &text), ("BOOT-INF/lib/inner.jar", &bytes)]);
        let found = read(bytes.as_slice(), "opt/app.jar");
        let pair = |name: &str, place: &str| (name.to_owned(), place.to_owned());
        assert_eq!(
            names(&found),
            [pair("org.x:a@1.2", "opt/app.jar"), pair("org.x:inner@1.2", "opt/app.jar!/BOOT-INF/lib/inner.jar")]
        );
        for _ in 0..5 {
            bytes = stored(&[("x.jar", &bytes)]);
        }
        let found = read(bytes.as_slice(), "deep.jar");
        assert!(found.unread[0].1.contains("deeper"), "{found:?}");
        assert_eq!(found.packages.len(), 4);
    }

    #[test]
    fn without_maven_the_manifest_and_the_name_tell() {
        let manifest = b"Manifest-Version: 1.0\r\nBundle-SymbolicName: org.ex\r\n ample;singleton:=true\r\nBundle-Version: 3.1\r\nBundle-License: MIT\r\n";
        let found = read(stored(&[("META-INF/MANIFEST.MF", manifest)]).as_slice(), "x/foo-2.0.jar");
        assert_eq!(names(&found), [("org.example@3.1".to_owned(), "x/foo-2.0.jar".to_owned())]);
        assert_eq!(found.packages[0].licence.as_deref(), Some("MIT"));
        let found = read(stored(&[]).as_slice(), "x/commons-io-2.11.0.jar");
        assert_eq!(names(&found)[0].0, "commons-io@2.11.0");
        assert_eq!(read(b"no".as_slice(), "x.jar").unread.len(), 1);
    }
}
