//! Messages between the processes of a run: one JSON document a packet, on a socket pair.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;
use crate::run::protocol::ToStage;

/// The longest packet, in bytes; a message is a few hundred, a failure report a few thousand, arguments may be many. As much as a
/// socket takes at once by default (`/proc/sys/net/core/wmem_default`, 212,992).
const PACKET: usize = 200 * 1024;

/// A message, the descriptors that came with it, and who sent it.
pub type Letter<T> = (T, Vec<OwnedFd>, Option<Pid>);

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends; both are closed on exec.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| fail("make a socket pair", e))?;
        Ok((Self(a), Self(b)))
    }

    /// The end that a parent process left at a descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends one message, and copies of descriptors with it.
    ///
    /// # Errors
    /// When the other side is gone.
    pub fn send_with<T: Serialize>(&self, message: &T, passed: &[BorrowedFd<'_>]) -> Result<()> {
        let text = serde_json::to_vec(message)
            .map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot write a message").because(e))?;
        if text.len() > PACKET {
            let error = Error::new(Stage::Run, Kind::Usage, "a command is too long");
            return Err(error
                .because(format!("with its arguments and variables it takes {} bytes, of at most {PACKET}", text.len()))
                .hint("put what is long into a file that the command reads"));
        }
        let numbers: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&text)], rights, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|e| fail("send", e))?;
        if sent == text.len() { Ok(()) } else { Err(Error::new(Stage::Run, Kind::Failed, "a message was cut short")) }
    }

    /// Waits for one message; none when the other side has closed. Descriptors that come with it are closed.
    ///
    /// # Errors
    /// The kernel's, and a message that makes no sense.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        Ok(self.receive_with()?.map(|(message, _)| message))
    }

    /// Waits for one message and the descriptors that come with it.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn receive_with<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>> {
        Ok(self.receive_from()?.map(|(message, passed, _)| (message, passed)))
    }

    /// The same, with the process that sent it, where the kernel is asked for that (`SO_PASSCRED`).
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn receive_from<T: DeserializeOwned>(&self) -> Result<Option<Letter<T>>> {
        // Room for the longest would be zeroed each time, with a page fault for each of its pages.
        let next = || Ok(recv(self.0.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?);
        let Some(length) = uninterrupted(next)? else { return Ok(None) };
        let mut packet = vec![0; length.min(PACKET)];
        let Some(received) = uninterrupted(|| sys::passed::receive(self.0.as_fd(), &mut packet))? else {
            return Ok(None);
        };
        if received.length == 0 {
            return Ok(None);
        }
        packet.truncate(received.length);
        serde_json::from_slice(&packet).map(|message| Some((message, received.passed, received.sender))).map_err(|e| {
            Error::new(Stage::Run, Kind::Failed, "a message between processes of ces is malformed").because(e)
        })
    }

    /// Waits for `expected`.
    ///
    /// # Errors
    /// When something else comes, or nothing.
    pub fn expect(&self, expected: &ToStage) -> Result<()> {
        match self.receive::<ToStage>()? {
            Some(message) if message == *expected => Ok(()),
            Some(other) => Err(Error::new(Stage::Run, Kind::Failed, format!("expected {expected:?}, got {other:?}"))),
            None => Err(Error::new(Stage::Run, Kind::Failed, "ces is gone")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What `call` gives, however often a signal comes in between; none when the other side is gone.
fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> Result<Option<T>> {
    loop {
        match call() {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(fail("receive", nix::Error::try_from(e).unwrap_or(nix::Error::EIO))),
            Ok(got) => return Ok(Some(got)),
        }
    }
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what} between ces and its stage")).because(e.desc())
}
