//! File systems that the kernel makes for one container alone, and that need none of its processes: tmpfs, devpts, sysfs (of
//! the network namespace), mqueue (of the IPC namespace). `/proc` is that of a PID namespace, and left to the engine.
//!
//! Takes a mount of the spec and what it is to cover; gives a mount; trusts the kernel; refuses what it does not understand
//! to the last word, which is then the engine's.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::fstat;
use oci_spec::runtime::Mount;

use super::{init_layer, rootfs};
use crate::error::{Error, Kind, Result, Stage};

const TYPES: [&str; 4] = ["tmpfs", "devpts", "sysfs", "mqueue"];

/// Options that are flags of the mount (mount(8), "filesystem-independent mount options").
const FLAGS: [(&str, MsFlags); 6] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("strictatime", MsFlags::MS_STRICTATIME),
    ("rw", MsFlags::empty()),
];

/// Options of the file systems themselves, by how they begin.
const OWN: [&str; 6] = ["mode=", "size=", "nr_inodes=", "ptmxmode=", "gid=", "newinstance"];

/// How to mount it.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnMount<'a> {
    kind: &'a str,
    flags: MsFlags,
    options: String,
}

impl<'a> OwnMount<'a> {
    /// If it is one of these, and every option is known.
    pub fn of(mount: &'a Mount) -> Option<Self> {
        let kind = mount.typ().as_deref().filter(|kind| TYPES.contains(kind))?;
        let mut flags = MsFlags::empty();
        let mut options = Vec::new();
        for option in mount.options().iter().flatten() {
            match FLAGS.iter().find(|(name, _)| name == option) {
                Some((_, flag)) => flags |= *flag,
                None if OWN.iter().any(|own| option.starts_with(own)) => options.push(option.as_str()),
                None => return None,
            }
        }
        Some(Self { kind, flags, options: options.join(",") })
    }

    /// Mounts it on top of `point`, a descriptor that no name in the image can lead elsewhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn onto(&self, point: &OwnedFd) -> Result<()> {
        let target = format!("/proc/self/fd/{}", point.as_raw_fd());
        mount(Some(self.kind), target.as_str(), Some(self.kind), self.flags, Some(self.options.as_str())).map_err(|e| {
            Error::new(Stage::Bundle, Kind::Host, format!("cannot mount a {} of the container's own", self.kind))
                .because(e.desc())
        })
    }
}

/// Covers those of the paths to be masked that are directories of the `/sys` mounted in the tree at `root`, all with one
/// empty directory, and gives the others. (The engine makes a file system for each.)
///
/// # Errors
/// The kernel's.
pub fn mask_sys(root: &Path, masked: Vec<String>) -> Result<Vec<String>> {
    let mut others = Vec::with_capacity(masked.len());
    for path in masked {
        // Not there, or not to be reached without a link: the engine knows what that means.
        let point = path.starts_with("/sys/").then(|| init_layer::verify(root, Path::new(&path)).ok()).flatten();
        let directory =
            point.filter(|point| fstat(point).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR));
        let Some(directory) = directory else {
            others.push(path);
            continue;
        };
        rootfs::cover(&directory)?;
    }
    Ok(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, options: &[&str]) -> Mount {
        let mut mount = Mount::default();
        mount.set_typ(Some(kind.to_owned())).set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
        mount
    }

    #[test]
    fn what_is_known_to_the_last_word_is_mounted_here_and_nothing_else() {
        let dev = spec("tmpfs", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_STRICTATIME;
        assert_eq!(
            OwnMount::of(&dev).unwrap(),
            OwnMount { kind: "tmpfs", flags, options: "mode=755,size=65536k".into() }
        );
        let terminals = spec("devpts", &["nosuid", "newinstance", "gid=5"]);
        assert_eq!(OwnMount::of(&terminals).unwrap().options, "newinstance,gid=5");
        for (kind, option) in [("proc", "nosuid"), ("bind", "rbind"), ("tmpfs", "tmpcopyup"), ("tmpfs", "rshared")] {
            assert_eq!(OwnMount::of(&spec(kind, &[option])), None, "{kind} {option}");
        }
    }
}
