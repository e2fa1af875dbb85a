//! The words that parent and child exchange: one JSON document a line, over a socket pair.
//!
//! ```text
//! parent                        child (standard input: the directory, standard output: the socket)
//!   Job ───────────────────────▶ leaves its namespaces
//!   (writes the id map) ◀─────── Unshared
//!   Go ────────────────────────▶ becomes nobody but the map's one id, shuts itself in
//!        ◀────────────────────── At(name), Looked(what was found) …, Done(counts) or Failed(why)
//! ```
//!
//! Trusts: the child trusts its parent's job; the parent treats what the child says as text from outside, for what the child
//! read may have got hold of it.

use serde::{Deserialize, Serialize};

use super::look::{Looked, Name};
use super::rules::Rules;
use crate::host::idmap::IdMap;

pub use crate::image::unpack::protocol::{receive, send};

/// What the child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// By which rules.
    pub rules: Rules,
    /// The id map of the child's user namespace.
    pub ids: IdMap,
    /// So many entries were looked at before.
    pub skip: u64,
    /// Bytes of memory that it may hold.
    pub memory: u64,
}

/// What the child says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Said {
    /// It is in its own namespaces and waits for its map.
    Unshared,
    /// It looks at this entry now.
    At(Name),
    /// What was found of it.
    Looked(Box<Looked>),
    /// There are no more.
    Done {
        /// Directories.
        directories: u64,
        /// There were more entries than are looked at.
        more: bool,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
        /// What to do.
        hint: Option<String>,
    },
}
