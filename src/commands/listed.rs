//! The list of a run's outputs, line by line: the one place where other verbs than `ces verify` read it.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};

use super::Site;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::run::supervisor::outputs::line::Line;
use crate::run::supervisor::outputs::{List, list, order};
use crate::run::supervisor::record::{self, Record};

/// Gives `each` every line, and says what the record tells of the list.
///
/// # Errors
/// When there is no list, it is not the one that the record tells of, or it cannot be read; and `each`'s.
pub(super) fn each<'a>(site: &Site, record: &'a Record, each: &mut dyn FnMut(Line) -> Result<()>) -> Result<&'a List> {
    let none = |why: &str| {
        Error::new(Stage::Record, Kind::Failed, format!("run {} has no list of outputs", record.id)).because(why)
    };
    let told = record.outputs.as_ref().ok_or_else(|| none("it did not finish"))?;
    let told = told.list.as_ref().ok_or_else(|| none("it is of an older version, or the list could not be written"))?;
    let mut file: File =
        as_root(|root| record::open_list(root, &site.dirs.log, &record.id))?.ok_or_else(|| none("the list is gone"))?;
    let fail = |e: std::io::Error| none("it cannot be read").because(e);
    if list::summed(&file).map_err(fail)? != told.sha256 {
        return Err(none("the list was changed after the run").hint("ces audit verify tells what else was"));
    }
    file.seek(SeekFrom::Start(0)).map_err(fail)?;
    let mut from = BufReader::with_capacity(64 << 10, file);
    while let Some(text) = order::next_line(&mut from).map_err(fail)? {
        let line = serde_json::from_slice(&text).map_err(|e| none("it is malformed").because(e))?;
        each(line)?;
    }
    Ok(told)
}
