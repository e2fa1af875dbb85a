//! Ctrl-C and its like while something long is at work: it stops, tidies up, and is ended by force only if it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};

use super::sys;
use crate::error::{Error, Kind, Result, Stage};

/// Signals that ask a program to end.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
/// How long tidying up may take before the signal has its way.
const GRACE: Duration = Duration::from_secs(10);

/// Tells whether the work at hand has been asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// From now on signals that would end this process (SIGINT, SIGTERM, SIGHUP) ask it to stop; the second one, or a
    /// delay of ten seconds, ends it at once. Signals that the caller has ignored (nohup) stay ignored. To be called
    /// before other threads exist: they inherit that those signals are not theirs.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn watch() -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Host, Kind::Host, "cannot watch for signals").because(e.to_string())
        };
        let mut ours = SigSet::empty();
        for signal in ENDING {
            if !sys::is_ignored(signal).map_err(|e| fail(&e))? {
                ours.add(signal);
            }
        }
        let interrupt = Self::default();
        if ours.iter().next().is_none() {
            return Ok(interrupt);
        }
        ours.thread_block().map_err(|e| fail(&e))?;
        let asked = interrupt.clone();
        let wait = move || {
            // An error here would be a signal set that is none.
            let Ok(signal) = ours.wait() else { return };
            asked.0.store(signal as i32, Ordering::SeqCst);
            // The next one is this thread's, and does what it does by default.
            ours.thread_unblock().ok();
            std::thread::sleep(GRACE);
            raise(signal).ok();
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(|e| fail(&e))?;
        Ok(interrupt)
    }

    /// The signal that asked, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    /// Nothing, or why the work has to end.
    ///
    /// # Errors
    /// When a signal asked.
    pub fn check(&self, stage: Stage, what: &str) -> Result<()> {
        match self.signal() {
            None => Ok(()),
            Some(signal) => Err(Error::new(stage, Kind::Interrupted(signal), what)),
        }
    }
}
