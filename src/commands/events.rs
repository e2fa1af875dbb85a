//! What verbs tell the audit log, and what they were refused.
//!
//! Takes what a verb did; gives a line that is on disk before the verb says so; refuses to keep a refusal to itself: where the log
//! cannot be written, the error that is shown says that too.

use serde_json::{Value, json};

use super::Site;
use crate::bundle::safe_data;
use crate::cli::{Command, Global};
use crate::error::{Error, Kind, Result};
use crate::evidence::line::{Entry, Event};
use crate::evidence::log;
use crate::host::caller::Caller;
use crate::host::log_dir::LogDir;
use crate::host::privilege::as_root;
use crate::policy::document::is_project_name;

/// Appends a line on behalf of the caller.
///
/// # Errors
/// When it cannot be written.
pub(super) fn tell(logs: &LogDir, caller: &Caller, event: Event, run: Option<&str>, about: Value) -> Result<()> {
    tell_of(logs, caller, event, (None, run), about)
}

/// The same of what was for a project.
///
/// # Errors
/// As [`tell`].
pub(super) fn tell_of(
    logs: &LogDir,
    caller: &Caller,
    event: Event,
    (project, run): (Option<String>, Option<&str>),
    about: Value,
) -> Result<()> {
    let entry = Entry {
        event,
        mode: caller.mode,
        uid: caller.uid.as_raw(),
        name: caller.name.clone(),
        project,
        rule: None,
        run: run.map(str::to_owned),
        about,
    };
    as_root(|root| log::append(root, logs, &entry)).map(drop)
}

/// Tells of a refusal, and of every pull that failed; gives the error to show.
pub(super) fn refused(global: &Global, command: &Command, error: Error) -> Error {
    let is_pull = matches!(command, Command::Pull(_));
    let event = match error.kind() {
        Kind::Policy | Kind::Hostile => Event::Refused,
        Kind::Missing | Kind::Host | Kind::Failed | Kind::Interrupted(_) if is_pull => Event::Pull,
        _ => return error,
    };
    // A policy that is only looked at refuses nobody anything; and that a log does not hold is no refusal.
    if matches!((command, error.kind()), (Command::Policy(_), _) | (Command::Audit(_), Kind::Hostile)) {
        return error;
    }
    match written(global, command, event, &error) {
        Ok(()) => error,
        // Where the log is to be written to is in the policy.
        Err(unwritten) if unwritten.to_string() == error.to_string() => {
            error.because("and so the audit log does not have this")
        }
        Err(unwritten) => error.because(format!("and the audit log does not have this: {unwritten}")),
    }
}

fn written(global: &Global, command: &Command, event: Event, error: &Error) -> Result<()> {
    let caller = Caller::find()?;
    // Through sudo the caller names no places, and that may be what was refused.
    let plain = Global { root: None, policy: None, ..global.clone() };
    let site = Site::of(if caller.by_sudo { &plain } else { global }, caller)?;
    let about = json!({
        "verb": verb(command), "image": image(command), "result": "failed", "what": error.what(), "because": error.causes()
    });
    tell_of(&site.dirs.log, &site.caller, event, (project(&site, command), None), about)
}

/// The project that a refused run would have been for: the one that was named, or that a run finds.
fn project(site: &Site, command: &Command) -> Option<String> {
    let Command::Run(args) = command else { return None };
    let named = args.options.project.clone().filter(|name| is_project_name(name));
    let found = || safe_data::find(&site.caller, site.policy.data_root(), None).ok()?.project;
    named.or_else(found)
}

fn verb(command: &Command) -> String {
    // The name of the variant is that of the verb; what was typed is not told.
    let name = format!("{command:?}");
    name.chars().take_while(char::is_ascii_alphabetic).flat_map(char::to_lowercase).collect()
}

fn image(command: &Command) -> Option<String> {
    match command {
        Command::Pull(args) => Some(args.source.clone()),
        Command::Run(args) => Some(args.image().to_owned()),
        Command::Rehearse(args) => args.words.first().cloned(),
        Command::Spec(args) => Some(args.run.image().to_owned()),
        Command::Bundle(args) => Some(args.image.clone()),
        Command::Inspect(args) => Some(args.image.clone()),
        Command::Rmi(args) => Some(args.images.join(" ")),
        Command::Request(args) => args.image.clone(),
        _ => None,
    }
}
