//! Manifests, indexes, configurations.

use ces::image::document::{Compression, Config, Document, Platform};
use ces::image::reference::Digest;
use serde_json::{Value, json};

fn manifest() -> Value {
    json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(b"c"), "size": 1},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(b"l"), "size": 1}]})
}

fn parse(document: &Value) -> ces::error::Result<Document> {
    Document::parse(serde_json::to_vec(document).unwrap())
}

fn refused(change: impl FnOnce(&mut Value), why: &str) {
    let mut document = manifest();
    change(&mut document);
    let report = parse(&document).unwrap_err().report();
    assert!(report.contains(why), "not \"{why}\":\n{report}");
}

#[test]
fn a_manifest_tells_its_layers_and_how_they_are_packed() {
    let parsed = parse(&manifest()).unwrap().manifest().unwrap();
    assert_eq!(parsed.layers[0].compression, Compression::Gzip);
    assert_eq!(parsed.digest, Digest::of(&serde_json::to_vec(&manifest()).unwrap()));
    let mut docker = manifest();
    docker["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    docker["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    docker["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    assert!(parse(&docker).is_ok());
}

#[test]
fn a_manifest_that_is_malformed_or_ambiguous_is_refused() {
    refused(|d| d["schemaVersion"] = json!(1), "schema version 1");
    refused(|d| d["manifests"] = json!([]), "ambiguous");
    refused(|d| d["mediaType"] = json!("application/vnd.oci.image.index.v1+json"), "ambiguous");
    refused(|d| d["layers"] = Value::Null, "ambiguous");
    refused(|d| d["layers"][0]["size"] = json!(-1), "malformed");
    refused(|d| d["layers"][0]["size"] = json!(1e300), "malformed");
    refused(|d| d["layers"][0]["digest"] = json!("sha256:../../etc"), "malformed");
    refused(
        |d| d["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        "does not unpack",
    );
    refused(
        |d| {
            d["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
            d["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
        },
        "not a container image",
    );
    refused(|d| d["config"]["size"] = json!(5 << 20), "at most 4194304");
    refused(|d| d["layers"] = Value::Array(vec![d["layers"][0].clone(); 501]), "501 layers");
    for text in ["", "{", "[]", "null", "{}x", "\u{feff}{}", r#"{"schemaVersion":2,"schemaVersion":2}"#] {
        assert!(Document::parse(text.as_bytes().to_vec()).is_err(), "{text}");
    }
    assert!(Document::parse("[".repeat(100_000).into_bytes()).is_err());
    let old = br#"{"schemaVersion":"1","fsLayers":[]}"#.to_vec();
    assert!(Document::parse(old).unwrap_err().report().contains("schema 1"));
}

#[test]
fn an_index_gives_the_best_match_for_a_platform() {
    let entry = |n: u8, platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&[n]), "size": 1,
            "platform": {"os": platform.os, "architecture": platform.architecture, "variant": platform.variant}})
    };
    let index = json!({"schemaVersion": 2, "manifests": [
        entry(0, "linux/arm64/v8"), entry(1, "linux/amd64/v3"), entry(2, "linux/amd64"), entry(3, "windows/amd64"),
        entry(4, "unknown/unknown"), entry(5, "linux/arm/v7")]});
    let Document::Index(index) = parse(&index).unwrap() else { panic!("not an index") };
    for (wanted, found) in [
        ("linux/amd64", Some(2)),
        ("linux/amd64/v3", Some(1)),
        ("linux/amd64/v4", Some(2)),
        ("linux/arm64", Some(0)),
        ("linux/arm64/v8", Some(0)),
        ("linux/arm/v6", None),
        ("linux/arm", Some(5)),
        ("linux/s390x", None),
    ] {
        let selected = index.select(&wanted.parse().unwrap()).ok().map(|d| d.digest.clone());
        assert_eq!(selected, found.map(|n: u8| Digest::of(&[n])), "{wanted}");
    }
    let report = index.select(&"linux/s390x".parse().unwrap()).unwrap_err().report();
    assert!(report.contains("linux/amd64/v3") && !report.contains("unknown"), "{report}");
}

#[test]
fn the_contents_of_a_configuration_and_not_its_type_tell_whether_it_is_an_images() {
    for media_type in ["application/octet-stream", "text/plain", "", "application/json"] {
        let mut document = manifest();
        document["config"]["mediaType"] = json!(media_type);
        assert!(parse(&document).is_ok(), "{media_type}");
    }
    let mut document = manifest();
    document["config"].as_object_mut().unwrap().remove("mediaType");
    assert!(parse(&document).is_ok());
    // An OCI artifact's empty configuration, and a chart's.
    for other in ["{}", r#"{"name":"chart","version":"1.0.0","apiVersion":"v2"}"#] {
        let report = Config::parse(other.as_bytes().to_vec(), 1).unwrap_err().report();
        assert!(report.contains("not a container image") && report.contains("rootfs"), "{report}");
    }
}

#[test]
fn foreign_layers_are_layers_and_known_as_such() {
    for (media_type, compression) in [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", Compression::None),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression::Gzip),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Compression::Zstd),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", Compression::None),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression::Gzip),
    ] {
        let mut document = manifest();
        document["layers"][0]["mediaType"] = json!(media_type);
        let layers = parse(&document).unwrap().manifest().unwrap().layers;
        assert!(layers[0].compression == compression && layers[0].foreign, "{media_type}");
    }
    let mut document = manifest();
    assert!(!parse(&document).unwrap().manifest().unwrap().layers[0].foreign);
    document["layers"][0]["urls"] = json!(["http://192.0.2.1/"]);
    assert!(parse(&document).unwrap().manifest().unwrap().layers[0].foreign);
}

#[test]
fn platforms_are_read_in_the_forms_that_builders_write() {
    let entry = |n: u8, platform: Value| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&[n]), "size": 1,
            "platform": platform})
    };
    let unusable = json!({"os": "unknown", "architecture": "unknown"});
    for (wanted, form) in [
        ("linux/amd64", json!({"os": "linux", "architecture": "amd64", "variant": ""})),
        (
            "linux/amd64",
            json!({"os": "linux", "architecture": "amd64", "variant": null, "os.version": "", "features": null}),
        ),
        ("linux/amd64", json!({"os": "Linux", "architecture": "AMD64"})),
        ("linux/amd64", json!({"os": "linux", "architecture": "x86_64"})),
        ("Linux/AMD64", json!({"os": "linux", "architecture": "amd64"})),
        ("linux/arm64", json!({"os": "linux", "architecture": "arm64/v8"})),
        ("linux/aarch64", json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
        ("linux/arm64/v8", json!({"os": "linux", "architecture": "arm64", "variant": "V8"})),
        // What names no platform is the configuration's to tell.
        ("linux/amd64", Value::Null),
        ("linux/amd64", json!({})),
        ("linux/amd64", json!({"os": "", "architecture": ""})),
        ("linux/amd64", json!("linux/amd64")),
    ] {
        let index = json!({"schemaVersion": 2, "manifests": [
            entry(0, unusable.clone()), entry(1, json!({"os": "linux", "architecture": "riscv64"})), entry(2, form.clone())]});
        let Document::Index(index) = parse(&index).unwrap() else { panic!("not an index") };
        let selected = index.select(&wanted.parse().unwrap()).map(|d| d.digest.clone());
        assert_eq!(selected.unwrap_or_else(|e| panic!("{form}: {}", e.report())), Digest::of(&[2]), "{form}");
    }
}

#[test]
fn an_index_in_an_index_is_not_followed() {
    let nested = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": Digest::of(b"x"), "size": 1,
            "platform": {"os": "linux", "architecture": "amd64"}}]});
    let Document::Index(index) = parse(&nested).unwrap() else { panic!("not an index") };
    assert!(index.select(&"linux/amd64".parse().unwrap()).unwrap_err().report().contains("not followed"));
}

#[test]
fn a_configuration_agrees_with_its_manifest_and_the_platform() {
    let config = |diff_ids: Value| {
        serde_json::to_vec(
            &json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
        )
        .unwrap()
    };
    let one = Config::parse(config(json!([Digest::of(b"a"), Digest::of(b"b")])), 2).unwrap();
    assert!(one.check_platform(&"linux/amd64".parse().unwrap()).is_ok());
    assert!(one.check_platform(&"linux/arm64".parse().unwrap()).is_err());
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    assert_eq!(one.chain_ids(), [a.clone(), Digest::of(format!("{a} {b}").as_bytes())]);
    assert!(Config::parse(config(json!([])), 1).unwrap_err().report().contains("contradicts itself"));
    assert!(Config::parse(config(json!(["sha256:x"])), 1).is_err());
    assert!(Config::parse(b"{}".to_vec(), 0).is_err());
}
