//! Options of the verbs that print a table, and of those that delete.

use clap::{Args, ValueEnum};

/// The form of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people
    #[default]
    Table,
    /// One JSON document
    Json,
    /// Comma-separated values (RFC 4180), for spreadsheets
    Csv,
}

/// What every verb that prints a list has: `ces images`, `ces ps`, `ces runs`, and the `list` of approvals, requests and
/// vulnerability data.
#[derive(Debug, Clone, Default, Args)]
pub struct TableArgs {
    /// Print as a table, as JSON or as comma-separated values
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json", hide_possible_values = true)]
    pub format: Option<Format>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl TableArgs {
    /// The form that was asked for.
    pub fn form(&self) -> Format {
        if self.json { Format::Json } else { self.format.unwrap_or_default() }
    }
}

/// Examples of `ces prune`.
pub const PRUNE_EXAMPLES: &str = "\
Examples:
  ces prune --dry-run                    print what would be deleted
  ces prune                              delete images without a name, and layers that no image uses
  ces prune --records                    delete records older than the policy's [records] keep; for cron";

/// `ces prune`.
#[derive(Debug, Clone, Default, Args)]
pub struct PruneArgs {
    /// Delete nothing; print what would be deleted
    #[arg(long)]
    pub dry_run: bool,
    /// Delete the records of runs that are older than the policy keeps them (records.keep), and nothing else
    #[arg(long)]
    pub records: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
