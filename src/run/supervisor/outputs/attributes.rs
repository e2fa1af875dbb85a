//! ACLs and extended attributes: a payload can set both, nobody who checks outputs looks at them, and both travel with a file.
//!
//! Takes a file or directory that is held; gives what was removed; trusts the kernel's list (listxattr(2)); refuses nothing: names in
//! other namespaces (`trusted`, other `security`) are no payload's to set, and stay.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;

const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
const CAPABILITY: &str = "security.capability";
/// The kernel gives no longer list (`XATTR_LIST_MAX`); nearly all are shorter.
const LONGEST: usize = 64 << 10;
const USUAL: usize = 512;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// ACLs and attributes.
    pub count: u64,
    /// There was an ACL: the bits of the group were its mask, not the group's.
    pub acl: bool,
}

/// Removes those of what is held (it need not be open for reading) in this process.
///
/// # Errors
/// When they cannot be listed, though the file system has some, or one of them stays.
pub fn remove(held: impl AsFd) -> nix::Result<Removed> {
    // There is no call for a descriptor that only holds; the kernel goes from this name to what is held and nowhere else (proc(5)).
    let file = format!("/proc/self/fd/{}", held.as_fd().as_raw_fd());
    let mut names = [0_u8; USUAL];
    match rustix::fs::listxattr(&file, &mut names[..]) {
        Ok(length) => remove_each(&file, names.get(..length).unwrap_or_default()),
        Err(rustix::io::Errno::RANGE) => {
            let mut names = vec![0_u8; LONGEST];
            let length = rustix::fs::listxattr(&file, &mut names[..]).map_err(told)?;
            remove_each(&file, names.get(..length).unwrap_or_default())
        }
        Err(rustix::io::Errno::NOTSUP) => Ok(Removed::default()),
        Err(e) => Err(told(e)),
    }
}

fn told(e: rustix::io::Errno) -> Errno {
    Errno::from_raw(e.raw_os_error())
}

fn remove_each(file: &str, names: &[u8]) -> nix::Result<Removed> {
    let mut removed = Removed::default();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let text = name.to_string_lossy();
        let acl = ACLS.contains(&text.as_ref());
        if acl || text == CAPABILITY || text.starts_with("user.") {
            match rustix::fs::removexattr(file, name) {
                Ok(()) => removed.count += 1,
                // Somebody else was quicker.
                Err(rustix::io::Errno::NODATA) => {}
                Err(e) => return Err(told(e)),
            }
            removed.acl |= acl;
        }
    }
    Ok(removed)
}
