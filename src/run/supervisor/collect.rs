//! Gives the outputs of a run to the researcher, with power over every id that the container could use, and lists them.
//!
//! Takes the outputs directory, as it was made, and the run's ids; gives what the record tells of outputs; trusts the descriptor,
//! not the name; refuses to touch what belongs to an id outside the map.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::privilege::{as_root, over_files};
use crate::run::supervisor::job::ids_of;
use crate::run::supervisor::outputs::give::{self, Given, Rights};
use crate::run::supervisor::outputs::hash::Ask;
use crate::run::supervisor::outputs::listing::{self, Listed, Of};
use crate::run::supervisor::outputs::reading::Reading;
use crate::run::supervisor::outputs::{Files, List, Outputs, list};
use crate::run::supervisor::quota::Kept;
use crate::run::user_namespace;

/// Files, and bytes of them, that are hashed without a process of its own: in less time than it takes to start one.
const SMALL_FILES: u64 = 2000;
const SMALL_BYTES: u64 = 64 << 20;

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
/// runs leave; else as root of a user namespace with the run's map, in which the researcher is root. Then lists it, with the
/// researcher's own rights, into `list`, an empty file of that name. What `quotas` have counted is counted no more; `path` is the
/// directory's name, for the record.
///
/// # Errors
/// When the directory itself cannot be given away or read; what is in it is each its own.
pub fn hand_over(
    dir: &OwnedFd,
    path: &Path,
    whose: &Whose,
    quotas: &[Kept],
    list: Option<(File, String)>,
    reading: &mut Reading<'_>,
) -> Result<Outputs> {
    let file = list.as_ref().map(|(file, _)| file);
    let given = give_all(dir, whose, quotas, file)?;
    let small = given.files <= SMALL_FILES && given.data <= SMALL_BYTES;
    let owner = whose.researcher.uid;
    let work = |ask: Ask<'_>| {
        let listed = listing::list(dir, Of::Owner(owner), file, ask);
        let listed = listed.unwrap_or_else(|e| Listed { cut: Some(e.desc().to_owned()), ..Listed::default() });
        // Numbers and texts: nothing that JSON could not hold.
        serde_json::to_vec(&listed).unwrap_or_default()
    };
    let listed = match reading.read(small, &work) {
        Ok(answer) => serde_json::from_slice(&answer).map_err(|e| fail("understand the list of outputs").because(e))?,
        Err(error) => Listed { cut: Some(error.to_string()), ..Listed::default() },
    };
    let mut refused = given.refused.clone();
    refused.join(&listed.failed);
    let cut = given.cut.or(listed.cut);
    let sealed = |(file, name): (File, String)| -> Result<List> {
        list::sealed(&file, name, cut).map_err(|e| fail("read the list of outputs").because(e))
    };
    Ok(Outputs {
        path: path.to_path_buf(),
        files: Files::Count(given.files),
        bytes: given.bytes,
        disk: given.disk,
        directories: given.directories,
        links: given.links,
        refused,
        set_ids: given.set_ids,
        attributes: given.attributes,
        not_hashed: listed.not_hashed,
        list: list.map(sealed).transpose()?,
    })
}

fn give_all(dir: &OwnedFd, whose: &Whose, quotas: &[Kept], list: Option<&File>) -> Result<Given> {
    let Whose { researcher, map, privileged } = whose;
    let ids = ids_of(map, *privileged, researcher.uid);
    if *privileged {
        let rights = Rights { owner: researcher, ids: &ids, shared: true, quotas };
        return over_files(researcher, |_| give::give(dir, &rights, list));
    }
    if give::all_of(dir, researcher) {
        let own = |uid| uid == researcher.uid;
        return give::give(dir, &Rights { owner: researcher, ids: &own, shared: false, quotas }, list);
    }
    let told = |e: serde_json::Error| fail("tell what was given").because(e);
    let root_inside = HostIds { uid: 0, gid: 0, groups: Vec::new() };
    let rights = Rights { owner: &root_inside, ids: &ids, shared: false, quotas };
    let work = || serde_json::to_vec(&give::give(dir, &rights, list)?).map_err(told);
    let answer = as_root(|root| user_namespace::with_ids(root, map, false, work))?;
    serde_json::from_slice(&answer).map_err(told)
}

fn fail(what: &str) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("cannot {what}"))
}
