//! The init layer: every mount point laid as a real directory or empty file over the image.
//!
//! Takes the mounted overlay and the destinations; gives each destination as it really is; trusts the kernel's
//! `openat2`; refuses a destination that the image leads into another mount.
//!
//! The engine makes missing mount points itself, by name, in a tree that the image wrote. Here it finds them made, with
//! no symbolic link on the way (HAZARDS: mount point races, CVE-2019-16884, CVE-2021-30465, CVE-2023-27561).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::error::{Error, Kind, Result, Stage};
use crate::text;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// Directories of the container that the kernel's or ces's own file systems cover; nothing else may end up in them.
const COVERED: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Lays `destination` (absolute) in the tree at `rootfs`; gives its path with every symbolic link resolved.
///
/// # Errors
/// When the image leads the destination into `/proc`, `/sys` or `/dev`, or a parent is no directory.
pub fn lay(rootfs: &Path, destination: &Path, shape: Shape) -> Result<PathBuf> {
    let relative = plain(destination)?;
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(refused(destination, "the root directory cannot be a mount point"));
    };
    let parent = directory(rootfs, parent).map_err(|e| {
        Error::new(Stage::Bundle, Kind::Hostile, format!("cannot make the mount point {}", shown(destination)))
            .because(e.desc())
            .hint("a parent of it is not a directory in the image")
    })?;
    let real = real_path(rootfs, &parent, destination)?.join(name);
    let covered = |path: &Path| COVERED.iter().any(|top| path.starts_with(top));
    if covered(&real) && !covered(destination) {
        return Err(refused(destination, &format!("the image leads it to {}", shown(&real))));
    }
    let found = fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map(|stat| SFlag::from_bits_truncate(stat.st_mode & libc::S_IFMT));
    match (shape, found) {
        (Shape::Directory, Ok(SFlag::S_IFDIR)) | (Shape::File, Ok(SFlag::S_IFREG)) => return Ok(real),
        (Shape::File, Ok(SFlag::S_IFDIR)) => {
            return Err(refused(destination, "it is a directory in the image, and a file is to be mounted there"));
        }
        (_, Ok(_)) => {
            unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir).map_err(|e| fail(destination).because(e.desc()))?
        }
        (_, Err(nix::Error::ENOENT)) => {}
        (_, Err(e)) => return Err(fail(destination).because(e.desc())),
    }
    match shape {
        Shape::Directory => mkdirat(&parent, name, Mode::from_bits_truncate(0o755)),
        Shape::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
    }
    .map_err(|e| fail(destination).because(e.desc()))?;
    Ok(real)
}

/// Checks that the image does not lead `asked` into another of the mounts, where its mount point would be made in what is
/// bound there: the project's data, say.
///
/// # Errors
/// When it does.
pub fn apart(asked: &Path, real: &Path, mounts: &[PathBuf]) -> Result<()> {
    let led_into = |other: &&PathBuf| *other != asked && real.starts_with(other) && !asked.starts_with(other);
    match mounts.iter().find(led_into) {
        Some(_) => Err(refused(asked, &format!("the image leads it to {}", shown(real)))),
        None => Ok(()),
    }
}

/// Makes the working directory where the image lacks it (as podman does), for `owner`, a user and a group.
///
/// # Errors
/// When it leads into `/proc`, `/sys` or `/dev` (CVE-2024-21626), or is no directory.
pub fn working_directory(rootfs: &Path, cwd: &Path, owner: (u32, u32)) -> Result<()> {
    let relative = plain(cwd)?;
    if relative.as_os_str().is_empty() {
        return Ok(());
    }
    let made = directory_of(rootfs, &relative, Some(owner)).map_err(|e| {
        Error::new(Stage::Bundle, Kind::Failed, format!("cannot use the working directory {}", shown(cwd)))
            .because(e.desc())
            .hint("choose another one with --workdir")
    })?;
    let real = real_path(rootfs, &made, cwd)?;
    if COVERED.iter().any(|top| real.starts_with(top)) {
        return Err(refused(cwd, &format!("as a working directory it leads to {}", shown(&real))));
    }
    Ok(())
}

/// Makes a `VOLUME` of the image where the image lacks it, as other engines do: a directory of the throw-away layer. What is
/// there stays as it is, and a path that is no plain absolute one is left alone.
///
/// # Errors
/// When there is no room for it.
pub fn volume(rootfs: &Path, path: &Path) -> Result<()> {
    let Ok(relative) = plain(path) else { return Ok(()) };
    if !path.is_absolute() || COVERED.iter().any(|top| path.starts_with(top)) {
        return Ok(());
    }
    match directory(rootfs, &relative) {
        Ok(_) | Err(nix::Error::ENOTDIR | nix::Error::ELOOP | nix::Error::ENAMETOOLONG) => Ok(()),
        Err(e) => Err(fail(path).because(e.desc())),
    }
}

/// Checks, after everything is laid, that no component of `destination` is a symbolic link; gives what it is.
///
/// # Errors
/// When one is.
pub fn verify(rootfs: &Path, destination: &Path) -> Result<OwnedFd> {
    let root = File::open(rootfs).map_err(|e| fail(destination).because(e))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&root, &plain(destination)?, how).map_err(|e| refused(destination, e.desc()))
}

/// The directory `path` (relative) of the tree, made where it is missing. Symbolic links are followed by the kernel, with
/// the tree as their root: none leads out (openat2(2), RESOLVE_IN_ROOT).
fn directory(rootfs: &Path, path: &Path) -> nix::Result<OwnedFd> {
    directory_of(rootfs, path, None)
}

/// The same, where what is made belongs to `owner`, or to the container's root.
fn directory_of(rootfs: &Path, path: &Path, owner: Option<(u32, u32)>) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(rootfs, flags, Mode::empty())?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    if path.as_os_str().is_empty() {
        return Ok(root);
    }
    match openat2(&root, path, how) {
        Err(nix::Error::ENOENT) => {}
        other => return other,
    }
    let mut so_far = PathBuf::new();
    for name in path.components() {
        let parent = if so_far.as_os_str().is_empty() {
            root.try_clone().map_err(|_| nix::Error::EMFILE)?
        } else {
            openat2(&root, &so_far, how)?
        };
        so_far.push(name);
        match mkdirat(&parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                if let Some((uid, gid)) = owner {
                    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                    fchownat(&parent, name.as_os_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                }
            }
            // A directory, or a link: the next step finds out.
            Err(nix::Error::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    openat2(&root, path, how)
}

/// `path` without its leading slash; refused when it holds `..`.
fn plain(path: &Path) -> Result<PathBuf> {
    path.components()
        .filter(|c| !matches!(c, Component::RootDir | Component::CurDir))
        .map(|c| match c {
            Component::Normal(name) => Ok(name),
            _ => Err(refused(path, "the path holds \"..\"")),
        })
        .collect()
}

/// The path of `dir` as the container will see it.
fn real_path(rootfs: &Path, dir: &OwnedFd, asked: &Path) -> Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let link = nix::fcntl::readlinkat(AT_FDCWD, format!("/proc/self/fd/{}", dir.as_raw_fd()).as_str())
        .map_err(|e| fail(asked).because(e.desc()))?;
    let inside = Path::new(&link).strip_prefix(rootfs).map_err(|_| refused(asked, "it leads out of the image"))?;
    Ok(Path::new("/").join(inside))
}

fn shown(path: &Path) -> String {
    text::neutral_bytes(path.as_os_str().as_encoded_bytes())
}

fn fail(path: &Path) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, format!("cannot prepare {} in the container", shown(path)))
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(Stage::Bundle, Kind::Hostile, format!("refused {} in the container", shown(path)))
        .because(why)
        .hint("the image is malformed or hostile; nothing was run")
}
