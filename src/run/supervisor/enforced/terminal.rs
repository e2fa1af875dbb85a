//! The container's three streams: its own terminal, or pipes.
//!
//! Takes the master side that the container sent out; gives the device that the kernel says belongs to it; trusts no name;
//! refuses a controlling terminal that was not asked for, and a stream that is the caller's own.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use nix::sys::stat::fstat;
use nix::unistd::Pid;
use serde::Serialize;

use super::unseen::unseen;
use super::{Enforced, Expected};
use crate::error::Result;
use crate::host::sys;

/// A device of one file system: of two devpts, each has a terminal 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Device {
    /// The file system that it is in (`st_dev`).
    pub file_system: u64,
    /// Which device it is (`st_rdev`).
    pub device: u64,
}

impl Device {
    /// The other end of the pseudo-terminal whose master is `master`.
    ///
    /// # Errors
    /// When it is no master.
    pub fn peer_of(master: BorrowedFd<'_>) -> Result<Self> {
        let file_system = fstat(master).map_err(|e| unseen("terminal", e.desc()))?.st_dev;
        let device = sys::terminal::peer_device(master).map_err(|e| unseen("terminal", &e.to_string()))?;
        Ok(Self { file_system, device })
    }
}

/// What a standard stream is, if it is a device; one that cannot be seen is none.
pub(super) fn stream(pid: Pid, number: u32) -> Option<Device> {
    let found = fs::metadata(format!("/proc/{pid}/fd/{number}")).ok()?;
    found.file_type().is_char_device().then(|| Device { file_system: found.dev(), device: found.rdev() })
}

/// What a standard stream leads to, if that is neither a device nor a pipe without a name; one that cannot be seen does not
/// count as closed.
pub(super) fn of_the_caller(pid: Pid, number: u32) -> Option<String> {
    let path = format!("/proc/{pid}/fd/{number}");
    match fs::read_link(&path) {
        Ok(target) if target.to_string_lossy().starts_with("pipe:[") || stream(pid, number).is_some() => None,
        Ok(target) => Some(target.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The controlling terminal: the seventh field; the second is in parentheses and may hold any character.
pub(super) fn controlling(stat: &str) -> Result<u64> {
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let number: Option<i32> = fields.split_whitespace().nth(4).and_then(|number| number.parse().ok());
    // The kernel prints the device's 32 bits as a signed number; device numbers in use are positive.
    number.and_then(|number| u64::try_from(number).ok()).ok_or_else(|| unseen("stat", stat))
}

pub(super) fn compare(
    expected: &Expected,
    facts: &Enforced,
    differs: &mut dyn FnMut(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug),
) {
    let must = expected.terminal.map_or(0, |terminal| terminal.device);
    if facts.terminal != must {
        differs("the controlling terminal", &facts.terminal, &must);
    }
    if expected.terminal.is_some() && facts.streams != [expected.terminal; 3] {
        differs("a standard stream", &facts.streams, &expected.terminal);
    }
    if let Some(own) = facts.of_the_caller.first() {
        differs("a standard stream", own, &"a pipe of ces's own, or the container's terminal");
    }
    let null = nix::sys::stat::makedev(1, 3);
    let mut devices = facts.streams.iter().flatten().filter(|_| expected.terminal.is_none());
    if let Some(other) = devices.find(|stream| stream.device != null) {
        differs("a standard stream", other, &"a pipe, or the null device");
    }
}
