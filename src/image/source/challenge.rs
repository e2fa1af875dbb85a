//! What a registry asks of those it does not know.
//!
//! Takes the `WWW-Authenticate` header; gives a `Challenge`.
//! Trusts nothing in it: where a password may be sent is decided here.
//! Refuses to send anything over plain http off this machine, or a password to a host of another domain.

use crate::error::{Error, Kind, Result, Stage};
use crate::image::reference::is_loopback;

/// What has to be done before a registry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Send name and password with each request.
    Basic,
    /// Get a token at `realm` first.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// What the token service calls the registry.
        service: Option<String>,
    },
}

impl Challenge {
    /// Reads the header; `None` if it asks for nothing that is known here.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = rest;
        while let Some((key, after)) = rest.split_once("=\"") {
            let (value, after) = after.split_once('"')?;
            match key.trim_matches([',', ' ']) {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service })
    }
}

/// Whether a token may be asked for at `realm` (scheme and host with port), and a password sent there, on behalf of the
/// registry `host`.
///
/// # Errors
/// When `realm` is no such place: a registry could make `ces` call any address, or give it another's password.
pub fn check_realm(scheme: &str, realm_host: &str, host: &str, with_password: bool) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(
            Stage::Pull,
            Kind::Hostile,
            format!("the registry {host} asks to log in at {scheme}://{realm_host}"),
        )
        .because(why)
        .hint("nothing was sent there; ask who runs the registry"))
    };
    let same_machine = is_loopback(realm_host) && is_loopback(host);
    if scheme != "https" && !same_machine {
        return refuse("the connection would not be encrypted");
    }
    if is_loopback(realm_host) && !is_loopback(host) {
        return refuse("that is this machine");
    }
    if with_password && !same_machine && domain(realm_host) != domain(host) {
        return refuse("it belongs to another domain, so the password was not sent");
    }
    Ok(())
}

/// The last two labels of a host's name; of an address, all of it.
fn domain(host: &str) -> &str {
    let name = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
    if name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() {
        return name;
    }
    match name.rmatch_indices('.').nth(1) {
        Some((at, _)) => name.get(at + 1..).unwrap_or(name),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_whatever_its_order() {
        let bearer = r#"Bearer service="registry.example",realm="https://auth.example/token",scope="x:y,z:pull""#;
        assert_eq!(
            Challenge::parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: Some("registry.example".to_owned())
            })
        );
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Digest x"), None);
        assert_eq!(Challenge::parse("Bearer service=\"x\""), None);
    }

    #[test]
    fn a_password_goes_to_the_registrys_own_domain_alone() {
        assert!(check_realm("https", "auth.docker.io", "registry-1.docker.io", true).is_ok());
        assert!(check_realm("https", "gitlab.com", "registry.gitlab.com:5050", true).is_ok());
        assert!(check_realm("https", "evil.example", "ghcr.io", true).is_err());
        assert!(check_realm("https", "evil.example", "ghcr.io", false).is_ok());
        assert!(check_realm("http", "ghcr.io", "ghcr.io", false).is_err());
        assert!(check_realm("https", "127.0.0.1:80", "ghcr.io", false).is_err());
        assert!(check_realm("http", "169.254.169.254", "127.0.0.1:5000", false).is_err());
        assert!(check_realm("http", "127.0.0.1:5001", "localhost:5000", true).is_ok());
    }
}
