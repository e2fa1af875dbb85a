//! Work on a long list or a large file, on all processors at once.
//!
//! Takes the items and what to do with a part of them; gives the results in the order of the parts. No thread is left when it
//! returns: what forks afterwards has one (`fork(2)`).

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::thread;

/// Beginning a thread is worth its while from so many items on.
const LEAST: usize = 5_000;

/// How many processors there are for this process: found out once, for its control groups are asked.
fn processors() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().map_or(1, NonZero::get))
}

/// Does `work` on as many parts of `items` as there are processors; a short list is one part.
pub fn parts<'a, T: Sync, U: Send>(items: &'a [T], work: impl Fn(&'a [T]) -> U + Sync) -> Vec<U> {
    let count = processors().min(items.len() / LEAST).max(1);
    let mut parts = items.chunks(items.len().div_ceil(count).max(1));
    let Some(first) = parts.next() else { return Vec::new() };
    thread::scope(|scope| {
        // Where the caller may have no more threads (`RLIMIT_NPROC`) this one does it all.
        let others: Vec<_> =
            parts.map(|part| (part, thread::Builder::new().spawn_scoped(scope, || work(part)))).collect();
        let mut done = vec![work(first)];
        done.extend(others.into_iter().map(|(part, thread)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(part),
        }));
        done
    })
}

/// A file is read in pieces of at least so many bytes.
const LEAST_READ: usize = 4 << 20;

/// The bytes of a file that had `size` of them, and what has been appended since. Most of the time that a large file takes is that
/// of memory which is touched for the first time.
///
/// # Errors
/// When it cannot be read, or has become shorter.
pub fn read(mut file: &File, size: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let piece = size.div_ceil(processors()).max(LEAST_READ);
    let begun = thread::scope(|scope| {
        let mut pieces = (0_u64..).step_by(piece).zip(bytes.chunks_mut(piece));
        let first = pieces.next();
        let read = |(at, piece): (u64, &mut [u8])| file.read_exact_at(piece, at);
        let others: io::Result<Vec<_>> =
            pieces.map(|piece| thread::Builder::new().spawn_scoped(scope, move || read(piece))).collect();
        let done = first.map_or(Ok(()), read);
        let others = others.ok()?.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Some(others.fold(done, io::Result::and))
    });
    // Where the caller may have no more threads (`RLIMIT_NPROC`) this one does it all.
    begun.unwrap_or_else(|| file.read_exact_at(&mut bytes, 0))?;
    file.seek(SeekFrom::Start(size as u64))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_though_it_grew() {
        let file = tempfile::tempfile().unwrap();
        for size in [0, 1, LEAST_READ + 1, 3 * LEAST_READ] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            file.set_len(0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            assert!(read(&file, size as u64).unwrap() == bytes, "{size}");
            assert!(read(&file, size as u64 / 2).unwrap() == bytes, "{size}");
            assert!(read(&file, size as u64 + 1).is_err());
        }
    }

    #[test]
    fn every_item_is_worked_on_once_and_in_order() {
        for count in [0, 1, LEAST, 10 * LEAST + 7] {
            let items: Vec<usize> = (0..count).collect();
            let parts = parts(&items, <[usize]>::to_vec);
            assert!(parts.len() <= (count / LEAST).max(1));
            assert_eq!(parts.concat(), items);
        }
    }
}
