//! `ces vulndb`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::TableArgs;

const IMPORT_EXAMPLES: &str = "\
Files of these formats, fetched elsewhere and carried in:
  OSV's export of an ecosystem           PyPI.zip, npm.zip, Debian.zip, … of osv-vulnerabilities
  Red Hat's and SUSE's CSAF documents    an archive of them: .tar.zst, .tar.gz, .tar, .zip
  one OSV record or CSAF document        GHSA-….json
  Debian's security tracker              its data.json
  Alpine's security database             main.json and community.json of a release

A source replaces what was imported of it before; older data does not replace newer.";

/// What to do with vulnerability data.
#[derive(Debug, Subcommand)]
pub enum VulndbCommand {
    /// Take vulnerability data from files; nothing is fetched
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(ImportArgs),
    /// List what was imported, and how old it is
    List(TableArgs),
    /// Remove what was imported of a source
    Remove {
        /// Its name, as `ces vulndb list` prints it
        #[arg(value_name = "SOURCE")]
        source: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `ces vulndb import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// Files to import
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Print JSON: an object for each source
    #[arg(long)]
    pub json: bool,
}
