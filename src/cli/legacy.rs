//! The argument order of EPCC's tools, for links named `ces-pull` and `ces-run`:
//!
//! ```text
//! ces-pull [<runtime>] <user> <token> ghcr.io/<namespace>/<name>:<tag>
//! ces-run  [<runtime>] [--opt-file=F] [--arg-file=F] [--env-file=F] [--gpu] ghcr.io/<namespace>/<name>:<tag>
//! ```
//!
//! Takes the words after the link's name; gives the modern form and warnings; trusts nothing; refuses what the modern
//! form refuses. The runtime's name is accepted and means nothing: there is one engine.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use super::{Cli, Command, Global, PullArgs, Secret};

/// What was parsed, with warnings.
pub type Parsed = Result<(Cli, Vec<String>), clap::Error>;

/// Which link was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// `ces-pull`
    Pull,
    /// `ces-run`
    Run,
}

impl Link {
    /// The link by that file name, if it is one.
    pub fn of(program: &OsString) -> Option<Self> {
        match Path::new(program).file_name()?.to_str()? {
            "ces-pull" => Some(Self::Pull),
            "ces-run" => Some(Self::Run),
            _ => None,
        }
    }
}

const RUNTIMES: [&str; 3] = ["podman", "apptainer", "k8s"];

/// Said whenever a token is on the command line.
pub const TOKEN_WARNING: &str = "a token on the command line can be seen by every user of this host; \
    use `ces pull --username USER --password-stdin IMAGE`, or --creds FILE";

/// Fetch an image, as EPCC's tool of this name does
#[derive(Debug, Parser)]
#[command(name = "ces-pull", override_usage = "ces-pull [podman|apptainer|k8s] USER TOKEN IMAGE")]
#[command(after_help = "The same as `ces pull`, in the order of EPCC's tools; the runtime's name means nothing.")]
struct Pull {
    #[command(flatten)]
    global: Global,
    /// The user at the registry, the token, the image
    #[arg(value_name = "USER TOKEN IMAGE", num_args = 1..=4, required = true)]
    arguments: Vec<String>,
}

/// Turns the words after the link's name into the modern form.
///
/// # Errors
/// clap's, with usage, help or version as the case may be.
pub fn parse(link: Link, words: &[OsString]) -> Parsed {
    match link {
        Link::Pull => pull(words),
        Link::Run => run(words).map(|cli| (cli, Vec::new())),
    }
}

fn is_runtime(word: &str) -> bool {
    RUNTIMES.contains(&word)
}

fn pull(words: &[OsString]) -> Parsed {
    let name = OsString::from("ces-pull");
    let pull = Pull::try_parse_from(std::iter::once(&name).chain(words))?;
    let mut words = pull.arguments;
    if words.len() > 1 && words.first().is_some_and(|word| is_runtime(word)) && words.len() != 3 {
        words.remove(0);
    }
    let (username, token, source) = match words.as_slice() {
        [source] => (None, None, source),
        [user, token, source] => (Some(user.clone()), Some(Secret(token.clone())), source),
        _ => {
            let mut command = <Pull as clap::CommandFactory>::command();
            return Err(
                command.error(clap::error::ErrorKind::WrongNumberOfValues, "expected USER TOKEN IMAGE, or IMAGE alone")
            );
        }
    };
    let warnings = token.iter().map(|_| TOKEN_WARNING.to_owned()).collect();
    let args = PullArgs {
        username,
        password_stdin: false,
        creds: None,
        platform: None,
        name: None,
        json: false,
        source: source.clone(),
        token,
    };
    Ok((Cli { global: pull.global, command: Command::Pull(args) }, warnings))
}

fn run(words: &[OsString]) -> Result<Cli, clap::Error> {
    let runtime = words.first().and_then(|word| word.to_str()).is_some_and(is_runtime);
    let rest = words.iter().skip(usize::from(runtime)).cloned();
    Cli::try_parse_from([OsString::from("ces-run"), OsString::from("run")].into_iter().chain(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn ces_pull_takes_user_and_token_by_position_with_a_warning() {
        for line in [
            &["podman", "me", "tok", "ghcr.io/a/b:1"][..],
            &["me", "tok", "ghcr.io/a/b:1"],
            &["k8s", "me", "tok", "ghcr.io/a/b:1"],
        ] {
            let (cli, warnings) = parse(Link::Pull, &words(line)).unwrap();
            let Command::Pull(args) = cli.command else { panic!() };
            assert_eq!((args.username.as_deref(), args.source.as_str()), (Some("me"), "ghcr.io/a/b:1"));
            assert_eq!(args.token.unwrap().0, "tok");
            assert_eq!(warnings, [TOKEN_WARNING]);
        }
        let (cli, warnings) = parse(Link::Pull, &words(&["apptainer", "ghcr.io/a/b:1"])).unwrap();
        assert!(warnings.is_empty());
        let Command::Pull(args) = cli.command else { panic!() };
        assert!(args.token.is_none() && args.source == "ghcr.io/a/b:1");
        assert!(parse(Link::Pull, &words(&[])).is_err());
        assert!(parse(Link::Pull, &words(&["podman", "a", "b", "c", "d"])).is_err());
    }

    #[test]
    fn ces_run_takes_a_runtime_and_files() {
        for line in [
            &["podman", "--opt-file=o.txt", "--arg-file=a.txt", "--env-file=e.txt", "--gpu", "ghcr.io/a/b:1"][..],
            &["--opt-file", "o.txt", "--arg-file", "a.txt", "--env-file", "e.txt", "--gpu", "ghcr.io/a/b:1"],
        ] {
            let (cli, _) = parse(Link::Run, &words(line)).unwrap();
            let Command::Run(args) = cli.command else { panic!() };
            assert_eq!(args.image(), "ghcr.io/a/b:1");
            assert_eq!(args.options.opt_file.first().unwrap().to_str(), Some("o.txt"));
            assert!(args.options.gpu);
        }
    }
}
