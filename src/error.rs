//! What can go wrong, as one small type.
//!
//! Every stage has its own error enum; at the top they become an `Error`, which knows the stage, the kind (hence the
//! exit status), the causes and a hint. It is printed once, as `error:` / `because:` / `hint:`.

use std::error::Error as StdError;
use std::fmt;

use crate::text;

/// The result of a stage.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in the pipeline it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The command line and the files it names.
    Cli,
    /// The site's policy.
    Policy,
    /// Fetching an image.
    Pull,
    /// The local store.
    Store,
    /// Unpacking a layer.
    Unpack,
    /// Making the bundle.
    Bundle,
    /// What the host offers.
    Host,
    /// The run itself.
    Run,
    /// Collecting the outputs.
    Outputs,
    /// The record.
    Record,
}

/// What sort of failure it is; decides the exit status of the verbs other than `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line makes no sense (exit 2).
    Usage,
    /// The policy says no (exit 3).
    Policy,
    /// The input is malformed or hostile.
    Hostile,
    /// Something named does not exist.
    Missing,
    /// The host cannot do what is needed.
    Host,
    /// Anything else that failed.
    Failed,
    /// This signal asked for it (exit 128 + its number).
    Interrupted(i32),
}

/// A failure, ready to be shown: what, because of what, and what to do.
#[derive(Debug)]
pub struct Error {
    stage: Stage,
    kind: Kind,
    what: String,
    because: Vec<String>,
    hint: Option<String>,
}

impl Error {
    /// A failure of `kind` in `stage`; `what` names the object, in lower case, without a full stop.
    pub fn new(stage: Stage, kind: Kind, what: impl Into<String>) -> Self {
        Self { stage, kind, what: what.into(), because: Vec::new(), hint: None }
    }

    /// Adds a cause, in words.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.because.push(cause.to_string());
        self
    }

    /// Adds an error and all its sources as causes.
    #[must_use]
    pub fn caused_by(mut self, cause: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            let line = error.to_string();
            // Transparent wrappers print their source's text: say it once.
            if self.because.last().is_none_or(|last| !last.contains(&line)) {
                self.because.push(line);
            }
            next = error.source();
        }
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Where it happened.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What failed.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.because
    }

    /// What to do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The three-part report, safe for a terminal: text from outside is neutralised, and its line breaks are followed by
    /// space, so that none of its lines looks like one of ours.
    pub fn report(&self) -> String {
        let safe = |text: &str| text::neutral(text).replace('\n', "\n    ");
        let mut out = format!("error: {}\n", safe(&self.what));
        for cause in &self.because {
            out.push_str(&format!("  because: {}\n", safe(cause)));
        }
        if let Some(hint) = &self.hint {
            out.push_str(&format!("hint: {}\n", safe(hint)));
        }
        out
    }

    /// The exit status of every verb but `run`: 1 failed, 2 usage, 3 refused by policy, 128 and more: a signal.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Policy => 3,
            Kind::Hostile | Kind::Missing | Kind::Host | Kind::Failed => 1,
            Kind::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(1),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for cause in &self.because {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl StdError for Error {}
