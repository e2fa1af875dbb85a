//! From a verb to its file.

use crate::cli::{Command, Global, PullArgs};
use crate::commands::{Context, facts, manual, policy, pull, request, run};
use crate::error::{Error, Kind, Result, Stage};

/// Runs the verb, and gives the exit status.
///
/// # Errors
/// The verb's.
pub fn dispatch(global: &Global, command: &Command) -> Result<u8> {
    match command {
        Command::Policy(command) => {
            // seam: read files as the researcher; the facts of `run`, which know the stored image
            policy::run(global, command, &request::read_file, &facts::without_image)
        }
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
        Command::Pull(args) => pull::pull(&Context::new(global)?, &pull_args(global, args)).map(|()| 0),
        // seam: commands::images::run(&context, json), and so on
        Command::Images(_) => Err(later("images")),
        Command::Rmi(_) => Err(later("rmi")),
        Command::Prune(_) => Err(later("prune")),
        Command::Inspect(_) => Err(later("inspect")),
        Command::Run(args) => run::run(global, args),
        Command::Bundle(_) => Err(later("bundle")),
        Command::Spec(_) => Err(later("spec")),
        Command::Doctor(_) => Err(later("doctor")),
        Command::Ps(_) => Err(later("ps")),
        Command::Stop(_) => Err(later("stop")),
        Command::Exec(_) => Err(later("exec")),
        Command::Runs(_) => Err(later("runs")),
        Command::Record(_) => Err(later("record")),
        Command::Verify(_) => Err(later("verify")),
    }
}

fn pull_args(global: &Global, args: &PullArgs) -> pull::PullArgs {
    pull::PullArgs {
        source: args.source.clone(),
        username: args.username.clone(),
        password: args.token.as_ref().map(|token| token.0.clone()),
        password_stdin: args.password_stdin,
        creds: args.creds.clone(),
        platform: args.platform.clone(),
        name: args.name.clone(),
        quiet: global.quiet,
        json: args.json,
    }
}

fn later(verb: &str) -> Error {
    Error::new(Stage::Cli, Kind::Failed, format!("`ces {verb}` is not there yet"))
}
