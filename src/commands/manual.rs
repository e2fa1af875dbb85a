//! `ces version`; `ces completions` and `ces man`, for packages: all from the definition of the command line.

use std::io::Write;

use clap::CommandFactory;
use serde_json::json;

use super::print;
use crate::cli::{COMMIT, Cli, CompletionsArgs, ListArgs, ManArgs, Shell};
use crate::error::{Error, Kind, Result, Stage};

/// Prints version, commit and target.
///
/// # Errors
/// When standard output is closed.
pub fn version(args: &ListArgs) -> Result<u8> {
    if args.json {
        let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        print::json(&json!({"version": version, "commit": COMMIT, "os": std::env::consts::OS, "architecture": arch}))?;
    } else {
        print::line(Cli::command().render_long_version().trim_end())?;
    }
    Ok(0)
}

/// Prints completions for a shell.
///
/// # Errors
/// When standard output is closed.
pub fn completions(args: &CompletionsArgs) -> Result<u8> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(&Cli::command()), "ces", &mut script);
    // Our own bytes, and a script: not text from outside.
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&script)
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::new(Stage::Cli, Kind::Failed, "cannot write to standard output").because(e))?;
    Ok(0)
}

/// The same verbs less their hidden options, which completions would offer: podman's are understood, not recommended.
fn without_hidden(command: &clap::Command) -> clap::Command {
    // Names in a definition live as long as the program, which is about to end.
    let name: &'static str = Box::leak(command.get_name().to_owned().into_boxed_str());
    let mut visible = clap::Command::new(name)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().map(without_hidden));
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    visible
}

/// Writes a page for `ces` and one for each verb.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn man(args: &ManArgs) -> Result<u8> {
    let fail = |e: std::io::Error| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write manual pages into {}", args.dir.display()))
            .because(e)
    };
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_verb() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: dir.path().to_owned() }).unwrap();
        for page in ["ces.1", "ces-run.1", "ces-pull.1", "ces-policy-explain.1"] {
            assert!(dir.path().join(page).is_file(), "{page}");
        }
    }
}
