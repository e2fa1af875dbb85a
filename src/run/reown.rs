//! A layer on top of an image's own in which what belongs to its `USER` belongs to the researcher.
//!
//! Takes an image and an identity; gives the directory of that layer, made once for an image and a user (at the pull, for
//! the image's own `USER`); trusts the store; refuses nothing: where ids need no change there is no such layer.
//!
//! Needed for ordinary users with subordinate ids alone: on disk the image's root is the user and its other users are
//! subordinate ids, but the payload must be the user on the host whoever it is in the image.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::bundle::identity::Identity;
use crate::bundle::rootfs::{Plan, ROOTFS};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::dirs::Dirs;
use crate::host::privilege::Root;
use crate::image::store::StoredImage;
use crate::run::job_id::JobId;
use crate::run::stage::in_child;
use crate::run::supervisor::job;
use crate::run::user_namespace;

/// The image's layers for a run of `identity`, base first.
///
/// # Errors
/// When the layer on top cannot be made.
pub fn layers(root: &Root, dirs: &Dirs, image: &StoredImage, identity: &Identity) -> Result<Vec<PathBuf>> {
    let mut layers: Vec<PathBuf> = image.layers().iter().map(|layer| layer.path().to_path_buf()).collect();
    let Some((uid, gid)) = identity.nested.filter(|_| !identity.container.is_single()) else { return Ok(layers) };
    let own = image.directory().join(format!("own-{uid}-{gid}"));
    if !own.is_dir() {
        make(root, dirs, image, identity, &layers, &own)?;
    }
    layers.push(own);
    Ok(layers)
}

fn make(
    root: &Root,
    dirs: &Dirs,
    image: &StoredImage,
    identity: &Identity,
    layers: &[PathBuf],
    own: &Path,
) -> Result<()> {
    let (uid, gid) = (identity.uid, identity.gid);
    let work = dirs.store.join("work").join(format!("own-{}", JobId::new()?));
    let fail = |what: &str, e: std::io::Error| {
        Error::new(Stage::Store, Kind::Host, format!("cannot {what} {}", work.display()))
            .because(e)
            .hint("check whether the file system of the store is full, or mounted read-only")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&work).map_err(|e| fail("make", e))?;
    let top = image.root();
    let plan = Plan {
        root_mode: top.mode,
        root_owner: identity.for_mounting(top.uid, top.gid)?,
        layers: layers.to_vec(),
        work: work.clone(),
        binds: Vec::new(),
        root_ids: identity.root(),
        cover: work.clone(),
    };
    let made = in_child::in_stage(root, &plan, None, &identity.container, false, || {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(ROOTFS, flags, Mode::empty()).map_err(|e| refused(c".", e))?;
        give(&root, c".", uid, gid)?;
        walk(root, uid, gid)
    });
    let settled = user_namespace::with_ids(root, &identity.container, false, || {
        if made.is_ok()
            && let Err(e) = fs::rename(work.join("upper"), own)
            && !own.is_dir()
        {
            // Where another run was quicker, its layer is as good.
            return Err(fail("keep", e));
        }
        job::remove_work(&work).map(|()| Vec::new())
    });
    made?;
    settled.map(drop)
}

/// Gives the entry `name` of `dir` to root of the container, the researcher, if it is the user's or the group's.
fn give(dir: &OwnedFd, name: &CStr, uid: u32, gid: u32) -> Result<bool> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| refused(name, e))?;
    let user = (uid != 0 && stat.st_uid == uid).then_some(Uid::from_raw(0));
    let group = (gid != 0 && stat.st_gid == gid).then_some(Gid::from_raw(0));
    if user.is_some() || group.is_some() {
        fchownat(dir, name, user, group, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| refused(name, e))?;
    }
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn walk(dir: OwnedFd, uid: u32, gid: u32) -> Result<()> {
    let again = dir.try_clone().map_err(|e| refused(c".", nix::Error::try_from(e).unwrap_or(nix::Error::EIO)))?;
    for entry in Dir::from_fd(dir).map_err(|e| refused(c".", e))?.iter() {
        let entry = entry.map_err(|e| refused(c".", e))?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") && give(&again, name, uid, gid)? {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            walk(openat(again.as_fd(), name, flags, Mode::empty()).map_err(|e| refused(name, e))?, uid, gid)?;
        }
    }
    Ok(())
}

fn refused(name: &CStr, e: nix::Error) -> Error {
    Error::new(Stage::Store, Kind::Host, format!("cannot give {} of the image to you", name.to_string_lossy()))
        .because(e.desc())
}
