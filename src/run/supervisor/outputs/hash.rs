//! What files hold: SHA-256, of what is there to read.
//!
//! Takes an open file; gives its hash, or why there is none; trusts the file system to tell of holes (lseek(2), `SEEK_HOLE`);
//! refuses to read more than `HOLES` of nothing: a file of no bytes on disk can claim to be fifteen tebibytes.

use std::fs::File;
use std::io::Read as _;

use rustix::fs::SeekFrom;
use sha2::{Digest as _, Sha256};

use crate::evidence::sniff::{HEAD, Sniffed, sniff};
use crate::policy::units::show_size;
use crate::run::supervisor::outputs::line::hex;

/// How much of holes is read, of all files together.
pub const HOLES: u64 = 1 << 30;
/// How much is read between two looks whether to stop.
const PIECE: usize = 256 << 10;

/// What hinders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// No file is read any more, for this reason.
    Hashing(String),
    /// Nothing is looked at any more, for this reason.
    All(String),
}

/// What came of reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRead {
    /// SHA-256 of it, in hexadecimal, or why there is none.
    pub sha256: Result<String, String>,
    /// What it seems to be, where its first bytes were read.
    pub sniffed: Option<Sniffed>,
}

impl From<Result<String, String>> for FileRead {
    fn from(sha256: Result<String, String>) -> Self {
        Self { sha256, sniffed: None }
    }
}

/// Asks whether to stop.
pub type Ask<'a> = &'a dyn Fn() -> Option<Stop>;

/// Hashes files, one after the other.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Hasher<'a> {
    ask: Ask<'a>,
    holes: u64,
    buffer: Vec<u8>,
}

impl<'a> Hasher<'a> {
    /// Until `ask` says no.
    pub fn new(ask: Ask<'a>) -> Self {
        Self { ask, holes: HOLES, buffer: vec![0; PIECE] }
    }

    /// Whether nothing is to be looked at any more, and why.
    pub fn is_over(&self) -> Option<String> {
        match (self.ask)() {
            Some(Stop::All(why)) => Some(why),
            _ => None,
        }
    }

    /// The hash of a file of that size and so many bytes on disk, or why there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn hash(&mut self, mut file: &File, size: u64, disk: u64) -> std::io::Result<FileRead> {
        if size.saturating_sub(disk) > self.holes.min(1 << 20) {
            let holes = holes(file, size, self.holes);
            if holes > self.holes {
                return Ok(Err(format!("{}, of which {} on disk", show_size(size), show_size(disk))).into());
            }
            self.holes = self.holes.saturating_sub(holes);
        }
        let mut sha = Sha256::new();
        let mut left = size;
        let mut sniffed = None;
        let sha256 = loop {
            if let Some(Stop::Hashing(why) | Stop::All(why)) = (self.ask)() {
                break Err(why);
            }
            let read = file.read(&mut self.buffer)?;
            if sniffed.is_none() {
                sniffed = Some(sniff(self.buffer.get(..read.min(HEAD)).unwrap_or_default()));
            }
            if read == 0 {
                break Ok(hex(&sha.finalize()));
            }
            // A process outside that goes on writing has no end.
            let Some(rest) = left.checked_sub(u64::try_from(read).unwrap_or(u64::MAX)) else {
                break Err("it grew while it was read".to_owned());
            };
            left = rest;
            sha.update(self.buffer.get(..read).unwrap_or_default());
        };
        Ok(FileRead { sha256, sniffed })
    }
}

/// How much of a file is holes; no longer counted than to more than `enough`. What cannot be told is holes.
fn holes(file: &File, size: u64, enough: u64) -> u64 {
    let (mut at, mut holes) = (0, 0_u64);
    while at < size && holes <= enough {
        // ENXIO: nothing but a hole from here on.
        let data = rustix::fs::seek(file, SeekFrom::Data(at)).unwrap_or(size).min(size);
        holes = holes.saturating_add(data.saturating_sub(at));
        let end = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(size);
        at = end.max(data.saturating_add(1));
    }
    if rustix::fs::seek(file, SeekFrom::Start(0)).is_err() {
        return u64::MAX;
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn hashed(hasher: &mut Hasher<'_>, file: &File) -> Result<String, String> {
        let stat = nix::sys::stat::fstat(file).unwrap();
        let bytes = |n: i64| u64::try_from(n).unwrap();
        hasher.hash(file, bytes(stat.st_size), bytes(stat.st_blocks) * 512).unwrap().sha256
    }

    #[test]
    fn holes_are_read_up_to_a_gibibyte_of_all_files_together() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"begin").unwrap();
        let mut hasher = Hasher::new(&|| None);
        file.set_len(15 << 40).unwrap();
        assert!(hashed(&mut hasher, &file).unwrap_err().starts_with("15 TiB, of which "));
        file.set_len(3 << 20).unwrap();
        let mut whole = Sha256::new();
        whole.update(b"begin");
        whole.update(vec![0; (3 << 20) - 5]);
        assert_eq!(hashed(&mut hasher, &file).unwrap(), hex(&whole.finalize()));
        assert!(hasher.holes < HOLES);
        hasher.holes = 1 << 20;
        assert!(hashed(&mut hasher, &file).is_err());
    }

    #[test]
    fn whoever_asks_to_stop_is_heard_and_the_reason_is_kept() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        let mut hasher = Hasher::new(&|| Some(Stop::Hashing("deadline".to_owned())));
        assert_eq!(hashed(&mut hasher, &file), Err("deadline".to_owned()));
    }
}
