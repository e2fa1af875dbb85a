//! The command line; the doc comments are the help.
//!
//! Takes the words after `ces`; gives typed options; trusts nothing; refuses unknown words. What options mean is decided
//! elsewhere: these are types only.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, FromArgMatches as _, Parser, Subcommand, ValueEnum};

/// `ces approve`, `ces request`.
pub mod approve;
/// `ces audit`.
pub mod audit;
/// Options of the verbs on images.
pub mod images;
/// The argument order of EPCC's tools: `ces-pull`, `ces-run`.
pub mod legacy;
/// Words of other tools, answered with those of ces.
pub mod other_tools;
/// Options of podman, hidden from the help.
pub mod podman;
/// `ces export`, `ces report`.
pub mod export;
/// `ces precheck`.
pub mod precheck;
/// Options of the verbs on past runs.
pub mod records;
/// Options of a run.
pub mod run;
/// `ces stack`.
pub mod stack;
/// Options of the verbs that print a table, and of those that delete.
pub mod table;
/// `ces vulndb`.
pub mod vulndb;

#[cfg(test)]
mod tests;

pub use images::{FsckArgs, InspectArgs, PullArgs, RmiArgs, Secret};
pub use records::{ManArgs, OutputsArgs, RecordArgs, RerunArgs, RunState, RunsArgs};
pub use run::{BundleArgs, ExplainArgs, RehearseArgs, RunArgs, RunOptions, SpecArgs};
pub use table::{Format, PruneArgs, TableArgs};

const EXAMPLES: &str = "\
Examples:
  ces pull ghcr.io/lab/tool:1.2          fetch an approved image
  ces run ghcr.io/lab/tool:1.2           run it on the project's safe data
  ces show last                          show the last run and its outputs
  ces doctor                             check whether this host is ready

Exit status: the program's own for `run` (125: nothing ran); else 0, 1 failed,
2 usage, 3 refused by policy.";

/// What it is, above its commands.
const ABOUT: &str = "\
Runs approved container images on sensitive data in Trusted Research Environments.

No daemon, no network, one policy. Data is at /safe_data in the container; what the program leaves in /safe_outputs is \
kept in ~/outputs_ID; everything else it writes is gone after the run.";

/// The commit it was built from; told by who builds it for others (`scripts/package`).
pub const COMMIT: &str = match option_env!("CES_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
/// What `ces --version` and `ces version` print.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    format!("{} (commit {COMMIT}, {arch}-{os}, OCI runtime: libcontainer)", env!("CARGO_PKG_VERSION"))
});

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "ces", about = ABOUT, long_about = None, version, long_version = VERSION.as_str(), max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    /// Options of every verb.
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Keep store, running jobs and records below DIR
    #[arg(long, value_name = "DIR", env = "CES_ROOT", value_parser = maybe_path())]
    #[arg(global = true, help_heading = "Global options")]
    pub root: Option<PathBuf>,
    /// Use another policy file; accepted from real root, and where the policy is advisory
    #[arg(long, value_name = "FILE", env = "CES_POLICY", value_parser = maybe_path())]
    #[arg(global = true, help_heading = "Global options")]
    pub policy: Option<PathBuf>,
    /// Print errors only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Print more details
    #[arg(long, global = true, help_heading = "Global options")]
    pub verbose: bool,
    /// Print more details (before the verb: `ces -v run …`; after `run`, -v is a volume)
    #[arg(short = 'v', hide = true)]
    pub verbose_first: bool,
}

/// A path that may be empty, as a variable is that is set to nothing; [`parse`] takes it for absent.
fn maybe_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

impl Global {
    /// Whether more is to be said.
    pub fn is_verbose(&self) -> bool {
        self.verbose || self.verbose_first
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an image into the local store
    #[command(after_help = run::PULL_EXAMPLES)]
    Pull(PullArgs),
    /// Run an image on the project's safe data
    #[command(after_help = run::RUN_EXAMPLES, override_usage = "ces run [OPTIONS] IMAGE [ARGS]...")]
    Run(RunArgs),
    /// Test an image under the TRE's isolation, on synthetic data
    #[command(after_help = run::REHEARSE_EXAMPLES, override_usage = "ces rehearse [OPTIONS] IMAGE [ARGS]...")]
    Rehearse(Box<RehearseArgs>),
    /// List the images in the store
    Images(TableArgs),
    /// Remove images from the store; through sudo, what you pulled
    Rmi(RmiArgs),
    /// Delete unused layers and files
    #[command(after_help = table::PRUNE_EXAMPLES)]
    Prune(PruneArgs),
    /// Check images and layers in the store against their digests
    Fsck(FsckArgs),
    /// Write a complete, portable OCI bundle, for crun and runc
    #[command(override_usage = "ces bundle [OPTIONS] IMAGE DIR")]
    Bundle(BundleArgs),
    /// Show the configuration and layers of an image
    Inspect(InspectArgs),
    /// List what is in an image and who brought it, without running it
    #[command(after_help = stack::EXAMPLES)]
    Stack(stack::StackArgs),
    /// Print the config.json of a run, without running it
    #[command(override_usage = "ces spec [OPTIONS] IMAGE [ARGS]...")]
    Spec(SpecArgs),
    /// Show, check and explain the site's policy
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Check whether this host can run containers safely, and how to fix what is missing
    Doctor(ListArgs),
    /// List running containers
    Ps(TableArgs),
    /// Stop a run: with its stop signal (SIGTERM), then with SIGKILL
    Stop(StopArgs),
    /// Print what a detached run has written
    Logs(LogsArgs),
    /// Execute a command in a running container
    #[command(override_usage = "ces exec [OPTIONS] ID COMMAND [ARGS]...")]
    Exec(ExecArgs),
    /// List past runs
    #[command(after_help = records::RUNS_EXAMPLES)]
    Runs(RunsArgs),
    /// Show a past run on one page
    #[command(after_help = records::SHOW_EXAMPLES)]
    Show(RecordArgs),
    /// Print the record of a run, a JSON document
    Record(RecordArgs),
    /// Print where the outputs of a run are, or delete old ones
    #[command(after_help = records::OUTPUTS_EXAMPLES)]
    Outputs(OutputsArgs),
    /// Check that the outputs of a run are unchanged
    Verify(RecordArgs),
    /// Look through outputs for what should not leave the TRE
    #[command(after_help = precheck::EXAMPLES)]
    Precheck(precheck::PrecheckArgs),
    /// Write one page about a run, for whoever checks its outputs
    #[command(after_help = export::REPORT_EXAMPLES)]
    Report(export::ReportArgs),
    /// Copy outputs and record into a form that other programs read
    #[command(after_help = export::EXPORT_EXAMPLES)]
    Export(export::ExportArgs),
    /// Run a past run again, and compare the outputs
    #[command(after_help = records::RERUN_EXAMPLES, override_usage = "ces rerun [OPTIONS] ID [-- ARGS...]")]
    Rerun(RerunArgs),
    /// Ask for the approval of an image, and list your requests
    #[command(after_help = approve::REQUEST_EXAMPLES, override_usage = "ces request [OPTIONS] IMAGE --reason TEXT\n       ces request list|withdraw …")]
    Request(approve::RequestArgs),
    /// Approve images, and keep the list of approved images
    #[command(subcommand, after_help = approve::APPROVE_EXAMPLES)]
    Approve(approve::ApproveCommand),
    /// Check, show and sign the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print metrics for monitoring, in Prometheus' text format
    Metrics(ListArgs),
    /// Print version, commit and target
    Version(ListArgs),
    /// Import, list and remove vulnerability data
    #[command(subcommand)]
    Vulndb(vulndb::VulndbCommand),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// Verbs without options of their own.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print the policy in force
    Show(ListArgs),
    /// Check whether FILE is a valid policy
    Check {
        /// The file to check
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print every decision for a run and the policy line it comes from, without running it
    #[command(override_usage = "ces policy explain [OPTIONS] IMAGE [ARGS]...")]
    Explain(Box<ExplainArgs>),
}

/// `ces logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Keep printing until the run has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Print JSON: an object for each line
    #[arg(long)]
    pub json: bool,
    /// The run's id or name
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `ces stop`.
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Seconds between the stop signal and SIGKILL
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(..=86400))]
    pub time: u64,
    /// The run's id or name
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Pass standard input on: a file, a pipe or a terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,
    /// Set a variable, over those of the run; NAME alone takes your value
    #[arg(short, long, value_name = "NAME[=VALUE]", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Start in this directory of the container [default: the program's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Become this user of the container first, where the run may (--profile service)
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The run's id or name, then the command
    #[arg(value_name = "ID COMMAND", trailing_var_arg = true, required = true, num_args = 2..)]
    pub words: Vec<String>,
}

impl ExecArgs {
    /// The run's id or name.
    pub fn id(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The command and its arguments.
    pub fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// `ces completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Option<Shell>,
    /// Print what a completion script offers for a word: one a line
    #[arg(long, value_enum, hide = true)]
    pub names: Option<Names>,
}

/// What completion scripts ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Names {
    /// Images of the store
    Images,
    /// Ids and names of past runs
    Runs,
    /// Ids and names of running containers
    Running,
    /// Projects of the caller
    Projects,
    /// Profiles that the policy allows
    Profiles,
}

/// Shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Parses all words, the program's name among them; tells also whether they are a run, even where they are malformed:
/// then the exit status must not look like a payload's.
pub fn parse(argv: &[OsString]) -> (legacy::Parsed, bool) {
    let words = argv.get(1..).unwrap_or_default();
    let (mut parsed, is_run) = match argv.first().and_then(legacy::Link::of) {
        Some(link) => (legacy::parse(link, words), link == legacy::Link::Run),
        None => {
            let is_run = is_run(words);
            let cli = if is_run { run_alone(argv) } else { None };
            (cli.map_or_else(|| Cli::try_parse_from(argv), Ok).map(|cli| (cli, Vec::new())), is_run)
        }
    };
    if let Ok((cli, _)) = &mut parsed {
        // A variable that is set to nothing is not set.
        cli.global.root.take_if(|path| path.as_os_str().is_empty());
        cli.global.policy.take_if(|path| path.as_os_str().is_empty());
    }
    (parsed, is_run)
}

/// By the definition of `run` alone: that of all verbs takes as long to make as the rest of a run takes to decide. What
/// this one does not understand, help among it, is left to the whole.
fn run_alone(argv: &[OsString]) -> Option<Cli> {
    let run = podman::left_out(|| RunArgs::augment_args(clap::Command::new("run")));
    let matches = Global::augment_args(clap::Command::new("ces")).subcommand(run).try_get_matches_from(argv).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

/// Whether all words, the program's name among them, are those of `ces run`, as far as they need not be understood for that.
pub fn says_run(argv: &[OsString]) -> bool {
    let link = argv.first().and_then(legacy::Link::of);
    link.map_or_else(|| verb(argv.get(1..).unwrap_or_default()) == Some("run"), |link| link == legacy::Link::Run)
}

fn is_run(words: &[OsString]) -> bool {
    matches!(verb(words), Some("run" | "exec"))
}

fn verb(words: &[OsString]) -> Option<&str> {
    let mut words = words.iter();
    loop {
        let word = words.next()?;
        if word == "--root" || word == "--policy" {
            words.next();
        } else if !word.as_encoded_bytes().starts_with(b"-") {
            return word.to_str();
        }
    }
}
