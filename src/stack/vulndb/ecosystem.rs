//! Ecosystems as OSV names them: which order their versions have, and where a package of an image is looked up.
//!
//! A package of a distribution is looked up in that distribution's data alone, under its source package; one of a language in
//! that language's. Where there is no place to look, the answer says why: such a package is not judged, and never clean.

use std::borrow::Cow;

use crate::stack::package::{Distribution, Package, PackageType};
use crate::stack::version::Order;

/// Which order the versions of an ecosystem have; nothing for ecosystems that no package of an image can be of.
pub fn order(ecosystem: &str) -> Option<Order> {
    Some(match ecosystem.split(':').next().unwrap_or(ecosystem) {
        "Debian" | "Ubuntu" => Order::Deb,
        "Alpine" | "Wolfi" | "Chainguard" => Order::Apk,
        "AlmaLinux" | "Rocky Linux" | "Red Hat" | "SUSE" | "openSUSE" | "Mageia" | "openEuler" | "Azure Linux" => {
            Order::Rpm
        }
        "PyPI" => Order::Pep440,
        "npm" | "crates.io" | "Julia" => Order::Semver,
        "Go" => Order::Go,
        "Maven" => Order::Maven,
        "RubyGems" => Order::Gem,
        "CRAN" | "Bioconductor" => Order::R,
        _ => return None,
    })
}

/// A name as the ecosystem compares it: Python's in any spelling (PEP 503).
pub fn normal<'n>(ecosystem: &str, name: &'n str) -> Cow<'n, str> {
    let is_normal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if ecosystem != "PyPI" || name.bytes().all(is_normal) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    Cow::Owned(out)
}

/// One or several ecosystems: `Red Hat:enterprise_linux:9::baseos` and its sisters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystems {
    /// This one.
    One(String),
    /// All with this beginning and this end.
    Like(String, String),
}

impl Ecosystems {
    /// Whether `ecosystem` is one of them.
    pub fn hold(&self, ecosystem: &str) -> bool {
        match self {
            Self::One(one) => one == ecosystem,
            Self::Like(begin, end) => ecosystem.starts_with(begin) && ecosystem.ends_with(end),
        }
    }
}

/// Where to look for a package, under which names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// In which ecosystems; one that has data is enough.
    pub ecosystems: Vec<Ecosystems>,
    /// Name and version, each as the ecosystem has them.
    pub names: Vec<(String, String)>,
}

/// Why there is no place to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// A package of the distribution has it, and is judged in its stead.
    Owned,
    /// For this reason it cannot be judged.
    Because(String),
}

/// Where `package` is looked up.
///
/// # Errors
/// Why nowhere.
pub fn place(package: &Package, distribution: Option<&Distribution>) -> Result<Place, Nowhere> {
    let because = |why: &str| Err(Nowhere::Because(why.to_owned()));
    let distributed =
        matches!(package.kind, PackageType::Deb | PackageType::Apk | PackageType::Rpm | PackageType::Alpm);
    if package.owner.is_some() && !distributed {
        return Err(Nowhere::Owned);
    }
    if package.unjudged {
        return because("its version is none of a release");
    }
    let ecosystem = match package.kind {
        PackageType::Deb | PackageType::Apk | PackageType::Rpm => {
            let Some(distribution) = distribution else { return because("the image does not name its distribution") };
            return distribution_place(package, distribution);
        }
        PackageType::Pypi => "PyPI",
        PackageType::Cran => "CRAN",
        PackageType::Julia => "Julia",
        PackageType::Npm => "npm",
        PackageType::Gem => "RubyGems",
        PackageType::Maven => "Maven",
        PackageType::Golang => "Go",
        PackageType::Cargo => "crates.io",
        PackageType::Alpm | PackageType::Conda | PackageType::Cpan | PackageType::Octave => {
            return because("no source tells of packages of this kind");
        }
        PackageType::Generic | PackageType::Model => return because("it is known by its file alone"),
    };
    let ecosystems = match ecosystem {
        // R's two repositories have different packages, and a library does not say which one is from where.
        "CRAN" => ["CRAN", "Bioconductor"].map(|name| Ecosystems::One(name.to_owned())).to_vec(),
        one => vec![Ecosystems::One(one.to_owned())],
    };
    Ok(Place { ecosystems, names: vec![(normal(ecosystem, &package.name).into_owned(), package.version.clone())] })
}

fn distribution_place(package: &Package, distribution: &Distribution) -> Result<Place, Nowhere> {
    let none = || Nowhere::Because(format!("no source tells of the distribution {:?}", distribution.id));
    let ecosystems = ecosystems(package.kind, distribution).ok_or_else(none)?;
    let own = (package.name.clone(), package.version.clone());
    let source = package.source.clone();
    let names = match package.kind {
        // Errata of RPM distributions list binary packages or source packages.
        PackageType::Rpm => [Some(own), source].into_iter().flatten().collect(),
        _ => vec![source.unwrap_or(own)],
    };
    Ok(Place { ecosystems, names })
}

fn ecosystems(kind: PackageType, distribution: &Distribution) -> Option<Vec<Ecosystems>> {
    let (id, version) = (distribution.id.as_str(), distribution.version_id.as_str());
    let major = version.split('.').next().unwrap_or(version);
    let minor = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let one = |text: String| Ecosystems::One(text);
    let named = !version.is_empty();
    Some(match (kind, id) {
        (PackageType::Deb, "debian") => {
            let by_number = named.then(|| one(format!("Debian:{major}")));
            let by_name = distribution.codename.as_ref().map(|codename| one(format!("Debian:{codename}")));
            [by_number, by_name].into_iter().flatten().collect()
        }
        (PackageType::Deb, "ubuntu") if named => {
            vec![one(format!("Ubuntu:{version}")), one(format!("Ubuntu:{version}:LTS"))]
        }
        (PackageType::Apk, "alpine") if named => vec![one(format!("Alpine:v{minor}"))],
        (PackageType::Apk, "wolfi") => vec![one("Wolfi".to_owned())],
        (PackageType::Apk, "chainguard") => vec![one("Chainguard".to_owned())],
        (PackageType::Rpm, "almalinux") if named => vec![one(format!("AlmaLinux:{major}"))],
        (PackageType::Rpm, "rocky") if named => vec![one(format!("Rocky Linux:{major}"))],
        (PackageType::Rpm, "rhel") if named => vec![
            one(format!("Red Hat:enterprise_linux:{major}")),
            Ecosystems::Like(format!("Red Hat:enterprise_linux:{major}::"), String::new()),
        ],
        (PackageType::Rpm, "opensuse-leap") if named => vec![one(format!("openSUSE:Leap {version}"))],
        (PackageType::Rpm, "sles") if named => {
            let service_pack =
                version.split_once('.').map_or_else(|| major.to_owned(), |(major, sp)| format!("{major} SP{sp}"));
            vec![Ecosystems::Like("SUSE:Linux Enterprise ".to_owned(), format!(" {service_pack}"))]
        }
        (PackageType::Rpm, "mageia") if named => vec![one(format!("Mageia:{major}"))],
        (PackageType::Rpm, "azurelinux") if named => vec![one(format!("Azure Linux:{major}"))],
        (PackageType::Rpm, "openEuler") if named => {
            vec![Ecosystems::Like(format!("openEuler:{version}"), String::new())]
        }
        _ => return None,
    })
}
