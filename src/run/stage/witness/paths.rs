//! What a call names: one path or two, and what it wants of them.
//!
//! Takes a call that waits, and who calls; gives the path that it will not get, and why; trusts the kernel, which `super::meet` asks;
//! refuses nothing. The answer is a prediction for the report: the call itself is decided by the kernel.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::act::Act;
use super::meet::{self, Place};
use super::memory::{self, PATH, Who};
use crate::host::sys::notify;
use crate::run::observations::Missed;
use crate::text;

/// Where a call names a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The descriptor that a relative path begins at; none: the working directory.
    pub from: Option<i32>,
    /// The address of the path.
    pub path: u64,
    /// A link is meant itself.
    pub link: bool,
}

/// What a call names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    first: Name,
    second: Option<Name>,
    act: Act,
}

/// What the call `name` names; none for a call that names no path. (Arguments: syscalls(2), each call's own page.)
pub fn named(name: &str, args: [u64; 6]) -> Option<Named> {
    let [a, b, c, d, e, _] = args;
    let number = |word: u64| u32::try_from(word & 0xffff_ffff).unwrap_or_default();
    let flags = |word: u64| number(word).cast_signed();
    let at = |fd: u64, path| Name { from: Some(flags(fd)).filter(|fd| *fd != libc::AT_FDCWD), path, link: false };
    let here = |path| Name { from: None, path, link: false };
    let one = |first, act| Named { first, second: None, act };
    let two = |first, second, act| Named { first, second: Some(second), act };
    let itself = |name| Name { link: true, ..name };
    let unless_followed = |name, word: u64| Name { link: flags(word) & libc::AT_SYMLINK_NOFOLLOW != 0, ..name };
    Some(match name {
        "open" => one(here(a), Act::Open(flags(b))),
        "openat" => one(at(a, b), Act::Open(flags(c))),
        "creat" => one(here(a), Act::Open(libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC)),
        "truncate" => one(here(a), Act::Truncate),
        // What `access` asks for in its mode is a question, and no attempt.
        "stat" | "access" => one(here(a), Act::Look),
        "lstat" | "readlink" => one(itself(here(a)), Act::Look),
        "faccessat" => one(at(a, b), Act::Look),
        "newfstatat" | "faccessat2" => one(unless_followed(at(a, b), d), Act::Look),
        "statx" => one(unless_followed(at(a, b), c), Act::Look),
        "readlinkat" => one(itself(at(a, b)), Act::Look),
        "chdir" => one(here(a), Act::Enter),
        "execve" => one(here(a), Act::Execute),
        "execveat" => one(unless_followed(at(a, b), e), Act::Execute),
        "mkdir" | "mknod" => one(itself(here(a)), Act::Make),
        "mkdirat" | "mknodat" => one(itself(at(a, b)), Act::Make),
        "symlink" => one(itself(here(b)), Act::Make),
        "symlinkat" => one(itself(at(b, c)), Act::Make),
        "unlink" | "rmdir" => one(itself(here(a)), Act::Remove),
        "unlinkat" => one(itself(at(a, b)), Act::Remove),
        "rename" => two(itself(here(a)), itself(here(b)), Act::Rename),
        "renameat" | "renameat2" => two(itself(at(a, b)), itself(at(c, d)), Act::Rename),
        "link" => two(itself(here(a)), itself(here(b)), Act::Link),
        "linkat" => {
            let link = flags(e) & libc::AT_SYMLINK_FOLLOW == 0;
            two(Name { link, ..at(a, b) }, itself(at(c, d)), Act::Link)
        }
        "chmod" => one(here(a), Act::Mode),
        "fchmodat" => one(at(a, b), Act::Mode),
        "chown" => one(here(a), Act::Owner(number(b), number(c))),
        "lchown" => one(itself(here(a)), Act::Owner(number(b), number(c))),
        "fchownat" => one(unless_followed(at(a, b), e), Act::Owner(number(c), number(d))),
        _ => return None,
    })
}

/// What the call will not get; none where it gets what it wants, fails for a reason that is no right of its own, or nothing is
/// known of it. `nested`: the payload's ids where it has a user namespace of its own.
pub fn missed(pid: Pid, who: &Who, nested: Option<(u32, u32)>, named: &Named) -> Option<Missed> {
    let (uid, gid) = who.ids?;
    let act = match (named.act, nested) {
        (Act::Owner(to, group), Some(own)) => Act::Owner(outside(to, own.0, uid)?, outside(group, own.1, gid)?),
        (act, _) => act,
    };
    // As its user the directory of its descriptors is reached, too, which is closed to everybody else.
    // The container's root is who this process is anyway; to say so makes credentials and throws them away, four times a call.
    let is_other = (uid, gid) != (0, 0);
    if is_other {
        notify::reach_files_as(uid, gid);
    }
    let missed = ask(pid, who, named, act);
    if is_other {
        notify::reach_files_as(0, 0);
    }
    missed
}

fn ask(pid: Pid, who: &Who, named: &Named, act: Act) -> Option<Missed> {
    let first = place(pid, &named.first)?;
    let second = match &named.second {
        Some(name) => Some(place(pid, name)?),
        None => None,
    };
    let (at, errno) = meet::meet(&first, second.as_ref(), act, who).err()?;
    if ![Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ENOENT, Errno::ENOTDIR].contains(&errno) {
        return None;
    }
    let place = if at == meet::At::Second { second.as_ref()? } else { &first };
    Some(Missed { path: shown(&place.whole()?), wanted: act.wanted(), errno: errno as i32 })
}

/// A number of the one id that a namespace of the payload's own has, as it is numbered here; none for one that it has not (`EINVAL`).
fn outside(id: u32, own: u32, here: u32) -> Option<u32> {
    match id {
        u32::MAX => Some(u32::MAX),
        id if id == own => Some(here),
        _ => None,
    }
}

fn place(pid: Pid, name: &Name) -> Option<Place> {
    let path = memory::text_at(pid, name.path, PATH)?;
    // Nothing, or the descriptor itself (AT_EMPTY_PATH).
    if path.is_empty() { None } else { Place::open(pid, name.from, &path, name.link) }
}

/// A path as it is taken down: safe to print, and no longer than a line of a report can be.
fn shown(path: &Path) -> String {
    const LONGEST: usize = 512;
    let bytes = path.as_os_str().as_bytes();
    text::neutral_bytes(bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::observations::Wanted;

    #[test]
    fn a_call_says_what_it_wants_and_where() {
        let cwd = u64::from(libc::AT_FDCWD.cast_unsigned());
        let open = |flags: i32| named("openat", [cwd, 8, u64::try_from(flags).unwrap(), 0, 0, 0]).unwrap();
        assert_eq!(open(libc::O_RDONLY).first, Name { from: None, path: 8, link: false });
        assert_eq!(open(libc::O_RDONLY).act.wanted(), Wanted::Read);
        assert_eq!(open(libc::O_WRONLY).act.wanted(), Wanted::Write);
        assert_eq!(open(libc::O_PATH).act.wanted(), Wanted::Look);
        assert_eq!(named("openat", [5, 8, 0, 0, 0, 0]).unwrap().first.from, Some(5));
        let links = |name: &str, args| named(name, args).map(|named| (named.first.link, named.second));
        // A link itself, and what it leads to.
        let nofollow = u64::from(libc::AT_SYMLINK_NOFOLLOW.cast_unsigned());
        assert_eq!(links("statx", [3, 8, nofollow, 0, 0, 0]), Some((true, None)));
        assert_eq!(links("statx", [3, 8, 0, 0, 0, 0]), Some((false, None)));
        assert_eq!(links("newfstatat", [3, 8, 1, nofollow, 0, 0]), Some((true, None)));
        assert_eq!(links("fchownat", [3, 8, 0, 0, nofollow, 0]), Some((true, None)));
        let second = Some(Name { from: Some(3), path: 4, link: true });
        assert_eq!(links("linkat", [1, 2, 3, 4, 0, 0]), Some((true, second)));
        assert_eq!(links("linkat", [1, 2, 3, 4, 0x400, 0]), Some((false, second)));
        assert_eq!(links("renameat2", [1, 2, 3, 4, 0, 0]), Some((true, second)));
        assert!(named("read", [0; 6]).is_none());
    }

    #[test]
    fn an_id_of_the_payloads_own_namespace_is_the_one_that_it_has() {
        assert_eq!(outside(1000, 1000, 0), Some(0));
        assert_eq!(outside(u32::MAX, 1000, 0), Some(u32::MAX));
        assert_eq!(outside(33, 1000, 0), None);
    }
}
