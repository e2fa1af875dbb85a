//! Gives the outputs of a run to the researcher, with power over every id that the container could use.
//!
//! Takes the outputs directory and the run's id map; gives the list of outputs; trusts the descriptor, not the name;
//! refuses to touch what belongs to an id outside the map.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::bundle::identity::{HostIds, acting_with_power};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::run::supervisor::outputs::{self, Outputs};
use crate::run::supervisor::quota::Kept;
use crate::run::user_namespace;

/// Gives everything in the directory that `open` opens to `researcher`: directly when privileged, or when it is theirs
/// already, as what most users' runs leave; else as root of a user namespace with `map`, in which the researcher is root. What
/// `quotas` have counted is counted no more.
///
/// # Errors
/// When an entry cannot be given away.
pub fn hand_over(
    open: impl Fn() -> Result<OwnedFd>,
    path: &Path,
    researcher: &HostIds,
    map: &IdMap,
    privileged: bool,
    quotas: &[Kept],
) -> Result<Outputs> {
    if privileged {
        let ours =
            |uid: u32| uid == researcher.uid || map.uids.iter().any(|e| uid >= e.outside && uid - e.outside < e.count);
        let dir = open()?;
        return acting_with_power(researcher, true, || outputs::collect(dir, path, researcher, ours, quotas));
    }
    if let Ok(dir) = open()
        && outputs::all_of(&dir, researcher)
    {
        return outputs::collect(dir, path, researcher, |uid| uid == researcher.uid, quotas);
    }
    let fail = |e: serde_json::Error| Error::new(Stage::Outputs, Kind::Failed, "cannot list the outputs").because(e);
    let root = HostIds { uid: 0, gid: 0, groups: Vec::new() };
    let unmapped = nobody();
    let answer = user_namespace::with_ids(map, false, || {
        let outputs = outputs::collect(open()?, path, &root, |uid| uid != unmapped, quotas)?;
        serde_json::to_vec(&outputs).map_err(fail)
    })?;
    serde_json::from_slice(&answer).map_err(fail)
}

/// The id that stands for every id without a mapping (user_namespaces(7)).
fn nobody() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(65_534)
}
