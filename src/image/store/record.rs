//! What the store notes about an image (`image.json`): what it is, and who holds it.
//!
//! Takes pulls and removals; gives who holds the image, and hence whose it is; trusts the store's own documents; refuses
//! nothing.
//!
//! Everybody who pulled an image holds it, root too. It is everybody's as long as one of them got it as anybody could have;
//! else it is its holders' and their projects'. It goes with its last holder.

use serde::{Deserialize, Serialize};

use super::viewer::{Holder, Viewer};
use crate::image::reference::{DiffId, Digest};

/// In place of a word that is not for whoever looks.
const UNTOLD: &str = "-";

/// What the store notes about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its layers, base first: diff id and key.
    pub layers: Vec<(DiffId, Digest)>,
    /// Bytes of file contents in all layers.
    pub bytes: u64,
    /// Bytes of all blobs.
    pub blob_bytes: u64,
    /// Entries of its layers whose user or group has no id here, so that they belong to nobody (65534).
    #[serde(default, skip_serializing_if = "is_none")]
    pub unmapped_ids: u64,
    /// When it was pulled (RFC 3339, UTC).
    pub pulled: String,
    /// By whom.
    pub by: String,
    /// From where, as it was asked for.
    pub source: String,
    /// Who may see it; none: everybody. It follows from `pulls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<Vec<Holder>>,
    /// Everybody who holds it; records of older stores lack the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulls: Option<Vec<Pull>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// How one person came to hold an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// The researcher; 0: root.
    pub uid: u32,
    /// The group of their project, where rights of their own were needed and they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Whether it took rights of their own: a password, a file, a registry on this machine.
    pub own: bool,
    /// When (RFC 3339, UTC).
    pub pulled: String,
    /// Their login name.
    pub by: String,
    /// From where, as they asked for it.
    pub source: String,
}

impl ImageRecord {
    /// A new image, held by who pulled it.
    pub(crate) fn new(
        manifest: Digest,
        layers: Vec<(DiffId, Digest)>,
        (bytes, blob_bytes, unmapped_ids): (u64, u64, u64),
        pull: Pull,
    ) -> Self {
        let (pulled, by, source) = (pull.pulled.clone(), pull.by.clone(), pull.source.clone());
        let (holders, pulls) = (None, None);
        let mut record = Self { manifest, layers, bytes, blob_bytes, unmapped_ids, pulled, by, source, holders, pulls };
        record.settle(vec![pull]);
        record
    }

    /// Everybody who holds it. In records of older stores: the researchers whose it is, else root.
    pub(super) fn pulls(&self) -> Vec<Pull> {
        if let Some(pulls) = &self.pulls {
            return pulls.clone();
        }
        let of = |uid, group, own| {
            let (pulled, by, source) = (self.pulled.clone(), self.by.clone(), self.source.clone());
            Pull { uid, group, own, pulled, by, source }
        };
        match self.holders.as_deref() {
            None => vec![of(0, None, false)],
            Some([only]) => vec![of(only.uid, only.group, true)],
            // Which of them asked for it in these words is not known.
            Some(holders) => {
                let untold = |holder: &Holder| {
                    let (by, source) = (UNTOLD.to_owned(), UNTOLD.to_owned());
                    Pull { by, source, ..of(holder.uid, holder.group, true) }
                };
                holders.iter().map(untold).collect()
            }
        }
    }

    /// Whether nobody holds it: it goes as soon as no container uses it.
    pub(super) fn is_nobodys(&self) -> bool {
        self.pulls().is_empty()
    }

    /// Whether that person holds it.
    pub(super) fn is_held_by(&self, uid: u32) -> bool {
        self.pulls().iter().any(|pull| pull.uid == uid)
    }

    /// Whether nobody else does.
    pub(super) fn is_held_by_none_but(&self, uid: u32) -> bool {
        self.pulls().iter().all(|pull| pull.uid == uid)
    }

    /// The same image when `pull` is among its pulls. Whoever got it as anybody can needs no rights of their own any more;
    /// several projects may have been the reasons of several pulls.
    #[must_use]
    pub(super) fn pulled_also(mut self, pull: Pull) -> Self {
        let mut pulls = self.pulls();
        let is_known = pull.own && pulls.iter().any(|known| known.uid == pull.uid && !known.own);
        if !is_known {
            pulls.retain(|known| known.uid != pull.uid || (pull.own && known.group != pull.group));
            pulls.push(pull);
        }
        self.settle(pulls);
        self
    }

    /// The same image when that person does not hold it any more.
    #[must_use]
    pub(super) fn released_by(mut self, uid: u32) -> Self {
        let mut pulls = self.pulls();
        pulls.retain(|pull| pull.uid != uid);
        self.settle(pulls);
        self
    }

    /// The same image with the pulls of `before` as well.
    #[must_use]
    pub(super) fn joined_to(self, before: &Self) -> Self {
        self.pulls().into_iter().fold(Self { pulls: Some(before.pulls()), ..self }, Self::pulled_also)
    }

    fn settle(&mut self, pulls: Vec<Pull>) {
        let everybodys = pulls.iter().any(|pull| !pull.own);
        let holder = |pull: &Pull| Holder { uid: pull.uid, group: pull.group };
        self.holders = (!everybodys).then(|| pulls.iter().map(holder).collect());
        self.pulls = Some(pulls);
    }

    /// What `viewer` is told of it: of other pulls than theirs, their project's and root's, nothing but the time at which an image
    /// of everybody's came.
    pub(super) fn told_to(mut self, viewer: &Viewer) -> Self {
        let Viewer::Researcher { uid, groups, shared: false } = viewer else { return self };
        let mates = |pull: &Pull| pull.own && pull.group.is_some_and(|group| groups.contains(&group));
        let (mut pulls, everybodys) = (self.pulls(), self.holders.is_none());
        pulls.retain(|pull| pull.uid == *uid || pull.uid == 0 || mates(pull));
        // Their own first, then the project's.
        pulls.sort_by_key(|pull| (pull.uid != *uid, pull.uid == 0));
        match pulls.first() {
            Some(Pull { pulled, by, source, .. }) => {
                (self.pulled, self.by, self.source) = (pulled.clone(), by.clone(), source.clone());
            }
            None => (self.by, self.source) = (UNTOLD.to_owned(), UNTOLD.to_owned()),
        }
        self.settle(pulls);
        if everybodys {
            self.holders = None;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::image::store) fn pull(uid: u32, own: bool) -> Pull {
        let (pulled, by, source) = (format!("2026-01-0{uid}"), format!("user{uid}"), format!("oci:/home/{uid}/x"));
        Pull { uid, group: None, own, pulled, by, source }
    }

    fn record(holders: Option<Vec<Holder>>, pulls: Option<Vec<Pull>>) -> ImageRecord {
        ImageRecord {
            manifest: Digest::of(b""),
            layers: Vec::new(),
            bytes: 0,
            blob_bytes: 0,
            unmapped_ids: 0,
            pulled: "2026-01-09".to_owned(),
            by: "somebody".to_owned(),
            source: "oci:/secret".to_owned(),
            holders,
            pulls,
        }
    }

    fn held(pulls: &[Pull]) -> ImageRecord {
        let none = record(Some(Vec::new()), Some(Vec::new()));
        pulls.iter().cloned().fold(none, ImageRecord::pulled_also)
    }

    fn uids(record: &ImageRecord) -> Vec<u32> {
        record.pulls().iter().map(|pull| pull.uid).collect()
    }

    #[test]
    fn an_image_is_everybodys_as_long_as_somebody_got_it_as_anybody_could() {
        let both = held(&[pull(1, true), pull(2, false)]);
        assert_eq!((both.holders.clone(), uids(&both)), (None, vec![1, 2]));
        let again = both.released_by(2);
        assert_eq!(again.holders, Some(vec![Holder { uid: 1, group: None }]));
        let nobodys = again.released_by(1);
        assert_eq!((nobodys.holders.clone(), uids(&nobodys)), (Some(Vec::new()), Vec::new()));
    }

    #[test]
    fn who_pulls_again_holds_it_once_for_each_project() {
        let for_group = |group| Pull { group: Some(group), ..pull(1, true) };
        assert_eq!(uids(&held(&[pull(1, true), pull(1, true)])), [1]);
        assert_eq!(uids(&held(&[for_group(7), for_group(8), for_group(7)])), [1, 1]);
        for order in [[for_group(7), pull(1, false)], [pull(1, false), for_group(7)]] {
            let both = held(&order);
            assert_eq!((uids(&both), both.holders), (vec![1], None));
        }
        let joined = held(&[pull(2, true)]).joined_to(&held(&[pull(1, true)]));
        assert_eq!((uids(&joined), joined.holders.map(|all| all.len())), (vec![1, 2], Some(2)));
    }

    #[test]
    fn records_of_older_stores_are_roots_or_their_holders() {
        assert_eq!(uids(&record(None, None)), [0]);
        let holder = |uid| Holder { uid, group: Some(70) };
        let one = record(Some(vec![holder(5)]), None).pulls();
        assert_eq!((one[0].uid, one[0].group, one[0].own, one[0].by.as_str()), (5, Some(70), true, "somebody"));
        let two = record(Some(vec![holder(5), holder(6)]), None).pulls();
        assert!(two.iter().all(|pull| pull.by == UNTOLD && pull.source == UNTOLD), "{two:?}");
        // And they are read.
        let old = serde_json::to_value(record(None, None)).unwrap();
        assert!(old.get("pulls").is_none());
        serde_json::from_value::<ImageRecord>(old).unwrap();
    }

    #[test]
    fn a_researcher_is_told_nothing_of_another_projects_pull() {
        let viewer = Viewer::Researcher { uid: 1, groups: vec![70], shared: false };
        let told = |pulls: &[Pull]| held(pulls).told_to(&viewer);
        let own = told(&[pull(2, true), pull(1, true), pull(0, false)]);
        assert_eq!((own.by.as_str(), own.source.as_str(), uids(&own)), ("user1", "oci:/home/1/x", vec![1, 0]));
        let others = told(&[pull(2, false), pull(3, true)]);
        assert_eq!((others.by.as_str(), others.source.as_str(), others.holders.clone()), (UNTOLD, UNTOLD, None));
        assert!(uids(&others).is_empty());
        let mates = told(&[Pull { group: Some(70), ..pull(4, true) }, pull(0, false)]);
        assert_eq!(mates.by, "user4");
        let text = serde_json::to_string(&own).unwrap() + &serde_json::to_string(&others).unwrap();
        assert!(!text.contains("user2") && !text.contains("/home/3"), "{text}");
        let root = held(&[pull(2, true)]).told_to(&Viewer::Everyone);
        assert_eq!(uids(&root), [2]);
    }
}
