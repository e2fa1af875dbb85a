//! Which machine this is, and since when it is up: for what is noted on file systems that several machines share.
//!
//! Takes three names of the kernel's and the system's; gives a `Machine`; trusts them; refuses to go on without the
//! kernel's own, which is new at every start (random(4), `boot_id`).

use std::fs;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::kernel_files;

/// A machine, from one of its starts to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -n`.
    pub host: String,
    /// `/etc/machine-id` (machine-id(5)); empty where there is none. Copied machines may share one.
    pub id: String,
    /// `/proc/sys/kernel/random/boot_id`: no two kernels share one.
    pub boot: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn this() -> Result<Self> {
        static THIS: OnceLock<Machine> = OnceLock::new();
        match THIS.get() {
            Some(known) => Ok(known.clone()),
            None => Self::ask().map(|asked| THIS.get_or_init(|| asked).clone()),
        }
    }

    fn ask() -> Result<Self> {
        let path = "/proc/sys/kernel/random/boot_id";
        let fail = |e: &dyn std::fmt::Display| {
            Error::new(Stage::Host, Kind::Host, format!("cannot identify this machine by {path}")).because(e)
        };
        let boot = kernel_files::read(path).map_err(|e| fail(&e))?.trim().to_owned();
        if boot.is_empty() {
            return Err(fail(&"it is empty"));
        }
        let host = nix::unistd::gethostname().map_err(|e| fail(&e.desc()))?.to_string_lossy().into_owned();
        let id = fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
        Ok(Self { host, id, boot })
    }

    /// Whether `other` is this machine, now or before an earlier end of it.
    pub fn is(&self, other: &Self) -> bool {
        self.boot == other.boot || (&self.host, &self.id) == (&other.host, &other.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_itself_after_a_restart_and_under_another_name_but_no_copy_of_itself() {
        let machine =
            |host: &str, id: &str, boot: &str| Machine { host: host.into(), id: id.into(), boot: boot.into() };
        let here = machine("node1", "aa", "1");
        assert!(here.is(&machine("node1", "aa", "2")), "restarted");
        assert!(here.is(&machine("renamed", "bb", "1")), "the same kernel");
        assert!(!here.is(&machine("node2", "aa", "3")), "started from the same image");
        assert!(!here.is(&machine("node1", "bb", "3")), "of the same name");
    }

    #[test]
    fn this_machine_is_this_machine() {
        let this = Machine::this().unwrap();
        assert!(this.is(&Machine::this().unwrap()) && this.boot.len() == 36, "{this:?}");
    }
}
