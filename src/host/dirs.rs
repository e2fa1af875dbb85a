//! Where store, running jobs and records live.
//!
//! ```text
//! root                 user                     --root DIR
//! /var/lib/ces         $XDG_DATA_HOME/ces       DIR/store      images, layers; work directories of runs
//! /var/lib/ces/run     $XDG_STATE_HOME/ces/run  DIR/run        one directory a running job
//! /var/log/ces         $XDG_STATE_HOME/ces      DIR/log        runs/<id>.json, audit/, rehearsals/
//! ```
//!
//! Running jobs are not noted in `/run` or `$XDG_RUNTIME_DIR`: those are emptied when the host goes down and when a user's
//! last session ends, and what is left in a home would then be known to nobody.

use std::env;
use std::path::{Path, PathBuf};

use super::caller::Caller;
use super::log_dir::LogDir;
use super::privilege::Root;
use super::site_dir::SiteDir;
use crate::error::{Error, Kind, Result, Stage};

/// The three directories of one installation.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// Images, layers, and the throw-away upper directories of runs (one file system, so renames work).
    pub store: SiteDir,
    /// One directory for each running job.
    pub running: SiteDir,
    /// Records.
    pub log: LogDir,
}

/// Where the site's policy puts them (`[site]`); none: the usual places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Instead of `/var/lib/ces`.
    pub store: Option<PathBuf>,
    /// Instead of the store's `run`.
    pub state: Option<PathBuf>,
    /// Instead of `/var/log/ces`.
    pub log: Option<PathBuf>,
}

impl Dirs {
    /// Opens the directories for `caller`, and makes them where they are missing: all below `other` if that is given
    /// (`--root`, `CES_ROOT`), which is for those who could choose another place anyway: real root and ordinary users.
    ///
    /// # Errors
    /// When a researcher names a place through sudo; when others than root could exchange one of the site's directories.
    pub fn open(root: &Root, caller: &Caller, other: Option<&Path>, places: &Places) -> Result<Self> {
        if caller.by_sudo && other.is_some() {
            return Err(no_other_place());
        }
        if let Some(other) = other {
            let below = |name: &str| SiteDir::of_the_caller(&other.join(name));
            return Ok(Self { store: below("store")?, running: below("run")?, log: below("log")?.into() });
        }
        if caller.is_privileged() {
            let or = |place: &Option<PathBuf>, usual: PathBuf| place.clone().unwrap_or(usual);
            let store = or(&places.store, "/var/lib/ces".into());
            let (state, log) = (or(&places.state, store.join("run")), or(&places.log, "/var/log/ces".into()));
            let open = |path: &Path| SiteDir::of_the_site(root, path);
            return Ok(Self { store: open(&store)?, running: open(&state)?, log: open(&log)?.into() });
        }
        let data = xdg("XDG_DATA_HOME").unwrap_or_else(|| caller.home.join(".local/share"));
        let state = xdg("XDG_STATE_HOME").unwrap_or_else(|| caller.home.join(".local/state"));
        let own = |path: PathBuf| SiteDir::of_the_caller(&path);
        Ok(Self {
            store: own(data.join("ces"))?,
            running: own(state.join("ces/run"))?,
            log: own(state.join("ces"))?.into(),
        })
    }
}

/// Through sudo the caller chooses no place.
fn no_other_place() -> Error {
    Error::new(Stage::Policy, Kind::Policy, "--root is not accepted through sudo")
        .because("where things are is the site's to say: [site] in its policy")
        .hint("leave out --root and unset CES_ROOT")
}

/// An XDG base directory; relative values are to be ignored (XDG Base Directory Specification 0.8).
fn xdg(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}
