//! What arrives in a network namespace: questions to name servers, and refused connections (raw(7)).
//!
//! A packet socket would do with one descriptor for all of it, but the kernel lets whoever closes one wait for a grace period of RCU
//! (net/packet/af_packet.c, `packet_release`): twenty milliseconds of a rehearsal.

use std::io;
use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{check, own};

/// What a socket sees, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// UDP over IPv4, from the header of IP on.
    Udp4,
    /// TCP over IPv4, from the header of IP on.
    Tcp4,
    /// UDP over IPv6, from its own header on.
    Udp6,
    /// TCP over IPv6, from its own header on.
    Tcp6,
}

/// Sockets that see the questions to name servers (UDP port 53) and the TCP packets with RST of this network namespace.
#[derive(Debug)]
pub struct Loopback {
    /// Readable when one of the sockets is.
    pub ready: OwnedFd,
    /// The sockets, which do not wait.
    pub sockets: Vec<(Seen, OwnedFd)>,
}

/// Classic BPF: what is passed on, whole as far as anybody looks at it.
fn filter(seen: Seen) -> Vec<libc::sock_filter> {
    const LOOKED_AT: u32 = 1024;
    // x: where the header of UDP or TCP begins.
    let start = match seen {
        Seen::Udp4 | Seen::Tcp4 => (0xb1, 0, 0, 0), // ldxb 4*([0]&0xf)
        Seen::Udp6 | Seen::Tcp6 => (0x01, 0, 0, 0), // ldx #0
    };
    let (load, test) = match seen {
        Seen::Udp4 | Seen::Udp6 => ((0x48, 0, 0, 2), (0x15, 0, 1, 53)), // ldh [x + 2]; jeq #53
        Seen::Tcp4 | Seen::Tcp6 => ((0x50, 0, 0, 13), (0x45, 0, 1, 0x04)), // ldb [x + 13]; jset #4
    };
    let program = [start, load, test, (0x06, 0, 0, LOOKED_AT), (0x06, 0, 0, 0)];
    program.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).into()
}

/// Opens them, in this thread's network namespace.
///
/// # Errors
/// The kernel's; `EPERM` without CAP_NET_RAW in the namespace's owner. A kernel without IPv6 has no packets of that.
pub fn watch() -> io::Result<Loopback> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut sockets = Vec::new();
    for seen in [Seen::Udp4, Seen::Tcp4, Seen::Udp6, Seen::Tcp6] {
        let socket = match socket(seen) {
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
            socket => socket?,
        };
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        sockets.push((seen, socket));
    }
    Ok(Loopback { ready: epoll.0, sockets })
}

fn socket(seen: Seen) -> io::Result<OwnedFd> {
    let (family, protocol) = match seen {
        Seen::Udp4 => (libc::AF_INET, libc::IPPROTO_UDP),
        Seen::Tcp4 => (libc::AF_INET, libc::IPPROTO_TCP),
        Seen::Udp6 => (libc::AF_INET6, libc::IPPROTO_UDP),
        Seen::Tcp6 => (libc::AF_INET6, libc::IPPROTO_TCP),
    };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes numbers, returns a new descriptor.
    let socket = own(check(unsafe { libc::socket(family, kind, protocol) }.into())?)?;
    let mut filter = filter(seen);
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let whole = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    set(&socket, libc::SO_ATTACH_FILTER, &whole)?;
    let room: libc::c_int = 1 << 20;
    // Up to the host's bound (rmem_max).
    set(&socket, libc::SO_RCVBUF, &room)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(mem::size_of_val(value)).map_err(|_| io::ErrorKind::InvalidData)?;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value lives over the call, and its size is passed with it.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, option, value, size) }.into())
        .map(drop)
}
