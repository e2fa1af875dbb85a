//! `ces logs`: what a detached run has written.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::{Site, print, ps, records};
use crate::cli::{Global, LogsArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::run::supervisor::detach::log_path;
use crate::run::supervisor::record::Record;
use crate::text::TerminalFilter;

/// How long to wait before looking for more.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the log of a run of the caller's; on a terminal, escape sequences are shown and not obeyed. As JSON, each
/// line is an object; `complete` is false where its end is not there (yet), and bytes that are no text are replaced.
///
/// # Errors
/// When there is no such run, or it was not detached.
pub fn logs(global: &Global, args: &LogsArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    record.log.as_ref().ok_or_else(|| {
        Error::new(Stage::Record, Kind::Missing, format!("run {} has no log", record.id))
            .because("it was not detached: its output went where ces's own output went")
            .hint("start it with ces run -d")
    })?;
    let path = log_path(&site.dirs.log, &record.id);
    let fail = |e: std::io::Error| {
        Error::new(Stage::Record, Kind::Failed, format!("cannot read the log {}", path.display())).because(e)
    };
    let mut log = as_root(|_| File::open(&path)).map_err(fail)?;
    let mut shown = if args.json {
        Shown::Lines(record.id.to_string(), Vec::new())
    } else if std::io::stdout().is_terminal() {
        Shown::Terminal(TerminalFilter::default())
    } else {
        Shown::Plain
    };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Asked before the log is read to its end: what was written before the run's end is read after it.
        let more = args.follow && is_running(&site, &record)?;
        loop {
            let read = log.read(&mut buffer).map_err(fail)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            shown.pass(bytes)?;
        }
        if !more {
            return shown.end().map(|()| 0);
        }
        sleep(PAUSE);
    }
}

/// The form in which a log is printed.
enum Shown {
    /// As it is.
    Plain,
    /// For a terminal.
    Terminal(TerminalFilter),
    /// As JSON, an object a line; what is held is the beginning of one.
    Lines(String, Vec<u8>),
}

/// A line of JSON holds no more than this; a longer one is in pieces.
const LONGEST: usize = 64 * 1024;

impl Shown {
    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Plain => print::bytes(bytes),
            Self::Terminal(filter) => print::bytes(&filter.pass(bytes)),
            Self::Lines(id, held) => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    held.extend_from_slice(piece);
                    if held.ends_with(b"\n") || held.len() >= LONGEST {
                        line(id, held)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        match self {
            Self::Lines(id, held) if !held.is_empty() => line(id, held),
            _ => Ok(()),
        }
    }
}

/// Prints what is held: a line, or a piece of one without its end.
fn line(id: &str, held: &mut Vec<u8>) -> Result<()> {
    let text = held.strip_suffix(b"\n");
    let complete = text.is_some();
    let text = String::from_utf8_lossy(text.unwrap_or(held)).into_owned();
    held.clear();
    print::json_line(&json!({"id": id, "line": text, "complete": complete}))
}

fn is_running(site: &Site, record: &Record) -> Result<bool> {
    Ok(ps::running(site)?.iter().any(|journal| journal.id == record.id))
}
