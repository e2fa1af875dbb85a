//! The site's rules, and what a request may have under them.
//!
//! Takes the site's TOML and a request; gives a `grant::Grant`; trusts the root-owned policy file; refuses whatever is
//! larger than a ceiling, by name, with the line of the policy and the person to ask. A request can only narrow.
//!
//! Nothing here reads a file but `load`: parsing and granting are pure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Sizes and durations as people write them.
pub mod units;
/// TOML read key by key, with lines.
pub mod reader;
/// What exports say of the site, its people and projects.
pub mod identity;
/// What a payload may do: batch, service.
pub mod profile;
/// The site's file as text, to rules.
pub mod document;
/// Which file is in force, and whether it can be trusted.
pub mod load;
/// Digests approved for projects.
pub mod approved;
/// What a user asks for.
pub mod request;
/// Options of podman: accepted as already true, or refused by name.
pub mod podman;
/// What the run gets.
pub mod grant;
/// What the site allows of an image's software stack.
pub mod stack_rules;
/// Whether an image may run with what is known of its stack.
pub mod stack_grant;
/// The rules in force, one a line.
pub mod show;

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;

use crate::error::{Error, Kind, Stage};
use crate::host::caller::{Caller, Mode};
use crate::host::dirs::Places;
use crate::host::log_dir::{CopyTo, Service};
use reader::Rule;

/// How files may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read only; the smaller of the two.
    Ro,
    /// Read and write, as the user's own permissions allow.
    Rw,
}

impl Access {
    /// `ro` or `rw`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ro => "ro",
            Self::Rw => "rw",
        }
    }
}

/// What the built-in rules need to know of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostFacts {
    /// All memory.
    pub memory_bytes: u64,
    /// CPUs this process may use.
    pub cpus: f64,
    /// Whether `ces` has root's privileges (then limits are required).
    pub privileged: bool,
}

/// A ceiling, and what a run gets that asks for nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit<T> {
    /// Nothing larger is granted; `None`: no ceiling.
    pub max: Option<Rule<T>>,
    /// Granted without asking; `None`: no limit.
    pub default: Option<Rule<T>>,
}

/// All ceilings.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Limit<u64>,
    /// CPUs, in parts of one.
    pub cpus: Limit<f64>,
    /// Processes and threads.
    pub pids: Limit<u64>,
    /// Bytes a second that are read from each disk of the run, and as many that are written to it.
    pub io: Limit<u64>,
    /// Wall-clock time.
    pub time: Limit<Duration>,
    /// Bytes in `/scratch`, and of all else that a run writes and leaves nothing of: the layer over the image.
    pub scratch: Limit<u64>,
    /// Files in the same.
    pub scratch_files: Limit<u64>,
    /// Bytes in `/safe_outputs`.
    pub outputs: Limit<u64>,
    /// Files in `/safe_outputs`.
    pub output_files: Limit<u64>,
    /// Whether a host that cannot enforce the limits refuses to run.
    pub required: Rule<bool>,
}

/// From where images may come, as plain data for the registry client.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registries {
    /// Exact hosts; `None`: any.
    pub allow: Option<Rule<Vec<String>>>,
    /// Where the bytes of a host come from instead.
    pub mirrors: BTreeMap<String, Mirror>,
    /// Whom to ask.
    pub contact: Option<String>,
}

/// Where the bytes of a registry come from; images keep their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirror {
    /// The base URL to ask instead of the host.
    pub url: Option<String>,
    /// A file with the certificate authority to trust for it.
    pub ca: Option<PathBuf>,
    /// The base URL of its token service, where a password may go too.
    pub token: Option<String>,
}

/// Which images may run.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// The list of approved digests; `None`: any image of an allowed registry.
    pub approved: Option<Rule<PathBuf>>,
    /// Login names of those who may approve images through sudo; root always may.
    pub approvers: Option<Rule<Vec<String>>>,
    /// Whether an image must be named by digest.
    pub require_digest: Rule<bool>,
    /// Whether an image that a researcher pulled with rights of their own is for all researchers.
    pub shared: Rule<bool>,
    /// Whether an image may run of which entries belong to ids that are not mapped here, and so to nobody.
    pub unmapped_ids: Rule<bool>,
    /// Whether an image must have been rehearsed.
    pub rehearsed: Rule<Rehearsing>,
    /// How much an image may ask of the store.
    pub limits: ImageLimits,
    /// What its software stack may be.
    pub stack: stack_rules::StackRules,
}

/// Whether an image must have been rehearsed (`ces rehearse`) before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsing {
    /// No.
    Free,
    /// No, but it is said that it was not.
    Advice,
    /// By its researcher on this host, with the same rules, and found ready.
    Required,
}

impl Rehearsing {
    /// As the policy writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "false",
            Self::Advice => "advice",
            Self::Required => "true",
        }
    }
}

/// How much an image may ask of the store; `None`: as built in (`image::unpack::limits`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageLimits {
    /// Bytes a layer may expand to.
    pub layer: Option<Rule<u64>>,
    /// Bytes all layers may expand to.
    pub image: Option<Rule<u64>>,
    /// Entries a layer may have.
    pub entries: Option<Rule<u64>>,
    /// Layers an image may have.
    pub layers: Option<Rule<u64>>,
    /// Bytes of memory the process that unpacks a layer may hold.
    pub memory: Option<Rule<u64>>,
}

/// What the site sets of the rules of the pre-check (`bundles/precheck.toml`); `None`: as in the data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Precheck {
    /// Bytes of the largest file.
    pub size: Option<Rule<u64>>,
    /// Rows of the longest table.
    pub rows: Option<Rule<u64>>,
    /// Below which number a count is small.
    pub threshold: Option<Rule<u64>>,
    /// Whether 0 is a small count.
    pub zero: Option<Rule<bool>>,
    /// Rows from which a table may have one for each person.
    pub row_level: Option<Rule<u64>>,
    /// Endings of names that are expected.
    pub types: Option<Rule<Vec<String>>>,
}

/// Where safe data is, and how far it may be reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// The directory of all projects.
    pub root: Rule<PathBuf>,
    /// The ceiling for every project.
    pub access: Rule<Access>,
}

/// What narrows the rules for one project.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Project {
    /// A lower ceiling for its data.
    pub access: Option<Rule<Access>>,
    /// Fewer profiles.
    pub profiles: Option<Rule<Vec<String>>>,
}

/// Which profiles may be asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Profiles {
    /// For a run that asks for none.
    pub default: Rule<String>,
    /// The others that may be asked for.
    pub allow: Rule<Vec<String>>,
}

/// A directory of the host that `-v` may bind, and everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountRule {
    /// Absolute, or `~` and below: the caller's home.
    pub host: String,
    /// The ceiling.
    pub access: Access,
}

/// What records keep of what may be nobody's to keep (`[records]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    /// Whether a command is kept whole, in a file of its own beside the record.
    pub whole_commands: Rule<bool>,
    /// Whether what runs change in data that they may write is listed.
    pub changes: Rule<bool>,
    /// The variables whose values are kept.
    pub values: Rule<Vec<String>>,
    /// How long records are kept, before `ces prune --records` removes them; `None`: for ever.
    pub keep: Option<Rule<Duration>>,
}

/// Where each line of the audit log goes besides (`[audit]`).
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The service; `None`: nowhere.
    pub copy: Option<Rule<Service>>,
    /// Its socket, where it is not the usual one.
    pub socket: Option<Rule<PathBuf>>,
    /// Whether what has no copy does not begin.
    pub required: Rule<bool>,
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    file: String,
    mode: Option<Rule<Mode>>,
    contact: Option<Rule<String>>,
    site: Places,
    identity: identity::Identity,
    registries: Registries,
    images: Images,
    data: Data,
    projects: BTreeMap<String, Project>,
    profiles: Profiles,
    limits: Limits,
    mounts: Rule<Vec<MountRule>>,
    ports: Rule<bool>,
    interactive: Rule<bool>,
    exec: Rule<bool>,
    precheck: Precheck,
    records: Records,
    audit: Audit,
}

impl Policy {
    /// The file it was read from, or `built-in`.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether an ordinary user's call is made again through sudo.
    pub fn is_enforced(&self) -> bool {
        self.mode.as_ref().is_some_and(|mode| mode.value == Mode::Enforced)
    }

    /// Whom to ask, printed with every refusal.
    pub fn contact(&self) -> Option<&str> {
        self.contact.as_ref().map(|rule| rule.value.as_str())
    }

    /// Where the site keeps store, journals and records.
    pub fn places(&self) -> &Places {
        &self.site
    }

    /// What exports say of the site, its people and projects.
    pub fn identity(&self) -> &identity::Identity {
        &self.identity
    }

    /// From where images may come.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// Which images may run.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The directory of all projects' data (`/safe_data`).
    pub fn data_root(&self) -> &std::path::Path {
        &self.data.root.value
    }

    /// The ceilings.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether `ces exec` is allowed.
    pub fn exec(&self) -> &Rule<bool> {
        &self.exec
    }

    /// What the site sets of the rules of the pre-check.
    pub fn precheck(&self) -> &Precheck {
        &self.precheck
    }

    /// The most that a run may do with the data of `project`.
    pub fn access_to(&self, project: Option<&str>) -> Access {
        let own = project.and_then(|name| self.projects.get(name)?.access.as_ref());
        own.map_or(self.data.access.value, |rule| rule.value.min(self.data.access.value))
    }

    /// The profiles that may be asked for.
    pub fn profiles(&self) -> &[String] {
        &self.profiles.allow.value
    }

    /// What records keep.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Where lines of the audit log go besides.
    pub fn copies(&self) -> Option<CopyTo> {
        let Audit { copy, socket, required } = &self.audit;
        let service = copy.as_ref()?.value;
        let socket = socket.as_ref().map_or_else(|| service.socket(), |rule| rule.value.clone());
        Some(CopyTo { service, socket, required: required.value })
    }

    /// Whether the caller may approve images: root itself, and through sudo those whom the policy names.
    ///
    /// # Errors
    /// When they may not.
    pub fn may_approve(&self, caller: &Caller) -> Result<(), Error> {
        let named = self.images.approvers.as_ref();
        let is_named = named.is_some_and(|rule| rule.value.contains(&caller.name));
        if caller.sees_everyone() || (caller.by_sudo && is_named) {
            return Ok(());
        }
        let what = format!("{} may not approve images", caller.name);
        match named {
            Some(rule) => Err(self.refuse(what, rule, &format!("names {}", rule.value.join(", ")))),
            None => Err(Error::new(Stage::Policy, Kind::Policy, what)
                .because("images.approvers names nobody, so root alone may")
                .hint(self.whom_to_ask())),
        }
    }

    /// What to type for the approval of an image, and whom to ask.
    pub(crate) fn how_to_request(&self, digest: &str, project: Option<&str>) -> String {
        // It is for a shell: a name that is more than a word is not repeated.
        let project = project.filter(|name| document::is_project_name(name));
        let project = project.map_or_else(String::new, |name| format!(" --project {name}"));
        let contact = self.contact().map_or_else(String::new, |contact| format!("; {contact} decides"));
        format!("ask for it: ces request {digest}{project} --reason \"…\"{contact}")
    }

    /// A refusal: what, the rule it breaks, whom to ask.
    pub fn refuse<T>(&self, what: impl Into<String>, rule: &Rule<T>, says: &str) -> Error {
        let because = if says.is_empty() { rule.origin.to_string() } else { format!("{} {says}", rule.origin) };
        Error::new(Stage::Policy, Kind::Policy, what).because(because).hint(self.whom_to_ask())
    }

    /// The hint of every refusal.
    pub fn whom_to_ask(&self) -> String {
        match self.contact() {
            Some(contact) => format!("if you need this, ask {contact}"),
            None => "if you need this, ask whoever runs this host; `ces policy show` prints its rules".to_owned(),
        }
    }
}
