//! Options of a run: `ces run`, and what shows a run without running it.
//!
//! Takes words; gives text as the user wrote it; trusts nothing; refuses unknown options. Values are read by
//! `crate::policy::request`, so that words of an option file are read the same way.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser};

use super::podman::PodmanOptions;

/// Shown after `ces run --help`.
pub const RUN_EXAMPLES: &str = "\
Examples:
  ces run ghcr.io/lab/tool:1.2 --input /safe_data/x.csv
  ces run --project projx --memory 16g --timeout 2h ghcr.io/lab/tool:1.2
  ces run -it ghcr.io/lab/tool:1.2 bash
  ces run --profile service -p 8787:8787 ghcr.io/rocker-org/rstudio:4

podman options that are already the default here (--rm, --init, …) are accepted
and ignored; those that would weaken the isolation (--privileged, …) are refused.

Exit status: the program's own; 124 deadline; 125 ces failed or refused;
126 not executable; 127 not found; 128+N killed by signal N.";

/// Shown after `ces pull --help`.
pub const PULL_EXAMPLES: &str = "\
Examples:
  ces pull ghcr.io/lab/tool:1.2
  ces pull --username me --password-stdin ghcr.io/lab/tool:1.2 < token
  ces pull oci-archive:tool.tar --name lab/tool:1.2";

// The groups of the help.
const COMMON: &str = "Common options";
const DATA: &str = "Data and files";
const RESOURCES: &str = "Resources";
const TERMINAL: &str = "Ports and terminal";
const ADVANCED: &str = "Advanced";

/// What a run is made of.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(args_override_self = true)]
pub struct RunOptions {
    /// The project whose data the run sees [default: found from your groups]
    #[arg(long, value_name = "PROJECT", help_heading = COMMON)]
    pub project: Option<String>,
    /// A name for the run, unique among those running
    #[arg(long, value_name = "NAME", help_heading = COMMON)]
    pub name: Option<String>,
    /// Set a variable; NAME alone takes your value
    #[arg(short, long, value_name = "NAME[=VALUE]", action = ArgAction::Append, allow_hyphen_values = true, help_heading = COMMON)]
    pub env: Vec<String>,
    /// Read variables from FILE: NAME=value, one a line, values as they stand
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = COMMON)]
    pub env_file: Vec<PathBuf>,
    /// Execute this instead of the image's entrypoint: a word, or a JSON list
    #[arg(long, value_name = "COMMAND", help_heading = COMMON)]
    pub entrypoint: Option<String>,
    /// Start in this directory of the container
    #[arg(short, long, value_name = "DIR", help_heading = COMMON)]
    pub workdir: Option<String>,
    /// Run as this user of the image: NAME, UID, UID:GID, NAME:GROUP
    #[arg(short, long, value_name = "USER", help_heading = COMMON)]
    pub user: Option<String>,
    /// What the program may do: batch, or service for images that start as root and drop to another user
    #[arg(long, value_name = "PROFILE", help_heading = COMMON)]
    pub profile: Option<String>,
    /// Start the run and return: it outlives this terminal, and its output is in a log (`ces logs`)
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = COMMON)]
    pub detach: Option<bool>,
    /// Bind a directory of the host, where the policy allows it
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]", action = ArgAction::Append, help_heading = DATA)]
    pub volumes: Vec<String>,
    /// Bind a directory or make an empty one: type=bind|tmpfs,source=…,destination=…
    #[arg(long = "mount", value_name = "SPEC", action = ArgAction::Append, help_heading = DATA)]
    pub mounts: Vec<String>,
    /// Make an empty directory in memory
    #[arg(long, value_name = "DST[:OPTIONS]", action = ArgAction::Append, help_heading = DATA)]
    pub tmpfs: Vec<String>,
    /// Mount safe data read-only, even where writing is allowed
    #[arg(long, help_heading = DATA)]
    pub data_ro: bool,
    /// Make the root file system read-only; /tmp, /var/tmp and /run are in memory
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = DATA)]
    pub read_only: Option<bool>,
    /// Read arguments of the command from FILE, one a line
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = DATA)]
    pub arg_file: Vec<PathBuf>,
    /// Read options from FILE, several a line; options given here win
    #[arg(long, value_name = "FILE", action = ArgAction::Append, help_heading = DATA)]
    pub opt_file: Vec<PathBuf>,
    /// Write a summary of the run to FILE, as JSON
    #[arg(long, value_name = "FILE", help_heading = DATA)]
    pub json_summary: Option<PathBuf>,
    /// Limit of memory, such as 8g
    #[arg(short, long, value_name = "SIZE", help_heading = RESOURCES)]
    pub memory: Option<String>,
    /// Limit of CPUs, such as 2.5
    #[arg(long, value_name = "N", help_heading = RESOURCES)]
    pub cpus: Option<String>,
    /// Limit of processes and threads
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = RESOURCES)]
    pub pids_limit: Option<String>,
    /// End the run after this time, such as 2h
    #[arg(long, value_name = "TIME", help_heading = RESOURCES)]
    pub timeout: Option<String>,
    /// Size of /dev/shm [default: half of the memory]
    #[arg(long, value_name = "SIZE", help_heading = RESOURCES)]
    pub shm_size: Option<String>,
    /// A limit of the process, such as nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", action = ArgAction::Append, help_heading = RESOURCES)]
    pub ulimits: Vec<String>,
    /// Use a GPU (not supported yet)
    #[arg(long, help_heading = RESOURCES)]
    pub gpu: bool,
    /// Pass standard input on: a file, a pipe or a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = TERMINAL)]
    pub interactive: Option<bool>,
    /// Give the program a terminal of its own; with -i your keys go to it
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = TERMINAL)]
    pub tty: Option<bool>,
    /// Publish a port of the container on this host's loopback (HOST:CONTAINER; HOST 0 is any free port), or as a
    /// socket that you alone can open (unix:CONTAINER, unix:PATH:CONTAINER)
    #[arg(short, long, value_name = "PORTS", action = ArgAction::Append, help_heading = TERMINAL)]
    pub publish: Vec<String>,
    /// Pass the program's output to your terminal unfiltered: escape sequences can then write your clipboard, and more
    #[arg(long, help_heading = TERMINAL)]
    pub raw: bool,
    /// The container's host name
    #[arg(long, value_name = "NAME", help_heading = ADVANCED)]
    pub hostname: Option<String>,
    /// podman's options.
    #[command(flatten)]
    pub podman: PodmanOptions,
}

/// The options of an option file: the same definition, without a program's name.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
pub struct OptFile {
    /// What a run is made of.
    #[command(flatten)]
    pub options: RunOptions,
}

impl RunOptions {
    /// These options over those of a file: single ones win, lists come after.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        macro_rules! merge {
            (options: $($option:ident),*; lists: $($list:ident),*; switches: $($switch:ident),*) => {
                Self {
                    $($option: self.$option.or(file.$option),)*
                    $($list: file.$list.into_iter().chain(self.$list).collect(),)*
                    $($switch: self.$switch || file.$switch,)*
                    podman: PodmanOptions {
                        given: file.podman.given.into_iter().chain(self.podman.given).collect(),
                    },
                }
            };
        }
        merge! {
            options: project, profile, entrypoint, workdir, user, hostname, name, interactive, tty, detach, memory, cpus,
                pids_limit, shm_size, timeout, read_only, json_summary;
            lists: env, env_file, arg_file, opt_file, publish, volumes, mounts, tmpfs, ulimits;
            switches: gpu, data_ro, raw
        }
    }
}

/// `ces run`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// What the run is made of.
    #[command(flatten)]
    pub options: RunOptions,
    /// The image (by reference or digest), then arguments of its command
    #[arg(value_name = "IMAGE [ARGS]", trailing_var_arg = true, required = true, num_args = 1..)]
    pub words: Vec<String>,
}

impl RunArgs {
    /// The image, as the user names it.
    pub fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Arguments of its command.
    pub fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// Shown after `ces rehearse --help`.
pub const REHEARSE_EXAMPLES: &str = "\
Examples:
  ces rehearse docker-archive:tool.tar              from `docker save` to a verdict
  ces rehearse --data ./synthetic lab/tool:1.2 --input /safe_data/x.csv
  ces rehearse --json r.json --markdown r.md oci:./layout

Exit status: 0 ready, 1 not ready, 2 usage, 3 refused by policy, 125 it could not be rehearsed.";

/// `ces rehearse`.
#[derive(Debug, Clone, Default, Args)]
pub struct RehearseArgs {
    /// What the run is made of.
    #[command(flatten)]
    pub options: RunOptions,
    /// Synthetic data for /safe_data [default: an empty directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The policy of the TRE, for its limits and profiles
    #[arg(long, value_name = "FILE")]
    pub rules: Option<PathBuf>,
    /// Leave out what is opened and looked for: a program that looks at many files is then as fast as in a run
    #[arg(long)]
    pub light: bool,
    /// Not ready either if something was wanted and not had
    #[arg(long)]
    pub strict: bool,
    /// Write the report to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the report to FILE, as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write options for runs to FILE (--opt-file FILE), with margins over the measured memory, processes and time
    #[arg(long = "options", value_name = "FILE")]
    pub options_file: Option<PathBuf>,
    /// The image, or a local archive or layout (docker-archive:FILE, oci-archive:FILE, oci:DIR), then arguments of its command
    #[arg(value_name = "IMAGE [ARGS]", trailing_var_arg = true, required = true, num_args = 1..)]
    pub words: Vec<String>,
}

/// `ces spec`.
#[derive(Debug, Clone, Args)]
pub struct SpecArgs {
    /// As for `ces run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `ces policy explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// As for `ces run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `ces bundle`.
#[derive(Debug, Clone, Args)]
pub struct BundleArgs {
    /// What the run is made of.
    #[command(flatten)]
    pub options: RunOptions,
    /// The image, by reference or digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The directory to make
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

impl BundleArgs {
    /// The same as for `ces run`.
    pub fn run(&self) -> RunArgs {
        RunArgs { options: self.options.clone(), words: vec![self.image.clone()] }
    }
}
