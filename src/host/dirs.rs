//! Where store, running jobs and records live.
//!
//! ```text
//! root                 user                     --root DIR
//! /var/lib/ces         $XDG_DATA_HOME/ces       DIR/store      images, layers; work directories of runs
//! /run/ces             $XDG_RUNTIME_DIR/ces     DIR/run        one directory a running job
//! /var/log/ces         $XDG_STATE_HOME/ces      DIR/log        runs/<id>.json, audit.jsonl
//! ```

use std::env;
use std::path::{Path, PathBuf};

use super::caller::Caller;

/// The three directories of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Images, layers, and the throw-away upper directories of runs (one file system, so renames work).
    pub store: PathBuf,
    /// One directory for each running job.
    pub running: PathBuf,
    /// Records.
    pub log: PathBuf,
}

impl Dirs {
    /// The directories for `caller`, all below `root` if that is given.
    pub fn new(caller: &Caller, root: Option<&Path>) -> Self {
        match root {
            Some(root) => Self { store: root.join("store"), running: root.join("run"), log: root.join("log") },
            None if caller.is_privileged() => {
                Self { store: "/var/lib/ces".into(), running: "/run/ces".into(), log: "/var/log/ces".into() }
            }
            None => {
                let data = xdg("XDG_DATA_HOME").unwrap_or_else(|| caller.home.join(".local/share"));
                let state = xdg("XDG_STATE_HOME").unwrap_or_else(|| caller.home.join(".local/state"));
                // Without a runtime directory (no login session) the state directory has to do.
                let runtime = xdg("XDG_RUNTIME_DIR").map_or_else(|| state.join("ces/run"), |dir| dir.join("ces"));
                Self { store: data.join("ces"), running: runtime, log: state.join("ces") }
            }
        }
    }
}

/// An XDG base directory; relative values are to be ignored (XDG Base Directory Specification 0.8).
fn xdg(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}
