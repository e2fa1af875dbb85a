//! Which places of the host and the container a run may join.
//!
//! Takes the `-v`, `--mount` and `--tmpfs` of a request and their resolved sources; gives `Bind`s and `Tmpfs`s, parents
//! first; trusts the resolution; refuses sources no rule opens, and destinations that would cover what ces mounts.

use std::path::{Component, Path, PathBuf};

use super::{GrantFacts, Log};
use crate::error::Result;
use crate::policy::document::is_never_mounted;
use crate::policy::reader::Rule;
use crate::policy::request::{RunRequest, usage};
use crate::policy::{Access, Policy, units};

/// A directory or file of the host in the container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Bind {
    /// The resolved path on the host.
    pub source: PathBuf,
    /// Where in the container.
    pub destination: PathBuf,
    /// `ro` or `rw`.
    pub access: Access,
    /// Whether programs may not be executed from it.
    pub noexec: bool,
}

/// An empty file system in memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Tmpfs {
    /// Where in the container.
    pub destination: PathBuf,
    /// Bytes at most.
    pub size: u64,
    /// Permissions of its root.
    pub mode: u32,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether programs may be executed from it.
    pub exec: bool,
}

/// What ces mounts itself, with everything below: nothing else can be put there.
const OURS: [&str; 9] = [
    "/proc",
    "/sys",
    "/dev",
    "/safe_data",
    "/safe_outputs",
    "/scratch",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
];

/// With `--read-only`, these stay writable, in memory, as podman does.
const WRITABLE: [&str; 3] = ["/run", "/tmp", "/var/tmp"];

/// The binds a request gets; `data` is how far the run's own data may be reached.
pub(super) fn binds(
    policy: &Policy,
    request: &RunRequest,
    facts: &GrantFacts,
    data: Access,
    log: &mut Log,
) -> Result<Vec<Bind>> {
    let mut out: Vec<Bind> = Vec::new();
    for asked in &request.binds {
        let option = format!("-v {}:{}", asked.source, asked.destination);
        let destination = destination(&asked.destination, &option)?;
        let source = facts.sources.get(&asked.source).ok_or_else(|| {
            usage(
                format!("{option}: the host directory cannot be found"),
                "make it before the run, or correct the path",
            )
        })?;
        let (ceiling, rule) = policy.opens(source, &facts.home, &option)?;
        if ceiling == Access::Ro && !asked.read_only {
            let says = format!("opens {} read-only", rule.value);
            let hint = format!("write {option}:ro, or {}", policy.whom_to_ask());
            return Err(policy.refuse(format!("{option} is refused for writing"), &rule, &says).hint(hint));
        }
        // Data that is read-only in `/safe_data` is not writable by another way, also where it is in the caller's home.
        let same = |data: &PathBuf| source.starts_with(data) || data.starts_with(source);
        if data == Access::Ro && !asked.read_only && facts.data.as_ref().is_some_and(same) {
            let rule = Rule::builtin("mounts", ());
            let hint = format!("bind another directory, or write {option}:ro");
            let says = "keeps this run's data read-only, wherever it is mounted";
            return Err(policy.refuse(format!("{option} is refused for writing"), &rule, says).hint(hint));
        }
        if out.iter().any(|known| known.destination == destination) {
            return Err(usage(format!("{option}: something is mounted there already"), "use each destination once"));
        }
        let access = if asked.read_only { Access::Ro } else { Access::Rw };
        log.note("mount", format!("{option} ({}, {})", source.display(), access.name()), &rule.origin);
        out.push(Bind { source: source.clone(), destination, access, noexec: asked.noexec });
    }
    // Parents first, or a child would be hidden.
    out.sort_by_key(|bind| bind.destination.components().count());
    Ok(out)
}

/// The temporary file systems a request gets.
pub(super) fn tmpfs(request: &RunRequest, memory: u64, binds: &[Bind], log: &mut Log) -> Result<Vec<Tmpfs>> {
    let mut out: Vec<Tmpfs> = Vec::new();
    for asked in &request.tmpfs {
        let option = format!("--tmpfs {}", asked.destination);
        let destination = destination(&asked.destination, &option)?;
        let taken = binds.iter().map(|bind| &bind.destination).chain(out.iter().map(|t| &t.destination));
        if taken.into_iter().any(|known| *known == destination) {
            return Err(usage(format!("{option}: something is mounted there already"), "use each destination once"));
        }
        let size = asked.size.unwrap_or(memory);
        if size > memory {
            let (asked, memory) = (units::show_size(size), units::show_size(memory));
            return Err(usage(
                format!("{option}: {asked} is more than this run's memory of {memory}"),
                "its pages count as memory: ask for less, or for more --memory",
            ));
        }
        log.note("tmpfs", destination.display().to_string(), "--tmpfs; counted as this run's memory");
        out.push(Tmpfs { destination, size, mode: asked.mode, read_only: asked.read_only, exec: asked.exec });
    }
    if request.read_only {
        for path in WRITABLE.map(PathBuf::from) {
            let taken = binds.iter().any(|b| b.destination == path) || out.iter().any(|t| t.destination == path);
            if !taken {
                let mode = if path == Path::new("/run") { 0o755 } else { 0o1777 };
                log.note("tmpfs", path.display().to_string(), "--read-only leaves it writable, in memory");
                out.push(Tmpfs { destination: path, size: memory, mode, read_only: false, exec: true });
            }
        }
    }
    out.sort_by_key(|tmpfs| tmpfs.destination.components().count());
    Ok(out)
}

/// An absolute destination that covers nothing of ours.
fn destination(text: &str, option: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.contains('\0') {
        return Err(usage(format!("{option}: the destination must be absolute, without `..`"), "name it from `/` on"));
    }
    // Only what `components` keeps: no doubled or trailing slashes.
    let path: PathBuf = path.components().collect();
    let ours = OURS.iter().map(Path::new).find(|ours| path.starts_with(ours) || ours.starts_with(&path));
    match ours {
        Some(ours) => Err(usage(
            format!("{option}: the destination would cover {}", ours.display()),
            "choose another directory of the container",
        )),
        None => Ok(path),
    }
}

impl Policy {
    /// How far `source`, a directory or file without links, may be bound by `option`, and the rule that says so; `home` is what
    /// `~` means in rules.
    ///
    /// # Errors
    /// [`crate::error::Kind::Policy`] when no rule opens it, or none could.
    pub fn opens(&self, source: &Path, home: &Path, option: &str) -> Result<(Access, Rule<String>)> {
        self.may_be_bound(source, option)?;
        ceiling(self, source, home)
            .ok_or_else(|| self.refuse(format!("{option} is refused"), &self.mounts, &opens(self)))
    }

    /// Whether `source` may be bound at all, whatever the site's rules.
    ///
    /// # Errors
    /// [`crate::error::Kind::Policy`] for what is the host's own, and for what is, or holds, projects' data.
    pub fn may_be_bound(&self, source: &Path, option: &str) -> Result<()> {
        check_source(self, source, option)
    }
}

fn check_source(policy: &Policy, source: &Path, option: &str) -> Result<()> {
    let rule = Rule::builtin("mounts", ());
    if source.to_str().is_none() {
        return Err(usage(
            format!("{option}: the host directory's name is not text"),
            "rename it: config.json is UTF-8",
        ));
    }
    if is_never_mounted(source) {
        let says = "keeps the host's own directories outside";
        return Err(policy.refuse(format!("{option} is refused: it is {}", source.display()), &rule, says));
    }
    let root = policy.data_root();
    if source.starts_with(root) || root.starts_with(source) {
        let says =
            format!("one project a run, by --project alone: nothing in or above {} can be bound", root.display());
        return Err(policy.refuse(format!("{option} is refused: it is {}", source.display()), &rule, &says));
    }
    Ok(())
}

/// The rule that opens `source`: the one that names the deepest directory above it.
fn ceiling(policy: &Policy, source: &Path, home: &Path) -> Option<(Access, Rule<String>)> {
    policy
        .mounts
        .value
        .iter()
        .filter_map(|rule| {
            let dir = match rule.host.strip_prefix('~') {
                Some(rest) => home.join(rest.trim_start_matches('/')),
                None => PathBuf::from(&rule.host),
            };
            // Compared component by component: /home/ann does not open /home/anna.
            source.starts_with(&dir).then(|| (dir.components().count(), rule))
        })
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, rule)| (rule.access, policy.mounts.with(rule.host.clone())))
}

fn opens(policy: &Policy) -> String {
    let list: Vec<String> =
        policy.mounts.value.iter().map(|rule| format!("{} ({})", rule.host, rule.access.name())).collect();
    if list.is_empty() { "opens nothing".to_owned() } else { format!("opens {}", list.join(", ")) }
}
