//! `ces policy show`, `check`, `explain`.

use crate::bundle::identity::acting_as;
use crate::cli::{ExplainArgs, Global, PolicyCommand};
use crate::commands::print;
use crate::commands::{facts, prepare, request};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::policy::grant::Decision;
use crate::policy::{HostFacts, Policy};

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
}

fn show(global: &Global, json: bool) -> Result<u8> {
    let caller = Caller::find()?;
    let policy = Policy::load(&caller, global.policy.as_deref())?;
    if json {
        print::json(&Shown { file: policy.file(), mode: caller.mode, rules: policy.rules() })?;
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
    let ids = prepare::researcher(&caller)?;
    let bytes = acting_as(&ids, caller.is_privileged(), || request::read_file(file))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::new(Stage::Policy, Kind::Policy, format!("{name} is not text")).because(e.utf8_error()))?;
    let policy = Policy::parse(&text, &name, &HostFacts::gather(caller.is_privileged())?)?;
    if json {
        print::json(&Shown { file: policy.file(), mode: caller.mode, rules: policy.rules() })?;
    } else {
        print::line(&format!("{name} is a valid policy"))?;
    }
    Ok(0)
}

fn explain(global: &Global, args: &ExplainArgs) -> Result<u8> {
    let caller = Caller::find()?;
    let policy = Policy::load(&caller, global.policy.as_deref())?;
    let asked = prepare::read_request(&caller, &args.run)?;
    let facts = facts::without_image(&policy, &caller, &asked)?;
    let grant = policy.grant(&asked, &facts)?;
    if args.json {
        print::json(&grant)?;
    } else {
        table(&grant.decisions)?;
    }
    Ok(0)
}

fn table(rows: &[Decision]) -> Result<()> {
    let width = |column: fn(&Decision) -> &str| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
    let (first, second) = (width(|row| &row.what), width(|row| &row.value).min(48));
    for row in rows {
        print::line(&format!("{:first$}  {:second$}  {}", row.what, row.value, row.because))?;
    }
    Ok(())
}
