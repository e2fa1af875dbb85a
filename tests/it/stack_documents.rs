//! What `ces` says of a stack as CycloneDX and SPDX, by the official schemas (`tests/schema/cyclonedx`, Apache-2.0;
//! `tests/schema/spdx`, CC-BY-3.0; unchanged).

use boon::{Compiler, Schemas};
use ces::stack::facts;
use ces::stack::package::{Distribution, LayerOrigin, Package, PackageType, Stack};
use ces::stack::verdict::{Known, State, Verdict};
use ces::stack::vex::{Status, Waiver};
use ces::stack::vulndb::record::Class;
use ces::stack::vulndb::severity::Severity;
use ces::stack::write::{cyclonedx, spdx};
use serde_json::{Value, json};

const CYCLONEDX: [(&str, &str); 3] = [
    ("http://cyclonedx.org/schema/bom-1.6.schema.json", include_str!("../schema/cyclonedx/bom-1.6.schema.json")),
    ("http://cyclonedx.org/schema/spdx.schema.json", include_str!("../schema/cyclonedx/spdx.schema.json")),
    ("http://cyclonedx.org/schema/jsf-0.82.schema.json", include_str!("../schema/cyclonedx/jsf-0.82.schema.json")),
];
const SPDX: [(&str, &str); 1] = [("http://spdx.org/rdf/terms/2.3", include_str!("../schema/spdx/spdx-schema.json"))];

/// What a schema has against a document; the first file is the schema.
fn objections(files: &[(&str, &str)], document: &Value) -> Option<String> {
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    for (name, text) in files {
        compiler.add_resource(name, serde_json::from_str(text).unwrap()).unwrap();
    }
    let mut schemas = Schemas::new();
    let schema = compiler.compile(files[0].0, &mut schemas).unwrap();
    schemas.validate(document, schema).err().map(|error| format!("{error:#}"))
}

fn package(kind: PackageType, name: &str, version: &str) -> Package {
    facts::package(kind, name, version, &format!("usr/lib/{name}")).unwrap()
}

/// A package of each kind, with texts that try to be more.
fn stack() -> Stack {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut openssl = package(PackageType::Deb, "libssl3", "3.0.1-1+b1");
    openssl.source = Some(("openssl".to_owned(), "3.0.1-1".to_owned()));
    openssl.architecture = Some("amd64".to_owned());
    let licensed = |name: &str, licence: &str| Package {
        licence: Some(licence.to_owned()),
        ..package(PackageType::Pypi, name, "1.0")
    };
    let mut packages = vec![
        openssl,
        licensed("plain", "MIT"),
        licensed("choice", "MIT OR (Apache-2.0 AND GPL-2.0-or-later WITH Classpath-exception-2.0)"),
        licensed("words", "BSD, or so \u{1b}[2J \"quoted\""),
        Package { owner: Some("python3-yaml".to_owned()), ..package(PackageType::Pypi, "PyYAML", "6.0") },
        package(PackageType::Npm, "@types/node", ""),
        package(PackageType::Maven, "org.example:thing", "1.0-SNAPSHOT"),
        package(PackageType::Golang, "github.com/a/b", "v1.0.0"),
        package(PackageType::Model, "weights.safetensors", ""),
        Package { name: "name with ? # and % and \n".to_owned(), ..package(PackageType::Generic, "x", "1 2") },
        Package { module: Some("nodejs:18".to_owned()), ..package(PackageType::Rpm, "nodejs", "1:18.0-1.module") },
    ];
    packages.sort();
    Stack {
        version: 1,
        image: digest.clone(),
        pulled: "2026-11-29T08:00:00.123456789Z".to_owned(),
        platform: "linux/amd64".to_owned(),
        distribution: Some(Distribution {
            id: "debian".to_owned(),
            version_id: "12".to_owned(),
            ..Distribution::default()
        }),
        layers: vec![LayerOrigin { diff_id: digest, created_by: None }],
        packages,
        ..Stack::default()
    }
}

fn verdict() -> Verdict {
    let known = Known {
        id: "CVE-2026-1".to_owned(),
        aliases: vec!["GHSA-x".to_owned()],
        covers: Vec::new(),
        class: Class::Vulnerability,
        severity: Severity::Critical,
        vector: Some("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H".to_owned()),
        summary: "A hole".to_owned(),
        state: State::FixAvailable,
        fix: Some("2.0".to_owned()),
        only_if: Vec::new(),
        packages: vec![0, 1],
        sources: vec!["osv-PyPI".to_owned()],
        changelog_says_fixed: false,
        statements: vec![Waiver {
            file: "w.json".to_owned(),
            vulnerability: "CVE-2026-1".to_owned(),
            status: Status::NotAffected,
            reason: "component_not_present".to_owned(),
            author: "A. Person".to_owned(),
            said: "2026-11-01T00:00:00Z".to_owned(),
            expires: None,
        }],
        waived: true,
    };
    let all = [Severity::Unknown, Severity::None, Severity::Low, Severity::Medium, Severity::High];
    let others =
        all.map(|severity| Known { severity, vector: None, statements: Vec::new(), waived: false, ..known.clone() });
    Verdict { known: std::iter::once(known).chain(others).collect(), ..Verdict::default() }
}

#[test]
fn a_stack_as_cyclonedx_is_valid_by_the_official_schema() {
    let (stack, verdict) = (stack(), verdict());
    for document in [cyclonedx::document(&stack, None), cyclonedx::document(&stack, Some(&verdict))] {
        assert_eq!(objections(&CYCLONEDX, &document), None);
    }
    // The schema sees what is wrong.
    let mut broken = cyclonedx::document(&stack, None);
    broken["components"][0]["type"] = json!("nonsense");
    assert!(objections(&CYCLONEDX, &broken).is_some());
}

#[test]
fn a_stack_as_spdx_is_valid_by_the_official_schema() {
    let stack = stack();
    assert_eq!(objections(&SPDX, &spdx::document(&stack)), None);
    let mut broken = spdx::document(&stack);
    broken["packages"][0]["filesAnalyzed"] = json!("nonsense");
    assert!(objections(&SPDX, &broken).is_some());
}

#[test]
fn documents_of_the_same_stack_are_the_same_bytes() {
    let write = || {
        [cyclonedx::document(&stack(), Some(&verdict())), spdx::document(&stack())].map(|document| document.to_string())
    };
    assert_eq!(write(), write());
    let mut other = stack();
    other.image = format!("sha256:{}", "cd".repeat(32));
    assert_ne!(cyclonedx::document(&other, None)["serialNumber"], cyclonedx::document(&stack(), None)["serialNumber"]);
}
