//! What the witness of a rehearsal has seen, as it crosses from the stage process to `ces`.
//!
//! Plain data, bounded where it is collected. Every text in it comes from the payload: it is neutralised and cut when it is taken
//! down, so that no reader of it has to think of that again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Something that was seen, by whom, how often, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen<T> {
    /// What.
    pub what: T,
    /// The programs, by the names of their files; a few.
    pub by: BTreeSet<String>,
    /// How often.
    pub times: u64,
    /// When first, in milliseconds from the payload's start.
    pub first: u64,
    /// When last.
    pub last: u64,
}

/// A call that the profile refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Its name, or its number where it has none.
    pub call: String,
    /// The error number it got.
    pub errno: u32,
}

/// Where the payload wanted to connect or send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Address {
    /// Over IPv4 or IPv6.
    Internet {
        /// The address, as it is written.
        host: String,
        /// The port.
        port: u16,
        /// It is one of the container's own loopback.
        loopback: bool,
    },
    /// A socket of this host, by its path; one in the abstract name space begins with `@`.
    Socket(String),
}

/// A program that was executed, or was to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Its path.
    pub path: String,
    /// Its arguments; a few, each cut.
    pub args: Vec<String>,
}

/// What was wanted of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// To see whether it is there.
    Look,
    /// To read it.
    Read,
    /// To write it.
    Write,
    /// To make, remove or rename it.
    Change,
    /// To change its owner or mode.
    Own,
    /// To execute it.
    Execute,
}

/// A path that the payload did not get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missed {
    /// The path.
    pub path: String,
    /// What for.
    pub wanted: Wanted,
    /// Why not: an error number.
    pub errno: i32,
}

/// Files that are gone with the container, below one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// The directory.
    pub below: String,
    /// How many files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
    /// A few of them.
    pub examples: Vec<String>,
}

/// All that the witness has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observations {
    /// Calls that were refused.
    pub refused: Vec<Seen<Refused>>,
    /// Host names that were looked up.
    pub names: Vec<Seen<String>>,
    /// Where it wanted to connect.
    pub addresses: Vec<Seen<Address>>,
    /// Ports of the container's loopback at which nobody listened.
    pub closed: Vec<Seen<u16>>,
    /// Programs.
    pub programs: Vec<Seen<Program>>,
    /// Paths closed to it, and paths that are not there.
    pub missed: Vec<Seen<Missed>>,
    /// Privileges it wanted and has not, by the call.
    pub privileges: Vec<Seen<String>>,
    /// What was seen beyond the bounds, and is not here.
    pub forgotten: u64,
    /// How many calls were told.
    pub told: u64,
    /// How long it was watched, in milliseconds.
    pub elapsed: u64,
}

/// Processes that still ran when the payload had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// How many.
    pub count: u32,
    /// A few of their names.
    pub names: String,
}

/// Files and their sizes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// How many files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What the two processes write, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostFiles {
    /// What is gone with the container.
    pub lost: Vec<Lost>,
    /// Files beyond the bounds, counted but not looked at.
    pub uncounted: bool,
    /// What was over the image, and in memory.
    #[serde(default)]
    pub over_the_image: Size,
    /// What was in scratch.
    #[serde(default)]
    pub scratch: Size,
}
