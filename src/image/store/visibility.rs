//! Whose image is whose, in a store that several researchers share through sudo.
//!
//! Takes who pulled an image and who asks for it; gives whether they may know of it; trusts the group database; refuses
//! nothing itself: what may not be seen is as if it were not there.
//!
//! An image that everybody could have pulled (from a registry, without a password), and one that root pulled, is everybody's.
//! One that took a researcher's own password, a file of theirs, or a registry on this machine, is that researcher's and their
//! project's: an image can hold what another project must not read. Whoever pulls it again, with rights of their own, may see
//! it as well. For the same reason a layer that is here already stands in for one that is pulled only if it may be seen.

use serde::{Deserialize, Serialize};

use super::record::Pull;
use super::{ImageRecord, Store, read_json};
use crate::error::Result;
use crate::host::caller::Caller;
use crate::host::privilege::as_root;
use crate::image::reference::Digest;

/// Somebody who pulled an image with rights of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The researcher.
    pub uid: u32,
    /// The group of the project they pulled it for, if they had one.
    pub group: Option<u32>,
}

/// With which rights a researcher pulls an image, and under which sort of name; of no meaning where everybody is one person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Whether it takes rights of their own: then the image is theirs and their project's.
    pub own: bool,
    /// Whether the name is another than a registry of everybody's gives the image: then the name is theirs and their project's.
    pub own_name: bool,
    /// The group of their project, if they have one.
    pub group: Option<u32>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Root itself, or a user in their own store.
    Everyone,
    /// A researcher through sudo.
    Researcher {
        /// The researcher.
        uid: u32,
        /// All their groups.
        groups: Vec<u32>,
        /// Whether the policy shows them every image.
        shared: bool,
    },
}

impl Viewer {
    /// What `caller` may see.
    ///
    /// # Errors
    /// When the group database cannot be read.
    pub fn of(caller: &Caller) -> Result<Self> {
        if !caller.by_sudo {
            return Ok(Self::Everyone);
        }
        let groups = caller.groups().iter().map(|group| group.as_raw()).collect();
        Ok(Self::Researcher { uid: caller.uid.as_raw(), groups, shared: false })
    }

    /// Who holds what is pulled: the researcher, or whoever's process this is (root's, through sudo too).
    pub(super) fn uid(&self) -> u32 {
        match self {
            Self::Everyone => nix::unistd::getuid().as_raw(),
            Self::Researcher { uid, .. } => *uid,
        }
    }

    /// Whether an image with these holders may be seen; none: it is everybody's.
    fn sees(&self, holders: Option<&[Holder]>) -> bool {
        match (self, holders) {
            (Self::Everyone, _) | (_, None) => true,
            // What nobody holds is on its way out.
            (Self::Researcher { shared: true, .. }, Some(holders)) => !holders.is_empty(),
            (Self::Researcher { uid, groups, .. }, Some(holders)) => holders
                .iter()
                .any(|holder| holder.uid == *uid || holder.group.is_some_and(|group| groups.contains(&group))),
        }
    }
}

impl Store {
    /// The same store with every image in sight; what is whose stays as it is.
    #[must_use]
    pub fn seeing_all(mut self) -> Self {
        if let Viewer::Researcher { shared, .. } = &mut self.viewer {
            *shared = true;
        }
        self
    }

    /// How the caller holds what they pull with these words and rights.
    pub(crate) fn pull_by(&self, by: &str, source: &str, pulled: String, rights: Rights) -> Pull {
        let own = rights.own && self.viewer != Viewer::Everyone;
        let group = rights.group.filter(|_| own);
        Pull { uid: self.viewer.uid(), group, own, pulled, by: by.to_owned(), source: source.to_owned() }
    }

    /// Whether the record's image may be seen.
    pub(super) fn shows(&self, record: &ImageRecord) -> bool {
        self.viewer.sees(record.holders.as_deref())
    }

    /// Whether the image may be seen; of one without a readable record nobody knows whose it is, so by root alone.
    pub(super) fn shows_image(&self, manifest: &Digest) -> bool {
        self.is_roots() || self.readable(manifest).is_some_and(|record| self.shows(&record))
    }

    /// Whether somebody else holds the image; one without a readable record is damaged, and whoever pulls may replace it.
    pub(super) fn hides_image(&self, manifest: &Digest) -> bool {
        self.readable(manifest).is_some_and(|record| !self.shows(&record))
    }

    /// Whether the layer belongs to an image that may be seen; a layer of no image belongs to whoever is pulling it.
    pub(crate) fn shows_layer(&self, key: &Digest) -> Result<bool> {
        as_root(|_| {
            if self.is_roots() {
                return Ok(true);
            }
            let shown = |manifest: &Digest| {
                let record = self.readable(manifest);
                record.is_some_and(|record| self.shows(&record) && record.layers.iter().any(|(_, used)| used == key))
            };
            Ok(self.manifests()?.iter().any(shown))
        })
    }

    /// Whether root itself asks, or a user in their own store: who may see and change everything.
    pub(super) fn is_roots(&self) -> bool {
        self.viewer == Viewer::Everyone
    }

    /// What is noted about an image, if that can be read.
    pub(super) fn readable(&self, manifest: &Digest) -> Option<ImageRecord> {
        read_json(&self.image_path(manifest).join("image.json")).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_seen_by_its_holders_and_their_project() {
        let holder = |uid, group| Holder { uid, group };
        let ann = Viewer::Researcher { uid: 1000, groups: vec![1000, 70], shared: false };
        let held = |holders: &[Holder]| ann.sees(Some(holders));
        assert!(ann.sees(None));
        assert!(held(&[holder(1000, None)]));
        assert!(held(&[holder(1001, Some(71)), holder(1002, Some(70))]));
        assert!(!held(&[holder(1001, Some(71))]));
        assert!(!held(&[holder(1001, None)]));
        assert!(!held(&[]));
        assert!(Viewer::Everyone.sees(Some(&[])));
        let shared = Viewer::Researcher { uid: 1000, groups: Vec::new(), shared: true };
        assert!(shared.sees(Some(&[holder(1001, None)])) && !shared.sees(Some(&[])));
    }
}
