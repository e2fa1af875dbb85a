//! The child process: one id of the host, no network, shut into the directory that it looks at, which it can only read.
//!
//! Takes the directory on standard input and a job on its control socket (standard output); gives what was found, entry by entry.
//! Trusts its parent's job; nothing that it reads. Refuses to look at anything where it could not shut itself in.

use std::io::{self, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};

use super::look::{Looked, Name};
use super::protocol::{Job, Said, receive, send};
use super::walk::{Visitor, walk};
use crate::host::confine;
use crate::host::parent;

/// Seconds of a processor that it may use.
const SECONDS: u64 = 900;

/// What the child process does; to be called before any thread exists.
pub fn child_main() -> ExitCode {
    let own = || -> io::Result<(UnixStream, OwnedFd)> {
        Ok((io::stdout().as_fd().try_clone_to_owned()?.into(), io::stdin().as_fd().try_clone_to_owned()?))
    };
    let Ok((control, directory)) = own() else { return ExitCode::FAILURE };
    if parent::verify(&control).is_err() {
        // Not started by ces: whoever did is told nothing.
        return ExitCode::FAILURE;
    }
    let said = match work(&control, directory) {
        Ok(said) => said,
        Err(failure) => failure,
    };
    match send(&control, &said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failed(why: impl std::fmt::Display) -> Said {
    Said::Failed { why: why.to_string(), hint: None }
}

fn work(control: &UnixStream, directory: OwnedFd) -> Result<Said, Said> {
    let mut from_parent = BufReader::new(control);
    let job: Job = receive(&mut from_parent).map_err(failed)?;
    let confined = |e: confine::Unconfined| Said::Failed { why: e.to_string(), hint: e.hint.map(str::to_owned) };
    for (limit, value) in [
        (Resource::RLIMIT_DATA, job.memory),
        (Resource::RLIMIT_CPU, SECONDS),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        setrlimit(limit, value, value)
            .map_err(|e| failed(format!("cannot limit the process that looks: {}", e.desc())))?;
    }
    confine::leave().map_err(confined)?;
    send(control, &Said::Unshared).map_err(failed)?;
    receive::<String>(&mut from_parent).map_err(failed)?;
    confine::become_root(&job.ids).map_err(confined)?;
    confine::shut_in(&directory, &[], true).map_err(confined)?;
    let mut teller = Teller { control, left_out: job.skip };
    let seen = walk(directory, &job.rules, &mut teller).map_err(failed)?;
    Ok(Said::Done { directories: seen.directories, more: seen.more })
}

/// Tells the parent.
struct Teller<'a> {
    control: &'a UnixStream,
    left_out: u64,
}

impl Visitor for Teller<'_> {
    fn at(&mut self, path: &[u8]) -> io::Result<bool> {
        if self.left_out > 0 {
            self.left_out -= 1;
            return Ok(false);
        }
        send(self.control, &Said::At(Name::new(path)))?;
        Ok(true)
    }

    fn looked(&mut self, looked: Looked) -> io::Result<()> {
        send(self.control, &Said::Looked(Box::new(looked)))
    }
}
