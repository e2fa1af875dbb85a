//! The fixed order of a list: by the exact names of its entries, byte by byte, or by another key of its lines.
//!
//! Takes a file of lines; gives it sorted, in its own place; trusts nobody else to write to it; refuses nothing: a line that
//! makes no sense comes first. Memory is bounded whatever the size (`PIECE`, and a small buffer for each piece): pieces are
//! sorted one after the other behind the end of the file, and merged back to its begin, where as many bytes have room as
//! were there before (external merge sort).

use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use crate::run::supervisor::outputs::line::Line;

/// How much is sorted at once, in bytes of text.
const PIECE: usize = 2 << 20;
/// How much of each piece is read at once while they are merged.
const BUFFER: usize = 16 << 10;
/// No line is longer: a name is at most 256 times 255 bytes, twice that in digits, and a target 4096.
pub const LONGEST_LINE: u64 = 256 << 10;

/// What lines are sorted by; none: a line makes no sense, and comes first.
pub type Key = fn(&[u8]) -> Option<Vec<u8>>;

/// The exact name that a line is about; none: it makes no sense.
pub fn name(text: &[u8]) -> Option<Vec<u8>> {
    serde_json::from_slice::<Line>(text).ok()?.path()
}

/// The next line with its line break, or nothing at the end.
///
/// # Errors
/// When it cannot be read, or is longer than any line can be.
pub fn next_line(from: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text)?;
    match text.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(text)),
        Some(_) if u64::try_from(text.len()).is_ok_and(|length| length < LONGEST_LINE) => {
            text.push(b'\n');
            Ok(Some(text))
        }
        Some(_) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a line is too long")),
    }
}

/// Whether the lines are in order.
///
/// # Errors
/// When they cannot be read.
pub fn is_sorted(file: &File) -> std::io::Result<bool> {
    is_sorted_by(file, name)
}

fn is_sorted_by(file: &File, key: Key) -> std::io::Result<bool> {
    let mut lines = BufReader::with_capacity(64 << 10, Section { file, at: 0, end: u64::MAX });
    let mut last = None;
    while let Some(text) = next_line(&mut lines)? {
        let key = key(&text);
        if key < last {
            return Ok(false);
        }
        last = key;
    }
    Ok(true)
}

/// Sorts the lines; of the same name, in the order in which they were written. Gives whether they are sorted: where there is no
/// room for the copies they stay as they are.
///
/// # Errors
/// When it cannot be read, or, on a disk that copies what is written over, be written back.
pub fn sort(file: &File) -> std::io::Result<bool> {
    sort_by(file, name)
}

/// The same for lines of another form.
///
/// # Errors
/// As [`sort`].
pub fn sort_by(file: &File, key: Key) -> std::io::Result<bool> {
    sort_by_pieces(file, PIECE, key)
}

fn sort_by_pieces(mut file: &File, most: usize, key: Key) -> std::io::Result<bool> {
    if is_sorted_by(file, key)? {
        return Ok(true);
    }
    let end = file.metadata()?.len();
    let merged = match pieces(file, end, most, key) {
        Ok(pieces) => file.seek(SeekFrom::Start(0)).and_then(|_| merge(file, &pieces, key)).map(|()| true),
        Err(_) => Ok(false),
    };
    // Behind the end lie copies alone.
    file.set_len(end)?;
    file.seek(SeekFrom::End(0))?;
    merged
}

/// Sorted pieces, written behind the end: where each begins and ends.
fn pieces(mut file: &File, end: u64, most: usize, key: Key) -> std::io::Result<Vec<(u64, u64)>> {
    let mut lines = BufReader::with_capacity(64 << 10, Section { file, at: 0, end });
    let (mut pieces, mut at) = (Vec::new(), end);
    file.seek(SeekFrom::Start(end))?;
    loop {
        let (mut piece, mut size) = (Vec::new(), 0_usize);
        while size < most {
            let Some(text) = next_line(&mut lines)? else { break };
            size = size.saturating_add(text.len());
            piece.push((key(&text), text));
        }
        if piece.is_empty() {
            return Ok(pieces);
        }
        piece.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = BufWriter::with_capacity(64 << 10, file);
        piece.iter().try_for_each(|(_, text)| out.write_all(text))?;
        out.flush()?;
        let next = at.saturating_add(u64::try_from(size).unwrap_or(u64::MAX));
        pieces.push((at, next));
        at = next;
    }
}

fn merge(file: &File, pieces: &[(u64, u64)], key: Key) -> std::io::Result<()> {
    use std::cmp::Reverse;
    let section = |(at, end): &(u64, u64)| BufReader::with_capacity(BUFFER, Section { file, at: *at, end: *end });
    let mut pieces: Vec<_> = pieces.iter().map(section).collect();
    let mut first = BinaryHeap::new();
    for (number, piece) in pieces.iter_mut().enumerate() {
        if let Some(text) = next_line(piece)? {
            first.push(Reverse((key(&text), number, text)));
        }
    }
    let mut out = BufWriter::with_capacity(64 << 10, file);
    while let Some(Reverse((_, number, text))) = first.pop() {
        out.write_all(&text)?;
        if let Some(piece) = pieces.get_mut(number)
            && let Some(text) = next_line(piece)?
        {
            first.push(Reverse((key(&text), number, text)));
        }
    }
    out.flush()
}

/// A part of a file, read without moving its position.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::supervisor::outputs::line::Kind;

    #[test]
    fn a_list_of_many_pieces_comes_out_in_the_order_of_exact_names_and_of_the_same_size() {
        let file = tempfile::tempfile().unwrap();
        let mut out = BufWriter::new(&file);
        // 7919 and 3000 have no common divisor: each number once.
        let names: Vec<Vec<u8>> = (0..3_000_u32)
            .map(|n| [format!("d{}/", n % 7).as_bytes(), &(n * 7919 % 3_000).to_be_bytes(), &[b'x'; 60]].concat())
            .collect();
        for name in &names {
            serde_json::to_writer(&mut out, &Line::new(name, Kind::File)).unwrap();
            out.write_all(b"\n").unwrap();
        }
        out.flush().unwrap();
        drop(out);
        let size = file.metadata().unwrap().len();
        assert!(size > 100_000);
        assert!(!is_sorted(&file).unwrap());
        assert!(sort_by_pieces(&file, 10_000, name).unwrap());
        assert!(is_sorted(&file).unwrap());
        assert_eq!(file.metadata().unwrap().len(), size);
        let mut expected = names;
        expected.sort();
        let mut lines = BufReader::new(Section { file: &file, at: 0, end: size });
        for expected in expected {
            assert_eq!(name(&next_line(&mut lines).unwrap().unwrap()).unwrap(), expected);
        }
        assert_eq!(next_line(&mut lines).unwrap(), None);
    }
}
