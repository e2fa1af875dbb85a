//! The golden specs against the runtime specification's own schema.

use serde_json::{Value, json};

#[path = "../support/schema.rs"]
mod runtime_spec;

use runtime_spec::objections;

const GOLDEN: [&str; 2] =
    [include_str!("../../bundles/batch/config.json"), include_str!("../../bundles/service/config.json")];

#[test]
fn both_golden_specs_are_valid() {
    for text in GOLDEN {
        let config: Value = serde_json::from_str(text).unwrap();
        assert_eq!(objections(&config), None);
    }
}

#[test]
fn a_spec_that_is_not_valid_is_told_from_one_that_is() {
    type Change = fn(&mut Value);
    let changes: [Change; 9] = [
        |c| c["ociVersion"] = json!(1),
        |c| c["process"]["args"] = json!("sh"),
        |c| c["process"]["cwd"] = json!(null),
        |c| c["process"]["noNewPrivileges"] = json!("yes"),
        |c| c["mounts"][0]["destination"] = json!(7),
        |c| c["linux"]["namespaces"][0]["type"] = json!("userr"),
        |c| c["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_PERHAPS"),
        |c| c["linux"]["seccomp"]["syscalls"][0]["names"] = json!([]),
        |c| c["linux"]["uidMappings"][0]["size"] = json!(-1),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut config: Value = serde_json::from_str(GOLDEN[0]).unwrap();
        change(&mut config);
        assert!(objections(&config).is_some(), "change {number} is to be seen");
    }
}
