//! The project's data on the host: which directory becomes `/safe_data`.
//!
//! Takes the caller, the policy's data root and `--project`; gives a `SafeData`; trusts the group database; refuses
//! to guess between two projects, and a directory that the researcher cannot read (or write, where writing is allowed).

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Gid, Group};

use super::identity::{HostIds, acting_as};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;

/// The data directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeData {
    /// The project's name; none for a `safe_data` directory in the home.
    pub project: Option<String>,
    /// Where the data is on the host.
    pub path: PathBuf,
    /// The group through which the researcher has access: kept in the container.
    pub group: Option<Gid>,
}

/// Finds the project's directory: `--project`, else `~/safe_data`, else the first of `root` that a group of the
/// researcher names (`PROJECT` or `<prefix>-PROJECT`).
///
/// # Errors
/// When there is none, or the name is no plain directory name.
pub fn find(caller: &Caller, root: &Path, project: Option<&str>) -> Result<SafeData> {
    let groups = caller.groups()?;
    if let Some(project) = project {
        if project.is_empty() || project.contains('/') || project.starts_with('.') {
            return Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{project}\" is not a project name"))
                .hint(format!("give the name of a directory below {}", root.display())));
        }
        let path = root.join(project);
        if !path.is_dir() {
            return Err(Error::new(
                Stage::Bundle,
                Kind::Missing,
                format!("there is no project directory {}", path.display()),
            )
            .hint("check the name given to --project"));
        }
        return Ok(SafeData { project: Some(project.to_owned()), group: group_of(&path, &groups), path });
    }
    let own = caller.home.join("safe_data");
    // As the researcher: a home may shut root out (root_squash, FUSE).
    let researcher = HostIds {
        uid: caller.uid.as_raw(),
        gid: caller.gid.as_raw(),
        groups: groups.iter().map(|group| group.as_raw()).collect(),
    };
    let found = acting_as(&researcher, caller.is_privileged(), || Ok(own.is_dir().then(|| group_of(&own, &groups))))?;
    if let Some(group) = found {
        return Ok(SafeData { project: None, group, path: own });
    }
    let mut projects: Vec<String> = fs::read_dir(root)
        .map(|dir| {
            dir.flatten().filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()
        })
        .unwrap_or_default();
    projects.sort();
    let names: Vec<String> = groups.iter().filter_map(|gid| Some(Group::from_gid(*gid).ok()??.name)).collect();
    let named = |project: &str| {
        names.iter().any(|name| {
            name == project
                || name.strip_suffix(project).is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('-'))
        })
    };
    match projects.iter().find(|project| named(project)) {
        Some(project) => {
            let path = root.join(project);
            Ok(SafeData { project: Some(project.clone()), group: group_of(&path, &groups), path })
        }
        None => Err(Error::new(
            Stage::Bundle,
            Kind::Missing,
            format!("cannot find a project directory corresponding to any of your groups: {}", names.join(", ")),
        )
        .because(format!(
            "looked for {}, then for {}/PROJECT with a group PROJECT or <prefix>-PROJECT",
            own.display(),
            root.display()
        ))
        .hint("name the project with --project, or ask for membership of its group")),
    }
}

/// Asks the kernel whether `ids` may read `path` (and write to it, when `write`).
///
/// # Errors
/// "cannot read from" or "cannot write to", naming the directory.
pub fn check_access(data: &SafeData, ids: &HostIds, privileged: bool, write: bool) -> Result<()> {
    let path = &data.path;
    let wanted = [("read from", AccessFlags::R_OK | AccessFlags::X_OK), ("write to", AccessFlags::W_OK)];
    for (what, flags) in wanted.into_iter().take(if write { 2 } else { 1 }) {
        let answer = acting_as(ids, privileged, || Ok(nix::unistd::eaccess(path, flags)))?;
        if let Err(e) = answer {
            return Err(Error::new(Stage::Bundle, Kind::Failed, format!("cannot {what} {}", path.display()))
                .because(e.desc())
                .hint(if what == "write to" {
                    "ask the project's owner for write access, or add --data-ro"
                } else {
                    "ask the project's owner for access; as root, call ces through sudo so that it knows the researcher"
                }));
        }
    }
    Ok(())
}

/// The group that owns `path`, if the researcher is in it: the only one the container needs.
fn group_of(path: &Path, groups: &[Gid]) -> Option<Gid> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = Gid::from_raw(fs::metadata(path).ok()?.gid());
    groups.contains(&owner).then_some(owner).filter(|gid| gid.as_raw() != 0)
}
