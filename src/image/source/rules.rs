//! Which registries may be asked, and how they are reached.
//!
//! Takes the policy's words; gives the rule for a host, or a refusal.
//! Trusts the policy.
//! Refuses every host that is not listed, if any is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::is_loopback;

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
    /// Its token service, as a URL without path: where else than to the registry itself a password may go.
    pub token: Option<String>,
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

    /// Whether what `host` gives without a password is the same for everybody. A registry on this machine may be run by any of
    /// its users, over plain http: what it gives is its researcher's own, unless the policy lists the host.
    pub fn is_everybodys(&self, host: &str) -> bool {
        let listed = self.allow.as_ref().is_some_and(|allow| allow.iter().any(|allowed| allowed == host));
        listed || !is_loopback(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_on_this_machine_speaks_for_nobody_but_its_researcher_unless_the_policy_lists_it() {
        let rules = |allow: &[&str]| RegistryRules {
            allow: (!allow.is_empty()).then(|| allow.iter().map(|host| (*host).to_owned()).collect()),
            ..RegistryRules::default()
        };
        let own = ["127.0.0.1:5000", "127.9.9.9", "localhost", "localhost:80", "[::1]:5000"];
        for host in own {
            assert!(!rules(&[]).is_everybodys(host), "{host}");
            assert!(!rules(&["ghcr.io", "127.0.0.1"]).is_everybodys(host), "{host}");
            assert!(rules(&["ghcr.io", host]).is_everybodys(host), "{host}");
        }
        assert!(rules(&[]).is_everybodys("ghcr.io") && rules(&[]).is_everybodys("128.0.0.1:5000"));
    }
}
