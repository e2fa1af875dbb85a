//! Whose image is whose, in a store that several researchers share through sudo.
//!
//! Takes who pulled an image and who asks for it; gives whether they may know of it; trusts the group database; refuses
//! nothing itself: what may not be seen is as if it were not there.
//!
//! An image that everybody could have pulled (from a registry, without a password), and one that root pulled, is everybody's.
//! One that took a researcher's own password, a file of theirs, or a registry on this machine, is that researcher's and their
//! project's: an image can hold what another project must not read. Whoever pulls it again, with rights of their own, may see
//! it as well. For the same reason a layer that is here already stands in for one that is pulled only if it may be seen.

use super::record::Pull;
use super::viewer::{Rights, Viewer};
use super::{ImageRecord, Store, read_json};
use crate::error::Result;
use crate::host::privilege::as_root;
use crate::image::reference::Digest;

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
        let path = self.image_path(manifest);
        if self.would_be_gone(&path) {
            return None;
        }
        let record: ImageRecord = read_json(&path.join("image.json")).ok().flatten()?;
        let uid = self.viewer.uid();
        Some(if self.would_be_gone(&self.released(manifest, uid)) { record.released_by(uid) } else { record })
    }
}

#[cfg(test)]
mod tests {
    use super::super::viewer::Holder;
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
