//! Names, and whose they are.
//!
//! Takes a name and who asks; gives the image that it stands for; trusts the store's own documents; refuses words that stand
//! for several images, and tells of nobody's name but those that the caller may know.
//!
//! A name that a registry of everybody's gives to an image is everybody's. Every other name is its researcher's own and their
//! project's: `localhost/tool` of one project is another image than that of the next, and neither knows of the other. Words
//! are looked up in the order of `Nearness`.
//!
//! Older stores have names of researchers' own among those of everybody: such a name is its image's holders'.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::viewer::{Holder, Rights, Viewer};
use super::{ImageRecord, Lock, Store, list, read_json, write_json};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::{Digest, Reference};

/// A name, as `refs/` keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefRecord {
    pub(crate) reference: String,
    pub(crate) manifest: Digest,
    /// Of a researcher's own name: the group of the project that may use it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    /// Of everybody's name: who pulled the image by it. None in older stores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Vec<u32>>,
}

/// Where a name is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Among everybody's.
    Everybodys,
    /// Among a researcher's own.
    Of(u32),
}

/// How near a name is to who asks; the nearest is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Nearness {
    /// Their own.
    Own,
    /// Everybody's, and they pulled the image by it: what they pulled last is what they mean.
    Pulled,
    /// Their project's.
    Project,
    /// Everybody's.
    Everybodys,
    /// Somebody else's: for root, and where the policy shows every image.
    Others,
}

/// A name in the store.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) space: Space,
    pub(super) reference: String,
    pub(super) manifest: Digest,
    /// Whose it is; none: everybody's.
    holders: Option<Vec<Holder>>,
    /// Who gave it: it goes with the last of them.
    givers: Vec<u32>,
}

impl Name {
    /// Who gave it.
    pub(super) fn givers(&self) -> &[u32] {
        &self.givers
    }

    /// Whose own name it is, if not everybody's.
    pub(super) fn holder(&self) -> Option<u32> {
        self.holders.as_ref().and_then(|holders| holders.first()).map(|holder| holder.uid)
    }
}

impl Space {
    fn directory(self, refs: PathBuf) -> PathBuf {
        match self {
            Self::Everybodys => refs,
            Self::Of(uid) => refs.join(format!("u{uid}")),
        }
    }

    /// The space whose directory is called so.
    fn named(name: &str) -> Option<Self> {
        let uid: u32 = name.strip_prefix('u')?.parse().ok()?;
        (name == format!("u{uid}")).then_some(Self::Of(uid))
    }
}

impl Store {
    fn refs(&self) -> PathBuf {
        self.root().join("refs")
    }

    pub(super) fn ref_path(&self, space: Space, reference: &str) -> PathBuf {
        space.directory(self.refs()).join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    fn spaces(&self) -> Result<Vec<Space>> {
        let own = list(&self.refs())?;
        Ok([Space::Everybodys].into_iter().chain(own.iter().filter_map(|name| Space::named(name))).collect())
    }

    /// Every file in which a name is kept, by its path below `refs/`.
    pub(super) fn ref_files(&self) -> Result<Vec<(Space, String)>> {
        let mut all = Vec::new();
        for space in self.spaces()? {
            let files = list(&space.directory(self.refs()))?;
            let is_space = |file: &str| space == Space::Everybodys && Space::named(file).is_some();
            all.extend(files.into_iter().filter(|file| !is_space(file)).map(|file| match space {
                Space::Everybodys => (space, file),
                Space::Of(uid) => (space, format!("u{uid}/{file}")),
            }));
        }
        Ok(all)
    }

    /// Whether a file of names that cannot be read is the caller's to know of.
    pub(super) fn knows_damaged(&self, space: Space) -> bool {
        self.is_roots() || space == Space::Of(self.viewer.uid())
    }

    fn name(&self, space: Space, record: RefRecord) -> Name {
        let RefRecord { reference, manifest, group, by } = record;
        let (holders, givers) = match space {
            Space::Of(uid) => (Some(vec![Holder { uid, group }]), vec![uid]),
            Space::Everybodys => {
                let image = self.readable(&manifest);
                let pulls = || image.iter().flat_map(ImageRecord::pulls).map(|pull| pull.uid).collect();
                let mut givers: Vec<u32> = by.unwrap_or_else(pulls);
                if self.dry.is_some() {
                    givers.retain(|giver| !self.would_be_gone(&self.given(space, &reference, *giver)));
                }
                (image.and_then(|image| image.holders), givers)
            }
        };
        Name { space, reference, manifest, holders, givers }
    }

    /// How near a name is to the caller; none: it is not for them to know.
    fn nearness(&self, name: &Name) -> Option<Nearness> {
        if !self.shows_image(&name.manifest) {
            return None;
        }
        match (&self.viewer, &name.holders) {
            (Viewer::Everyone, None) => Some(Nearness::Everybodys),
            (Viewer::Everyone, Some(_)) => Some(Nearness::Others),
            (Viewer::Researcher { uid, .. }, None) if name.givers.contains(uid) => Some(Nearness::Pulled),
            (Viewer::Researcher { .. }, None) => Some(Nearness::Everybodys),
            (Viewer::Researcher { uid, groups, shared }, Some(holders)) => {
                let of_project = |holder: &Holder| holder.group.is_some_and(|group| groups.contains(&group));
                if holders.iter().any(|holder| holder.uid == *uid) {
                    Some(Nearness::Own)
                } else if holders.iter().any(of_project) {
                    Some(Nearness::Project)
                } else {
                    shared.then_some(Nearness::Others)
                }
            }
        }
    }

    /// The image that a name stands for, for who asks; none, if there is no such name that they may know.
    ///
    /// # Errors
    /// When the nearest names are of several images.
    pub(super) fn look_up(&self, reference: &Reference) -> Result<Option<Digest>> {
        let asked = reference.to_string();
        let mut nearest: Option<Nearness> = None;
        let mut manifests = BTreeSet::new();
        for space in self.spaces()? {
            let path = self.ref_path(space, &asked);
            if self.would_be_gone(&path) {
                continue;
            }
            let record = match read_json::<RefRecord>(&path) {
                Ok(Some(record)) if record.reference == asked => record,
                Ok(None) => continue,
                Ok(_) | Err(_) if !self.knows_damaged(space) => continue,
                Ok(Some(_)) => {
                    let damaged = self.error("a name in the store is damaged");
                    return Err(damaged.hint(format!("pull it again: ces pull {asked}")));
                }
                Err(error) => return Err(error),
            };
            let name = self.name(space, record);
            let Some(nearness) = self.nearness(&name) else { continue };
            if nearest.is_none_or(|nearest| nearness < nearest) {
                nearest = Some(nearness);
                manifests.clear();
            }
            if nearest == Some(nearness) {
                manifests.insert(name.manifest);
            }
        }
        if manifests.len() > 1 {
            let digests: Vec<_> = manifests.iter().map(Digest::as_str).collect();
            let several = format!("\"{asked}\" is the name of several images");
            return Err(Error::new(Stage::Store, Kind::Usage, several)
                .because(digests.join(", "))
                .hint("say which by its digest; ces images shows when each was pulled, and by whom"));
        }
        Ok(manifests.pop_first())
    }

    /// All names in the store, whoever's they are. To root a damaged one is an error; others are not told of it.
    pub(super) fn all_names(&self) -> Result<Vec<Name>> {
        let mut all = Vec::new();
        for (space, file) in self.ref_files()?.into_iter().filter(|(_, file)| file.ends_with(".json")) {
            match read_json::<RefRecord>(&self.refs().join(file)) {
                Ok(record) => {
                    let there = record
                        .filter(|r| self.dry.is_none() || !self.would_be_gone(&self.ref_path(space, &r.reference)));
                    all.extend(there.map(|record| self.name(space, record)));
                }
                Err(error) if self.is_roots() => return Err(error),
                Err(_) => {}
            }
        }
        all.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(all)
    }

    /// The names that the caller may know, those behind a nearer one of the same words too.
    pub(super) fn known_names(&self) -> Result<Vec<(Nearness, Name)>> {
        let with_nearness = |name| Some((self.nearness(&name)?, name));
        Ok(self.all_names()?.into_iter().filter_map(with_nearness).collect())
    }

    /// The names that stand for something when the caller says them; root is told every one.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        let mut all = self.known_names()?;
        if !self.is_roots() {
            let mut nearest: BTreeMap<String, Nearness> = BTreeMap::new();
            for (nearness, name) in &all {
                let known = nearest.entry(name.reference.clone()).or_insert(*nearness);
                *known = *nearness.min(known);
            }
            all.retain(|(nearness, name)| nearest.get(&name.reference) == Some(nearness));
        }
        Ok(all.into_iter().map(|(_, name)| name).collect())
    }

    /// The names of an image that this person gave.
    pub(super) fn names_given_by(&self, uid: u32, manifest: &Digest) -> Result<Vec<Name>> {
        let mut all = self.all_names()?;
        all.retain(|name| name.manifest == *manifest && name.givers.contains(&uid));
        Ok(all)
    }

    /// Lets `reference` stand for `manifest`, for everybody or for the caller and their project.
    pub(super) fn set_name(&self, _held: &Lock, reference: &str, manifest: &Digest, rights: Rights) -> Result<()> {
        let uid = self.viewer.uid();
        let is_own = (rights.own || rights.own_name) && !self.is_roots();
        let own = self.ref_path(Space::Of(uid), reference);
        let (reference, manifest) = (reference.to_owned(), manifest.clone());
        if is_own {
            return self.write_name(Space::Of(uid), &RefRecord { reference, manifest, group: rights.group, by: None });
        }
        let mut by = vec![uid];
        // A damaged one is replaced.
        if let Ok(Some(record)) = read_json::<RefRecord>(&self.ref_path(Space::Everybodys, &reference)) {
            let before = self.name(Space::Everybodys, record);
            if before.manifest == manifest {
                by.extend(before.givers.iter().filter(|giver| **giver != uid));
            } else {
                self.move_to_holders(&before)?;
            }
        }
        self.write_name(Space::Everybodys, &RefRecord { reference, manifest, group: None, by: Some(by) })?;
        // What they pulled last is what they mean.
        if self.is_roots() { Ok(()) } else { self.remove_file(&own) }
    }

    /// What an older store keeps among everybody's names goes where it belongs, before everybody's takes its place.
    fn move_to_holders(&self, name: &Name) -> Result<()> {
        for Holder { uid, group } in name.holders.iter().flatten() {
            let (space, group) = (Space::Of(*uid), *group);
            if !self.ref_path(space, &name.reference).exists() {
                let (reference, manifest) = (name.reference.clone(), name.manifest.clone());
                self.write_name(space, &RefRecord { reference, manifest, group, by: None })?;
            }
        }
        Ok(())
    }

    fn write_name(&self, space: Space, record: &RefRecord) -> Result<()> {
        let directory = space.directory(self.refs());
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|e| super::full(self.error("cannot make a directory"), self.root(), "an inode", &e))?;
        write_json(&self.aside(), &self.ref_path(space, &record.reference), record)
    }

    /// Takes a name away from one of those who gave it; it goes with the last of them.
    pub(super) fn drop_giver(&self, held: &Lock, name: &Name, uid: u32) -> Result<()> {
        let by: Vec<u32> = name.givers.iter().copied().filter(|giver| *giver != uid).collect();
        if by.is_empty() {
            return self.drop_name(held, name);
        }
        if self.would_go(self.given(name.space, &name.reference, uid)) {
            return Ok(());
        }
        let (reference, manifest) = (name.reference.clone(), name.manifest.clone());
        self.write_name(name.space, &RefRecord { reference, manifest, group: None, by: Some(by) })
    }

    /// Takes a name away, whoever gave it.
    pub(super) fn drop_name(&self, _held: &Lock, name: &Name) -> Result<()> {
        let path = self.ref_path(name.space, &name.reference);
        if self.would_go(path.clone()) { Ok(()) } else { self.remove_file(&path) }
    }

    /// What stands in a dry run for a person's part in a name that would have ended; there is no such file.
    fn given(&self, space: Space, reference: &str, uid: u32) -> PathBuf {
        self.ref_path(space, reference).with_extension(format!("given-by-{uid}"))
    }

    fn remove_file(&self, path: &std::path::Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.error("cannot remove a name").because(e)),
            _ => Ok(()),
        }
    }

    /// Takes away what a check found damaged, by its path below `refs/`.
    pub(super) fn remove_ref_file(&self, _held: &Lock, file: &str) -> Result<()> {
        self.remove_file(&self.refs().join(file))
    }

    /// Reads a file of names, by its path below `refs/`.
    pub(super) fn ref_file(&self, file: &str) -> Result<Option<RefRecord>> {
        read_json(&self.refs().join(file))
    }

    /// Whether the caller may know of this name.
    pub(super) fn shows_name(&self, space: Space, record: &RefRecord) -> bool {
        self.nearness(&self.name(space, record.clone())).is_some()
    }
}
