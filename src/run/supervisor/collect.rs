//! Gives the outputs of a run to the researcher, with power over every id that the container could use.
//!
//! Takes the outputs directory, as it was made, and the run's ids; gives the list of outputs; trusts the descriptor, not the
//! name; refuses to touch what belongs to an id outside the map.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::privilege::{as_root, over_files};
use crate::run::supervisor::job::ids_of;
use crate::run::supervisor::outputs::{self, Outputs};
use crate::run::supervisor::quota::Kept;
use crate::run::user_namespace;

/// Whose outputs they are, and the ids that may have made them.
#[derive(Debug, Clone)]
pub struct Whose {
    /// Who gets them.
    pub researcher: HostIds,
    /// The container's user namespace.
    pub map: IdMap,
    /// `ces` has root's power on the host.
    pub privileged: bool,
}

/// Gives everything in `dir` to the researcher: directly when privileged, or when it is theirs already, as what most users'
/// runs leave; else as root of a user namespace with the run's map, in which the researcher is root. What `quotas` have counted
/// is counted no more; `path` is its name, for the list.
///
/// # Errors
/// When it cannot be given away.
pub fn hand_over(dir: OwnedFd, path: &Path, whose: &Whose, quotas: &[Kept]) -> Result<Outputs> {
    let Whose { researcher, map, privileged } = whose;
    let ids = ids_of(map, *privileged, researcher.uid);
    if *privileged {
        return over_files(researcher, |_| outputs::collect(dir, path, researcher, &ids, quotas));
    }
    if outputs::all_of(&dir, researcher) {
        return outputs::collect(dir, path, researcher, &|uid| uid == researcher.uid, quotas);
    }
    let fail = |e: serde_json::Error| Error::new(Stage::Outputs, Kind::Failed, "cannot list the outputs").because(e);
    let root_inside = HostIds { uid: 0, gid: 0, groups: Vec::new() };
    let work = || {
        let dir = dir
            .try_clone()
            .map_err(|e| Error::new(Stage::Outputs, Kind::Failed, "cannot open the outputs once more").because(e))?;
        serde_json::to_vec(&outputs::collect(dir, path, &root_inside, &ids, quotas)?).map_err(fail)
    };
    let answer = as_root(|root| user_namespace::with_ids(root, map, false, work))?;
    serde_json::from_slice(&answer).map_err(fail)
}
