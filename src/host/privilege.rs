//! Root's power, lent.
//!
//! Takes the ids a process begins with and sudo's word for who calls; gives root's power to a closure and takes it back;
//! trusts the kernel's saved ids (credentials(7)); refuses to go on where ids cannot be changed: the process ends.
//!
//! Through sudo, `ces` *is* the researcher: `begin` is the first thing the program does, before it reads an argument. Real
//! and saved user id stay root's, so that the researcher can neither signal nor trace the process (kill(2), ptrace(2)), and
//! the effective ids, with which the kernel opens files, are the researcher's. What needs more says so: `as_root` lends
//! root's ids to the *calling thread* alone, and proves it by a `Root`, which functions that need that power take as an
//! argument. Real root keeps its ids all the time, and an ordinary user has nothing to lend: the same code serves all three,
//! and a `Root` is then the proof of all the power that there is.
//!
//! # What root's power is used for
//!
//! | where | what | why not the researcher |
//! | --- | --- | --- |
//! | `policy::load` | reading policy, approvals | the site may close them to users |
//! | `host::dirs`, `host::site_dir` | opening the site's directories | 0700, root's |
//! | `host::{unstoppable, scheduling}` | leaving control groups, default scheduling, a process that continues this one | what a researcher may undo holds nobody else up |
//! | `image::store`, `image::pull` | layers, images, names | shared by projects that may not see each other |
//! | `image::unpack::parent` | starting the child that unpacks, its id maps | files of ids that belong to no one |
//! | `stack::vulndb::place`, `stack::kept` | vulnerability data, what was judged by it | the site's, as its policy is |
//! | `run::supervisor::{journal, record, detach}` | journals, records, logs | what root obeys, root wrote; evidence |
//! | `run::supervisor::{job, collect, sweep, quota, watch}`, `run::pipes` | throw-away layers, changing owners, counting, limits | ids of the container |
//! | `run::supervisor::{spawn, launch, supervise}` | stage process, id maps, control group, the check, signals | namespaces, idmapped mounts |
//! | `run::supervisor::exec_server`, `run::exec_client` | the socket of `ces exec` | it lies in the journal |
//! | `approval::{file, requests}` | the list of approved images, requests | what root obeys, root wrote |
//! | `precheck::parent` | starting the child that looks at outputs, its id map | it becomes the one id that the map has |
//! | `commands::doctor` | trying all this | as above |
//!
//! A test (`powers::roots_power_is_named_in_listed_files_alone`) keeps the list of files.

use std::cell::{Cell, RefCell};
use std::env;
use std::marker::PhantomData;
use std::sync::OnceLock;

use caps::{CapSet, Capability};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{geteuid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::process_limits;
use crate::host::sudoer::Sudoer;
use crate::host::sys;

/// What this process began with.
#[derive(Debug)]
pub enum Power {
    /// An ordinary user: no power but their own.
    User,
    /// Root itself.
    Root,
    /// A researcher through sudo: theirs by default, root's to lend.
    Sudo(Box<Sudoer>),
}

/// The proof that root's power is lent to this thread; it cannot leave the closure, nor the thread, that it was lent to.
#[derive(Debug)]
pub struct Root(PhantomData<*const ()>);

static POWER: OnceLock<Power> = OnceLock::new();

thread_local! {
    /// How many closures of this thread root's power is lent to now, one in the other.
    static LENT: Cell<u32> = const { Cell::new(0) };
    /// Whose ids this thread takes when nothing is lent; none: those it began with.
    static INSTEAD: RefCell<Option<HostIds>> = const { RefCell::new(None) };
}

/// Finds out who calls and, through sudo, becomes them. To be called before any other thread exists, and before any argument
/// is read.
///
/// # Errors
/// When sudo's variables name nobody, or ids cannot be changed: then nothing may be done any more.
pub fn begin() -> Result<()> {
    process_limits::remember();
    // A caller who ignores it would have the kernel reap this process's children, and the container's, unseen (wait(2)).
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    sys::set_signal_action(Signal::SIGCHLD, &default)
        .map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot wait for children").because(e.desc()))?;
    if !geteuid().is_root() {
        return settle(Power::User);
    }
    if !getuid().is_root() {
        return Err(Error::new(Stage::Host, Kind::Host, "ces is installed set-user-ID root")
            .hint("remove the bit (chmod u-s) and use sudo, which tells who calls"));
    }
    process_limits::raise()?;
    match env::var_os("SUDO_UID") {
        None => settle(Power::Root),
        // Root that called sudo is root.
        Some(uid) if uid == "0" => settle(Power::Root),
        Some(uid) => {
            let sudoer = Sudoer::find(&uid, env::var_os("SUDO_USER").as_deref())?;
            umask(Mode::S_IRWXG | Mode::S_IRWXO);
            let ids = sudoer.ids();
            settle(Power::Sudo(Box::new(sudoer)))?;
            take(&ids).map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot act as the researcher").because(e))
        }
    }
}

/// What a process of `ces` that its parent started begins with: all of the host's root, or nothing but a user's own.
///
/// # Errors
/// When it has begun already.
pub fn begin_child(privileged: bool) -> Result<()> {
    settle(if privileged { Power::Root } else { Power::User })
}

fn settle(power: Power) -> Result<()> {
    POWER.set(power).map_err(|_| Error::new(Stage::Host, Kind::Failed, "this process has begun already"))
}

/// What this process began with.
pub fn power() -> &'static Power {
    POWER.get_or_init(|| if geteuid().is_root() { Power::Root } else { Power::User })
}

/// Whether root's power is there to be lent: the researcher came through sudo.
pub fn is_lent() -> bool {
    matches!(power(), Power::Sudo(_))
}

/// Does `work` with root's power, as far as there is any to lend, in this thread alone.
pub fn as_root<T>(work: impl FnOnce(&Root) -> T) -> T {
    let _lent = Lent::begin();
    work(&Root(PhantomData))
}

/// While it lives, root's power is lent to this thread.
struct Lent;

impl Lent {
    fn begin() -> Self {
        let depth = LENT.get();
        if depth == 0 && lowered() {
            or_end(set_user(0));
            or_end(set_group(0));
            or_end(set_thread_groups(&[]));
        }
        LENT.set(depth + 1);
        Self
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let depth = LENT.get().saturating_sub(1);
        LENT.set(depth);
        if depth == 0
            && let Some(ids) = own()
        {
            or_end(take(&ids));
        }
    }
}

/// Whose ids this thread has when nothing is lent, if they are not root's own.
fn own() -> Option<HostIds> {
    if let Some(instead) = INSTEAD.with_borrow(Clone::clone) {
        return Some(instead);
    }
    match power() {
        Power::Sudo(sudoer) => Some(sudoer.ids()),
        Power::User | Power::Root => None,
    }
}

fn lowered() -> bool {
    own().is_some()
}

/// Does `work` with the file system rights of `ids` and no others. Who has no power to change ids has only their own rights
/// anyway.
///
/// # Errors
/// `work`'s.
pub fn acting_as<T>(ids: &HostIds, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if matches!(power(), Power::User) || (LENT.get() == 0 && own().as_ref() == Some(ids)) {
        return work();
    }
    let _instead = Instead::begin(ids);
    work()
}

/// While it lives, this thread has other ids.
struct Instead {
    lent: u32,
    before: Option<HostIds>,
}

impl Instead {
    fn begin(ids: &HostIds) -> Self {
        // Only root may take ids that are not its own.
        let raise = Lent::begin();
        std::mem::forget(raise);
        let instead = Self { lent: LENT.replace(0) - 1, before: INSTEAD.replace(Some(ids.clone())) };
        or_end(take(ids));
        instead
    }
}

impl Drop for Instead {
    fn drop(&mut self) {
        let raise = Lent::begin();
        std::mem::forget(raise);
        INSTEAD.set(self.before.take());
        LENT.set(self.lent);
        if self.lent == 0
            && let Some(ids) = own()
        {
            or_end(take(&ids));
        }
    }
}

/// Does `work` with root's power over files and under the name of `ids`: a file server that squashes root looks at the name
/// alone, and on a local disk what belongs to others is within reach all the same (capabilities(7), "Effect of user ID
/// changes on capabilities": the permitted set stays).
///
/// # Errors
/// `work`'s, and the kernel's where the power cannot be kept.
pub fn over_files<T>(ids: &HostIds, work: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
    const OVER_FILES: [Capability; 6] = [
        Capability::CAP_CHOWN,
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_DAC_READ_SEARCH,
        Capability::CAP_FOWNER,
        Capability::CAP_FSETID,
        Capability::CAP_KILL,
    ];
    if matches!(power(), Power::User) {
        return work(&Root(PhantomData));
    }
    if ids.uid == 0 {
        return as_root(work);
    }
    let _instead = Instead::begin(ids);
    keep(&OVER_FILES)
        .map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot keep root's privileges over files").because(e))?;
    // The power goes with the next change from root's id to another (capabilities(7)), which ends this.
    work(&Root(PhantomData))
}

/// Takes the ids: groups first, while it still may. For a thread with root's.
///
/// One capability stays: what is to die with `ces` (`PR_SET_PDEATHSIG`) is killed by the kernel in the name of the dying
/// process, which must have the right to (the kernel's `group_send_sig_info`); those processes have ids of the container.
fn take(ids: &HostIds) -> rustix::io::Result<()> {
    let groups: Vec<_> = ids.groups.iter().copied().map(rustix::process::Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_group(ids.gid)?;
    set_user(ids.uid)?;
    if ids.uid != 0 { keep(&[Capability::CAP_KILL]) } else { Ok(()) }
}

/// Makes those of `wanted` effective that this process may have, and no others.
fn keep(wanted: &[Capability]) -> rustix::io::Result<()> {
    let set = || {
        let may = caps::read(None, CapSet::Permitted)?;
        let power = wanted.iter().copied().filter(|capability| may.contains(capability)).collect();
        caps::set(None, CapSet::Effective, &power)
    };
    set().map_err(|_| rustix::io::Errno::PERM)
}

/// The effective user id of this thread; real and saved stay.
fn set_user(uid: u32) -> rustix::io::Result<()> {
    let keep = None::<rustix::process::Uid>;
    set_thread_res_uid(keep, Some(rustix::process::Uid::from_raw(uid)), keep)
}

/// The effective group id of this thread; real and saved stay.
fn set_group(gid: u32) -> rustix::io::Result<()> {
    let keep = None::<rustix::process::Gid>;
    set_thread_res_gid(keep, Some(rustix::process::Gid::from_raw(gid)), keep)
}

/// A thread that does not have the ids that it should is never used again.
fn or_end(changed: rustix::io::Result<()>) {
    if changed.is_err() {
        std::process::abort();
    }
}
