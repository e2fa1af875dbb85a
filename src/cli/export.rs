//! `ces export`, `ces report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Examples of `ces export`.
pub const EXPORT_EXAMPLES: &str = "\
Examples:
  ces export --bagit fit-2 -o fit-2.bag  the outputs, the record without arguments, and the pre-check
  (cd fit-2.bag && sha512sum -c manifest-sha512.txt)
  ces export --ro-crate process fit-2 -o fit-2.crate
  ces export --sacro fit-2 -o desk       for SACRO-Viewer
  ces export --in-toto fit-2 -o signed   what came of which image, signed where root exports it
  ces export --tes-log fit-2 -o task     how it ended and what it left, as a TES server tells it";

/// Examples of `ces report`.
pub const REPORT_EXAMPLES: &str = "\
Examples:
  ces report last -o report.html         one page for an output checker, to be read in a browser or printed
  ces report --month 2026-11 --project projx -o november.html
                                         who ran what on which data, what was refused, which approvals end";

/// `ces export`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("form").required(true).args(["bagit", "ro_crate", "sacro", "in_toto", "tes_log"]))]
pub struct ExportArgs {
    /// As a bag (BagIt 1.0, RFC 8493, SHA-512)
    #[arg(long)]
    pub bagit: bool,
    /// As an RO-Crate of this profile
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub ro_crate: Option<CrateProfile>,
    /// For SACRO-Viewer: outputs.json and checksums
    #[arg(long)]
    pub sacro: bool,
    /// As an in-toto Statement about the outputs, which are not copied
    #[arg(long)]
    pub in_toto: bool,
    /// As a task of the GA4GH Task Execution Service (TES 1.1), without the outputs
    #[arg(long)]
    pub tes_log: bool,
    /// The new directory
    #[arg(short, long, value_name = "DIR", required = true)]
    pub out: PathBuf,
    /// The run's id or name, or `last`
    #[arg(value_name = "RUN")]
    pub id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Profiles of RO-Crates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrateProfile {
    /// Process Run Crate 0.5
    Process,
    /// Five Safes RO-Crate 0.4
    FiveSafes,
}

/// `ces report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// The run's id or name, or `last`
    #[arg(value_name = "RUN", required_unless_present = "month", conflicts_with = "month")]
    pub id: Option<String>,
    /// Of all runs that began in this month (UTC), such as 2026-11; root sees everyone's
    #[arg(long, value_name = "YYYY-MM")]
    pub month: Option<String>,
    /// Of this project alone
    #[arg(long, value_name = "PROJECT", requires = "month")]
    pub project: Option<String>,
    /// Write it to this file
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
