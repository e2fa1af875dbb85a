//! A file in the place of another, whole or not at all.
//!
//! Takes an open directory of the site, a name and bytes; trusts the directory, which root alone can change; refuses to follow a link.

use std::fs::File;
use std::io::Write as _;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::evidence::log::sync_directory;
use crate::host::site_dir::SiteDir;

/// Writes a file aside (0600), puts it on disk, and renames it.
///
/// # Errors
/// When it cannot be written; the one that is there stays.
pub fn replace(dir: &SiteDir, name: &str, text: &[u8]) -> std::io::Result<()> {
    let aside = format!(".{name}.new");
    match unlinkat(dir, aside.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(dir, aside.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(text)?;
    file.sync_all()?;
    renameat(dir, aside.as_str(), dir, name)?;
    sync_directory(dir)
}
