//! The witness of a rehearsal: answers what the profile refuses, and takes down what the payload tried.
//!
//! Takes the listener of the payload's filter, over a socket; gives `Observations` into a file in memory; trusts F, the profile's
//! program, for every answer; refuses nothing by itself.
//!
//! A child of the stage process, in the container's user and network namespace and control group but outside its process and mount
//! namespaces: the payload cannot see it, and never gets a descriptor of it. It may read the payload's memory (CAP_SYS_PTRACE in
//! that user namespace) and ask the kernel as the payload's user (CAP_SETUID, CAP_SETGID); it has no other capability, and a filter
//! of its own (`bundles/seccomp/witness.toml`).
//!
//! What a call gets depends on registers alone, and on F: memory that changes after it was read falsifies the report, never the
//! answer. Where the witness is gone, the kernel answers `ENOSYS` to every call that would have been told.

/// What a call does to what it names.
mod act;
/// What a call says.
mod calls;
/// The memory and the state of a thread that waits.
mod memory;
/// Packets of the loopback.
pub mod names;
/// What the kernel will answer to a call on a path.
mod meet;
/// What a call names.
mod paths;
/// Counts, in bounded memory.
mod tally;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::Pid;
use seccompiler::BpfProgram;

use self::memory::Who;
use self::names::Packet;
use self::tally::Tally;
use crate::bundle::seccomp;
use crate::bundle::seccomp::observed::{self, Call, Decision};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys::loopback::{self, Loopback, Seen};
use crate::host::sys::notify::Notified;
use crate::host::sys::{self, notify};
use crate::run::observations::{Address, Missed, Observations, Program, Refused};
use crate::run::process;

/// How many distinct things of each kind are held.
const MOST: usize = 512;
/// The same for paths, of which a search makes many.
const MOST_PATHS: usize = 4096;
/// Of how many threads it is remembered who they are, and how long, in milliseconds: a number is another thread's one day.
const KNOWN: usize = 1024;
const FRESH: u64 = 1000;
/// How long the report may take, once the container is gone.
const REPORT: Duration = Duration::from_secs(10);
/// The longest packet that is looked at.
const PACKET: usize = 1024;

/// The witness, as its parent sees it.
#[derive(Debug)]
pub struct Witness {
    pid: Pid,
    /// It has ended as it should: with the last process that has the filter, which may be told before that process's own end.
    done: bool,
}

/// The payload's side: the program that tells, and where its listener goes.
#[derive(Debug)]
pub struct Observer {
    program: BpfProgram,
    socket: OwnedFd,
}

impl Witness {
    /// Forks it; `paths`: what is opened and looked for is told, too; the payload's ids
    /// where it has a user namespace of its own; `report` gets what it has seen. To be called in the container's
    /// network namespace, before the engine forks, and with no other thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(paths: bool, nested: Option<(u32, u32)>, report: OwnedFd) -> Result<(Self, Observer)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|e| fail(e.into()))?;
        let packets = loopback::watch().map_err(fail)?;
        let program = observed::program(paths)?;
        let child = || match become_witness(&theirs, &packets, &report, nested).and_then(Witnessing::run) {
            Ok(()) => 0,
            // There is nobody to tell: the parent sees that it is gone.
            Err(_) => 1,
        };
        let pid = process::fork(child).map_err(fail)?;
        // No descriptor of it is kept: the container would inherit that.
        Ok((Self { pid, done: false }, Observer { program, socket: ours }))
    }

    /// Its process number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// It has been waited for, and ended with this status.
    ///
    /// # Errors
    /// When it ended otherwise than with the container.
    pub fn ended(&mut self, status: i32) -> Result<()> {
        self.done = status == 0;
        if self.done { Ok(()) } else { Err(lost()) }
    }

    /// Waits until it has written its report, once the container is gone.
    ///
    /// # Errors
    /// When it does not end, or ended otherwise: then there is no report.
    pub fn finish(self) -> Result<()> {
        if self.done {
            return Ok(());
        }
        let handle = sys::pidfd_open(self.pid).map_err(fail)?;
        let until = Instant::now() + REPORT;
        loop {
            let left =
                PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => {
                    // ESRCH: it has just ended.
                    kill(self.pid, Signal::SIGKILL).ok();
                    break;
                }
                Ok(_) => break,
            }
        }
        match sys::wait_child(Some(self.pid), true) {
            Ok(Some(ended)) if ended.status == 0 => Ok(()),
            _ => Err(lost()),
        }
    }
}

/// The witness ended before the container did.
fn lost() -> Error {
    Error::new(Stage::Run, Kind::Failed, "the witness of the rehearsal is gone")
        .because(
            "without it every call that it was to be told of fails (ENOSYS), so nothing can be said about the image",
        )
        .hint("rehearse again; with more memory (--memory), if that was used up")
}

impl Observer {
    /// In the container's first process: installs the filter, and hands its listener to the witness; this process keeps none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(self) -> std::io::Result<()> {
        // The one message that is not told (observed.toml, "messages"): told, it would wait for a witness that waits for it.
        const UNTOLD: i32 = 0x4010;
        let listener = notify::install(&self.program)?;
        let numbers = [listener.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let parts = [std::io::IoSlice::new(b"l")];
        let sent = sendmsg::<()>(self.socket.as_raw_fd(), &parts, &rights, MsgFlags::from_bits_retain(UNTOLD), None)?;
        if sent == 1 { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
    }
}

/// In the child: gives up everything but what it looks at and writes to.
fn become_witness(
    socket: &OwnedFd,
    packets: &Loopback,
    report: &OwnedFd,
    nested: Option<(u32, u32)>,
) -> std::io::Result<Witnessing> {
    const FIRST: RawFd = 3;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let null = OwnedFd::from(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?);
    sys::replace_streams([Some(&null), Some(&null), Some(&null)])?;
    let sockets = packets.sockets.iter().map(|(_, socket)| socket.as_fd());
    let placed: Vec<_> = [socket.as_fd(), report.as_fd(), packets.ready.as_fd()].into_iter().chain(sockets).collect();
    sys::place_fds(&placed, FIRST)?;
    std::mem::forget(null);
    sys::close_from(FIRST.unsigned_abs() + u32::try_from(placed.len()).map_err(std::io::Error::other)?)?;
    let [socket, report, ready] =
        [sys::inherited_fd(FIRST)?, sys::inherited_fd(FIRST + 1)?, sys::inherited_fd(FIRST + 2)?];
    let own = |((seen, _), number): (&(Seen, OwnedFd), RawFd)| Ok((*seen, File::from(sys::inherited_fd(number)?)));
    let sockets = packets.sockets.iter().zip(FIRST + 3..).map(own).collect::<std::io::Result<_>>()?;
    let mut kept = CapsHashSet::new();
    kept.extend([Capability::CAP_SYS_PTRACE, Capability::CAP_SETUID, Capability::CAP_SETGID]);
    let dropped = caps::clear(None, CapSet::Ambient)
        .and_then(|()| caps::clear(None, CapSet::Inheritable))
        .and_then(|()| caps::clear(None, CapSet::Bounding))
        .and_then(|()| caps::set(None, CapSet::Effective, &kept))
        .and_then(|()| caps::set(None, CapSet::Permitted, &kept));
    dropped.map_err(|e| std::io::Error::other(e.to_string()))?;
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    // `paths::missed` counts on it.
    notify::reach_files_as(0, 0);
    let other = |e: Error| std::io::Error::other(e.to_string());
    let (filter, own) = (seccomp::program().map_err(other)?, seccomp::compile_witness().map_err(other)?);
    // Comes when the container is nearly made; the end of the file if it is never made.
    let received = sys::passed::receive(socket.as_fd(), &mut [0])?;
    let listener = received.passed.into_iter().next().ok_or(std::io::ErrorKind::UnexpectedEof)?;
    drop(socket);
    // Only faster.
    notify::take_turns(listener.as_fd()).ok();
    let witnessing = Witnessing { nested, ..Witnessing::new(filter, listener, (ready, sockets), File::from(report)) };
    seccompiler::apply_filter(&own).map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok(witnessing)
}

/// All that the witness knows.
struct Witnessing {
    filter: BpfProgram,
    listener: OwnedFd,
    /// Says whether there is one in the sockets, which see different kinds.
    packets: (OwnedFd, Vec<(Seen, File)>),
    report: File,
    nested: Option<(u32, u32)>,
    began: Instant,
    known: BTreeMap<Pid, (Who, u64)>,
    /// The supplementary groups with which this process asks.
    groups: Vec<u32>,
    /// The program that last turned to a name server: its questions come as packets, which name nobody.
    asking: String,
    told: u64,
    refused: Tally<Refused>,
    names: Tally<String>,
    addresses: Tally<Address>,
    closed: Tally<u16>,
    programs: Tally<Program>,
    denied: Tally<Missed>,
    absent: Tally<Missed>,
    privileges: Tally<String>,
}

impl Witnessing {
    fn new(filter: BpfProgram, listener: OwnedFd, packets: (OwnedFd, Vec<(Seen, File)>), report: File) -> Self {
        Self {
            filter,
            listener,
            packets,
            report,
            nested: None,
            began: Instant::now(),
            known: BTreeMap::new(),
            groups: Who::of(Pid::this()).groups,
            asking: String::new(),
            told: 0,
            refused: Tally::of(MOST),
            names: Tally::of(MOST),
            addresses: Tally::of(MOST),
            closed: Tally::of(MOST),
            programs: Tally::of(MOST),
            denied: Tally::of(MOST_PATHS),
            absent: Tally::of(MOST_PATHS),
            privileges: Tally::of(MOST),
        }
    }

    /// Until no process of the container has the filter any more; then reports.
    fn run(mut self) -> std::io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.packets.0.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            }
            let [calls, packets] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            // Packets were sent before the call that waits: a question is the program's that turned to a name server before it.
            if packets.contains(PollFlags::POLLIN) {
                self.read_packets();
            }
            if calls.contains(PollFlags::POLLIN) {
                self.answer_one()?;
            } else if calls.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                break;
            }
        }
        // What was sent last.
        self.read_packets();
        self.write_report()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn answer_one(&mut self) -> std::io::Result<()> {
        let told = match notify::receive(self.listener.as_fd()) {
            Ok(told) => told,
            // The caller is gone, or a signal came first.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => return Ok(()),
            Err(e) => return Err(e),
        };
        self.told = self.told.saturating_add(1);
        let decision = observed::decide(&self.filter, &Call { number: told.number, arch: told.arch, args: told.args });
        let name = seccomp::name_of(told.number);
        let who = self.who(told.pid);
        let reply = match decision {
            Decision::Errno(errno) => {
                let now = self.now();
                let raw = name.filter(|name| *name == "socket");
                match raw.and_then(|name| calls::privilege_of(name, &who, (0, 0), told.args, None)) {
                    // What was wanted says more than the call.
                    Some(privilege) => self.privileges.count(privilege, &who.program, now),
                    None => {
                        let call = name.map_or_else(|| format!("call {}", told.number), str::to_owned);
                        self.refused.count(Refused { call, errno }, &who.program, now);
                    }
                }
                notify::Reply::Errno(errno)
            }
            Decision::Allow => {
                if let Some(name) = name {
                    self.look(name, &told, &who);
                }
                notify::Reply::Continue
            }
        };
        match notify::send(self.listener.as_fd(), told.id, reply) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    /// Takes down what a call wants that the kernel will take.
    fn look(&mut self, name: &str, told: &Notified, who: &Who) {
        let address = calls::address_of(name, told.pid, told.args);
        let program = calls::program_of(name, told.pid, told.args);
        // In a user namespace of its own the payload has other numbers than here.
        let own = self.nested.or(who.ids);
        let privilege = own.and_then(|own| calls::privilege_of(name, who, own, told.args, address.as_ref()));
        let missed = paths::named(name, told.args).and_then(|named| {
            if self.groups != who.groups {
                // Where a namespace forbids it, nobody in it has other groups than this process.
                notify::reach_files_in(&who.groups);
                self.groups.clone_from(&who.groups);
            }
            paths::missed(told.pid, who, self.nested, &named)
        });
        if name.starts_with("exec") || name.starts_with("set") || name == "capset" {
            // It is another program, or another user, from here on.
            self.known.remove(&told.pid);
        }
        if address.is_none() && program.is_none() && privilege.is_none() && missed.is_none() {
            return;
        }
        // Else the number may be another thread's by now, and what was read is not the caller's.
        if !notify::is_valid(self.listener.as_fd(), told.id) {
            return;
        }
        let (now, by) = (self.now(), who.program.as_str());
        match address {
            Some(Address::Internet { port: 53, .. }) => self.asking = by.to_owned(),
            Some(address) if name != "bind" => self.addresses.count(address, by, now),
            _ => {}
        }
        if let Some(program) = program {
            self.programs.count(program, by, now);
        }
        if let Some(privilege) = privilege {
            self.privileges.count(privilege, by, now);
        }
        match missed {
            // Neither there, nor to be reached at all.
            Some(missed) if matches!(missed.errno, libc::ENOENT | libc::ENOTDIR) => self.absent.count(missed, by, now),
            Some(missed) => self.denied.count(missed, by, now),
            None => {}
        }
    }

    fn who(&mut self, pid: Pid) -> Who {
        let now = self.now();
        if let Some((known, since)) = self.known.get(&pid)
            && now.saturating_sub(*since) < FRESH
        {
            return known.clone();
        }
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        let who = Who::of(pid);
        self.known.insert(pid, (who.clone(), now));
        who
    }

    fn read_packets(&mut self) {
        let mut packet = [0; PACKET];
        let now = self.now();
        for (seen, socket) in &mut self.packets.1 {
            // A few at a time: calls wait. EAGAIN: no more for now.
            for _ in 0..64 {
                let Ok(length) = socket.read(&mut packet) else { break };
                match names::read(*seen, packet.get(..length).unwrap_or_default()) {
                    Some(Packet::Question(name)) => self.names.count(name, &self.asking, now),
                    Some(Packet::Refused(port)) if port != 53 => self.closed.count(port, "", now),
                    _ => {}
                }
            }
        }
    }

    fn write_report(mut self) -> std::io::Result<()> {
        let elapsed = self.now();
        let (refused, a) = self.refused.finish();
        let (names, b) = self.names.finish();
        let (addresses, c) = self.addresses.finish();
        let (closed, d) = self.closed.finish();
        let (programs, e) = self.programs.finish();
        let (mut missed, f) = self.denied.finish();
        let (absent, g) = self.absent.finish();
        let (privileges, h) = self.privileges.finish();
        missed.extend(absent);
        let forgotten = [a, b, c, d, e, f, g, h].into_iter().fold(0, u64::saturating_add);
        let told = self.told;
        let seen =
            Observations { refused, names, addresses, closed, programs, missed, privileges, forgotten, told, elapsed };
        let mut line = serde_json::to_vec(&seen)?;
        line.push(b'\n');
        self.report.write_all(&line)
    }
}

fn fail(e: std::io::Error) -> Error {
    Error::new(Stage::Run, Kind::Host, "cannot start the witness of the rehearsal").because(e)
}
