//! `policy.toml`: from text to rules.
//!
//! Takes text, the file's name and facts of the host for what the file leaves out; gives a `Policy`; trusts nothing;
//! refuses every key it does not know and every value that is not exactly what is allowed there.

use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::reader::{Rule, Table, wrong};
use super::stack_rules::StackRules;
use super::{
    Access, Audit, Data, HostFacts, ImageLimits, Images, Limit, Limits, Mirror, MountRule, Policy, Precheck, Profiles,
    Project, Records, Registries, Rehearsing, profile, units,
};
use crate::error::Result;
use crate::host::caller::Mode;
use crate::host::dirs::Places;
use crate::host::log_dir::Service;
use crate::image::registry_host::canonical;
use crate::image::source::Upstream;

/// Processes and threads a run gets that asks for nothing.
const PIDS_DEFAULT: u64 = 4096;
/// Processes and threads nobody may exceed where the site says nothing.
const PIDS_MAX: u64 = 32_768;

/// Directories of the host itself: no policy can open them to `-v`.
const NEVER_MOUNTED: [&str; 7] = ["/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/run"];

impl Policy {
    /// The strict rules of a host without a policy file.
    pub fn builtin(facts: &HostFacts) -> Self {
        let none = none_of::<u64>;
        let half = facts.memory_bytes / 2;
        Self {
            file: "built-in".to_owned(),
            mode: None,
            contact: None,
            site: Places::default(),
            identity: Identity::default(),
            registries: Registries::default(),
            images: Images {
                approved: None,
                approvers: None,
                require_digest: Rule::builtin("images.require_digest", false),
                shared: Rule::builtin("images.shared", false),
                unmapped_ids: Rule::builtin("images.unmapped_ids", true),
                rehearsed: Rule::builtin("images.rehearsed", Rehearsing::Free),
                limits: ImageLimits::default(),
                stack: StackRules::default(),
            },
            data: Data {
                root: Rule::builtin("data.root", PathBuf::from("/safe_data")),
                access: Rule::builtin("data.access", Access::Rw),
            },
            projects: std::collections::BTreeMap::new(),
            profiles: Profiles {
                default: Rule::builtin("profiles.default", "batch".to_owned()),
                allow: Rule::builtin("profiles.allow", profile::NAMES.map(str::to_owned).to_vec()),
            },
            limits: Limits {
                memory: both(
                    Rule::builtin("limits.memory.max (this host's memory)", facts.memory_bytes),
                    Rule::builtin("limits.memory.default (half of this host's memory)", half),
                ),
                cpus: both(
                    Rule::builtin("limits.cpus.max (this host's CPUs)", facts.cpus),
                    Rule::builtin("limits.cpus.default (this host's CPUs)", facts.cpus),
                ),
                pids: both(
                    Rule::builtin("limits.pids.max", PIDS_MAX),
                    Rule::builtin("limits.pids.default", PIDS_DEFAULT),
                ),
                io: none(),
                time: none_of(),
                scratch: none(),
                scratch_files: none(),
                outputs: none(),
                output_files: none(),
                required: Rule::builtin("limits.required", facts.privileged),
            },
            mounts: Rule::builtin("mounts.allow", vec![MountRule { host: "~".to_owned(), access: Access::Rw }]),
            ports: Rule::builtin("ports.allow", true),
            interactive: Rule::builtin("interactive.allow", true),
            exec: Rule::builtin("interactive.exec", false),
            precheck: Precheck::default(),
            records: Records {
                whole_commands: Rule::builtin("records.command", false),
                changes: Rule::builtin("records.changes", true),
                values: Rule::builtin("records.values", Vec::new()),
                keep: None,
            },
            audit: Audit { copy: None, socket: None, required: Rule::builtin("audit.required", false) },
        }
    }

    /// Reads a policy file's text; what it leaves out is as in [`Policy::builtin`].
    ///
    /// # Errors
    /// When anything in it is unknown, of the wrong type, or contradicts itself.
    pub fn parse(text: &str, file: &str, facts: &HostFacts) -> Result<Self> {
        let mut policy = Self::builtin(facts);
        policy.file = file.to_owned();
        let mut top = Table::parse(text, file)?;
        policy.contact = top.string("contact")?;
        policy.mode = top.text("mode", "\"enforced\" or \"advisory\"", |text| match text {
            "enforced" => Some(Mode::Enforced),
            "advisory" => Some(Mode::Advisory),
            _ => None,
        })?;
        if let Some(mut table) = top.table("site")? {
            let mut place = |key| Ok::<_, crate::error::Error>(absolute(&mut table, key)?.map(|rule| rule.value));
            policy.site = Places { store: place("store")?, state: place("state")?, log: place("log")? };
            policy.identity.read_site(&mut table)?;
            table.finish()?;
        }
        if let Some(table) = top.table("organisations")? {
            policy.identity.read_organisations(table)?;
        }
        if let Some(table) = top.table("people")? {
            policy.identity.read_people(table)?;
        }
        policy.registries.contact = policy.contact.as_ref().map(|rule| rule.value.clone());
        if let Some(table) = top.table("registries")? {
            read_registries(table, &mut policy.registries)?;
        }
        if let Some(table) = top.table("images")? {
            read_images(table, &mut policy.images)?;
        }
        if let Some(mut table) = top.table("data")? {
            set(&mut policy.data.root, absolute(&mut table, "root")?);
            set(&mut policy.data.access, access(&mut table)?);
            table.finish()?;
        }
        if let Some(mut table) = top.table("profiles")? {
            set(&mut policy.profiles.allow, profile_names(&mut table, "allow")?);
            set(&mut policy.profiles.default, table.string("default")?);
            table.finish()?;
        }
        check_default_profile(&policy.profiles)?;
        if let Some(mut table) = top.table("projects")? {
            for (name, origin, mut table) in table.named_tables()? {
                if !is_project_name(&name) {
                    return Err(wrong(&origin, "is not a project's name: letters, digits, `-`, `_` and `.`"));
                }
                policy.identity.read_project(&name, &mut table)?;
                let project = read_project(table, &policy.profiles.allow)?;
                policy.projects.insert(name, project);
            }
        }
        if let Some(table) = top.table("limits")? {
            read_limits(table, &mut policy.limits)?;
        }
        if let Some(mut table) = top.table("mounts")? {
            set(&mut policy.mounts, mount_rules(&mut table)?);
            table.finish()?;
        }
        if let Some(mut table) = top.table("ports")? {
            set(&mut policy.ports, table.boolean("allow")?);
            table.finish()?;
        }
        if let Some(mut table) = top.table("interactive")? {
            set(&mut policy.interactive, table.boolean("allow")?);
            set(&mut policy.exec, table.boolean("exec")?);
            table.finish()?;
        }
        if let Some(table) = top.table("precheck")? {
            policy.precheck = read_precheck(table)?;
        }
        if let Some(table) = top.table("records")? {
            read_records(table, &mut policy.records)?;
        }
        if let Some(table) = top.table("audit")? {
            read_audit(table, &mut policy.audit)?;
        }
        top.finish()?;
        Ok(policy)
    }
}

fn both<T>(max: Rule<T>, default: Rule<T>) -> Limit<T> {
    Limit { max: Some(max), default: Some(default) }
}

fn none_of<T>() -> Limit<T> {
    Limit { max: None, default: None }
}

fn set<T>(rule: &mut Rule<T>, stated: Option<Rule<T>>) {
    if let Some(stated) = stated {
        *rule = stated;
    }
}

/// A name that is one path component and safe to print.
pub(crate) fn is_project_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

fn access(table: &mut Table<'_>) -> Result<Option<Rule<Access>>> {
    table.text("access", "\"ro\" or \"rw\"", |text| match text {
        "ro" => Some(Access::Ro),
        "rw" => Some(Access::Rw),
        _ => None,
    })
}

fn absolute(table: &mut Table<'_>, key: &'static str) -> Result<Option<Rule<PathBuf>>> {
    table.text(key, "an absolute path without `..`", |text| {
        (text.starts_with('/') && !text.split('/').any(|part| part == "..")).then(|| PathBuf::from(text))
    })
}

fn read_registries(mut table: Table<'_>, registries: &mut Registries) -> Result<()> {
    registries.allow = table.strings("allow")?;
    if let Some(rule) = &mut registries.allow {
        for host in &mut rule.value {
            *host = canonical(host).map_err(|why| {
                wrong(&rule.origin, &format!("lists exact hosts such as \"ghcr.io\", not \"{host}\": {why}"))
            })?;
        }
    }
    for (host, origin, mut table) in table.named_tables()? {
        let host = canonical(&host)
            .map_err(|why| wrong(&origin, &format!("is not a registry's host such as \"ghcr.io\": {why}")))?;
        let proxy = "a URL such as \"https://pull-proxy.example:5000\" or \"https://nexus.example/docker-hub\"";
        let url = address(&mut table, "mirror", proxy, |_| true)?;
        let ca = absolute(&mut table, "ca")?.map(|rule| rule.value);
        let service = "a URL without path such as \"https://auth.example.org\"";
        let token = address(&mut table, "token", service, Upstream::is_host_alone)?;
        table.finish()?;
        if registries.mirrors.insert(host, Mirror { url, ca, token }).is_some() {
            return Err(wrong(&origin, "is another spelling of a host that has a table already"));
        }
    }
    Ok(())
}

/// A URL of the kind that is `fitting`.
fn address(
    table: &mut Table<'_>,
    key: &'static str,
    form: &'static str,
    fitting: impl Fn(&Upstream) -> bool,
) -> Result<Option<String>> {
    let rule = table.text(key, form, |text| text.parse().ok().filter(&fitting).map(|url| url.to_string()))?;
    Ok(rule.map(|rule| rule.value))
}

fn read_images(mut table: Table<'_>, images: &mut Images) -> Result<()> {
    images.approved = absolute(&mut table, "approved")?;
    images.approvers = table.strings("approvers")?;
    set(&mut images.require_digest, table.boolean("require_digest")?);
    set(&mut images.shared, table.boolean("shared")?);
    set(&mut images.unmapped_ids, table.boolean("unmapped_ids")?);
    set(
        &mut images.rehearsed,
        table.choice("rehearsed", "true, false or \"advice\"", |word| match word {
            "true" => Some(Rehearsing::Required),
            "false" => Some(Rehearsing::Free),
            "\"advice\"" => Some(Rehearsing::Advice),
            _ => None,
        })?,
    );
    if let Some(table) = table.table("stack")? {
        images.stack = StackRules::read(table, |table| absolute(table, "waivers"))?;
    }
    if let Some(mut table) = table.table("limits")? {
        images.limits = ImageLimits {
            layer: size(&mut table, "layer")?,
            image: size(&mut table, "image")?,
            entries: count(&mut table, "entries")?,
            layers: count(&mut table, "layers")?,
            memory: size(&mut table, "memory")?,
        };
        table.finish()?;
    }
    table.finish()
}

fn read_precheck(mut table: Table<'_>) -> Result<Precheck> {
    let read = Precheck {
        size: size(&mut table, "size")?,
        rows: count(&mut table, "rows")?,
        threshold: count(&mut table, "threshold")?,
        zero: table.boolean("zero")?,
        row_level: count(&mut table, "row_level")?,
        types: table.strings("types")?,
    };
    if let Some(rule) = &read.types
        && let Some(wrong_one) = rule.value.iter().find(|ending| !ending.starts_with('.') || ending.len() < 2)
    {
        return Err(wrong(&rule.origin, &format!("lists endings of names such as \".csv\", not \"{wrong_one}\"")));
    }
    table.finish()?;
    Ok(read)
}

fn read_records(mut table: Table<'_>, records: &mut Records) -> Result<()> {
    let form = "\"redacted\", or \"full\": in a file of its own, which is never exported";
    let command = table.text("command", form, |text| match text {
        "redacted" => Some(false),
        "full" => Some(true),
        _ => None,
    })?;
    set(&mut records.whole_commands, command);
    let changes = table.text("changes", "\"listed\" or \"off\"", |text| match text {
        "listed" => Some(true),
        "off" => Some(false),
        _ => None,
    })?;
    set(&mut records.changes, changes);
    set(&mut records.values, table.strings("values")?);
    records.keep = table.text("keep", units::PERIOD_FORMS, units::period)?;
    table.finish()
}

fn read_audit(mut table: Table<'_>, audit: &mut Audit) -> Result<()> {
    audit.copy = table.text("copy", "\"syslog\" or \"journald\"", Service::named)?;
    audit.socket = absolute(&mut table, "socket")?;
    set(&mut audit.required, table.boolean("required")?);
    table.finish()?;
    let stated = audit.socket.as_ref().map(|rule| &rule.origin);
    match stated.or(audit.required.value.then_some(&audit.required.origin)) {
        Some(origin) if audit.copy.is_none() => Err(wrong(origin, "is about copies, and `copy` says to whom: nobody")),
        _ => Ok(()),
    }
}

fn size(table: &mut Table<'_>, key: &'static str) -> Result<Option<Rule<u64>>> {
    table.text(key, units::SIZE_FORMS, |text| units::size(text).filter(|n| *n > 0))
}

fn count(table: &mut Table<'_>, key: &'static str) -> Result<Option<Rule<u64>>> {
    table.number(key, "a whole number above zero", |text| text.parse::<u64>().ok().filter(|n| *n > 0))
}

fn profile_names(table: &mut Table<'_>, key: &'static str) -> Result<Option<Rule<Vec<String>>>> {
    let rule = table.strings(key)?;
    if let Some(rule) = &rule {
        if rule.value.is_empty() {
            return Err(wrong(&rule.origin, "must name at least one profile"));
        }
        if let Some(name) = rule.value.iter().find(|name| !profile::NAMES.contains(&name.as_str())) {
            let known = profile::NAMES.join(", ");
            return Err(wrong(&rule.origin, &format!("names \"{name}\"; profiles are: {known}")));
        }
    }
    Ok(rule)
}

fn check_default_profile(profiles: &Profiles) -> Result<()> {
    if profiles.allow.value.contains(&profiles.default.value) {
        return Ok(());
    }
    let stated = if profiles.default.origin.line.is_some() { &profiles.default.origin } else { &profiles.allow.origin };
    let allowed = profiles.allow.value.join(", ");
    Err(wrong(
        stated,
        &format!("makes the default profile \"{}\" one that is not allowed ({allowed})", profiles.default.value),
    ))
}

fn read_project(mut table: Table<'_>, ceiling: &Rule<Vec<String>>) -> Result<Project> {
    let access = access(&mut table)?;
    let profiles = profile_names(&mut table, "profiles")?;
    if let Some(rule) = &profiles
        && let Some(name) = rule.value.iter().find(|name| !ceiling.value.contains(name))
    {
        return Err(wrong(&rule.origin, &format!("names \"{name}\", which {} does not allow", ceiling.origin)));
    }
    table.finish()?;
    Ok(Project { access, profiles })
}

fn read_limits(mut table: Table<'_>, limits: &mut Limits) -> Result<()> {
    if let Some(t) = table.table("memory")? {
        limit(t, &mut limits.memory, size)?;
    }
    if let Some(t) = table.table("cpus")? {
        limit(t, &mut limits.cpus, |t, key| t.number(key, "a number above zero, such as 2.5", units::cpus))?;
    }
    if let Some(t) = table.table("pids")? {
        limit(t, &mut limits.pids, count)?;
    }
    if let Some(t) = table.table("io")? {
        limit(t, &mut limits.io, size)?;
    }
    if let Some(t) = table.table("time")? {
        limit(t, &mut limits.time, |t, key| {
            t.text(key, units::DURATION_FORMS, |text| units::duration(text).filter(|d| !d.is_zero()))
        })?;
    }
    if let Some(mut t) = table.table("scratch")? {
        limits.scratch_files.max = t.integer("files")?;
        limit(t, &mut limits.scratch, size)?;
    }
    if let Some(mut t) = table.table("outputs")? {
        limits.output_files.max = t.integer("files")?;
        limit(t, &mut limits.outputs, size)?;
    }
    set(&mut limits.required, table.boolean("required")?);
    table.finish()
}

/// Reads `{ max = …, default = … }`. A stated `max` lowers a default that no one stated; a stated default above a stated
/// `max` is a contradiction.
fn limit<T: PartialOrd + Clone>(
    mut table: Table<'_>,
    limit: &mut Limit<T>,
    mut read: impl FnMut(&mut Table<'_>, &'static str) -> Result<Option<Rule<T>>>,
) -> Result<()> {
    let max = read(&mut table, "max")?;
    let default = read(&mut table, "default")?;
    table.finish()?;
    if let Some(max) = max {
        if limit.default.as_ref().is_none_or(|default| default.value > max.value) {
            limit.default = Some(max.clone());
        }
        limit.max = Some(max);
    }
    if let Some(default) = default {
        if let Some(max) = limit.max.as_ref().filter(|max| default.value > max.value) {
            return Err(wrong(&default.origin, &format!("is above the ceiling of {}", max.origin)));
        }
        limit.default = Some(default);
    }
    Ok(())
}

fn mount_rules(table: &mut Table<'_>) -> Result<Option<Rule<Vec<MountRule>>>> {
    let Some(Rule { value: tables, origin }) = table.tables("allow")? else { return Ok(None) };
    let mut rules = Vec::new();
    for mut table in tables {
        let host = table.text("host", "an absolute directory, or `~` and below, without `..`", |text| {
            let rooted = text.starts_with('/') || text == "~" || text.starts_with("~/");
            (rooted && !text.split('/').any(|part| part == "..")).then(|| text.to_owned())
        })?;
        let access = access(&mut table)?;
        table.finish()?;
        let Some(host) = host else { return Err(wrong(&origin, "has an entry without `host`")) };
        if is_never_mounted(Path::new(&host.value)) {
            let never = NEVER_MOUNTED.join(", ");
            return Err(wrong(&host.origin, &format!("opens \"{}\": no policy can open /, {never}", host.value)));
        }
        rules.push(MountRule { host: host.value, access: access.map_or(Access::Ro, |rule| rule.value) });
    }
    Ok(Some(Rule { value: rules, origin }))
}

/// Whether a directory is one of the host's own, or holds them all.
pub(crate) fn is_never_mounted(path: &Path) -> bool {
    path == Path::new("/") || NEVER_MOUNTED.iter().any(|never| path.starts_with(never))
}
