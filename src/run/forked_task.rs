//! Work that forks, for a process that will have threads by then: a child that was forked before them does it.
//!
//! Takes the work, and later a word for it; gives what came of it; trusts its own child; refuses to be made by a process
//! that has a second thread already.

use nix::unistd::Pid;

use crate::error::{Error, Kind, Result, Stage};
use crate::run::channel::Channel;
use crate::run::process;
use crate::run::protocol::{Failure, FromStage};

/// A child that waits for its word.
#[derive(Debug)]
pub struct ForkedTask {
    child: Pid,
    channel: Channel,
}

impl ForkedTask {
    /// Forks the child.
    ///
    /// # Errors
    /// The kernel's; `EBUSY` when there is a second thread.
    pub fn new(work: impl FnOnce(&str) -> Result<()>) -> Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        let mut ours = Some(ours);
        let child = process::fork(|| {
            // Else this process would hold both ends, and wait for a word for ever.
            ours.take();
            let Ok(Some(word)) = theirs.receive::<String>() else { return 0 };
            let answer = match work(&word) {
                Ok(()) => FromStage::Finished,
                Err(error) => FromStage::Failed(Failure::of(&error)),
            };
            theirs.send(&answer).map_or(1, |()| 0)
        })
        .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot start a helping process").because(e))?;
        let channel = ours.ok_or_else(|| Error::new(Stage::Run, Kind::Failed, "a helping process was not started"))?;
        Ok(Self { child, channel })
    }

    /// Has the work done with `word`.
    ///
    /// # Errors
    /// The work's own.
    pub fn run(&self, word: &str) -> Result<()> {
        self.channel.send(&word)?;
        match self.channel.receive::<FromStage>()? {
            Some(FromStage::Finished) => Ok(()),
            Some(FromStage::Failed(failure)) => Err(failure.into()),
            _ => Err(Error::new(Stage::Run, Kind::Failed, "a helping process is gone")),
        }
    }
}

impl Drop for ForkedTask {
    fn drop(&mut self) {
        process::end(self.child);
    }
}
