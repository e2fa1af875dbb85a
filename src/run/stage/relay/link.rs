//! One connection through the relay: the socket on the host, the socket in the container, and a pipe for each direction.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, connect, getpeername,
    getsockopt, setsockopt, shutdown, socket, sockopt,
};
use nix::unistd::pipe2;

/// Turns a connection takes before the others have theirs.
pub(super) const TURNS: usize = 16;

/// Bytes that a pipe holds: as much as one direction of a connection keeps in flight. Smaller where the researcher's other
/// pipes use up what the kernel gives (pipe(7), `pipe-user-pages-soft`).
const PIPE: usize = 256 * 1024;

/// What each socket of a link may hold, for the kernel to double (socket(7)). Left alone TCP lets it grow to many megabytes,
/// and every byte then leaves the processor's cache on the way: on two processors that costs a third of the throughput.
const BUFFER: usize = 256 * 1024;

/// Empty pipes kept for the next who needs one.
const SPARE_PIPES: usize = 64;

/// What a link needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    Again,
    Close,
    /// One side was cut off: the other is to see that too, not a clean end.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loopback {
    V4,
    V6,
}

/// How far the connection into the container is.
pub(super) enum Settled {
    Connecting,
    Connected,
    /// Refused at 127.0.0.1, begun anew at ::1.
    Elsewhere,
    Refused,
}

/// One connection: the socket on the host, the socket in the container, and what flows between them.
pub(super) struct Link {
    pub(super) outer: OwnedFd,
    pub(super) inner: OwnedFd,
    port: u16,
    connected: bool,
    tried: Loopback,
    inwards: Flow,
    outwards: Flow,
}

impl Link {
    /// The link of an accepted connection, on its way to the container's `port`.
    pub(super) fn begin(outer: OwnedFd, port: u16) -> nix::Result<Self> {
        // A Unix socket has no such option.
        setsockopt(&outer, sockopt::TcpNoDelay, &true).ok();
        bound(&outer)?;
        let tried = Loopback::V4;
        let (inner, connected) = Self::connect(port, tried)?;
        Ok(Self { outer, inner, port, connected, tried, inwards: Flow::new(), outwards: Flow::new() })
    }

    /// A socket on its way to the container's `port`, and whether it is there already.
    fn connect(port: u16, loopback: Loopback) -> nix::Result<(OwnedFd, bool)> {
        let family = if loopback == Loopback::V4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let inner = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // Bytes go on as they come; to hold small ones back is the sender's business.
        setsockopt(&inner, sockopt::TcpNoDelay, &true)?;
        bound(&inner)?;
        let connected = match loopback {
            Loopback::V4 => connect(inner.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))),
            Loopback::V6 => {
                let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
                connect(inner.as_raw_fd(), &SockaddrIn6::from(address))
            }
        };
        match connected {
            Ok(()) => Ok((inner, true)),
            Err(Errno::EINPROGRESS) => Ok((inner, false)),
            Err(Errno::ECONNREFUSED) if loopback == Loopback::V4 => Self::connect(port, Loopback::V6),
            Err(e) => Err(e),
        }
    }

    pub(super) fn settle(&mut self) -> Settled {
        if self.connected {
            return Settled::Connected;
        }
        match getsockopt(&self.inner, sockopt::SocketError) {
            Ok(0) if getpeername::<SockaddrStorage>(self.inner.as_raw_fd()).is_ok() => {
                self.connected = true;
                Settled::Connected
            }
            Ok(0) => Settled::Connecting,
            Ok(libc::ECONNREFUSED) if self.tried == Loopback::V4 => {
                self.tried = Loopback::V6;
                match Self::connect(self.port, Loopback::V6) {
                    Ok((inner, connected)) => {
                        // The kernel forgets the old one's events with the old one.
                        (self.inner, self.connected) = (inner, connected);
                        Settled::Elsewhere
                    }
                    Err(_) => Settled::Refused,
                }
            }
            _ => Settled::Refused,
        }
    }

    /// Passes on what there is, both ways.
    pub(super) fn pump(&mut self, pipes: &mut Vec<Pipe>, draining: bool) -> Next {
        // Nobody is left in the container to read.
        let inwards = if draining { Flowed::Waits } else { self.inwards.pump(&self.outer, &self.inner, pipes) };
        let outwards = self.outwards.pump(&self.inner, &self.outer, pipes);
        match (inwards, outwards) {
            (Flowed::Broken, _) | (_, Flowed::Broken) => Next::Reset,
            (Flowed::Ended, Flowed::Ended) => Next::Close,
            (_, Flowed::Ended) if draining => Next::Close,
            (Flowed::More, _) | (_, Flowed::More) => Next::Again,
            _ => Next::Wait,
        }
    }

    pub(super) fn reset(&self) {
        // With this, close(2) sends a reset (socket(7), SO_LINGER); a Unix socket has none, and needs none.
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        for socket in [&self.outer, &self.inner] {
            setsockopt(socket, sockopt::Linger, &at_once).ok();
        }
    }
}

fn bound(socket: &OwnedFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::RcvBuf, &BUFFER)?;
    setsockopt(socket, sockopt::SndBuf, &BUFFER)
}

/// What is on its way between two sockets, in the kernel.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> nix::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A smaller one is slower, and does.
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE).unwrap_or(i32::MAX))).ok();
        Ok(Self { read, write })
    }
}

/// What came of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flowed {
    /// Nothing to read, or no room to write: an event will tell.
    Waits,
    /// There may be more; others first.
    More,
    /// The sender is done, and the reader has been told.
    Ended,
    /// A side is gone.
    Broken,
}

/// One direction of a link.
struct Flow {
    /// Borrowed from the pool while bytes are on their way.
    pipe: Option<Pipe>,
    held: usize,
    sender_done: bool,
    reader_told: bool,
}

impl Flow {
    fn new() -> Self {
        Self { pipe: None, held: 0, sender_done: false, reader_told: false }
    }

    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, pool: &mut Vec<Pipe>) -> Flowed {
        if self.reader_told {
            return Flowed::Ended;
        }
        let Ok(pipe) = self.pipe.take().or_else(|| pool.pop()).map_or_else(Pipe::new, Ok) else {
            return Flowed::Broken;
        };
        let flowed = self.through(&pipe, from, to);
        if self.held > 0 {
            self.pipe = Some(pipe);
        } else if pool.len() < SPARE_PIPES {
            pool.push(pipe);
        }
        flowed
    }

    fn through(&mut self, pipe: &Pipe, from: &OwnedFd, to: &OwnedFd) -> Flowed {
        for _ in 0..TURNS {
            let mut moved = false;
            if !self.sender_done {
                match pass(from.as_fd(), pipe.write.as_fd(), PIPE) {
                    Ok(Some(0)) => (self.sender_done, moved) = (true, true),
                    Ok(Some(bytes)) => (self.held, moved) = (self.held + bytes, true),
                    Ok(None) => {}
                    Err(_) => return Flowed::Broken,
                }
            }
            if self.held > 0 {
                match pass(pipe.read.as_fd(), to.as_fd(), self.held) {
                    Ok(Some(bytes)) => (self.held, moved) = (self.held.saturating_sub(bytes), true),
                    Ok(None) => {}
                    Err(_) => return Flowed::Broken,
                }
            }
            if self.sender_done && self.held == 0 {
                // ENOTCONN: it is gone altogether, and the other direction will tell.
                shutdown(to.as_raw_fd(), Shutdown::Write).ok();
                self.reader_told = true;
                return Flowed::Ended;
            }
            if !moved {
                return Flowed::Waits;
            }
        }
        Flowed::More
    }
}

/// Moves up to `most` bytes; none when it would have to wait.
fn pass(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> nix::Result<Option<usize>> {
    match splice(from, None, to, None, most, SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(e) => Err(e),
    }
}
