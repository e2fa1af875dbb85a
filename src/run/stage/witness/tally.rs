//! Counts what was seen, in bounded memory.
//!
//! Takes things and who did them; gives each once with its count; trusts nothing; refuses to hold more than its bound: what is new
//! then is counted as forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::run::observations::Seen;

/// How many programs are named for one thing.
const BY: usize = 4;

/// Things of one kind.
#[derive(Debug)]
pub struct Tally<T> {
    most: usize,
    seen: BTreeMap<T, (BTreeSet<String>, u64, u64, u64)>,
    forgotten: u64,
}

impl<T: Ord> Tally<T> {
    /// One that holds at most so many.
    pub fn of(most: usize) -> Self {
        Self { most, seen: BTreeMap::new(), forgotten: 0 }
    }

    /// `by` did it at `now`, in milliseconds.
    pub fn count(&mut self, what: T, by: &str, now: u64) {
        if !self.seen.contains_key(&what) && self.seen.len() >= self.most {
            self.forgotten = self.forgotten.saturating_add(1);
            return;
        }
        let (programs, times, _, last) = self.seen.entry(what).or_insert_with(|| (BTreeSet::new(), 0, now, now));
        *times = times.saturating_add(1);
        *last = now;
        if !by.is_empty() && programs.len() < BY && !programs.contains(by) {
            programs.insert(by.to_owned());
        }
    }

    /// All of it, and how much was forgotten.
    pub fn finish(self) -> (Vec<Seen<T>>, u64) {
        let seen = self.seen.into_iter();
        (seen.map(|(what, (by, times, first, last))| Seen { what, by, times, first, last }).collect(), self.forgotten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_distinct_things_are_counted_and_few_are_held() {
        let mut tally = Tally::of(100);
        for number in 0..1_000_000_u32 {
            tally.count(number, "find", u64::from(number));
        }
        tally.count(7, "cat", 9);
        let (seen, forgotten) = tally.finish();
        assert_eq!((seen.len(), forgotten), (100, 999_900));
        let seven = &seen[7];
        assert_eq!((seven.times, seven.first, seven.last), (2, 7, 9));
        assert_eq!(seven.by.iter().map(String::as_str).collect::<Vec<_>>(), ["cat", "find"]);
    }
}
