//! The runtime specification's own JSON schema (`tests/schema`, version 1.2.1, Apache-2.0, unchanged).

use boon::{Compiler, Schemas};
use serde_json::Value;

/// The files that the schema of `config.json` is made of.
const FILES: [(&str, &str); 11] = [
    ("config-schema.json", include_str!("../schema/config-schema.json")),
    ("config-linux.json", include_str!("../schema/config-linux.json")),
    ("config-solaris.json", include_str!("../schema/config-solaris.json")),
    ("config-vm.json", include_str!("../schema/config-vm.json")),
    ("config-windows.json", include_str!("../schema/config-windows.json")),
    ("config-zos.json", include_str!("../schema/config-zos.json")),
    ("defs.json", include_str!("../schema/defs.json")),
    ("defs-linux.json", include_str!("../schema/defs-linux.json")),
    ("defs-vm.json", include_str!("../schema/defs-vm.json")),
    ("defs-windows.json", include_str!("../schema/defs-windows.json")),
    ("defs-zos.json", include_str!("../schema/defs-zos.json")),
];

/// What the schema has against a `config.json`; nothing, if it is valid.
pub fn objections(config: &Value) -> Option<String> {
    let mut compiler = Compiler::new();
    for (name, text) in FILES {
        let document = serde_json::from_str(text).expect("a schema is JSON");
        compiler.add_resource(&format!("file:///schema/{name}"), document).expect("a schema of its own name");
    }
    let mut schemas = Schemas::new();
    let schema = compiler.compile("file:///schema/config-schema.json", &mut schemas).expect("a schema that compiles");
    schemas.validate(config, schema).err().map(|error| format!("{error:#}"))
}
