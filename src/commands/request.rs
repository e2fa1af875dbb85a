//! From the options of a run, and the files they name, to a `RunRequest`.
//!
//! Takes parsed options, a way to read files as the researcher, and the caller's environment; gives a request; trusts
//! nothing; refuses what the readers of `crate::policy::request` refuse.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;

use clap::Parser;

use crate::cli::run::OptFile;
use crate::cli::{RunArgs, RunOptions};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::{named_file, privilege};
use crate::policy::request::places::{self, MountRequest};
use crate::policy::request::{self, RunRequest, Ulimit, files};

/// No such file is longer.
const LARGEST: u64 = 1 << 20;

/// Reads a file; root reads as the researcher, who may not see more through `ces` than alone.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>>;

/// The request that `args` make.
///
/// # Errors
/// When an option or a line of a file is malformed, or a file cannot be read.
pub fn read(args: &RunArgs, open: ReadFile<'_>, caller: &BTreeMap<String, String>) -> Result<RunRequest> {
    let mut warnings = Vec::new();
    let options = with_option_files(args.options.clone(), open, &mut warnings)?;
    let mut out = RunRequest {
        image: args.image().to_owned(),
        project: options.project,
        profile: options.profile,
        entrypoint: options.entrypoint.as_deref().map(request::entrypoint).transpose()?,
        workdir: options.workdir,
        user: options.user,
        hostname: options.hostname,
        name: options.name,
        interactive: options.interactive.unwrap_or(false),
        tty: options.tty.unwrap_or(false),
        detach: options.detach.unwrap_or(false),
        memory: options.memory.as_deref().map(|text| request::size("memory", text)).transpose()?,
        cpus: options.cpus.as_deref().map(request::cpus).transpose()?,
        pids: options.pids_limit.as_deref().map(request::pids).transpose()?,
        shm_size: options.shm_size.as_deref().map(|text| request::size("shm-size", text)).transpose()?,
        timeout: options.timeout.as_deref().map(request::timeout).transpose()?.flatten(),
        read_only: options.read_only.unwrap_or(false),
        gpu: options.gpu,
        data_ro: options.data_ro,
        raw: options.raw,
        json_summary: options.json_summary,
        podman: options.podman.given,
        ..RunRequest::default()
    };
    for path in &options.arg_file {
        out.args.extend(files::arg_file(&text(path, open)?, &path.display().to_string())?);
    }
    out.args.extend(args.args().iter().cloned());
    for path in &options.env_file {
        let file = path.display().to_string();
        warnings.extend(files::env_file(&text(path, open)?, &file, caller, &mut out.env)?);
    }
    for variable in &options.env {
        if privilege::is_lent() && !variable.contains('=') && !caller.contains_key(variable) {
            // What is no name may be a value, given without its `=`.
            let name = if files::is_variable_name(variable) { variable } else { "NAME" };
            let what = format!("-e {name} names a variable that is not set here");
            return Err(Error::new(Stage::Cli, Kind::Usage, what)
                .because("sudo does not pass your variables on")
                .hint(format!("write {name}=value into a file of your own (mode 600) and give it with --env-file")));
        }
        files::variable(variable, caller, &mut out.env)?;
    }
    out.ports = options.publish.iter().map(|text| places::port(text)).collect::<Result<_>>()?;
    out.ulimits = options.ulimits.iter().map(|text| Ulimit::parse(text)).collect::<Result<_>>()?;
    out.binds = options.volumes.iter().map(|text| places::volume(text)).collect::<Result<_>>()?;
    out.tmpfs = options.tmpfs.iter().map(|text| places::tmpfs(text)).collect::<Result<_>>()?;
    for text in &options.mounts {
        match places::mount(text)? {
            MountRequest::Bind(bind) => out.binds.push(bind),
            MountRequest::Tmpfs(tmpfs) => out.tmpfs.push(tmpfs),
        }
    }
    out.warnings = warnings;
    Ok(out)
}

/// The options over those of their option files; later files win over earlier ones.
fn with_option_files(options: RunOptions, open: ReadFile<'_>, warnings: &mut Vec<String>) -> Result<RunOptions> {
    let mut under = RunOptions::default();
    for path in &options.opt_file {
        let file = path.display().to_string();
        let (words, said) = files::words(&text(path, open)?, &file)?;
        warnings.extend(said);
        let parsed = OptFile::try_parse_from(words).map_err(|e| in_option_file(&file, &e))?;
        if !parsed.options.opt_file.is_empty() {
            return Err(Error::new(Stage::Cli, Kind::Usage, format!("{file} names another option file"))
                .hint("put all options into one file, or give --opt-file twice"));
        }
        under = parsed.options.over(under);
    }
    Ok(options.over(under))
}

fn in_option_file(file: &str, e: &clap::Error) -> Error {
    let said = e.render().to_string();
    let first = said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Error::new(Stage::Cli, Kind::Usage, format!("{file} has something that is not an option of ces run"))
        .because(first)
        .hint("an option file holds options alone; the image stands on the command line, arguments in --arg-file")
}

fn text(path: &Path, open: ReadFile<'_>) -> Result<String> {
    String::from_utf8(open(path)?).map_err(|e| {
        Error::new(Stage::Cli, Kind::Usage, format!("{} is not text", path.display()))
            .because(e.utf8_error())
            .hint("save it as UTF-8")
    })
}

/// Reads a file with the privileges this process has now.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger than 1 MiB.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |kind, why: String| {
        Error::new(Stage::Cli, kind, format!("cannot read {}", path.display())).because(why).hint("check the path")
    };
    let mut file = named_file::to_read(path).map_err(|e| fail(Kind::Missing, e.to_string()))?;
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| fail(Kind::Failed, e.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(fail(Kind::Usage, "it is larger than 1 MiB".to_owned()));
    }
    Ok(bytes)
}

/// Variables of a caller whom sudo gave others.
static REMEMBERED: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Takes `variables` for the caller's own, once.
pub fn remember_env(variables: BTreeMap<String, String>) {
    REMEMBERED.get_or_init(|| variables);
}

/// The caller's variables that are text.
pub fn caller_env() -> BTreeMap<String, String> {
    if let Some(remembered) = REMEMBERED.get() {
        return remembered.clone();
    }
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn read_with(words: &[&str], files: &[(&str, &str)]) -> Result<RunRequest> {
        let cli = Cli::try_parse_from(["ces", "run"].iter().chain(words)).unwrap();
        let Command::Run(args) = cli.command else { panic!() };
        let open = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path).unwrap();
            Ok(found.1.as_bytes().to_vec())
        };
        read(&args, &open, &[("LANG".to_owned(), "C".to_owned())].into())
    }

    #[test]
    fn the_published_samples_are_understood() {
        let opts = "-p 8787:8787\n-it\n--mount type=tmpfs,destination=/var/lib/rstudio-server\n\
            -v ./pgdata:/var/lib/postgresql\n-e POSTGRES_PASSWORD=test\n--rm --network none\n";
        let got = read_with(&["--opt-file", "opts", "img"], &[("opts", opts)]).unwrap();
        assert_eq!(got.ports.first().unwrap().container, 8787);
        assert!(got.interactive && got.tty);
        assert_eq!(got.tmpfs.first().unwrap().destination, "/var/lib/rstudio-server");
        assert_eq!(got.binds.first().unwrap().source, "./pgdata");
        assert_eq!(got.env, [("POSTGRES_PASSWORD".to_owned(), "test".to_owned())]);
        assert_eq!(got.podman.len(), 2);
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_lists_are_joined() {
        let got = read_with(
            &["--opt-file", "opts", "--memory", "2g", "-e", "A=2", "--arg-file", "args", "img", "last"],
            &[
                ("opts", "--memory 1g --timeout 5m -e A=1 -e B=1 -i --env-file env"),
                ("env", "A=0\nC=3\nLANG\n"),
                ("args", "one two\n"),
            ],
        )
        .unwrap();
        assert_eq!(got.memory, Some(2 << 30));
        assert_eq!(got.timeout, Some(std::time::Duration::from_secs(300)));
        assert_eq!(got.args, ["one two", "last"]);
        let env: Vec<(&str, &str)> = got.env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(env, [("A", "2"), ("C", "3"), ("LANG", "C"), ("B", "1")]);
    }

    #[test]
    fn an_option_file_with_something_else_is_refused_by_its_name() {
        for text in ["img:1", "--no-such-option", "--opt-file more", "-e", "--help"] {
            let error = read_with(&["--opt-file", "opts", "img"], &[("opts", text)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{text}");
            assert!(error.to_string().contains("opts"), "{error}");
        }
    }
}
