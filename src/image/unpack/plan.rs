//! From a tar header to an action or a refusal.
//!
//! Takes an `Entry`; gives an `Action` on names that are clean: no `..`, no empty part, no leading slash.
//! Trusts nothing in the entry; touches nothing outside it (so tables can test it).
//! Refuses names that leave the root, whiteouts of nothing, links to nothing, a root that is no directory.

use super::limits::Limits;
use super::protocol::Fault;
use super::tarstream::{Entry, Type};
use super::xattrs;
use crate::host::idmap::IdMap;

/// Marks a name as removed by this layer (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory's content of the layers below as removed.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// AUFS's own files; not part of the image.
const AUFS: &[u8] = b".wh..wh.";
/// The last second that file systems and 64-bit nanoseconds hold.
const LAST_SECOND: i64 = 9_223_372_036;

/// Who owns what belongs to ids that the map does not have: by convention nobody, and what the kernel shows for such ids
/// (`/proc/sys/kernel/overflowuid`).
pub const NOBODY: u32 = 65_534;

/// A path below the layer's root, in clean parts; the root itself has none.
pub type Parts = Vec<Vec<u8>>;

/// Who owns a file and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits; of the others, only what is kept.
    pub mode: u32,
    /// The owner, inside the user namespace; `None`: leave it to the one id there is.
    pub owner: Option<(u32, u32)>,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes to keep.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What to do about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory, or give an existing one this metadata.
    Directory(Parts, Meta),
    /// Make a file; its data follows.
    File(Parts, Meta),
    /// Make a symbolic link with this text.
    Symlink(Parts, Vec<u8>, Meta),
    /// Give the file at the second path the first as another name.
    Link(Parts, Parts),
    /// Make a named pipe.
    Fifo(Parts, Meta),
    /// Hide this name of the layers below.
    Whiteout(Parts),
    /// Hide all that the layers below have in this directory.
    Opaque(Parts),
    /// A device, which no image may bring along.
    Device,
    /// Something of the builder's, not of the image's.
    Nothing,
}

/// An action, and what it leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// Whether a set-user-ID or set-group-ID bit is removed.
    pub set_id_bit: bool,
    /// Extended attributes that are not kept.
    pub dropped_xattrs: u64,
    /// A user's or group's id that has none here: the entry belongs to [`NOBODY`] instead.
    pub unmapped: Option<u64>,
}

/// Decides about an entry.
///
/// # Errors
/// When the entry is hostile or malformed, or neither its owner nor nobody has an id here.
pub fn decide(entry: Entry, ids: &IdMap, limits: &Limits) -> Result<Decision, Fault> {
    let name = entry.path.clone();
    decide_inner(entry, ids, limits).map_err(|fault| fault.at(&name))
}

fn decide_inner(entry: Entry, ids: &IdMap, limits: &Limits) -> Result<Decision, Fault> {
    let parts = clean(&entry.path, limits)?;
    let plain = |action| Ok(Decision { action, set_id_bit: false, dropped_xattrs: 0, unmapped: None });
    let Some((last, parent)) = parts.split_last() else {
        if entry.path.is_empty() {
            return Err(Fault::malformed("an entry has no name"));
        }
        if entry.kind != Type::Directory {
            return Err(Fault::refused("the root of the image is to become something else than a directory"));
        }
        return with_meta(entry, ids, |meta| Action::Directory(Vec::new(), meta));
    };
    if last == OPAQUE {
        return plain(Action::Opaque(parent.to_vec()));
    }
    if last.starts_with(AUFS) || parts.iter().any(|part| part.starts_with(AUFS)) {
        return plain(Action::Nothing);
    }
    if let Some(hidden) = last.strip_prefix(WHITEOUT) {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Fault::refused("a whiteout that names nothing"));
        }
        // A directory `.wh.name` with entries in it is odd but no whiteout; its own entry is one only as a file.
        if entry.kind != Type::Directory {
            let mut path = parent.to_vec();
            path.push(hidden.to_vec());
            return plain(Action::Whiteout(path));
        }
    }
    match entry.kind {
        Type::File => with_meta(entry, ids, |meta| Action::File(parts, meta)),
        Type::Directory => with_meta(entry, ids, |meta| Action::Directory(parts, meta)),
        Type::Fifo => with_meta(entry, ids, |meta| Action::Fifo(parts, meta)),
        Type::Device => plain(Action::Device),
        Type::HardLink => {
            let target = clean(&entry.target, limits)?;
            if target.is_empty() {
                return Err(Fault::refused("a hard link to the root directory, or to nothing"));
            }
            plain(Action::Link(parts, target))
        }
        Type::Symlink => {
            if entry.target.is_empty() {
                return Err(Fault::refused("a symbolic link to nothing"));
            }
            if entry.target.len() > limits.path_bytes {
                return Err(Fault::refused("a symbolic link whose target is too long"));
            }
            let target = entry.target.clone();
            with_meta(entry, ids, |meta| Action::Symlink(parts, target, meta))
        }
    }
}

/// The parts of a name, resolved as text: `/`, `.` and empty parts vanish, `..` takes one back.
fn clean(name: &[u8], limits: &Limits) -> Result<Parts, Fault> {
    if name.len() > limits.path_bytes {
        return Err(Fault::refused(format!(
            "a path of {} bytes; at most {} are possible",
            name.len(),
            limits.path_bytes
        )));
    }
    if name.contains(&0) {
        return Err(Fault::malformed("a name contains a NUL byte"));
    }
    let mut parts = Parts::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err(Fault::refused("leaves the image root"));
                }
            }
            _ if part.len() > 255 => return Err(Fault::refused("a file name of more than 255 bytes")),
            _ => parts.push(part.to_vec()),
        }
    }
    if parts.len() > limits.depth {
        return Err(Fault::refused(format!("directories nested more than {} deep", limits.depth)));
    }
    Ok(parts)
}

fn with_meta(entry: Entry, ids: &IdMap, action: impl FnOnce(Meta) -> Action) -> Result<Decision, Fault> {
    let is_file = entry.kind == Type::File;
    let mut mode = entry.mode & 0o7777;
    // Nothing in the container may gain privileges, and a file on disk must not become someone's on the host.
    let set_id_bit = is_file && mode & 0o6000 != 0;
    if entry.kind != Type::Directory {
        mode &= 0o1777;
    }
    let (owner, unmapped) = if ids.is_single() {
        mode |= if entry.kind == Type::Directory { 0o700 } else { 0o600 };
        (None, None)
    } else {
        let (uid, gid) = (mapped(entry.uid, "user", ids)?, mapped(entry.gid, "group", ids)?);
        let unmapped = [(entry.uid, uid), (entry.gid, gid)].into_iter().find(|(asked, id)| *asked != u64::from(*id));
        (Some((uid, gid)), unmapped.map(|(asked, _)| asked))
    };
    let mtime = match entry.mtime {
        (seconds @ 0..=LAST_SECOND, nanoseconds) => (seconds, nanoseconds),
        _ => (0, 0),
    };
    let all = entry.xattrs.len();
    let xattrs: Vec<_> = entry.xattrs.into_iter().filter(|(name, _)| xattrs::is_kept(name)).collect();
    let dropped_xattrs = (all - xattrs.len()) as u64;
    Ok(Decision { action: action(Meta { mode, owner, mtime, xattrs }), set_id_bit, dropped_xattrs, unmapped })
}

/// The id itself where it has one on disk, else nobody's. Nothing wraps around: what has no id never becomes root's
/// (CVE-2024-40635 was that).
fn mapped(asked: u64, what: &str, ids: &IdMap) -> Result<u32, Fault> {
    let outside = |id| if what == "user" { ids.uid_outside(id) } else { ids.gid_outside(id) };
    let own = u32::try_from(asked).ok().filter(|id| outside(*id).is_some());
    own.or_else(|| outside(NOBODY).map(|_| NOBODY)).ok_or_else(|| {
        Fault::refused(format!(
            "belongs to {what} {asked}, which is not among the ids mapped here, and nor is nobody (65534)"
        ))
        .hint("images may use ids 0 to 65535; an ordinary user needs as many in /etc/subuid and /etc/subgid")
    })
}
