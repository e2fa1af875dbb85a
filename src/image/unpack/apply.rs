//! Actions on the new layer's directory.
//!
//! Takes `Action`s and the archive's data; gives a directory that is what the layer says, and the report about it.
//! Trusts the plan (names are clean) and that nobody else writes below the root.
//! Refuses hard links to nothing or to directories, and more open questions than a report can hold.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fchmod, fstat, futimens, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::holes::Sparse;
use super::listing::{self, Content, Contents};
use super::plan::{Action, Decision, Meta, Parts};
use super::protocol::{Fault, FaultKind, NOTES_MAX, Omitted, Open, RawPath, RootMeta};
use super::tarstream::{Bytes, TarStream};
use super::tree::{self, Dir, Made, Tree};
use super::{remove, xattrs};
use crate::host::sys;

/// Files of this size start on their way to disk when they are written: then the end has less to wait for.
const WRITEBACK_FROM: u64 = 1 << 20;

/// What came of applying a layer.
#[derive(Debug, Clone)]
pub struct Applied {
    /// What was left out, by rule.
    pub omitted: Omitted,
    /// What the layers below decide.
    pub open: Open,
    /// The root directory's metadata, if the layer lists it.
    pub root: Option<RootMeta>,
    /// Bytes of file contents written.
    pub file_bytes: u64,
}

/// The directory of a layer in the making.
#[derive(Debug)]
pub struct Applier {
    tree: Tree,
    has_base: bool,
    implied: BTreeSet<Parts>,
    links: Vec<(Parts, Parts)>,
    omitted: Omitted,
    file_bytes: u64,
    root: Option<RootMeta>,
    contents: Contents,
    /// Whether files get attributes from the directory they are made in (access lists, a file system's own).
    inherited: bool,
    /// Names hidden by this layer, the first [`NOTES_MAX`] of them: what is tidied up is not worth more memory.
    whiteouts: BTreeSet<Parts>,
}

impl Applier {
    /// Works in `tree`; `has_base` tells whether other layers may lie below.
    pub fn new(tree: Tree, has_base: bool) -> Self {
        Self {
            // What cannot be read is taken for there.
            inherited: listing::attributes(tree.root()).map_or(true, |found| found != "-"),
            tree,
            has_base,
            implied: BTreeSet::new(),
            links: Vec::new(),
            omitted: Omitted::default(),
            file_bytes: 0,
            root: None,
            contents: Contents::new(),
            whiteouts: BTreeSet::new(),
        }
    }

    /// Does what was decided; a file's data comes from `archive`.
    ///
    /// # Errors
    /// When the layer asks for the impossible, or the file system fails.
    pub fn apply<B: Bytes>(&mut self, decision: Decision, archive: &mut TarStream<B>) -> Result<(), Fault> {
        self.omitted.set_id_bits += u64::from(decision.set_id_bit);
        self.omitted.xattrs += decision.dropped_xattrs;
        self.omitted.unmapped_ids += u64::from(decision.unmapped.is_some());
        match decision.action {
            Action::Directory(path, meta) => self.directory(&path, &meta)?,
            Action::File(path, meta) => self.file(&path, &meta, archive)?,
            Action::Symlink(path, target, meta) => self.symlink(&path, &target, &meta)?,
            Action::Fifo(path, meta) => self.fifo(&path, &meta)?,
            Action::Link(path, target) => self.link(&path, &target)?,
            Action::Whiteout(path) => self.whiteout(&path)?,
            Action::Opaque(path) => {
                let dir = self.tree.directory(&path)?;
                set_opaque(&dir.fd, b"y")?;
            }
            Action::Device => self.omitted.devices += 1,
            Action::Nothing => {}
        }
        for (path, made) in self.tree.take_made() {
            match made {
                Made::Fresh => {
                    if let Some(dir) = self.tree.existing(&path)? {
                        set_opaque(&dir.fd, b"y")?;
                    }
                }
                Made::Implied if self.has_base => {
                    self.implied.insert(path);
                }
                Made::Implied => {}
            }
        }
        if self.implied.len() > NOTES_MAX || self.links.len() > NOTES_MAX {
            return Err(Fault::refused(format!("more than {NOTES_MAX} names that only other layers explain"))
                .hint("build the image with a tool that lists the directories of a layer"));
        }
        Ok(())
    }

    /// Bytes of file contents written so far.
    pub fn written(&self) -> u64 {
        self.file_bytes
    }

    /// Gives directories their times back; tells what came of it, and the digests of what was written.
    ///
    /// # Errors
    /// When a directory cannot have its time.
    pub fn finish(mut self) -> Result<(Applied, Contents), Fault> {
        self.tree.close()?;
        self.drop_needless_whiteouts()?;
        let raw = |path: &Parts| RawPath(tree::join(path));
        let open = Open {
            implied: self.implied.iter().map(raw).collect(),
            links: self.links.iter().map(|(link, target)| (raw(link), raw(target))).collect(),
        };
        let applied = Applied { omitted: self.omitted, open, root: self.root, file_bytes: self.file_bytes };
        Ok((applied, self.contents))
    }

    fn directory(&mut self, path: &[Vec<u8>], meta: &Meta) -> Result<(), Fault> {
        let Some((name, parent)) = split(path) else {
            // The root's time comes last, with `finish`.
            let root = self.tree.root();
            own(root, meta.owner)?;
            fchmod(root, bits(meta.mode)).map_err(|e| Fault::host("set the mode of the root", e))?;
            self.omitted.xattrs += set_xattrs(root, meta)?;
            self.tree.has_time(&[], time(meta));
            let (uid, gid) = meta.owner.unwrap_or_default();
            self.root = Some(RootMeta { mode: meta.mode, uid, gid, mtime: meta.mtime.0 });
            return Ok(());
        };
        let dir = self.tree.directory(parent)?;
        let mut fresh = match mkdirat(&dir.fd, name, bits(meta.mode & 0o1777)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(Fault::host("make a directory", e)),
        };
        let mut opaque = false;
        if !fresh && tree::look(&dir.fd, name.as_bytes())?.is_some_and(|stat| tree::kind(&stat) != SFlag::S_IFDIR) {
            // The layer itself has hidden or replaced the name: nothing of it shines through.
            self.clear(&dir, name)?;
            mkdirat(&dir.fd, name, bits(meta.mode & 0o1777)).map_err(|e| Fault::host("make a directory", e))?;
            (fresh, opaque) = (true, true);
        }
        self.claim(&dir, name);
        let plain = fresh && !opaque && meta.xattrs.is_empty() && meta.mode & 0o6000 == 0 && !dir.inherits;
        if plain {
            own_at(&dir, name, meta)?;
            return set_time_at(&dir, name, meta);
        }
        let fd = tree::open_dir(&dir.fd, name).map_err(|e| Fault::host("open a directory", e))?;
        own(&fd, meta.owner.or(dir.inherits.then_some((0, 0))))?;
        fchmod(&fd, bits(meta.mode)).map_err(|e| Fault::host("set the mode of a directory", e))?;
        self.omitted.xattrs += set_xattrs(&fd, meta)?;
        if opaque {
            set_opaque(&fd, b"y")?;
        }
        futimens(&fd, &time(meta), &time(meta)).map_err(|e| Fault::host("set a directory's times", e))?;
        if !fresh {
            let mut real = dir.real.clone();
            real.push(name.as_bytes().to_vec());
            self.tree.has_time(&real, time(meta));
        }
        Ok(())
    }

    fn file<B: Bytes>(&mut self, path: &[Vec<u8>], meta: &Meta, archive: &mut TarStream<B>) -> Result<(), Fault> {
        let (dir, name) = self.place(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = match openat(&dir.fd, name, flags, bits(meta.mode)) {
            Err(Errno::EEXIST) => {
                self.clear(&dir, name)?;
                openat(&dir.fd, name, flags, bits(meta.mode))
            }
            other => other,
        };
        let file = File::from(fd.map_err(|e| Fault::host("make a file", e))?);
        self.claim(&dir, name);
        let failed =
            |e: std::io::Error| Fault::host("write a file", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        let mut sparse = Sparse::new(&file);
        // While the bytes are at hand: reading them again would cost as much once more.
        let mut content = blake3::Hasher::new();
        loop {
            let piece = archive.data()?;
            if piece.is_empty() {
                break;
            }
            sparse.append(piece).map_err(failed)?;
            content.update(piece);
        }
        let written = sparse.finish().map_err(failed)?;
        self.file_bytes += written;
        let inode = fstat(&file).map_err(|e| Fault::host("look at a file", e))?.st_ino;
        let bare = meta.xattrs.is_empty() && !self.inherited;
        self.contents.insert(inode, Content { digest: content.finalize(), bare });
        if written >= WRITEBACK_FROM {
            sys::start_writeback(&file);
        }
        if dir.inherits || meta.owner.is_some_and(|owner| owner != (0, 0)) {
            own(&file, meta.owner.or(Some((0, 0))))?;
        }
        if !meta.xattrs.is_empty() {
            self.omitted.xattrs += set_xattrs(&file, meta)?;
        }
        futimens(&file, &time(meta), &time(meta)).map_err(|e| Fault::host("set a file's times", e))
    }

    fn symlink(&mut self, path: &[Vec<u8>], target: &[u8], meta: &Meta) -> Result<(), Fault> {
        let (dir, name) = self.place(path)?;
        self.make(&dir, name, "make a symbolic link", || symlinkat(OsStr::from_bytes(target), &dir.fd, name))?;
        own_at(&dir, name, meta)?;
        set_time_at(&dir, name, meta)
    }

    fn fifo(&mut self, path: &[Vec<u8>], meta: &Meta) -> Result<(), Fault> {
        let (dir, name) = self.place(path)?;
        self.make(&dir, name, "make a named pipe", || mkfifoat(&dir.fd, name, bits(meta.mode)))?;
        own_at(&dir, name, meta)?;
        set_time_at(&dir, name, meta)
    }

    /// Another name for a file; the header's other fields say nothing about a link.
    fn link(&mut self, path: &[Vec<u8>], target: &[Vec<u8>]) -> Result<(), Fault> {
        let (dir, name) = self.place(path)?;
        let Some((target_name, target_parent)) = split(target) else {
            return Err(Fault::refused("a hard link to the root directory"));
        };
        let found = match self.tree.existing(target_parent)? {
            Some(from) => tree::look(&from.fd, target_name.as_bytes())?.map(|stat| (from, stat)),
            None => None,
        };
        let Some((from, stat)) = found.filter(|(_, stat)| !tree::is_whiteout(stat)) else {
            if !self.has_base {
                return Err(Fault::refused(format!(
                    "a hard link to \"{}\", which is not there",
                    crate::text::neutral_bytes(&tree::join(target))
                )));
            }
            self.clear(&dir, name)?;
            self.claim(&dir, name);
            let mut link = dir.real.clone();
            link.push(name.as_bytes().to_vec());
            self.links.push((link, target.to_vec()));
            return Ok(());
        };
        if tree::kind(&stat) == SFlag::S_IFDIR {
            return Err(Fault::refused("a hard link to a directory"));
        }
        let existing = tree::look(&dir.fd, name.as_bytes())?;
        if existing.is_some_and(|existing| (existing.st_dev, existing.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is another name of that link.
        let linked = self
            .make(&dir, name, "make a hard link", || linkat(&from.fd, target_name, &dir.fd, name, AtFlags::empty()));
        linked.map_err(
            |fault| if fault.kind == FaultKind::Host { Fault { kind: FaultKind::Refused, ..fault } } else { fault },
        )
    }

    /// Hides a name of the layers below; what this layer itself has under the name stays (image-spec, "Whiteouts").
    fn whiteout(&mut self, path: &[Vec<u8>]) -> Result<(), Fault> {
        let (dir, name) = self.place(path)?;
        match tree::look(&dir.fd, name.as_bytes())? {
            None => {
                if self.links.iter().any(|(link, _)| link.split_last() == Some((&name.as_bytes().to_vec(), &dir.real)))
                {
                    return Ok(());
                }
                self.hide(&dir, name)
            }
            Some(stat) if tree::kind(&stat) == SFlag::S_IFDIR && self.only_hides(&below(&dir, name)) => {
                self.clear(&dir, name)?;
                self.hide(&dir, name)
            }
            Some(stat) if tree::kind(&stat) == SFlag::S_IFDIR => {
                let fd = tree::open_dir(&dir.fd, name).map_err(|e| Fault::host("open a directory", e))?;
                // The one below is gone, and so is what it was.
                self.claim(&dir, name);
                set_opaque(&fd, b"y")
            }
            Some(_) => Ok(()),
        }
    }

    fn hide(&mut self, dir: &Dir, name: &OsStr) -> Result<(), Fault> {
        if self.whiteouts.len() < NOTES_MAX {
            self.whiteouts.insert(below(dir, name));
        }
        make_whiteout(&dir.fd, name)
    }

    /// Whether the layer has the directory `path` only for what it hides in it.
    fn only_hides(&self, path: &Parts) -> bool {
        if !self.implied.contains(path) {
            return false;
        }
        let Ok(fd) = tree::open_plain(self.tree.root(), &tree::join(path)) else { return false };
        remove::names(&fd).is_ok_and(|names| {
            names.into_iter().all(|name| {
                let mut entry = path.clone();
                entry.push(name);
                self.whiteouts.contains(&entry) || self.only_hides(&entry)
            })
        })
    }

    /// Removes whiteouts in what hides everything below anyway: overlayfs lists such directories as they are, with the
    /// whiteouts in them.
    fn drop_needless_whiteouts(&self) -> Result<(), Fault> {
        let fail = |e| Fault::host("remove a whiteout", e);
        for path in &self.whiteouts {
            let Some((name, parent)) = split(path) else { continue };
            let opaque = |length| {
                let prefix = parent.get(..length).unwrap_or_default();
                tree::open_plain(self.tree.root(), &tree::join(prefix))
                    .is_ok_and(|fd| xattrs::is_opaque(&fd).unwrap_or(false))
            };
            if !(0..=parent.len()).any(opaque) {
                continue;
            }
            let Ok(fd) = tree::open_plain(self.tree.root(), &tree::join(parent)) else { continue };
            if tree::look(&fd, name.as_bytes())?.is_some_and(|stat| tree::is_whiteout(&stat)) {
                let before = fstat(&fd).map_err(fail)?;
                unlinkat(&fd, name, UnlinkatFlags::NoRemoveDir).map_err(fail)?;
                let mtime = TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
                futimens(&fd, &mtime, &mtime).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// The directory that a path's last part goes into.
    fn place<'a>(&mut self, path: &'a [Vec<u8>]) -> Result<(Rc<Dir>, &'a OsStr), Fault> {
        let (name, parent) = split(path).ok_or_else(|| Fault::refused("the root of the image is no such thing"))?;
        Ok((self.tree.directory(parent)?, name))
    }

    /// Makes something, in place of what has the name now.
    fn make(
        &mut self,
        dir: &Rc<Dir>,
        name: &OsStr,
        action: &str,
        make: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Fault> {
        let made = match make() {
            Err(Errno::EEXIST) => {
                self.clear(dir, name)?;
                make()
            }
            other => other,
        };
        made.map_err(|e| Fault::host(action, e))?;
        self.claim(dir, name);
        Ok(())
    }

    /// The layer says itself what this name is: it no longer asks the layers below.
    fn claim(&mut self, dir: &Dir, name: &OsStr) {
        if self.implied.is_empty() && self.links.is_empty() {
            return;
        }
        let mut path = dir.real.clone();
        path.push(name.as_bytes().to_vec());
        self.implied.remove(&path);
        self.links.retain(|(link, _)| link != &path);
    }

    /// Removes what has this name in the layer: a directory with all that is in it, a link and not its target.
    fn clear(&mut self, dir: &Rc<Dir>, name: &OsStr) -> Result<(), Fault> {
        let Some(stat) = tree::look(&dir.fd, name.as_bytes())? else { return Ok(()) };
        let kind = tree::kind(&stat);
        if kind == SFlag::S_IFDIR {
            let mut below = dir.real.clone();
            below.push(name.as_bytes().to_vec());
            self.implied.retain(|path| !path.starts_with(&below));
            self.links.retain(|(link, _)| !link.starts_with(&below));
            remove::remove_tree(&dir.fd, name)?;
        } else {
            unlinkat(&dir.fd, name, UnlinkatFlags::NoRemoveDir).map_err(|e| Fault::host("replace a file", e))?;
        }
        if matches!(kind, SFlag::S_IFDIR | SFlag::S_IFLNK) {
            // A name that led through it leads elsewhere now.
            self.tree.close_others(dir)?;
        }
        Ok(())
    }
}

fn below(dir: &Dir, name: &OsStr) -> Parts {
    let mut path = dir.real.clone();
    path.push(name.as_bytes().to_vec());
    path
}

/// Makes the name vanish from the layers below: a character device 0:0, which user namespaces may make since Linux 5.8.
///
/// The other form that overlayfs knows, an empty file with attributes, takes Linux 6.7 and so helps no older kernel.
fn make_whiteout(dir: impl AsFd, name: &OsStr) -> Result<(), Fault> {
    mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|e| {
        let fault = Fault::host("make a whiteout (character device 0:0)", e);
        match e {
            Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::ENOSYS => fault.hint(
                "the image hides files of its own layers; user namespaces may do so since Linux 5.8, unless a seccomp filter, \
                 a security module or the store's file system forbids it; nothing of it was kept",
            ),
            _ => fault,
        }
    })
}

fn set_opaque(dir: impl AsFd, value: &[u8]) -> Result<(), Fault> {
    match xattrs::set(dir, xattrs::OPAQUE.as_bytes(), value) {
        Ok(true) => Ok(()),
        Ok(false) => Err(no_xattrs()),
        Err(e) => Err(Fault::host("mark a directory as opaque", e)),
    }
}

fn no_xattrs() -> Fault {
    Fault::new(FaultKind::Host, "the store's file system has no extended attributes (user.*), which layers need")
        .hint("put the store on a local file system such as ext4 or xfs, with --root or CES_ROOT")
}

fn set_xattrs(file: impl AsFd, meta: &Meta) -> Result<u64, Fault> {
    let mut lost = 0;
    for (name, value) in &meta.xattrs {
        let kept = xattrs::set(&file, name, value).map_err(|e| Fault::host("set an extended attribute", e))?;
        lost += u64::from(!kept);
    }
    Ok(lost)
}

fn own(file: impl AsFd, owner: Option<(u32, u32)>) -> Result<(), Fault> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(|e| Fault::host("set an owner", e))
}

fn own_at(dir: &Dir, name: &OsStr, meta: &Meta) -> Result<(), Fault> {
    let Some((uid, gid)) = meta.owner.filter(|owner| *owner != (0, 0)).or(dir.inherits.then_some((0, 0))) else {
        return Ok(());
    };
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    fchownat(&dir.fd, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| Fault::host("set an owner", e))
}

fn set_time_at(dir: &Dir, name: &OsStr, meta: &Meta) -> Result<(), Fault> {
    utimensat(&dir.fd, name, &time(meta), &time(meta), UtimensatFlags::NoFollowSymlink)
        .map_err(|e| Fault::host("set a file's times", e))
}

fn time(meta: &Meta) -> TimeSpec {
    TimeSpec::new(meta.mtime.0, i64::from(meta.mtime.1))
}

fn bits(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

fn split(path: &[Vec<u8>]) -> Option<(&OsStr, &[Vec<u8>])> {
    path.split_last().map(|(name, parent)| (OsStr::from_bytes(name), parent))
}
