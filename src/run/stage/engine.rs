//! libcontainer, and nothing else of it: create, start.
//!
//! Takes a spec without user, network, cgroup and IPC namespace, resources and seccomp (ces has done those); gives a created
//! container; trusts libcontainer to apply the rest, which the enforced check then verifies; refuses to start without
//! that check (the type `Created` is consumed by `start`).

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use seccompiler::BpfProgram;

use crate::bundle::rootfs::{BUNDLE, STATE};
use crate::bundle::seccomp;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::sys;
use crate::run::channel::Channel;
use crate::run::container::init;
use crate::run::stage::engine_log::EngineLog;
use crate::run::stage::witness::Observer;

/// A container that waits for its start.
#[allow(missing_debug_implementations, reason = "libcontainer's Container says nothing useful")]
pub struct Created {
    container: Container,
    init: Pid,
}

impl Created {
    /// The container's first process, as this process sees it.
    pub fn init(&self) -> Pid {
        self.init
    }

    /// Starts the payload.
    ///
    /// # Errors
    /// The engine's.
    pub fn start(mut self) -> Result<Pid> {
        self.container.start().map_err(|e| fail("start the container").caused_by(&e))?;
        Ok(self.init)
    }
}

/// Creates the container `job` from `spec`, whose root is the stage's overlay; if it has a terminal, its master side goes to
/// the socket `console`.
///
/// # Errors
/// The engine's, with all its causes.
pub fn create(job: &str, spec: &Spec, payload: Payload, console: Option<&Path>) -> Result<Created> {
    let config = Path::new(BUNDLE).join("config.json");
    let text = serde_json::to_vec(spec).map_err(|e| fail("write the engine's spec").because(e))?;
    fs::write(config, text).map_err(|e| fail("write the engine's spec").because(e))?;
    let log = EngineLog::start().map_err(|e| fail("listen to the engine").because(e))?;
    let container = ContainerBuilder::new(job.to_owned(), SyscallType::default())
        .with_executor(payload)
        .with_console_socket(console)
        .with_root_path(STATE)
        .map_err(|e| fail("prepare the container").caused_by(&e))?
        .as_init(BUNDLE)
        .with_systemd(false)
        // The engine's word for "the terminal goes to a socket"; it means nothing else there.
        .with_detach(console.is_some())
        .build()
        .map_err(|e| log.lines().iter().fold(fail("create the container").caused_by(&e), Error::because))?;
    let init = container.pid().ok_or_else(|| fail("find the container's first process"))?;
    Ok(Created { container, init: Pid::from_raw(init.as_raw()) })
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Run, Kind::Failed, format!("cannot {what}"))
        .hint("please report this, with the output of ces doctor")
}

/// What runs in the container: the seccomp filter, then PID 1 and the payload.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a compiled filter says nothing to a reader")]
pub struct Payload {
    filter: Rc<BpfProgram>,
    status: Rc<OwnedFd>,
    nested: Option<(u32, u32)>,
    exec: Option<Rc<Channel>>,
    /// Of a rehearsal: taken by the process that installs it.
    observer: Option<Rc<Cell<Option<Observer>>>>,
}

impl Payload {
    /// A payload whose wait status goes to `status`; with `nested` ids in a user namespace of its own; through `exec` commands
    /// may come; an `observer` is a rehearsal's.
    ///
    /// # Errors
    /// When there is no seccomp profile for this machine.
    pub fn new(
        status: OwnedFd,
        nested: Option<(u32, u32)>,
        exec: Option<OwnedFd>,
        observer: Option<Observer>,
    ) -> Result<Self> {
        let exec = exec.map(Channel::from_fd).map(Rc::new);
        let observer = observer.map(|observer| Rc::new(Cell::new(Some(observer))));
        Ok(Self { filter: Rc::new(seccomp::program()?), status: Rc::new(status), nested, exec, observer })
    }
}

/// Whether nobody holds the other end of a pipe any more (poll(2), POLLERR).
fn reader_is_gone(pipe: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds.iter().any(|fd| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR))))
}

/// The engine opens the container's own null device in the place of the host's, but for reading alone: writing to it would
/// be an error (EBADF).
fn writable_null() -> std::io::Result<()> {
    let null = nix::sys::stat::makedev(1, 3);
    let is_null = |stat: nix::Result<nix::sys::stat::FileStat>| {
        stat.is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFCHR && s.st_rdev == null)
    };
    let (out, err) =
        (is_null(nix::sys::stat::fstat(std::io::stdout())), is_null(nix::sys::stat::fstat(std::io::stderr())));
    if out || err {
        let device = OwnedFd::from(fs::OpenOptions::new().write(true).open("/dev/null")?);
        sys::replace_streams([None, out.then_some(&device), err.then_some(&device)])?;
    }
    Ok(())
}

impl Executor for Payload {
    /// Runs in the container's first process before it waits for the start, so that what it does is visible to the
    /// enforced check.
    fn validate(&self, _spec: &Spec) -> std::result::Result<(), ExecutorValidationError> {
        let refuse =
            |what: &str, why: String| ExecutorValidationError::ArgValidationError(format!("cannot {what}: {why}"));
        if let Some((uid, gid)) = self.nested {
            crate::run::container::nested::enter(uid, gid).map_err(|e| {
                refuse("give the image's user its number (a user namespace in a user namespace)", e.to_string())
            })?;
        }
        // After the last change of ids, which would clear it.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| refuse("follow ces into death", e.to_string()))?;
        // It may have died before it was followed; nobody else holds the other end of this pipe.
        if reader_is_gone(self.status.as_fd()).map_err(|e| refuse("see whether ces is there", e.to_string()))? {
            return Err(refuse("go on", "ces is gone".to_owned()));
        }
        // Until PID 1 reads them: it has no default actions, so what came before that would be lost (pid_namespaces(7)).
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
            .map_err(|e| refuse("hold signals back", e.to_string()))?;
        writable_null().map_err(|e| refuse("open the null device for the output", e.to_string()))?;
        sys::close_paths().map_err(|e| refuse("close the engine's directories", e.to_string()))?;
        if let Some(observer) = &self.observer {
            let gone = || std::io::Error::other("it is installed already");
            let installed = observer.take().ok_or_else(gone).and_then(Observer::install);
            return installed.map_err(|e| refuse("install the seccomp filter of a rehearsal", e.to_string()));
        }
        seccompiler::apply_filter(&self.filter).map_err(|e| refuse("install the seccomp filter", e.to_string()))
    }

    /// The environment is given to the payload's `execve` alone; PID 1 keeps an empty one.
    fn setup_envs(&self, _envs: HashMap<String, String>) -> std::result::Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> std::result::Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().clone().unwrap_or_default();
        let env = process.env().clone().unwrap_or_default();
        init::run(&args, &env, self.status.as_fd(), self.exec.as_deref(), self.observer.is_some())
    }
}
