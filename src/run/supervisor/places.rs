//! Where a job's directories are: derived from its id and from whose it is, and never read from a document.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::host::dirs::Dirs;
use crate::run::job_id::JobId;

/// Where a job's directories are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The researcher's home, in which the two are.
    pub home: PathBuf,
    /// Name of the scratch directory in the home.
    pub scratch: String,
    /// Name of the outputs directory in the home.
    pub outputs: String,
    /// The throw-away directory in the store.
    pub work: PathBuf,
}

impl Places {
    /// Of the job `id` in `home`.
    pub fn new(dirs: &Dirs, id: &JobId, home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            scratch: format!("scratch_{id}"),
            outputs: format!("outputs_{id}"),
            work: dirs.store.join("work").join(id.as_str()),
        }
    }

    /// `~/scratch_<id>`.
    pub fn scratch(&self) -> PathBuf {
        self.home.join(&self.scratch)
    }

    /// A file without a name beside the throw-away directories, which is gone with its last descriptor; with the rights of this
    /// thread. No bound of the run's counts it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unnamed_file(&self) -> nix::Result<File> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        open(self.work.parent().unwrap_or(&self.work), flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// `~/outputs_<id>`.
    pub fn outputs(&self) -> PathBuf {
        self.home.join(&self.outputs)
    }
}
