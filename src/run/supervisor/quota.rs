//! Bounds that the file system keeps: project quotas (ext4 with `quota,project`, XFS with `prjquota`; quotactl(2)).
//!
//! Takes a run's directories and their ceilings; gives projects with limits, read back; trusts the file system to count, and a
//! user namespace not to change a project (the kernel's `fileattr_set_prepare`); refuses a run whose directories do not take
//! limits that their file system keeps. Where it keeps none, or only root could ask and does not, the bounds are watched
//! (`crate::run::supervisor::watch`).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;
use nix::sys::statvfs::fstatvfs;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::privilege::{Root, acting_as};
use crate::host::sys::quota::{self, Quota};
use crate::policy::units::show_size;
use crate::run::directory::open_directory;
use crate::run::supervisor::places::Places;

/// Ids below and above are left to the site (projid(5)).
const IDS: std::ops::Range<u32> = 0x4000_0000..0x8000_0000;
/// How many ids to look at for one that nobody uses.
const TRIES: usize = 16;
/// A write is refused when its data and what describes them do not fit: this near to the limit, it was probably that.
const BLOCKS_TO_SPARE: u64 = 4;

/// A directory of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Scratch.
    Scratch,
    /// Outputs.
    Outputs,
    /// What is written over the image.
    Work,
}

impl Which {
    fn of(self, places: &Places) -> PathBuf {
        match self {
            Self::Scratch => places.scratch(),
            Self::Outputs => places.outputs(),
            Self::Work => places.work.clone(),
        }
    }
}

/// What is to be bounded.
#[derive(Debug, Clone)]
pub struct Ceiling {
    /// What the directories are called in messages.
    pub what: &'static str,
    /// The directories, which need not exist yet.
    pub dirs: Vec<(Which, PathBuf)>,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub files: Option<u64>,
}

/// A project of one run on one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What its directories are called in messages.
    pub what: String,
    /// The run's directories on that file system.
    pub on: Vec<Which>,
    /// The project's id.
    pub project: u32,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub files: Option<u64>,
}

/// The projects that are to keep `ceilings`, one for each of their file systems; none for a ceiling of which one file system
/// keeps nothing. For root; homes are opened with the rights of `researcher`.
pub fn choose(_: &Root, ceilings: &[Ceiling], researcher: &HostIds) -> Vec<Kept> {
    ceilings.iter().flat_map(|ceiling| of_one(ceiling, researcher).unwrap_or_default()).collect()
}

fn of_one(ceiling: &Ceiling, researcher: &HostIds) -> Option<Vec<Kept>> {
    let mut chosen: Vec<(u64, Kept)> = Vec::new();
    if ceiling.bytes.is_none() && ceiling.files.is_none() {
        return None;
    }
    for (which, dir) in &ceiling.dirs {
        let place = open_above(dir, researcher).ok()?;
        let disk = fstat(&place).ok()?.st_dev;
        if let Some((_, kept)) = chosen.iter_mut().find(|(other, _)| *other == disk) {
            kept.on.push(*which);
            continue;
        }
        let (bytes, files) = (ceiling.bytes, ceiling.files);
        let project = unused(&place)?;
        chosen.push((disk, Kept { what: ceiling.what.to_owned(), on: vec![*which], project, bytes, files }));
    }
    Some(chosen.into_iter().map(|(_, kept)| kept).collect())
}

/// A project that nobody uses on the file system of `place`; none if that keeps no limits of projects, or if what is made
/// there belongs to a project of the site's, whose limits are not to be escaped.
fn unused(place: &OwnedFd) -> Option<u32> {
    quota::keeps_project_limits(place).ok().filter(|kept| *kept)?;
    let (project, inherited) = quota::project(place).ok()?;
    if inherited && project != 0 {
        return None;
    }
    let mut random = File::open("/dev/urandom").ok()?;
    let mut draw = || {
        let mut bytes = [0; 4];
        random.read_exact(&mut bytes).ok().map(|()| IDS.start + u32::from_ne_bytes(bytes) % (IDS.end - IDS.start))
    };
    for _ in 0..TRIES {
        let id = draw()?;
        if quota::quota(place, id).ok()? == Quota::default() {
            return Some(id);
        }
    }
    None
}

/// The nearest directory above `dir` that is there: a researcher's with their rights, else root's.
fn open_above(dir: &Path, researcher: &HostIds) -> Result<OwnedFd> {
    let above = dir.ancestors().skip(1).find(|above| above.exists()).unwrap_or(dir);
    acting_as(researcher, || open_directory(above, true)).or_else(|_| open_directory(above, true))
}

impl Kept {
    /// Makes its directories, empty and open in `dirs`, the project's, and sets the limits.
    ///
    /// # Errors
    /// When one cannot be set, or is not as it was set.
    pub fn begin(&self, _: &Root, dirs: &[&OwnedFd]) -> Result<()> {
        let Some(first) = dirs.first() else { return Ok(()) };
        for dir in dirs {
            quota::set_project(dir, self.project, true).map_err(|e| self.fail(e))?;
            if quota::project(dir).map_err(|e| self.fail(e))? != (self.project, true) {
                return Err(self.fail("a directory is not what it was set to"));
            }
        }
        // The directories themselves are counted too.
        let begun = quota::quota(first, self.project).map_err(|e| self.fail(e))?;
        let max_bytes = self.bytes.map_or(0, |max| (max.saturating_add(begun.bytes) >> 10).max(1) << 10);
        let max_files = self.files.map_or(0, |max| max.saturating_add(begun.files).max(1));
        quota::set_quota(first, self.project, max_bytes, max_files).map_err(|e| self.fail(e))?;
        let set = quota::quota(first, self.project).map_err(|e| self.fail(e))?;
        if (set.max_bytes, set.max_files) == (max_bytes, max_files) {
            return Ok(());
        }
        Err(self.fail(format!("the limits are {set:?}")))
    }

    /// What was used up, in words, if something was; `dir` is on its file system.
    pub fn used_up(&self, _: &Root, dir: impl AsFd) -> Option<String> {
        let used = quota::quota(&dir, self.project).ok()?;
        let block = fstatvfs(&dir).map_or(4096, |found| found.fragment_size());
        let spare = used.max_bytes.saturating_sub(used.bytes);
        let full = match (self.bytes, self.files) {
            (Some(bytes), _) if spare < block.saturating_mul(BLOCKS_TO_SPARE) => show_size(bytes),
            (_, Some(files)) if used.files >= used.max_files => format!("{files} files"),
            _ => return None,
        };
        Some(format!("{} limit: {full} were used up, and nothing more could be written", self.what))
    }

    /// Takes a file out of the project; one that is not in it is left as it is.
    pub fn release(&self, file: impl AsFd) {
        if quota::project(&file).is_ok_and(|(project, _)| project == self.project) {
            // What cannot be taken out is counted for a project without limits.
            quota::set_project(file, 0, false).ok();
        }
    }

    /// Takes the limits away.
    ///
    /// # Errors
    /// When the kernel keeps them.
    pub fn end(&self, _: &Root, places: &Places, researcher: &HostIds) -> Result<()> {
        let Some(dir) = self.on.first().map(|which| which.of(places)) else { return Ok(()) };
        quota::set_quota(open_above(&dir, researcher)?, self.project, 0, 0).map_err(|e| self.fail(e))
    }

    fn fail(&self, why: impl ToString) -> Error {
        Error::new(Stage::Run, Kind::Host, format!("cannot bound {} by a project quota", self.what))
            .because(why.to_string())
            .hint(
                "its file system says that it keeps limits of projects: see ces doctor, and quotaon(8) or xfs_quota(8)",
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::privilege::as_root;

    // That limits are kept is seen in the guest of scripts/test-vm: `guest::quotas`.
    #[test]
    fn a_file_system_without_quotas_of_projects_keeps_nothing() {
        let dir = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let me = HostIds { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), groups: vec![] };
        let ceiling =
            |bytes| Ceiling { what: "scratch", dirs: vec![(Which::Work, dir.path().join("a/b"))], bytes, files: None };
        assert_eq!(as_root(|root| choose(root, &[ceiling(Some(1)), ceiling(None)], &me)), []);
        let kept = Kept { what: "scratch".to_owned(), on: vec![], project: IDS.start, bytes: Some(1), files: None };
        let place = OwnedFd::from(File::open(dir.path()).unwrap());
        assert!(
            as_root(|root| kept.begin(root, &[&place]))
                .unwrap_err()
                .to_string()
                .starts_with("cannot bound scratch by a project quota")
        );
        assert_eq!(as_root(|root| kept.used_up(root, &place)), None);
        kept.release(&place);
    }
}
