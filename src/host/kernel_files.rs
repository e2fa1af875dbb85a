//! Files that the kernel writes while they are read: those of `/proc`, `/sys` and control groups.
//!
//! Takes a path; gives its text or bytes; trusts the kernel; refuses, of text, what is none.
//!
//! They have no size that a reader could ask for beforehand, so the standard library feels its way in small pieces: a third
//! of all calls of a run were such reads.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The kernel gives no more at once (`seq_read_iter`: a page).
const PIECE: usize = 4 << 10;

/// The whole text.
///
/// # Errors
/// The kernel's; `InvalidData` when it is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read_bytes(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// All of it, where it may hold names of files.
///
/// # Errors
/// The kernel's.
pub fn read_bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut piece = [0; PIECE];
    let mut bytes = Vec::new();
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_file_is_read_however_long_it_is() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE] {
            std::fs::write(file.path(), "x".repeat(length)).unwrap();
            assert_eq!(read(file.path()).unwrap().len(), length);
        }
        std::fs::write(file.path(), [0xff]).unwrap();
        assert_eq!(read(file.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read("/proc/no-such-file").unwrap_err().kind(), io::ErrorKind::NotFound);
        let kernel = "/proc/filesystems";
        assert_eq!(read(kernel).unwrap(), std::fs::read_to_string(kernel).unwrap());
    }
}
