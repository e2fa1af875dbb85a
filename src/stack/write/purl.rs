//! Package URLs (<https://github.com/package-url/purl-spec>, ECMA-427).
//!
//! Takes a package; gives its URL, with everything in it percent-encoded that the specification says, for names come from images.

use crate::stack::package::{Distribution, Package, PackageType};

/// The URL of a package.
pub fn of(package: &Package, distribution: Option<&Distribution>) -> String {
    let vendor = || distribution.map_or_else(|| "unknown".to_owned(), |distribution| distribution.id.to_lowercase());
    let (kind, namespace, name) = match package.kind {
        PackageType::Deb => ("deb", vendor(), package.name.to_lowercase()),
        PackageType::Apk => ("apk", vendor(), package.name.to_lowercase()),
        PackageType::Rpm => ("rpm", vendor(), package.name.clone()),
        PackageType::Alpm => ("alpm", vendor(), package.name.to_lowercase()),
        PackageType::Pypi => ("pypi", String::new(), package.name.to_lowercase().replace('_', "-")),
        PackageType::Conda => ("conda", String::new(), package.name.clone()),
        PackageType::Cran => ("cran", String::new(), package.name.clone()),
        PackageType::Julia => ("julia", String::new(), package.name.clone()),
        PackageType::Npm => scoped("npm", &package.name),
        PackageType::Gem => ("gem", String::new(), package.name.clone()),
        PackageType::Cpan => ("cpan", String::new(), package.name.clone()),
        PackageType::Maven => match package.name.split_once(':') {
            Some((group, artifact)) => ("maven", group.to_owned(), artifact.to_owned()),
            None => ("maven", String::new(), package.name.clone()),
        },
        PackageType::Golang => scoped("golang", &package.name),
        PackageType::Cargo => ("cargo", String::new(), package.name.clone()),
        PackageType::Octave => ("generic", "octave".to_owned(), package.name.clone()),
        PackageType::Generic | PackageType::Model => ("generic", String::new(), package.name.clone()),
    };
    let mut url = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        url.push_str(&encoded(part));
        url.push('/');
    }
    url.push_str(&encoded(&name));
    let (epoch, version) = match package.kind {
        // RPM's epoch is a qualifier.
        PackageType::Rpm => {
            package.version.split_once(':').map_or((None, package.version.as_str()), |(e, v)| (Some(e), v))
        }
        _ => (None, package.version.as_str()),
    };
    if !version.is_empty() {
        url.push('@');
        url.push_str(&encoded(version));
    }
    let release =
        distribution.filter(|_| is_distributed(package.kind)).map(|found| format!("{}-{}", found.id, found.version_id));
    let qualifiers = [("arch", package.architecture.clone()), ("distro", release), ("epoch", epoch.map(str::to_owned))];
    let mut separator = '?';
    for (key, value) in qualifiers.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        if (is_distributed(package.kind)) && !value.is_empty() {
            url.push(separator);
            url.push_str(&format!("{key}={}", encoded(&value)));
            separator = '&';
        }
    }
    url
}

fn is_distributed(kind: PackageType) -> bool {
    matches!(kind, PackageType::Deb | PackageType::Apk | PackageType::Rpm | PackageType::Alpm)
}

/// What stands before the last slash is the namespace.
fn scoped(kind: &'static str, name: &str) -> (&'static str, String, String) {
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", name));
    (kind, namespace.to_owned(), name.to_owned())
}

/// Percent-encodes all but letters, digits and `.-_~`; a colon stays as it is.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Whether a text is a URL of a package that can be in an image.
pub fn is_package(text: &str) -> bool {
    text.starts_with("pkg:") && !text.starts_with("pkg:oci/") && !text.starts_with("pkg:docker/")
}

/// Whether the URL `said` means the package with the URL `own`: type, namespace and name are the same, and so is the version
/// where it names one. Of qualifiers it may name some or none.
pub fn matches(said: &str, own: &str) -> bool {
    let (said, own) = (Parts::of(said), Parts::of(own));
    let qualified = said.qualifiers.split('&').filter(|pair| !pair.is_empty());
    said.name == own.name
        && (said.version.is_empty() || said.version == own.version)
        && qualified.into_iter().all(|pair| own.qualifiers.split('&').any(|own| own == pair))
}

struct Parts {
    name: String,
    version: String,
    qualifiers: String,
}

impl Parts {
    fn of(url: &str) -> Self {
        let url = url.split('#').next().unwrap_or(url);
        let (url, qualifiers) = url.split_once('?').unwrap_or((url, ""));
        let (name, version) = url.rsplit_once('@').unwrap_or((url, ""));
        Self { name: decoded(name), version: decoded(version), qualifiers: decoded(qualifiers) }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
