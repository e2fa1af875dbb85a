//! The stage process: namespaces and mounts, then the engine.
//!
//! Takes a `StageRequest` over an inherited socket; gives a created, then a running container; trusts `ces` (its
//! parent) and the kernel; refuses to create anything outside a user namespace that ces made.
//!
//! The order, in the order of the code: (an ordinary user's: user, mount and network namespace →) mounts (as the host's root
//! where there is one) → (root's: user namespace →) control group → cgroup and IPC (and root's: network) namespace →
//! init layer → engine: create → *the parent's check* → start → wait.

/// libcontainer, and nothing else of it.
pub mod engine;
/// What the engine says when it fails.
pub mod engine_log;
/// The payload's own terminal, as the stage process gets hold of it.
mod console;
/// From published ports to the container's own loopback, inwards alone.
pub mod relay;
/// What a rehearsal takes down.
pub mod witness;
/// What is gone with the container.
mod lost;
/// Work in a child process that sees a plan mounted.
pub mod in_child;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{Gid, Pid, Uid, setgroups};
use oci_spec::runtime::{Mount, Process, Spec};

use self::console::Console;
use self::engine::Payload;
use self::in_child::private_mounts;
use self::relay::{Listener, Relay};
use self::witness::Witness;
use crate::bundle::accounts;
use crate::bundle::init_layer::{self, Shape};
use crate::bundle::own_mounts::{self, OwnMount};
use crate::bundle::rootfs::{self, Plan, ROOTFS, STATE};
use crate::bundle::spec::OOM_SCORE_ADJ;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::{parent, privilege, sys};
use crate::run::channel::Channel;
use crate::run::pipes;
use crate::run::protocol::{CHANNEL_FD, Failure, FromStage, StageRequest, ToStage, WRITTEN_FD};
use crate::run::user_namespace::{become_root_once_mapped, enter_user_namespace};

/// The program's other `main`: called when it was executed as the stage process.
pub fn child_main() -> u8 {
    child_main_reading(read_request)
}

/// The same, with another way of reading the request.
pub fn child_main_reading(read: impl FnOnce(OwnedFd) -> Result<StageRequest>) -> u8 {
    let Ok(channel) = sys::inherited_fd(CHANNEL_FD) else {
        // Not started by ces: there is no one to talk to.
        return 125;
    };
    if parent::verify_is_ces(&channel).is_err() {
        // Not started by ces: whoever did is told nothing.
        return 125;
    }
    let channel = Channel::from_fd(channel);
    // Its power over the namespaces that it makes does not depend on its ids: there is time for this while they are mapped.
    let of_a_user = |written| own_network().and_then(|()| become_root_once_mapped(written));
    let ready = sys::inherited_fd(WRITTEN_FD).map_or(Ok(()), of_a_user);
    match ready.and_then(|()| begin(&channel, read)).and_then(|(request, handed)| stage(request, &channel, handed)) {
        Ok(()) => 0,
        Err(error) => {
            // If the parent is gone there is no one to tell.
            channel.send(&FromStage::Failed(Failure::of(&error))).map_or(125, |()| 1)
        }
    }
}

/// Descriptors that came with the request, and are still needed.
struct Handed {
    status: OwnedFd,
    exec: Option<OwnedFd>,
    listeners: Vec<OwnedFd>,
    layer_ns: Option<OwnedFd>,
    report: Option<OwnedFd>,
}

/// Waits for the work; enters the control groups and takes the streams.
fn begin(channel: &Channel, read: impl FnOnce(OwnedFd) -> Result<StageRequest>) -> Result<(StageRequest, Handed)> {
    let lost = || Error::new(Stage::Run, Kind::Failed, "a descriptor of the stage's request was not handed on");
    let Some((ToStage::Begin(passed), descriptors)) = channel.receive_with()? else {
        return Err(Error::new(Stage::Run, Kind::Failed, "ces is gone"));
    };
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(lost);
    let (document, status, exec) = (next()?, next()?, next()?);
    let streams = [next()?, next()?, next()?];
    for _ in 0..passed.groups {
        // 0 is the one who writes: a process of one thread, and all that it will start.
        File::from(next()?)
            .write_all(b"0")
            .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot enter the control group").because(e))?;
    }
    sys::replace_streams(streams.each_ref().map(Some))
        .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot connect the output").because(e))?;
    let listeners = (0..passed.listeners).map(|_| next()).collect::<Result<Vec<_>>>()?;
    let layer_ns = passed.layer_ns.then(&mut next).transpose()?;
    let report = passed.report.then(&mut next).transpose()?;
    let request = read(document)?;
    // Where nothing may come in, nobody holds a way in.
    let exec = request.exec.then_some(exec);
    Ok((request, Handed { status, exec, listeners, layer_ns, report }))
}

fn read_request(fd: OwnedFd) -> Result<StageRequest> {
    let fail =
        |e: &dyn std::fmt::Display| Error::new(Stage::Run, Kind::Failed, "the stage's request is malformed").because(e);
    let mut text = Vec::new();
    File::from(fd).read_to_end(&mut text).map_err(|e| fail(&e))?;
    serde_json::from_slice(&text).map_err(|e| fail(&e))
}

fn stage(request: StageRequest, channel: &Channel, handed: Handed) -> Result<()> {
    let Handed { status, exec, listeners, layer_ns, report } = handed;
    privilege::begin_child(request.privileged)?;
    // While this process may still write the file; everything below inherits it (proc_pid_oom_score_adj(5)).
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ.to_string()).map_err(|e| {
        Error::new(Stage::Run, Kind::Host, "cannot make the container the first to die when memory runs out").because(e)
    })?;
    private_mounts(request.privileged)?;
    rootfs::assemble(&request.plan, layer_ns.as_ref().map(AsFd::as_fd), request.privileged)?;
    drop(layer_ns);
    // Before this process is another user, to whom the directory in the store is closed.
    let upper = request
        .rehearsal
        .map(|_| File::open(rootfs::UPPER))
        .transpose()
        .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot open the directory over the image").because(e))?;
    if request.privileged {
        let groups: Vec<Gid> = request.groups.iter().copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(|e| fail("drop root's groups", e))?;
        enter_user_namespace(channel, CloneFlags::CLONE_NEWNS)?;
    }
    if !request.placed {
        channel.send(&FromStage::NeedsCgroup)?;
        channel.expect(&ToStage::CgroupReady)?;
    }
    unshare(CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWIPC)
        .map_err(|e| fail("make cgroup and IPC namespaces", e))?;
    if request.privileged {
        own_network()?;
    }
    let relay = start_relay(listeners, &request.ports)?;
    let rehearsal = request
        .rehearsal
        .zip(report)
        .map(|(what, report)| begin_rehearsal(what.paths, request.nested, report))
        .transpose()?;
    let (mut rehearsal, observer) = rehearsal.unzip();
    private_cgroup2()?;
    request.volumes.iter().try_for_each(|path| init_layer::volume(Path::new(ROOTFS), path))?;
    accounts::add(Path::new(ROOTFS), &request.accounts)?;
    let spec_mounts = request.spec.mounts().clone().unwrap_or_default();
    let scratch = request.plan.binds.iter().position(|bind| bind.destination == Path::new("/scratch"));
    let (spec, moved) = lay_mount_points(request.spec, &request.plan)?;
    let (own_tmpfs, elsewhere) = mounted(&spec_mounts);
    let process = spec.process().as_ref();
    let owner = Uid::from_raw(process.map_or(0, |process| process.user().uid()));
    if !request.privileged && request.nested.is_none() {
        // Of several ids that are the user's; an id of its own namespace is the user's own, whose the pipes are already.
        give_streams(owner, Gid::from_raw(process.map_or(0, |process| process.user().gid())))?;
    }
    let console = process.and_then(Process::terminal).unwrap_or(false);
    let console = console.then(|| Console::listen(Path::new(STATE))).transpose()?;
    let container = engine::create(
        &request.job,
        &spec,
        Payload::new(status, request.nested, exec, observer)?,
        console.as_ref().map(Console::path),
    )?;
    let master = console.map(|console| console.take(owner)).transpose()?;
    let passed: Vec<_> = master.iter().map(AsFd::as_fd).collect();
    channel.send_with(&FromStage::Created { init: container.init().as_raw(), moved }, &passed)?;
    drop(passed);
    // The one copy is now ces's: when ces ends, the container's terminal hangs up.
    drop(master);
    channel.expect(&ToStage::Start)?;
    let init = container.start()?;
    wait(init, relay, rehearsal.as_mut().map(|(witness, _)| witness), channel)?;
    if let Some(((witness, report), upper)) = rehearsal.zip(upper) {
        witness.finish()?;
        write_lost(report, &upper, &own_tmpfs, &elsewhere, scratch)?;
    }
    channel.send(&FromStage::Finished)
}

/// The pipes to the caller become the payload's, as root of the container's user namespace may have it.
fn give_streams(uid: Uid, gid: Gid) -> Result<()> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().try_for_each(|pipe| pipes::give_here(pipe, uid, gid))
}

/// A network namespace with nothing but loopback, which is up. It belongs to the user namespace that this process is in:
/// for root that must be the container's.
fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| fail("make a network namespace", e))?;
    sys::loopback_up()
        .map_err(|e| fail("bring the loopback interface up", nix::Error::try_from(e).unwrap_or(nix::Error::EIO)))
}

/// The relay of published ports, if there are any: before the engine forks, so that the container inherits no listener.
fn start_relay(listeners: Vec<OwnedFd>, ports: &[u16]) -> Result<Option<Relay>> {
    let listeners: Vec<Listener<'_>> =
        listeners.iter().zip(ports).map(|(listener, port)| (listener.as_fd(), *port)).collect();
    if listeners.is_empty() { Ok(None) } else { Relay::start(&listeners).map(Some) }
}

/// Where the host's control groups are not version 2 alone, the engine would look for v1 hierarchies that it may not
/// write: it is shown an empty cgroup2 instead, whose limits ces has set from outside.
fn private_cgroup2() -> Result<()> {
    const AT: &str = "/sys/fs/cgroup";
    let there = statfs(AT).map_err(|e| fail("find the control groups", e))?.filesystem_type();
    if there == CGROUP2_SUPER_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("cgroup2"), AT, Some("cgroup2"), flags, None::<&str>).map_err(|e| fail("mount a private cgroup2", e))
}

/// Mount points that the image leads elsewhere: as asked, as they are.
type Moved = Vec<(PathBuf, PathBuf)>;

/// Lays every mount point, mounts what needs no process of the container, and tells the engine where all else is inside the
/// stage.
///
/// The engine could mount it too, but looks some fifty times at each mount point, by its name.
fn lay_mount_points(mut spec: Spec, plan: &Plan) -> Result<(Spec, Moved)> {
    let root = Path::new(ROOTFS);
    let mounts = spec.mounts().clone().unwrap_or_default();
    let mut for_engine = Vec::with_capacity(mounts.len());
    let mut binds = Vec::with_capacity(plan.binds.len());
    let mut own: Vec<PathBuf> = Vec::new();
    let mut moved = Moved::new();
    let destinations: Vec<PathBuf> = mounts.iter().map(|m| m.destination().clone()).collect();
    for mut mount in mounts {
        let bind = plan.binds.iter().position(|bind| bind.destination == *mount.destination());
        let mut shape = Shape::Directory;
        if let Some(number) = bind {
            let source = Path::new("/b").join(number.to_string());
            if source.is_file() {
                shape = Shape::File;
            }
            // The flags are on the bound tree already (and on every mount below it): the engine copies them.
            mount.set_source(Some(source)).set_options(Some(vec!["rbind".to_owned()]));
        } else if is_bind(&mount) {
            return Err(Error::new(
                Stage::Run,
                Kind::Failed,
                format!("no source was opened for {}", mount.destination().display()),
            ));
        }
        let destination = mount.destination().clone();
        let mut above = destinations.iter().filter(|other| **other != destination && destination.starts_with(other));
        if !above.all(|other| own.contains(other)) {
            // Its parent is another mount, not the image, and is not there yet; the engine makes it there.
            for_engine.push(mount);
            continue;
        }
        let real = init_layer::lay(root, &destination, shape)?;
        let point = init_layer::verify(root, &real)?;
        if real != destination {
            init_layer::apart(&destination, &real, &destinations)?;
            moved.push((destination.clone(), real.clone()));
            mount.set_destination(real);
        }
        if let Some(number) = bind {
            binds.push((number, point));
        } else if let Some(of_its_own) = OwnMount::of(&mount) {
            of_its_own.onto(&point)?;
            own.push(destination);
        } else {
            for_engine.push(mount);
        }
    }
    if let Some(process) = spec.process() {
        let user = process.user();
        init_layer::working_directory(root, process.cwd(), (user.uid(), user.gid()))?;
    }
    if own.iter().any(|at| at == Path::new("/sys"))
        && let Some(linux) = spec.linux_mut()
    {
        let masked = linux.masked_paths().clone().unwrap_or_default();
        linux.set_masked_paths(Some(own_mounts::mask_sys(root, masked)?));
    }
    // Last: until here nothing that was laid could end up in what is bound.
    binds.iter().try_for_each(|(number, point)| rootfs::bind_onto(*number, point))?;
    spec.set_mounts(Some(for_engine));
    Ok((spec, moved))
}

fn is_bind(mount: &Mount) -> bool {
    mount.options().as_ref().is_some_and(|options| options.iter().any(|o| o == "bind" || o == "rbind"))
}

/// Mount points of the spec: file systems in memory that a payload writes results to, and all of them.
fn mounted(mounts: &[Mount]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let all = || mounts.iter().map(|mount| mount.destination().clone());
    let in_memory = mounts.iter().filter(|mount| mount.typ().as_deref() == Some("tmpfs"));
    // Devices and shared memory are no files of anybody's.
    let in_memory = in_memory.map(|mount| mount.destination().clone()).filter(|at| !at.starts_with("/dev"));
    (in_memory.collect(), all().collect())
}

/// Starts the witness; the report is written first by it, then by this process.
fn begin_rehearsal(
    paths: bool,
    nested: Option<(u32, u32)>,
    report: OwnedFd,
) -> Result<((Witness, OwnedFd), witness::Observer)> {
    let own =
        report.try_clone().map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot copy a descriptor").because(e))?;
    let (witness, observer) = Witness::start(paths, nested, report)?;
    Ok(((witness, own), observer))
}

/// Takes down what is gone with the container: in the overlay's upper directory, and in the tmpfs mounts of its own; and how much is
/// in `scratch`, by the number of its bind.
fn write_lost(
    report: OwnedFd,
    upper: &File,
    in_memory: &[PathBuf],
    mounted: &[PathBuf],
    scratch: Option<usize>,
) -> Result<()> {
    let below = |path: &Path| Path::new(ROOTFS).join(path.strip_prefix("/").unwrap_or(path));
    let mut tops = vec![(PathBuf::from(format!("/proc/self/fd/{}", upper.as_raw_fd())), PathBuf::from("/"))];
    tops.extend(in_memory.iter().map(|path| (below(path), path.clone())));
    let mut left = lost::walk(&tops, &|path| mounted.iter().any(|at| at == path));
    if let Some(number) = scratch {
        left.scratch = lost::size(&Path::new("/b").join(number.to_string())).0;
    }
    serde_json::to_vec(&left)
        .map_err(std::io::Error::from)
        .and_then(|text| File::from(report).write_all(&text))
        .map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot write what the rehearsal has left").because(e))
}

/// Waits for the container's end, then until the relay has passed on what the payload sent last.
fn wait(init: Pid, mut relay: Option<Relay>, mut witness: Option<&mut Witness>, channel: &Channel) -> Result<()> {
    loop {
        match sys::wait_child(None, true) {
            Ok(Some(ended)) if ended.pid == init => break,
            Ok(Some(ended)) if relay.as_ref().is_some_and(|relay| relay.pid() == ended.pid) => {
                relay = None;
                channel.send(&FromStage::RelayLost)?;
            }
            Ok(Some(ended)) => {
                // Others the engine started on the way.
                if let Some(witness) = witness.as_deref_mut().filter(|witness| witness.pid() == ended.pid) {
                    witness.ended(ended.status)?;
                }
            }
            Ok(None) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::new(Stage::Run, Kind::Failed, "cannot wait for the container").because(e)),
        }
    }
    if let Some(relay) = relay {
        relay.finish();
    }
    Ok(())
}

fn fail(what: &str, e: nix::Error) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot {what}")).because(e.desc())
}
