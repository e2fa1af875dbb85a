//! `ces policy show`, `check`, `explain`.

use super::facts::Named;
use super::finding::{self, Finding, Grade};
use super::{Site, facts, prepare, print, request};
use crate::bundle::safe_data::{self, SafeData};
use crate::cli::{ExplainArgs, Global, PolicyCommand};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::image::store::StoredImage;
use crate::policy::grant::Decision;
use crate::policy::request::RunRequest;
use crate::policy::{Access, HostFacts, Policy};

/// Runs the verb.
///
/// # Errors
/// When the policy in force or the file to check is malformed, or the run to explain would be refused.
pub fn run(global: &Global, command: &PolicyCommand) -> Result<u8> {
    match command {
        PolicyCommand::Show(args) => show(global, args.json),
        PolicyCommand::Check { file, json } => check(file, *json),
        PolicyCommand::Explain(args) => explain(global, args),
    }
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    file: &'a str,
    mode: crate::host::caller::Mode,
    rules: Vec<Decision>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
}

fn show(global: &Global, json: bool) -> Result<u8> {
    let caller = Caller::find()?;
    let policy = as_root(|root| Policy::load(root, &caller, global.policy.as_deref()))?;
    if json {
        print::json(&Shown { file: policy.file(), mode: caller.mode, rules: policy.rules(), findings: Vec::new() })?;
        return Ok(0);
    }
    let mode = if caller.is_privileged() { "enforced" } else { "advisory" };
    print::line(&format!("policy: {} ({mode})", policy.file()))?;
    table(&policy.rules())?;
    Ok(0)
}

fn check(file: &std::path::Path, json: bool) -> Result<u8> {
    let name = file.display().to_string();
    let caller = Caller::find()?;
    let bytes = request::read_file(file)?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::new(Stage::Policy, Kind::Policy, format!("{name} is not text")).because(e.utf8_error()))?;
    let policy = Policy::parse(&text, &name, &HostFacts::gather(caller.is_privileged())?)?;
    let findings = finding::named(&policy, &caller);
    let is_refused = findings.iter().any(|finding| finding.grade == Grade::Refused);
    if json {
        let shown = Shown { file: policy.file(), mode: caller.mode, rules: policy.rules(), findings };
        print::json(&shown)?;
    } else {
        print::line(&format!("{name} is a valid policy"))?;
        for Finding { what, grade, found, fix, .. } in findings.iter().filter(|finding| finding.grade != Grade::Ok) {
            print::line(&format!("{} {what}: {found} ({})", grade.word(), fix.as_deref().unwrap_or_default()))?;
        }
        if is_refused {
            print::line("with it, a run on this host would be refused")?;
        }
    }
    Ok(u8::from(is_refused))
}

/// Looks up the image and finds the project as a run would; what is not there is said, and the rest explained without it.
fn explain(global: &Global, args: &ExplainArgs) -> Result<u8> {
    let site = Site::of(global, Caller::find()?)?;
    let (caller, policy) = (&site.caller, &site.policy);
    let mut asked = prepare::read_request(&args.run)?;
    let image = site.store()?.find(&asked.image);
    if let Ok(image) = &image {
        prepare::settle_command(image, &mut asked)?;
    }
    let data = safe_data::find(caller, policy.data_root(), asked.project.as_deref());
    let named = match (&image, policy.images().approved.is_some() && !asked.image.contains("@sha256:")) {
        (Ok(image), _) => Named::stored(image, &asked),
        // A list of digests says nothing about a name.
        (Err(_), true) => return image.map(|_| 0),
        (Err(_), false) => Named::by_name(&asked),
    };
    let sources = facts::sources(&asked.binds, &caller.home)?;
    let mut facts = facts::gather(policy, caller, &asked, named, data.as_ref().ok(), &sources)?;
    facts.rehearsed = facts::rehearsed((&site.dirs, caller, policy), &facts.digest)?;
    let mut grant = policy.grant(&asked, &facts)?;
    let mut refusals = Vec::new();
    if let Ok(image) = &image {
        refusals.extend(prepare::check_platform(image).err().map(|error| error.to_string()));
    }
    match &data {
        Ok(data) => {
            let access = safe_data::check_access(data, &caller.ids(), grant.data == Access::Rw);
            refusals.extend(access.err().map(|error| error.to_string()));
        }
        Err(error) => refusals.push(error.to_string()),
    }
    refusals.extend(image.as_ref().err().map(ToString::to_string));
    grant.decisions.splice(0..0, [which_image(&asked, &image), which_project(&asked, &data)]);
    if args.json {
        let mut document =
            serde_json::to_value(&grant).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()))?;
        if let Some(fields) = document.as_object_mut() {
            fields.insert("refused".to_owned(), serde_json::json!(refusals));
        }
        print::json(&document)?;
    } else {
        table(&grant.decisions)?;
        refusals.iter().try_for_each(|why| print::line(&format!("a run would be refused: {why}")))?;
    }
    Ok(u8::from(!refusals.is_empty()))
}

fn which_image(asked: &RunRequest, image: &Result<StoredImage>) -> Decision {
    let (value, because) = match image {
        Ok(image) => (format!("{}@{}", image.reference(), image.manifest_digest()), "in the store".to_owned()),
        Err(_) => (asked.image.clone(), "not available: it is judged by its name".to_owned()),
    };
    Decision { what: "image".to_owned(), value, because }
}

fn which_project(asked: &RunRequest, data: &Result<SafeData>) -> Decision {
    let (value, because) = match data {
        Ok(SafeData { project: Some(project), path, .. }) => {
            let how = if asked.project.is_some() { "--project" } else { "a group of yours" };
            (project.clone(), format!("{how}: {}", path.display()))
        }
        Ok(data) => ("none".to_owned(), format!("the data is in your home: {}", data.path.display())),
        Err(error) => ("none".to_owned(), format!("not available: {error}")),
    };
    Decision { what: "project".to_owned(), value, because }
}

fn table(rows: &[Decision]) -> Result<()> {
    let rows: Vec<[&str; 3]> = rows.iter().map(|row| [&*row.what, &*row.value, &*row.because]).collect();
    print::page(&rows)
}
