//! ACLs and extended attributes: a payload can set both, nobody who checks outputs looks at them, and both travel with a file.
//!
//! Takes an open file or directory; gives what was removed; trusts the kernel's list (listxattr(2)); refuses nothing: names in
//! other namespaces (`trusted`, other `security`) are no payload's to set, and stay.

use std::ffi::CStr;
use std::os::fd::AsFd;

const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
const CAPABILITY: &str = "security.capability";
/// The kernel gives no longer list (`XATTR_LIST_MAX`).
const LONGEST: usize = 64 << 10;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// ACLs and attributes.
    pub count: u64,
    /// There was an ACL: the bits of the group were its mask, not the group's.
    pub acl: bool,
}

/// Removes them.
pub fn remove(file: impl AsFd) -> Removed {
    let mut removed = Removed::default();
    // As nearly always: none at all, asked without a buffer.
    if !matches!(rustix::fs::flistxattr(&file, &mut [0_u8; 0][..]), Ok(1..)) {
        return removed;
    }
    let mut names = vec![0_u8; LONGEST];
    let Ok(length) = rustix::fs::flistxattr(&file, &mut names[..]) else { return removed };
    for name in names.get(..length).unwrap_or_default().split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let text = name.to_string_lossy();
        let acl = ACLS.contains(&text.as_ref());
        if (acl || text == CAPABILITY || text.starts_with("user.")) && rustix::fs::fremovexattr(&file, name).is_ok() {
            removed.count += 1;
            removed.acl |= acl;
        }
    }
    removed
}
