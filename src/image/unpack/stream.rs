//! Decompression and hashing, on threads of their own.
//!
//! Takes the compressed bytes on a pipe; gives the uncompressed bytes to the tar reader, and their digest at the end.
//! Trusts nothing: not the declared compression, not that the stream ever ends.
//! Refuses another compression than declared, garbage after the end, windows and sizes beyond the limits.
//!
//! ```text
//! pipe → [decompress] ──chunks──▶ [tar, write]      each arrow a queue of QUEUE chunks of CHUNK bytes;
//!                     └─chunks──▶ [sha256]          a chunk is shared by both readers, then filled again
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use flate2::bufread::GzDecoder;
use nix::errno::Errno;

use super::holes::Sparse;
use super::limits::Limits;
use super::protocol::Fault;
use super::tarstream::Bytes;
use crate::image::document::Compression;
use crate::image::magic::Packing;
use crate::image::reference::{Digest, Hasher};

/// Bytes in a chunk: large enough that queues cost nothing, small enough for the CPU's caches.
const CHUNK: usize = 256 << 10;
/// Chunks in a queue: what one side may be ahead of the other.
const QUEUE: usize = 8;

/// Bytes of memory that unpacking takes beside the window of a Zstandard frame.
const BESIDE_WINDOW: u64 = 24 << 20;

type Chunk = Arc<Vec<u8>>;

/// The uncompressed bytes.
#[derive(Debug)]
pub struct Uncompressed {
    chunks: Receiver<Result<Chunk, Fault>>,
    pool: SyncSender<Vec<u8>>,
    current: Option<Chunk>,
    position: usize,
    total: u64,
}

/// The digest of the uncompressed bytes, known when all are read.
#[derive(Debug)]
pub struct Hashing(JoinHandle<Digest>);

/// Starts both threads.
///
/// # Errors
/// When the host allows no more threads.
pub fn start(
    blob: File,
    compression: Compression,
    blob_size: u64,
    limits: Limits,
) -> Result<(Uncompressed, Hashing), Fault> {
    let (to_tar, chunks) = sync_channel(QUEUE);
    let (to_hash, hashed) = sync_channel::<Chunk>(QUEUE);
    let (pool, free) = sync_channel(2 * QUEUE + 4);
    let spawned =
        |e: std::io::Error| Fault::new(super::protocol::FaultKind::Host, format!("cannot start a thread: {e}"));
    let recycle = pool.clone();
    let hashing = thread::Builder::new()
        .name("sha256".to_owned())
        .spawn(move || {
            let mut hasher = Hasher::Sha256(Box::default());
            for chunk in hashed {
                hasher.update(&chunk);
                give_back(chunk, &recycle);
            }
            hasher.finish()
        })
        .map_err(spawned)?;
    thread::Builder::new()
        .name("decompress".to_owned())
        .spawn(move || {
            if let Err(fault) = decompress(blob, compression, blob_size, &limits, &free, &to_tar, &to_hash) {
                // The reader has gone when this fails, with a fault of its own.
                to_tar.send(Err(fault)).ok();
            }
        })
        .map_err(spawned)?;
    Ok((Uncompressed { chunks, pool, current: None, position: 0, total: 0 }, Hashing(hashing)))
}

impl Hashing {
    /// The digest; to be called when the stream was read to its end.
    ///
    /// # Errors
    /// When the thread panicked.
    pub fn finish(self) -> Result<Digest, Fault> {
        self.0.join().map_err(|_| Fault::new(super::protocol::FaultKind::Host, "the hashing thread panicked"))
    }
}

impl Uncompressed {
    /// How many bytes were read.
    pub fn total(&self) -> u64 {
        self.total
    }
}

impl Bytes for &mut Uncompressed {
    fn next(&mut self, limit: usize) -> Result<&[u8], Fault> {
        while self.current.as_ref().is_none_or(|chunk| self.position == chunk.len()) {
            if let Some(chunk) = self.current.take() {
                give_back(chunk, &self.pool);
            }
            match self.chunks.recv() {
                Ok(Ok(chunk)) => {
                    self.position = 0;
                    self.current = Some(chunk);
                }
                Ok(Err(fault)) => return Err(fault),
                Err(_) => return Ok(&[]),
            }
        }
        let rest = self.current.as_ref().and_then(|chunk| chunk.get(self.position..)).unwrap_or_default();
        let piece = rest.get(..limit).unwrap_or(rest);
        self.position += piece.len();
        self.total += piece.len() as u64;
        Ok(piece)
    }
}

/// Puts a chunk's memory back, when its last reader is done with it.
fn give_back(chunk: Chunk, pool: &SyncSender<Vec<u8>>) {
    if let Some(memory) = Arc::into_inner(chunk) {
        // A full pool, or one that nobody reads any more, needs no more memory.
        pool.try_send(memory).ok();
    }
}

fn decompress(
    blob: File,
    compression: Compression,
    blob_size: u64,
    limits: &Limits,
    free: &Receiver<Vec<u8>>,
    to_tar: &SyncSender<Result<Chunk, Fault>>,
    to_hash: &SyncSender<Chunk>,
) -> Result<(), Fault> {
    let mut decoder = Decoder::new(BufReader::with_capacity(CHUNK, blob), compression, limits)?;
    let mut total = 0_u64;
    loop {
        let mut memory = free.try_recv().unwrap_or_default();
        memory.resize(CHUNK, 0);
        let mut filled = 0;
        while let Some(rest) = memory.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match decoder.read(rest)? {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        memory.truncate(filled);
        total += filled as u64;
        check_size(total, blob_size, limits, "layer")?;
        let chunk = Arc::new(memory);
        if to_hash.send(Arc::clone(&chunk)).is_err() || to_tar.send(Ok(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// Writes what the blob is uncompressed to `out`; runs of zeros become holes.
///
/// # Errors
/// When it cannot be decompressed, is larger than a layer may be, or the disk is full.
pub fn expand(blob: File, compression: Compression, blob_size: u64, limits: &Limits, out: &File) -> Result<(), Fault> {
    let failed =
        |e: std::io::Error| Fault::host("write the archive", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
    let mut decoder = Decoder::new(BufReader::with_capacity(CHUNK, blob), compression, limits)?;
    let mut sparse = Sparse::new(out);
    let (mut total, mut memory) = (0_u64, vec![0; CHUNK]);
    loop {
        let piece = match decoder.read(&mut memory)? {
            0 => return sparse.finish().map(drop).map_err(failed),
            n => memory.get(..n).unwrap_or_default(),
        };
        total += piece.len() as u64;
        check_size(total, blob_size, limits, "archive")?;
        sparse.append(piece).map_err(failed)?;
    }
}

fn check_size(total: u64, blob_size: u64, limits: &Limits, what: &str) -> Result<(), Fault> {
    if total > limits.layer_bytes {
        return Err(Fault::refused(format!("the {what} expands to more than {} bytes", limits.layer_bytes)));
    }
    if total > limits.ratio_from && total / limits.ratio > blob_size {
        return Err(Fault::refused(format!(
            "the {what} expands to more than {} times its {blob_size} bytes",
            limits.ratio
        )));
    }
    Ok(())
}

enum Decoder {
    Plain(BufReader<File>),
    /// `None` between members and at the end.
    Gzip(Option<Box<GzDecoder<BufReader<File>>>>),
    /// With what a frame's window may take, and what the first frame's takes.
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<File>>>, Windows),
}

impl Decoder {
    fn new(mut input: BufReader<File>, compression: Compression, limits: &Limits) -> Result<Self, Fault> {
        let start = input.fill_buf().map_err(unreadable)?;
        let (found, declared) = (Packing::of(start), Packing::Known(compression));
        if found != declared {
            return Err(Fault::malformed(format!("declared as {}, but is {}", declared.name(), found.name())));
        }
        Ok(match compression {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Some(Box::new(GzDecoder::new(input)))),
            Compression::Zstd => {
                let windows = Windows { log: window_log(limits), first: window(start) };
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(broken)?;
                decoder.window_log_max(windows.log).map_err(broken)?;
                Self::Zstd(Box::new(decoder), windows)
            }
        })
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        match self {
            Self::Plain(input) => input.read(out).map_err(unreadable),
            Self::Zstd(decoder, windows) => decoder.read(out).map_err(|e| windows.explain(e)),
            Self::Gzip(slot) => loop {
                let Some(decoder) = slot else { return Ok(0) };
                let n = decoder.read(out).map_err(broken)?;
                if n > 0 {
                    return Ok(n);
                }
                // A member has ended: another follows, or padding, or the end. Stopping here would hide content.
                let Some(mut input) = slot.take().map(|decoder| decoder.into_inner()) else { return Ok(0) };
                if starts_member(&mut input)? {
                    *slot = Some(Box::new(GzDecoder::new(input)));
                }
            },
        }
    }
}

/// What the windows of Zstandard frames may take.
#[derive(Debug, Clone, Copy)]
struct Windows {
    /// The most, as a power of two.
    log: u32,
    /// Bytes of the first frame's window, if the blob starts with a frame.
    first: Option<u64>,
}

impl Windows {
    /// The decoder's error; if it is for want of memory, with figures.
    fn explain(self, e: std::io::Error) -> Fault {
        // libzstd's words for ZSTD_error_frameParameter_windowTooLarge; the crate passes on no number.
        if !e.to_string().contains("requires too much memory") {
            return broken(e);
        }
        let allowed = 1_u64 << self.log;
        let needed = match self.first {
            Some(first) if first > allowed => format!("{} MiB", first.div_ceil(1 << 20)),
            _ => format!("more than {} MiB", allowed >> 20),
        };
        Fault::refused(format!(
            "to be decompressed, it needs {needed} of memory for the window of a Zstandard frame; the policy allows {} MiB",
            allowed >> 20
        ))
        .hint("build the image again with a smaller window (at most zstd --long=27); where images.limits.memory in the policy allows less than 128 MiB, it can be raised")
    }
}

/// The largest window as a power of two: what the limit for windows says, as far as the limit for all memory leaves room.
fn window_log(limits: &Limits) -> u32 {
    let room = limits.memory.saturating_sub(BESIDE_WINDOW);
    limits.zstd_window_log.min(room.checked_ilog2().unwrap_or(0)).max(10)
}

/// Bytes of the window of the frame that starts here (RFC 8878, 3.1.1.1).
fn window(start: &[u8]) -> Option<u64> {
    let (descriptor, rest) = start.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = *rest.first()?;
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    // A single segment: the window is as large as the content, whose size follows the dictionary's id.
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied()?;
    let (width, more) = [(1, 0), (2, 256), (4, 0), (8, 0)].get(usize::from(descriptor >> 6)).copied()?;
    let bytes = rest.get(dictionary..)?.get(..width)?;
    let size = bytes.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
    Some(size.saturating_add(more))
}

/// Whether another gzip member follows; zeros up to the end are padding (tape drives, and tools that imitate them).
fn starts_member(input: &mut BufReader<File>) -> Result<bool, Fault> {
    let mut padded = false;
    loop {
        let bytes = input.fill_buf().map_err(unreadable)?;
        match bytes.first() {
            None => return Ok(false),
            Some(0) => {
                padded = true;
                let zeros = bytes.iter().take_while(|&&b| b == 0).count();
                input.consume(zeros);
            }
            Some(0x1f) if !padded => return Ok(true),
            Some(_) => return Err(Fault::malformed("there is garbage after the end of the compressed data")),
        }
    }
}

fn broken(e: std::io::Error) -> Fault {
    Fault::malformed(format!("cannot be decompressed: {e}"))
}

fn unreadable(e: std::io::Error) -> Fault {
    Fault::new(super::protocol::FaultKind::Host, format!("cannot read the layer: {e}"))
}
