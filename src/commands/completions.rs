//! `ces completions`: scripts for shells, from the definition of the command line, and the names that the scripts ask for.
//!
//! Takes a shell, or a kind of name; gives a script, or names; trusts nothing: the scripts match names by themselves, and a name with
//! a blank or a character of a shell's is left out.

use std::borrow::Cow;

use clap::CommandFactory;

use super::{Site, print, ps, records};
use crate::bundle::safe_data;
use crate::cli::{Cli, CompletionsArgs, Global, Names, Shell};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::run::supervisor::record::index;

/// Names of past runs that are offered at most: the latest.
const MOST: usize = 200;

/// What bash does beyond clap's script: names, and the links.
const BASH: &str = include_str!("completions/names.bash");
/// The same for zsh.
const ZSH: &str = include_str!("completions/names.zsh");
/// The same for fish.
const FISH: &str = include_str!("completions/names.fish");

/// Prints the script of a shell, or names.
///
/// # Errors
/// When standard output is closed, or what has the names cannot be read.
pub fn completions(global: &Global, args: &CompletionsArgs) -> Result<u8> {
    match (args.names, args.shell) {
        (Some(names), _) => {
            offered(global, names)?.iter().filter(|name| is_plain(name)).try_for_each(|n| print::line(n))
        }
        (None, Some(shell)) => print::bytes(script(shell).as_bytes()),
        (None, None) => {
            Err(Error::new(Stage::Cli, Kind::Usage, "ces completions needs SHELL").hint("bash, zsh or fish"))
        }
    }
    .map(|()| 0)
}

/// Whether a shell takes it for one word, whatever it holds.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@".contains(&b))
}

fn offered(global: &Global, names: Names) -> Result<Vec<String>> {
    let site = Site::of(global, Caller::find()?)?;
    Ok(match names {
        Names::Images => site.store()?.images()?.into_iter().filter_map(|image| image.reference).collect(),
        Names::Runs => {
            let text = records::index(&site)?;
            let latest = index::newest_first(&text, records::own(&site)).take(MOST);
            let each = |run: index::Entry<'_>| [Some(run.id.to_string()), run.name.map(Cow::into_owned)];
            let mut names: Vec<String> =
                std::iter::once(records::LAST.to_owned()).chain(latest.flat_map(each).flatten()).collect();
            // A name may have been given to several.
            let mut seen = std::collections::HashSet::new();
            names.retain(|name| seen.insert(name.clone()));
            names
        }
        Names::Running => {
            ps::running(&site)?.into_iter().flat_map(|run| [Some(run.id.to_string()), run.name]).flatten().collect()
        }
        Names::Projects => safe_data::projects(&site.caller, site.policy.data_root()),
        Names::Profiles => site.policy.profiles().to_vec(),
    })
}

fn script(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut without_hidden(&Cli::command()), "ces", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + BASH,
        Shell::Fish => script + FISH,
        Shell::Zsh => of_zsh(&script),
    }
}

/// zsh autoloads a file as the function of its name, which is defined anew by its first call: what clap calls so gets another name, and
/// the function of that name knows the links.
fn of_zsh(script: &str) -> String {
    let script = script.replacen("#compdef ces\n", "#compdef ces ces-run ces-pull\n", 1).replacen(
        "\n_ces() {",
        "\n_ces_verbs() {",
        1,
    );
    let end = script.rfind("if [ \"$funcstack[1]\"").unwrap_or(script.len());
    let (before, after) = script.split_at(end);
    let named: Vec<String> = before.lines().map(of_zsh_line).collect();
    let after = after.replacen("compdef _ces ces\n", "compdef _ces ces ces-run ces-pull\n", 1);
    format!("{}\n{ZSH}\n{after}", named.join("\n"))
}

/// A line of clap's script, which offers files for what has names.
fn of_zsh_line(line: &str) -> String {
    let Some(line_before) = line.strip_suffix(":_default' \\") else { return line.to_owned() };
    let of = |start: &str| line.starts_with(start);
    let offers = if of("'--project=") || of("'*--project=") {
        "_ces_projects"
    } else if of("'--profile=") {
        "_ces_profiles"
    } else if of("'*::words -- The image") || of("':image -- ") || of("'*::images -- ") {
        "_ces_images"
    } else if of("'*::words -- The run") {
        "_ces_running"
    } else if of("':id -- ") || of("'::id -- ") || of("':run -- ") || of("'::run -- ") {
        "_ces_runs"
    } else {
        return line.to_owned();
    };
    format!("{line_before}:{offers}' \\")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_could_take_for_more_is_not_offered() {
        for plain in ["localhost/demo:latest", "20261130T062025-fa960a", "fit-2", "a@sha256:0f"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in ["", "a b", "$(id)", "a;b", "`id`", "a'b", "ä", "a\nb"] {
            assert!(!is_plain(other), "{other}");
        }
    }

    #[test]
    fn what_zsh_offers_for_images_runs_projects_and_profiles_are_names() {
        let script = script(Shell::Zsh);
        for (offers, at_least) in
            [("_ces_images'", 6), ("_ces_runs'", 8), ("_ces_running'", 1), ("_ces_projects'", 4), ("_ces_profiles'", 4)]
        {
            assert!(script.matches(offers).count() >= at_least, "{offers}: {}", script.matches(offers).count());
        }
        assert!(script.starts_with("#compdef ces ces-run ces-pull\n"));
    }
}
