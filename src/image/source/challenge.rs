//! What a registry asks of those it does not know.
//!
//! Takes the challenges of a `WWW-Authenticate` header; gives the `Challenge` to answer.
//! Trusts nothing in it: where a password may be sent is decided here.
//! Refuses to send anything over plain http off this machine, or a password to another host than the registry's own and
//! the token service that the policy, or the short table here, names for it.

use reqwest::Url;

use super::www_authenticate::{self, RawChallenge};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::registry_host::is_loopback;

/// Registries whose token service is known to have another name, and is run by the same company: the registry's host, and
/// where a password for it may go. Everything else is for the policy to say (`[registries."HOST"] token`).
const TOKEN_SERVICES: [(&str, &str); 2] = [
    // Docker Hub: https://distribution.github.io/distribution/spec/auth/token/, whose example it is.
    ("registry-1.docker.io", "https://auth.docker.io"),
    // GitLab's own service authenticates for its registry: https://docs.gitlab.com/administration/packages/container_registry/
    ("registry.gitlab.com", "https://gitlab.com"),
];

/// What has to be done before a registry answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Send name and password with each request (RFC 7617).
    Basic,
    /// Get a token first (RFC 6750, and the token specification of distribution).
    Bearer {
        /// The address of the token service.
        realm: String,
        /// What the token service calls the registry.
        service: Option<String>,
        /// What the token is for, in the registry's words.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The one to take, of all that the header's lines offer: a token if there is one to have, and else the password; `None`
    /// if nothing is offered that is known here.
    pub fn choose<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let offered = www_authenticate::parse(lines);
        let value = |challenge: &RawChallenge, name: &str| {
            challenge.parameter(name).filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let bearer = offered.iter().filter(|challenge| challenge.scheme == "bearer").find_map(|challenge| {
            let realm = value(challenge, "realm")?;
            Some(Self::Bearer { realm, service: value(challenge, "service"), scope: value(challenge, "scope") })
        });
        let basic = || offered.iter().any(|challenge| challenge.scheme == "basic").then_some(Self::Basic);
        bearer.or_else(basic)
    }
}

/// What a token is asked for: to pull `repository`, as the registry itself calls it. A registry behind a proxy's path may know it
/// by a shorter name than it is asked for, or a longer one; its word is taken for that and for nothing else, so no registry can
/// have a token made that may do more (RFC 9110, section 11.7.1; distribution's "token scope").
pub fn scope(repository: &str, offered: Option<&str>) -> String {
    let same = |name: &str| {
        let ends = |long: &str, short: &str| long == short || long.ends_with(&format!("/{short}"));
        ends(name, repository) || ends(repository, name)
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let named = offered.and_then(|scope| scope.strip_prefix("repository:")?.strip_suffix(":pull"));
    let name = named.filter(|name| name.chars().all(word) && same(name)).unwrap_or(repository);
    format!("repository:{name}:pull")
}

/// A registry, as far as it decides where to log in.
#[derive(Debug, Clone, Copy)]
pub struct Registrar<'a> {
    /// The host in the image's name, which a key of the policy would be for.
    pub name: &'a str,
    /// The address it is really asked at: that of its mirror, if it has one.
    pub address: &'a str,
    /// The token service that the policy names, as a URL without path.
    pub token: Option<&'a str>,
}

/// Whether a token may be asked for at `realm`, and a password sent there, on behalf of `registry`.
///
/// # Errors
/// When `realm` is no such place: a registry could make `ces` call any address, or give it another's password.
pub fn check_realm(realm: &Url, registry: &Registrar<'_>, with_password: bool) -> Result<()> {
    let Registrar { name, address, .. } = registry;
    let place = origin(realm);
    let refuse = |kind, why: String| {
        Error::new(Stage::Pull, kind, format!("the registry {name} asks to log in at {place}")).because(why)
    };
    let realm_host = host(realm);
    if realm.scheme() != "https" && !(realm.scheme() == "http" && is_loopback(&realm_host) && is_loopback(address)) {
        return Err(refuse(Kind::Hostile, "the connection would not be encrypted".to_owned())
            .hint("nothing was sent there; ask who runs the registry"));
    }
    if is_loopback(&realm_host) && !is_loopback(address) {
        return Err(refuse(Kind::Hostile, "that is this machine".to_owned())
            .hint("nothing was sent there; ask who runs the registry"));
    }
    if with_password && !may_have_password(realm, registry) {
        return Err(refuse(Kind::Policy, format!("the password is for {address}, and was not sent to another host"))
            .hint(format!(
                "if {place} is that registry's token service, whoever keeps the policy says so in it: \
                 [registries.\"{name}\"] token = \"{place}\""
            )));
    }
    Ok(())
}

/// The registry itself, to the port, or the token service that is named for it.
fn may_have_password(realm: &Url, registry: &Registrar<'_>) -> bool {
    let itself = Url::parse(&format!("{}://{}", realm.scheme(), registry.address));
    let named = TOKEN_SERVICES.iter().filter(|(host, _)| *host == registry.address).map(|(_, token)| *token);
    let others = named.chain(registry.token).map(Url::parse);
    std::iter::once(itself).chain(others).flatten().any(|url| url.origin() == realm.origin())
}

/// Scheme, host and port, as the policy would have them.
fn origin(url: &Url) -> String {
    format!("{}://{}", url.scheme(), host(url))
}

/// Host, and port where it is not the scheme's own.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_to_a_password_and_what_is_unknown_is_passed_over() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            let realm = "https://auth.example/token".to_owned();
            Some(Challenge::Bearer { realm, service: service.map(str::to_owned), scope: scope.map(str::to_owned) })
        };
        let choose = |lines: &[&str]| Challenge::choose(lines.iter().copied());
        let full =
            r#"Bearer service="registry.example",realm="https://auth.example/token",scope="repository:x/y:pull""#;
        assert_eq!(choose(&[full]), bearer(Some("registry.example"), Some("repository:x/y:pull")));
        let short = "bearer realm=\"https://auth.example/token\"";
        assert_eq!(choose(&["Basic realm=\"x\"", short]), bearer(None, None));
        assert_eq!(choose(&[&format!("Negotiate, Basic realm=x, {short}, service=\"\"")]), bearer(None, None));
        assert_eq!(choose(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        // Without a realm there is nowhere to go.
        assert_eq!(choose(&["Bearer service=\"x\", Basic"]), Some(Challenge::Basic));
        assert_eq!(choose(&["Bearer realm=a,realm=b"]), None);
        assert_eq!(choose(&["Digest x"]), None);
    }

    #[test]
    fn a_registry_cannot_have_a_token_made_that_may_do_more() {
        for (offered, taken) in [
            (None, "repository:hub/lab/tool:pull"),
            (Some("repository:lab/tool:pull"), "repository:lab/tool:pull"),
            (Some("repository:a/hub/lab/tool:pull"), "repository:a/hub/lab/tool:pull"),
            (Some("repository:hub/lab/tool:pull,push"), "repository:hub/lab/tool:pull"),
            (Some("repository:other/secret:pull"), "repository:hub/lab/tool:pull"),
            (Some("repository:ool:pull"), "repository:hub/lab/tool:pull"),
            (Some("repository:x:pull repository:hub/lab/tool:pull"), "repository:hub/lab/tool:pull"),
            (Some("registry:catalog:*"), "repository:hub/lab/tool:pull"),
        ] {
            assert_eq!(scope("hub/lab/tool", offered), taken);
        }
    }

    fn check(realm: &str, address: &str, token: Option<&str>, with_password: bool) -> Result<()> {
        check_realm(&Url::parse(realm).unwrap(), &Registrar { name: "x.example", address, token }, with_password)
    }

    #[test]
    fn a_password_goes_to_the_registry_itself_and_to_the_token_service_that_is_named_for_it() {
        let sent = [
            ("https://ghcr.io/token", "ghcr.io", None),
            ("https://ghcr.io/token", "ghcr.io:443", None),
            ("https://x.example:5000/token", "x.example:5000", None),
            ("https://auth.docker.io/token", "registry-1.docker.io", None),
            ("https://gitlab.com/jwt/auth", "registry.gitlab.com", None),
            ("https://auth.x.ac.uk/token", "registry.x.ac.uk", Some("https://auth.x.ac.uk")),
            ("https://auth.x.ac.uk/token", "registry.x.ac.uk", Some("https://auth.x.ac.uk/")),
            ("http://127.0.0.1:5000/token", "127.0.0.1:5000", None),
            ("http://127.0.0.1:5001/token", "127.0.0.1:5000", Some("http://127.0.0.1:5001")),
        ];
        for (realm, address, token) in sent {
            assert!(check(realm, address, token, true).is_ok(), "{address} → {realm}");
        }
        let kept = [
            // One suffix, two owners.
            ("https://y.ac.uk/token", "x.ac.uk", None),
            ("https://auth.x.ac.uk/token", "registry.x.ac.uk", None),
            ("https://auth.x.ac.uk.evil.example/token", "registry.x.ac.uk", Some("https://auth.x.ac.uk")),
            ("https://auth.x.ac.uk:444/token", "registry.x.ac.uk", Some("https://auth.x.ac.uk")),
            ("https://ghcr.io:5000/token", "ghcr.io", None),
            ("https://user@evil.example/token", "ghcr.io", None),
            ("https://docker.io/token", "registry-1.docker.io", None),
            ("https://auth.docker.io/token", "ghcr.io", None),
            ("https://gitlab.com/jwt/auth", "registry.gitlab.com:5050", None),
            // Another port of this machine may be another user's.
            ("http://127.0.0.1:5001/token", "127.0.0.1:5000", None),
            ("http://localhost:5000/token", "127.0.0.1:5000", None),
        ];
        for (realm, address, token) in kept {
            let error = check(realm, address, token, true).unwrap_err();
            let report = error.report();
            assert_eq!(error.kind(), Kind::Policy, "{report}");
            assert!(
                report.contains("was not sent") && report.contains("[registries.\"x.example\"] token = "),
                "{report}"
            );
            assert!(check(realm, address, token, false).is_ok(), "without a password: {address} → {realm}");
        }
    }

    #[test]
    fn no_token_is_asked_for_unencrypted_or_on_this_machine_for_another() {
        for (realm, address) in [
            ("http://ghcr.io/token", "ghcr.io"),
            ("https://127.0.0.1/token", "ghcr.io"),
            ("http://169.254.169.254/token", "127.0.0.1:5000"),
            ("ftp://127.0.0.1/token", "127.0.0.1:5000"),
        ] {
            // Nor does the policy open these.
            assert!(check(realm, address, Some(realm), false).is_err(), "{address} → {realm}");
        }
    }
}
