//! What is in the outputs against their list: two lists in the same order, merged in one pass.
//!
//! Takes the list that was kept and one that was just made, both in order (`order`); gives each difference, in that order too,
//! and what could not be compared; trusts exact names; refuses lines longer than any can be. Nothing is held but the lines of
//! one name. Times are not compared: a copy that keeps everything else has others.

use std::io::BufRead;

use crate::run::supervisor::outputs::line::{Kind, Line};
use crate::run::supervisor::outputs::order::next_line;

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is not there.
    Missing,
    /// It is something else than it was.
    Changed,
    /// It was not there.
    New,
    /// It was not compared, and why.
    NotCompared(String),
}

/// How far the two lists go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// The list that was kept: else what is not in it is not new.
    pub told: bool,
    /// The list of what is there now: else what is not in it is not missing.
    pub now: bool,
}

/// Compares; each difference goes to `tell` with its exact name. Gives how many files the list that was kept names.
///
/// # Errors
/// When a list cannot be read.
pub fn compare(
    told: impl BufRead,
    now: impl BufRead,
    whole: Whole,
    tell: &mut dyn FnMut(&[u8], Found),
) -> std::io::Result<u64> {
    let (mut told, mut now) = (Entries::new(told)?, Entries::new(now)?);
    let mut files = 0;
    while let Some(path) = told.name().into_iter().chain(now.name()).min().map(<[u8]>::to_vec) {
        let (was, is) = (told.of(&path)?, now.of(&path)?);
        files += was.iter().filter(|line| line.kind == Kind::File).map(|_| 1).sum::<u64>();
        if let Some(found) = one(&was, &is, whole) {
            tell(&path, found);
        }
    }
    let senseless = told.senseless + now.senseless;
    if senseless > 0 {
        tell(b"", Found::NotCompared(format!("{senseless} lines of the list make no sense")));
    }
    Ok(files)
}

/// What of a name was kept against what there is of it now.
fn one(was: &[Line], is: &[Line], whole: Whole) -> Option<Found> {
    let entry = |lines: &[Line]| lines.iter().find(|line| line.kind != Kind::Refused).cloned();
    let Some(told) = entry(was) else {
        return match is.first() {
            // What was removed is back; what was left alone is still nobody's to compare.
            Some(now) if !now.others && was.iter().all(|line| line.was_removed()) => whole.told.then_some(Found::New),
            _ => None,
        };
    };
    match (entry(is), is.first()) {
        (Some(now), _) => differs(&told, &now),
        (None, Some(refused)) if refused.is_another_kind() => Some(Found::Changed),
        (None, Some(refused)) => Some(Found::NotCompared(refused.why.clone().unwrap_or_default())),
        (None, None) if whole.now => Some(Found::Missing),
        (None, None) => Some(Found::NotCompared("the list of what is there now ends before it".to_owned())),
    }
}

fn differs(told: &Line, now: &Line) -> Option<Found> {
    let same_mode = told.mode.is_none() || told.mode == now.mode;
    if told.kind != now.kind || !same_mode || told.size != now.size || told.target() != now.target() {
        return Some(Found::Changed);
    }
    match (told.kind, &told.sha256, &now.sha256) {
        (Kind::File, Some(told), Some(now)) => (told != now).then_some(Found::Changed),
        (Kind::File, None, _) => {
            let why = told.not_hashed.clone().unwrap_or_default();
            Some(Found::NotCompared(format!("it was not hashed: {why}")))
        }
        (Kind::File, Some(_), None) => {
            let why = now.not_hashed.clone().unwrap_or_default();
            Some(Found::NotCompared(format!("it is not hashed: {why}")))
        }
        _ => told.why.clone().map(Found::NotCompared),
    }
}

/// The entries of a list, name after name.
struct Entries<R> {
    from: R,
    next: Option<(Vec<u8>, Line)>,
    senseless: u64,
}

impl<R: BufRead> Entries<R> {
    fn new(from: R) -> std::io::Result<Self> {
        let mut entries = Self { from, next: None, senseless: 0 };
        entries.advance()?;
        Ok(entries)
    }

    fn advance(&mut self) -> std::io::Result<()> {
        self.next = None;
        while let Some(text) = next_line(&mut self.from)? {
            let line = serde_json::from_slice::<Line>(&text).ok();
            self.next = line.and_then(|line| Some((line.path()?, line)));
            if self.next.is_some() {
                break;
            }
            self.senseless += 1;
        }
        Ok(())
    }

    /// The name of the next lines.
    fn name(&self) -> Option<&[u8]> {
        self.next.as_ref().map(|(name, _)| name.as_slice())
    }

    /// The next lines, if they are of that name; no more than a few are kept, for no honest list has more.
    fn of(&mut self, path: &[u8]) -> std::io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        while self.next.as_ref().is_some_and(|(next, _)| next == path) {
            let taken = self.next.take();
            lines.extend(taken.map(|(_, line)| line).filter(|_| lines.len() < 8));
            self.advance()?;
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::supervisor::outputs::{listing, order};
    use std::fs::{self, File};
    use std::io::{BufReader, Seek as _, SeekFrom};
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_is_gone_new_or_changed_is_found_by_its_exact_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        // Two that are shown alike.
        let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"x\\xff"));
        let other = dir.path().join(std::ffi::OsStr::from_bytes(b"x\xff"));
        for file in [&at("same"), &at("d/e/bytes"), &at("d/mode"), &odd, &other] {
            fs::write(file, "1").unwrap();
        }
        symlink("a", at("link")).unwrap();
        let top = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let uid = nix::unistd::getuid().as_raw();
        let listed = || {
            let mut file: File = tempfile::tempfile().unwrap();
            let listed = listing::list(&top, listing::Of::Owner(uid), Some(&file), &|| None).unwrap();
            assert_eq!((listed.cut, listed.not_hashed), (None, 0));
            assert!(order::sort(&file).unwrap());
            file.seek(SeekFrom::Start(0)).unwrap();
            BufReader::new(file)
        };
        let whole = Whole { told: true, now: true };
        let mut told = listed();
        let mut differences = || {
            told.seek(SeekFrom::Start(0)).unwrap();
            let mut found = Vec::new();
            let files =
                compare(&mut told, listed(), whole, &mut |path, what| found.push((path.to_vec(), what))).unwrap();
            assert_eq!(files, 5);
            found
        };
        assert_eq!(differences(), []);
        fs::write(at("d/e/bytes"), "2").unwrap();
        fs::set_permissions(at("d/mode"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(at("link")).unwrap();
        symlink("b", at("link")).unwrap();
        fs::remove_file(&other).unwrap();
        fs::write(at("d/new"), "").unwrap();
        let expected: [(&[u8], Found); 5] = [
            (b"d/e/bytes", Found::Changed),
            (b"d/mode", Found::Changed),
            (b"d/new", Found::New),
            (b"link", Found::Changed),
            (b"x\xff", Found::Missing),
        ];
        assert_eq!(differences(), expected.map(|(path, found)| (path.to_vec(), found)));
    }

    fn told(was: &[Line], is: &[Line], whole: Whole) -> Vec<Found> {
        let text =
            |lines: &[Line]| lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect::<String>();
        let mut found = Vec::new();
        compare(text(was).as_bytes(), text(is).as_bytes(), whole, &mut |_, what| found.push(what)).unwrap();
        found
    }

    #[test]
    fn what_took_the_place_of_a_file_or_came_back_is_found_and_a_list_that_is_cut_accuses_nobody() {
        let whole = Whole { told: true, now: true };
        let file = Line::new(b"f", Kind::File);
        let pipe = || [Line::refused(b"f", "not a regular file")];
        assert_eq!(told(std::slice::from_ref(&file), &pipe(), whole), [Found::Changed]);
        assert_eq!(told(std::slice::from_ref(&file), &[Line::new(b"f", Kind::Directory)], whole), [Found::Changed]);
        assert_eq!(told(&[Line::refused(b"f", "a fifo, removed")], &pipe(), whole), [Found::New]);
        assert_eq!(told(&[], &pipe(), whole), [Found::New]);
        assert_eq!(told(&[Line::refused(b"f", "belongs to uid 7, left alone")], &pipe(), whole), []);
        assert_eq!(told(&[], &[file.clone().of_others(true)], whole), []);
        assert_eq!(told(&[], &pipe(), Whole { told: false, ..whole }), []);
        let cut = told(&[file], &[], Whole { now: false, ..whole });
        assert!(matches!(cut.as_slice(), [Found::NotCompared(_)]), "{cut:?}");
    }
}
