//! A run as a task of the GA4GH Task Execution Service (TES 1.1): what was executed, how it ended, and what it left.
//!
//! Takes what may leave of a run, the address of the site and the files of the list of outputs; gives the document that a TES server
//! gives of a task that has ended (`view=FULL`); trusts them; refuses nothing. It has no argument that was withheld, no name of a
//! person or of a path of the host, and nothing of what was printed, which ces does not keep with a run.

use serde_json::{Map, Value, json};

use super::graph::encoded;
use super::released::Released;
use crate::evidence::redact::WITHHELD;

/// The name of the document.
pub const DOCUMENT: &str = "task.json";

/// An output.
#[derive(Debug, Clone)]
pub struct Output {
    /// Where the run left it.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
}

/// The task. `record_sha256` is that of the record on the host, as the audit log has it.
pub fn task(run: &Released, url: &str, outputs: &[Output], left_out: &[String], record_sha256: &str) -> Value {
    let place = format!("{url}runs/{}", run.id);
    let files: Vec<Value> = outputs
        .iter()
        .map(|Output { path, bytes }| {
            json!({
                "url": format!("{place}/outputs/{}", encoded(path)), "path": format!("/safe_outputs/{path}"),
                // A 64-bit number is text in JSON as protocol buffers write it, and so the schema has it.
                "size_bytes": bytes.to_string(),
            })
        })
        .collect();
    let env: Map<String, Value> = run
        .environment
        .iter()
        .map(|variable| (variable.name.clone(), json!(variable.value.as_deref().unwrap_or(WITHHELD))))
        .collect();
    let facts = [
        ("image_digest", Some(run.digest.clone())),
        ("record_sha256", Some(record_sha256.to_owned())),
        ("outputs_list_sha256", run.list_sha256.clone()),
        ("seconds", run.seconds.map(|seconds| format!("{seconds:.3}"))),
        ("peak_memory_bytes", run.peak_memory.map(|bytes| bytes.to_string())),
    ];
    let metadata: Map<String, Value> =
        facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), json!(fact?)))).collect();
    let tags: Map<String, Value> = [("project", run.project.clone()), ("ces", Some(run.ces.clone()))]
        .into_iter()
        .filter_map(|(name, tag)| Some((name.to_owned(), json!(tag?))))
        .collect();
    let said = [format!("ended: {}", run.ended)].into_iter();
    let warnings = (run.warnings > 0).then(|| format!("warnings: {}, kept with the record", run.warnings));
    let said = said.chain(warnings);
    let system_logs: Vec<String> = said.chain(left_out.iter().map(|what| format!("left out: {what}"))).collect();
    json!({
        "id": run.id,
        "state": state(run.exit),
        "name": run.id,
        "description": "A run in a Trusted Research Environment; its outputs are not yet checked for disclosure",
        "inputs": [{
            "name": "safe data", "url": format!("{place}/safe_data"), "path": "/safe_data", "type": "DIRECTORY",
            "description": if run.may_write { "readable and writable" } else { "read-only" },
        }],
        "outputs": [{
            "name": "outputs", "url": format!("{place}/outputs/"), "path": "/safe_outputs", "type": "DIRECTORY",
        }],
        "executors": [{"image": format!("{}@{}", named(&run.image), run.digest), "command": run.command, "env": env}],
        "tags": tags,
        "logs": [{
            "logs": [{"start_time": run.started, "end_time": run.finished, "exit_code": run.exit.unwrap_or_default()}],
            "metadata": metadata,
            "start_time": run.started,
            "end_time": run.finished,
            "outputs": files,
            "system_logs": system_logs,
        }],
        "creation_time": run.started,
    })
}

/// The name of an image without a digest.
fn named(image: &str) -> &str {
    image.split_once('@').map_or(image, |(name, _)| name)
}

/// How a task has ended, in the words of TES. A run that was never executed has a status of its own (126, 127): that is an error of the
/// executor, too.
fn state(exit: Option<u8>) -> &'static str {
    match exit {
        Some(0) => "COMPLETE",
        Some(_) => "EXECUTOR_ERROR",
        None => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_one_of_the_words_of_tes() {
        assert_eq!(
            [Some(0), Some(1), Some(137), None].map(state),
            ["COMPLETE", "EXECUTOR_ERROR", "EXECUTOR_ERROR", "UNKNOWN"]
        );
        assert_eq!(named("ghcr.io/lab/x:1@sha256:00"), "ghcr.io/lab/x:1");
    }
}
