//! Waivers: who said that a vulnerability does not matter here, why, and until when.
//!
//! Takes OpenVEX documents (<https://github.com/openvex/spec>, 0.2.0) and CSAF 2.0 ones of the VEX profile; gives statements; trusts
//! that whoever may waive wrote them, and nothing about their form. A waiver is shown beside what it waives, never subtracted in
//! silence; one without a reason, or whose day is over, waives nothing.
//!
//! OpenVEX has no last day: the key `expires`, a day, of the document or of a statement, is an extension that other readers ignore.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::csaf::{self, Products};
use super::package::{Package, Stack};
use super::write::purl;

/// What a statement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The vulnerability does not matter: waives.
    NotAffected,
    /// This version has the fix, whatever its number says: waives.
    Fixed,
    /// It matters.
    Affected,
    /// Nobody knows yet.
    UnderInvestigation,
}

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    /// One image, by digest, and perhaps a package in it.
    Image(String, Option<String>),
    /// A package, by its URL, in any image.
    Package(String),
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it says, for people and documents.
    pub waiver: Waiver,
    ids: Vec<String>,
    subjects: Vec<Subject>,
}

/// A statement as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiver {
    /// The file it is from.
    pub file: String,
    /// The vulnerability, as it names it.
    pub vulnerability: String,
    /// What it says.
    pub status: Status,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub author: String,
    /// When it was said, RFC 3339.
    pub said: String,
    /// The last day on which it holds; none: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Date>,
}

impl Waiver {
    /// Whether it waives on `today`: the right status, a reason, an author, and a last day that is not over.
    pub fn holds(&self, today: Date) -> bool {
        let said = matches!(self.status, Status::NotAffected | Status::Fixed);
        let reasoned = self.status == Status::Fixed || !self.reason.is_empty();
        said && reasoned && !self.author.is_empty() && self.expires.is_none_or(|last| today <= last)
    }
}

/// All statements, the latest last.
#[derive(Clone, Debug, Default)]
pub struct Waivers(Vec<Statement>);

impl Waivers {
    /// Of several documents.
    pub fn new(documents: impl IntoIterator<Item = Vec<Statement>>) -> Self {
        let mut all: Vec<Statement> = documents.into_iter().flatten().collect();
        all.sort_by(|a, b| a.waiver.said.cmp(&b.waiver.said).then_with(|| a.waiver.cmp(&b.waiver)));
        Self(all)
    }

    /// These and those of one more document.
    #[must_use]
    pub fn and(self, document: Vec<Statement>) -> Self {
        Self::new([self.0, document])
    }

    /// The latest statement about one of `ids` in `package` of `stack`.
    pub fn about(&self, stack: &Stack, package: &Package, ids: &[&str]) -> Option<&Waiver> {
        let speaks = |statement: &&Statement| statement.ids.iter().any(|id| ids.contains(&id.as_str()));
        let url = || purl::of(package, stack.distribution.as_ref());
        let mut rest = self.0.iter().rev().filter(speaks);
        rest.find(|statement| statement.subjects.iter().any(|subject| is_about(subject, stack, &url())))
            .map(|found| &found.waiver)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_about(subject: &Subject, stack: &Stack, url: &str) -> bool {
    match subject {
        Subject::Image(digest, None) => *digest == stack.image,
        Subject::Image(digest, Some(package)) => *digest == stack.image && purl::matches(package, url),
        Subject::Package(package) => purl::matches(package, url),
    }
}

/// Reads a document of either format; `file` is its name.
///
/// # Errors
/// In what way it is neither.
pub fn parse(bytes: &[u8], file: &str) -> Result<Vec<Statement>, String> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(default)]
        statements: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        product_tree: Option<serde::de::IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    match (kind.statements, kind.product_tree) {
        (Some(_), None) => openvex(bytes, file),
        (None, Some(_)) => of_csaf(bytes, file),
        _ => Err("it is neither an OpenVEX document nor a CSAF one of the VEX profile".to_owned()),
    }
}

#[derive(Deserialize)]
struct OpenVex {
    author: String,
    timestamp: String,
    #[serde(default)]
    expires: Option<Date>,
    statements: Vec<OpenStatement>,
}

#[derive(Deserialize)]
struct OpenStatement {
    vulnerability: Named,
    #[serde(default)]
    products: Vec<Product>,
    status: Status,
    #[serde(default)]
    justification: Option<String>,
    #[serde(default)]
    impact_statement: Option<String>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    expires: Option<Date>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    Names {
        name: String,
        #[serde(default)]
        aliases: Vec<String>,
    },
}

#[derive(Deserialize)]
struct Product {
    #[serde(rename = "@id", default)]
    id: String,
    #[serde(default)]
    identifiers: BTreeMap<String, String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    subcomponents: Vec<Product>,
}

impl Product {
    fn names(&self) -> impl Iterator<Item = &str> {
        [self.id.as_str()]
            .into_iter()
            .chain(self.identifiers.get("purl").map(String::as_str))
            .filter(|name| !name.is_empty())
    }

    fn subjects(&self) -> Vec<Subject> {
        let by_hash = self.hashes.get("sha-256").map(|hex| format!("sha256:{}", hex.to_ascii_lowercase()));
        let image = by_hash.or_else(|| self.names().find_map(image_digest));
        let Some(image) = image else {
            // A product that is no image and has parts: the parts are meant where they are packages.
            let parts = self.subcomponents.iter().flat_map(Product::names);
            let own = self.names().filter(|_| self.subcomponents.is_empty());
            return own
                .chain(parts)
                .filter(|name| purl::is_package(name))
                .map(|name| Subject::Package(name.to_owned()))
                .collect();
        };
        match self.subcomponents.as_slice() {
            [] => vec![Subject::Image(image, None)],
            parts => parts
                .iter()
                .flat_map(Product::names)
                .map(|name| Subject::Image(image.clone(), Some(name.to_owned())))
                .collect(),
        }
    }
}

/// The digest in `pkg:oci/name@sha256:…` (also with `%3A`), in `name@sha256:…`, or alone.
fn image_digest(name: &str) -> Option<String> {
    let name = name.replace("%3A", ":").replace("%3a", ":");
    let is_other = name.starts_with("pkg:") && !name.starts_with("pkg:oci/") && !name.starts_with("pkg:docker/");
    let (_, hex) = name.split_once("sha256:").filter(|_| !is_other)?;
    let hex: String = hex.chars().take_while(char::is_ascii_hexdigit).collect();
    (hex.len() == 64).then(|| format!("sha256:{}", hex.to_ascii_lowercase()))
}

fn openvex(bytes: &[u8], file: &str) -> Result<Vec<Statement>, String> {
    let document: OpenVex = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let statement = |statement: OpenStatement| {
        let (name, mut ids) = match statement.vulnerability {
            Named::Name(name) => (name, Vec::new()),
            Named::Names { name, aliases } => (name, aliases),
        };
        ids.push(name.clone());
        let reason =
            [statement.justification, statement.impact_statement].into_iter().flatten().collect::<Vec<_>>().join(": ");
        Statement {
            waiver: Waiver {
                file: file.to_owned(),
                vulnerability: name,
                status: statement.status,
                reason,
                author: document.author.clone(),
                said: statement.timestamp.unwrap_or_else(|| document.timestamp.clone()),
                expires: statement.expires.or(document.expires),
            },
            ids,
            subjects: statement.products.iter().flat_map(Product::subjects).collect(),
        }
    };
    Ok(document.statements.into_iter().map(statement).collect())
}

fn of_csaf(bytes: &[u8], file: &str) -> Result<Vec<Statement>, String> {
    let document: csaf::Document = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let products = document.product_tree.products();
    let mut statements = Vec::new();
    for vulnerability in &document.vulnerabilities {
        let ids = vulnerability.ids();
        let Some(name) = ids.first() else { continue };
        for (status, listed) in &vulnerability.product_status {
            let status = match status.as_str() {
                "known_not_affected" => Status::NotAffected,
                "fixed" | "first_fixed" => Status::Fixed,
                "known_affected" | "first_affected" | "last_affected" => Status::Affected,
                "under_investigation" => Status::UnderInvestigation,
                _ => continue,
            };
            for product in listed {
                let of = |ids: &[String]| ids.contains(product);
                let flags =
                    vulnerability.flags.iter().filter(|flag| of(&flag.product_ids)).map(|flag| flag.label.as_str());
                let impact = vulnerability
                    .threats
                    .iter()
                    .filter(|threat| threat.category == "impact" && of(&threat.product_ids));
                let reason = flags.chain(impact.map(|threat| threat.details.as_str())).collect::<Vec<_>>().join(": ");
                statements.push(Statement {
                    waiver: Waiver {
                        file: file.to_owned(),
                        vulnerability: name.clone(),
                        status,
                        reason,
                        author: document.document.publisher.name.clone(),
                        said: document.document.tracking.current_release_date.clone(),
                        expires: None,
                    },
                    ids: ids.clone(),
                    subjects: csaf_subject(product, &products).into_iter().collect(),
                });
            }
        }
    }
    Ok(statements)
}

/// A product of the tree, or one as a part of another.
fn csaf_subject(product: &str, products: &Products<'_>) -> Option<Subject> {
    let subject = |id: &str| {
        let url = products.named(id)?.purl()?;
        match image_digest(url) {
            Some(digest) => Some(Subject::Image(digest, None)),
            None => purl::is_package(url).then(|| Subject::Package(url.to_owned())),
        }
    };
    match products.component(product) {
        None => subject(product),
        Some((part, whole)) => match (subject(part)?, subject(whole)) {
            (Subject::Package(part), Some(Subject::Image(digest, None))) => Some(Subject::Image(digest, Some(part))),
            (part, _) => Some(part),
        },
    }
}
