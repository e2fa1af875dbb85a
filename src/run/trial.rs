//! Limits, tried: for `ces doctor`, which says what was seen and not what should be.

use oci_spec::runtime::LinuxResources;

use super::job::JobId;
use super::spawn;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::cgroup::Cgroup;

/// Makes a control group for a process that does nothing, and removes both; gives the limits that it does not have.
///
/// # Errors
/// When there is none to be had.
pub fn limits() -> Result<Vec<&'static str>> {
    let (job, none) = (format!("doctor-{}", JobId::new()?), LinuxResources::default());
    let cgroup = match Cgroup::prepare(&job, &none)? {
        // Whoever may make one may enter it.
        Some(cgroup) => cgroup,
        None => {
            let child = spawn::fork(|| {
                nix::unistd::pause();
                0
            })
            .map_err(|e| Error::new(Stage::Run, Kind::Host, "cannot start a process to try limits on").because(e))?;
            let made = Cgroup::create(&job, child, &none);
            spawn::end(child);
            made?
        }
    };
    let seen = cgroup.observed().map(|_| cgroup.missing().to_vec());
    cgroup.remove().and(seen)
}
