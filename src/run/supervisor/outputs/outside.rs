//! Files that a program wrote outside its outputs, and that go with the run.
//!
//! Takes the directory of the layer over the image; gives how many files are in it and the names of the first few; trusts no name, and
//! follows no link; refuses nothing: what cannot be read is passed over, for this is a note and no account. Passed over is also what
//! programs write beside their work: temporary directories, caches, logs, and what is hidden; and what ces writes for them.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;

use crate::host::same_mount;
use crate::run::supervisor::outputs::tree::{At, Visitor, walk};
use crate::text;

/// Directories of the image in which programs leave what nobody looks for.
const BESIDE: [&[u8]; 7] = [b"tmp", b"var/tmp", b"var/cache", b"var/log", b"var/lib", b"run", b"var/run"];
/// Files in which ces itself writes the user of the run (`bundle::accounts`).
const ACCOUNTS: [&[u8]; 2] = [b"etc/passwd", b"etc/group"];
/// No more entries are looked at.
const MOST: usize = 20_000;
/// So many names are told.
const TOLD: usize = 3;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outside {
    files: u64,
    first: Vec<String>,
    looked_at: usize,
}

impl Outside {
    /// Looks at the layer over the image, which is `upper` in the directory `work` of the run.
    pub fn of(work: &OwnedFd) -> Self {
        let mut found = Self::default();
        if let Ok(upper) = open(work, c"upper") {
            walk(upper, &mut found);
        }
        found
    }

    /// A note for whoever runs it; none where there is nothing to tell.
    pub fn note(&self) -> Option<String> {
        let is_all = u64::try_from(self.first.len()).is_ok_and(|told| told == self.files);
        let more = if is_all { "" } else { ", …" };
        Some(format!("note: {}: {}{more}", self.warning()?, self.first.join(", ")))
    }

    /// A warning for the record. It has no names: the program chose them, and a record may leave with the outputs.
    pub fn warning(&self) -> Option<String> {
        match self.files {
            0 => None,
            1 => Some("1 file was written outside /safe_outputs and is gone".to_owned()),
            files => Some(format!("{files} files were written outside /safe_outputs and are gone")),
        }
    }
}

fn open(dir: &OwnedFd, name: &CStr) -> nix::Result<OwnedFd> {
    same_mount::open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

impl Visitor for Outside {
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, at: At<'_>) -> nix::Result<Option<OwnedFd>> {
        self.looked_at += 1;
        let is_hidden = name.to_bytes().starts_with(b".") || name == c"__pycache__";
        if is_hidden || BESIDE.contains(&at.path) || ACCOUNTS.contains(&at.path) {
            return Ok(None);
        }
        let found = same_mount::look(dir, name)?;
        match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => open(dir, name).map(Some),
            // What is empty is mostly a place on which something was mounted.
            libc::S_IFREG if found.st_size > 0 => {
                self.files += 1;
                if self.first.len() < TOLD {
                    self.first.push(format!("/{}", text::neutral_bytes(at.path)));
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn failed(&mut self, _: At<'_>, _: Errno) {}

    fn is_over(&self) -> bool {
        self.looked_at >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_beside_the_outputs_are_counted_and_what_is_beside_the_work_is_not() {
        let work = tempfile::tempdir().unwrap();
        let upper = work.path().join("upper");
        let look = || Outside::of(&fs::File::open(work.path()).unwrap().into()).note();
        assert_eq!(look(), None);
        for dir in ["tmp", "var/log", "root/.cache", "srv/deep", "lib/__pycache__", "etc"] {
            fs::create_dir_all(upper.join(dir)).unwrap();
            fs::write(upper.join(dir).join("file"), "x").unwrap();
        }
        fs::rename(upper.join("etc/file"), upper.join("etc/passwd")).unwrap();
        fs::write(upper.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("/etc", upper.join("link")).unwrap();
        assert_eq!(look().unwrap(), "note: 1 file was written outside /safe_outputs and is gone: /srv/deep/file");
        fs::write(upper.join("out\u{1b}[2J.csv"), "x").unwrap();
        for n in 0..9 {
            fs::write(upper.join(format!("{n}.csv")), "x").unwrap();
        }
        let said = look().unwrap();
        assert!(said.starts_with("note: 11 files were written outside /safe_outputs and are gone: /"), "{said}");
        assert!(said.ends_with(", …") && !said.contains('\u{1b}'), "{said}");
        let kept = Outside::of(&fs::File::open(work.path()).unwrap().into()).warning();
        assert_eq!(kept.unwrap(), "11 files were written outside /safe_outputs and are gone");
    }
}
