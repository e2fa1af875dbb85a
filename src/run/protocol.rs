//! What `ces` (P0), its stage process (P1) and the container's first process (P2) say to each other.
//!
//! Plain data, one JSON document a message; `super::channel` carries it.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::bundle::accounts::Accounts;
use crate::bundle::rootfs::Plan;
use crate::error::{Error, Kind, Stage};

/// The name under which the stage process is executed, and by which it is known: no file has it, and no word of a command line
/// leads there.
pub const STAGE: &CStr = c"ces: stage";
/// The descriptor of the conversation, the one that the stage process inherits.
pub const CHANNEL_FD: RawFd = 3;
/// An ordinary user's ids are mapped when this is at its end; root's stage process has no such descriptor.
pub const WRITTEN_FD: RawFd = CHANNEL_FD + 1;

/// Everything the stage process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageRequest {
    /// The job.
    pub job: String,
    /// `ces` has root's privileges on the host.
    pub privileged: bool,
    /// It enters its control groups by itself, or has none: nobody has to put it there.
    pub placed: bool,
    /// Host groups to keep; used when privileged (a user's groups cannot be dropped).
    pub groups: Vec<u32>,
    /// The payload's ids, where it has a user namespace of its own.
    pub nested: Option<(u32, u32)>,
    /// What to mount.
    pub plan: Plan,
    /// Commands may come in later (`ces exec`).
    pub exec: bool,
    /// What the engine does: the bundle's spec less what ces does itself.
    pub spec: Spec,
    /// Entries of users and groups that the image lacks.
    pub accounts: Accounts,
    /// Volumes of the image.
    pub volumes: Vec<PathBuf>,
    /// Published ports of the container, in the order of their listeners.
    pub ports: Vec<u16>,
    /// It is a rehearsal.
    pub rehearsal: Option<Rehearsal>,
}

/// What is to be seen in a rehearsal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// What is opened and looked for, too.
    pub paths: bool,
}

/// What PID 1 tells: `[ENDED, wait status]`, or `[NOT_EXECUTED, errno, length]` and so many bytes of a reason in words; native
/// integers. In a rehearsal `[RUNNING, how many, length]` and so many bytes of names may come first.
pub const ENDED: i32 = 0;
/// See [`ENDED`].
pub const RUNNING: i32 = 2;
/// See [`ENDED`].
pub const NOT_EXECUTED: i32 = 1;
/// No reason is longer.
pub const REASON: usize = 2048;

/// What the stage says.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromStage {
    /// A user namespace was made; its maps are to be written.
    NeedsMaps,
    /// The stage is about to leave the host's control groups from view.
    NeedsCgroup,
    /// The container is created; its payload has not started.
    Created {
        /// The container's first process, as the host numbers it.
        init: i32,
        /// Mount points that the image's own symbolic links lead elsewhere: as asked, as they are.
        moved: Vec<(PathBuf, PathBuf)>,
    },
    /// The relay of published ports has ended before the container.
    RelayLost,
    /// The container is gone.
    Finished,
    /// It went wrong; nothing of the payload ran, unless `Created` was followed by `Start`.
    Failed(Failure),
}

/// What the stage is told.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToStage {
    /// The work; its descriptors come with it.
    Begin(Passed),
    /// The maps are written.
    MapsWritten,
    /// The stage is in its control group.
    CgroupReady,
    /// The enforced check passed: start the payload.
    Start,
}

/// What comes with [`ToStage::Begin`], in this order: the request, the payload's status, the way in for commands, what takes the
/// place of standard input, output and error, and these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    /// Files by which a process enters its control groups.
    pub groups: usize,
    /// Listeners of published ports.
    pub listeners: usize,
    /// The layers' user namespace.
    pub layer_ns: bool,
    /// A file in memory, for what is seen in a rehearsal.
    pub report: bool,
}

/// An error of the stage, as it crosses the socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// What failed.
    pub what: String,
    /// Why.
    pub because: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The input is hostile or malformed.
    pub hostile: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kind = if failure.hostile { Kind::Hostile } else { Kind::Host };
        let error = failure.because.iter().fold(Error::new(Stage::Run, kind, failure.what), Error::because);
        match failure.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl Failure {
    /// An error as the parent will show it.
    pub fn of(error: &Error) -> Self {
        Self {
            what: error.what().to_owned(),
            because: error.causes().to_vec(),
            hint: error.hint_text().map(str::to_owned),
            hostile: error.kind() == Kind::Hostile,
        }
    }
}
