//! What was deleted of a run, and how that was seen (`deletion.json`).
//!
//! Takes what was counted while it was removed; gives a document; trusts the kernel to say that a name is gone; promises no more
//! than names: what stays on a medium, in a snapshot or in a backup is the site's.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;
use serde::Serialize;
use serde_json::Value;

use crate::host::same_mount;
use crate::run::job_id::JobId;
use crate::run::removal::Tally;
use crate::run::supervisor::record::now;

/// What no removal of names can promise.
const NOT_PROMISED: [&str; 3] = [
    "blocks on the medium: only an encrypted file system whose key is destroyed has none left",
    "snapshots and backups of the file system, and copies that it keeps itself",
    "what was in memory or in swap",
];

/// What was deleted.
#[derive(Debug, Serialize)]
pub struct Deletion {
    version: u32,
    run: JobId,
    at: String,
    by: String,
    items: Vec<Item>,
    /// Why not all of it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    not_promised: [&'static str; 3],
}

/// One directory and all that was in it.
#[derive(Debug, Serialize)]
pub struct Item {
    what: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_system: Option<FileSystem>,
    entries: u64,
    bytes: u64,
    method: &'static str,
    verified: String,
}

/// Where it was.
#[derive(Debug, Serialize)]
struct FileSystem {
    #[serde(rename = "type")]
    kind: String,
    device: String,
}

impl Deletion {
    /// Nothing yet.
    pub fn of(run: &JobId) -> Self {
        Self {
            version: 1,
            run: run.clone(),
            at: now(),
            by: format!("ces {}", env!("CARGO_PKG_VERSION")),
            items: Vec::new(),
            failed: None,
            not_promised: NOT_PROMISED,
        }
    }

    /// One directory more.
    pub fn add(&mut self, item: Item) {
        self.items.push(item);
    }

    /// Not all of it could be removed.
    pub fn failed(&mut self, why: String) {
        self.failed = Some(why);
    }

    /// How many entries are gone.
    pub fn entries(&self) -> u64 {
        self.items.iter().map(|item| item.entries).sum()
    }

    /// The document.
    pub fn document(mut self) -> Value {
        self.at = now();
        // Numbers and texts: nothing that JSON could not hold.
        serde_json::to_value(&self).unwrap_or_default()
    }
}

impl Item {
    /// What is to go from `path`, on the file system of `dir`; nothing of it has yet.
    pub fn new(what: &'static str, path: &Path, dir: Option<&OwnedFd>) -> Self {
        Self {
            what,
            path: path.display().to_string(),
            file_system: dir.and_then(file_system),
            entries: 0,
            bytes: 0,
            method: "unlinked, each entry by its name, and the directory last",
            verified: "not verified".to_owned(),
        }
    }

    /// So much is gone; whether `name` is still in `parent` is asked.
    pub fn verified(mut self, tally: &Tally, parent: &OwnedFd, name: &Path) -> Self {
        (self.entries, self.bytes) = tally.so_far();
        self.verified = match same_mount::look(parent, name) {
            Err(Errno::ENOENT) => "absent".to_owned(),
            Err(e) => format!("not verified: {}", same_mount::why(e)),
            Ok(_) => "emptied; something of its name is there".to_owned(),
        };
        self
    }
}

/// Which file system a directory is on (statfs(2)).
fn file_system(dir: &OwnedFd) -> Option<FileSystem> {
    let device = fstat(dir).ok()?.st_dev;
    let kind = fstatfs(dir).ok()?.filesystem_type().0;
    let name = match kind {
        0xEF53 => "ext2, ext3 or ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x6969 => "nfs".to_owned(),
        0x2FC1_2FC1 => "zfs".to_owned(),
        0x0BD0_0BD0 => "lustre".to_owned(),
        0x794C_7630 => "overlay".to_owned(),
        other => format!("{other:#x}"),
    };
    Some(FileSystem { kind: name, device: format!("{}:{}", libc::major(device), libc::minor(device)) })
}
