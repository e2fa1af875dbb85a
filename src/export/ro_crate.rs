//! A run as an RO-Crate: Process Run Crate 0.5 (RO-Crate 1.1), or Five Safes RO-Crate 0.4 (RO-Crate 1.2).
//!
//! Takes what may leave of a run, what the site says, and what was copied; gives `ro-crate-metadata.json`; trusts both; refuses a Five
//! Safes crate of a run without a project. They are two crates and not one: the profiles want different instruments, versions of
//! RO-Crate and properties of the same things.
//!
//! | entity | from |
//! | --- | --- |
//! | `./` | run, project, site; the licence is the site's |
//! | `CreateAction` | the run: begin, end, exit, researcher, image, data, command, outputs |
//! | `ContainerImage` | reference and digest of the image |
//! | `File` | the list of outputs |
//! | `Person`, `Organization`, `Project`, `Grant` | the policy's `[people]`, `[organisations]`, `[projects]` |
//! | `AssessAction` (Five Safes) | digests checked at the pull and the start; the policy's decision; the approval of the image; that nobody has decided on disclosure yet |

use serde_json::{Value, json};

use super::crate_facts::{FIVE_SAFES, Facts, Item, METADATA, Profile, WORKFLOW, image_address, moment};
use super::five_safes::assessments;
use super::graph::{Graph, encoded, reference};
use super::known::missing;
use crate::error::Result;
use crate::evidence::redact::WITHHELD;
use crate::host::caller::Mode;
use crate::image::reference::Reference;
use crate::policy::identity::Person;

const PROCESS: &str = "https://w3id.org/ro/wfrun/process/0.5";
const TERMS: &str = "https://w3id.org/ro/terms/workflow-run/context";

/// The crate's metadata.
///
/// # Errors
/// When a Five Safes crate is asked for and the run has no project that the policy tells of.
pub fn metadata(profile: Profile, facts: &Facts<'_>) -> Result<Value> {
    let mut made = Maker { facts, graph: Graph::default(), parts: Vec::new(), profile };
    let organisation = made.organisation();
    let project = made.project()?;
    let agent = made.person(facts.known.person, project.as_ref());
    let results: Vec<Value> = facts.outputs.iter().map(|item| made.file(item)).collect();
    let record = made.file(facts.record);
    facts.others.iter().for_each(|item| drop(made.file(item)));
    let container = made.container();
    let ces = made.ces(&organisation);
    let data = made.data(project.as_ref());
    let command = made.command();
    let instrument = match profile {
        Profile::Process => made.image(&ces),
        Profile::FiveSafes => made.workflow(),
    };
    let run = facts.run;
    let url = facts.known.url;
    let failed = run.exit != Some(0);
    let environment: Vec<Value> = run
        .environment
        .iter()
        .map(|variable| {
            let value = variable.value.as_deref().unwrap_or(WITHHELD);
            let id = format!("#env-{}", encoded(&variable.name));
            made.graph.add(json!({"@id": id, "@type": "PropertyValue", "name": variable.name, "value": value}))
        })
        .collect();
    let mode = match run.mode {
        Mode::Enforced => "the policy bound the researcher",
        Mode::Advisory => "the policy was advice",
    };
    let action = made.graph.add(json!({
        "@id": format!("#run-{}", run.id), "@type": "CreateAction", "name": format!("Run {} of {}", run.id, run.image),
        "description": format!("ces ran {} ({}) for {}; {mode}: {}", run.image, run.digest, made.whose(), run.ended),
        "identifier": format!("{url}runs/{}", run.id), "startTime": moment(&run.started), "endTime": moment(&run.finished),
        "actionStatus": format!("http://schema.org/{}", if failed { "FailedActionStatus" } else { "CompletedActionStatus" }),
        "error": failed.then(|| run.ended.clone()), "agent": agent, "provider": organisation, "instrument": instrument,
        "object": [data, command], "result": results, "containerImage": container,
        "environment": if environment.is_empty() { Value::Null } else { Value::Array(environment) }, "subjectOf": record,
    }));
    let mut mentions = vec![action];
    if profile == Profile::FiveSafes {
        mentions.extend(assessments(facts, &mut made.graph, (&ces, &container, &organisation)));
    }
    Ok(made.end(mentions, (&agent, &organisation, project.as_ref(), &instrument)))
}

struct Maker<'a> {
    facts: &'a Facts<'a>,
    graph: Graph,
    parts: Vec<Value>,
    profile: Profile,
}

impl Maker<'_> {
    /// For whom it was, in words.
    fn whose(&self) -> String {
        self.facts.run.project.as_ref().map_or_else(|| "no project".to_owned(), |project| format!("project {project}"))
    }

    fn organisation(&mut self) -> Value {
        let known = self.facts.known;
        self.graph.add(json!({"@id": known.url, "@type": "Organization", "name": known.name, "url": known.url}))
    }

    /// The project with its organisations and its grant.
    fn project(&mut self) -> Result<Option<Value>> {
        let known = self.facts.known;
        let (Some(name), Some(told)) = (&self.facts.run.project, known.project) else {
            let name = self.facts.run.project.as_deref().unwrap_or("PROJECT");
            return match self.profile {
                Profile::Process => Ok(None),
                Profile::FiveSafes => Err(missing(&format!("projects.{name}.title"), "which project it was for")),
            };
        };
        let title = told.title.as_ref().map(|rule| rule.value.as_str());
        let keys = told.members.as_ref().map(|rule| rule.value.as_slice()).unwrap_or_default();
        if self.profile == Profile::FiveSafes && (title.is_none() || keys.is_empty()) {
            let key = if title.is_none() { "title" } else { "members" };
            return Err(missing(&format!("projects.{name}.{key}"), "which project it was for"));
        }
        let members: Vec<Value> = keys
            .iter()
            .filter_map(|key| known.organisation(key))
            .map(|of| self.graph.add(json!({"@id": of.id, "@type": "Organization", "name": of.name, "url": of.id})))
            .collect();
        let grant = told.grant.as_ref().map(|grant| {
            let name = told.grant_name.as_ref().unwrap_or(grant);
            self.graph.add(json!({"@id": grant.value, "@type": "Grant", "name": name.value}))
        });
        let identifier = self.graph.add(json!({
            "@id": format!("#project-{name}"), "@type": "PropertyValue", "name": known.name, "value": name,
            "propertyID": format!("{}projects", known.url),
        }));
        Ok(Some(self.graph.add(json!({
            "@id": format!("{}projects/{name}", known.url), "@type": "Project", "name": title.unwrap_or(name),
            "identifier": identifier, "member": if members.is_empty() { Value::Null } else { Value::Array(members) },
            "funding": grant,
        }))))
    }

    fn person(&mut self, person: &Person, project: Option<&Value>) -> Value {
        let of = person.affiliation.as_ref().and_then(|key| self.facts.known.organisation(key));
        let affiliation = of
            .map(|of| self.graph.add(json!({"@id": of.id, "@type": "Organization", "name": of.name, "url": of.id})))
            .unwrap_or_else(|| reference(self.facts.known.url));
        self.graph.add(json!({
            "@id": person.id, "@type": "Person", "name": person.name, "affiliation": affiliation, "memberOf": project,
        }))
    }

    fn file(&mut self, item: &Item) -> Value {
        let name = item.name.rsplit('/').next().unwrap_or(&item.name);
        let part = self.graph.add(json!({
            "@id": encoded(&item.name), "@type": "File", "name": name, "description": item.description,
            "contentSize": item.bytes.to_string(), "sha256": item.sha256, "encodingFormat": item.media,
        }));
        self.parts.push(part.clone());
        part
    }

    /// The image as the terms for workflow runs have it.
    fn container(&mut self) -> Value {
        let run = self.facts.run;
        let image = run.image.parse::<Reference>().ok();
        let hex = run.digest.rsplit(':').next().unwrap_or_default();
        self.graph.add(json!({
            "@id": format!("#image-{}", hex.get(..12).unwrap_or(hex)), "@type": "ContainerImage",
            "additionalType": reference("https://w3id.org/ro/terms/workflow-run#DockerImage"),
            "registry": image.as_ref().map(Reference::host), "name": image.as_ref().map_or(run.image.as_str(), Reference::repository),
            "tag": image.as_ref().and_then(Reference::tag), "sha256": hex,
        }))
    }

    fn ces(&mut self, organisation: &Value) -> Value {
        let (run, five_safes) = (self.facts.run, self.profile == Profile::FiveSafes);
        let version = |is: bool| is.then_some(&run.ces);
        self.graph.add(json!({
            "@id": format!("{}software/ces/{}", self.facts.known.url, encoded(&run.ces)), "@type": "SoftwareApplication",
            "name": "ces", "version": version(five_safes), "softwareVersion": version(!five_safes), "url": format!("{}software/ces/", self.facts.known.url),
            "provider": five_safes.then_some(organisation),
        }))
    }

    /// The project's data: never where it is, only whose it is and that the run could read it.
    fn data(&mut self, project: Option<&Value>) -> Value {
        let (run, url) = (self.facts.run, self.facts.known.url);
        let permission = self.graph.add(json!({
            "@id": "#permission", "@type": "DigitalDocumentPermission", "name": "Within the TRE, by the project",
            "permissionType": "http://schema.org/ReadPermission", "grantee": project,
        }));
        let whose = run.project.as_deref().unwrap_or("none");
        let how = if run.may_write { "reading and writing" } else { "reading" };
        let parameter = self.parameter("data", "Dataset");
        self.graph.add(json!({
            "@id": format!("{url}data/{whose}/"), "@type": ["CreativeWork", "DigitalDocument"],
            "name": format!("Safe data of {}", self.whose()), "hasDigitalDocumentPermission": permission,
            "description": format!("It stays in the TRE; it was open for {how}"), "conditionsOfAccess": "Within the TRE only",
            "license": reference(self.facts.known.licence), "exampleOfWork": parameter,
        }))
    }

    fn command(&mut self) -> Value {
        let run = self.facts.run;
        let parameter = self.parameter("command", "Text");
        self.graph.add(json!({
            "@id": format!("#command-{}", run.id), "@type": "PropertyValue", "name": "command",
            "value": run.command.join(" "), "exampleOfWork": parameter,
        }))
    }

    /// What a workflow takes; only there is one.
    fn parameter(&mut self, name: &str, kind: &str) -> Option<Value> {
        (self.profile == Profile::FiveSafes).then(|| {
            self.graph.add(json!({
                "@id": format!("#parameter-{name}"), "@type": "FormalParameter", "name": name, "additionalType": kind,
                "valueRequired": "True",
            }))
        })
    }

    /// The image as the program that ran.
    fn image(&mut self, ces: &Value) -> Value {
        let run = self.facts.run;
        let address = image_address(self.facts);
        let program = run.command.first().map_or("", String::as_str);
        self.graph.add(json!({
            "@id": address, "@type": "SoftwareApplication", "name": format!("{} ({program})", run.image), "url": reference(&address),
            "softwareVersion": run.digest, "softwareRequirements": ces,
        }))
    }

    /// The nested crate that stands for a workflow: image and command.
    fn workflow(&mut self) -> Value {
        let request = self.graph.add(json!({
            "@id": "workflow/run.json", "@type": "File", "name": "The run's request", "description": "The image by its digest, and the command",
            "encodingFormat": "application/json",
        }));
        let workflow = self.graph.add(json!({
            "@id": "workflow/", "@type": "Dataset", "name": format!("What run {} executed", self.facts.run.id),
            "description": "One container image and one command, as a Workflow RO-Crate", "conformsTo": reference(WORKFLOW),
            "license": reference(self.facts.known.licence), "hasPart": request,
        }));
        self.parts.push(workflow.clone());
        workflow
    }

    fn end(mut self, mentions: Vec<Value>, about: (&Value, &Value, Option<&Value>, &Value)) -> Value {
        let (agent, organisation, project, instrument) = about;
        let (run, known, five_safes) = (self.facts.run, self.facts.known, self.profile == Profile::FiveSafes);
        self.graph.add(json!({
            "@id": known.licence, "@type": "CreativeWork", "name": known.licence_name, "description": known.licence_name,
            "identifier": five_safes.then_some(known.licence),
        }));
        let (profile, version) = if five_safes {
            (
                self.graph.add(json!({"@id": FIVE_SAFES, "@type": "Profile", "name": "Five Safes RO-Crate profile"})),
                "1.2",
            )
        } else {
            (
                self.graph.add(
                    json!({"@id": PROCESS, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}),
                ),
                "1.1",
            )
        };
        let own = format!("{}runs/{}", known.url, run.id);
        let identifier = if five_safes {
            self.graph.add(json!({
                "@id": format!("{own}#id"), "@type": "PropertyValue", "name": "run", "propertyID": format!("{}runs", known.url),
                "value": run.id,
            }))
        } else {
            json!(own)
        };
        let keys = known.project.and_then(|project| project.members.as_ref()).map(|rule| rule.value.as_slice());
        let funder = keys.and_then(<[String]>::first).and_then(|key| known.organisation(key));
        let root = json!({
            "@id": "./", "@type": "Dataset", "name": format!("Run {}", run.id),
            "description": format!("One run of {} for {} in {}: outputs and record. Not yet checked for disclosure.", run.image, self.whose(), known.name),
            "datePublished": run.finished, "license": reference(known.licence), "conformsTo": profile, "hasPart": self.parts,
            "mentions": mentions, "author": agent, "publisher": organisation, "sourceOrganization": project, "identifier": identifier,
            "mainEntity": five_safes.then_some(instrument), "funder": funder.filter(|_| five_safes).map(|of| reference(&of.id)),
        });
        let about = format!("https://w3id.org/ro/crate/{version}");
        let descriptor = json!({
            "@id": METADATA, "@type": "CreativeWork", "about": reference("./"), "conformsTo": reference(&about),
        });
        self.graph.document(&json!([format!("{about}/context"), TERMS]), descriptor, root)
    }
}
