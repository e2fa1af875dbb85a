//! Which registries may be asked, and how they are reached.
//!
//! Takes the policy's words; gives the rule for a host, or a refusal.
//! Trusts the policy.
//! Refuses every host that is not listed, if any is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result, Stage};

/// The site's rules for registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryRules {
    /// The hosts that may be asked, exactly; `None`: any, over https.
    pub allow: Option<Vec<String>>,
    /// What is special about a host.
    pub hosts: BTreeMap<String, RegistryRule>,
    /// Whom to ask when something is refused.
    pub contact: Option<String>,
}

/// What is special about a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryRule {
    /// Where the bytes really come from, as a URL without path; the image keeps its name.
    pub mirror: Option<String>,
    /// A file of further certificates (PEM) that its server may be signed by.
    pub ca: Option<PathBuf>,
}

impl RegistryRules {
    /// The rule for `host`.
    ///
    /// # Errors
    /// When the policy does not allow the host.
    pub fn rule(&self, host: &str) -> Result<RegistryRule> {
        if let Some(allow) = &self.allow
            && !allow.iter().any(|allowed| allowed == host)
        {
            let hint = match &self.contact {
                Some(contact) => format!("ask {contact} whether images from there may be used"),
                None => "ask whoever keeps the policy (ces policy show)".to_owned(),
            };
            return Err(Error::new(Stage::Policy, Kind::Policy, format!("images from {host} are not allowed here"))
                .because(format!("the policy allows: {}", allow.join(", ")))
                .hint(hint));
        }
        Ok(self.hosts.get(host).cloned().unwrap_or_default())
    }
}
