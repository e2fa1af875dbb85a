//! The root file system: an overlay of the image's layers, and the init layer over it.
//!
//! Takes layers, a throw-away directory and the binds; gives mounts below a private tmpfs, the *stage*; trusts the
//! store and the kernel; refuses a mount point that the image leads elsewhere.
//!
//! All of this happens in the stage process, in a mount namespace of its own: nothing is ever mounted on the host, and
//! nothing of the host's file system is reachable afterwards. What the stage process sees:
//!
//! ```text
//! /proc /sys /dev     the host's, bound
//! /l/0 /l/1 …         the layers, base first; idmapped where disk and container number users differently
//! /w/{upper,work}     the throw-away upper directory of the overlay
//! /rootfs             the overlay
//! /b/0 /b/1 …         what is bound into the container: data, outputs, scratch, …; opened as the researcher
//! /nothing            an empty directory, to mask others
//! /bundle /state      the engine's spec and state
//! ```

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::place::Inode;
use crate::host::privilege::acting_as;
use crate::host::sys::{self, MountChange};

/// Where the overlay is, inside the stage.
pub const ROOTFS: &str = "/rootfs";
/// Where what is written over the image goes, inside the stage.
pub const UPPER: &str = "/w/upper";
/// Where the engine's bundle is, inside the stage.
pub const BUNDLE: &str = "/bundle";
/// An empty directory, inside the stage.
const NOTHING: &str = "/nothing";
/// Where the engine keeps its state, inside the stage.
pub const STATE: &str = "/state";

/// What to mount; names are the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The layers' directories, base first.
    pub layers: Vec<PathBuf>,
    /// Mode of the image's root directory.
    pub root_mode: u32,
    /// Owner and group of the image's root directory, as the process that mounts numbers them.
    pub root_owner: (u32, u32),
    /// An empty directory of this run, on a real file system; `upper` and `work` are made in it.
    pub work: PathBuf,
    /// What is bound into the container.
    pub binds: Vec<Bind>,
    /// Host ids of the container's root, who will own the engine's directories; used when privileged.
    pub root_ids: HostIds,
    /// A directory that exists; the stage is mounted over it (in its own mount namespace).
    pub cover: PathBuf,
}

/// One directory or file of the host that the container sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host.
    pub source: PathBuf,
    /// What takes the place of the source, if that is made for this run alone, and is gone with it.
    pub made: Option<Made>,
    /// Which file the source was when it was judged; it must be that still. None: what is there is taken.
    pub judged: Option<Inode>,
    /// Where the container sees it.
    pub destination: PathBuf,
    /// Nothing may be written to it, nor to any mount below it.
    pub read_only: bool,
    /// Programs on it cannot be executed.
    pub no_exec: bool,
    /// Whose file system rights open it.
    pub opened_as: HostIds,
}

/// What is made for one run, in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Made {
    /// A file with this text.
    Text(String),
    /// An empty directory.
    Directory,
}

/// Mounts everything and moves into the stage. Called by the one-threaded stage process in its own mount namespace,
/// `privileged` when that belongs to the host's user namespace.
///
/// # Errors
/// The kernel's, in words that name the object.
pub fn assemble(plan: &Plan, layer_map: Option<BorrowedFd<'_>>, privileged: bool) -> Result<()> {
    // Everything is opened before the stage covers a part of the host's tree.
    let layers: Vec<OwnedFd> = plan.layers.iter().map(|layer| clone_layer(layer, layer_map)).collect::<Result<_>>()?;
    let open = |bind: &Bind| bind.made.is_none().then(|| clone_bind(bind, privileged)).transpose();
    let binds: Vec<Option<(OwnedFd, bool)>> = plan.binds.iter().map(open).collect::<Result<_>>()?;
    let work = clone_tree(&plan.work, true)?;

    let stage = plan.cover.as_path();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("ces"), stage, Some("tmpfs"), flags, Some("mode=0755,size=16m"))
        .map_err(|e| fail("mount the stage", e))?;
    for name in ["proc", "sys", "dev", "l", "w", "b", "rootfs", "bundle", "state"] {
        make_dir(&stage.join(name))?;
    }
    if privileged {
        for name in ["bundle", "state"] {
            std::os::unix::fs::lchown(stage.join(name), Some(plan.root_ids.uid), Some(plan.root_ids.gid))
                .map_err(|e| io("give the engine its directories", e))?;
        }
    }
    for name in ["proc", "sys", "dev"] {
        let bound = clone_tree(&Path::new("/").join(name), true)?;
        attach(&bound, &stage.join(name))?;
    }
    for (number, layer) in layers.iter().enumerate() {
        let at = stage.join("l").join(number.to_string());
        make_dir(&at)?;
        attach(layer, &at)?;
    }
    for (number, (bind, opened)) in plan.binds.iter().zip(&binds).enumerate() {
        let at = stage.join("b").join(number.to_string());
        match (opened, &bind.made) {
            (Some((_, true)), _) | (None, Some(Made::Directory)) => make_dir(&at)?,
            (_, Some(Made::Text(text))) => fs::write(&at, text).map_err(|e| io("make a file", e))?,
            _ => fs::write(&at, "").map_err(|e| io("make a file", e))?,
        }
        match opened {
            Some((tree, _)) => attach(tree, &at)?,
            None => {
                let tree = clone_tree(&at, false)?;
                protect(&tree, bind, privileged)?;
                attach(&tree, &at)?;
            }
        }
    }
    attach(&work, &stage.join("w"))?;
    mount_nothing(&stage.join(NOTHING.trim_start_matches('/')))?;
    enter(stage)?;
    mount_overlay(plan)
}

fn clone_layer(layer: &Path, map: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let tree = clone_tree(layer, true)?;
    let change = MountChange {
        set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_RDONLY,
        idmap: map,
        recursive: true,
    };
    sys::change_mount(tree.as_fd(), &change).map_err(|e| {
        let error = io(&format!("prepare the layer {}", layer.display()), e);
        if map.is_some() {
            error.hint("idmapped layers need kernel 5.19 or newer, and a store on a file system that supports them (ext4, xfs, btrfs)")
        } else {
            error
        }
    })?;
    Ok(tree)
}

fn clone_bind(bind: &Bind, privileged: bool) -> Result<(OwnedFd, bool)> {
    let name = format!("open {} for {}", bind.source.display(), bind.destination.display());
    // What was resolved and judged has no link in it, and is the same file; all else is something else.
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
    let source = acting_as(&bind.opened_as, || openat2(AT_FDCWD, &bind.source, how).map_err(|e| fail(&name, e)))?;
    if let Some(judged) = bind.judged
        && Inode::of(&source).map_err(|e| fail(&name, e))? != judged
    {
        let what = format!("{} is not what it was when the run was decided", bind.source.display());
        return Err(Error::new(Stage::Bundle, Kind::Failed, what)
            .because("another directory or file has been put in its place meanwhile")
            .hint("nothing was run; leave it where it is while a run begins"));
    }
    let kind = nix::sys::stat::fstat(&source).map_err(|e| fail(&name, e))?.st_mode & libc::S_IFMT;
    if kind != libc::S_IFDIR && kind != libc::S_IFREG {
        return Err(Error::new(
            Stage::Bundle,
            Kind::Failed,
            format!("{} is neither a directory nor a file", bind.source.display()),
        ));
    }
    let tree = sys::clone_mount(source.as_fd(), c"", true).map_err(|e| io(&name, e))?;
    protect(&tree, bind, privileged)?;
    Ok((tree, kind == libc::S_IFDIR))
}

/// Gives a tree, and every mount below it, the flags of its bind.
fn protect(tree: &OwnedFd, bind: &Bind, privileged: bool) -> Result<()> {
    let name = format!("protect what is bound at {}", bind.destination.display());
    let mut set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if bind.read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    if bind.no_exec {
        set |= libc::MOUNT_ATTR_NOEXEC;
    }
    let change = |set| sys::change_mount(tree.as_fd(), &MountChange { set, idmap: None, recursive: true });
    change(set).map_err(|e| io(&name, e))?;
    if bind.read_only && privileged {
        // Reading leaves no trace: atime would be a channel out of the container. (A user may not change it.)
        change(libc::MOUNT_ATTR_NOATIME).map_err(|e| io(&name, e))?;
    }
    Ok(())
}

fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let what = format!("open {}", path.display());
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(AT_FDCWD, path, how).map_err(|e| fail(&what, e))?;
    sys::clone_mount(fd.as_fd(), c"", recursive).map_err(|e| io(&what, e))
}

/// Mounts what is bound as `/b/number` also on top of `point`, with all that is mounted below it and the same flags.
///
/// # Errors
/// The kernel's.
pub fn bind_onto(number: usize, point: &OwnedFd) -> Result<()> {
    let source = Path::new("/b").join(number.to_string());
    let tree = clone_tree(&source, true)?;
    sys::attach_mount_onto(tree.as_fd(), point.as_fd()).map_err(|e| io(&format!("bind {}", source.display()), e))
}

/// Covers the directory `point` with an empty one that nobody can write to.
///
/// # Errors
/// The kernel's.
pub fn cover(point: &OwnedFd) -> Result<()> {
    let tree = clone_tree(Path::new(NOTHING), false)?;
    sys::attach_mount_onto(tree.as_fd(), point.as_fd()).map_err(|e| io("mask a directory", e))
}

/// Mounts what masks directories.
fn mount_nothing(at: &Path) -> Result<()> {
    make_dir(at)?;
    let tree = clone_tree(at, false)?;
    let set = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    sys::change_mount(tree.as_fd(), &MountChange { set, idmap: None, recursive: false })
        .map_err(|e| io("protect an empty directory", e))?;
    attach(&tree, at)
}

/// Makes `stage` the root of this mount namespace and forgets the old one.
fn enter(stage: &Path) -> Result<()> {
    nix::unistd::chdir(stage).map_err(|e| fail("enter the stage", e))?;
    // Old root on top of new root, then detach it: pivot_root(2), "pivot_root(".", ".")".
    nix::unistd::pivot_root(".", ".").map_err(|e| fail("enter the stage", e))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|e| fail("leave the host's files", e))?;
    nix::unistd::chdir("/").map_err(|e| fail("enter the stage", e))
}

fn mount_overlay(plan: &Plan) -> Result<()> {
    let layers = plan.layers.len();
    let upper = Path::new(UPPER);
    make_dir(upper)?;
    make_dir(Path::new("/w/work"))?;
    // The merged root directory shows the attributes of the upper-most one: the image's.
    let prepared = fs::set_permissions(upper, fs::Permissions::from_mode(plan.root_mode & 0o1777))
        .and_then(|()| std::os::unix::fs::lchown(upper, Some(plan.root_owner.0), Some(plan.root_owner.1)));
    prepared.map_err(|e| io("prepare the upper directory", e))?;
    if layers == 0 {
        make_dir(Path::new("/l/empty"))?;
    }
    let lower: Vec<String> = (0..layers).rev().map(|n| format!("/l/{n}")).collect();
    let lower = if lower.is_empty() { "/l/empty".to_owned() } else { lower.join(":") };
    // userxattr: what layers say of opaque directories is in user.overlay.*; it also switches redirect_dir and
    // metacopy off. volatile: the upper directory is thrown away, so nothing needs to reach the disk.
    let options = format!("lowerdir={lower},upperdir=/w/upper,workdir=/w/work,userxattr,volatile");
    mount(Some("overlay"), ROOTFS, Some("overlay"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str())).map_err(|e| {
        fail("mount the image's layers as one file system (overlay)", e)
            .hint("overlay needs kernel 5.19 or newer and a store on a local file system with user xattrs: name one with --root or CES_ROOT; ces doctor tells more")
    })?;
    writable(Path::new(ROOTFS))
}

/// Overlayfs that cannot make its work directory, for want of space as a rule, is read-only instead of failing.
fn writable(rootfs: &Path) -> Result<()> {
    let what = "use the image's layers as one file system";
    let found = |path: &Path| nix::sys::statvfs::statvfs(path).map_err(|e| fail(what, e));
    if !found(rootfs)?.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let work = found(Path::new("/w"))?;
    let bytes = work.blocks_available().saturating_mul(work.fragment_size());
    Err(Error::new(Stage::Bundle, Kind::Host, format!("cannot {what}"))
        .because("overlayfs could not make its work directory in the store")
        .because(format!("the store's file system has {bytes} bytes and {} inodes free", work.files_available()))
        .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy"))
}

fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path).map_err(|e| io(&format!("make {}", path.display()), e))
}

fn attach(tree: &OwnedFd, at: &Path) -> Result<()> {
    sys::attach_mount(tree.as_fd(), at).map_err(|e| io(&format!("mount {}", at.display()), e))
}

fn fail(what: &str, e: nix::Error) -> Error {
    io(what, e.into())
}

fn io(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Bundle, Kind::Host, format!("cannot {what}")).because(e)
}
