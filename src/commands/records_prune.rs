//! `ces prune --records`: records that are older than the policy keeps them (`[records] keep`).
//!
//! Takes the policy's period; removes records of runs that ended before it; trusts the index of runs for which there are, and each
//! record for when its run ended; refuses researchers through sudo, and a policy without a period. Nothing of the audit log goes: it
//! has a line for each removal, written before, and `ces audit verify` takes such a record for removed, not for lost.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Context, events, print, records};
use crate::cli::PruneArgs;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::privilege::as_root;
use crate::policy::units;
use crate::run::job_id::JobId;
use crate::run::supervisor::record::index::{self, State};
use crate::run::supervisor::record::{self, Record, retention};

/// Removes the records, or prints which it would remove; 1 where one could not be.
///
/// # Errors
/// When the caller may not, or the policy sets no period; when a removal cannot be told to the audit log: then it is not done.
pub fn prune(ctx: &Context, args: &PruneArgs) -> Result<u8> {
    if ctx.caller.by_sudo {
        return Err(Error::new(Stage::Record, Kind::Policy, "records are removed by root alone")
            .hint("ces outputs prune --older 30d deletes your own outputs of old runs"));
    }
    let rule = ctx.policy().records().keep.as_ref().ok_or_else(|| {
        Error::new(Stage::Record, Kind::Usage, "no record is removed: the policy does not say how long they are kept")
            .hint("set it in the policy: [records] keep = \"2y\"")
    })?;
    let too_long = || Error::new(Stage::Record, Kind::Usage, format!("{} is too long a time", rule.origin));
    let before = record::ago(rule.value).ok_or_else(too_long)?;
    let old = older(ctx, &before)?;
    let (mut removed, mut failed) = (BTreeSet::new(), Vec::new());
    if !args.dry_run {
        let about = json!({"kept": units::show_duration(rule.value), "rule": rule.origin.to_string()});
        for (id, _) in &old {
            events::tell(&ctx.dirs.log, &ctx.caller, Event::RecordRemoved, Some(id.as_str()), about.clone())?;
            match as_root(|root| retention::remove(root, &ctx.dirs.log, id)) {
                Ok(()) => {
                    removed.insert(id.clone());
                }
                Err(error) => failed.push(error),
            }
        }
        if !removed.is_empty() {
            as_root(|root| index::leave_out(root, &ctx.dirs.log, &removed))?;
        }
    }
    let shown = old.iter().filter(|(id, _)| args.dry_run || removed.contains(id));
    if args.json {
        let runs: Vec<_> = shown.map(|(id, ended)| json!({"id": id, "ended": ended})).collect();
        print::json(&json!({"dry_run": args.dry_run, "before": before, "records": runs, "failed": failed.len()}))?;
    } else {
        let did = if args.dry_run { "would remove" } else { "removed" };
        for (id, ended) in shown.clone() {
            print::line(&format!("{did} the record of run {id}, which ended {ended}"))?;
        }
        let count = shown.count();
        print::line(&format!(
            "{did} {count} {} that ended before {before}",
            if count == 1 { "record" } else { "records" }
        ))?;
    }
    failed.iter().try_for_each(|error| print::note(&error.to_string()))?;
    Ok(u8::from(!failed.is_empty()))
}

/// The runs that ended before that, and when; one whose record cannot be read stays.
fn older(ctx: &Context, before: &str) -> Result<Vec<(JobId, String)>> {
    let text = records::index_of(&ctx.dirs)?;
    let own = (!ctx.caller.sees_everyone()).then(|| ctx.caller.uid.as_raw());
    let mut old = Vec::new();
    // A run cannot end before it begins, so most are not looked up.
    for entry in index::of(&text, own).into_iter().filter(|entry| *entry.started < *before) {
        let is_alive = ctx.dirs.running.join(entry.id.as_str()).exists();
        if entry.state == State::Begun && is_alive {
            continue;
        }
        let ended = match as_root(|root| Record::load(root, &ctx.dirs.log, &entry.id)) {
            Ok(record) => record.finished.unwrap_or(record.started),
            // Removed by another such call meanwhile.
            Err(error) if error.kind() == Kind::Missing => continue,
            Err(error) => {
                print::note(&format!("the record of run {} stays: {error}", entry.id))?;
                continue;
            }
        };
        if *ended < *before && !is_alive {
            old.push((entry.id, ended));
        }
    }
    Ok(old)
}
