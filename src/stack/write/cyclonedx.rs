//! CycloneDX 1.6 as JSON (ECMA-424; <https://cyclonedx.org/docs/1.6/json/>).
//!
//! Takes a stack, and a verdict if there is one; gives the document: an image as the component that it describes, its packages as
//! components, vulnerabilities with what was said about them. Deterministic.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::purl;
use crate::stack::licence;
use crate::stack::package::{Package, PackageType, Stack};
use crate::stack::verdict::{Known, Verdict};
use crate::stack::vex::Status;
use crate::stack::vulndb::severity::Severity;

/// The document.
pub fn document(stack: &Stack, verdict: Option<&Verdict>) -> Value {
    let mut out = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial(stack),
        "version": 1,
        "metadata": {
            "timestamp": stack.pulled,
            "tools": {"components": [{"type": "application", "name": "ces", "version": env!("CARGO_PKG_VERSION")}]},
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": stack.image,
                "version": stack.image,
                "hashes": hash(&stack.image),
            },
        },
        "components": components(stack),
        "dependencies": [{"ref": "image", "dependsOn": (0..stack.packages.len()).map(reference).collect::<Vec<_>>()}],
    });
    let known = verdict.map(|verdict| verdict.known.iter().map(vulnerability).collect::<Vec<_>>());
    if let (Some(known), Some(document)) = (known, out.as_object_mut()) {
        document.insert("vulnerabilities".to_owned(), Value::Array(known));
    }
    out
}

/// UUID of version 5 (RFC 9562) in the namespace of URLs, made from the image's digest: the same image, the same number.
fn serial(stack: &Stack) -> String {
    let uuid = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("oci:{}", stack.image).as_bytes());
    format!("urn:uuid:{uuid}")
}

fn hash(digest: &str) -> Value {
    match digest.strip_prefix("sha256:") {
        Some(hex) => json!([{"alg": "SHA-256", "content": hex}]),
        None => json!([]),
    }
}

fn reference(number: usize) -> String {
    format!("package-{number}")
}

fn components(stack: &Stack) -> Vec<Value> {
    let system = stack.distribution.iter().map(|found| {
        json!({"type": "operating-system", "bom-ref": "distribution", "name": found.id, "version": found.version_id})
    });
    let packages = stack.packages.iter().enumerate().map(|(number, package)| component(stack, number, package));
    system.chain(packages).collect()
}

fn component(stack: &Stack, number: usize, package: &Package) -> Value {
    let kind = match package.kind {
        PackageType::Model => "machine-learning-model",
        _ => "library",
    };
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("type", json!(kind));
    put("bom-ref", json!(reference(number)));
    match package.name.split_once(':').filter(|_| package.kind == PackageType::Maven) {
        Some((group, artifact)) => {
            put("group", json!(group));
            put("name", json!(artifact));
        }
        None => drop(put("name", json!(package.name))),
    }
    if !package.version.is_empty() {
        put("version", json!(package.version));
    }
    if let Some(declared) = &package.licence {
        put(
            "licenses",
            match licence::expression(package.kind, declared) {
                Some(expression) => json!([{"expression": expression, "acknowledgement": "declared"}]),
                None => json!([{"license": {"name": declared, "acknowledgement": "declared"}}]),
            },
        );
    }
    put("purl", json!(purl::of(package, stack.distribution.as_ref())));
    put("evidence", json!({"occurrences": [{"location": package.place}]}));
    let layer = stack.layers.get(package.layer).map(|layer| layer.diff_id.clone());
    let source = package.source.as_ref().map(|(name, version)| format!("{name} {version}"));
    let properties = [
        ("ces:layer", layer),
        ("ces:owner", package.owner.clone()),
        ("ces:source", source),
        ("ces:module", package.module.clone()),
    ];
    let properties: Vec<Value> =
        properties.into_iter().filter_map(|(name, value)| Some(json!({"name": name, "value": value?}))).collect();
    if !properties.is_empty() {
        put("properties", json!(properties));
    }
    Value::Object(out)
}

fn vulnerability(known: &Known) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("id", json!(known.id));
    if !known.aliases.is_empty() {
        let references = known.aliases.iter().map(|alias| json!({"id": alias, "source": {"name": "alias"}}));
        put("references", references.collect());
    }
    let mut rating = json!({"severity": severity(known.severity)});
    if let (Some(vector), Some(rating)) = (&known.vector, rating.as_object_mut()) {
        let method = [("CVSS:3.0/", "CVSSv3"), ("CVSS:3.1/", "CVSSv31"), ("CVSS:4.0/", "CVSSv4")];
        if let Some((_, method)) = method.iter().find(|(begin, _)| vector.starts_with(begin)) {
            rating.insert("method".to_owned(), json!(method));
            rating.insert("vector".to_owned(), json!(vector));
        }
    }
    put("ratings", json!([rating]));
    if !known.summary.is_empty() {
        put("description", json!(known.summary));
    }
    if let Some(fix) = &known.fix {
        put("recommendation", json!(format!("upgrade to {fix}")));
    }
    if let Some(statement) = known.statements.last() {
        let state = match statement.status {
            Status::NotAffected => "not_affected",
            Status::Fixed => "resolved",
            Status::Affected => "exploitable",
            Status::UnderInvestigation => "in_triage",
        };
        let holds = if known.waived { "holds" } else { "does not hold" };
        let detail = format!("{} ({}, said {}; {holds})", statement.reason, statement.author, statement.said);
        put("analysis", json!({"state": state, "detail": detail}));
    }
    put("affects", known.packages.iter().map(|number| json!({"ref": reference(*number)})).collect());
    let state = serde_json::to_value(known.state).ok().and_then(|state| state.as_str().map(str::to_owned));
    put("properties", json!([{"name": "ces:state", "value": state.unwrap_or_default()}]));
    Value::Object(out)
}

fn severity(severity: Severity) -> &'static str {
    severity.name()
}
