//! What every verb is given: who calls, the rules in force, where things are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::print;
use crate::cli::Global;
use crate::error::Result;
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::privilege::as_root;
use crate::image::source::{RegistryRule, RegistryRules};
use crate::image::store::Store;
use crate::image::unpack::Limits;
use crate::policy::approved::Approved;
use crate::policy::reader::Rule;
use crate::policy::{ImageLimits, Policy};
use crate::run::supervisor::sweep;

/// Who calls, the rules in force, and where things are.
#[derive(Debug, Clone)]
pub struct Site {
    /// Who calls.
    pub caller: Caller,
    /// The rules.
    pub policy: Policy,
    /// Where things are.
    pub dirs: Dirs,
}

impl Site {
    /// Finds all of it out, for a caller who may be known already.
    ///
    /// # Errors
    /// When the caller is nobody, the policy cannot be trusted, or a directory could be exchanged.
    pub fn of(global: &Global, caller: Caller) -> Result<Self> {
        as_root(|root| {
            let policy = Policy::load(root, &caller, global.policy.as_deref())?;
            let mut dirs = Dirs::open(root, &caller, global.root.as_deref(), policy.places())?;
            dirs.log = dirs.log.copied(policy.copies());
            Ok(Self { caller, policy, dirs })
        })
    }

    /// The same for whoever calls, once what a killed run of theirs left is cleaned up.
    ///
    /// # Errors
    /// As [`Site::of`]; and when the running jobs cannot be read.
    pub fn swept(global: &Global) -> Result<Self> {
        let site = Self::of(global, Caller::find()?)?;
        site.sweep()?;
        Ok(site)
    }

    /// Cleans up what a killed ces left; every verb does that first. What cannot be cleaned up is said, and no reason to stop.
    ///
    /// # Errors
    /// When the running jobs cannot be read.
    pub fn sweep(&self) -> Result<()> {
        let left = sweep::sweep(&self.dirs, &self.caller)?;
        left.iter().try_for_each(|left| print::note(&format!("a killed run left something: {left}")))
    }

    /// The store, with the images in sight that this caller may see.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self) -> Result<Store> {
        let store = Store::open(&self.dirs, &self.caller)?;
        Ok(if self.policy.images().shared.value { store.seeing_all() } else { store })
    }
}

/// What the verbs about images are given.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who calls.
    pub caller: Caller,
    /// Where things are.
    pub dirs: Dirs,
    /// Which registries may be asked.
    pub registries: RegistryRules,
    /// How much a layer may ask for.
    pub limits: Limits,
    /// Every researcher may see every image.
    pub shared: bool,
    /// The directory of all projects' data.
    pub data_root: PathBuf,
    site: Site,
}

impl Context {
    /// Finds all of it out.
    ///
    /// # Errors
    /// As [`Site::swept`].
    pub fn new(global: &Global) -> Result<Self> {
        let site = Site::swept(global)?;
        let rules = site.policy.registries();
        let hosts: BTreeMap<_, _> = rules
            .mirrors
            .iter()
            .map(|(host, mirror)| {
                let (mirror, ca, token) = (mirror.url.clone(), mirror.ca.clone(), mirror.token.clone());
                (host.clone(), RegistryRule { mirror, ca, token })
            })
            .collect();
        Ok(Self {
            dirs: site.dirs.clone(),
            registries: RegistryRules {
                allow: rules.allow.as_ref().map(|rule| rule.value.clone()),
                hosts: hosts.into_iter().collect(),
                contact: rules.contact.clone(),
            },
            limits: limits(&site.policy.images().limits),
            shared: site.policy.images().shared.value,
            data_root: site.policy.data_root().to_path_buf(),
            caller: site.caller.clone(),
            site,
        })
    }

    /// The store, with the images in sight that this caller may see.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self) -> Result<Store> {
        self.site.store()
    }

    /// The list of approved images, if the policy names one.
    ///
    /// # Errors
    /// When it cannot be trusted or read.
    pub fn approved(&self) -> Result<Option<Approved>> {
        as_root(|root| self.site.policy.approved(root))
    }

    /// The rules.
    pub fn policy(&self) -> &Policy {
        &self.site.policy
    }
}

/// What the policy says about sizes, over what is built in.
pub(super) fn limits(stated: &ImageLimits) -> Limits {
    let built_in = Limits::default();
    let value = |rule: &Option<Rule<u64>>, otherwise| rule.as_ref().map_or(otherwise, |rule| rule.value);
    Limits {
        layer_bytes: value(&stated.layer, built_in.layer_bytes),
        image_bytes: value(&stated.image, built_in.image_bytes),
        entries: value(&stated.entries, built_in.entries),
        layers: value(&stated.layers, built_in.layers),
        memory: value(&stated.memory, built_in.memory),
        ..built_in
    }
}
