//! What of the host a run sees: layers, volumes, ports, binds.
//!
//! Takes a prepared run and its places; gives what the stage process mounts; trusts what was resolved and judged before;
//! refuses nothing.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::facts;
use super::prepare::{self, Prepared};
use crate::bundle::rootfs::{Bind, Made, Plan};
use crate::bundle::spec::HostPaths;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::place::{Inode, Place};
use crate::host::privilege::as_root;
use crate::policy::request::{Listen, PortRequest};
use crate::run::job_id::JobId;
use crate::run::reown;
use crate::run::supervisor::job::Job;
use crate::run::supervisor::places::Places;

/// What to mount.
///
/// # Errors
/// When a layer of the user's own cannot be made, or the image's root belongs to an id that is not mapped.
pub(super) fn plan(prepared: &Prepared, job: &Job, spec: &Spec, paths: &HostPaths) -> Result<Plan> {
    let (root, places) = (prepared.image.root(), &job.places);
    Ok(Plan {
        root_mode: root.mode,
        root_owner: prepared.identity.for_mounting(root.uid, root.gid)?,
        layers: layers(prepared)?,
        work: places.work.clone(),
        binds: binds(prepared, job, spec, paths)?,
        root_ids: prepared.identity.root(),
        cover: places.work.clone(),
    })
}

/// What the root file system is made of, base first.
fn layers(prepared: &Prepared) -> Result<Vec<PathBuf>> {
    let own = as_root(|root| reown::layers(root, &prepared.dirs, &prepared.image, &prepared.identity))?;
    Ok(prepared.image.mount_points().into_iter().chain(own).collect())
}

/// Volumes of the image, which are made where it lacks them.
pub(super) fn volumes(prepared: &Prepared) -> Vec<PathBuf> {
    let config = prepared.image.config().config().as_ref();
    config.and_then(|config| config.volumes().as_ref()).into_iter().flatten().map(PathBuf::from).collect()
}

/// The granted ports, with every socket's path: beside the outputs where none was given.
///
/// # Errors
/// When the current directory is gone.
pub(super) fn port_requests(prepared: &Prepared, id: &JobId) -> Result<Vec<PortRequest>> {
    let home = &prepared.identity.caller.home;
    let cwd = std::env::current_dir().map_err(|e| {
        Error::new(Stage::Cli, Kind::Host, "the current directory cannot be found")
            .because(e)
            .hint("change to another directory (cd)")
    })?;
    let with_path = |port: &PortRequest| {
        let listen = match &port.listen {
            Listen::Socket(None) => Listen::Socket(Some(home.join(format!("port_{id}_{}.sock", port.container)))),
            Listen::Socket(Some(path)) => Listen::Socket(Some(facts::locate(&path.to_string_lossy(), &cwd, home))),
            Listen::Loopback(port) => Listen::Loopback(*port),
        };
        PortRequest { listen, container: port.container }
    };
    Ok(prepared.grant.ports.iter().map(with_path).collect())
}

/// What is bound into the container, by paths without links.
pub(super) fn host_paths(prepared: &Prepared, places: &Places) -> HostPaths {
    // A home may be reached through a link of the site's.
    let home = facts::resolve(&places.home).unwrap_or_else(|| places.home.clone());
    HostPaths {
        data: Some(prepared.data.bound().map_or_else(|| places.work.join("safe_data"), Path::to_owned)),
        outputs: home.join(&places.outputs),
        scratch: home.join(&places.scratch),
        hosts: places.work.join("hosts"),
        hostname: places.work.join("hostname"),
        resolv_conf: places.work.join("resolv.conf"),
    }
}

/// What the spec binds, with whose rights each is opened.
fn binds(prepared: &Prepared, job: &Job, spec: &Spec, paths: &HostPaths) -> Result<Vec<Bind>> {
    let identity = &prepared.identity;
    let inode = |directory: OwnedFd| {
        Inode::of(&directory).map_err(|e| {
            Error::new(Stage::Bundle, Kind::Failed, "cannot look at a directory of this run").because(e.desc())
        })
    };
    let of_ours =
        [(&paths.outputs, inode(job.outputs_directory()?)?), (&paths.scratch, inode(job.scratch_directory()?)?)];
    let judged = |source: &PathBuf| {
        let named = prepared.places.iter().find(|place| place.path() == source).map(Place::inode);
        of_ours.iter().find(|(path, _)| *path == source).map_or(named, |(_, made)| Some(*made))
    };
    let texts = prepare::etc(prepared.hostname(job.id().as_str())).map(|(_, text)| text);
    // Their paths are names alone: nothing of them is on a disk.
    let etc = [&paths.hosts, &paths.hostname, &paths.resolv_conf].into_iter().zip(texts.map(Made::Text));
    let nothing = paths.data.as_ref().filter(|_| prepared.data.place.is_none());
    let made: Vec<_> = etc.chain(nothing.map(|path| (path, Made::Directory))).collect();
    let ces = HostIds { uid: 0, gid: 0, groups: Vec::new() };
    let bound = spec.mounts().iter().flatten().filter_map(|mount| {
        let options = mount.options().as_ref()?;
        let has = |name: &str| options.iter().any(|o| o == name);
        (has("bind") || has("rbind")).then_some(())?;
        let source = mount.source().clone()?;
        let made = made.iter().find(|(path, _)| **path == source).map(|(_, made)| made.clone());
        let opened_as = if made.is_some() {
            ces.clone()
        } else if Some(&source) == paths.data.as_ref() {
            identity.payload()
        } else {
            identity.researcher()
        };
        Some(Bind {
            judged: judged(&source),
            source,
            made,
            destination: mount.destination().clone(),
            read_only: has("ro") || has("rro"),
            no_exec: has("noexec"),
            opened_as,
        })
    });
    Ok(bound.collect())
}
