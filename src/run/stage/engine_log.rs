//! What the engine says when it fails: its errors are logged by processes that then die, and their causes with them.
//!
//! Takes libcontainer's error events, in whichever forked process they happen; gives their text to the stage process;
//! trusts nothing of it (it is shown, neutralised, as a cause); refuses nothing.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// More than this says nothing more.
const LONGEST: usize = 4;

/// The engine's errors of this process and all it forks.
#[derive(Debug, Clone)]
pub struct EngineLog(Arc<File>);

impl EngineLog {
    /// Starts to listen, in this process and those it will fork.
    ///
    /// # Errors
    /// When the kernel gives no memory file.
    pub fn start() -> std::io::Result<Self> {
        let log = Self(Arc::new(memfd_create(c"ces-engine-log", MFdFlags::MFD_CLOEXEC)?.into()));
        // Set once a process; a second engine in one process keeps the first one's log.
        tracing::subscriber::set_global_default(log.clone()).ok();
        Ok(log)
    }

    /// The first errors, which are nearest to the cause, oldest first.
    pub fn lines(&self) -> Vec<String> {
        let mut text = String::new();
        let mut file = &*self.0;
        // Unreadable means nothing to show; the engine's own error is shown anyway.
        if file.rewind().is_ok() {
            file.read_to_string(&mut text).ok();
        }
        text.lines().take(LONGEST).map(str::to_owned).collect()
    }
}

impl Subscriber for EngineLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        // One write a line: the processes share the file's offset. A log that is full is no reason to fail.
        (&*self.0).write_all(format!("{}\n", line.0.replace('\n', " ")).as_bytes()).ok();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let written = if field.name() == "message" {
            write!(self.0, "{separator}{value:?}")
        } else {
            write!(self.0, "{separator}{}: {value:?}", field.name())
        };
        written.ok();
    }
}
