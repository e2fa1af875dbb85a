//! `ces stack`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::stack::package::PackageType;

/// Examples of `ces stack`, for the help.
pub const EXAMPLES: &str = "\
Examples:
  ces stack ghcr.io/lab/tool:1.2                          what is in it, and what a reviewer looks at
  ces stack tool:1.2 --format html -o stack.html          the same as one page for a browser
  ces stack tool:1.3 --diff tool:1.2                      what changed
  ces stack tool:1.2 --only pypi                          one type of packages
  ces stack tool:1.2 --format cyclonedx -o sbom.json      for other programs
  ces stack tool:1.2 --owner /usr/local/bin/tool          which package a file belongs to
  ces stack --approved                                    what is known today against all that is approved

Exit status: 0; 1 failed; 2 usage; 3 the policy's rules for stacks (images.stack) refuse the image.";

/// `ces stack`.
#[derive(Debug, Clone, Args)]
pub struct StackArgs {
    /// How the stack is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Show one type of packages alone: deb, apk, rpm, alpm, pypi, conda, cran, julia, npm, gem, cpan, octave, maven, golang,
    /// cargo, generic, model
    #[arg(long, value_name = "TYPE", value_parser = package_type)]
    pub only: Option<PackageType>,
    /// List every package and every finding, those that packages of the distribution have brought among them
    #[arg(long)]
    pub all: bool,
    /// Tell which package the file PATH of the image belongs to, and which layer has it
    #[arg(long, value_name = "PATH", conflicts_with_all = ["diff", "only", "all"])]
    pub owner: Option<String>,
    /// Tell what changed since IMAGE2; "approved": since the image of that name that is approved
    #[arg(long, value_name = "IMAGE2")]
    pub diff: Option<String>,
    /// Show what the waivers in FILE (OpenVEX or CSAF) would change; the site's own are in the policy
    #[arg(long, value_name = "FILE")]
    pub vex: Option<PathBuf>,
    /// Judge every image that is approved by the data of today, those among them that are in the store no more (who may approve)
    #[arg(long, conflicts_with_all = ["image", "diff", "only", "all", "owner", "vex"])]
    pub approved: bool,
    /// Reference or digest
    #[arg(value_name = "IMAGE", required_unless_present = "approved")]
    pub image: Option<String>,
}

/// How a stack is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal
    Text,
    /// One HTML file, without script
    Html,
    /// CycloneDX 1.6, as JSON
    Cyclonedx,
    /// SPDX 2.3, as JSON
    Spdx,
    /// JSON
    Json,
}

/// A type by its name in package URLs.
fn package_type(name: &str) -> Result<PackageType, String> {
    let name = serde_json::Value::String(name.to_owned());
    serde_json::from_value(name).map_err(|_| "no such type of packages".to_owned())
}
