//! `ces exec`: a command in a run that is alive, under the same restrictions, if the policy allows it.

use std::io::Write as _;

use super::{Site, ps, request};
use crate::cli::{ExecArgs, Global};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::policy::grant::NEVER_SET;
use crate::policy::request::files;
use crate::run::ending::Ending;
use crate::run::exec_client::{self, Executed};
use crate::run::supervisor::exec_server::Command;
use crate::run::terminal::{session, streams};

/// Executes a command in a run of the caller's; the exit status is the command's.
///
/// # Errors
/// When the policy forbids it, there is no such run, or the command did not stand the enforced check.
pub fn exec(global: &Global, args: &ExecArgs) -> Result<u8> {
    let site = Site::of(global, Caller::find()?)?;
    site.policy.may_exec()?;
    let journal = ps::find(&site, args.id())?;
    let mut env = Vec::new();
    for variable in &args.env {
        files::variable(variable, &request::caller_env(), &mut env)?;
    }
    if args.tty && !env.iter().any(|(name, _)| name == "TERM") {
        let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
        env.push(("TERM".to_owned(), term.unwrap_or_else(|| "xterm".to_owned())));
    }
    let never = |name: &str| NEVER_SET.contains(&name) || name.is_empty() || name.contains(['=', '\0']);
    if let Some((name, _)) = env.iter().find(|(name, value)| never(name) || value.contains('\0')) {
        return Err(Error::new(Stage::Cli, Kind::Usage, format!("-e {name} cannot be set")).hint("write NAME=value"));
    }
    if args.workdir.as_deref().is_some_and(|dir| !dir.starts_with('/') || dir.contains('\0')) {
        return Err(Error::new(Stage::Cli, Kind::Usage, "-w is not an absolute path")
            .hint("write it from the root: -w /some/directory"));
    }
    let command = args.command().to_vec();
    let program = command.first().cloned().unwrap_or_default();
    let command = Command {
        args: command,
        env,
        cwd: args.workdir.clone(),
        tty: args.tty,
        user: args.user.clone(),
        by: site.caller.name.clone(),
    };
    let dir = site.dirs.running.join(journal.id.as_str());
    let Executed { ending, not_executed, lost } = exec_client::exec(&dir, command, args.interactive)?;
    if args.tty && args.interactive {
        session::forget_input();
    }
    if let Ending::NotExecuted(errno) = ending {
        let error =
            Error::new(Stage::Run, Kind::Missing, format!("{program} cannot be executed in run {}", journal.id));
        let because = not_executed.unwrap_or_else(|| errno.desc().to_owned());
        let report = error.because(because).hint("check the command and its directory").report();
        // With standard error closed there is nobody to tell.
        std::io::stderr().write_all(report.as_bytes()).ok();
    }
    let Some(error) = streams::not_whole(&lost) else { return Ok(ending.exit_status()) };
    // As above.
    std::io::stderr().write_all(error.report().as_bytes()).ok();
    Ok(ending.exit_status().max(1))
}
