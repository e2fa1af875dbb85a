//! What the verbs about images are given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::print;
use crate::cli::Global;
use crate::error::Result;
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::image::source::{RegistryRule, RegistryRules};
use crate::image::store::Store;
use crate::image::unpack::Limits;
use crate::policy::reader::Rule;
use crate::policy::{ImageLimits, Policy};
use crate::run::sweep;

/// Who calls, where things are, and what the policy says about images.
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
}

impl Context {
    /// Finds all of it out.
    ///
    /// # Errors
    /// When the caller is nobody, or the policy cannot be trusted.
    pub fn new(global: &Global) -> Result<Self> {
        let caller = Caller::find()?;
        let dirs = Dirs::new(&caller, global.root.as_deref())?;
        sweep(&dirs, &caller)?;
        let policy = Policy::load(&caller, global.policy.as_deref())?;
        let rules = policy.registries();
        let hosts: BTreeMap<_, _> = rules
            .mirrors
            .iter()
            .map(|(host, mirror)| {
                let (mirror, ca, token) = (mirror.url.clone(), mirror.ca.clone(), mirror.token.clone());
                (host.clone(), RegistryRule { mirror, ca, token })
            })
            .collect();
        Ok(Self {
            dirs,
            registries: RegistryRules {
                allow: rules.allow.as_ref().map(|rule| rule.value.clone()),
                hosts: hosts.into_iter().collect(),
                contact: rules.contact.clone(),
            },
            limits: limits(&policy.images().limits),
            shared: policy.images().shared.value,
            data_root: policy.data_root().to_path_buf(),
            caller,
        })
    }
}

impl Context {
    /// The store, with the images in sight that this caller may see.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self) -> Result<Store> {
        open_store(&self.dirs, &self.caller, self.shared)
    }
}

/// The store; `shared` when the policy shows every image to everybody.
///
/// # Errors
/// As [`Store::open`].
pub fn open_store(dirs: &Dirs, caller: &Caller, shared: bool) -> Result<Store> {
    let store = Store::open(dirs, caller)?;
    Ok(if shared { store.seeing_all() } else { store })
}

/// What the policy says about sizes, over what is built in.
fn limits(stated: &ImageLimits) -> Limits {
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

/// Cleans up what a killed ces left; every verb does that first. What cannot be cleaned up is said, and no reason to stop.
///
/// # Errors
/// When the running jobs cannot be read.
pub fn sweep(dirs: &Dirs, caller: &Caller) -> Result<()> {
    sweep::sweep(dirs, caller)?.iter().try_for_each(|left| print::note(&format!("a killed run left something: {left}")))
}
