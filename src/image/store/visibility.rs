//! Whose image is whose, in a store that several researchers share through sudo.
//!
//! Takes who pulled an image and who asks for it; gives whether they may know of it; trusts the group database; refuses
//! nothing itself: what may not be seen is as if it were not there.
//!
//! An image that everybody could have pulled (from a registry, without a password), and one that root pulled, is everybody's.
//! One that took a researcher's own password, or a researcher's own file, is that researcher's and their project's: an image
//! can hold what another project must not read. Whoever pulls it again, with rights of their own, may see it as well.
//! For the same reason a layer that is here already stands in for one that is pulled only if it may be seen.

use serde::{Deserialize, Serialize};

use super::{ImageRecord, Store, read_json};
use crate::error::Result;
use crate::host::caller::Caller;
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

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Root itself, or a user in their own store; everybody, where the policy shares images.
    Everyone,
    /// A researcher through sudo.
    Researcher {
        /// The researcher.
        uid: u32,
        /// All their groups.
        groups: Vec<u32>,
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
        Ok(Self::Researcher { uid: caller.uid.as_raw(), groups })
    }

    /// Whether an image with these holders may be seen; none: it is everybody's.
    fn sees(&self, holders: Option<&[Holder]>) -> bool {
        match (self, holders) {
            (Self::Everyone, _) | (_, None) => true,
            (Self::Researcher { uid, groups }, Some(holders)) => holders
                .iter()
                .any(|holder| holder.uid == *uid || holder.group.is_some_and(|group| groups.contains(&group))),
        }
    }
}

/// Who holds an image that is pulled once more.
pub(super) fn joined(before: Option<Vec<Holder>>, now: Option<Vec<Holder>>) -> Option<Vec<Holder>> {
    let (mut all, now) = before.zip(now)?;
    for holder in now {
        if !all.contains(&holder) {
            all.push(holder);
        }
    }
    Some(all)
}

impl Store {
    /// The same store with every image in sight.
    #[must_use]
    pub fn seeing_all(mut self) -> Self {
        self.viewer = Viewer::Everyone;
        self
    }

    /// Whether the record's image may be seen.
    pub(super) fn shows(&self, record: &ImageRecord) -> bool {
        self.viewer.sees(record.holders.as_deref())
    }

    /// Whether the image may be seen; of one without a readable record nobody knows whose it is, so by root alone.
    pub(super) fn shows_image(&self, manifest: &Digest) -> bool {
        self.viewer == Viewer::Everyone || self.readable(manifest).is_some_and(|record| self.shows(&record))
    }

    /// Whether somebody else holds the image; one without a readable record is damaged, and whoever pulls may replace it.
    pub(super) fn hides_image(&self, manifest: &Digest) -> bool {
        self.readable(manifest).is_some_and(|record| !self.shows(&record))
    }

    /// Whether the layer belongs to an image that may be seen; a layer of no image belongs to whoever is pulling it.
    pub(crate) fn shows_layer(&self, key: &Digest) -> Result<bool> {
        if self.viewer == Viewer::Everyone {
            return Ok(true);
        }
        let shown = |manifest: &Digest| {
            let record = self.readable(manifest);
            record.is_some_and(|record| self.shows(&record) && record.layers.iter().any(|(_, used)| used == key))
        };
        Ok(self.manifests()?.iter().any(shown))
    }

    /// Whether everything may be seen.
    pub(super) fn shows_all(&self) -> bool {
        self.viewer == Viewer::Everyone
    }

    fn readable(&self, manifest: &Digest) -> Option<ImageRecord> {
        read_json(&self.image_path(manifest).join("image.json")).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_seen_by_its_holders_and_their_project() {
        let holder = |uid, group| Holder { uid, group };
        let ann = Viewer::Researcher { uid: 1000, groups: vec![1000, 70] };
        let held = |holders: &[Holder]| ann.sees(Some(holders));
        assert!(ann.sees(None));
        assert!(held(&[holder(1000, None)]));
        assert!(held(&[holder(1001, Some(71)), holder(1002, Some(70))]));
        assert!(!held(&[holder(1001, Some(71))]));
        assert!(!held(&[holder(1001, None)]));
        assert!(!held(&[]));
        assert!(Viewer::Everyone.sees(Some(&[])));
    }

    #[test]
    fn pulled_by_two_it_is_both_theirs_and_by_anyone_it_is_everybodys() {
        let one = |uid| Some(vec![Holder { uid, group: None }]);
        assert_eq!(joined(one(1), one(2)).map(|all| all.len()), Some(2));
        assert_eq!(joined(one(1), one(1)), one(1));
        assert_eq!(joined(one(1), None), None);
        assert_eq!(joined(None, one(1)), None);
    }
}
