//! `ces precheck`.

use clap::Args;

/// Examples of `ces precheck`.
pub const EXAMPLES: &str = "\
Examples:
  ces precheck last                      the outputs of the run that began last
  ces precheck ./for-release             a directory (what has a slash in it is one)
  ces precheck --json fit-2 > precheck.json

Exit status: 0 nothing found, or notes alone; 10 a person has to look; 11 a person has to decide (block); else as ever.
Nothing is ever called safe: what was not looked at is printed with every report.";

/// `ces precheck`.
#[derive(Debug, Clone, Args)]
pub struct PrecheckArgs {
    /// The run's id or name, `last`, or a directory
    #[arg(value_name = "RUN|DIR")]
    pub what: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
