//! `ces outputs`: where the outputs of a run are, and how much there is.

use serde_json::json;

use super::{Site, outputs_prune, print, records};
use crate::cli::{Global, OutputsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::policy::units::show_size;

/// The word for deleting old ones, in the place of an id.
const PRUNE: &str = "prune";

/// Prints the directory alone with `--quiet`, for scripts: `cd "$(ces -q outputs)"`.
///
/// # Errors
/// When there is no such run, or it left nothing.
pub fn outputs(global: &Global, args: &OutputsArgs) -> Result<u8> {
    if args.id == PRUNE {
        return outputs_prune::prune(global, args);
    }
    if args.older.is_some() || args.dry_run {
        return Err(Error::new(Stage::Cli, Kind::Usage, "--older and --dry-run are options of ces outputs prune")
            .hint("ces outputs prune --older 30d --dry-run prints what would be deleted"));
    }
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    let told = record.outputs.as_ref().ok_or_else(|| {
        Error::new(Stage::Record, Kind::Missing, format!("run {} has no outputs", record.id))
            .because("it has not ended, or it was refused")
            .hint(format!("ces show {} tells how far it came", record.id))
    })?;
    // Looked at with the researcher's own rights.
    let there = told.path.is_dir();
    if told.is_empty() && !there && !args.json {
        if !global.quiet {
            print::line(&format!("{}: no outputs: nothing was written to /safe_outputs", record.id))?;
        }
        return Ok(0);
    }
    if args.json {
        print::json(
            &json!({"id": record.id, "path": told.path, "there": there, "files": told.files.count(), "bytes": told.bytes}),
        )?;
    } else if global.quiet {
        print::line(&told.path.to_string_lossy())?;
    } else {
        let gone = if there { "" } else { ", which is not there any more" };
        let (files, size) = (told.files.count(), show_size(told.bytes));
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        print::line(&format!("{}: {files}, {size} in {}{gone}", record.id, told.path.display()))?;
    }
    Ok(u8::from(!there))
}
