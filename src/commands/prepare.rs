//! What `run`, `spec`, `bundle` and `policy explain` have in common: everything up to the spec.
//!
//! In this order: who calls → policy → what was asked → the stored image → the project's data → the grant → who is who.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use super::facts::{self, Named};
use super::{Site, after_image, request, stack_gate};
use crate::bundle::identity::Identity;
use crate::bundle::image_user::{self, ResolvedUser};
use crate::bundle::safe_data::{self, SafeData};
use crate::bundle::spec::{self, HostPaths, SpecInput};
use crate::bundle::{image_files, masks};
use crate::cli::{Global, RunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::disks::{self, Disk};
use crate::host::features;
use crate::host::idmap;
use crate::host::place::{self, Mounts, Place};
use crate::host::privilege::as_root;
use crate::host::sockets;
use crate::image::document::Platform;
use crate::image::store::StoredImage;
use crate::policy::approved::Approved;
use crate::policy::grant::{Grant, Rehearsed};
use crate::policy::request::RunRequest;
use crate::policy::{Access, Policy};

/// Everything that is decided before anything is made.
#[allow(missing_debug_implementations, reason = "a stored image holds locks, which say nothing")]
pub struct Prepared {
    /// Where things are.
    pub dirs: Dirs,
    /// The rules in force.
    pub policy: Policy,
    /// What was asked.
    pub request: RunRequest,
    /// The image; its layers stay while this lives.
    pub image: StoredImage,
    /// The data.
    pub data: SafeData,
    /// What was named to be bound, and judged: held until it is.
    pub places: Vec<Place>,
    /// What is known of rehearsals of the image.
    pub rehearsed: Rehearsed,
    /// What the run gets.
    pub grant: Grant,
    /// The container's user.
    pub user: ResolvedUser,
    /// Who is who.
    pub identity: Identity,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Reads what was asked.
///
/// # Errors
/// When it makes no sense, or a file it names cannot be read.
pub fn read_request(args: &RunArgs) -> Result<RunRequest> {
    request::read(args, &request::read_file, &request::caller_env())
}

/// Who calls, on a host that can run containers at all.
///
/// # Errors
/// When the caller is nobody, or the host lacks something.
pub fn caller() -> Result<Caller> {
    let caller = Caller::find()?;
    features::require(caller.is_privileged())?;
    Ok(caller)
}

/// What is known of rehearsals, if that is not what is kept; and how the data is found, given the caller, the policy, and the project that
/// was named.
type Otherwise<F> = (Option<Rehearsed>, F);

/// The data that a run sees.
fn found(caller: &Caller, policy: &Policy, project: Option<&str>) -> Result<SafeData> {
    safe_data::find(caller, policy.data_root(), project)
}

/// Decides everything for a run; nothing is made.
///
/// # Errors
/// Each stage's own.
pub fn prepare(global: &Global, args: &RunArgs, caller: Caller) -> Result<Prepared> {
    prepare_on(global, args, caller, (None, found))
}

/// The same of what was asked before.
///
/// # Errors
/// Each stage's own.
pub fn prepare_again(global: &Global, request: RunRequest, caller: Caller) -> Result<Prepared> {
    decide(global, caller, || Ok(request), (None, found))
}

/// The same on data that is found otherwise.
///
/// # Errors
/// Each stage's own.
pub fn prepare_on(
    global: &Global,
    args: &RunArgs,
    caller: Caller,
    otherwise: Otherwise<impl FnOnce(&Caller, &Policy, Option<&str>) -> Result<SafeData>>,
) -> Result<Prepared> {
    decide(global, caller, || read_request(args), otherwise)
}

fn decide(
    global: &Global,
    caller: Caller,
    read: impl FnOnce() -> Result<RunRequest>,
    (rehearsed, find): Otherwise<impl FnOnce(&Caller, &Policy, Option<&str>) -> Result<SafeData>>,
) -> Result<Prepared> {
    let site = Site::of(global, caller)?;
    let mut request = read()?;
    let mut warnings = std::mem::take(&mut request.warnings);
    warnings.extend(idmap::helper_is_missing(&site.caller)?);
    site.sweep()?;
    let store = site.store()?;
    let image = store.find(&request.image)?;
    settle_command(&image, &mut request)?;
    let Site { caller, policy, dirs } = site;
    let data = find(&caller, &policy, request.project.as_deref())?;
    request.data_ro |= data.read_only;
    let sources = facts::sources(&request.binds, &caller.home)?;
    let mut facts = facts::gather(&policy, &caller, &request, Named::stored(&image, &request), Some(&data), &sources)?;
    facts.rehearsed = match rehearsed {
        Some(rehearsed) => rehearsed,
        None => facts::rehearsed((&dirs, &caller, &policy), &facts.digest)?,
    };
    let mut grant = policy.grant(&request, &facts)?;
    let for_whom = (facts.approved.as_ref(), facts.project.as_deref());
    grant.decisions.extend(stack_gate::may_run((&dirs, &caller, &policy), &store, &image, for_whom)?);
    for (name, place) in &sources {
        refuse_projects(&policy, place, &format!("-v {name}"))?;
    }
    let ends_soon = |list: &Approved| list.ends_soon(&facts.digest, facts.project.as_deref(), facts.today);
    warnings.extend(facts.approved.as_ref().and_then(ends_soon));
    let user = container_user(grant.user.as_deref(), &image)?;
    let identity = Identity::new(
        &caller,
        user.uid,
        user.gid,
        data.group.into_iter().collect(),
        !grant.profile.capabilities.is_empty(),
    )?
    .with_own_groups(&user.groups);
    // With a single id all files of the image are the user's own, whatever their group.
    if identity.own_groups.len() < user.groups.len() && !identity.container.is_single() {
        warnings.push(format!(
            "the image's user is in {} of the image that this run does not have: {}",
            match user.groups.len() - identity.own_groups.len() {
                1 => "1 group".to_owned(),
                groups => format!("{groups} groups"),
            },
            if caller.is_privileged() {
                "they have no ids on this host"
            } else {
                "an ordinary user's container keeps their own groups instead (through sudo it has both)"
            }
        ));
    }
    safe_data::check_access(&data, &identity.payload(), grant.data == Access::Rw)?;
    refuse_sockets(&data, &grant)?;
    let places = sources.into_values().chain(data.place.clone()).collect();
    let rehearsed = facts.rehearsed;
    Ok(Prepared { dirs, policy, request, image, data, places, rehearsed, grant, user, identity, warnings })
}

/// Reads the words after the image, where the first of them is the program: no entrypoint takes it.
pub(super) fn settle_command(image: &StoredImage, request: &mut RunRequest) -> Result<()> {
    let config = image.config().config().as_ref();
    let own = config.and_then(|config| config.entrypoint().as_ref());
    if request.entrypoint.as_ref().or(own).is_none_or(Vec::is_empty) {
        request.args = after_image::command(&request.image, &request.args)?;
    }
    Ok(())
}

/// Projects' data comes into a run as `/safe_data` alone, by whatever name: a link in the directory of all projects, or a bind mount
/// of the host, gives it others.
pub(super) fn refuse_projects(policy: &Policy, place: &Place, option: &str) -> Result<()> {
    let root = policy.data_root();
    let unknown = |e: std::io::Error| {
        Error::new(Stage::Bundle, Kind::Host, format!("{option}: cannot see whether it is a project's data")).because(e)
    };
    let mounts = Mounts::read().map_err(unknown)?;
    let projects = as_root(|power| safe_data::positions_of_projects(power, &mounts, root)).map_err(unknown)?;
    if !place::meet(&mounts.positions(place).map_err(unknown)?, &projects) {
        return Ok(());
    }
    let what = format!("{option} is refused: {} is, or holds, data of a project", place.path().display());
    Err(Error::new(Stage::Policy, Kind::Policy, what)
        .because(format!("it is the same directory as one of {}, by another name", root.display()))
        .hint("name the project with --project, or another directory"))
}

/// Whether this machine can run the image's programs; a bundle may be made for another.
///
/// # Errors
/// When the image was built for another operating system or processor.
pub(super) fn check_platform(image: &StoredImage) -> Result<()> {
    let (host, config) = (Platform::host(), image.config());
    let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
    if (os.as_str(), architecture.as_str()) == (host.os.as_str(), host.architecture.as_str()) {
        return Ok(());
    }
    let name = image.reference();
    Err(Error::new(Stage::Bundle, Kind::Host, format!("image {name} cannot run on this host"))
        .because(format!("it is for {os}/{architecture}; this host is {host}"))
        .hint(format!("pull the build for this host: ces pull --platform {host} …; nothing was run")))
}

/// A service of the host that listens in what is bound would be a way out of the container.
fn refuse_sockets(data: &SafeData, grant: &Grant) -> Result<()> {
    let own = grant.binds.iter().map(|bind| bind.source.as_path());
    let found = sockets::below(own.chain(data.bound()))
        .map_err(|e| Error::new(Stage::Bundle, Kind::Host, "cannot list the sockets of this host").because(e))?;
    let Some(first) = found.first() else { return Ok(()) };
    Err(Error::new(Stage::Bundle, Kind::Failed, format!("{} is a socket of the host", first.display()))
        .because("a program in the container could talk to whoever listens there, past every other protection")
        .hint("end the service, or have it listen elsewhere; or bind another directory"))
}

/// Who the payload is: `asked`, or whom the image names.
pub(super) fn container_user(asked: Option<&str>, image: &StoredImage) -> Result<ResolvedUser> {
    let config = image.config().config().as_ref();
    let named = asked.or_else(|| config.and_then(|c| c.user().as_deref()));
    let layers: Vec<PathBuf> = image.layers().iter().map(|layer| layer.path().to_path_buf()).collect();
    let read = |path: &str| as_root(|root| image_files::read(root, &layers, Path::new(path)));
    let (passwd, group) = match (read("/etc/passwd"), read("/etc/group")) {
        // Numbers need no file, whatever is there.
        (passwd, group) if image_user::is_a_pair_of_numbers(named) => (passwd.ok().flatten(), group.ok().flatten()),
        (passwd, group) => (passwd?, group?),
    };
    image_user::resolve(named, passwd.as_deref(), group.as_deref())
}

/// The disks that a run uses: those of the home, in which outputs and scratch are made, of the store, and of what is `bound`.
pub(super) fn disks_of<'a>(
    caller: &'a Caller,
    dirs: &Dirs,
    bound: impl Iterator<Item = &'a Path>,
) -> Result<BTreeSet<Disk>> {
    let fail = |e| Error::new(Stage::Bundle, Kind::Host, "cannot see which disks a run uses").because(e);
    let found = disks::below(bound.chain([caller.home.as_path()])).map_err(fail)?;
    let of_the_store = as_root(|_| disks::below([dirs.store.path()])).map_err(fail)?;
    Ok(of_the_store.into_iter().chain(found).collect())
}

impl Prepared {
    /// The spec of this run, and what was left out of the image's environment; `portable` for other programs, which need the
    /// seccomp rules in it.
    ///
    /// # Errors
    /// When the image's configuration cannot be run.
    pub fn spec(
        &self,
        job: &str,
        paths: &HostPaths,
        rootfs: &Path,
        portable: bool,
    ) -> Result<(oci_spec::runtime::Spec, Vec<String>)> {
        let term = env::var("TERM").ok();
        let masks = masks::of_this_host();
        let disks = match self.grant.limits.io_bytes_per_second {
            Some(_) => {
                let binds = self.grant.binds.iter().map(|bind| bind.source.as_path());
                disks_of(&self.identity.caller, &self.dirs, binds.chain(self.data.bound()))?
            }
            None => BTreeSet::new(),
        };
        let input = SpecInput {
            grant: &self.grant,
            image: self.image.config(),
            user: &self.user,
            ids: &self.identity.payload_map(),
            groups: &self.identity.own_groups,
            paths,
            rootfs,
            job,
            cgroups_path: None,
            term: term.as_deref(),
            masks: &masks,
            disks: &disks,
            portable,
        };
        Ok((spec::build(&input)?, spec::notes(&input)?))
    }

    /// The host name of a run.
    pub fn hostname<'a>(&'a self, job: &'a str) -> &'a str {
        self.grant.hostname.as_deref().unwrap_or(job)
    }
}

/// The three files of `/etc` that a container gets. `resolv.conf` names no server, for there is nobody to ask: a resolver then asks
/// this machine, where nothing answers. glibc and Go see at once that the port is closed; musl waits (its `res_msend.c`), five
/// seconds if nothing is said.
pub fn etc(hostname: &str) -> [(&'static str, String); 3] {
    let hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    [
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", "options timeout:1 attempts:1\n".to_owned()),
    ]
}

/// Writes them into a directory.
///
/// # Errors
/// When the directory is full or not writable.
pub fn write_etc(dir: &Path, hostname: &str) -> Result<[PathBuf; 3]> {
    let mut paths = Vec::new();
    for (name, text) in etc(hostname) {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| {
            Error::new(Stage::Bundle, Kind::Failed, format!("cannot write {}", path.display()))
                .because(e)
                .hint("check whether the file system of the store is full, or mounted read-only")
        })?;
        paths.push(path);
    }
    paths.try_into().map_err(|_| Error::new(Stage::Bundle, Kind::Failed, "three files were to be written"))
}
