//! The runtime spec: `config.json`, complete and portable.
//!
//! Takes grant, image configuration, user, id maps and paths of the host; gives a `Spec` that crun and runc run as it
//! is, in a user namespace; trusts the grant; refuses what of the image cannot be run safely. Pure: it touches nothing.
//!
//! No hook and no annotation is ever written, least of all from an image.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, User, UserBuilder,
};

use super::image_user::ResolvedUser;
use super::masks::Masks;
use super::{process, seccomp};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::disks::Disk;
use crate::host::idmap::{Extent, IdMap};
use crate::policy::grant::Grant;
use crate::policy::request::Ulimit;

/// Mounts of the container.
pub mod mounts;
/// Limits, as control groups know them.
pub mod resources;

/// The payload is killed before anything of the host when memory runs out (proc_pid_oom_score_adj(5)).
pub const OOM_SCORE_ADJ: i32 = 500;

/// Paths of the host that are mounted.
#[derive(Debug, Clone, Default)]
pub struct HostPaths {
    /// `/safe_data`.
    pub data: Option<PathBuf>,
    /// `/safe_outputs`.
    pub outputs: PathBuf,
    /// `/scratch`.
    pub scratch: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// `/etc/hostname`.
    pub hostname: PathBuf,
    /// `/etc/resolv.conf`, without a server.
    pub resolv_conf: PathBuf,
}

/// Everything a spec is made of.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// What the run gets.
    pub grant: &'a Grant,
    /// The image's configuration.
    pub image: &'a ImageConfiguration,
    /// Who the payload runs as.
    pub user: &'a ResolvedUser,
    /// The container's user namespace.
    pub ids: &'a IdMap,
    /// Groups of the image that the user is in as well.
    pub groups: &'a [u32],
    /// Paths of the host.
    pub paths: &'a HostPaths,
    /// The root file system: `rootfs` beside `config.json`, or absolute.
    pub rootfs: &'a Path,
    /// The run's id: the host name where none is asked for.
    pub job: &'a str,
    /// The control group, if ces decides it.
    pub cgroups_path: Option<&'a Path>,
    /// The caller's `TERM`.
    pub term: Option<&'a str>,
    /// More paths to mask: [`super::masks::of_this_host`].
    pub masks: &'a [String],
    /// The disks of the run, where its traffic with them has a limit.
    pub disks: &'a BTreeSet<Disk>,
    /// For a runtime that installs the seccomp rules itself; ces has its own programs for `run`.
    pub portable: bool,
}

impl SpecInput<'_> {
    /// The container's host name.
    pub fn hostname(&self) -> &str {
        self.grant.hostname.as_deref().unwrap_or(self.job)
    }
}

/// Builds the spec.
///
/// # Errors
/// When the image's command, environment, directory or user cannot be run; each names what.
pub fn build(input: &SpecInput<'_>) -> Result<Spec> {
    check_ids(input)?;
    let masks = Masks::load()?;
    let mut linux = LinuxBuilder::default()
        .uid_mappings(mappings(&input.ids.uids)?)
        .gid_mappings(mappings(&input.ids.gids)?)
        .namespaces(namespaces()?)
        .resources(resources::build(&input.grant.limits, input.disks)?)
        .masked_paths(masks.masked.into_iter().chain(input.masks.iter().cloned()).collect::<Vec<_>>())
        .readonly_paths(masks.readonly);
    if input.portable {
        linux = linux.seccomp(seccomp::to_oci(seccomp::Arch::native()?)?);
    }
    if let Some(path) = input.cgroups_path {
        linux = linux.cgroups_path(path);
    }
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(input.rootfs).readonly(input.grant.read_only).build().map_err(internal)?)
        .process(payload(input)?)
        .hostname(input.hostname())
        .mounts(mounts::build(input)?)
        .linux(linux.build().map_err(internal)?)
        .build()
        .map_err(internal)
        .map(without_defaults)
}

/// What of the image's configuration was left out, for the user to know.
///
/// # Errors
/// As [`build`].
pub fn notes(input: &SpecInput<'_>) -> Result<Vec<String>> {
    let (_, mut notes) = process::environment(input.image, input.grant, input.user, input.hostname(), input.term)?;
    notes.extend(process::stop_signal(input.image).1);
    Ok(notes)
}

/// The spec for libcontainer: the same, less what ces has done before it calls it (user, network, cgroup and IPC namespace,
/// id maps, supplementary groups, resources, seccomp, the score for the out-of-memory killer). Where the payload gets a `nested` user namespace,
/// the container's root enters it.
pub fn engine_spec(spec: &Spec, nested: bool) -> Spec {
    let mut engine = spec.clone();
    if let Some(process) = engine.process_mut() {
        process.set_oom_score_adj(None);
        // They are set before the namespace is entered, with the project's group, which could not be set in it.
        let mut user = process.user().clone();
        user.set_additional_gids(None);
        process.set_user(user);
        if nested {
            // What it needs to map itself (user_namespaces(7): the parent's 0, CAP_SETFCAP), and drops there.
            let one = || Some(Capabilities::from([Capability::Setfcap]));
            let mut held = process.capabilities().clone().unwrap_or_default();
            held.set_bounding(one()).set_effective(one()).set_permitted(one());
            process.set_user(User::default()).set_capabilities(Some(held));
        }
    }
    if let Some(linux) = engine.linux_mut() {
        linux
            .set_uid_mappings(None)
            .set_gid_mappings(None)
            .set_resources(None)
            .set_seccomp(None)
            .set_cgroups_path(None);
        let done = [
            LinuxNamespaceType::User,
            LinuxNamespaceType::Network,
            LinuxNamespaceType::Cgroup,
            LinuxNamespaceType::Ipc,
        ];
        if let Some(namespaces) = linux.namespaces_mut() {
            namespaces.retain(|namespace| !done.contains(&namespace.typ()));
        }
    }
    engine
}

/// The bytes of `config.json`, the same for the same spec: sets are written in order.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn to_json(spec: &Spec) -> Result<Vec<u8>> {
    let failed = |e: serde_json::Error| {
        Error::new(Stage::Bundle, Kind::Failed, "the runtime spec cannot be written as JSON").because(e)
    };
    let mut value = serde_json::to_value(spec).map_err(failed)?;
    if let Some(sets) = value.pointer_mut("/process/capabilities").and_then(|sets| sets.as_object_mut()) {
        for list in sets.values_mut().filter_map(|set| set.as_array_mut()) {
            list.sort_by_key(ToString::to_string);
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&value).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn internal(e: OciSpecError) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, "the runtime spec cannot be built").caused_by(&e)
}

/// The builders fill in devices and mounts of their own where nothing is said: nothing of theirs is wanted.
fn without_defaults(mut spec: Spec) -> Spec {
    spec.set_annotations(None).set_hooks(None);
    if let Some(linux) = spec.linux_mut() {
        linux.set_devices(None).set_rootfs_propagation(Some("private".to_owned()));
    }
    spec
}

fn check_ids(input: &SpecInput<'_>) -> Result<()> {
    let (uid, gid) = (input.user.uid, input.user.gid);
    let unmapped = |what: &str, id: u32| {
        Error::new(Stage::Bundle, Kind::Host, format!("the image's {what} {id} has no id on this host"))
            .because("it is outside the id maps of the container")
            .hint("choose another user with --user")
    };
    input.ids.uid_outside(uid).ok_or_else(|| unmapped("user", uid))?;
    input.ids.gid_outside(gid).ok_or_else(|| unmapped("group", gid))?;
    Ok(())
}

fn mappings(extents: &[Extent]) -> Result<Vec<LinuxIdMapping>> {
    extents
        .iter()
        .map(|e| {
            LinuxIdMappingBuilder::default()
                .container_id(e.inside)
                .host_id(e.outside)
                .size(e.count)
                .build()
                .map_err(internal)
        })
        .collect()
}

fn namespaces() -> Result<Vec<LinuxNamespace>> {
    [
        LinuxNamespaceType::User,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Network,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ]
    .into_iter()
    .map(|typ| LinuxNamespaceBuilder::default().typ(typ).build().map_err(internal))
    .collect()
}

fn payload(input: &SpecInput<'_>) -> Result<Process> {
    let grant = input.grant;
    let (env, _) = process::environment(input.image, grant, input.user, input.hostname(), input.term)?;
    let mut user = UserBuilder::default().uid(input.user.uid).gid(input.user.gid).umask(0o022_u32);
    if !input.groups.is_empty() {
        user = user.additional_gids(input.groups);
    }
    let user = user.build().map_err(internal)?;
    ProcessBuilder::default()
        .terminal(grant.tty)
        .user(user)
        .args(process::command(input.image, grant)?)
        .env(env)
        .cwd(process::workdir(input.image, grant)?)
        .capabilities(capabilities(&grant.profile.capabilities)?)
        .rlimits(rlimits(&grant.ulimits)?)
        .no_new_privileges(true)
        .oom_score_adj(OOM_SCORE_ADJ)
        .build()
        .map_err(internal)
}

/// All five sets are written: a set left out is one that a runtime leaves as it is.
fn capabilities(names: &[String]) -> Result<LinuxCapabilities> {
    let held: Capabilities = names
        .iter()
        .map(|name| {
            name.parse::<Capability>().map_err(|_| {
                Error::new(Stage::Bundle, Kind::Failed, format!("the profile names the unknown capability {name}"))
            })
        })
        .collect::<Result<_>>()?;
    LinuxCapabilitiesBuilder::default()
        .bounding(held.clone())
        .effective(held.clone())
        .permitted(held)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(internal)
}

fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    ulimits
        .iter()
        .map(|ulimit| {
            let name = format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase());
            let typ: PosixRlimitType = serde_json::from_value(name.clone().into())
                .map_err(|_| Error::new(Stage::Bundle, Kind::Failed, format!("there is no limit {name}")))?;
            PosixRlimitBuilder::default().typ(typ).soft(ulimit.soft).hard(ulimit.hard).build().map_err(internal)
        })
        .collect()
}
