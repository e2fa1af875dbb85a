//! Descriptors that arrive over a socket (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockFlag, UnixCredentials, accept4, recvmsg};
use nix::unistd::Pid;

/// No message carries more (`SCM_MAX_FD` of the kernel).
pub const MOST: usize = 253;

/// One packet.
#[derive(Debug)]
pub struct Received {
    /// Its length in bytes; 0 at the end.
    pub length: usize,
    /// The descriptors that came with it, closed on exec.
    pub passed: Vec<OwnedFd>,
    /// Who sent it, if the socket asks for that (`SO_PASSCRED`).
    pub sender: Option<Pid>,
}

/// Receives one packet and what comes with it.
///
/// # Errors
/// The kernel's, and `EMSGSIZE` for more bytes or descriptors than there is room for.
pub fn receive(socket: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<Received> {
    let mut room = nix::cmsg_space!([i32; MOST], UnixCredentials);
    let mut parts = [IoSliceMut::new(packet)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let (mut passed, mut sender) = (Vec::new(), None);
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just made these descriptors for this process; nobody else knows their numbers.
                passed.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
            ControlMessageOwned::ScmCredentials(who) => sender = Some(Pid::from_raw(who.pid())),
            _ => {}
        }
    }
    if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Received { length: received.bytes, passed, sender })
}

/// Takes who has come to a socket that listens; closed on exec.
///
/// # Errors
/// The kernel's.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor for this process; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
