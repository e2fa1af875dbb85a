//! All sources together.

use std::io;

use super::builder::Source;
use super::ecosystem::Place;
use super::index::Index;
use super::record::Record;
use crate::stack::version::Order;

/// All sources that were imported.
#[derive(Debug, Default)]
pub struct Database(Vec<Index>);

/// A record, and where it was found.
#[derive(Debug)]
pub struct Found {
    /// Which source, as its number.
    pub source: usize,
    /// The order of the ecosystem's versions.
    pub order: Order,
    /// The version to judge by it.
    pub version: String,
    /// The record.
    pub record: Record,
}

/// What the sources have on a place.
#[derive(Debug, Default)]
pub struct Answer {
    /// Records of the package.
    pub found: Vec<Found>,
    /// Sources that tell of its ecosystem, as their numbers.
    pub sources: Vec<usize>,
    /// Whether they tell of the whole ecosystem.
    pub whole: bool,
}

impl Database {
    /// Of open sources.
    pub fn new(sources: Vec<Index>) -> Self {
        Self(sources)
    }

    /// The sources, in order.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().map(Index::source)
    }

    /// Whether a source tells of the ecosystems of `place`.
    pub fn tells_of(&self, place: &Place) -> bool {
        let mut told = self.0.iter().flat_map(|index| &index.source().ecosystems);
        told.any(|told| {
            let whole = told.split_once('/').map_or(told.as_str(), |(whole, _)| whole);
            place.ecosystems.iter().any(|ecosystems| ecosystems.hold(whole))
        })
    }

    /// What is known of the packages at `place`.
    ///
    /// # Errors
    /// When a source is damaged.
    pub fn look_up(&self, place: &Place) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let mut parts: Vec<&str> = Vec::new();
        for (number, index) in self.0.iter().enumerate() {
            // `Alpine:v3.20/main`: a part of what `Alpine:v3.20` means.
            let told = index.source().ecosystems.iter().filter_map(|told| {
                let (whole, part) =
                    told.split_once('/').map_or((told.as_str(), None), |(whole, part)| (whole, Some(part)));
                place.ecosystems.iter().any(|ecosystems| ecosystems.hold(whole)).then_some(part)
            });
            // Whether it is the source of this ecosystem, and not another's that tells of it too.
            let (mut tells, mut is_its_own) = (false, false);
            for part in told {
                tells = true;
                is_its_own |= part != Some(Source::PART);
                match part {
                    Some(part) => parts.push(part),
                    None => answer.whole = true,
                }
            }
            if !tells {
                continue;
            }
            answer.sources.push(number);
            for (at, ecosystem) in index.ecosystems().iter().enumerate() {
                if !place.ecosystems.iter().any(|ecosystems| ecosystems.hold(ecosystem)) {
                    continue;
                }
                let Some(order) = super::ecosystem::order(ecosystem) else { continue };
                for (name, version) in &place.names {
                    let records = index.records(at, name)?;
                    answer.found.extend(records.into_iter().map(|record| Found {
                        source: number,
                        order,
                        version: version.clone(),
                        // That something does no harm there is said by whoever keeps the ecosystem's data.
                        record: Record { note: record.note.filter(|_| is_its_own), ..record },
                    }));
                }
            }
        }
        // Alpine's two repositories: a package does not say which one it is from.
        answer.whole |= ["main", "community"].iter().all(|part| parts.contains(part));
        Ok(answer)
    }
}
