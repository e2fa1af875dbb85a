//! A run as an in-toto Statement (v1): which outputs, by their hashes, came of which image.
//!
//! Takes what may leave of a run, the address of the site and hashes; gives the statement with a SLSA Provenance v1 predicate; trusts
//! them; refuses nothing. `evidence::envelope` signs it.

use serde_json::{Value, json};

use super::graph::encoded;
use super::released::Released;

/// The media type that is signed.
pub const PAYLOAD: &str = "application/vnd.in-toto+json";

/// An output.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Where the run left it.
    pub name: String,
    /// SHA-256 of it.
    pub sha256: String,
}

/// The statement. `record_sha256` is that of the record on the host, as the audit log has it.
pub fn statement(run: &Released, url: &str, subjects: &[Subject], record_sha256: &str) -> Value {
    let (algorithm, digits) = run.digest.split_once(':').unwrap_or(("sha256", &run.digest));
    let subject: Vec<Value> =
        subjects.iter().map(|Subject { name, sha256 }| json!({"name": name, "digest": {"sha256": sha256}})).collect();
    let list = run.list_sha256.as_ref().map(|sha256| json!({"name": "list of outputs", "digest": {"sha256": sha256}}));
    let record = json!({"name": "record", "digest": {"sha256": record_sha256}});
    let byproducts: Vec<Value> = [record].into_iter().chain(list).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": format!("{url}ces/run/v1"),
                "externalParameters": {"image": run.image, "project": run.project, "command": run.command, "data": if run.may_write { "rw" } else { "ro" }},
                "resolvedDependencies": [{"uri": format!("oci:{}", encoded(&run.image)), "digest": {algorithm: digits}}],
            },
            "runDetails": {
                "builder": {"id": format!("{url}ces"), "version": {"ces": run.ces}},
                "metadata": {"invocationId": format!("{url}runs/{}", run.id), "startedOn": run.started, "finishedOn": run.finished},
                "byproducts": byproducts,
            },
        },
    })
}
