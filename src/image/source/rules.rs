//! Which registries may be asked, and how they are reached.
//!
//! Takes the policy's words; gives the rule for a host, or a refusal.
//! Trusts the policy.
//! Refuses every host that is not listed, if any is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Kind, Result, Stage};
use crate::image::registry_host::{canonical, is_loopback};

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
    /// Where the bytes really come from, as the URL of an [`Upstream`]; the image keeps its name.
    pub mirror: Option<String>,
    /// A file of further certificates (PEM) that its server may be signed by.
    pub ca: Option<PathBuf>,
    /// Its token service, as a URL without path: where else than to the registry itself a password may go.
    pub token: Option<String>,
}

/// An address that stands for a registry: scheme, host, and the path of a proxy on it.
///
/// `https://nexus.example:5000/docker-hub` has `lab/tool` at `/v2/docker-hub/lab/tool/`, as Harbor's proxy projects and the
/// repository paths of Nexus and Artifactory have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    scheme: &'static str,
    host: String,
    path: String,
}

impl Upstream {
    /// `host`, with nothing before the repository.
    pub fn of_host(scheme: &'static str, host: &str) -> Self {
        Self { scheme, host: host.to_owned(), path: String::new() }
    }

    /// `https`, or `http` on this machine.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Host, and port where it is not the scheme's own.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the registry there calls `repository`.
    pub fn repository(&self, repository: &str) -> String {
        if self.path.is_empty() { repository.to_owned() } else { format!("{}/{repository}", self.path) }
    }

    /// Whether nothing comes before the repository.
    pub fn is_host_alone(&self) -> bool {
        self.path.is_empty()
    }
}

impl FromStr for Upstream {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it is not https://HOST[:PORT][/PATH]")?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = canonical(host)?;
        let scheme = match scheme {
            "https" => "https",
            // Plain http is for this machine alone, as for registries themselves.
            "http" if is_loopback(&host) => "http",
            _ => return Err("it is not https (http is for this machine alone)"),
        };
        let path = path.trim_end_matches('/');
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'~');
        let component = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(word);
        if !path.is_empty() && !path.split('/').all(component) {
            return Err("its path is not words of letters, digits and . _ - ~ between slashes");
        }
        if path == "v2" || path.starts_with("v2/") {
            return Err("its path begins with v2, which is put before it anyway: leave that out");
        }
        Ok(Self { scheme, host, path: path.to_owned() })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
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
    fn a_mirror_is_a_host_perhaps_with_the_path_of_a_proxy() {
        let table = [
            ("https://Proxy.example:5000/", "https://proxy.example:5000", "lab/tool"),
            ("https://proxy.example/hub", "https://proxy.example/hub", "hub/lab/tool"),
            (
                "https://proxy.example/Art_1/docker.io-x/",
                "https://proxy.example/Art_1/docker.io-x",
                "Art_1/docker.io-x/lab/tool",
            ),
            ("http://127.0.0.1:5000/a/b", "http://127.0.0.1:5000/a/b", "a/b/lab/tool"),
        ];
        for (text, form, repository) in table {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!((upstream.to_string().as_str(), upstream.repository("lab/tool").as_str()), (form, repository));
        }
        for text in [
            "proxy.example",
            "http://proxy.example",
            "ftp://127.0.0.1",
            "https://",
            "https:///x",
            "https://user@proxy.example",
            "https://proxy.example/v2/hub",
            "https://proxy.example/../x",
            "https://proxy.example/a//b",
            "https://proxy.example/a%2fb",
            "https://proxy.example/a?b",
            "https://proxy.example/a#b",
        ] {
            assert!(text.parse::<Upstream>().is_err(), "{text}");
        }
    }

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
