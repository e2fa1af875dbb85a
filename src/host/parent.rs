//! Whether a process of `ces` was started by `ces`.
//!
//! Takes the socket that the parent left; gives nothing, or why not; trusts the kernel for who made the socket
//! (`SO_PEERCRED`, unix(7)) and for which program that is; refuses any other: what comes over that socket is obeyed.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{getppid, getuid};

/// Checks that the other end of `socket` was made by this process's parent.
///
/// # Errors
/// When it was not.
pub fn verify(socket: impl AsFd) -> io::Result<()> {
    match getsockopt(&socket, sockopt::PeerCredentials)? {
        peer if peer.pid() == getppid().as_raw() => Ok(()),
        _ => Err(refused("the other end of the socket is not this process's parent's")),
    }
}

/// The same, and that the parent is this program.
///
/// # Errors
/// When it is not, or the kernel does not tell root so.
pub fn verify_is_ces(socket: impl AsFd) -> io::Result<()> {
    verify(socket)?;
    let parent = getppid();
    let program = |process: &str| fs::metadata(format!("/proc/{process}/exe")).map(|found| (found.dev(), found.ino()));
    match (program(&parent.to_string()), program("self")) {
        (Ok(theirs), Ok(own)) if theirs == own || is_copy()? => Ok(()),
        (Ok(_), Ok(_)) => Err(refused("the parent is another program")),
        // An ordinary user has nothing to be gone around, and may not look at a parent outside of their own namespace.
        _ if !is_hosts_root()? => Ok(()),
        (Err(e), _) | (_, Err(e)) => Err(e),
    }
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
}

/// Whether this program runs from a copy in memory.
fn is_copy() -> io::Result<bool> {
    Ok(fs::read_link("/proc/self/exe")?.as_os_str().as_encoded_bytes().starts_with(b"/memfd:ces"))
}

/// Whether this is root of the host, and not of a user namespace (user_namespaces(7)).
fn is_hosts_root() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(getuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    #[test]
    fn a_socket_of_ones_own_is_no_parents() {
        let (own, _other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(verify(&own).unwrap_err().to_string().contains("parent"));
        assert!(verify(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
