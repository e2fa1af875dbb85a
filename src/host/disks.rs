//! The disks below directories, as control groups limit them.
//!
//! Takes directories; gives the numbers of the disks that hold their file systems; trusts `/sys/dev/block` and
//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)); refuses nothing: what no disk of this host holds (NFS, memory, FUSE) has
//! none, and its traffic is the network's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use nix::sys::stat::{major, makedev, minor};

use crate::host::kernel_files;

/// A whole disk, by its number; written `major:minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disk {
    /// The driver's number.
    pub major: u64,
    /// The disk's number with that driver.
    pub minor: u64,
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The disks that hold `directories`, each once.
///
/// # Errors
/// When a directory cannot be looked at, or the kernel does not tell of a disk.
pub fn below<'a>(directories: impl IntoIterator<Item = &'a Path>) -> io::Result<BTreeSet<Disk>> {
    let mut mounts = None;
    let mut disks = BTreeSet::new();
    for directory in directories {
        let mut device = fs::metadata(directory)?.dev();
        if major(device) == 0 {
            // A file system with numbers of its own, as btrfs has: where it is mounted from may be a disk all the same.
            let mounts = match &mounts {
                Some(mounts) => mounts,
                None => mounts.insert(kernel_files::read("/proc/self/mountinfo")?),
            };
            let from = source(mounts, device).and_then(|from| fs::metadata(from).ok());
            match from.filter(|from| from.file_type().is_block_device()) {
                Some(from) => device = from.rdev(),
                None => continue,
            }
        }
        disks.insert(whole(device)?);
    }
    Ok(disks)
}

/// The disk of a partition: limits are a disk's alone (`blkg_conf_open_bdev` in the kernel's block/blk-cgroup.c).
fn whole(device: u64) -> io::Result<Disk> {
    let own = Path::new("/sys/dev/block").join(format!("{}:{}", major(device), minor(device)));
    if !own.join("partition").exists() {
        return Ok(Disk { major: major(device), minor: minor(device) });
    }
    // A link to …/block/sda/sda1, so that this is the disk's.
    let number = kernel_files::read(own.join("../dev"))?;
    parse(number.trim()).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{number:?} is no disk")))
}

fn parse(number: &str) -> Option<Disk> {
    let (major, minor) = number.split_once(':')?;
    Some(Disk { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// From what a file system is mounted.
fn source(mountinfo: &str, device: u64) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let number = parse(mount.split(' ').nth(2)?)?;
        (makedev(number.major, number.minor) == device).then_some(())?;
        file_system.split(' ').nth(1).filter(|source| source.starts_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_with_numbers_of_its_own_is_found_by_where_it_is_mounted_from() {
        let mounts = "30 1 0:34 /@home /home rw,relatime shared:1 - btrfs /dev/sda2 rw\n\
                      31 1 0:35 / /tmp rw - tmpfs tmpfs rw\n\
                      32 1 0:36 / /data rw - nfs4 server:/data rw\n";
        assert_eq!(source(mounts, makedev(0, 34)), Some("/dev/sda2"));
        assert_eq!(source(mounts, makedev(0, 35)), None);
        assert_eq!(source(mounts, makedev(0, 36)), None);
        assert_eq!(source(mounts, makedev(0, 37)), None);
    }

    #[test]
    fn memory_is_no_disk_and_each_disk_is_there_once() {
        assert!(below([Path::new("/proc"), Path::new("/sys")]).unwrap().is_empty());
        let disks = below([Path::new("/"), Path::new("/")]).unwrap();
        for disk in &disks {
            let own = Path::new("/sys/dev/block").join(disk.to_string());
            assert!(own.exists() && !own.join("partition").exists(), "{disk} is a whole disk");
        }
    }
}
