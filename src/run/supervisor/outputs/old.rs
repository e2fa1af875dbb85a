//! Outputs: after the container is dead, what is in `/safe_outputs` becomes the researcher's.
//!
//! Takes the outputs directory and the researcher's ids; gives an `Outputs` (names, sizes, SHA-256) for the record;
//! trusts nothing in the tree: every step is by descriptor and follows no link; refuses devices, sockets and fifos
//! (removed and reported) and strips setuid, setgid and sticky bits.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, unlinkat};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::run::removal;
use crate::run::supervisor::quota::Kept;
use crate::text;

/// Deeper trees are reported, not entered: one descriptor a level is held.
const DEPTH: usize = 256;

/// What a run left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Where it is.
    pub path: PathBuf,
    /// Regular files, sorted by name.
    pub files: Vec<OutputFile>,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Symbolic links, kept as text: `name -> target`.
    pub links: Vec<String>,
    /// What was removed or could not be kept, and why.
    pub refused: Vec<String>,
}

/// One file of the outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Path below the outputs directory; bytes that are not UTF-8 or not printable are escaped.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

/// Gives everything in the directory `dir` to `owner` and lists it; `path` is its name, for the list. For a process with
/// power over every id in the tree. What belongs to no id of the run (`ids`) is not the run's, and is left alone; what the run's
/// `quotas` have counted is counted no more.
///
/// # Errors
/// When an entry cannot be given away.
pub fn collect(
    dir: OwnedFd,
    path: &Path,
    owner: &HostIds,
    ids: impl Fn(u32) -> bool,
    quotas: &[Kept],
) -> Result<Outputs> {
    let mut outputs = Outputs { path: path.to_path_buf(), ..Outputs::default() };
    let owner = Owner { uid: Uid::from_raw(owner.uid), gid: Gid::from_raw(owner.gid) };
    let mut walk = Walk { owner, outputs: &mut outputs, ids: &ids, quotas };
    walk.directory(dir, Path::new(""), 0)?;
    outputs.files.sort_by(|a, b| a.path.cmp(&b.path));
    outputs.bytes = outputs.files.iter().map(|f| f.size).sum();
    Ok(outputs)
}

/// Whether everything in the directory `dir`, and itself, is `owner`'s already and theirs to read: then [`collect`] needs no
/// more power than theirs. What cannot be seen, or lies deeper than is entered, counts as not.
pub fn all_of(dir: &OwnedFd, owner: &HostIds) -> bool {
    let theirs = |stat: &FileStat| {
        let needed = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => 0o700,
            libc::S_IFREG => 0o400,
            _ => 0,
        };
        (stat.st_uid, stat.st_gid) == (owner.uid, owner.gid) && stat.st_mode & needed == needed
    };
    fstat(dir).is_ok_and(|stat| theirs(&stat)) && all_below(dir, &theirs, 0).unwrap_or(false)
}

fn all_below(dir: &OwnedFd, theirs: &dyn Fn(&FileStat) -> bool, depth: usize) -> nix::Result<bool> {
    for entry in Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if !theirs(&stat) {
            return Ok(false);
        }
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            && (depth >= DEPTH || !all_below(&removal::open(dir, name, removal::ALL)?, theirs, depth + 1)?)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists and hashes without changing anything: for `ces verify`.
///
/// # Errors
/// When the directory cannot be read.
pub fn survey(path: &Path) -> Result<Outputs> {
    let mut outputs = Outputs { path: path.to_path_buf(), ..Outputs::default() };
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in std::fs::read_dir(path.join(&below)).map_err(|e| fail_io(path, &e))? {
            let entry = entry.map_err(|e| fail_io(path, &e))?;
            let name = below.join(entry.file_name());
            let kind = entry.file_type().map_err(|e| fail_io(&name, &e))?;
            if kind.is_dir() {
                pending.push(name);
            } else if kind.is_symlink() {
                let target = std::fs::read_link(path.join(&name)).map_err(|e| fail_io(&name, &e))?;
                outputs.links.push(format!("{} -> {}", shown(&name), shown(&target)));
            } else if kind.is_file() {
                let file = File::open(path.join(&name)).map_err(|e| fail_io(&name, &e))?;
                outputs.files.push(hash(file, &name)?);
            } else {
                outputs.refused.push(format!("{}: not a regular file", shown(&name)));
            }
        }
    }
    outputs.files.sort_by(|a, b| a.path.cmp(&b.path));
    outputs.links.sort();
    outputs.bytes = outputs.files.iter().map(|f| f.size).sum();
    Ok(outputs)
}

#[derive(Clone, Copy)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

struct Walk<'a> {
    owner: Owner,
    outputs: &'a mut Outputs,
    ids: &'a dyn Fn(u32) -> bool,
    quotas: &'a [Kept],
}

impl Walk<'_> {
    fn directory(&mut self, dir: OwnedFd, name: &Path, depth: usize) -> Result<()> {
        let stat = fstat(&dir).map_err(|e| fail(name, e))?;
        fchown(&dir, Some(self.owner.uid), Some(self.owner.gid)).map_err(|e| fail(name, e))?;
        // The owner must be able to look into it, and to delete it.
        fchmod(&dir, Mode::from_bits_truncate(stat.st_mode & 0o777 | 0o700)).map_err(|e| fail(name, e))?;
        self.quotas.iter().for_each(|kept| kept.release(&dir));
        let copy = dir.try_clone().map_err(|e| fail_io(name, &e))?;
        let mut entries = Vec::new();
        for entry in Dir::from_fd(copy).map_err(|e| fail(name, e))?.iter() {
            let entry = entry.map_err(|e| fail(name, e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                entries.push(entry.file_name().to_owned());
            }
        }
        entries.sort();
        for entry in entries {
            use std::os::unix::ffi::OsStrExt as _;
            let path = name.join(std::ffi::OsStr::from_bytes(entry.to_bytes()));
            let stat = fstatat(&dir, entry.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| fail(&path, e))?;
            self.entry(&dir, &entry, &path, &stat, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        stat: &FileStat,
        depth: usize,
    ) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        if !(self.ids)(stat.st_uid) {
            self.outputs.refused.push(format!(
                "{}: belongs to uid {}, not to the run; left alone",
                shown(path),
                stat.st_uid
            ));
            return Ok(());
        }
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR if depth >= DEPTH => {
                self.outputs.refused.push(format!("{}: deeper than {DEPTH} levels", shown(path)))
            }
            libc::S_IFDIR => {
                let below = removal::open(dir, name, self.ids).map_err(|e| fail(path, e))?;
                self.directory(below, path, depth + 1)?;
            }
            libc::S_IFREG => {
                let file = openat(dir, name, flags, Mode::empty()).map_err(|e| fail(path, e))?;
                fchown(&file, Some(self.owner.uid), Some(self.owner.gid)).map_err(|e| fail(path, e))?;
                fchmod(&file, Mode::from_bits_truncate(stat.st_mode & 0o777 | 0o600)).map_err(|e| fail(path, e))?;
                self.quotas.iter().for_each(|kept| kept.release(&file));
                self.outputs.files.push(hash(file.into(), path)?);
            }
            libc::S_IFLNK => {
                fchownat(dir, name, Some(self.owner.uid), Some(self.owner.gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(|e| fail(path, e))?;
                let target = nix::fcntl::readlinkat(dir, name).map_err(|e| fail(path, e))?;
                self.outputs.links.push(format!("{} -> {}", shown(path), shown(Path::new(&target))));
            }
            kind => {
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(|e| fail(path, e))?;
                let what = match kind {
                    libc::S_IFIFO => "a fifo",
                    libc::S_IFSOCK => "a socket",
                    _ => "a device",
                };
                self.outputs.refused.push(format!("{}: {what}, removed", shown(path)));
            }
        }
        Ok(())
    }
}

fn hash(mut file: File, path: &Path) -> Result<OutputFile> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0_u64;
    loop {
        let read = file.read(&mut buffer).map_err(|e| fail_io(path, &e))?;
        if read == 0 {
            break;
        }
        sha.update(buffer.get(..read).unwrap_or_default());
        size = size.saturating_add(u64::try_from(read).unwrap_or(0));
    }
    let sha256 = sha.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(OutputFile { path: shown(path), size, sha256 })
}

fn shown(path: &Path) -> String {
    text::neutral_bytes(path.as_os_str().as_encoded_bytes())
}

fn fail(path: &Path, e: nix::Error) -> Error {
    fail_io(path, &e.into())
}

fn fail_io(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("cannot collect the output {}", shown(path)))
        .because(e)
        .hint("the outputs are kept as they are; ask the administrator to look at the directory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn links_stay_text_fifos_go_and_setuid_is_stripped() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("table.csv"), "1,2\n").unwrap();
        std::fs::write(at("tool"), "x").unwrap();
        std::fs::set_permissions(at("tool"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/shadow", at("link")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let me = HostIds { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw(), groups: vec![] };
        let open = || OwnedFd::from(File::open(dir.path()).unwrap());
        assert_eq!(collect(open(), dir.path(), &me, |_| false, &[]).unwrap().refused.len(), 4);
        let outputs = collect(open(), dir.path(), &me, |uid| uid == me.uid, &[]).unwrap();
        assert_eq!(outputs.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["table.csv", "tool"]);
        assert_eq!(outputs.links, ["link -> /etc/shadow"]);
        assert_eq!(outputs.refused, ["pipe: a fifo, removed"]);
        assert!(!at("pipe").exists());
        assert_eq!(std::fs::metadata(at("tool")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(outputs.bytes, 5);
        assert_eq!(survey(dir.path()).unwrap().files, outputs.files);
    }

    #[test]
    fn what_is_not_all_of_one_owner_or_not_theirs_to_read_needs_more_power() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let me = HostIds { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw(), groups: vec![] };
        let all = || all_of(&File::open(dir.path()).unwrap().into(), &me);
        let mode =
            |name: &str, mode| std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/table.csv"), "1,2\n").unwrap();
        symlink("/etc/shadow", at("a/link")).unwrap();
        assert!(all());
        assert!(!all_of(&File::open(dir.path()).unwrap().into(), &HostIds { gid: me.gid + 1, ..me.clone() }));
        mode("a/b/table.csv", 0o200);
        assert!(!all());
        mode("a/b/table.csv", 0o400);
        mode("a/b", 0o500);
        assert!(!all());
        mode("a/b", 0o700);
        assert!(all());
        // Only root can make what is somebody else's.
        if me.uid == 0 {
            std::os::unix::fs::lchown(at("a/link"), Some(1), None).unwrap();
            assert!(!all());
        }
    }
}
