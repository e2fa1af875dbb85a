//! The scheduling that the caller chose, and how soon it is killed for want of memory, for what works for them, and the default for
//! `ces`.
//!
//! Takes the process as it was started; gives the default scheduling, and the caller's to children; trusts the kernel; refuses to
//! give anybody more than they had.

use std::io;
use std::sync::OnceLock;

use nix::unistd::Pid;
use rustix::process::{getpriority_process, setpriority_process};

use super::kernel_files;
use super::privilege::Root;
use super::sys::scheduling::{io_priority, policy, set_io_priority, set_policy};

/// Policy, nice value, I/O priority, and `oom_score_adj` (proc_pid_oom_score_adj(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheduling {
    policy: i32,
    nice: i32,
    io: i32,
    oom: i32,
}

/// What the caller chose, and what this process has in its place, where the two differ.
static CHOSEN: OnceLock<(Scheduling, Scheduling)> = OnceLock::new();

const DEFAULT: Scheduling = Scheduling { policy: nix::libc::SCHED_OTHER, nice: 0, io: 0, oom: 0 };

/// Gives this process, which has one thread, the default scheduling where its caller chose to yield to others. A policy of real time,
/// which only root gives, and a nice value below 0 stay.
///
/// # Errors
/// The kernel's.
pub fn reset(_: &Root) -> io::Result<()> {
    let this = Pid::from_raw(0);
    let found = Scheduling {
        policy: policy(this)?,
        nice: getpriority_process(None)?,
        io: io_priority(this)?,
        oom: kernel_files::read("/proc/self/oom_score_adj")?.trim().parse().map_err(io::Error::other)?,
    };
    let yields = [nix::libc::SCHED_OTHER, nix::libc::SCHED_BATCH, nix::libc::SCHED_IDLE].contains(&found.policy);
    let keeps = !yields || found.nice < 0;
    // Below 0 only root sets it.
    let own = Scheduling { oom: found.oom.min(0), ..if keeps { found } else { DEFAULT } };
    if own != found {
        CHOSEN.get_or_init(|| (found, own));
        change("self", this, &found, &own)?;
    }
    Ok(())
}

/// Gives a child the scheduling that the caller chose.
///
/// # Errors
/// The kernel's.
pub fn give_back(_: &Root, child: Pid) -> io::Result<()> {
    CHOSEN.get().map_or(Ok(()), |(callers, own)| change(&child.to_string(), child, own, callers))
}

/// What is the same stays as it is: a policy of real time has a priority, which is not known here.
fn change(name: &str, pid: Pid, from: &Scheduling, to: &Scheduling) -> io::Result<()> {
    if to.oom != from.oom {
        std::fs::write(format!("/proc/{name}/oom_score_adj"), to.oom.to_string())?;
    }
    if to.policy != from.policy {
        set_policy(pid, to.policy)?;
    }
    if to.nice != from.nice {
        // None: this process.
        setpriority_process(rustix::process::Pid::from_raw(pid.as_raw()), to.nice)?;
    }
    if to.io != from.io {
        set_io_priority(pid, to.io)?;
    }
    Ok(())
}
