//! Files without a name that a run holds open: no walk finds them, and they take the same room.
//!
//! Takes the container's first process; gives the room that such files take on the file systems in question; trusts `/proc` and
//! the PID namespace, which no payload can leave or make; refuses to look at more than `MOST` descriptors at once: the next look
//! begins where this one ended. A file that is mapped and not open is not found.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat, stat};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Descriptors of one look.
const MOST: u64 = 100_000;

/// The processes of a container, known by its PID namespace.
#[derive(Debug, Clone, Copy)]
pub struct Container {
    namespace: (u64, u64),
    /// The file system of its root.
    root: Option<u64>,
}

/// What was found, and where the next look begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unnamed {
    /// Room on each file system.
    pub bytes: Vec<(u64, u64)>,
    /// The process to begin with next.
    pub next: i32,
}

impl Container {
    /// The container whose first process is `init`; none where it cannot be seen.
    pub fn of(init: Pid) -> Option<Self> {
        let namespace = namespace(init.as_raw())?;
        let root = stat(format!("/proc/{init}/root/").as_str()).ok().map(|root| root.st_dev);
        Some(Self { namespace, root })
    }

    /// The file system of its root.
    pub fn root(&self) -> Option<u64> {
        self.root
    }

    /// Looks at what its processes hold open, from process `first` on, for files on one of `devices`.
    pub fn look(&self, devices: &[u64], first: i32) -> Unnamed {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut processes: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        processes.sort_unstable();
        let (before, after): (Vec<i32>, Vec<i32>) = processes.into_iter().partition(|pid| *pid < first);
        let mut seen = HashSet::new();
        let mut found = Unnamed { bytes: devices.iter().map(|device| (*device, 0)).collect(), next: 0 };
        let mut looked = 0;
        for pid in after.into_iter().chain(before) {
            if namespace(pid) != Some(self.namespace) {
                continue;
            }
            if looked >= MOST {
                found.next = pid;
                break;
            }
            // ENOENT: it has just ended.
            if let Ok(count) = one(pid, MOST.saturating_mul(2).saturating_sub(looked), &mut seen, &mut found.bytes) {
                looked = looked.saturating_add(count);
            }
        }
        found
    }
}

fn namespace(pid: i32) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|namespace| (namespace.dev(), namespace.ino()))
}

fn one(pid: i32, most: u64, seen: &mut HashSet<(u64, u64)>, bytes: &mut [(u64, u64)]) -> nix::Result<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(format!("/proc/{pid}/fd").as_str(), flags, Mode::empty())?;
    let place: OwnedFd = dir.try_clone().map_err(|_| nix::Error::EMFILE)?;
    let mut looked = 0;
    for entry in Dir::from_fd(dir)?.iter() {
        let entry = entry?;
        if looked >= most {
            break;
        }
        looked += 1;
        // Through the link, to what is open; closed meanwhile, it no longer counts.
        let Ok(file) = fstatat(&place, entry.file_name(), AtFlags::empty()) else { continue };
        if file.st_mode & libc::S_IFMT != libc::S_IFREG || file.st_nlink != 0 {
            continue;
        }
        let Some((_, sum)) = bytes.iter_mut().find(|(device, _)| *device == file.st_dev) else { continue };
        if seen.insert((file.st_dev, file.st_ino)) {
            *sum = sum.saturating_add(u64::try_from(file.st_blocks).unwrap_or(0).saturating_mul(512));
        }
    }
    Ok(looked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_that_is_deleted_and_open_is_counted_once_and_one_with_a_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let device = fs::metadata(dir.path()).unwrap().dev();
        let container = Container::of(Pid::this()).unwrap();
        let bytes = || container.look(&[device], 0).bytes.first().unwrap().1;
        let before = bytes();
        let mut named = fs::File::create(dir.path().join("named")).unwrap();
        named.write_all(&vec![1; 4 << 20]).unwrap();
        named.sync_all().unwrap();
        assert!(bytes() < before + (4 << 20));
        fs::remove_file(dir.path().join("named")).unwrap();
        let _again = named.try_clone().unwrap();
        let now = bytes();
        assert!(now >= before + (4 << 20) && now < before + (8 << 20), "{before} {now}");
    }
}
