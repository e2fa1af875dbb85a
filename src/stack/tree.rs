//! What is visible of several layers: paths, and which layer each is of.
//!
//! Takes entries layer by layer, base first; gives what overlayfs would show, without its files. Trusts that the layers were
//! unpacked by one set of rules (whiteouts, opaque directories). Refuses nothing.

use std::collections::{BTreeMap, HashMap};

use super::listing::{Entry, Kind};

/// As many symbolic links as the kernel follows (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Something visible.
#[derive(Clone, Debug)]
pub struct Node {
    /// The layer that has it, counted from 0.
    pub layer: usize,
    /// What it is.
    pub kind: Kind,
    /// The layer in which its content became what it is: a later one may only have changed its metadata.
    pub changed: usize,
    /// Whether the layer that changed it replaced another file of that name.
    pub replaced: bool,
    content: u64,
    link: Option<Box<str>>,
}

/// All that is visible.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<Box<str>, Node>,
}

impl Tree {
    /// Puts an entry of the layer `layer` on top of what is there.
    pub fn put(&mut self, layer: usize, entry: Entry) {
        let is_directory = matches!(entry.kind, Kind::Directory | Kind::Opaque);
        let before = self.nodes.get(entry.path.as_str());
        // All entries of a layer below a directory come after it, so what is below it now is of other layers.
        let was_directory = before.is_some_and(|node| matches!(node.kind, Kind::Directory | Kind::Opaque));
        if entry.kind == Kind::Opaque || (was_directory && !is_directory) {
            self.remove_below(&entry.path);
        }
        if entry.kind == Kind::Whiteout {
            self.nodes.remove(entry.path.as_str());
            return;
        }
        let content = digest_start(&entry);
        let before = self.nodes.get(entry.path.as_str()).filter(|node| node.kind == entry.kind);
        let same = before.filter(|node| node.content == content);
        let replaced = before.is_some() && same.is_none() && entry.kind == Kind::File;
        let node = Node {
            layer,
            kind: entry.kind,
            changed: same.map_or(layer, |node| node.changed),
            replaced: same.map_or(replaced, |node| node.replaced),
            content,
            link: (entry.kind == Kind::Link).then(|| entry.content.into_boxed_str()),
        };
        self.nodes.insert(entry.path.into_boxed_str(), node);
    }

    fn remove_below(&mut self, path: &str) {
        // '0' is what comes after '/'.
        let (from, to) = (format!("{path}/").into_boxed_str(), format!("{path}0").into_boxed_str());
        let below: Vec<Box<str>> = if path.is_empty() {
            self.nodes.keys().cloned().collect()
        } else {
            self.nodes.range(from..to).map(|(path, _)| path.clone()).collect()
        };
        for path in below {
            self.nodes.remove(&path);
        }
    }

    /// What is at `path`, whose directories must be no links.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Whether the file of a place in `layer` is what is visible there. Places in archives are `FILE!/INNER`.
    pub fn shows(&self, place: &str, layer: usize) -> bool {
        self.get(self.file_of(place)).is_some_and(|node| node.layer == layer)
    }

    /// The file that a place is in.
    pub fn file_of<'a>(&self, place: &'a str) -> &'a str {
        if self.nodes.contains_key(place) { place } else { place.split("!/").next().unwrap_or(place) }
    }

    /// How many entries are visible.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All that is visible, in the order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (&**path, node))
    }
}

/// The first 64 bits of a file's digest: two files that differ have others but for one in 2⁶⁴.
fn digest_start(entry: &Entry) -> u64 {
    let digits = entry.content.get(..16).filter(|_| entry.kind == Kind::File);
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

/// Where paths really lead: packages say `/bin/sh` where the image has `bin → usr/bin`.
#[derive(Debug)]
pub struct Resolver<'a> {
    tree: &'a Tree,
    directories: HashMap<String, String>,
}

impl<'a> Resolver<'a> {
    /// Resolves in this tree.
    pub fn new(tree: &'a Tree) -> Self {
        Self { tree, directories: HashMap::new() }
    }

    /// The path without links in its directories, into `out`; its last part is not followed.
    pub fn real(&mut self, path: &str, out: &mut String) {
        let (directory, name) = super::facts::split(path);
        out.clear();
        if !directory.is_empty() {
            if !self.directories.contains_key(directory) {
                let real = self.follow(directory);
                self.directories.insert(directory.to_owned(), real);
            }
            out.push_str(self.directories.get(directory).map_or(directory, String::as_str));
            if !out.is_empty() {
                out.push('/');
            }
        }
        out.push_str(name);
    }

    /// Where a whole path leads; where its links lead in a circle, as far as it was followed.
    pub fn follow(&self, path: &str) -> String {
        let mut todo: Vec<&str> = path.split('/').rev().collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part {
                "" | "." => continue,
                ".." => {
                    at.truncate(at.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let parent = at.len();
            if parent > 0 {
                at.push('/');
            }
            at.push_str(part);
            let Some(target) = self.tree.get(&at).and_then(|node| node.link.as_deref()) else { continue };
            links += 1;
            if links > LINKS_MAX {
                break;
            }
            at.truncate(if target.starts_with('/') { 0 } else { parent });
            todo.extend(target.split('/').rev());
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind, content: &str) -> Entry {
        Entry { path: path.to_owned(), kind, mode: 0o644, size: 1, content: content.to_owned() }
    }

    fn paths(tree: &Tree) -> Vec<(&str, usize)> {
        tree.iter().map(|(path, node)| (path, node.layer)).collect()
    }

    #[test]
    fn whiteouts_opaque_directories_and_files_over_directories_hide() {
        let mut tree = Tree::default();
        for (layer, path, kind) in [
            (0, "a", Kind::Directory),
            (0, "a/x", Kind::File),
            (0, "a.b", Kind::File),
            (0, "b", Kind::Directory),
            (0, "b/y", Kind::File),
            (0, "c", Kind::Directory),
            (0, "c/z", Kind::File),
            (1, "a", Kind::Opaque),
            (1, "a/new", Kind::File),
            (1, "b", Kind::Whiteout),
            (2, "b/y", Kind::File),
            (2, "c", Kind::File),
        ] {
            tree.put(layer, entry(path, kind, "-"));
        }
        assert_eq!(paths(&tree), [("a", 1), ("a.b", 0), ("a/new", 1), ("b/y", 2), ("c", 2)]);
        assert!(tree.shows("a/new!/in", 1) && !tree.shows("a/x", 0));
    }

    #[test]
    fn a_change_of_metadata_is_no_change_of_content() {
        let mut tree = Tree::default();
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        for (layer, content) in [(0, &one), (1, &one), (2, &two), (3, &two)] {
            tree.put(layer, entry("f", Kind::File, content));
        }
        let node = tree.get("f").unwrap();
        assert_eq!((node.layer, node.changed, node.replaced), (3, 2, true));
    }

    #[test]
    fn links_are_followed_within_the_image() {
        let mut tree = Tree::default();
        for (path, target) in [("bin", "usr/bin"), ("loop", "loop"), ("usr/up", "../../../etc"), ("abs", "/usr/bin/.")]
        {
            tree.put(0, entry(path, Kind::Link, target));
        }
        let mut resolver = Resolver::new(&tree);
        let mut real = |path: &str| {
            let mut out = String::new();
            resolver.real(path, &mut out);
            out
        };
        assert_eq!(real("bin/sh"), "usr/bin/sh");
        assert_eq!(real("abs/sh"), "usr/bin/sh");
        assert_eq!(real("usr/up/passwd"), "etc/passwd");
        assert_eq!(real("bin"), "bin");
        assert!(real("loop/x").ends_with('x'));
    }
}
