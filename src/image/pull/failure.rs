//! What failed of a pull, in words: which layer, why, what is kept, and what to do.
//!
//! Takes faults of unpacking and errors of the origin; gives errors; trusts neither's text; refuses nothing.

use std::sync::atomic::Ordering;

use super::{Job, Task, free_bytes};
use crate::error::{Error, Kind, Stage};
use crate::image::unpack::protocol::{Fault, FaultKind, RawPath};
use crate::text;

/// What is kept of an image that is malformed or not what was announced.
const KEPT: &str = "nothing of this layer was kept; layers that were whole are, for a week and the next try (`ces prune` frees them). Try again, \
                    and if it happens again tell who runs the registry";

impl Job<'_> {
    /// The child's fault, in the words of the whole.
    pub(super) fn refuse(&self, position: usize, fault: Fault) -> Error {
        let which = self.which(position);
        let because = match &fault.entry {
            Some(RawPath(entry)) => format!("entry \"{}\": {}", text::neutral_bytes(entry), fault.text),
            None => fault.text,
        };
        let (what, kind, hint) = match fault.kind {
            FaultKind::Refused | FaultKind::Malformed | FaultKind::InTurn => (
                format!("refused {which}"),
                Kind::Hostile,
                "the image is malformed or hostile; nothing of this layer was kept, and others that were whole for a week (`ces prune` frees them). Rebuild it, or report it to its author",
            ),
            FaultKind::NoSpace => (
                format!("no space left for {which}"),
                Kind::Host,
                "make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy",
            ),
            FaultKind::Host => (format!("cannot unpack {which}"), Kind::Host, "nothing of it was kept"),
        };
        let mut error = Error::new(Stage::Unpack, kind, what).because(because);
        if fault.kind == FaultKind::NoSpace {
            let needed: u64 = self.bytes.load(Ordering::Relaxed);
            if let Ok(free) = free_bytes(self.store) {
                let root = self.store.root().display();
                error = error.because(format!("{root} has {free} bytes free; the layers so far needed {needed} bytes"));
            }
        }
        error.hint(fault.hint.unwrap_or_else(|| hint.to_owned()))
    }

    /// A layer that did not come, or was not what it should be.
    pub(super) fn damaged(&self, task: &Task, error: &Error) -> Error {
        if let Kind::Interrupted(_) = error.kind() {
            let told = Error::new(error.stage(), error.kind(), "interrupted");
            return told.hint("what came is kept; the same command goes on from there");
        }
        let told = Error::new(error.stage(), error.kind(), format!("cannot fetch {}", self.which(task.position)));
        let told = told.because(error);
        match error.kind() {
            Kind::Missing if task.descriptor.foreign => foreign_layer(told),
            Kind::Hostile => told.hint(KEPT),
            _ => told.hint("try again: the same command goes on from what came, if it comes from a registry"),
        }
    }
}

/// A layer that the image's author may not pass on, so that registries have only its address.
fn foreign_layer(error: Error) -> Error {
    error
        .because("it is a foreign layer, which is to be fetched from other addresses; ces never calls them")
        .hint(
            "push the image with all its layers to the registry (docker: allow-nondistributable-artifacts), or save it to an archive",
        )
}
