//! `ces audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Tell whether the audit log is what it was, line by line
    Verify(VerifyArgs),
    /// Print the lines that tell of you; to root, all
    Log(LogArgs),
    /// Sign the state of the audit log, for ssh-keygen -Y verify and for ces audit verify
    Checkpoint {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what shows that the lines of a run are in the audit log, without a line of any other
    Prove {
        /// The run's id, as `ces runs` prints it
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// `ces audit verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// A checkpoint that was carried elsewhere: the log must continue it
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    /// Check a proof of ces audit prove instead, for which no log is needed
    #[arg(long, value_name = "FILE", conflicts_with = "since")]
    pub proof: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces audit log`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// Of this run alone
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Print the lines as they are
    #[arg(long)]
    pub json: bool,
}
