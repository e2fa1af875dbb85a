//! Where store, running jobs and records live.
//!
//! ```text
//! root                 user                     --root DIR
//! /var/lib/ces         $XDG_DATA_HOME/ces       DIR/store      images, layers; work directories of runs
//! /var/lib/ces/run     $XDG_STATE_HOME/ces/run  DIR/run        one directory a running job
//! /var/log/ces         $XDG_STATE_HOME/ces      DIR/log        runs/<id>.json, audit.jsonl
//! ```
//!
//! Running jobs are not noted in `/run` or `$XDG_RUNTIME_DIR`: those are emptied when the host goes down and when a user's
//! last session ends, and what is left in a home would then be known to nobody.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::caller::Caller;
use crate::error::{Error, Kind, Result, Stage};

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
    ///
    /// # Errors
    /// When a researcher names, through sudo, a root that others than the host's root could exchange: what root reads
    /// there would be theirs to forge.
    pub fn new(caller: &Caller, root: Option<&Path>) -> Result<Self> {
        if let Some(root) = root.filter(|_| caller.by_sudo) {
            check_root(root).map_err(|why| {
                Error::new(
                    Stage::Policy,
                    Kind::Policy,
                    format!("--root {} is not accepted through sudo", root.display()),
                )
                .because(why)
                .hint("leave out --root and unset CES_ROOT, or name a directory that root alone can change")
            })?;
        }
        Ok(match root {
            Some(root) => Self { store: root.join("store"), running: root.join("run"), log: root.join("log") },
            None if caller.is_privileged() => {
                Self { store: "/var/lib/ces".into(), running: "/var/lib/ces/run".into(), log: "/var/log/ces".into() }
            }
            None => {
                let data = xdg("XDG_DATA_HOME").unwrap_or_else(|| caller.home.join(".local/share"));
                let state = xdg("XDG_STATE_HOME").unwrap_or_else(|| caller.home.join(".local/state"));
                Self { store: data.join("ces"), running: state.join("ces/run"), log: state.join("ces") }
            }
        })
    }
}

/// Whether root alone decides what `root` is, and what is below it.
fn check_root(root: &Path) -> std::result::Result<(), String> {
    if !root.is_absolute() || root.components().any(|part| part == Component::ParentDir) {
        return Err("it is not an absolute path".to_owned());
    }
    for dir in root.ancestors() {
        match fs::symlink_metadata(dir) {
            Ok(meta) if meta.is_symlink() => return Err(format!("{} is a symbolic link", dir.display())),
            Ok(meta) => check_directory(dir, &meta)?,
            // It will be root's own.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{}: {e}", dir.display())),
        }
    }
    Ok(())
}

/// Whether root alone decides what is in a directory of root's.
///
/// # Errors
/// Who else could, in words.
pub fn check_directory(dir: &Path, meta: &fs::Metadata) -> std::result::Result<(), String> {
    // A sticky directory keeps others from renaming what root owns.
    let sticky = meta.mode() & 0o1000 != 0;
    if meta.uid() != 0 || (meta.mode() & 0o022 != 0 && !sticky) {
        return Err(format!("{} is owned by uid {}, mode {:04o}", dir.display(), meta.uid(), meta.mode() & 0o7777));
    }
    Ok(())
}

/// An XDG base directory; relative values are to be ignored (XDG Base Directory Specification 0.8).
fn xdg(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}
