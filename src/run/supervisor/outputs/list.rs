//! The list of outputs, line by line into a file that was opened for it.
//!
//! Takes lines; gives how many there are and why there are no more; trusts the file to be nobody else's; refuses to grow beyond
//! `LARGEST`, or a file system that is full: then the list is cut, and says so.

use std::fs::File;
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write as _};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::run::supervisor::outputs::List;
use crate::run::supervisor::outputs::line::hex;
use crate::run::supervisor::outputs::order;

/// No list is longer, in bytes.
pub const LARGEST: u64 = 256 << 20;

/// A list that is being written.
#[derive(Debug)]
pub struct ListWriter {
    file: Option<BufWriter<File>>,
    bytes: u64,
    cut: Option<String>,
}

impl ListWriter {
    /// Goes on where `file` ends; without a file nothing is kept.
    pub fn new(file: Option<&File>) -> Self {
        let opened = file.and_then(|file| {
            let mut copy = file.try_clone().ok()?;
            let end = copy.seek(SeekFrom::End(0)).ok()?;
            Some((BufWriter::with_capacity(64 << 10, copy), end))
        });
        let bytes = opened.as_ref().map_or(0, |(_, end)| *end);
        Self { file: opened.map(|(file, _)| file), bytes, cut: None }
    }

    /// One more line.
    pub fn add(&mut self, line: &impl Serialize) {
        let Some(file) = self.file.as_mut().filter(|_| self.cut.is_none()) else { return };
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if self.bytes.saturating_add(size) > LARGEST {
            self.cut = Some(format!("it would be longer than {} MiB", LARGEST >> 20));
        } else if let Err(e) = file.write_all(&text) {
            self.cut = Some(format!("it could not be written on: {e}"));
        } else {
            self.bytes = self.bytes.saturating_add(size);
        }
    }

    /// No more lines, for this reason.
    pub fn cut(&mut self, why: &str) {
        self.cut.get_or_insert_with(|| why.to_owned());
    }

    /// Whether there is any use in more lines.
    pub fn is_over(&self) -> bool {
        self.cut.is_some()
    }

    /// Writes what is held; gives why the list is not whole, if it is not.
    pub fn end(mut self) -> Option<String> {
        let flushed = self.file.take().map_or(Ok(()), |file| file.into_inner().map(drop).map_err(|e| e.into_error()));
        self.cut.or_else(|| flushed.err().map(|e| format!("it could not be written on: {e}")))
    }
}

/// SHA-256 of a list, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn summed(mut file: &File) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..read).filter(|read| !read.is_empty()) else { break };
        hash.update(read);
    }
    Ok(hex(&hash.finalize()))
}

/// What the record says of a list that is written: a last line that was not finished is taken away, and the lines are put in
/// order (`order`). For want of room they stay as they are: who reads them sorts them.
///
/// # Errors
/// When it cannot be read, or was lost while it was sorted.
pub fn sealed(file: &File, name: String, cut: Option<String>) -> std::io::Result<List> {
    let cut = cut.or_else(|| order::sort(file).err().map(|e| format!("it could not be put in order: {e}")));
    summary(file, name, cut)
}

/// The same of a list whose lines are in the order in which they are to stay.
///
/// # Errors
/// When it cannot be read.
pub fn summary(mut file: &File, name: String, cut: Option<String>) -> std::io::Result<List> {
    file.seek(SeekFrom::Start(0))?;
    let (mut lines, mut bytes, mut whole) = (0_u64, 0_u64, 0_u64);
    let (mut hash, mut at_last_line) = (Sha256::new(), Sha256::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..read).filter(|read| !read.is_empty()) else { break };
        for piece in read.split_inclusive(|byte| *byte == b'\n') {
            hash.update(piece);
            bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(0));
            if piece.ends_with(b"\n") {
                lines += 1;
                (whole, at_last_line) = (bytes, hash.clone());
            }
        }
    }
    if whole < bytes {
        file.set_len(whole)?;
    }
    Ok(List { file: name, lines, bytes: whole, sha256: hex(&at_last_line.finalize()), cut })
}
