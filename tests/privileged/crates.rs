//! Exports as other programs see them: roc-validator, bagit, acro, in-toto; and what must not be in any of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::callers::Desk;
use crate::support::validators::Validators;
use crate::support::{Ran, audit_log, children};

/// What the policy says of the site, its people and its projects.
const IDENTITY: &str = "[site]\nname = \"Example Safe Haven\"\nurl = \"https://haven.example.ac.uk/\"\n\
    licence = \"https://haven.example.ac.uk/terms\"\nlicence_name = \"Not for release before disclosure control\"\n\
    [organisations.uni]\nname = \"A University\"\nid = \"https://ror.org/01nrxwf90\"\n\
    [people.cesresearcher]\nname = \"A. Researcher\"\nid = \"https://orcid.org/0000-0002-1825-0097\"\naffiliation = \"uni\"\n\
    [people.root]\nname = \"Officer 7\"\nid = \"https://haven.example.ac.uk/people/ig-7\"\n\
    [projects.projx]\ntitle = \"Ward statistics\"\nmembers = [\"uni\"]\ngrant = \"https://gtr.ukri.org/projects?ref=0\"\n";

/// A desk of a site that approves images, with a run for `projx` that left tables, a link and an odd name.
fn desk() -> Option<Desk> {
    let (desk, _) = Desk::of_a_project("")?;
    policy(&desk, IDENTITY);
    root(&desk, &["approve", "add", "localhost/demo", "--project", "projx"]).exits(0);
    let script = "cd /safe_outputs; printf 'sex,n\\nF,263\\n' > good.csv; mkdir d; printf 'ward,deaths\\na,3\\n' > 'd/<b>x é%.csv';
        ln -s /etc/passwd link.csv; printf '%s' \"$TOKEN\" > /dev/null";
    // Each line is a warning, which names the file; the variable is set anew by `-e`.
    fs::write(desk.home().join("job.env"), "PASSWORD: s3cret\nTOKEN='s3cret'\n").unwrap();
    let env = desk.host.researcher().dir.join("job.env").display().to_string();
    let options = ["--name", "fit", "--env-file", &env, "-e", "TOKEN=s3cret-value", "-e", "SEED=7"];
    let run = [&["run"], &options[..], &["localhost/demo", "/bin/sh", "-c", script]].concat();
    desk.ces(&[&run[..], &["--password=s3cret-word", "9434765919"]].concat()).exits(0);
    Some(desk)
}

fn policy(desk: &Desk, identity: &str) {
    let data = desk.host.tmp().join("safe");
    desk.host.policy(&format!(
        "{identity}[data]\nroot = \"{}\"\n[images]\napproved = \"/etc/ces/approved.toml\"\n[records]\nvalues = [\"SEED\"]\n",
        data.display()
    ));
}

fn root(desk: &Desk, words: &[&str]) -> Ran {
    desk.root(words)
}

/// Exports the run as the researcher does; gives the directory, as the test sees it.
fn export(desk: &Desk, form: &[&str], name: &str) -> PathBuf {
    let shown = desk.host.researcher().dir.join(name).display().to_string();
    desk.ces(&[&["export"], form, &["fit", "-o", &shown]].concat()).exits(0);
    desk.home().join(name)
}

fn document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn entities(metadata: &Value) -> &Vec<Value> {
    metadata["@graph"].as_array().unwrap()
}

fn of_type<'a>(metadata: &'a Value, kind: &str) -> Vec<&'a Value> {
    let is = |entity: &&Value| {
        entity["@type"] == kind || entity["@type"].as_array().is_some_and(|all| all.contains(&json!(kind)))
    };
    entities(metadata).iter().filter(is).collect()
}

fn entity<'a>(metadata: &'a Value, id: &Value) -> Option<&'a Value> {
    let id = id.get("@id").unwrap_or(id);
    entities(metadata).iter().find(|entity| entity["@id"] == *id)
}

#[test]
fn a_process_crate_passes_the_validator_and_one_without_instrument_agent_end_or_result_does_not() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    let dir = export(&desk, &["--ro-crate", "process"], "fit.crate");
    let shown = dir.display().to_string();
    validators.passes(&["ro-crate", &shown, "process-run-crate-0.5", "RECOMMENDED"]);
    validators.passes(&[
        "ro-crate-without",
        &shown,
        "process-run-crate-0.5",
        "RECOMMENDED",
        "instrument",
        "agent",
        "endTime",
        "result",
    ]);
    let metadata = document(&dir.join("ro-crate-metadata.json"));
    let action = of_type(&metadata, "CreateAction")[0];
    assert_eq!(entity(&metadata, &action["agent"]).unwrap()["name"], "A. Researcher");
    assert!(action["instrument"]["@id"].as_str().unwrap().contains("images/sha256:"), "{action}");
    let results: Vec<&str> = action["result"].as_array().unwrap().iter().map(|r| r["@id"].as_str().unwrap()).collect();
    assert_eq!(results, ["outputs/d/%3Cb%3Ex%20%C3%A9%25.csv", "outputs/good.csv"]);
    let good = entity(&metadata, &json!("outputs/good.csv")).unwrap();
    assert_eq!((&good["encodingFormat"], &good["contentSize"]), (&json!("text/csv"), &json!("12")));
    // What ended badly is told as such.
    desk.sh(&["--name", "fit"], "exit 3").exits(3);
    let failed = document(&export(&desk, &["--ro-crate", "process"], "failed.crate").join("ro-crate-metadata.json"));
    let action = of_type(&failed, "CreateAction")[0];
    assert_eq!(
        (&action["actionStatus"], &action["error"]),
        (&json!("http://schema.org/FailedActionStatus"), &json!("exit 3"))
    );
}

/// What Five Safes RO-Crate 0.4 wants that a validator of RO-Crates does not look at; what is wrong, in words.
fn five_safes(metadata: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut want = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    let none = json!({});
    let get = |id: &Value| entity(metadata, id).unwrap_or(&none);
    let is = |entity: &Value, kind: &str| entity["@type"] == kind;
    let root = get(&json!("./"));
    let descriptor = get(&json!("ro-crate-metadata.json"));
    want(descriptor["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.2", "the descriptor is of RO-Crate 1.2");
    want(root["conformsTo"]["@id"] == "https://w3id.org/5s-crate/0.4", "the root is of the profile");
    let workflow = get(&root["mainEntity"]);
    want(
        workflow["conformsTo"]["@id"] == "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
        "mainEntity is a workflow crate",
    );
    let project = get(&root["sourceOrganization"]);
    want(is(project, "Project") && project["name"].is_string(), "sourceOrganization is a project");
    want(is(get(&project["member"]), "Organization"), "the project has an organisation");
    let identifier = get(&project["identifier"]);
    want(is(identifier, "PropertyValue") && identifier["propertyID"].is_string(), "the project has an identifier");
    let mentioned: Vec<&Value> = root["mentions"].as_array().into_iter().flatten().map(get).collect();
    let runs: Vec<&&Value> = mentioned.iter().filter(|entity| is(entity, "CreateAction")).collect();
    want(runs.len() == 1, "one run is mentioned");
    let run = runs.first().map_or(&none, |run| **run);
    want(!run["instrument"].is_null() && run["instrument"] == root["mainEntity"], "the run's instrument is mainEntity");
    let agent = get(&run["agent"]);
    want(
        is(agent, "Person") && is(get(&agent["affiliation"]), "Organization"),
        "the run's agent is a person of somewhere",
    );
    want(
        agent["memberOf"] == root["sourceOrganization"] && !agent["memberOf"].is_null(),
        "the agent is of the project",
    );
    let state = run["actionStatus"].as_str().unwrap_or_default();
    want(state.starts_with("http://schema.org/") && state.ends_with("ActionStatus"), "the run has a status");
    want(run["startTime"].is_string() && run["endTime"].is_string(), "the run has begun and ended");
    for object in run["object"].as_array().into_iter().flatten().map(get) {
        want(is(get(&object["exampleOfWork"]), "FormalParameter"), "an input is an example of a parameter");
    }
    want(run["object"].is_array(), "the run has inputs");
    let license = get(&root["license"]);
    want(license["identifier"].is_string() || license["name"].is_string(), "the licence is described");
    for kind in ["CheckValue", "ValidationCheck", "SignOff", "DisclosureCheck"] {
        let iri = format!("https://w3id.org/shp#{kind}");
        let found =
            mentioned.iter().find(|entity| entity["additionalType"]["@id"] == *iri).map_or(&none, |found| *found);
        want(is(found, "AssessAction"), &format!("{kind} is mentioned"));
        want(
            found["instrument"]["@id"].is_string() && found["agent"]["@id"].is_string(),
            &format!("{kind} has agent and instrument"),
        );
        let decided = found["actionStatus"] == "http://schema.org/CompletedActionStatus";
        want(decided == (kind != "DisclosureCheck"), &format!("{kind} is decided as far as ces can"));
        want(decided == found["endTime"].is_string(), &format!("{kind} has ended if it is decided"));
        if kind == "SignOff" {
            let objects = found["object"].as_array().cloned().unwrap_or_default();
            want(
                [&root["mainEntity"], &root["sourceOrganization"]].iter().all(|one| objects.contains(one)),
                "the sign-off is of workflow and project",
            );
            want(is(get(&found["agent"]), "Person"), "somebody signed off");
        }
    }
    // What is referred to within the crate is there.
    let mut look: Vec<&Value> = entities(metadata).iter().collect();
    while let Some(value) = look.pop() {
        match value {
            Value::Array(all) => look.extend(all),
            Value::Object(fields) => {
                let only = fields.len() == 1;
                if let Some(id) = fields
                    .get("@id")
                    .and_then(Value::as_str)
                    .filter(|id| only && (id.starts_with('#') || !id.contains("://")))
                {
                    want(entity(metadata, &json!(id)).is_some(), &format!("{id} is described"));
                }
                look.extend(fields.values());
            }
            _ => {}
        }
    }
    wrong
}

#[test]
fn a_five_safes_crate_has_what_its_profile_wants_and_lacks_nothing_unseen() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    let dir = export(&desk, &["--ro-crate", "five-safes"], "fit.5s");
    validators.passes(&["ro-crate", &dir.display().to_string(), "ro-crate-1.2", "REQUIRED"]);
    validators.passes(&["ro-crate", &dir.join("workflow").display().to_string(), "workflow-ro-crate-1.0", "REQUIRED"]);
    let metadata = document(&dir.join("ro-crate-metadata.json"));
    assert_eq!(five_safes(&metadata), Vec::<String>::new());
    let signed_off = entities(&metadata).iter().find(|entity| entity["@id"] == "#signoff").unwrap();
    assert_eq!(entity(&metadata, &signed_off["agent"]).unwrap()["name"], "Officer 7");
    assert!(!of_type(&metadata, "DownloadAction").is_empty());
    // The rules see what is taken away.
    for (id, property) in [
        ("./", "mainEntity"),
        ("./", "sourceOrganization"),
        ("./", "conformsTo"),
        ("#signoff", "agent"),
        ("#disclosurecheck", "additionalType"),
        ("#checkvalue", "instrument"),
        ("https://haven.example.ac.uk/projects/projx", "member"),
        ("https://orcid.org/0000-0002-1825-0097", "memberOf"),
    ] {
        let mut less = metadata.clone();
        let found = less["@graph"].as_array_mut().unwrap().iter_mut().find(|entity| entity["@id"] == id);
        assert!(
            found.unwrap_or_else(|| panic!("{id}")).as_object_mut().unwrap().remove(property).is_some(),
            "{id} {property}"
        );
        assert_ne!(five_safes(&less), Vec::<String>::new(), "{id} {property}");
    }
    let mut decided = metadata.clone();
    let found = decided["@graph"].as_array_mut().unwrap().iter_mut().find(|entity| entity["@id"] == "#disclosurecheck");
    found.unwrap()["actionStatus"] = json!("http://schema.org/CompletedActionStatus");
    assert_ne!(five_safes(&decided), Vec::<String>::new(), "ces never says that outputs may leave");
}

#[test]
fn an_export_for_sacro_is_read_by_acro_and_never_stands_in_for_a_session_of_acros() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    let dir = export(&desk, &["--sacro"], "fit.sacro");
    validators.passes(&["acro", &dir.display().to_string()]);
    let told = document(&dir.join("outputs.json"));
    let results = told["results"].as_object().unwrap();
    assert_eq!(results.keys().collect::<Vec<_>>(), ["d/<b>x é%.csv", "good.csv"]);
    assert_eq!(results["d/<b>x é%.csv"]["files"][0]["name"], "d__<b>x é%.csv");
    assert!(results.values().all(|result| result["status"] == "review"), "{told}");
    assert!(results["d/<b>x é%.csv"]["summary"].as_str().unwrap().contains("whole numbers from 1 to 9"), "{told}");
    fs::write(dir.join("good.csv"), "sex,n\nF,1\n").unwrap();
    validators.fails(&["acro", &dir.display().to_string()], "good.csv: its checksum");
    // A name of the viewer's own is another here; what ACRO left is not exported anew.
    let script = "cd /safe_outputs; echo '{}' > results.json; printf 'nhs_number\\n9434765919\\n' > raw.csv";
    desk.sh(&["--name", "fit"], script).exits(0);
    let dir = export(&desk, &["--sacro"], "named.sacro");
    validators.passes(&["acro", &dir.display().to_string()]);
    let told = document(&dir.join("outputs.json"));
    assert_eq!(told["results"]["results.json"]["files"][0]["name"], "results-2.json");
    assert_eq!(told["results"]["raw.csv"]["status"], "fail", "{told}");
    let script = "mkdir /safe_outputs/s /safe_outputs/s/checksums; cd /safe_outputs/s; echo '{}' > results.json; echo x > checksums/a.txt";
    desk.sh(&["--name", "fit"], script).exits(0);
    let none = desk.host.researcher().dir.join("none.sacro").display().to_string();
    desk.ces(&["export", "--sacro", "fit", "-o", &none]).refuses(1, &["a session of ACRO's", "SACRO-Viewer"]);
    assert!(!desk.home().join("none.sacro").exists());
}

#[test]
fn a_statement_is_in_totos_and_is_signed_where_root_exports_it() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    let id = desk.record()["id"].as_str().unwrap().to_owned();
    let dir = export(&desk, &["--in-toto"], "fit.statement");
    validators.passes(&["statement", &dir.join("statement.json").display().to_string()]);
    assert_eq!(children(&dir).len(), 1, "what a researcher exports is not signed");
    let statement = document(&dir.join("statement.json"));
    let subjects: Vec<&str> =
        statement["subject"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["d/<b>x é%.csv", "good.csv"]);
    // The record's hash is the one that the audit log has.
    let record = statement["predicate"]["runDetails"]["byproducts"][0]["digest"]["sha256"].as_str().unwrap();
    let log = fs::read_to_string(audit_log(&desk.log())).unwrap();
    assert!(log.lines().any(|line| line.contains("run.finished") && line.contains(record)), "{record}: {log}");
    let dir = desk.host.tmp().join("signed");
    let exported = root(&desk, &["export", "--in-toto", &id, "-o", dir.to_str().unwrap()]);
    assert!(exported.exits(0).contains("signed by SHA256:"), "{exported:?}");
    let (envelope, key) = (dir.join("envelope.json"), dir.join("key.pub"));
    let words = ["envelope", envelope.to_str().unwrap(), key.to_str().unwrap()];
    validators.passes(&words);
    // One byte of the payload, or of its type.
    for (field, value) in [("payload", json!("e30=")), ("payloadType", json!("application/json"))] {
        let mut other = document(&envelope);
        other[field] = value;
        let changed = desk.host.tmp().join("changed.json");
        fs::write(&changed, other.to_string()).unwrap();
        validators.fails(&["envelope", changed.to_str().unwrap(), key.to_str().unwrap()], "");
    }
    // It is the key that signs checkpoints.
    root(&desk, &["audit", "checkpoint"]).exits(0);
    let signers = fs::read_to_string(audit_log(&desk.log()).with_extension("signers")).unwrap();
    let public = fs::read_to_string(&key).unwrap();
    assert!(signers.contains(public.split(' ').nth(1).unwrap()), "{signers}: {public}");
}

#[test]
fn a_task_is_one_of_tes_and_has_no_word_that_was_withheld() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    let path = export(&desk, &["--tes-log"], "fit.task").join("task.json");
    let shown = path.display().to_string();
    validators.passes(&["task", &shown]);
    let task = document(&path);
    let text = fs::read_to_string(&path).unwrap();
    for secret in
        ["s3cret", "9434765919", "cesresearcher", "job.env", "A. Researcher", &desk.home().display().to_string()]
    {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert_eq!((&task["state"], &task["logs"][0]["logs"][0]["exit_code"]), (&json!("COMPLETE"), &json!(0)));
    let logs = task["logs"][0]["system_logs"].to_string();
    assert!(logs.contains(", kept with the record"), "{logs}");
    assert_eq!(task["executors"][0]["env"], json!({"TOKEN": "<withheld>", "SEED": "7"}));
    let image = task["executors"][0]["image"].as_str().unwrap();
    assert!(image.starts_with("localhost/demo") && image.contains("@sha256:"), "{image}");
    let outputs = task["logs"][0]["outputs"].as_array().unwrap();
    let paths: Vec<&str> = outputs.iter().map(|output| output["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/safe_outputs/d/<b>x é%.csv", "/safe_outputs/good.csv"]);
    assert_eq!((&outputs[1]["size_bytes"], &task["tags"]["project"]), (&json!("12"), &json!("projx")));
    assert!(outputs[0]["url"].as_str().unwrap().ends_with("/outputs/d/%3Cb%3Ex%20%C3%A9%25.csv"), "{outputs:?}");
    // A run that failed is one of TES's, too; and what is none is told.
    desk.ces(&["run", "--name", "bad", "localhost/demo", "/bin/sh", "-c", "exit 3"]).exits(3);
    let there = desk.host.researcher().dir.join("bad.task").display().to_string();
    desk.ces(&["export", "--tes-log", "bad", "-o", &there]).exits(0);
    let bad = desk.home().join("bad.task/task.json");
    validators.passes(&["task", &bad.display().to_string()]);
    assert_eq!(document(&bad)["state"], "EXECUTOR_ERROR");
    for (field, what) in [("executors", json!([])), ("state", json!("DONE")), ("creation_time", json!("yesterday"))] {
        let mut broken = task.clone();
        broken[field] = what;
        fs::write(&bad, broken.to_string()).unwrap();
        validators.fails(&["task", &bad.display().to_string()], "");
    }
}

#[test]
fn a_bag_is_whole_to_bagit_and_a_changed_one_is_not() {
    let Some(validators) = Validators::new() else { return };
    let Some(desk) = desk() else { return };
    // bagit-python reads no percent sign in a name (docs/exports.md).
    desk.sh(&["--name", "fit"], "echo 'sex,n' > '/safe_outputs/<b>x é.csv'").exits(0);
    let dir = export(&desk, &["--bagit"], "fit.bag");
    let shown = dir.display().to_string();
    validators.passes(&["bag", &shown]);
    fs::write(dir.join("data/run.json"), "{}\n").unwrap();
    validators.fails(&["bag", &shown], "");
}

#[test]
fn nothing_that_is_withheld_is_in_any_export_and_what_the_policy_lacks_is_named() {
    let Some(desk) = desk() else { return };
    assert!(
        desk.record()["warnings"].to_string().contains("job.env line 1")
            && !desk.record().to_string().contains("s3cret")
    );
    let forms: [(&[&str], &str); 6] = [
        (&["--bagit"], "a"),
        (&["--ro-crate", "process"], "b"),
        (&["--ro-crate", "five-safes"], "c"),
        (&["--sacro"], "d"),
        (&["--in-toto"], "e"),
        (&["--tes-log"], "f"),
    ];
    for (form, name) in forms {
        let mut look = vec![export(&desk, form, name)];
        let mut looked = 0;
        while let Some(at) = look.pop() {
            if at.is_dir() {
                look.extend(children(&at));
                continue;
            }
            looked += 1;
            let text = String::from_utf8_lossy(&fs::read(&at).unwrap()).into_owned();
            for word in ["s3cret", "9434765919", "cesresearcher", "/home", "outputs_2", "job.env"] {
                assert!(!text.contains(word), "{form:?}, {}: {word}: {text}", at.display());
            }
        }
        assert!(looked > 0, "{form:?}");
    }
    let crate_ = fs::read_to_string(desk.home().join("b/ro-crate-metadata.json")).unwrap();
    assert!(
        crate_.contains("\"TOKEN\"") && crate_.contains("<withheld>") && crate_.contains("--password=<withheld>"),
        "{crate_}"
    );
    let metadata: Value = serde_json::from_str(&crate_).unwrap();
    assert_eq!(entity(&metadata, &json!("#env-SEED")).unwrap()["value"], "7");
    // Without a fact there is no crate, and its key is named.
    let none = desk.host.researcher().dir.join("none").display().to_string();
    for (lacks, form, key) in [
        ("licence = ", "process", "site.licence"),
        ("url = ", "process", "site.url"),
        ("title = ", "five-safes", "projects.projx.title"),
        ("[people.cesresearcher]", "process", "people.cesresearcher"),
    ] {
        let skip = lacks.starts_with('[').then_some(2);
        let (mut kept, mut lines) = (String::new(), IDENTITY.lines());
        while let Some(line) = lines.next() {
            if line.starts_with(lacks) {
                if let Some(last) = skip {
                    lines.nth(last);
                }
            } else {
                kept.push_str(&format!("{line}\n"));
            }
        }
        policy(&desk, &kept);
        desk.ces(&["export", "--ro-crate", form, "fit", "-o", &none]).refuses(1, &[key, "docs/exports.md"]);
        assert!(!desk.home().join("none").exists());
    }
    policy(&desk, IDENTITY);
    desk.ces(&["export", "--ro-crate", "other", "fit", "-o", &none]).refuses(2, &["process, five-safes"]);
    desk.ces(&["export", "--sacro", "--bagit", "fit", "-o", &none]).refuses(2, &["cannot be given together"]);
}
