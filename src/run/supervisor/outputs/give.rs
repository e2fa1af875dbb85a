//! Owners and modes of the outputs: at any depth, whatever a process outside does meanwhile.
//!
//! Takes the outputs directory, as it was made, and the researcher's ids; gives counts, and lines for what it refused; trusts
//! `fstat` of what it has opened (type, owner, links, file system), never a name looked at before; refuses what belongs to no id
//! of the run, or lies or is mounted from another file system (left alone), and devices, sockets and fifos (removed). Modes change
//! before owners, so that no set-ID bit is ever the researcher's.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::same_mount;
use crate::run::supervisor::outputs::line::Line;
use crate::run::supervisor::outputs::list::ListWriter;
use crate::run::supervisor::outputs::tree::{self, At, Visitor};
use crate::run::supervisor::outputs::{Few, attributes};
use crate::run::supervisor::quota::Kept;
use crate::text;

/// No more files with several names are remembered.
const LINKED: usize = 100_000;

/// Whose outputs they become, and whose they may be.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Rights<'a> {
    /// Who gets them.
    pub owner: &'a HostIds,
    /// The ids of the run, as this process numbers them.
    pub ids: &'a dyn Fn(u32) -> bool,
    /// Other runs have the same ids: a second name of a file may be in somebody else's outputs.
    pub shared: bool,
    /// What the file system counts for the run, and no more afterwards.
    pub quotas: &'a [Kept],
}

/// What was given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What of that there is to read.
    pub data: u64,
    /// Bytes on disk.
    pub disk: u64,
    /// Directories below the top.
    pub directories: u64,
    /// Symbolic links.
    pub links: Few,
    /// What was refused.
    pub refused: Few,
    /// Files and directories that lost set-ID bits.
    pub set_ids: u64,
    /// ACLs and attributes removed.
    pub attributes: u64,
    /// Why lines are missing from the list, if they are.
    pub cut: Option<String>,
}

/// Gives everything in `dir` to the owner; what is refused goes into `list`, too. For a process with power over every id in the
/// tree.
///
/// # Errors
/// When the directory itself cannot be given.
pub fn give(dir: &OwnedFd, rights: &Rights<'_>, list: Option<&File>) -> Result<Given> {
    let list = ListWriter::new(list);
    let device = fstat(dir).map_err(fail)?.st_dev;
    let mut giving = Giving { rights, device, list, given: Given::default(), began: (0, 0), linked: HashMap::new() };
    // First, so that from here on nobody but the owner reaches what is in it.
    giving.top(dir).map_err(fail)?;
    let again = openat(dir, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    tree::walk(again.map_err(fail)?, &mut giving);
    // Whatever changed it meanwhile.
    fchmod(dir, Mode::S_IRWXU).map_err(fail)?;
    let Giving { list, mut given, linked, .. } = giving;
    if !linked.is_empty() {
        given.refused.add(&format!(
            "{} files have names elsewhere, and belong to ids that other runs have too; left alone",
            linked.len()
        ));
    }
    given.cut = list.end();
    Ok(given)
}

fn fail(e: Errno) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, "cannot give the outputs to the researcher")
        .because(e.desc())
        .hint("the outputs are kept as they are; ask the administrator to look at the directory")
}

struct Giving<'a> {
    rights: &'a Rights<'a>,
    device: u64,
    list: ListWriter,
    given: Given,
    /// The time of the first change that this made.
    began: (i64, i64),
    /// Files with several names, and how many were seen.
    linked: HashMap<u64, u64>,
}

impl Giving<'_> {
    fn top(&mut self, dir: &OwnedFd) -> nix::Result<()> {
        let stat = fstat(dir)?;
        fchmod(dir, Mode::S_IRWXU)?;
        let changed = fstat(dir)?;
        self.began = (changed.st_ctime, changed.st_ctime_nsec);
        self.owner(dir, &stat)?;
        self.given.attributes += attributes::remove(dir)?.count;
        fchmod(dir, Mode::S_IRWXU)?;
        self.rights.quotas.iter().for_each(|kept| kept.release(dir));
        Ok(())
    }

    fn owner(&self, file: impl AsFd, stat: &FileStat) -> nix::Result<()> {
        let owner = self.rights.owner;
        if (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid) {
            return Ok(());
        }
        fchownat(file, c"", Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)), AtFlags::AT_EMPTY_PATH)
    }

    /// Mode, owner and attributes of a file or directory; gives a directory, and what a quota has to
    /// leave out, open for reading.
    fn settle(&mut self, held: &OwnedFd, stat: &FileStat, least: u32, flags: OFlag) -> nix::Result<Option<OwnedFd>> {
        let itself = format!("/proc/self/fd/{}", held.as_raw_fd());
        let mode = stat.st_mode & 0o777 | least;
        if stat.st_mode & 0o7777 != mode {
            fchmodat(AT_FDCWD, itself.as_str(), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
        }
        if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            self.given.set_ids += 1;
        }
        self.owner(held, stat)?;
        let removed = attributes::remove(held)?;
        self.given.attributes += removed.count;
        if removed.acl {
            let mode = Mode::from_bits_truncate(mode & 0o707);
            fchmodat(AT_FDCWD, itself.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if self.rights.quotas.is_empty() && !flags.contains(OFlag::O_DIRECTORY) {
            return Ok(None);
        }
        // What was looked at, under whatever name; of that type, so that opening does nothing else.
        let open = openat(AT_FDCWD, itself.as_str(), flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        self.rights.quotas.iter().for_each(|kept| kept.release(&open));
        Ok(Some(open))
    }

    fn refuse(&mut self, at: At<'_>, why: &str) {
        self.given.refused.add(&format!("{}: {why}", text::neutral_bytes(at.path)));
        self.list.add(&Line::refused(at.path, why));
    }

    /// Whether this is the last of a file's names, and none of them lies outside the tree. Each name is seen once; what was
    /// named, renamed or linked since the walk began has a later time of change (inode(7)), and is not counted on.
    fn is_whole(&mut self, stat: &FileStat) -> Links {
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        if changed >= self.began || (self.linked.len() >= LINKED && !self.linked.contains_key(&stat.st_ino)) {
            return Links::Unknown;
        }
        let seen = self.linked.entry(stat.st_ino).or_insert(0);
        *seen += 1;
        if *seen < stat.st_nlink {
            return Links::More;
        }
        self.linked.remove(&stat.st_ino);
        Links::All
    }
}

enum Links {
    All,
    More,
    Unknown,
}

impl Visitor for Giving<'_> {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
        let (held, stat) = same_mount::hold(dir, name)?;
        if !(self.rights.ids)(stat.st_uid) {
            self.refuse(at, &format!("belongs to uid {}, not to the run; left alone", stat.st_uid));
            return Ok(None);
        }
        if stat.st_dev != self.device {
            self.refuse(at, "is on another file system; left alone");
            return Ok(None);
        }
        let kind = stat.st_mode & libc::S_IFMT;
        let linked = stat.st_nlink > 1 && self.rights.shared && stat.st_uid != self.rights.owner.uid;
        if linked && matches!(kind, libc::S_IFREG | libc::S_IFLNK) {
            match self.is_whole(&stat) {
                Links::All => {}
                Links::More => return Ok(None),
                Links::Unknown => {
                    self.refuse(at, "has other names, and belongs to an id that other runs have too; left alone");
                    return Ok(None);
                }
            }
        }
        match kind {
            libc::S_IFDIR => {
                let open = self.settle(&held, &stat, 0o700, OFlag::O_DIRECTORY)?;
                self.given.directories += 1;
                return Ok(open);
            }
            libc::S_IFREG => {
                self.settle(&held, &stat, 0o600, OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                self.given.files += 1;
                self.given.bytes = self.given.bytes.saturating_add(size);
                self.given.disk = self.given.disk.saturating_add(disk);
                self.given.data = self.given.data.saturating_add(size.min(disk));
            }
            libc::S_IFLNK => {
                self.owner(&held, &stat)?;
                let target = readlinkat(&held, c"")?;
                let shown = text::neutral_bytes(target.as_encoded_bytes());
                self.given.links.add(&format!("{} -> {shown}", text::neutral_bytes(at.path)));
            }
            kind => {
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
                let what = match kind {
                    libc::S_IFIFO => "a fifo",
                    libc::S_IFSOCK => "a socket",
                    _ => "a device",
                };
                self.refuse(at, &format!("{what}, removed"));
            }
        }
        Ok(None)
    }

    fn failed(&mut self, at: At<'_>, error: Errno) {
        // Gone meanwhile: then it is no output.
        if error != Errno::ENOENT {
            self.refuse(at, &format!("could not be given to the researcher ({})", same_mount::why(error)));
        }
    }
}

/// Whether everything in the directory `dir`, and itself, is `owner`'s already and theirs to read: then [`give`] needs no more
/// power than theirs. What cannot be seen counts as not.
pub fn all_of(dir: &OwnedFd, owner: &HostIds) -> bool {
    let mut theirs = Theirs { owner, all: true };
    if !fstat(dir).is_ok_and(|stat| theirs.is(&stat)) {
        return false;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat(dir, c".", flags, Mode::empty()) {
        Ok(top) => tree::walk(top, &mut theirs),
        Err(_) => return false,
    }
    theirs.all
}

struct Theirs<'a> {
    owner: &'a HostIds,
    all: bool,
}

impl Theirs<'_> {
    fn is(&self, stat: &FileStat) -> bool {
        let needed = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => 0o700,
            libc::S_IFREG => 0o400,
            _ => 0,
        };
        (stat.st_uid, stat.st_gid) == (self.owner.uid, self.owner.gid) && stat.st_mode & needed == needed
    }
}

impl Visitor for Theirs<'_> {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, _: At<'_>) -> nix::Result<Option<OwnedFd>> {
        let stat = same_mount::look(dir, name)?;
        self.all &= self.is(&stat);
        if stat.st_mode & libc::S_IFMT != libc::S_IFDIR || !self.all {
            return Ok(None);
        }
        same_mount::open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map(Some)
    }

    fn failed(&mut self, _: At<'_>, error: Errno) {
        self.all &= error == Errno::ENOENT;
    }

    fn is_over(&self) -> bool {
        !self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn me() -> HostIds {
        HostIds { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw(), groups: vec![] }
    }

    fn mode(path: &std::path::Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn given(dir: &std::path::Path, ids: &dyn Fn(u32) -> bool) -> Given {
        let rights = Rights { owner: &me(), ids, shared: true, quotas: &[] };
        give(&File::open(dir).unwrap().into(), &rights, None).unwrap()
    }

    #[test]
    fn links_stay_text_fifos_go_and_setuid_is_stripped() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("table.csv"), "1,2\n").unwrap();
        std::fs::write(at("tool"), "x").unwrap();
        mode(&at("tool"), 0o4755);
        symlink("/etc/shadow", at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(given(dir.path(), &|_| false).refused.lines().len(), 4);
        mode(dir.path(), 0o2777);
        let outputs = given(dir.path(), &|uid| uid == me().uid);
        assert_eq!((outputs.files, outputs.bytes, outputs.set_ids), (2, 5, 1));
        assert_eq!(outputs.links.lines(), ["link -> /etc/shadow"]);
        assert_eq!(outputs.refused.lines(), ["pipe: a fifo, removed"]);
        assert!(!at("pipe").exists());
        assert_eq!(std::fs::metadata(at("tool")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_file_of_a_shared_id_with_a_name_elsewhere_is_left_alone() {
        // Only root can make what is somebody else's.
        if me().uid != 0 {
            return;
        }
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        for name in ["twice", "outside"] {
            std::fs::write(at(name), "x").unwrap();
            std::os::unix::fs::chown(at(name), Some(4_000_000), Some(4_000_000)).unwrap();
        }
        std::fs::hard_link(at("twice"), at("again")).unwrap();
        std::fs::hard_link(at("outside"), elsewhere.path().join("other")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let outputs = given(dir.path(), &|_| true);
        let owner = |name: &str| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(at(name)).unwrap());
        assert_eq!((owner("twice"), owner("outside")), (0, 4_000_000));
        assert!(outputs.refused.lines().concat().contains("names elsewhere"), "{outputs:?}");
    }

    #[test]
    fn what_is_not_all_of_one_owner_or_not_theirs_to_read_needs_more_power() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let all = || all_of(&File::open(dir.path()).unwrap().into(), &me());
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/table.csv"), "1,2\n").unwrap();
        symlink("/etc/shadow", at("a/link")).unwrap();
        assert!(all());
        assert!(!all_of(&File::open(dir.path()).unwrap().into(), &HostIds { gid: me().gid + 1, ..me() }));
        for (name, less, enough) in [("a/b/table.csv", 0o200, 0o400), ("a/b", 0o500, 0o700)] {
            mode(&at(name), less);
            assert!(!all());
            mode(&at(name), enough);
        }
        assert!(all());
        if me().uid == 0 {
            std::os::unix::fs::lchown(at("a/link"), Some(1), None).unwrap();
            assert!(!all());
        }
    }
}
