//! A layer that names things of the layers below it.
//!
//! Takes an unpacked layer, what it left open, and the layers below; gives the layer as applying all in turn would.
//! Trusts the layers below: they were unpacked by the same rules.
//! Refuses hard links to what exists nowhere; what only the order of the entries decides is told apart, and unpacked in turn.
//!
//! 1. A directory that the layer only implies is, below, either such a directory (it gets its metadata), or a symbolic
//!    link to one (its entries belong there), or nothing (it stays as it was made; if it only held whiteouts, it goes).
//! 2. A hard link to a file of a layer below becomes a copy of that file in this layer, under both names: what
//!    overlayfs would do when the file is touched.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::listing;
use super::merged::{Found, Merged};
use super::plan::Parts;
use super::protocol::{Fault, FaultKind, Open};
use super::tree::{self, open_plain};
use super::xattrs;

/// Adapts the layer in `layer` to the ones below it (`lower`, base first); tells the inodes of the files it has made.
///
/// # Errors
/// When a name means nothing; and, as [`FaultKind::InTurn`], when it means one of two things.
pub fn settle(layer: &OwnedFd, lower: &[OwnedFd], open: &Open) -> Result<Vec<u64>, Fault> {
    let merged = Merged::new(lower);
    let mut implied: Vec<Parts> = open.implied.iter().map(|path| parts(&path.0)).collect();
    // Parents first: what lies below a link moves with it.
    implied.sort();
    let mut names: BTreeSet<Parts> = implied.iter().cloned().collect();
    let mut listed = BTreeSet::new();
    let mut times = Vec::new();
    let mut links: Vec<(Parts, Parts)> =
        open.links.iter().map(|(link, target)| (parts(&link.0), parts(&target.0))).collect();
    for next in 0..implied.len() {
        let Some(path) = implied.get(next).cloned() else { break };
        if listed.contains(&path) {
            continue;
        }
        let known = Names { implied: &names, listed: &mut listed };
        let moved = implied_directory(layer, &merged, &path, known, &mut times)
            .map_err(|fault| fault.at(&tree::join(&path)))?;
        if let Some(to) = moved {
            if !names.contains(&to) {
                // By its own path it is listed, or has been given what it is below.
                listed.insert(to.clone());
            }
            // What was below it is now below where the link leads.
            let lead = |other: &mut Parts| drop(other.splice(..path.len(), to.iter().cloned()));
            for other in implied.iter_mut().skip(next).filter(|other| other.starts_with(&path)) {
                names.remove(other);
                lead(other);
                names.insert(other.clone());
            }
            links.iter_mut().map(|(link, _)| link).filter(|link| link.starts_with(&path)).for_each(lead);
        }
    }
    let mut made = Vec::new();
    for (link, target) in &links {
        made.push(copy_up(layer, &merged, link, target).map_err(|fault| fault.at(&tree::join(link)))?);
    }
    // Deepest first, and after all changes: working in a directory changes its time.
    for path in implied.iter().rev().filter(|path| !listed.contains(*path)) {
        drop_if_empty(layer, &merged, path)?;
    }
    for (path, mtime) in times.iter().rev() {
        if let Ok(fd) = open_plain(layer, &tree::join(path)) {
            futimens(&fd, mtime, mtime).map_err(|e| Fault::host("set a directory's times", e))?;
        }
    }
    Ok(made)
}

/// Which directories of the layer no entry lists, by their paths so far; and which of them turn out to be listed after all, by
/// another path that leads to the same directory.
struct Names<'a> {
    implied: &'a BTreeSet<Parts>,
    listed: &'a mut BTreeSet<Parts>,
}

impl Names<'_> {
    fn is_listed(&self, path: &Parts) -> bool {
        self.listed.contains(path) || !self.implied.contains(path)
    }
}

/// Adapts one directory that the layer only implies; tells where to, if its entries have moved.
fn implied_directory(
    layer: &OwnedFd,
    merged: &Merged<'_>,
    path: &[Vec<u8>],
    names: Names<'_>,
    times: &mut Vec<(Parts, TimeSpec)>,
) -> Result<Option<Parts>, Fault> {
    let Ok(own) = open_plain(layer, &tree::join(path)) else { return Ok(None) };
    // An opaque directory hides what is in it below, not what it is itself.
    if hidden_by_layer(layer, path.split_last().map_or(&[], |(_, parent)| parent))? {
        return Ok(None);
    }
    match merged.look(path)? {
        Found::Directory(below) => {
            copy_metadata(&below, &own)?;
            let stat = fstat(&below).map_err(|e| Fault::host("look at a directory", e))?;
            times.push((path.to_vec(), mtime(&stat)));
            Ok(None)
        }
        Found::Link(_) if hidden_by_layer(layer, path)? => Ok(None),
        Found::Link(_) => {
            drop(own);
            let Some(real) = merged.resolve(path)? else {
                return Err(in_turn("lies below a symbolic link of another layer that leads nowhere".to_owned()));
            };
            move_content(layer, merged, (path, &real), names, times)?;
            Ok(Some(real))
        }
        // A file gives way to a directory, as when the layers are applied in turn.
        Found::Other(..) | Found::Nothing => Ok(None),
    }
}

/// What the order of the layer's entries decides, of which nothing is known any more.
fn in_turn(why: String) -> Fault {
    Fault::new(FaultKind::InTurn, why)
}

/// Whether the layer itself hides what lies below `path`: one of the directories above is opaque.
fn hidden_by_layer(layer: &OwnedFd, path: &[Vec<u8>]) -> Result<bool, Fault> {
    for length in 1..=path.len() {
        let Some(prefix) = path.get(..length) else { continue };
        if let Ok(fd) = open_plain(layer, &tree::join(prefix))
            && xattrs::is_opaque(&fd).map_err(|e| Fault::host("read an extended attribute", e))?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves what was unpacked into `from` to `to`, where a link of a layer below leads.
fn move_content(
    layer: &OwnedFd,
    merged: &Merged<'_>,
    (from, to): (&[Vec<u8>], &[Vec<u8>]),
    mut names: Names<'_>,
    times: &mut Vec<(Parts, TimeSpec)>,
) -> Result<(), Fault> {
    let fail = |e| Fault::host("move an entry to where a link leads", e);
    let target = make_directories(layer, merged, to, times)?;
    let source = open_plain(layer, &tree::join(from)).map_err(fail)?;
    merge_into((&source, from), (&target, to), &mut names)?;
    let (name, parent) = from.split_last().ok_or_else(|| Fault::refused("the root cannot be moved"))?;
    let parent = open_plain(layer, &tree::join(parent)).map_err(fail)?;
    let before = fstat(&parent).map_err(fail)?;
    unlinkat(&parent, name.as_slice(), UnlinkatFlags::RemoveDir).map_err(fail)?;
    futimens(&parent, &mtime(&before), &mtime(&before)).map_err(fail)
}

/// Moves all entries of one directory to another, whose time stays; directories that exist in both become one.
fn merge_into(
    (source, from): (&OwnedFd, &[Vec<u8>]),
    (target, to): (&OwnedFd, &[Vec<u8>]),
    known: &mut Names<'_>,
) -> Result<(), Fault> {
    let fail = |e| Fault::host("move an entry to where a link leads", e);
    let before = mtime(&fstat(target).map_err(fail)?);
    for name in names(source)? {
        match renameat2(source, name.as_os_str(), target, name.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let (Ok(one), Ok(other)) = (tree::open_dir(source, &name), tree::open_dir(target, &name)) else {
                    return Err(by_two_paths(&name));
                };
                let below = |path: &[Vec<u8>]| [path, &[name.as_bytes().to_vec()]].concat();
                let (from, to) = (below(from), below(to));
                become_one((&one, &from), (&other, &to), known)?.then_some(()).ok_or_else(|| by_two_paths(&name))?;
                merge_into((&one, &from), (&other, &to), known)?;
                unlinkat(source, name.as_os_str(), UnlinkatFlags::RemoveDir).map_err(fail)?;
            }
            Err(e) => return Err(fail(e)),
        }
    }
    futimens(target, &before, &before).map_err(fail)
}

fn by_two_paths(name: &OsStr) -> Fault {
    in_turn(format!(
        "\"{}\" comes by its own path and through a symbolic link of another layer",
        crate::text::neutral_bytes(name.as_bytes())
    ))
}

/// Gives the directory that comes by two paths the metadata of the one that is listed, if one is; false where both are, and not
/// alike: then the later counts.
fn become_one(
    (one, from): (&OwnedFd, &Parts),
    (other, to): (&OwnedFd, &Parts),
    known: &mut Names<'_>,
) -> Result<bool, Fault> {
    let fail = |e| Fault::host("look at a directory", e);
    // What it hides of the layers below is another matter than what it is.
    if xattrs::is_opaque(one).map_err(fail)? {
        return Ok(false);
    }
    let (is, was) = (fstat(one).map_err(fail)?, fstat(other).map_err(fail)?);
    match (known.is_listed(from), known.is_listed(to)) {
        (false, false) => return Ok(true),
        (false, true) => {}
        (true, false) => {
            copy_metadata(one, other)?;
            futimens(other, &mtime(&is), &mtime(&is)).map_err(fail)?;
        }
        (true, true) => {
            let plain = |stat: &FileStat| (stat.st_uid, stat.st_gid, stat.st_mode, stat.st_mtime, stat.st_mtime_nsec);
            let bare = |fd: &OwnedFd| listing::attributes(fd.as_fd()).is_ok_and(|found| found == "-");
            return Ok(plain(&is) == plain(&was) && bare(one) && bare(other));
        }
    }
    known.listed.insert(to.clone());
    Ok(true)
}

/// The directory `path` of the layer, made where it is missing, with the metadata that it has below.
fn make_directories(
    layer: &OwnedFd,
    merged: &Merged<'_>,
    path: &[Vec<u8>],
    times: &mut Vec<(Parts, TimeSpec)>,
) -> Result<OwnedFd, Fault> {
    let fail = |e| Fault::host("make a directory", e);
    let mut at = open_plain(layer, b"").map_err(fail)?;
    for length in 1..=path.len() {
        let Some((name, prefix)) = path.get(..length).and_then(|prefix| Some((prefix.last()?, prefix))) else {
            continue;
        };
        let name = OsStr::from_bytes(name);
        at = match tree::open_dir(&at, name) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => {
                let before = fstat(&at).map_err(fail)?;
                mkdirat(&at, name, Mode::from_bits_truncate(0o755)).map_err(fail)?;
                futimens(&at, &mtime(&before), &mtime(&before)).map_err(fail)?;
                let made = tree::open_dir(&at, name).map_err(fail)?;
                if let Found::Directory(below) = merged.look(prefix)? {
                    copy_metadata(&below, &made)?;
                    let stat = fstat(&below).map_err(fail)?;
                    times.push((prefix.to_vec(), mtime(&stat)));
                }
                made
            }
            Err(_) => {
                return Err(in_turn("a symbolic link of another layer leads to what this layer replaces".to_owned()));
            }
        };
    }
    Ok(at)
}

/// Copies a file of a layer below into this one, under its own name and the link's; tells its inode.
fn copy_up(layer: &OwnedFd, merged: &Merged<'_>, link: &[Vec<u8>], target: &[Vec<u8>]) -> Result<u64, Fault> {
    let missing = || {
        Fault::refused(format!(
            "a hard link to \"{}\", which is not there",
            crate::text::neutral_bytes(&tree::join(target))
        ))
    };
    let (link_name, link_parent) = link.split_last().ok_or_else(missing)?;
    let fail = |e| Fault::host("copy a file of a layer below", e);
    let place = open_plain(layer, &tree::join(link_parent)).map_err(fail)?;
    let before = fstat(&place).map_err(fail)?;
    let Some(real) = merged.resolve_parent(target)? else { return Err(missing()) };
    let (name, parent) = real.split_last().ok_or_else(missing)?;
    // An earlier link may have brought the file up already.
    let own_parent = open_plain(layer, &tree::join(parent)).ok();
    if let Some(own_parent) = &own_parent
        && let Some(stat) = tree::look(own_parent, name)?
        && tree::is_whiteout(&stat)
    {
        return Err(missing());
    }
    let Found::Other(directory, stat) = merged.look(&real)? else { return Err(missing()) };
    if hidden_by_layer(layer, parent)? {
        return Err(missing());
    }
    let mut times = Vec::new();
    let own_parent = make_directories(layer, merged, parent, &mut times)?;
    let own_before = fstat(&own_parent).map_err(fail)?;
    let (name, link_name) = (OsStr::from_bytes(name), OsStr::from_bytes(link_name));
    if tree::look(&own_parent, name.as_bytes())?.is_none() {
        copy_file(&directory, name, &stat, own_parent.as_fd())?;
    }
    linkat(&own_parent, name, &place, link_name, AtFlags::empty()).map_err(fail)?;
    let own_time = mtime(&own_before);
    futimens(&own_parent, &own_time, &own_time).map_err(fail)?;
    for (path, time) in times.iter().rev() {
        let fd = open_plain(layer, &tree::join(path)).map_err(fail)?;
        futimens(&fd, time, time).map_err(fail)?;
    }
    let time = mtime(&before);
    futimens(&place, &time, &time).map_err(fail)?;
    tree::look(&place, link_name.as_bytes())?.map(|stat| stat.st_ino).ok_or_else(missing)
}

fn copy_file(from: &OwnedFd, name: &OsStr, stat: &FileStat, to: BorrowedFd<'_>) -> Result<(), Fault> {
    let fail = |e| Fault::host("copy a file of a layer below", e);
    let (uid, gid) = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    match tree::kind(stat) {
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut source = File::from(openat(from, name, flags, Mode::empty()).map_err(fail)?);
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut copy = File::from(openat(to, name, flags, mode).map_err(fail)?);
            io::copy(&mut source, &mut copy).map_err(|e| fail(e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
            fchown(&copy, uid, gid).map_err(fail)?;
            xattrs::copy(&source, &copy).map_err(fail)?;
            return futimens(&copy, &mtime(stat), &mtime(stat)).map_err(fail);
        }
        SFlag::S_IFLNK => {
            let target = readlinkat(from, name).map_err(fail)?;
            symlinkat(target.as_os_str(), to, name).map_err(fail)?;
        }
        SFlag::S_IFIFO => mkfifoat(to, name, mode).map_err(fail)?,
        _ => return Err(Fault::refused("a hard link to a directory or device of a layer below")),
    }
    fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)?;
    utimensat(to, name, &mtime(stat), &mtime(stat), UtimensatFlags::NoFollowSymlink).map_err(fail)
}

/// Removes a directory that nothing below knows, once the whiteouts in it (of nothing) are gone and it is empty.
fn drop_if_empty(layer: &OwnedFd, merged: &Merged<'_>, path: &[Vec<u8>]) -> Result<(), Fault> {
    let Ok(own) = open_plain(layer, &tree::join(path)) else { return Ok(()) };
    if matches!(merged.look(path)?, Found::Directory(_)) {
        return Ok(());
    }
    let fail = |e| Fault::host("remove a whiteout", e);
    for name in names(&own)? {
        if tree::look(&own, name.as_bytes())?.is_some_and(|stat| tree::is_whiteout(&stat)) {
            unlinkat(&own, name.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(fail)?;
        }
    }
    let epoch = TimeSpec::new(0, 0);
    futimens(&own, &epoch, &epoch).map_err(fail)?;
    let Some((name, parent)) = path.split_last() else { return Ok(()) };
    let parent = open_plain(layer, &tree::join(parent)).map_err(fail)?;
    let before = fstat(&parent).map_err(fail)?;
    match unlinkat(&parent, name.as_slice(), UnlinkatFlags::RemoveDir) {
        Ok(()) => futimens(&parent, &mtime(&before), &mtime(&before)).map_err(fail),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(e) => Err(fail(e)),
    }
}

fn copy_metadata(from: &OwnedFd, to: &OwnedFd) -> Result<(), Fault> {
    let fail = |e| Fault::host("copy a directory's metadata", e);
    let stat = fstat(from).map_err(fail)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).map_err(fail)?;
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777)).map_err(fail)?;
    xattrs::copy(from, to).map_err(fail)?;
    futimens(to, &mtime(&stat), &mtime(&stat)).map_err(fail)
}

fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Fault> {
    let fail = |e| Fault::host("list a directory", e);
    let again = tree::open_dir(directory, OsStr::new(".")).map_err(fail)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(again).map_err(fail)?.iter() {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

fn mtime(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}

fn parts(path: &[u8]) -> Parts {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}
