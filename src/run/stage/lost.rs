//! What is gone with the container: files in the overlay's upper directory, and in the file systems in memory.
//!
//! Takes directories that the payload wrote to, when nothing of it runs any more; gives counts, bytes and a few names; trusts the
//! kernel; refuses to look at more than a bound, or to follow a link.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::run::observations::{Lost, LostFiles, Size};
use crate::text;

/// How many files and directories are looked at.
const MOST: u64 = 1 << 20;
/// How deep; what is deeper counts as uncounted.
const DEEPEST: usize = 64;
/// How many directories are named, and how many files of each.
const DIRECTORIES: usize = 64;
const EXAMPLES: usize = 3;
/// How long a path is shown.
const LONGEST: usize = 256;

/// Walks `tops`: where a directory is now, and where the payload saw it. Mount points of ces's own, and what lies `elsewhere`, are
/// left out.
pub fn walk(tops: &[(PathBuf, PathBuf)], elsewhere: &dyn Fn(&Path) -> bool) -> LostFiles {
    let mut by_directory: BTreeMap<PathBuf, Lost> = BTreeMap::new();
    let mut found = LostFiles::default();
    let mut seen = 0_u64;
    for (top, at) in tops {
        let mut todo = vec![(top.clone(), at.clone(), 0_usize)];
        while let Some((dir, inside, depth)) = todo.pop() {
            // Gone, or closed even to the container's root: an ordinary user's other ids.
            let Ok(entries) = fs::read_dir(&dir) else {
                found.uncounted = true;
                continue;
            };
            for entry in entries.flatten() {
                seen += 1;
                if seen > MOST {
                    found.uncounted = true;
                    todo.clear();
                    break;
                }
                let path = inside.join(entry.file_name());
                let Ok(kind) = entry.file_type() else { continue };
                if elsewhere(&path) {
                    continue;
                }
                if kind.is_dir() && depth < DEEPEST {
                    todo.push((entry.path(), path, depth + 1));
                } else if kind.is_dir() {
                    found.uncounted = true;
                } else if kind.is_file() {
                    // Not a whiteout or a link, which hold nothing.
                    let bytes = entry.metadata().map_or(0, |found| found.size());
                    found.over_the_image.files += 1;
                    found.over_the_image.bytes = found.over_the_image.bytes.saturating_add(bytes);
                    let below = group(&path);
                    if by_directory.len() >= DIRECTORIES && !by_directory.contains_key(&below) {
                        found.uncounted = true;
                        continue;
                    }
                    let lost = by_directory.entry(below.clone()).or_insert_with(|| Lost {
                        below: shown(&below),
                        files: 0,
                        bytes: 0,
                        examples: Vec::new(),
                    });
                    lost.files += 1;
                    lost.bytes = lost.bytes.saturating_add(bytes);
                    if lost.examples.len() < EXAMPLES {
                        lost.examples.push(shown(&path));
                    }
                }
            }
        }
    }
    found.lost = by_directory.into_values().collect();
    found
}

/// How much is in a directory that is kept apart; the second is whether all of it was counted.
pub fn size(top: &Path) -> (Size, bool) {
    let found = walk(&[(top.to_owned(), PathBuf::from("/"))], &|_| false);
    // Directories that are not named are counted all the same.
    (found.over_the_image, !found.uncounted)
}

/// The directory under which a file is counted: two levels, such as `/home/analyst`.
fn group(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(path);
    parent.components().take(3).collect()
}

fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    text::neutral_bytes(bytes.get(..bytes.len().min(LONGEST)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_directory_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        for name in ["home/me/a/b", "etc", "tmp/x"] {
            fs::create_dir_all(upper.join(name)).unwrap();
        }
        for (name, text) in [("home/me/r.csv", "12345"), ("home/me/a/b/deep", "1"), ("etc/\u{1b}x", ""), ("top", "22")]
        {
            fs::write(upper.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("/", upper.join("home/root")).unwrap();
        fs::write(upper.join("tmp/x/y"), "hidden").unwrap();
        let found = walk(&[(upper, PathBuf::from("/"))], &|path| path == Path::new("/tmp"));
        assert!(!found.uncounted);
        let lines: Vec<(&str, u64, u64)> = found.lost.iter().map(|l| (l.below.as_str(), l.files, l.bytes)).collect();
        assert_eq!(lines, [("/", 1, 2), ("/etc", 1, 0), ("/home/me", 2, 6)]);
        assert_eq!(found.lost[1].examples, ["/etc/\\x1bx"]);
        assert_eq!(found.over_the_image, Size { files: 4, bytes: 8 });
        assert_eq!(size(&dir.path().join("upper/home/me")), (Size { files: 2, bytes: 6 }, true));
    }
}
