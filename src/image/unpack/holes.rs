//! File contents, less the blocks that say nothing.
//!
//! Takes a new, empty file and its bytes in order; gives a file with the same bytes, whose blocks of zeros are holes
//! (lseek(2)): they take no space, and reading them gives the zeros back. Libraries with large tables and model weights
//! have many. Trusts that nobody else writes to the file; refuses nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes of a block: what file systems allocate at least.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A file that is being written from its beginning to its end.
#[derive(Debug)]
pub struct Sparse<'a> {
    file: &'a File,
    /// Where the next byte belongs.
    at: u64,
    /// Whether a hole is the last thing so far, which the file does not know of yet.
    open: bool,
}

impl<'a> Sparse<'a> {
    /// For a file without bytes.
    pub fn new(file: &'a File) -> Self {
        Self { file, at: 0, open: false }
    }

    /// Appends.
    ///
    /// # Errors
    /// As pwrite(2).
    pub fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        // Up to the next whole block, and the last part of one, is data whatever it says.
        let into = usize::try_from(self.at % BLOCK as u64).unwrap_or_default();
        let (head, rest) = piece.split_at(piece.len().min((BLOCK - into) % BLOCK));
        let (mut data, mut from) = (head.len(), 0);
        for block in rest.chunks(BLOCK) {
            if block == ZEROS {
                self.put(piece.get(from..data).unwrap_or_default())?;
                self.at += BLOCK as u64;
                self.open = true;
                data += BLOCK;
                from = data;
            } else {
                data += block.len();
            }
        }
        self.put(piece.get(from..).unwrap_or_default())
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        if !data.is_empty() {
            self.file.write_all_at(data, self.at)?;
            self.at += data.len() as u64;
            self.open = false;
        }
        Ok(())
    }

    /// Gives a file that ends in a hole its size; returns that size in bytes.
    ///
    /// # Errors
    /// As ftruncate(2).
    pub fn finish(self) -> io::Result<u64> {
        if self.open {
            self.file.set_len(self.at)?;
        }
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    /// What a file holds, and its bytes on disk, after `bytes` were appended in pieces of `length`.
    fn written(bytes: &[u8], length: usize) -> (Vec<u8>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        let mut sparse = Sparse::new(&file);
        for piece in bytes.chunks(length) {
            sparse.append(piece).unwrap();
        }
        assert_eq!(sparse.finish().unwrap(), bytes.len() as u64);
        let mut is = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut is).unwrap();
        (is, file.metadata().unwrap().blocks() * 512)
    }

    #[test]
    fn the_bytes_are_the_same_wherever_zeros_and_pieces_begin_and_end() {
        let mut bytes = Vec::new();
        // Runs of data and of zeros of all kinds of lengths, from none to some blocks.
        for (data, zeros) in [(0, 9000), (1, 4095), (0, 4096), (4096, 8192), (5000, 12288), (3, 1), (1, 20000)] {
            bytes.extend(std::iter::repeat_n(7, data));
            bytes.extend(std::iter::repeat_n(0, zeros));
        }
        for end in [0, 1, 4095, 4096, 4097, 9000, 13096, bytes.len()] {
            for length in [1, 511, 4095, 4096, 4097, 65536] {
                let expected = &bytes[..end];
                assert!(written(expected, length).0 == expected, "{end} bytes in pieces of {length}");
            }
        }
    }

    #[test]
    fn zeros_take_no_space_and_data_does() {
        assert_eq!(written(&vec![0; 1 << 20], 256 << 10).1, 0, "a file of zeros alone");
        let mut bytes = vec![1; 1 << 16];
        bytes.resize(1 << 20, 0);
        bytes.extend([1; 4096]);
        let blocks = written(&bytes, 256 << 10).1;
        assert!((0x11000..0x20000).contains(&blocks), "{blocks} bytes on disk");
    }
}
