//! The project's data on the host: which directory becomes `/safe_data`.
//!
//! Takes the caller, the policy's data root and `--project`; gives a `SafeData`, whose path is resolved; trusts the group
//! database; refuses to guess between two projects, a `~/safe_data` that leads to anything but a project or a directory of
//! the researcher's own, and a directory that they cannot read (or write, where writing is allowed).

use std::path::{Component, Path, PathBuf};

use nix::sys::stat::FileStat;
use nix::unistd::{AccessFlags, Gid, Group};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::ids::HostIds;
use crate::host::place::{Mounts, Place, Position};
use crate::host::privilege::{Root, acting_as};

/// The data directory of one run.
#[derive(Debug, Clone)]
pub struct SafeData {
    /// The project's name; none for a `safe_data` directory in the home.
    pub project: Option<String>,
    /// Where the data is on the host, without links; in words, where there is none.
    pub path: PathBuf,
    /// The group through which the researcher has access: kept in the container.
    pub group: Option<Gid>,
    /// The directory itself, which was judged and is bound; none: an empty one that is made for the run.
    pub place: Option<Place>,
    /// It is never bound to be written, whatever the policy says.
    pub read_only: bool,
}

impl SafeData {
    /// No data: an empty directory of the run's own.
    pub fn nothing() -> Self {
        let path = PathBuf::from("an empty directory");
        Self { project: None, path, group: None, place: None, read_only: true }
    }

    /// The directory of the host that is bound, if there is one.
    pub fn bound(&self) -> Option<&Path> {
        self.place.as_ref().map(Place::path)
    }

    fn of(project: Option<String>, place: Place, caller: &Caller) -> Self {
        let (path, group) = (place.path().to_owned(), group_of(place.found(), caller));
        Self { project, path, group, place: Some(place), read_only: false }
    }
}

/// Finds the project's directory: `--project`, else `~/safe_data`, else the first of `root` that a group of the
/// researcher names (`PROJECT` or `<prefix>-PROJECT`).
///
/// # Errors
/// When there is none, the name is no plain directory name, or `~/safe_data` leads elsewhere.
pub fn find(caller: &Caller, root: &Path, project: Option<&str>) -> Result<SafeData> {
    if let Some(project) = project {
        if project.is_empty() || project.contains('/') || project.starts_with('.') {
            return Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{project}\" is not a project name"))
                .hint(format!("give the name of a directory below {}", root.display())));
        }
        let path = root.join(project);
        return of_project(caller, project, &path)?.ok_or_else(|| {
            Error::new(Stage::Bundle, Kind::Missing, format!("there is no project directory {}", path.display()))
                .hint("check the name given to --project")
        });
    }
    if let Some(own) = in_home(caller, root)? {
        return Ok(own);
    }
    let names = group_names(caller);
    let projects = of_groups(&names, root);
    match projects.first().map(|project| of_project(caller, project, &root.join(project))).transpose()?.flatten() {
        Some(found) => Ok(found),
        None => Err(Error::new(
            Stage::Bundle,
            Kind::Missing,
            format!("cannot find a project directory corresponding to any of your groups: {}", names.join(", ")),
        )
        .because(format!(
            "looked for {}, then for {}/PROJECT with a group PROJECT or <prefix>-PROJECT",
            caller.home.join("safe_data").display(),
            root.display()
        ))
        .hint("name the project with --project, or ask for membership of its group")),
    }
}

/// The projects that groups of the caller's name, in order: the first one is that of a run which names none.
pub fn projects(caller: &Caller, root: &Path) -> Vec<String> {
    of_groups(&group_names(caller), root)
}

fn group_names(caller: &Caller) -> Vec<String> {
    caller.groups().iter().filter_map(|gid| Some(Group::from_gid(*gid).ok()??.name)).collect()
}

fn of_groups(names: &[String], root: &Path) -> Vec<String> {
    let mut projects: Vec<String> = std::fs::read_dir(root)
        .map(|dir| {
            dir.flatten().filter(|e| e.path().is_dir()).filter_map(|e| e.file_name().into_string().ok()).collect()
        })
        .unwrap_or_default();
    projects.sort();
    projects.retain(|project| {
        names.iter().any(|name| {
            name == project
                || name.strip_suffix(project.as_str()).is_some_and(|prefix| prefix.len() > 1 && prefix.ends_with('-'))
        })
    });
    projects
}

/// The directory of a project; none if it is not there, or not a directory.
fn of_project(caller: &Caller, project: &str, path: &Path) -> Result<Option<SafeData>> {
    Ok(directory(path).map(|place| SafeData::of(Some(project.to_owned()), place, caller)))
}

/// `~/safe_data`, if it is there. A link decides nothing by its name: what it leads to is a project, with that project's
/// rules, or a directory of the researcher's own in their home.
fn in_home(caller: &Caller, root: &Path) -> Result<Option<SafeData>> {
    let named = caller.home.join("safe_data");
    let Some(place) = directory(&named) else { return Ok(None) };
    let real = place.path().to_owned();
    let refused = |why: &str| {
        Error::new(Stage::Bundle, Kind::Policy, format!("{} cannot be used as safe data", named.display()))
            .because(format!("it is {}: {why}", real.display()))
            .hint(format!("name the project with --project, or make {} a directory of your own", named.display()))
    };
    let real_path = |path: &Path| directory(path).map_or_else(|| path.to_owned(), |place| place.path().to_owned());
    let data_root = real_path(root);
    if data_root.starts_with(&real) {
        return Err(refused("the directory of all projects, or one above it"));
    }
    if let Ok(below) = real.strip_prefix(&data_root) {
        let Some(Component::Normal(project)) = below.components().next() else {
            return Err(refused("the directory of all projects"));
        };
        let project = project.to_str().ok_or_else(|| refused("its name is not text"))?.to_owned();
        return Ok(Some(SafeData::of(Some(project), place, caller)));
    }
    let home = real_path(&caller.home);
    if !real.starts_with(&home) || real == home {
        return Err(refused("neither a project nor in your home"));
    }
    // Root's own may have been provided by the site.
    let owner = place.found().st_uid;
    if owner != caller.uid.as_raw() && owner != 0 {
        return Err(refused(&format!("it belongs to uid {owner}")));
    }
    Ok(Some(SafeData::of(None, place, caller)))
}

/// A directory, if it is there; what the researcher cannot reach is not there for them.
fn directory(path: &Path) -> Option<Place> {
    Place::open(path).ok().filter(Place::is_directory)
}

/// Where the projects' data is: the directory of all of them, what each name in it leads to, and what is mounted below. Nothing is
/// mounted by being looked at.
///
/// # Errors
/// When the kernel does not tell.
pub fn positions_of_projects(_: &Root, mounts: &Mounts, root: &Path) -> std::io::Result<Vec<Position>> {
    let Ok(all) = Place::open(root) else { return Ok(Vec::new()) };
    let mut found = mounts.positions(&all)?;
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        // Only what leads elsewhere is somewhere else.
        if entry.file_type().is_ok_and(|kind| kind.is_symlink())
            && let Ok(project) = Place::glance(&entry.path())
        {
            found.extend(mounts.positions(&project)?);
        }
    }
    Ok(found)
}

/// Asks the kernel whether `ids` may read `path` (and write to it, when `write`).
///
/// # Errors
/// "cannot read from" or "cannot write to", naming the directory.
pub fn check_access(data: &SafeData, ids: &HostIds, write: bool) -> Result<()> {
    let Some(path) = data.bound() else { return Ok(()) };
    let wanted = [("read from", AccessFlags::R_OK | AccessFlags::X_OK), ("write to", AccessFlags::W_OK)];
    for (what, flags) in wanted.into_iter().take(if write { 2 } else { 1 }) {
        let answer = acting_as(ids, || Ok(nix::unistd::eaccess(path, flags)))?;
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

/// The group that owns the directory, if the researcher is in it: the only one the container needs.
fn group_of(found: &FileStat, caller: &Caller) -> Option<Gid> {
    let owner = Gid::from_raw(found.st_gid);
    caller.groups().contains(&owner).then_some(owner).filter(|gid| gid.as_raw() != 0)
}
