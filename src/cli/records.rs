//! Options of the verbs on past runs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::TableArgs;

/// Examples of `ces runs`.
pub const RUNS_EXAMPLES: &str = "\
Examples:
  ces runs -n 10                         the last ten
  ces runs --since 7d --project projx    runs of a project in the last seven days
  ces -q runs --state refused            ids alone, for scripts";

/// Examples of `ces show`.
pub const SHOW_EXAMPLES: &str = "\
Examples:
  ces show last                          the run that began last
  ces show fit-2                         the last run of that name (ces run --name fit-2 …)
  ces show 20261130T062025-fa960a        a run by its id, as `ces runs` prints it";

/// Examples of `ces outputs`.
pub const OUTPUTS_EXAMPLES: &str = "\
Examples:
  ces outputs                            of the last run
  ls \"$(ces -q outputs fit-2)\"           the directory alone, for scripts
  ces outputs prune --older 30d --dry-run
                                         what would be deleted: outputs of runs that ended 30 days ago or before";

/// Examples of `ces rerun`.
pub const RERUN_EXAMPLES: &str = "\
Examples:
  ces rerun last                         the same once more; what differs is printed
  ces rerun fit-2 -- --seed 7 data.csv   with the arguments that its record does not keep
  ces rerun fit-2 -e TOKEN               with your own value of a variable

Exit status: 0 the outputs are the same, 1 they are not, 125 it could not be told.";

/// `ces runs`.
#[derive(Debug, Clone, Default, Args)]
pub struct RunsArgs {
    /// Print the last N runs
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Print runs that began on or after this day (2026-11-30), or within this time (12h, 7d)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Print runs of this project
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Print runs of this researcher (root sees the runs of all)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Print runs in this state
    #[arg(long, value_enum, value_name = "STATE")]
    pub state: Option<RunState>,
    /// How the list is printed.
    #[command(flatten)]
    pub table: TableArgs,
}

/// How far a run came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunState {
    /// The program is running
    Running,
    /// The program has ended
    Finished,
    /// Nothing ran
    Refused,
    /// ces was killed, or the host went down
    Interrupted,
}

/// `ces record`, `ces verify`, `ces show`.
#[derive(Debug, Clone, Args)]
pub struct RecordArgs {
    /// The run's id or name, or `last`
    #[arg(value_name = "ID")]
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces outputs`.
#[derive(Debug, Clone, Args)]
pub struct OutputsArgs {
    /// The run's id or name; or `prune`, to delete the outputs of old runs
    #[arg(value_name = "ID|prune", default_value = "last")]
    pub id: String,
    /// With prune: delete outputs of runs that ended this long ago or before, such as 30d
    #[arg(long, value_name = "TIME")]
    pub older: Option<String>,
    /// With prune: delete nothing; print what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces rerun`.
#[derive(Debug, Clone, Args)]
pub struct RerunArgs {
    /// Give a variable of the run again, whose value the record does not keep; NAME alone takes your value
    #[arg(short, long, value_name = "NAME[=VALUE]", action = clap::ArgAction::Append, allow_hyphen_values = true)]
    pub env: Vec<String>,
    /// Give the run's --entrypoint again
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The run's id or name, or `last`
    #[arg(value_name = "ID")]
    pub id: String,
    /// The arguments of the run's command again
    #[arg(value_name = "ARGS", last = true, num_args = 1..)]
    pub args: Option<Vec<String>>,
}

/// `ces man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Where the pages go
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
