//! `ces approve`, `ces request`.

use clap::{Args, Subcommand};

use super::TableArgs;
use crate::policy::approved;

/// Examples of `ces request`.
pub const REQUEST_EXAMPLES: &str = "\
Examples:
  ces request ghcr.io/lab/tool:1.2 --reason 'table builder of work package 3'
  ces request list                       what you asked for, and what became of it
  ces request withdraw req-3fa94c01d2b7";

/// Examples of `ces approve`.
pub const APPROVE_EXAMPLES: &str = "\
Examples:
  ces request list                                   what was asked for, by whom and why
  ces approve add req-3fa94c01d2b7 --until 2027-06-30
  ces approve add ghcr.io/lab/tool:1.2 --project projx --until 2027-06-30
  ces approve list                                   what is approved, for whom, until when
  ces approve renew ghcr.io/lab/tool:1.2 --until 2027-12-31
  ces approve revoke ghcr.io/lab/tool:1.2 --project projx";

/// `ces request`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RequestArgs {
    /// What to do with requests that are there
    #[command(subcommand)]
    pub command: Option<RequestCommand>,
    /// Why it is needed, for who decides
    #[arg(long, value_name = "TEXT", required = true)]
    pub reason: Option<String>,
    /// For this project [default: as for a run]
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The image: its name in the store, or sha256:…
    #[arg(value_name = "IMAGE", required = true)]
    pub image: Option<String>,
}

/// What to do with requests that are there.
#[derive(Debug, Clone, Subcommand)]
pub enum RequestCommand {
    /// List your requests; to who approves, those of everybody
    List {
        /// Those that were decided or withdrawn as well
        #[arg(short, long)]
        all: bool,
        /// How the list is printed.
        #[command(flatten)]
        table: TableArgs,
    },
    /// Take a request of yours back
    Withdraw {
        /// The request, as `ces request list` prints it
        #[arg(value_name = "REQUEST")]
        request: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `ces approve`.
#[derive(Debug, Clone, Subcommand)]
pub enum ApproveCommand {
    /// Approve an image, or what a request asks for
    Add(AddArgs),
    /// List what is approved, for whom and until when
    List(TableArgs),
    /// Take approvals of an image back; what runs goes on
    Revoke(ChangeArgs),
    /// Give approvals of an image another last day
    Renew(RenewArgs),
    /// Decline a request
    Decline {
        /// The request
        #[arg(value_name = "REQUEST")]
        request: String,
        /// Why, for who asked
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Tell whether an image, or what a request asks for, is approved; 3 if it is not
    Check(CheckArgs),
}

/// `ces approve add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// The image (its name in the store, or sha256:…), or a request
    #[arg(value_name = "IMAGE|REQUEST")]
    pub what: String,
    /// For this project, `*` for all; may be given again [default: the one that the request is for]
    #[arg(long, value_name = "PROJECT")]
    pub project: Vec<String>,
    /// The last day that it counts, such as 2027-01-31 [default: it does not end]
    #[arg(long, value_name = "DATE")]
    pub until: Option<String>,
    /// What was read of the image, as `ces stack` names it (sha256:…): no run of another stack
    #[arg(long, value_name = "DIGEST", value_parser = stack_digest)]
    pub stack: Option<String>,
    /// Whatever else there is to say
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces approve revoke`, and what `ces approve renew` has in common with it: which approvals to change.
#[derive(Debug, Clone, Args)]
pub struct ChangeArgs {
    /// The image: its name in the store, or sha256:…
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// For this project alone [default: for all that it is approved for]
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces approve renew`.
#[derive(Debug, Clone, Args)]
pub struct RenewArgs {
    /// The new last day, such as 2027-12-31
    #[arg(long, value_name = "DATE")]
    pub until: String,
    /// Which approvals, and why.
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// `ces approve check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The image (its name in the store, or sha256:…), or a request
    #[arg(value_name = "IMAGE|REQUEST")]
    pub what: String,
    /// For this project [default: for any; of a request, the one that it is for]
    #[arg(long, value_name = "PROJECT")]
    pub project: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The digest of a stack.
fn stack_digest(text: &str) -> Result<String, String> {
    approved::digest(text).ok_or_else(|| "it is not \"sha256:\" and 64 hexadecimal digits".to_owned())
}
