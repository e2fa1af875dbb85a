//! `ces logs`: what a detached run has written.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::thread::sleep;
use std::time::Duration;

use super::{print, ps, records};
use crate::cli::{Global, LogsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::run::record::Record;
use crate::text::TerminalFilter;

/// How long to wait before looking for more.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the log of a run of the caller's; on a terminal, escape sequences are shown and not obeyed.
///
/// # Errors
/// When there is no such run, or it was not detached.
pub fn logs(global: &Global, args: &LogsArgs) -> Result<u8> {
    let record = records::of(global, &args.id)?;
    let path = record.log.as_ref().ok_or_else(|| {
        Error::new(Stage::Record, Kind::Missing, format!("run {} has no log", record.id))
            .because("it was not detached: its output went where ces's own output went")
            .hint("start it with ces run -d")
    })?;
    let fail = |e: std::io::Error| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot read the log {}", path.display())).because(e)
    };
    let mut log = File::open(path).map_err(fail)?;
    let mut filter = std::io::stdout().is_terminal().then(TerminalFilter::default);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Asked before the log is read to its end: what was written before the run's end is read after it.
        let more = args.follow && is_running(global, &record)?;
        loop {
            let read = log.read(&mut buffer).map_err(fail)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            match &mut filter {
                Some(filter) => print::bytes(&filter.pass(bytes))?,
                None => print::bytes(bytes)?,
            }
        }
        if !more {
            return Ok(0);
        }
        sleep(PAUSE);
    }
}

fn is_running(global: &Global, record: &Record) -> Result<bool> {
    Ok(ps::running(global)?.iter().any(|journal| journal.id == record.id))
}
