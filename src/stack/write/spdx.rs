//! SPDX 2.3 as JSON (ISO/IEC 5962; <https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! Takes a stack; gives the document: the image as the package that it describes, and what it contains. Deterministic.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::purl;
use crate::stack::licence;
use crate::stack::package::{Package, Stack};

/// The document.
pub fn document(stack: &Stack) -> Value {
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("oci:{}", stack.image).as_bytes());
    let packages = stack.packages.iter().enumerate().map(|(number, found)| package(stack, number, found));
    let contains = (0..stack.packages.len()).map(|number| relation("SPDXRef-Image", "CONTAINS", &reference(number)));
    let describes = relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image");
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": stack.image,
        "documentNamespace": format!("https://spdx.org/spdxdocs/ces-{uuid}"),
        "creationInfo": {
            "created": seconds(&stack.pulled),
            "creators": [format!("Tool: ces-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": std::iter::once(image(stack)).chain(packages).collect::<Vec<_>>(),
        "relationships": std::iter::once(describes).chain(contains).collect::<Vec<_>>(),
    })
}

/// SPDX allows whole seconds of UTC alone.
fn seconds(time: &str) -> String {
    match jiff::fmt::temporal::DateTimeParser::new().parse_timestamp(time) {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => "1970-01-01T00:00:00Z".to_owned(),
    }
}

fn reference(number: usize) -> String {
    format!("SPDXRef-Package-{number}")
}

fn relation(from: &str, kind: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to})
}

fn image(stack: &Stack) -> Value {
    let mut out = json!({
        "SPDXID": "SPDXRef-Image",
        "name": stack.image,
        "versionInfo": stack.image,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    });
    if let (Some(hex), Some(image)) = (stack.image.strip_prefix("sha256:"), out.as_object_mut()) {
        image.insert("checksums".to_owned(), json!([{"algorithm": "SHA256", "checksumValue": hex}]));
    }
    out
}

fn package(stack: &Stack, number: usize, package: &Package) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("SPDXID", json!(reference(number)));
    put("name", json!(package.name));
    if !package.version.is_empty() {
        put("versionInfo", json!(package.version));
    }
    put("downloadLocation", json!("NOASSERTION"));
    put("filesAnalyzed", json!(false));
    put("licenseConcluded", json!("NOASSERTION"));
    put("copyrightText", json!("NOASSERTION"));
    let expression = package.licence.as_ref().map(|declared| (declared, licence::expression(package.kind, declared)));
    match expression {
        Some((_, Some(expression))) => drop(put("licenseDeclared", json!(expression))),
        // What it says is kept, as the words that it is.
        Some((declared, None)) => {
            put("licenseDeclared", json!("NOASSERTION"));
            put("licenseComments", json!(format!("declared: {declared}")));
        }
        None => drop(put("licenseDeclared", json!("NOASSERTION"))),
    }
    let source = match (&package.source, &package.owner) {
        (Some((name, version)), _) => format!("{}; built from {name} {version}", package.place),
        (None, Some(owner)) => format!("{}; part of {owner}", package.place),
        (None, None) => package.place.clone(),
    };
    put("sourceInfo", json!(source));
    put(
        "externalRefs",
        json!([{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl::of(package, stack.distribution.as_ref()),
        }]),
    );
    Value::Object(out)
}
