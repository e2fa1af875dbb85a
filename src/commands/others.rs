//! Files in what was bound that another of an image's users left there: the researcher can neither change nor delete them.
//!
//! Takes a prepared run after its end; gives a note for each such directory; trusts nothing; changes nothing: whose files
//! they are may matter to the image's next run (a database's), and only the researcher knows.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::prepare::Prepared;
use crate::policy::Access;

/// Entries of a directory that are looked at.
const MOST: usize = 10_000;

/// A note for each directory in which there is such a file, at the top of it.
pub fn notes(prepared: &Prepared) -> Vec<String> {
    let identity = &prepared.identity;
    // Without a capability the payload has one id, the researcher's. Root can do what it likes with every file.
    if prepared.grant.profile.capabilities.is_empty() || identity.caller.uid.is_root() {
        return Vec::new();
    }
    let data = (prepared.grant.data == Access::Rw).then_some(prepared.data.path.as_path());
    let own = prepared.grant.binds.iter().filter(|bind| bind.access == Access::Rw).map(|bind| bind.source.as_path());
    let with_others = own.chain(data).filter(|dir| has_others(prepared, dir));
    let note = |dir: &Path| {
        format!(
            "{dir} holds files of another user of the image, which you cannot change or delete; to make them yours: \
             ces run --profile service --user 0 -v {dir}:/mnt {image} chown -R 0:0 /mnt",
            dir = dir.display(),
            image = prepared.image.reference(),
        )
    };
    with_others.map(note).collect()
}

/// Whether the directory, or something in it, belongs to an id that is in the container and is not the researcher.
fn has_others(prepared: &Prepared, dir: &Path) -> bool {
    let (map, own) = (&prepared.identity.container, prepared.identity.caller.uid.as_raw());
    let others = |uid: u32| uid != own && map.uids.iter().any(|e| uid >= e.outside && uid - e.outside < e.count);
    let is_others = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| others(found.uid()));
    is_others(dir) || fs::read_dir(dir).into_iter().flatten().flatten().take(MOST).any(|entry| is_others(&entry.path()))
}
