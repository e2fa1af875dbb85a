//! Removes what a run leaves, however deep it is.
//!
//! Takes a directory's descriptor and a name in it; gives nothing; trusts that nothing of the container writes there any more;
//! refuses to follow a link, and to enter a directory that belongs to nobody of the run: who may rename could have put
//! somebody else's there. Three descriptors and no recursion serve for any depth: a directory that is not empty is moved up to
//! the top, so that what is deep becomes wide.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::{FileType, RawDir, SeekFrom};

use crate::host::same_mount;

/// How many names are held at once: a directory may have millions.
const AT_ONCE: usize = 4096;
/// Bytes that the kernel may fill with names in one call.
const BUFFER: usize = 32 << 10;

/// Whose directories are entered: of the run's ids, as this process numbers them.
pub type Ids<'a> = &'a dyn Fn(u32) -> bool;

/// Everything, whoever it belongs to: for what only `ces` has names for.
pub const ALL: Ids<'static> = &|_| true;

/// What was removed: entries, and the bytes on disk of files that have no other name.
#[derive(Debug, Default)]
pub struct Tally {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    /// Entries and bytes so far.
    pub fn so_far(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// So many more.
    pub fn add(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Whose directories are entered, and who counts.
#[derive(Clone, Copy)]
struct How<'a> {
    ids: Ids<'a>,
    tally: Option<&'a Tally>,
}

impl How<'_> {
    /// Removes an entry that is no directory, and counts it.
    fn unlink(&self, dir: &OwnedFd, name: &CStr) -> nix::Result<()> {
        let Some(tally) = self.tally else { return unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) };
        // Gone meanwhile, or none of a file's last name: no bytes.
        let found = same_mount::measure(dir, name).ok().filter(|found| found.links == 1);
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
        tally.add(1, found.map_or(0, |found| found.bytes));
        Ok(())
    }

    /// Removes an empty directory, and counts it.
    fn rmdir(&self, dir: &OwnedFd, name: &CStr) -> nix::Result<()> {
        unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
        self.tally.into_iter().for_each(|tally| tally.add(1, 0));
        Ok(())
    }
}

/// Removes `name` in `parent` and all below it; it may be gone already.
///
/// # Errors
/// The kernel's; `EXDEV` for a directory of somebody else's, which stays.
pub fn tree(parent: &OwnedFd, name: &Path, ids: Ids<'_>) -> nix::Result<()> {
    tree_by(parent, name, How { ids, tally: None })
}

/// The same, counted.
///
/// # Errors
/// As [`tree`]; what was removed until then is counted.
pub fn tree_counted(parent: &OwnedFd, name: &Path, ids: Ids<'_>, tally: &Tally) -> nix::Result<()> {
    tree_by(parent, name, How { ids, tally: Some(tally) })
}

fn tree_by(parent: &OwnedFd, name: &Path, how: How<'_>) -> nix::Result<()> {
    let name = CString::new(name.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // Asked first: on a file system that is read-only, removing what is not there fails as if it were.
    if same_mount::open(parent, name.as_c_str(), OFlag::O_PATH).err() == Some(Errno::ENOENT)
        || !is_full(parent, &name, FileType::Unknown, how)?
    {
        return Ok(());
    }
    let top = open(parent, &name, how.ids)?;
    loop {
        let emptied = sweep_once(&top, how, &mut 0)?;
        if removed(parent, &name, emptied, how)? {
            return Ok(());
        }
    }
}

/// Removes all that is in `top`, and leaves the directory itself.
///
/// # Errors
/// As [`tree`].
pub fn content(top: &OwnedFd, ids: Ids<'_>) -> nix::Result<()> {
    content_by(top, How { ids, tally: None })
}

/// The same, counted.
///
/// # Errors
/// As [`tree`]; what was removed until then is counted.
pub fn content_counted(top: &OwnedFd, ids: Ids<'_>, tally: &Tally) -> nix::Result<()> {
    content_by(top, How { ids, tally: Some(tally) })
}

fn content_by(top: &OwnedFd, how: How<'_>) -> nix::Result<()> {
    let mut moved = 0;
    while !sweep_once(top, how, &mut moved)? {}
    Ok(())
}

/// Removes some of what is in `top`; true if nothing was there.
fn sweep_once(top: &OwnedFd, how: How<'_>, moved: &mut u64) -> nix::Result<bool> {
    let found = some_names(top)?;
    for (name, kind) in &found {
        if is_full(top, name, *kind, how)? {
            let dir = open(top, name, how.ids)?;
            empty_out(&dir, top, name, how, moved)?;
        }
    }
    Ok(found.is_empty())
}

/// What the kernel leaves of a volatile overlay in its work directory, each in the one before and closed to its owner (kernel
/// docs: overlayfs, "Volatile mount").
const OF_AN_OVERLAY: [&CStr; 4] = [c"work", c"work", c"incompat", c"volatile"];

/// Removes what an overlay has left below `dir`, whose `work` was its work directory: the chain from its end, where [`tree`]
/// would move up one link after the other.
///
/// # Errors
/// The kernel's, when it is not as expected; what is still there then is for [`tree`].
pub fn overlay_work(dir: &OwnedFd) -> nix::Result<()> {
    let mut chain = vec![dir.try_clone().map_err(|_| Errno::EMFILE)?];
    for name in OF_AN_OVERLAY {
        let opened = chain.last().map(|parent| open_up(parent, name, ALL)).transpose()?;
        chain.extend(opened);
    }
    if let Some(volatile) = chain.last() {
        unlinkat(volatile, c"dirty", UnlinkatFlags::NoRemoveDir)?;
    }
    let mut links = chain.iter().zip(OF_AN_OVERLAY).rev();
    links.try_for_each(|(parent, name)| unlinkat(parent, name, UnlinkatFlags::RemoveDir))
}

/// Removes what is in `dir`, the entry `name` of `top`, less what is not empty itself, which is moved up; then `dir`.
fn empty_out(dir: &OwnedFd, top: &OwnedFd, name: &CStr, how: How<'_>, moved: &mut u64) -> nix::Result<()> {
    loop {
        let found = some_names(dir)?;
        for (name, kind) in &found {
            if is_full(dir, name, *kind, how)? {
                move_up(dir, name, top, how.ids, moved)?;
            }
        }
        if removed(top, name, found.is_empty(), how)? {
            return Ok(());
        }
    }
}

/// Removes a directory that should be empty by now; whether it was. `looked_empty`: then it has to be.
fn removed(parent: &OwnedFd, name: &CStr, looked_empty: bool, how: How<'_>) -> nix::Result<bool> {
    match how.rmdir(parent, name) {
        Ok(()) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if !looked_empty => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes an entry, unless it is a directory that holds something.
fn is_full(dir: &OwnedFd, name: &CStr, kind: FileType, how: How<'_>) -> nix::Result<bool> {
    if kind != FileType::Directory {
        match how.unlink(dir, name) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(false),
            Err(Errno::EISDIR) => {}
            Err(e) => return Err(e),
        }
    }
    match how.rmdir(dir, name) {
        Ok(()) => Ok(false),
        Err(Errno::ENOENT) if kind == FileType::Directory => Ok(false),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(true),
        Err(e) => Err(e),
    }
}

fn move_up(dir: &OwnedFd, name: &CStr, top: &OwnedFd, ids: Ids<'_>, moved: &mut u64) -> nix::Result<()> {
    let mut is_open = false;
    loop {
        *moved += 1;
        match renameat(dir, name, top, format!("moved-up-{moved}").as_str()) {
            // The payload had that name too.
            Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
            // A directory that moves is written to.
            Err(Errno::EACCES) if !is_open => {
                open_up(dir, name, ids)?;
                is_open = true;
            }
            other => return other,
        }
    }
}

/// Opens a directory of one of `ids` to read it, also one that its owner has closed for themselves: a file server knows no
/// power over that.
///
/// # Errors
/// The kernel's; `EXDEV` for somebody else's.
pub fn open(dir: impl AsFd, name: &CStr, ids: Ids<'_>) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
    let opened = match opened(&dir, name, flags) {
        Err(Errno::EACCES) => {
            open_up(&dir, name, ids)?;
            opened(&dir, name, flags)
        }
        other => other,
    }?;
    of_the_run(&opened, ids)?;
    Ok(opened)
}

/// What is mounted there is busy, as it is for who would remove it: it cannot be entered, either.
fn opened(dir: impl AsFd, name: &CStr, flags: OFlag) -> nix::Result<OwnedFd> {
    same_mount::open(dir, name, flags).map_err(|e| if e == Errno::EXDEV { Errno::EBUSY } else { e })
}

/// Gives the owner of a directory all rights in it; gives its descriptor (`O_PATH`).
fn open_up(dir: impl AsFd, name: &CStr, ids: Ids<'_>) -> nix::Result<OwnedFd> {
    let closed = opened(dir, name, OFlag::O_DIRECTORY | OFlag::O_PATH)?;
    of_the_run(&closed, ids)?;
    let path = format!("/proc/self/fd/{}", closed.as_raw_fd());
    fchmodat(AT_FDCWD, path.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    Ok(closed)
}

/// Decided on what was opened, whatever the name leads to by now.
fn of_the_run(dir: &OwnedFd, ids: Ids<'_>) -> nix::Result<()> {
    if ids(fstat(dir)?.st_uid) { Ok(()) } else { Err(Errno::EXDEV) }
}

/// The first names of a directory, and what they name as far as the file system tells.
fn some_names(dir: &OwnedFd) -> nix::Result<Vec<(CString, FileType)>> {
    let told = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    rustix::fs::seek(dir, SeekFrom::Start(0)).map_err(told)?;
    let mut names = Vec::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(told)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
        if names.len() == AT_ONCE {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn of_an_overlays_work_only_what_the_kernel_makes_goes() {
        let base = tempfile::tempdir().unwrap();
        let volatile = base.path().join("work/work/incompat/volatile");
        let dir = OwnedFd::from(fs::File::open(base.path()).unwrap());
        assert_eq!(overlay_work(&dir), Err(Errno::ENOENT));
        fs::create_dir_all(&volatile).unwrap();
        fs::write(volatile.join("dirty"), "").unwrap();
        fs::write(base.path().join("work/work/other"), "").unwrap();
        fs::create_dir(base.path().join("upper")).unwrap();
        assert_eq!(overlay_work(&dir), Err(Errno::ENOTEMPTY));
        assert!(base.path().join("work/work/other").exists());
        fs::remove_file(base.path().join("work/work/other")).unwrap();
        fs::create_dir_all(&volatile).unwrap();
        fs::write(volatile.join("dirty"), "").unwrap();
        overlay_work(&dir).unwrap();
        let left: Vec<_> = fs::read_dir(base.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["upper"]);
    }

    #[test]
    fn what_is_deep_wide_or_oddly_named_goes_and_what_is_beside_it_stays() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept/file"), "kept").unwrap();
        fs::create_dir_all(at("gone/moved-up-1/moved-up-2/x")).unwrap();
        fs::create_dir_all(at("gone/a").join("d/".repeat(1500))).unwrap();
        fs::write(at("gone/moved-up-3"), "a file of that name").unwrap();
        for n in 0..AT_ONCE + 10 {
            fs::write(at(&format!("gone/moved-up-1/{n}")), "").unwrap();
        }
        std::os::unix::fs::symlink("../kept", at("gone/link")).unwrap();
        let parent = OwnedFd::from(fs::File::open(base.path()).unwrap());
        fs::write(at("gone/twice"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("gone/twice"), at("gone/again")).unwrap();
        let tally = Tally::default();
        tree_counted(&parent, Path::new("gone"), ALL, &tally).unwrap();
        // Three directories by name, 1500 deep and the two above them, two names of one file, a link.
        let (entries, bytes) = tally.so_far();
        assert_eq!(entries, 3 + 1501 + 1 + u64::try_from(AT_ONCE + 10).unwrap() + 1 + 2 + 1);
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        tree(&parent, Path::new("gone"), ALL).unwrap();
        assert!(!at("gone").exists());
        assert_eq!(fs::read_to_string(at("kept/file")).unwrap(), "kept");
        // A link in the place of the tree is removed, not what it names.
        std::os::unix::fs::symlink("kept", at("link")).unwrap();
        tree(&parent, Path::new("link"), ALL).unwrap();
        assert_eq!(fs::read_to_string(at("kept/file")).unwrap(), "kept");
        assert!(fs::symlink_metadata(at("link")).is_err());
    }
}
