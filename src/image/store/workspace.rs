//! Written aside, renamed in.
//!
//! Takes nothing; gives an empty directory below `tmp/` in which a layer is unpacked, and puts it in its place.
//! Trusts the store's own directory.
//! Refuses nothing; what is not published is removed, whatever happens.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use super::layer::{LISTING, LayerRecord, PinnedLayer, digest_of};
use super::{Store, full, list, sync_directory, write_json};
use crate::error::Result;
use crate::host::privilege::as_root;
use crate::image::unpack::parent::Unpacker;

/// A directory in the making.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    unpacker: Unpacker,
    /// Held as long as someone works here, and passed on with the directory.
    lock: Option<File>,
}

impl Store {
    /// An empty directory for a layer, its `fs/` owned by the image's root.
    pub(crate) fn workspace(&self, unpacker: &Unpacker) -> Result<Workspace> {
        as_root(|_| {
            let fail = |e: std::io::Error| {
                full(self.error("cannot make a directory"), self.root(), "a few inodes and blocks", &e)
            };
            // Under the lock, so that nobody takes it for something that a crash has left.
            let held = self.shared()?;
            let path =
                tempfile::Builder::new().prefix("layer-").tempdir_in(self.root().join("tmp")).map_err(fail)?.keep();
            let lock = File::open(&path).map_err(fail)?;
            lock.lock_shared().map_err(fail)?;
            drop(held);
            let workspace = Workspace { path, unpacker: unpacker.clone(), lock: Some(lock) };
            let fs = workspace.fs();
            DirBuilder::new().mode(0o755).create(&fs).map_err(fail)?;
            // Whatever the umask.
            fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(fail)?;
            chown(&fs, unpacker.ids().uid_outside(0), unpacker.ids().gid_outside(0)).map_err(fail)?;
            Ok(workspace)
        })
    }

    /// Puts a whole layer in its place; if another process was faster, that one's is taken.
    pub(crate) fn publish(&self, mut workspace: Workspace, mut record: LayerRecord) -> Result<PinnedLayer> {
        as_root(|_| {
            record.tree = Some(digest_of(&workspace.listing())?);
            write_json(&workspace.path, &workspace.path.join("layer.json"), &record)?;
            sync_directory(&workspace.path)?;
            let target = self.layer_path(&record.key);
            let parent = target.parent().unwrap_or(&target).to_owned();
            fs::create_dir_all(&parent).map_err(|e| self.error("cannot make a directory").because(e))?;
            // At most once around: what is there is either good, or is moved out of the way.
            for _ in 0..2 {
                match fs::rename(&workspace.path, &target) {
                    Ok(()) => {
                        sync_directory(&parent)?;
                        if let Some(lock) = workspace.lock.take() {
                            return Ok(PinnedLayer::new(&target, record, lock));
                        }
                    }
                    Err(e) if matches!(e.raw_os_error(), Some(nix::libc::ENOTEMPTY | nix::libc::EEXIST)) => {
                        if let Some(there) = self.pin_layer(&record.key, &record.diff_id)? {
                            return Ok(there);
                        }
                        let held = self.exclusive()?;
                        self.set_aside(&held, &target)?;
                    }
                    Err(e) => return Err(self.error("cannot put a layer in its place").because(e)),
                }
            }
            Err(self
                .error("cannot put a layer in its place")
                .because("another process puts the same layer there again and again"))
        })
    }
}

impl Workspace {
    /// The layer's tree in the making.
    pub(crate) fn fs(&self) -> PathBuf {
        self.path.join("fs")
    }

    /// Where the tree is listed.
    pub(crate) fn listing(&self) -> PathBuf {
        self.path.join(LISTING)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        as_root(|_| {
            if self.lock.is_some() {
                // What cannot be removed now is removed by the next prune; there is nobody to tell.
                discard(&self.path, &self.unpacker).ok();
            }
        })
    }
}

/// Deletes a directory below `tmp/`; the tree in it by a child, to whose ids its files may belong.
pub(crate) fn discard(path: &Path, unpacker: &Unpacker) -> Result<()> {
    // Trees: a layer's own, and those on top of an image.
    for name in list(path).unwrap_or_default() {
        let of_trees = name == "fs" || name.starts_with("own-");
        // An empty one may be root's still: killed before it was given to the image's root.
        if of_trees && path.join(&name).is_dir() && fs::remove_dir(path.join(&name)).is_err() {
            unpacker.remove(&path.join(name))?;
        }
    }
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|e| {
        crate::error::Error::new(
            crate::error::Stage::Store,
            crate::error::Kind::Failed,
            format!("cannot remove {}", path.display()),
        )
        .because(e)
    })
}
