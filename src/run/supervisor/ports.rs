//! Where published ports listen on the host: 127.0.0.1, or a socket that the researcher alone can open.
//!
//! Takes granted port requests; gives sockets that listen; trusts nothing of the paths, which are used with the
//! researcher's rights; refuses a port in use, one that the researcher could not have alone, and a path where something
//! is. All that is said before anything of a run is made.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::{Mode, SFlag, umask};
use serde::{Deserialize, Serialize};

use crate::bundle::identity::Identity;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::privilege::acting_as;
use crate::host::sys;
use crate::policy::request::{Listen, PortRequest};

/// Connections that wait until the relay takes them; the kernel's `net.core.somaxconn` bounds it too.
const BACKLOG: i32 = 1024;

/// As many listeners as go to the stage process in one message, and still leave room for what else does.
const MOST: usize = sys::passed::MOST - 16;

/// A published port, as the record and the researcher are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// `127.0.0.1:8787`, or the path of a socket.
    pub host: String,
    /// The port of the container's loopback.
    pub container: u16,
}

/// A socket's file: which one it is, so that nothing else is ever removed in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Removes it with the rights of `researcher`, if it is there still.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, researcher: &HostIds) -> Result<()> {
        acting_as(researcher, || {
            let Ok(there) = std::fs::symlink_metadata(&self.path) else { return Ok(()) };
            if (there.dev(), there.ino()) != (self.device, self.inode) || !is_socket(there.mode()) {
                return Ok(());
            }
            std::fs::remove_file(&self.path).map_err(|e| {
                Error::new(Stage::Run, Kind::Failed, format!("cannot remove {}", self.path.display())).because(e)
            })
        })
    }
}

fn is_socket(mode: u32) -> bool {
    SFlag::from_bits_truncate(mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

/// The published ports of a run. The sockets' files go with it.
#[derive(Debug)]
pub struct Ports {
    listeners: Vec<OwnedFd>,
    published: Vec<Published>,
    files: Vec<SocketFile>,
    researcher: HostIds,
}

impl Ports {
    /// Listens for each of `requests`, whose paths are absolute, with the researcher's rights.
    ///
    /// # Errors
    /// When one of them cannot be had; then none is left.
    pub fn open(requests: &[PortRequest], identity: &Identity) -> Result<Self> {
        if requests.len() > MOST {
            return Err(Error::new(Stage::Run, Kind::Usage, format!("{} ports are too many", requests.len()))
                .hint(format!("publish {MOST} at most")));
        }
        let researcher = identity.researcher();
        let mut ports =
            Self { listeners: Vec::new(), published: Vec::new(), files: Vec::new(), researcher: researcher.clone() };
        acting_as(&researcher, || requests.iter().try_for_each(|request| ports.add(request)))?;
        Ok(ports)
    }

    fn add(&mut self, request: &PortRequest) -> Result<()> {
        let (listener, host) = match &request.listen {
            Listen::Loopback(port) => {
                let (listener, port) = loopback(*port).map_err(|e| port_error(*port, &e))?;
                (listener, format!("{}:{port}", Ipv4Addr::LOCALHOST))
            }
            Listen::Socket(Some(path)) => {
                let (listener, file) = socket(path).map_err(|e| socket_error(path, &e))?;
                self.files.push(file);
                (listener, path.display().to_string())
            }
            Listen::Socket(None) => {
                return Err(Error::new(Stage::Run, Kind::Failed, "a published socket has no path"));
            }
        };
        listen(&listener, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))
            .map_err(|e| Error::new(Stage::Run, Kind::Host, format!("cannot listen on {host}")).because(e.desc()))?;
        self.listeners.push(listener);
        self.published.push(Published { host, container: request.container });
        Ok(())
    }

    /// The container's ports.
    pub fn containers(&self) -> Vec<u16> {
        self.published.iter().map(|port| port.container).collect()
    }

    /// What listens, in the same order; nothing once they were handed on.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.listeners.iter().map(AsFd::as_fd).collect()
    }

    /// Closes this process's own copies: a port that the relay no longer serves is then free.
    pub fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    /// Where each listens.
    pub fn published(&self) -> &[Published] {
        &self.published
    }

    /// The sockets' files, for whoever cleans up after a crash.
    pub fn files(&self) -> &[SocketFile] {
        &self.files
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        for file in &self.files {
            // What cannot be removed stands in a directory that changed hands since: it is its new owner's.
            file.remove(&self.researcher).ok();
        }
    }
}

fn loopback(port: u16) -> io::Result<(OwnedFd, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let port = listener.local_addr()?.port();
    Ok((listener.into(), port))
}

fn socket(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    // The mode is the kernel's work, so that there is no moment in which others could connect (unix(7)).
    let mask = umask(Mode::S_IXUSR | Mode::S_IRWXG | Mode::S_IRWXO);
    let bound = UnixListener::bind(path);
    umask(mask);
    let listener = bound?;
    let made = std::fs::symlink_metadata(path)?;
    Ok((listener.into(), SocketFile { path: path.to_owned(), device: made.dev(), inode: made.ino() }))
}

fn port_error(port: u16, e: &io::Error) -> Error {
    let what = format!("cannot listen on 127.0.0.1:{port}");
    match e.kind() {
        io::ErrorKind::AddrInUse => Error::new(Stage::Run, Kind::Host, format!("port {port} of this host is in use"))
            .because(e)
            .hint("choose another (-p OTHER:CONTAINER), or let ces choose: -p 0:CONTAINER"),
        io::ErrorKind::PermissionDenied => Error::new(Stage::Run, Kind::Host, what)
            .because(format!("{e}: ports below {} are root's", first_unprivileged()))
            .hint(format!("choose one from {} on", first_unprivileged())),
        _ => Error::new(Stage::Run, Kind::Host, what).because(e),
    }
}

/// The first port that needs no privileges (ip(7), `ip_unprivileged_port_start`).
fn first_unprivileged() -> u16 {
    const FIRST: u16 = 1024;
    File::open("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .and_then(io::read_to_string)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(FIRST)
}

fn socket_error(path: &Path, e: &io::Error) -> Error {
    let error = Error::new(Stage::Run, Kind::Host, format!("cannot make the socket {}", path.display())).because(e);
    error.hint(match e.kind() {
        io::ErrorKind::AddrInUse => "something is there already; remove it, or choose another path",
        io::ErrorKind::InvalidInput => "a socket's path has 107 bytes at most (unix(7)); choose a shorter one",
        _ => "choose a path in a directory of yours: -p unix:PATH:CONTAINER",
    })
}
