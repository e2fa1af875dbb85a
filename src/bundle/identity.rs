//! Who is who: the caller, the container's user, and the id maps between them.
//!
//! Takes a `Caller` and the image's user; gives an `Identity`; trusts the passwd and group databases; refuses a
//! user whose id no map covers.
//!
//! The image's `USER` is the researcher on the host, whatever number it has, so that data access stays a matter of
//! file permissions and outputs belong to the researcher. Everyone else in the image is an id that belongs to no one
//! (root's runs) or a subordinate id (a user's runs). Real root without sudo names no researcher: then the `USER` is
//! of the foreign range too, because host root must never be a user of the container, and the outputs are given to
//! root after the run.

use nix::unistd::Gid;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::idmap::{Extent, IdMap, RANGE};
use crate::host::ids::HostIds;

/// The ids of one run.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who asked for the run.
    pub caller: Caller,
    /// The ids that own the layers on disk.
    pub on_disk: IdMap,
    /// The container's user namespace.
    pub container: IdMap,
    /// Groups of the researcher that the container keeps (the project's group).
    pub groups: Vec<Gid>,
    /// The container's user.
    pub uid: u32,
    /// The container's group.
    pub gid: u32,
    /// Groups of the image that its user is in, as the container numbers them. An ordinary user's container keeps the
    /// researcher's own groups, which cannot be had again once others are set (setgroups(2)), and has none of these.
    pub own_groups: Vec<u32>,
    /// The payload's ids, where it has a user namespace of its own inside the container's (`run::nested`).
    pub nested: Option<(u32, u32)>,
}

impl Identity {
    /// The identity of a run in which the image's user is `uid`:`gid`. A payload with `capabilities` may change to other
    /// users, and then must have the container's own.
    ///
    /// # Errors
    /// When the ids are outside what this host maps.
    pub fn new(caller: &Caller, uid: u32, gid: u32, groups: Vec<Gid>, capabilities: bool) -> Result<Self> {
        let on_disk = IdMap::on_disk(caller)?;
        let nested = (!caller.is_privileged() && !capabilities && (uid, gid) != (0, 0)).then_some((uid, gid));
        if nested.is_some() {
            return Ok(Self {
                caller: caller.clone(),
                container: on_disk.clone(),
                on_disk,
                groups,
                own_groups: Vec::new(),
                uid,
                gid,
                nested,
            });
        }
        for (what, id, outside) in [("user", uid, on_disk.uid_outside(uid)), ("group", gid, on_disk.gid_outside(gid))] {
            if outside.is_none() {
                return Err(Error::new(
                    Stage::Bundle,
                    Kind::Host,
                    format!("the image's {what} {id} has no id on this host"),
                )
                .because(if on_disk.is_single() {
                    "there are no subordinate ids for it (/etc/subuid, /etc/subgid)".to_owned()
                } else {
                    format!("ids up to {} are mapped", RANGE - 1)
                })
                .hint("choose another user with --user, for example --user 0"));
            }
        }
        let container = if caller.is_privileged() && !caller.uid.is_root() {
            IdMap {
                uids: swap_in(&on_disk.uids, uid, caller.uid.as_raw()),
                gids: swap_in(&on_disk.gids, gid, caller.gid.as_raw()),
            }
        } else {
            on_disk.clone()
        };
        Ok(Self { caller: caller.clone(), on_disk, container, groups, own_groups: Vec::new(), uid, gid, nested })
    }

    /// The same with the image's `groups` of its user; those that have no id on this host are left out.
    pub fn with_own_groups(mut self, groups: &[u32]) -> Self {
        let is_mapped = |gid: &u32| self.container.gid_outside(*gid).is_some();
        self.own_groups = match self.caller.is_privileged() {
            true => groups.iter().copied().filter(is_mapped).collect(),
            false => Vec::new(),
        };
        self
    }

    /// The same for a bundle that other programs run, which know no namespace in a namespace.
    ///
    /// # Errors
    /// When the ids are outside what this host maps.
    pub fn portable(&self) -> Result<Self> {
        Self::new(&self.caller, self.uid, self.gid, self.groups.clone(), true)
            .map(|identity| identity.with_own_groups(&self.own_groups))
    }

    /// The map of the namespace in which the payload is: id there → id on the host.
    pub fn payload_map(&self) -> IdMap {
        let one = |inside, outside| vec![Extent { inside, outside, count: 1 }];
        match self.nested {
            None => self.container.clone(),
            Some((uid, gid)) => {
                IdMap { uids: one(uid, self.caller.uid.as_raw()), gids: one(gid, self.caller.gid.as_raw()) }
            }
        }
    }

    /// The map of the layers' mounts, where ids on disk and in the container differ (mount_setattr(2), "ID-mapped
    /// mounts"): id on disk → id on the host.
    pub fn layer_map(&self) -> Option<IdMap> {
        if self.on_disk == self.container {
            return None;
        }
        let between = |disk: &[Extent], host: &[Extent]| {
            // The container's extents split the disk's single one: translate each.
            let base = disk.first().map_or(0, |e| e.outside);
            host.iter().map(|e| Extent { inside: base.saturating_add(e.inside), ..*e }).collect()
        };
        Some(IdMap {
            uids: between(&self.on_disk.uids, &self.container.uids),
            gids: between(&self.on_disk.gids, &self.container.gids),
        })
    }

    /// The host ids of the container's user: who reads the data and writes the outputs.
    pub fn payload(&self) -> HostIds {
        let map = self.payload_map();
        let own = self.own_groups.iter().filter_map(|gid| self.container.gid_outside(*gid));
        HostIds {
            uid: map.uid_outside(self.uid).unwrap_or(u32::MAX),
            gid: map.gid_outside(self.gid).unwrap_or(u32::MAX),
            groups: self.groups.iter().map(|g| g.as_raw()).chain(own).collect(),
        }
    }

    /// Owner and group of something of the image, as the process that mounts it numbers them: the host's ids when it is
    /// the host's root, the image's own when it is root of the user namespace.
    ///
    /// # Errors
    /// When an id has no id on this host.
    pub fn for_mounting(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        if self.container.is_single() {
            return Ok((0, 0));
        }
        if !self.caller.is_privileged() {
            return Ok((uid, gid));
        }
        self.container.uid_outside(uid).zip(self.container.gid_outside(gid)).ok_or_else(|| {
            Error::new(Stage::Bundle, Kind::Hostile, format!("the image's root directory belongs to {uid}:{gid}"))
                .because(format!("ids up to {} are mapped", RANGE - 1))
        })
    }

    /// The host ids of the container's root, who sets the container up.
    pub fn root(&self) -> HostIds {
        HostIds {
            uid: self.container.uid_outside(0).unwrap_or(u32::MAX),
            gid: self.container.gid_outside(0).unwrap_or(u32::MAX),
            groups: Vec::new(),
        }
    }

    /// The host ids of the researcher: who owns the home and the outputs.
    pub fn researcher(&self) -> HostIds {
        self.caller.ids()
    }
}

/// `extents` (one that starts at 0) with the single id `inside` given to `outside` instead.
fn swap_in(extents: &[Extent], inside: u32, outside: u32) -> Vec<Extent> {
    extents
        .iter()
        .flat_map(|e| {
            let offset = inside - e.inside.min(inside);
            let before = Extent { count: offset.min(e.count), ..*e };
            let after_first = offset.saturating_add(1);
            let after = Extent {
                inside: e.inside + after_first,
                outside: e.outside.saturating_add(after_first),
                count: e.count.saturating_sub(after_first),
            };
            [before, Extent { inside, outside, count: 1 }, after]
        })
        .filter(|e| e.count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn the_images_user_becomes_the_researcher_and_no_one_else_does() {
        let all = [e(0, 1_000_000, 65_536)];
        assert_eq!(swap_in(&all, 0, 1000), [e(0, 1000, 1), e(1, 1_000_001, 65_535)]);
        assert_eq!(swap_in(&all, 33, 1000), [e(0, 1_000_000, 33), e(33, 1000, 1), e(34, 1_000_034, 65_502)]);
        assert_eq!(swap_in(&all, 65_535, 1000), [e(0, 1_000_000, 65_535), e(65_535, 1000, 1)]);
    }
}
