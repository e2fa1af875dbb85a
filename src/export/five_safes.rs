//! What only a Five Safes crate has: who checked what before the run, that nobody has decided on its outputs yet, and the nested
//! crate that stands for a workflow.
//!
//! Takes the facts of a crate; gives entities; trusts them; refuses nothing. An approval is told where the image was approved by name; that
//! outputs may leave is never told here: a person decides that, elsewhere.

use serde_json::{Value, json};

use super::crate_facts::{FIVE_SAFES, Facts, METADATA, WORKFLOW, image_address, moment};
use super::graph::{Graph, reference};

/// Adds the checks and the pull; gives references to them.
pub fn assessments(
    facts: &Facts<'_>,
    graph: &mut Graph,
    (ces, container, organisation): (&Value, &Value, &Value),
) -> Vec<Value> {
    let (run, known) = (facts.run, facts.known);
    let root = reference("./");
    let workflow = reference("workflow/");
    let mut mentions = Vec::new();
    let mut assess = |graph: &mut Graph, kind: &str, name: &str, about: Value| {
        let ended = kind != "DisclosureCheck";
        let at = if ended { &run.started } else { &run.finished };
        let state = if ended { "CompletedActionStatus" } else { "PotentialActionStatus" };
        let mut entity = json!({
            "@id": format!("#{}", kind.to_lowercase()), "@type": "AssessAction",
            "additionalType": reference(&format!("https://w3id.org/shp#{kind}")), "name": name, "startTime": moment(at),
            "endTime": ended.then(|| moment(at)), "actionStatus": format!("http://schema.org/{state}"),
        });
        if let (Some(fields), Value::Object(more)) = (entity.as_object_mut(), about) {
            fields.extend(more);
        }
        mentions.push(graph.add(entity));
    };
    let sha = graph.add(json!({
        "@id": "https://www.iana.org/assignments/named-information#sha-256", "@type": "DefinedTerm", "name": "sha-256 algorithm",
    }));
    assess(
        graph,
        "CheckValue",
        "Checksums of the image and its layers: they agree with its digest",
        json!({"object": root, "instrument": sha, "agent": ces}),
    );
    assess(
        graph,
        "ValidationCheck",
        "The request against the site's policy: allowed",
        json!({"object": root, "instrument": reference(FIVE_SAFES), "agent": ces}),
    );
    let rules = graph.add(json!({
        "@id": format!("{}policy/", known.url), "@type": "CreativeWork", "name": format!("Policy of {}", known.name),
    }));
    if let Some(name) = &run.approver {
        let told = known.person_named(name);
        let approver = graph.add(json!({
            "@id": told.map_or("#approver", |person| person.id.as_str()), "@type": "Person",
            "name": told.map_or(name.as_str(), |person| person.name.as_str()), "affiliation": organisation,
        }));
        let project = run.project.as_ref().map(|project| reference(&format!("{}projects/{project}", known.url)));
        let object: Vec<Value> = [root.clone(), workflow].into_iter().chain(project).collect();
        assess(
            graph,
            "SignOff",
            "The image for the project: approved",
            json!({"object": object, "instrument": rules, "agent": approver}),
        );
    }
    assess(
        graph,
        "DisclosureCheck",
        "Disclosure check of the outputs: not decided yet",
        json!({"object": root, "instrument": rules, "agent": organisation}),
    );
    if let Some(pulled) = facts.pulled {
        let address = image_address(facts);
        let source = graph.add(json!({
            "@id": "#image-source", "@type": "DataDownload", "name": format!("{} ({})", run.image, run.digest),
            "encodingFormat": "application/vnd.oci.image.manifest.v1+json", "contentUrl": address,
        }));
        mentions.push(graph.add(json!({
            "@id": "#pull", "@type": "DownloadAction", "name": format!("Pulled {}", run.image), "startTime": moment(pulled),
            "endTime": moment(pulled), "object": source, "result": container, "agent": ces,
            "actionStatus": "http://schema.org/CompletedActionStatus",
        })));
    }
    mentions
}

/// The nested crate: `workflow/run.json` and `workflow/ro-crate-metadata.json`.
pub fn workflow(facts: &Facts<'_>) -> [(String, Value); 2] {
    let (run, known) = (facts.run, facts.known);
    let request = json!({"image": run.image, "digest": run.digest, "command": run.command});
    let base = "https://w3id.org/ro/crate/1.1";
    let metadata = json!({"@context": format!("{base}/context"), "@graph": [
        {"@id": METADATA, "@type": "CreativeWork", "about": reference("./"), "conformsTo": [reference(base), reference(WORKFLOW)]},
        {"@id": "./", "@type": "Dataset", "name": format!("What run {} executed", run.id), "hasPart": [reference("run.json")],
            "description": "One container image and one command", "datePublished": run.started,
            "license": reference(known.licence), "mainEntity": reference("run.json"), "conformsTo": reference(WORKFLOW)},
        {"@id": "run.json", "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"], "name": "Image and command",
            "description": "The image by its digest, and the command without what is withheld", "programmingLanguage": reference("#ces")},
        {"@id": "#ces", "@type": "ComputerLanguage", "name": "Request of ces run", "url": reference(&format!("{}software/ces/", known.url))},
        {"@id": known.licence, "@type": "CreativeWork", "name": known.licence_name, "description": known.licence_name},
    ]});
    [("workflow/run.json".to_owned(), request), (format!("workflow/{METADATA}"), metadata)]
}
