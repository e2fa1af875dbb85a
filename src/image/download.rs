//! A layer's blob on its way from the source, and what is kept of it for the next try.
//!
//! Takes a source and the store; gives the bytes, first those that came before, then the rest.
//! Trusts nothing: what came before is counted and hashed with the rest, by whoever takes the bytes.
//! Refuses nothing; a beginning that belongs to other bytes is thrown away, and the blob fetched from its first byte.

use std::sync::atomic::{AtomicU64, Ordering};

use super::document::Descriptor;
use super::source::{Origin, Sink};
use super::store::Store;
use super::store::partial::Partial;
use crate::error::{Error, Kind, Result};

/// A blob that is to come.
pub(super) struct Download<'a> {
    origin: &'a dyn Origin,
    blob: &'a Descriptor,
    partial: Option<Partial>,
    /// Bytes that were here when it began.
    resumed: u64,
    /// Where that is added, when it was of use.
    count: &'a AtomicU64,
}

impl<'a> Download<'a> {
    /// Takes up what is kept of `blob`; of a file on this machine nothing is. What was of use is added to `count`.
    pub(super) fn new(store: &Store, origin: &'a dyn Origin, blob: &'a Descriptor, count: &'a AtomicU64) -> Self {
        let partial = origin.resumable().and_then(|_| store.partial(blob));
        let resumed = partial.as_ref().map_or(0, Partial::bytes);
        Self { origin, blob, partial, resumed, count }
    }

    /// How much was here when it began.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Hands all bytes of the blob to `sink`, and keeps those that come.
    ///
    /// # Errors
    /// As [`Origin::blob`].
    pub(super) fn run(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let (Some(resumable), Some(partial)) = (self.origin.resumable(), self.partial.as_mut()) else {
            return self.origin.blob(self.blob, sink);
        };
        partial.replay(sink)?;
        let mut keeps = true;
        let from = partial.bytes();
        resumable.blob_from(self.blob, from, &mut |bytes| {
            sink(bytes)?;
            keeps = keeps && partial.keep(bytes);
            Ok(())
        })
    }

    /// What becomes of what is kept, now that the layer is there or is not: after a failure that may pass it stays.
    /// Gives whether the layer should be tried once more, from its first byte: what was kept may have been something else.
    pub(super) fn ended(&mut self, error: Option<&Error>) -> bool {
        let passes = error.is_some_and(|error| error.kind() != Kind::Hostile);
        if passes {
            return false;
        }
        if let Some(partial) = &mut self.partial {
            partial.start_over();
        }
        let resumed = std::mem::take(&mut self.resumed);
        if error.is_none() {
            self.count.fetch_add(resumed, Ordering::Relaxed);
        }
        error.is_some() && resumed > 0
    }
}
