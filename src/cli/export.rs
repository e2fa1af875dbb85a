//! `ces export`, `ces report`.

use std::path::PathBuf;

use clap::Args;

/// Examples of `ces export`.
pub const EXPORT_EXAMPLES: &str = "\
Examples:
  ces export --bagit fit-2 -o fit-2.bag  the outputs, the record without arguments, and the pre-check
  (cd fit-2.bag && sha512sum -c manifest-sha512.txt)";

/// Examples of `ces report`.
pub const REPORT_EXAMPLES: &str = "\
Examples:
  ces report last -o report.html         one page for an output checker, to be read in a browser or printed";

/// `ces export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// As a bag (BagIt 1.0, RFC 8493, SHA-512)
    #[arg(long, required = true)]
    pub bagit: bool,
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

/// `ces report`.
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// The run's id or name, or `last`
    #[arg(value_name = "RUN")]
    pub id: String,
    /// Write it to this file
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
