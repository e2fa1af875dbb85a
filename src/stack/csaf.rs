//! CSAF 2.0 documents (OASIS, "Common Security Advisory Framework Version 2.0"), as far as waivers and vulnerability data are in them.
//!
//! Takes the bytes of a document; gives its product tree and vulnerabilities as types; trusts nothing: what is missing is empty, what is
//! of another type is malformed.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// How often a product may be a component of a component.
const DEPTH: usize = 4;

/// A document.
#[derive(Debug, Deserialize)]
pub struct Document {
    /// Who says it, and when.
    pub document: About,
    /// What it is about.
    #[serde(default)]
    pub product_tree: Tree,
    /// What it says.
    #[serde(default)]
    pub vulnerabilities: Vec<Vulnerability>,
}

/// Who says it, and when.
#[derive(Debug, Deserialize)]
pub struct About {
    /// The profile: `csaf_vex`, `csaf_security_advisory`.
    #[serde(default)]
    pub category: String,
    /// In a line.
    #[serde(default)]
    pub title: String,
    /// Who.
    #[serde(default)]
    pub publisher: Publisher,
    /// When.
    pub tracking: Tracking,
}

/// Who says it.
#[derive(Debug, Default, Deserialize)]
pub struct Publisher {
    /// By name.
    #[serde(default)]
    pub name: String,
}

/// Which document it is, and from when.
#[derive(Debug, Deserialize)]
pub struct Tracking {
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Its last change, RFC 3339.
    #[serde(default)]
    pub current_release_date: String,
    /// `final`, `interim`, `draft`; of one that was taken back, `deleted` (Red Hat).
    #[serde(default)]
    pub status: String,
}

/// Products, in a tree and as components of one another.
#[derive(Debug, Default, Deserialize)]
pub struct Tree {
    #[serde(default)]
    branches: Vec<Branch>,
    #[serde(default)]
    full_product_names: Vec<FullName>,
    #[serde(default)]
    relationships: Vec<Relationship>,
}

#[derive(Debug, Deserialize)]
struct Branch {
    #[serde(default)]
    branches: Vec<Branch>,
    #[serde(default)]
    product: Option<FullName>,
}

/// A product.
#[derive(Debug, Deserialize)]
pub struct FullName {
    /// As people call it.
    #[serde(default)]
    pub name: String,
    /// As the document calls it.
    pub product_id: String,
    #[serde(default)]
    product_identification_helper: Helper,
}

#[derive(Debug, Default, Deserialize)]
struct Helper {
    #[serde(default)]
    purl: Option<String>,
    #[serde(default)]
    cpe: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Relationship {
    product_reference: String,
    relates_to_product_reference: String,
    full_product_name: FullName,
}

/// A vulnerability.
#[derive(Debug, Deserialize)]
pub struct Vulnerability {
    #[serde(default)]
    cve: Option<String>,
    #[serde(default)]
    ids: Vec<Id>,
    /// In a line.
    #[serde(default)]
    pub title: String,
    /// Products, by what is said of them.
    #[serde(default)]
    pub product_status: BTreeMap<String, Vec<String>>,
    /// Why a product is not affected.
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// What it does to products.
    #[serde(default)]
    pub threats: Vec<Threat>,
    /// What is done about it.
    #[serde(default)]
    pub remediations: Vec<Remediation>,
    /// How bad it is.
    #[serde(default)]
    pub scores: Vec<Score>,
}

#[derive(Debug, Deserialize)]
struct Id {
    text: String,
}

/// Why a product is not affected.
#[derive(Debug, Deserialize)]
pub struct Flag {
    /// A word of VEX.
    pub label: String,
    /// Which products.
    #[serde(default)]
    pub product_ids: Vec<String>,
}

/// What it does to products.
#[derive(Debug, Deserialize)]
pub struct Threat {
    /// `impact`, `exploit_status`, `target_set`.
    pub category: String,
    /// In words; of an impact, Red Hat's and SUSE's rating.
    pub details: String,
    /// Which products.
    #[serde(default)]
    pub product_ids: Vec<String>,
}

/// What is done about it.
#[derive(Debug, Deserialize)]
pub struct Remediation {
    /// `vendor_fix`, `none_available`, `no_fix_planned`, `workaround`, `mitigation`.
    pub category: String,
    /// In words.
    #[serde(default)]
    pub details: String,
    /// Which products.
    #[serde(default)]
    pub product_ids: Vec<String>,
}

/// How bad it is.
#[derive(Debug, Deserialize)]
pub struct Score {
    /// Which products.
    #[serde(default)]
    pub products: Vec<String>,
    /// CVSS 3.
    #[serde(default)]
    pub cvss_v3: Option<Vector>,
}

/// A CVSS vector.
#[derive(Debug, Deserialize)]
pub struct Vector {
    /// Its text.
    #[serde(rename = "vectorString", default)]
    pub text: String,
}

impl Vulnerability {
    /// Its names, a CVE's first.
    pub fn ids(&self) -> Vec<String> {
        self.cve.iter().chain(self.ids.iter().map(|id| &id.text)).cloned().collect()
    }
}

impl FullName {
    /// Its package URL.
    pub fn purl(&self) -> Option<&str> {
        self.product_identification_helper.purl.as_deref()
    }

    /// Its name in the Common Platform Enumeration.
    pub fn cpe(&self) -> Option<&str> {
        self.product_identification_helper.cpe.as_deref()
    }
}

#[cfg(test)]
impl FullName {
    /// A product, for tests.
    pub(super) fn named(name: &str, product_id: &str, purl: Option<&str>, cpe: Option<&str>) -> Self {
        let product_identification_helper = Helper { purl: purl.map(str::to_owned), cpe: cpe.map(str::to_owned) };
        Self { name: name.to_owned(), product_id: product_id.to_owned(), product_identification_helper }
    }
}

/// The products of a document, to be looked up.
#[derive(Debug)]
pub struct Products<'d> {
    all: HashMap<&'d str, &'d FullName>,
    components: HashMap<&'d str, (&'d str, &'d str)>,
}

impl Tree {
    /// All of them.
    pub fn products(&self) -> Products<'_> {
        let mut look: Vec<&Branch> = self.branches.iter().collect();
        let mut products: Vec<&FullName> = self.full_product_names.iter().collect();
        while let Some(branch) = look.pop() {
            products.extend(&branch.product);
            look.extend(&branch.branches);
        }
        products.extend(self.relationships.iter().map(|relation| &relation.full_product_name));
        Products {
            all: products.into_iter().map(|product| (product.product_id.as_str(), product)).collect(),
            components: self
                .relationships
                .iter()
                .map(|relation| {
                    let parts = (relation.product_reference.as_str(), relation.relates_to_product_reference.as_str());
                    (relation.full_product_name.product_id.as_str(), parts)
                })
                .collect(),
        }
    }
}

impl<'d> Products<'d> {
    /// The product of that id.
    pub fn named(&self, id: &str) -> Option<&'d FullName> {
        self.all.get(id).copied()
    }

    /// What it is a component of, and which component it is.
    pub fn component(&self, id: &str) -> Option<(&'d str, &'d str)> {
        self.components.get(id).copied()
    }

    /// The package that a component is in the end, and the platform that it is on.
    pub fn package_and_platform(&self, id: &str) -> Option<(&'d FullName, &'d FullName)> {
        let (mut package, mut platform) = self.component(id)?;
        for _ in 0..DEPTH {
            package = self.component(package).map_or(package, |(part, _)| part);
            platform = self.component(platform).map_or(platform, |(_, whole)| whole);
        }
        Some((self.named(package)?, self.named(platform)?))
    }
}
