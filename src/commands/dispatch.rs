//! From a verb to its file.

use crate::cli::{Command, Global};
use crate::commands::{facts, manual, policy, request};
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
        // seam: commands::pull::run(&context, &pull_args)
        Command::Pull(_) => Err(later("pull")),
        // seam: commands::images::run(&context, json), and so on
        Command::Images(_) => Err(later("images")),
        Command::Rmi(_) => Err(later("rmi")),
        Command::Prune(_) => Err(later("prune")),
        Command::Inspect(_) => Err(later("inspect")),
        // seam: commands::run::run(global, args), and so on
        Command::Run(_) => Err(later("run")),
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

fn later(verb: &str) -> Error {
    Error::new(Stage::Cli, Kind::Failed, format!("`ces {verb}` is not there yet"))
}
