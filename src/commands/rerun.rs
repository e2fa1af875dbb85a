//! `ces rerun`: the same image, options and command once more, and whether they leave the same.
//!
//! Takes a past run of the caller's; gives a new run and what differs: the exit status, and the two lists of outputs, by content,
//! names, modes and links, not by times. The policy of today decides on the run as on any other. What the record withholds of the
//! first run has to be given again, and what it keeps of it has to fit.

use std::io::Write as _;

use serde_json::json;

use super::prepare;
use super::run::{new_stage, run_recorded, settle_interaction};
use super::run_report::Report;
use super::verify::{Differences, in_order};
use super::{Site, print, records, request};
use crate::cli::{Global, RerunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::policy::request::{self as requests, RunRequest, files};
use crate::run::job_id::JobId;
use crate::run::supervisor::outputs::compare::{Whole, compare};
use crate::run::supervisor::outputs::{List, list};
use crate::run::supervisor::record::beside::{self, WholeCommand};
use crate::run::supervisor::record::{self, Record};

/// It could not be run again, or not be compared.
const COULD_NOT: u8 = 125;

/// Runs a past run again: 0 where it left the same, 1 where not.
///
/// # Errors
/// A call that makes no sense, and a refusal of the policy. Everything else is said here: its status would look like a verdict.
pub fn rerun(global: &Global, args: &RerunArgs) -> Result<u8> {
    match again(global, args) {
        Err(error) if !matches!(error.kind(), Kind::Usage | Kind::Policy) => {
            // With standard error closed there is nobody to tell.
            std::io::stderr().write_all(error.report().as_bytes()).ok();
            Ok(COULD_NOT)
        }
        done => done,
    }
}

fn again(global: &Global, args: &RerunArgs) -> Result<u8> {
    let caller = prepare::caller()?;
    let site = Site::swept(global)?;
    let before = records::read(&site, &args.id)?;
    if before.uid != caller.uid.as_raw() {
        return Err(
            cannot(&before, Kind::Policy, "it is another researcher's run").hint("that researcher can run it again")
        );
    }
    let told = told(&before)?;
    let whole = as_root(|root| beside::whole_command(root, &site.dirs.log, &before.id))?;
    let request = asked_again(&before, args, whole)?;
    let mut prepared = prepare::prepare_again(global, request, caller)?;
    if prepared.image.manifest_digest().to_string() != before.digest {
        return Err(cannot(&before, Kind::Failed, "the store has another image of that digest").hint("see ces fsck"));
    }
    prepare::check_platform(&prepared.image)?;
    settle_interaction(&mut prepared);
    let (id, report) = (JobId::new()?, Report { quiet: global.quiet });
    let idle = new_stage(&prepared.identity.caller)?;
    let (_, after, _) = run_recorded(idle, prepared, &id, (None, None), &report)?;
    let mut found = Differences::default();
    if before.command != after.command {
        found.change("changed: the command, as far as the record keeps it".to_owned());
    }
    if before.exit != after.exit {
        let word = |record: &Record| record.ended.clone().unwrap_or_else(|| "unknown".to_owned());
        found.change(format!("changed: how it ended: {}, then {}", word(&before), word(&after)));
    }
    let files = differences(&site, (&before, told), &after, &mut found)?;
    if args.json {
        let (changes, not_compared) = found.lists();
        print::json(&json!({
            "run": before.id, "again": after.id, "same": found.is_empty(), "changes": changes, "not_compared": not_compared
        }))?;
    } else {
        if found.is_empty() {
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            print::line(&format!("{}: {files}, the same as of {}", after.id, before.id))?;
        }
        found.print()?;
    }
    Ok(u8::from(!found.is_empty()))
}

fn cannot(record: &Record, kind: Kind, why: &str) -> Error {
    Error::new(Stage::Record, kind, format!("run {} cannot be run again", record.id)).because(why)
}

/// What the record says of the list of its outputs.
fn told(record: &Record) -> Result<List> {
    let list = record.outputs.as_ref().and_then(|outputs| outputs.list.clone());
    list.ok_or_else(|| {
        cannot(record, Kind::Missing, "there is no list of its outputs to compare with")
            .hint(format!("ces show {} tells how far it came", record.id))
    })
}

/// What was asked for, with what is given again.
fn asked_again(record: &Record, args: &RerunArgs, whole: Option<WholeCommand>) -> Result<RunRequest> {
    let asked = record.asked.clone().ok_or_else(|| {
        cannot(
            record,
            Kind::Missing,
            "its record does not say what was asked for: it is of an older version, or too long",
        )
        .hint("run it with ces run, and compare")
    })?;
    let mut request = RunRequest { image: record.digest.clone(), ..asked.options };
    let given = args.args.clone();
    let entrypoint = args.entrypoint.as_deref().map(requests::entrypoint).transpose()?;
    (request.entrypoint, request.args) = match (given, entrypoint, whole, asked.args) {
        (Some(args), entrypoint, ..) => (entrypoint.or(asked.entrypoint), args),
        (None, None, Some(whole), _) => (whole.entrypoint, whole.args),
        (None, entrypoint, _, Some(args)) => (entrypoint.or(asked.entrypoint), args),
        (None, ..) => {
            let command = record.command.join(" ");
            return Err(cannot(record, Kind::Usage, &format!("of its command the record keeps only: {command}")).hint(
                format!(
                    "give the arguments again: ces rerun {} -- ARGS…; with --entrypoint, if there was one",
                    record.id
                ),
            ));
        }
    };
    let mut env = Vec::new();
    let own = request::caller_env();
    args.env.iter().try_for_each(|variable| files::variable(variable, &own, &mut env))?;
    for variable in &record.environment {
        if !env.iter().any(|(name, _)| *name == variable.name) {
            let value = variable.value.clone().ok_or_else(|| {
                cannot(record, Kind::Usage, &format!("the record does not keep the value of {}", variable.name))
                    .hint(format!("give it again: -e {}=VALUE, or -e {} for your own", variable.name, variable.name))
            })?;
            env.push((variable.name.clone(), value));
        }
    }
    if record.environment_more > 0 {
        return Err(cannot(record, Kind::Missing, "it had more variables than the record names"));
    }
    request.env = env;
    Ok(request)
}

/// Compares the two lists; how many files the first one names.
fn differences(site: &Site, (before, told): (&Record, List), after: &Record, found: &mut Differences) -> Result<u64> {
    let now = self::told(after)?;
    let open = |record: &Record, told: &List| {
        let file = as_root(|root| record::open_list(root, &site.dirs.log, &record.id))?
            .ok_or_else(|| cannot(record, Kind::Missing, "the list of its outputs is gone"))?;
        let is = list::summed(&file)
            .map_err(|e| cannot(record, Kind::Failed, "the list of its outputs cannot be read").because(e))?;
        if is != told.sha256 {
            return Err(cannot(record, Kind::Hostile, "the list of its outputs is not what it was when it ended"));
        }
        in_order(file)
    };
    for (record, list) in [(before, &told), (after, &now)] {
        if let Some(cut) = &list.cut {
            found.not_compared(format!("not compared: the list of {} is not whole: {cut}", record.id));
        }
    }
    let whole = Whole { told: told.cut.is_none(), now: now.cut.is_none() };
    compare(open(before, &told)?, open(after, &now)?, whole, &mut |path, what| found.tell(path, what))
        .map_err(|e| cannot(before, Kind::Failed, "the lists of outputs cannot be compared").because(e))
}
