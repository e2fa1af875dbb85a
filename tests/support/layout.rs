//! OCI layouts made by tests: the demonstration image's layer under another configuration.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::demo_layout;

const IMAGE: &str = "application/vnd.oci.image";

/// Writes a layout at `dir` whose tag `tag` is the demonstration image with `config` as its configuration.
pub fn with_config(dir: &Path, tag: &str, config: &Value) -> PathBuf {
    with_layers(dir, tag, config, &[])
}

/// The same, with more layers on top: archives, not compressed.
pub fn with_layers(dir: &Path, tag: &str, config: &Value, more: &[Vec<u8>]) -> PathBuf {
    let demo = demo_layout();
    let index: Value = read(&demo.join("index.json"));
    let first = &index["manifests"][0];
    let manifest: Value = read(&blob_path(&demo, first));
    let mut document: Value = read(&blob_path(&demo, &manifest["config"]));
    document["config"] = config.clone();

    let layout = dir.join(format!("layout-{tag}"));
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a layout");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
    for layer in manifest["layers"].as_array().expect("layers") {
        fs::copy(blob_path(&demo, layer), blob_path(&layout, layer)).expect("a layer");
    }
    let mut layers = manifest["layers"].clone();
    for bytes in more {
        let added = add_bytes(&layout, "layer.v1.tar", bytes);
        document["rootfs"]["diff_ids"].as_array_mut().expect("diff ids").push(added["digest"].clone());
        document["history"] = Value::Null;
        layers.as_array_mut().expect("layers").push(added);
    }
    let config = add(&layout, "config.v1+json", &document);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": format!("{IMAGE}.manifest.v1+json"),
        "config": config,
        "layers": layers,
    });
    let mut manifest = add(&layout, "manifest.v1+json", &manifest);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).expect("index.json");
    layout
}

/// Adds a JSON document to the blobs and gives its descriptor.
fn add(layout: &Path, kind: &str, document: &Value) -> Value {
    add_bytes(layout, kind, document.to_string().as_bytes())
}

fn add_bytes(layout: &Path, kind: &str, bytes: &[u8]) -> Value {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).expect("a blob");
    json!({ "mediaType": format!("{IMAGE}.{kind}"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
}

fn blob_path(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a document of the layout")).expect("JSON")
}
