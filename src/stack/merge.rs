//! Layers, one on the other, as one stack.
//!
//! Takes each layer's listing and facts, base first, and what the configuration says; gives what is visible: packages with
//! the layer that brought them and the package that owns them, and what a reviewer looks at. Trusts neither: all of it comes from
//! the image; bounded where it was read. Refuses nothing.
//!
//! Two rules carry all of it. A fact counts if the file that says so is the visible one. A package belongs to the lowest layer
//! since which its row is there without a break.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead};

use super::facts::{Claims, Facts, Program, ProgramKind, bad, not_readable, secret};
use super::listing;
use super::owners::{Owners, is_distribution};
use super::package::{Distribution, Finding, FindingKind, LayerOrigin, Package, PackageType, Stack};
use super::tree::{Resolver, Tree};

/// Version of the document.
const VERSION: u32 = 1;
/// What is held of an image, all layers together: more is refused, or left out and told.
const ENTRIES_MAX: usize = 4_000_000;
const PACKAGES_MAX: usize = 500_000;
const CLAIMED_MAX: usize = 256 << 20;
const PROGRAMS_MAX: usize = 1_000_000;
/// A history line is shown up to this length.
const HISTORY_MAX: usize = 2000;

/// A file and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Where it really is, without leading slash.
    pub path: String,
    /// The layer that has it.
    pub layer: usize,
    /// The package that owns it.
    pub package: Option<(PackageType, String)>,
}

/// What unpacking has left out of a layer, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Which sort of thing.
    pub kind: FindingKind,
    /// Its path.
    pub place: String,
    /// What exactly.
    pub what: String,
}

/// What the configuration and the store say of an image.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The manifest's digest.
    pub image: String,
    /// When it was pulled.
    pub pulled: String,
    /// Its platform.
    pub platform: String,
    /// Diff ids, and the history's lines where it tells.
    pub layers: Vec<LayerOrigin>,
    /// Entry point and command.
    pub entry: Vec<String>,
    /// The user.
    pub user: String,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
}

/// One row of a package database: what makes it the same row.
type Row = (PackageType, String, String, Option<String>);

/// A stack in the making.
#[derive(Debug, Default)]
pub struct Merge {
    tree: Tree,
    layers: usize,
    /// By place: rows, since when, and the package.
    packages: BTreeMap<String, BTreeMap<Row, (usize, Package)>>,
    claims: Vec<(usize, Claims)>,
    programs: Vec<(usize, Program)>,
    findings: Vec<(usize, Finding)>,
    distributions: Vec<(usize, String, Distribution)>,
    licences: HashMap<String, (usize, String)>,
    changelogs: HashMap<String, (usize, Vec<String>)>,
}

impl Merge {
    /// Puts the next layer on top.
    ///
    /// # Errors
    /// When its listing cannot be read, or the image has more entries than are looked at.
    pub fn layer(&mut self, listing: impl BufRead, facts: Facts, left_out: &[LeftOut]) -> io::Result<()> {
        let layer = self.layers;
        self.layers += 1;
        listing::read(listing, &mut |entry| {
            self.tree.put(layer, entry);
            if self.tree.len() > ENTRIES_MAX { Err(bad("the image has more than 4000000 entries")) } else { Ok(()) }
        })?;
        let mut rows: BTreeMap<String, BTreeMap<Row, Package>> = BTreeMap::new();
        for package in facts.packages {
            let place = package.place.clone();
            rows.entry(place).or_default().insert(row(&package), package);
        }
        let tree = &self.tree;
        // What is gone, or whose file this layer has written without the row.
        self.packages.retain(|place, known| {
            match tree.get(tree.file_of(place)) {
                None => return false,
                Some(node) if node.layer == layer => {
                    let now = rows.get(place);
                    known.retain(|row, _| now.is_some_and(|now| now.contains_key(row)));
                }
                Some(_) => {}
            }
            !known.is_empty()
        });
        let mut packages: usize = self.packages.values().map(BTreeMap::len).sum();
        let mut cut = Vec::new();
        for (place, rows) in rows {
            packages += rows.len();
            if packages > PACKAGES_MAX {
                cut.push("packages");
                break;
            }
            let known = self.packages.entry(place).or_default();
            for (row, package) in rows {
                known.entry(row).or_insert((layer, package));
            }
        }
        self.claims.retain(|(of, claims)| tree.shows(&claims.place, *of));
        let claimed: usize = self
            .claims
            .iter()
            .map(|(_, claims)| &claims.paths)
            .chain(facts.claims.iter().map(|c| &c.paths))
            .map(String::len)
            .sum();
        if claimed <= CLAIMED_MAX {
            self.claims.extend(facts.claims.into_iter().map(|claims| (layer, claims)));
        } else {
            cut.push("lists of files");
        }
        if self.programs.len() + facts.programs.len() <= PROGRAMS_MAX {
            self.programs.extend(facts.programs.into_iter().map(|program| (layer, program)));
        } else {
            cut.push("programs");
        }
        let cut = cut.iter().map(|what| not_readable("", format!("the image has more {what} than are looked at")));
        self.findings.extend(cut.map(|finding| (layer, finding)));
        self.findings.extend(facts.findings.into_iter().map(|finding| (layer, finding)));
        self.distributions.extend(facts.distributions.into_iter().map(|(place, found)| (layer, place, found)));
        self.licences.extend(facts.licences.into_iter().map(|(place, text)| (place, (layer, text))));
        self.changelogs.extend(facts.changelogs.into_iter().map(|(place, ids)| (place, (layer, ids))));
        let left_out = left_out.iter().map(|one| Finding {
            kind: one.kind,
            place: one.place.clone(),
            what: one.what.clone(),
            layer: None,
            hidden: false,
        });
        self.findings.extend(left_out.map(|finding| (layer, finding)));
        Ok(())
    }

    /// Whose the file at `path` is, a path as somebody writes it; none where there is no file.
    pub fn owner(&self, path: &str) -> Option<Owned> {
        let real = Resolver::new(&self.tree).follow(&super::facts::path_text(path.as_bytes()));
        let node = self.tree.get(&real)?;
        let owners = self.owners_of(&HashSet::from([real.as_str()]));
        let package = owners.any(&real).cloned();
        Some(Owned { layer: node.layer, package, path: real })
    }

    /// The owners of these paths: packages that are there, and say so.
    fn owners_of(&self, wanted: &HashSet<&str>) -> Owners {
        let rows = self.packages.values().flat_map(BTreeMap::keys);
        let there: HashSet<(PackageType, &str)> = rows.map(|(kind, name, ..)| (*kind, name.as_str())).collect();
        let claims = self.claims.iter().map(|(_, claims)| claims);
        // A list of files of no package would make anything look owned.
        let claims = claims.filter(|claims| there.contains(&(claims.kind, claims.package.as_str())));
        Owners::find(&self.tree, claims, wanted)
    }

    /// The stack of all layers.
    pub fn finish(mut self, about: About) -> Stack {
        self.programs.retain(|(layer, program)| self.tree.shows(&program.place, *layer));
        let bytecode = self.bytecode();
        let owners = self.owners(&bytecode);
        let packages = self.visible_packages(&owners);
        let mut findings = self.visible_findings(&owners, &packages);
        findings.extend(bytecode.into_iter().filter(|finding| owners.any(&finding.place).is_none()));
        findings.extend(env_secrets(&about.env));
        let mut layers = about.layers;
        for (at, layer) in layers.iter_mut().enumerate() {
            findings.extend(history_secret(layer, at));
        }
        findings.sort();
        findings.dedup();
        let distribution = super::facts::os_release::PLACES.iter().find_map(|wanted| {
            let of = self.distributions.iter().rev();
            of.filter(|(layer, place, _)| place == wanted && self.tree.shows(place, *layer)).map(|(_, _, d)| d).next()
        });
        Stack {
            version: VERSION,
            image: about.image,
            pulled: about.pulled,
            platform: about.platform,
            distribution: distribution.cloned(),
            layers,
            entry: about.entry,
            user: about.user,
            packages,
            findings,
        }
    }

    /// The owners of all that is asked for below.
    fn owners(&self, bytecode: &[Finding]) -> Owners {
        let mut wanted: HashSet<&str> = HashSet::new();
        wanted.extend(self.programs.iter().map(|(_, program)| program.place.as_str()));
        wanted.extend(self.packages.keys().map(|place| self.tree.file_of(place)));
        wanted.extend(self.findings.iter().map(|(_, finding)| self.tree.file_of(&finding.place)));
        wanted.extend(bytecode.iter().map(|finding| finding.place.as_str()));
        wanted.extend(self.tree.iter().filter(|(_, node)| node.replaced).map(|(path, _)| path));
        self.owners_of(&wanted)
    }

    /// Compiled Python whose source is not there: nobody can read what it does.
    fn bytecode(&self) -> Vec<Finding> {
        let compiled =
            self.tree.iter().filter(|(path, node)| path.ends_with(".pyc") && node.kind == listing::Kind::File);
        let alone = compiled.filter(|(path, _)| {
            let (directory, name) = super::facts::split(path);
            let stem = name.split('.').next().unwrap_or(name);
            let source = match directory.strip_suffix("__pycache__") {
                Some(above) => format!("{above}{stem}.py"),
                None => format!("{}.py", path.trim_end_matches(".pyc")),
            };
            self.tree.get(&source).is_none()
        });
        let what = "compiled Python without its source";
        alone.map(|(path, node)| finding(FindingKind::BytecodeAlone, path, what, node.layer)).collect()
    }

    fn visible_packages(&self, owners: &Owners) -> Vec<Package> {
        let mut all = Vec::new();
        let mut upstream: HashMap<(PackageType, String), (String, String)> = HashMap::new();
        for (place, rows) in &self.packages {
            let file = self.tree.file_of(place);
            for (since, package) in rows.values() {
                let mut package = package.clone();
                package.layer = *since;
                if package.kind == PackageType::Deb {
                    let of = |name: &str| format!("usr/share/doc/{}/{name}", package.name);
                    let licence = self.visible(&self.licences, &of("copyright"));
                    // Packages that Debian makes itself have one changelog.
                    let fixes = self.visible(&self.changelogs, &of("changelog.Debian.gz"));
                    let fixes = fixes.or_else(|| self.visible(&self.changelogs, &of("changelog.gz")));
                    (package.licence, package.changelog_fixes) = (licence, fixes.unwrap_or_default());
                }
                if !is_distribution(package.kind) {
                    package.owner = owners.distribution(file).map(|(_, name)| name.clone());
                    // What conda has installed is described twice: it is one package.
                    if let Some((PackageType::Conda, name)) = owners.language(file)
                        && package.kind == PackageType::Pypi
                    {
                        // One package of conda's is one of Python's: further ones stand for themselves.
                        let key = (PackageType::Conda, name.clone());
                        let this = (package.name.clone(), package.version.clone());
                        if *upstream.entry(key).or_insert_with(|| this.clone()) == this {
                            continue;
                        }
                    }
                }
                all.push(package);
            }
        }
        for package in all.iter_mut().filter(|package| package.kind == PackageType::Conda) {
            package.source = upstream.remove(&(PackageType::Conda, package.name.clone()));
        }
        all.sort();
        // A manifest and a depot, or two lists of one installation, say the same.
        all.dedup_by(|b, a| {
            let same = (a.kind, &a.name, &a.version) == (b.kind, &b.name, &b.version);
            same && (a.place == b.place || matches!(a.kind, PackageType::Julia | PackageType::Cpan))
        });
        all
    }

    /// What the file at `path` says, where that file is visible; its directory may be a link to another's.
    fn visible<T: Clone>(&self, known: &HashMap<String, (usize, T)>, path: &str) -> Option<T> {
        let mut real = String::new();
        Resolver::new(&self.tree).real(path, &mut real);
        let (layer, said) = known.get(&real)?;
        self.tree.shows(&real, *layer).then(|| said.clone())
    }

    fn visible_findings(&self, owners: &Owners, packages: &[Package]) -> Vec<Finding> {
        let mut all = Vec::new();
        let has_gems = packages.iter().any(|package| package.kind == PackageType::Gem);
        for (layer, program) in &self.programs {
            let of_gem = program.kind == ProgramKind::GemScript && has_gems;
            if !of_gem && owners.any(&program.place).is_none() {
                all.push(finding(FindingKind::Unowned, &program.place, program.kind.words(), *layer));
            }
        }
        for (layer, found) in &self.findings {
            let file = self.tree.file_of(&found.place);
            let owner = owners.any(file);
            let shown = found.place.is_empty() || self.tree.shows(&found.place, *layer);
            let mut found = Finding { layer: Some(*layer), ..found.clone() };
            match found.kind {
                // What a package has is known to be there; a secret is told whoever says that it is theirs.
                FindingKind::Pickle if owner.is_some() => continue,
                FindingKind::Secret => {
                    found.hidden = !shown;
                    if let Some((_, name)) = owner {
                        found.what = format!("{} (of package {name})", found.what);
                    }
                }
                // Devices are never unpacked.
                FindingKind::Device if self.tree.get(file).is_none() => {}
                _ if !shown => continue,
                FindingKind::SetId | FindingKind::Capabilities => {
                    if let Some((_, name)) = owner {
                        found.what = format!("{} (of package {name})", found.what);
                    }
                }
                _ => {}
            }
            all.push(found);
        }
        // The same secret is in several layers: it is told once, as what is visible.
        let visible: HashSet<(String, String)> = all
            .iter()
            .filter(|found| found.kind == FindingKind::Secret && !found.hidden)
            .map(|found| (found.place.clone(), found.what.clone()))
            .collect();
        all.retain(|found| !found.hidden || !visible.contains(&(found.place.clone(), found.what.clone())));
        all.extend(self.replaced(owners, packages));
        all
    }

    /// Files of a distribution's packages that a later layer replaced while the package's row stayed as it was.
    fn replaced(&self, owners: &Owners, packages: &[Package]) -> Vec<Finding> {
        let rows: HashMap<(PackageType, &str), usize> = packages
            .iter()
            .filter(|package| is_distribution(package.kind))
            .map(|package| ((package.kind, package.name.as_str()), package.layer))
            .collect();
        let mut all = Vec::new();
        for (path, node) in self.tree.iter().filter(|(_, node)| node.replaced) {
            // Configuration and state are there to be changed.
            if ["etc/", "var/", "root/", "home/", "tmp/", "run/"].iter().any(|top| path.starts_with(top)) {
                continue;
            }
            if let Some((kind, name)) = owners.distribution(path)
                && rows.get(&(*kind, name.as_str())).is_some_and(|since| *since < node.changed)
            {
                let what = format!("a file of package {name}, replaced without the package manager");
                all.push(finding(FindingKind::Replaced, path, &what, node.changed));
            }
        }
        // A list of files that was changed without its package would make anything look owned.
        for (layer, claims) in self.claims.iter().filter(|(_, claims)| claims.kind == PackageType::Deb) {
            let since = rows.get(&(PackageType::Deb, claims.package.as_str()));
            let node = self.tree.get(&claims.place).filter(|node| node.replaced);
            if let (Some(since), Some(node)) = (since, node)
                && *since < node.changed
                && node.layer == *layer
            {
                let what = format!("the list of files of package {}, changed without the package", claims.package);
                all.push(finding(FindingKind::Replaced, &claims.place, &what, node.changed));
            }
        }
        all
    }
}

impl ProgramKind {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Library => "library",
            Self::Script | Self::GemScript => "script",
        }
    }
}

fn row(package: &Package) -> Row {
    (package.kind, package.name.clone(), package.version.clone(), package.architecture.clone())
}

fn finding(kind: FindingKind, place: &str, what: &str, layer: usize) -> Finding {
    Finding { kind, place: place.to_owned(), what: what.to_owned(), layer: Some(layer), hidden: false }
}

/// Variables of the configuration that look like secrets, by their names or their values.
fn env_secrets(env: &[String]) -> Vec<Finding> {
    let mut all = Vec::new();
    for (name, value) in env.iter().filter_map(|variable| variable.split_once('=')) {
        let kinds = secret::value(value);
        let what = match kinds.first() {
            Some(kind) => (*kind).to_owned(),
            None if secret::is_secret_name(name) && value.len() >= 4 => {
                "variable that is called like a secret".to_owned()
            }
            None => continue,
        };
        let place = format!("Env {}", name.chars().take(200).collect::<String>());
        all.push(Finding { kind: FindingKind::Secret, place, what, layer: None, hidden: false });
    }
    all
}

/// A history line with what looks like a secret is not shown, and told.
fn history_secret(layer: &mut LayerOrigin, at: usize) -> Option<Finding> {
    let line = layer.created_by.as_mut()?;
    let named = line.split_whitespace().filter_map(|word| word.split_once('='));
    let named = named.filter(|(name, value)| secret::is_secret_name(name) && value.len() >= 8 && !value.contains('$'));
    let what =
        secret::value(line).first().copied().or_else(|| named.map(|_| "value that is called like a secret").next());
    if let Some(what) = what {
        *line = "(not shown: it seems to hold a secret)".to_owned();
        return Some(finding(FindingKind::Secret, "History", what, at));
    }
    if let Some((end, _)) = line.char_indices().nth(HISTORY_MAX) {
        line.truncate(end);
        line.push('…');
    }
    None
}

#[cfg(test)]
mod tests;
