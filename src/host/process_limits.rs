//! The limits that the caller's shell gave this process (setrlimit(2)), and those that `ces` works under.
//!
//! Takes the process as it was started; gives the caller's limits, for the payload; trusts the kernel; refuses to work for
//! root under limits that the caller chose: a record that cannot be written would be a false one.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;

/// A soft and a hard limit; `u64::MAX`: unlimited.
pub type Limit = (u64, u64);

/// All limits by podman's names.
const KNOWN: [(&str, Resource); 15] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// What would end `ces` in the middle of its work, or keep it from writing a record.
const RAISED: [(&str, Resource); 4] = [
    ("as", Resource::RLIMIT_AS),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
];

/// Open files that `ces` has for itself, with a hundred published ports and then some.
const OPEN_FILES: u64 = 4096;

static CALLER: OnceLock<BTreeMap<&'static str, Limit>> = OnceLock::new();

/// Notes the limits that this process was started with.
pub fn remember() {
    of_caller();
}

/// The limits that this process was started with, by podman's names.
pub fn of_caller() -> &'static BTreeMap<&'static str, Limit> {
    CALLER.get_or_init(|| {
        KNOWN.into_iter().filter_map(|(name, resource)| Some((name, getrlimit(resource).ok()?))).collect()
    })
}

/// The caller's limits that `ces` itself does not work under, and that are the payload's alone.
pub fn for_the_payload_alone() -> BTreeMap<String, Limit> {
    let limited = |(name, _): (&'static str, Resource)| {
        let limit = of_caller().get(name).copied()?;
        (limit != (u64::MAX, u64::MAX)).then(|| (name.to_owned(), limit))
    };
    RAISED.into_iter().filter_map(limited).collect()
}

/// Takes those limits away, for a process of root's.
///
/// # Errors
/// When the kernel does not let it.
pub fn raise() -> Result<()> {
    // Root of another container has no power over limits; nor has who started it chosen them through sudo.
    let or_keep = |set: nix::Result<()>| match set {
        Err(nix::Error::EPERM) if std::env::var_os("SUDO_UID").is_none() => Ok(()),
        set => set,
    };
    let fail = |name: &str, e: nix::Error| {
        Error::new(Stage::Host, Kind::Host, format!("cannot raise the limit {name} of this process"))
            .because(e.desc())
            .hint("unset the limit in the calling shell (ulimit -a), or give ces CAP_SYS_RESOURCE where root has not got it")
    };
    for (name, resource) in RAISED {
        or_keep(setrlimit(resource, u64::MAX, u64::MAX)).map_err(|e| fail(name, e))?;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| fail("nofile", e))?;
    if soft < OPEN_FILES {
        or_keep(setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, hard.max(OPEN_FILES))).map_err(|e| fail("nofile", e))?;
    }
    [Signal::SIGXCPU, Signal::SIGXFSZ]
        .into_iter()
        .try_for_each(|signal| ignore(signal).map_err(|e| fail(signal.as_str(), e)))
}

/// From now on a file that may not grow any more is an error for who writes to it (EFBIG), and not the end of this process.
///
/// # Errors
/// When the kernel does not let it.
pub fn outlive_full_files() -> Result<()> {
    ignore(Signal::SIGXFSZ).map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot ignore SIGXFSZ").because(e.desc()))
}

fn ignore(signal: Signal) -> nix::Result<()> {
    sys::set_signal_action(signal, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()))
}
