//! Image indexes (image-spec, image-index.md; Docker: manifest lists).
//!
//! Takes entries whose digests are well-formed; gives the one for a platform or of a name.
//! Trusts nothing in them; touches nothing.
//! Refuses where nothing matches, and where more than one does.

use super::{Descriptor, Platform, malformed};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::Pick;
use crate::image::selection::choose;

/// A checked image index.
#[derive(Debug, Clone)]
pub struct Index {
    entries: Vec<IndexEntry>,
}

/// An entry of an index.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// The manifest.
    pub descriptor: Descriptor,
    /// What it is for.
    pub platform: Option<Platform>,
    /// What it is called, whole names first.
    pub names: Vec<String>,
    /// Whether it is an index itself.
    pub nested: bool,
}

impl Index {
    /// An index with these entries.
    pub(super) fn new(entries: Vec<IndexEntry>) -> Self {
        Self { entries }
    }

    /// The entry for `platform`.
    ///
    /// # Errors
    /// When none matches (the error lists what there is), or the match is itself an index.
    pub fn select(&self, platform: &Platform) -> Result<&Descriptor> {
        let entry = best(self.entries.iter(), platform)?;
        if entry.nested {
            return Err(malformed("the image index points to another index, which is not followed"));
        }
        Ok(&entry.descriptor)
    }

    /// The entry of a layout's `index.json` that is meant: for `platform`, where a name stands for several.
    ///
    /// # Errors
    /// When there is no such entry, or no way to choose; the error lists what there is.
    pub fn picked(&self, pick: &Pick, platform: &Platform) -> Result<&IndexEntry> {
        let for_platforms = |entries: &[&IndexEntry]| entries.iter().all(|entry| entry.platform.is_some());
        if *pick == Pick::Only {
            // Entries of one name, or of none, that are for platforms are one image.
            let all: Vec<&IndexEntry> = self.entries.iter().collect();
            let names = all.first().map(|first| &first.names);
            if all.len() > 1 && for_platforms(&all) && all.iter().all(|entry| Some(&entry.names) == names) {
                return best(all.into_iter(), platform);
            }
        }
        if let Pick::Named(name) = pick {
            let same: Vec<&IndexEntry> = self.entries.iter().filter(|entry| entry.names.contains(name)).collect();
            if same.len() > 1 && for_platforms(&same) {
                return best(same.into_iter(), platform);
            }
        }
        let names: Vec<&[String]> = self.entries.iter().map(|entry| entry.names.as_slice()).collect();
        let place = choose(&names, pick, "the layout")?;
        self.entries.get(place).ok_or_else(|| malformed("the image layout is empty"))
    }
}

/// The entry that serves `platform` best.
fn best<'a>(entries: impl Iterator<Item = &'a IndexEntry> + Clone, platform: &Platform) -> Result<&'a IndexEntry> {
    let ranked = entries.clone().filter_map(|entry| Some((platform.rank(entry.platform.as_ref()?)?, entry)));
    // An entry that names no platform leaves the check to the configuration; the first one counts, as with podman.
    let found = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    if let Some(entry) = found.or_else(|| entries.clone().find(|entry| entry.platform.is_none())) {
        return Ok(entry);
    }
    let mut offered: Vec<String> =
        entries.filter_map(|entry| entry.platform.as_ref().map(Platform::to_string)).collect();
    offered.retain(|platform| platform != "unknown/unknown");
    offered.truncate(20);
    Err(Error::new(Stage::Pull, Kind::Missing, format!("the image does not exist for {platform}"))
        .because(format!("it exists for: {}", offered.join(", ")))
        .hint("ask its author for a build for this machine, or choose with --platform"))
}
