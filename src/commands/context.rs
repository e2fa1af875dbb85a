//! What every verb is given.

use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::image::source::RegistryRules;
use crate::image::unpack::Limits;

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
}
