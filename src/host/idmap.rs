//! Which ids inside a user namespace are which outside (user_namespaces(7)).
//!
//! Layers on disk are owned by the *foreign id range* when root pulls (systemd's UIDS-GIDS: 2147352576 and the 65535 ids
//! above it belong to no one), by the user and subordinate ids when a user pulls, and by the user alone where the site
//! gives no subordinate ids.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::caller::Caller;
use super::sys;
use crate::error::{Error, Kind, Result, Stage};

/// First id of the foreign range: id `n` of an image is `FOREIGN_BASE + n` on disk.
pub const FOREIGN_BASE: u32 = 2_147_352_576;
/// How many ids an image may use: 0 to 65535.
pub const RANGE: u32 = 65_536;

/// `count` ids from `inside` on are the ids from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// First id in the namespace.
    pub inside: u32,
    /// First id outside it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The id map of a user namespace, for users and groups.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMap {
    /// `uid_map`.
    pub uids: Vec<Extent>,
    /// `gid_map`.
    pub gids: Vec<Extent>,
}

impl IdMap {
    /// What layers on disk use: see the module's introduction.
    ///
    /// # Errors
    /// When `/etc/subuid` or `/etc/subgid` cannot be read.
    pub fn on_disk(caller: &Caller) -> Result<Self> {
        if caller.is_privileged() {
            let all = vec![Extent { inside: 0, outside: FOREIGN_BASE, count: RANGE }];
            return Ok(Self { uids: all.clone(), gids: all });
        }
        let own = |id| Extent { inside: 0, outside: id, count: 1 };
        let (uid, gid) = (caller.uid.as_raw(), caller.gid.as_raw());
        let subordinate = (
            subordinate(Path::new("/etc/subuid"), &caller.name, uid)?,
            subordinate(Path::new("/etc/subgid"), &caller.name, uid)?,
        );
        Ok(match subordinate {
            (Some((ufirst, ucount)), Some((gfirst, gcount))) if missing_helper().is_none() => Self {
                uids: vec![own(uid), Extent { inside: 1, outside: ufirst, count: ucount.min(RANGE - 1) }],
                gids: vec![own(gid), Extent { inside: 1, outside: gfirst, count: gcount.min(RANGE - 1) }],
            },
            _ => Self { uids: vec![own(uid)], gids: vec![own(gid)] },
        })
    }

    /// Everyone is who they are: for looking at files whoever they belong to.
    pub fn everyone() -> Self {
        let all = vec![Extent { inside: 0, outside: 0, count: u32::MAX }];
        Self { uids: all.clone(), gids: all }
    }

    /// Whether only one id is mapped: then everything belongs to the caller.
    pub fn is_single(&self) -> bool {
        matches!(self.uids.as_slice(), [Extent { count: 1, .. }])
    }

    /// The id outside for the user `inside`, if it is mapped.
    pub fn uid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The id outside for the group `inside`, if it is mapped.
    pub fn gid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }

    /// Writes the maps of the process `pid`, which has just made its user namespace.
    ///
    /// Root writes the files itself; a user needs `newuidmap` and `newgidmap` for more than one id, and must give up
    /// `setgroups` for one (user_namespaces(7), CVE-2014-8989).
    ///
    /// # Errors
    /// When the kernel or the helper refuses; the helper's exit status is checked.
    pub fn write(&self, pid: Pid, privileged: bool) -> Result<()> {
        self.begin_write(pid, privileged, None)?.settle()
    }

    /// The same, without waiting for the helpers; what is `held` is closed when they have ended.
    ///
    /// # Errors
    /// As [`write`](Self::write); what a helper refuses is told by [`Writing::settle`].
    pub fn begin_write(&self, pid: Pid, privileged: bool, held: Option<OwnedFd>) -> Result<Writing> {
        let file = |name: &str| format!("/proc/{pid}/{name}");
        let put = |name: &str, text: &str| {
            fs::write(file(name), text).map_err(|e| {
                Error::new(Stage::Host, Kind::Host, format!("cannot write {name} of a new user namespace"))
                    .because(e)
                    .hint("see ces doctor: user namespaces may be restricted on this host")
            })
        };
        if privileged {
            put("gid_map", &lines(&self.gids))?;
            return put("uid_map", &lines(&self.uids)).map(|()| Writing::default());
        }
        if self.is_single() {
            put("setgroups", "deny")?;
            put("gid_map", &lines(&self.gids))?;
            return put("uid_map", &lines(&self.uids)).map(|()| Writing::default());
        }
        // Neither waits for the other.
        let mut writing = Writing::default();
        for (program, extents) in HELPERS.into_iter().zip([&self.gids, &self.uids]) {
            let held = held.as_ref().map(OwnedFd::try_clone).transpose();
            let held = held.map_err(|e| no_map(format!("cannot run {program}")).because(e))?;
            writing.0.push((program, helper(program, pid, extents, held)?));
        }
        Ok(writing)
    }
}

/// Helpers that write maps; none where none are needed.
#[derive(Debug, Default)]
pub struct Writing(Vec<(&'static str, Helper)>);

/// A child process that writes a map, and what it says when it does not.
#[derive(Debug)]
struct Helper {
    pid: Pid,
    said: File,
}

impl Writing {
    /// Returns when the maps are written.
    ///
    /// # Errors
    /// When a helper refused: its exit status is what counts.
    pub fn settle(mut self) -> Result<()> {
        std::mem::take(&mut self.0)
            .into_iter()
            .map(|(program, helper)| settled(program, helper))
            .fold(Ok(()), Result::and)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // Nobody needs the maps any more: no helper outlives its call. ECHILD: it has been waited for.
        for (_, helper) in &self.0 {
            waitpid(helper.pid, None).ok();
        }
    }
}

/// The programs that write a user's maps of more than one id (newuidmap(1)), the group's first.
const HELPERS: [&str; 2] = ["newgidmap", "newuidmap"];

/// The first of the helpers that is not installed.
fn missing_helper() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |name: &&'static str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    HELPERS.into_iter().find(|name| !is_here(name))
}

/// A warning where an ordinary user has subordinate ids that nothing can map: the run goes on without them.
///
/// # Errors
/// When `/etc/subuid` or `/etc/subgid` cannot be read.
pub fn helper_is_missing(caller: &Caller) -> Result<Option<String>> {
    if caller.is_privileged() {
        return Ok(None);
    }
    let uid = caller.uid.as_raw();
    let has = |path| subordinate(Path::new(path), &caller.name, uid).map(|found| found.is_some());
    let wanted = has("/etc/subuid")? && has("/etc/subgid")?;
    Ok(missing_helper().filter(|_| wanted).map(|name| {
        format!(
            "your subordinate ids (/etc/subuid, /etc/subgid) are not used: {name} is not installed (the package uidmap has it); \
             every user of the image is you"
        )
    }))
}

fn outside(extents: &[Extent], inside: u32) -> Option<u32> {
    extents.iter().find_map(|e| {
        let offset = inside.checked_sub(e.inside)?;
        if offset < e.count { e.outside.checked_add(offset) } else { None }
    })
}

fn lines(extents: &[Extent]) -> String {
    extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect()
}

/// What a helper exits with that could not be executed; they know 0 and 1.
const NOT_EXECUTED: i32 = 127;

fn helper(program: &str, pid: Pid, extents: &[Extent], held: Option<OwnedFd>) -> Result<Helper> {
    let failed = |e: std::io::Error| no_map(format!("cannot run {program}")).because(e);
    let (said, say) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut complaint = File::from(say.try_clone().map_err(failed)?);
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for e in extents {
        command.args([e.inside.to_string(), e.outside.to_string(), e.count.to_string()]);
    }
    // They say nothing there.
    let output = held.map_or_else(Stdio::null, Stdio::from);
    command.stdin(Stdio::null()).stdout(output).stderr(say);
    // A process that spawns stands still until its child has become the helper, and with it the work that was to be done
    // meanwhile; one that forks does not.
    let forked = sys::fork(|| {
        let e = command.exec();
        // Nobody else is told.
        complaint.write_all(e.to_string().as_bytes()).ok();
        NOT_EXECUTED
    });
    let pid = match forked {
        Ok(pid) => pid,
        // Several threads: none of them may be left out of a copy.
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
            Pid::from_raw(command.spawn().map_err(failed)?.id().cast_signed())
        }
        Err(e) => return Err(failed(e)),
    };
    Ok(Helper { pid, said: said.into() })
}

/// The end of a helper.
fn settled(program: &str, mut helper: Helper) -> Result<()> {
    let mut said = String::new();
    // What cannot be read was not said.
    helper.said.read_to_string(&mut said).ok();
    let ended = loop {
        match waitpid(helper.pid, None) {
            Err(Errno::EINTR) => {}
            ended => break ended,
        }
    };
    match ended {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        Ok(WaitStatus::Exited(_, NOT_EXECUTED)) => Err(no_map(format!("cannot run {program}")).because(said)),
        Ok(_) => Err(no_map(format!("{program} refused the id map")).because(said.trim())),
        Err(e) => Err(no_map(format!("cannot wait for {program}")).because(e.desc())),
    }
}

fn no_map(what: String) -> Error {
    Error::new(Stage::Host, Kind::Host, what)
        .hint("install the package uidmap, and check /etc/subuid and /etc/subgid; ces also works without them")
}

/// The first subordinate range of a user: `name:first:count` (subuid(5)); the name may be the uid.
fn subordinate(path: &Path, name: &str, uid: u32) -> Result<Option<(u32, u32)>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(parse_subordinate(&text, name, uid)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new(Stage::Host, Kind::Host, format!("cannot read {}", path.display())).because(e)),
    }
}

fn parse_subordinate(text: &str, name: &str, uid: u32) -> Option<(u32, u32)> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        let first = fields.next()?.parse().ok()?;
        let count: u32 = fields.next()?.parse().ok()?;
        ((who == name || who == uid) && count > 0).then_some((first, count))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subordinate_range_is_found_by_name_or_uid() {
        let text = "# comment\nbob:100000:65536\n1001:200000:65536\n";
        assert_eq!(parse_subordinate(text, "bob", 1000), Some((100_000, 65_536)));
        assert_eq!(parse_subordinate(text, "eve", 1001), Some((200_000, 65_536)));
        assert_eq!(parse_subordinate(text, "mallory", 5), None);
    }

    #[test]
    fn ids_outside_every_extent_are_unmapped() {
        let map = IdMap { uids: vec![Extent { inside: 0, outside: 1000, count: 1 }], gids: vec![] };
        assert_eq!(map.uid_outside(0), Some(1000));
        assert_eq!(map.uid_outside(1), None);
        assert_eq!(map.gid_outside(0), None);
    }
}
