//! The payload's own terminal, as the stage process gets hold of it.
//!
//! Takes the engine's word that a terminal was made in the container's devpts; gives its master side; trusts the kernel
//! alone for which terminal that is; refuses to wait: the engine has sent it before it is done.
//!
//! The runtime spec calls this the console socket: the container's first process opens a pseudo-terminal of its own and
//! sends the master out, so that nothing of the caller's terminal is ever in the container.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, fchown};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;

/// Where the engine sends the master side.
#[derive(Debug)]
pub struct Console {
    listener: UnixListener,
    path: PathBuf,
}

impl Console {
    /// Listens in `dir`, which no one else can reach.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(dir: &Path) -> Result<Self> {
        let path = dir.join("console");
        UnixListener::bind(&path)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map(|listener| Self { listener, path })
            .map_err(|e| fail("listen for the container's terminal", e))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The master side, once the container is created; the other side is given to `owner`, as the container numbers it.
    ///
    /// # Errors
    /// When the engine sent none.
    pub fn take(self, owner: Uid) -> Result<OwnedFd> {
        let (stream, _) = self.listener.accept().map_err(|e| fail("take the container's terminal", e))?;
        let mut received =
            sys::passed::receive(stream.as_fd(), &mut [0; 64]).map_err(|e| fail("take the container's terminal", e))?;
        let master = received.passed.pop().ok_or_else(|| {
            Error::new(Stage::Run, Kind::Failed, "cannot take the container's terminal").because("none was sent")
        })?;
        // It was made by root of the container: programs that open it by name (tmux, a pager) run as the payload's user.
        let peer = sys::terminal::peer(master.as_fd()).map_err(|e| fail("open the container's terminal", e))?;
        fchown(&peer, Some(owner), None).map_err(|e| fail("give the container's terminal to its user", e.into()))?;
        Ok(master)
    }
}

fn fail(what: &str, e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}")).because(e)
}
