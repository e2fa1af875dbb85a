//! What was written, on disk.
//!
//! Takes a directory; gives the certainty that everything written to its file system until then is on disk.
//! Trusts `syncfs`, which since Linux 5.8 tells of writes that failed.
//! Refuses to call on disk what any of its calls could not write.
//!
//! A thread of its own waits for the disk while others decompress, write and list: what is left to wait for at the end
//! is little.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::unistd::syncfs;

use super::protocol::{Fault, FaultKind};

/// Bytes of the thread's stack: it makes one system call.
const STACK: usize = 64 << 10;

/// Sends what was written on its way to disk.
#[derive(Debug)]
pub struct Flush {
    directory: OwnedFd,
    wanted: SyncSender<()>,
    thread: JoinHandle<Result<(), Errno>>,
}

impl Flush {
    /// Starts the thread for the file system of `directory`.
    ///
    /// # Errors
    /// When the host allows no more descriptors or threads.
    pub fn start(directory: &OwnedFd) -> Result<Self, Fault> {
        let fail = |what: &str, e: std::io::Error| Fault::new(FaultKind::Host, format!("cannot {what}: {e}"));
        let own = directory.try_clone().map_err(|e| fail("open the layer's directory", e))?;
        let directory = directory.try_clone().map_err(|e| fail("open the layer's directory", e))?;
        let (wanted, asked) = sync_channel(1);
        // A failure is told once per descriptor, so none of them may be dropped.
        let work = move || asked.iter().try_for_each(|()| syncfs(own.as_fd()));
        let thread = thread::Builder::new().name("flush".to_owned()).stack_size(STACK).spawn(work);
        Ok(Self { directory, wanted, thread: thread.map_err(|e| fail("start a thread", e))? })
    }

    /// Lets the thread begin; returns at once.
    pub fn soon(&self) {
        // Full: it will begin anyway. Gone: it has failed, and `finish` tells why.
        self.wanted.try_send(()).ok();
    }

    /// Returns when everything is on disk.
    ///
    /// # Errors
    /// When something could not be written, now or before.
    pub fn finish(self) -> Result<(), Fault> {
        drop(self.wanted);
        let before = self.thread.join().map_err(|_| Fault::new(FaultKind::Host, "the flushing thread panicked"))?;
        before.and_then(|()| syncfs(&self.directory)).map_err(|e| Fault::host("write the layer to disk", e))
    }
}
