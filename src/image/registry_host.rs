//! The name of a registry's host, in the one form that is compared.
//!
//! Takes what a user or the policy wrote; gives `host` or `host:port` in lower case, without the port that https has anyway.
//! Trusts nothing: two spellings of one host must not be two entries of an allow list, and one spelling never two hosts.
//! Refuses a trailing dot, letters beyond ASCII, and numbers that the URL parser would read as another address.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest label of a domain name (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// The canonical form of `text`, or why it names no registry's host.
///
/// * Letters become lower case (RFC 4343: domain names are compared without regard to case).
/// * `:443` is left out, except on this machine, which is spoken to over plain http; leading zeros of a port are too.
/// * `ghcr.io.` is refused: rooted, it is the same host for DNS and another for certificates and lists.
/// * Letters beyond ASCII are refused: `xn--…` (RFC 5890) shows that a name is not what it looks like.
/// * `127.1`, `0x7f.0.0.1`: the URL standard ("ends in a number") reads these as IPv4 addresses, so they are refused.
///
/// # Errors
/// The reason, to follow "because:".
pub fn canonical(text: &str) -> Result<String, &'static str> {
    if !text.is_ascii() {
        return Err("the host has letters beyond ASCII; write it as its registrar does (xn--…)");
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the host is no IPv6 address in brackets")?;
            let address: Ipv6Addr = address.parse().map_err(|_| "the host is no IPv6 address in brackets")?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or("something other than a port follows the address")?),
            };
            (format!("[{address}]"), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            (domain(name)?, port)
        }
    };
    let Some(port) = port else { return Ok(name) };
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let port =
        port.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or("the port is no number up to 65535")?;
    Ok(if port == 443 && !is_loopback(&name) { name } else { format!("{name}:{port}") })
}

/// A domain name or an IPv4 address, in lower case.
fn domain(name: &str) -> Result<String, &'static str> {
    if name.ends_with('.') {
        return Err("the host ends with a dot; leave it out");
    }
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let label = |label: &str| {
        label.len() <= LABEL_MAX
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && alphanumeric(label.chars().next())
            && alphanumeric(label.chars().last())
    };
    if !name.split('.').all(label) {
        return Err("the registry host is malformed");
    }
    let name = name.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if (hex || last.bytes().all(|b| b.is_ascii_digit())) && name.parse::<Ipv4Addr>().is_err() {
        return Err("the host ends in a number and is no IPv4 address of four numbers");
    }
    Ok(name)
}

/// Whether `host` (with or without port) is this machine: the only ones spoken to without TLS.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn one_host_has_one_form() {
        let table = [
            ("ghcr.io", "ghcr.io"),
            ("GHCR.io", "ghcr.io"),
            ("GhCr.IO:5000", "ghcr.io:5000"),
            ("ghcr.io:443", "ghcr.io"),
            ("ghcr.io:0443", "ghcr.io"),
            ("ghcr.io:80", "ghcr.io:80"),
            ("LOCALHOST:5000", "localhost:5000"),
            // Plain http on a port of its own.
            ("localhost:443", "localhost:443"),
            ("127.0.0.1:443", "127.0.0.1:443"),
            ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
            ("[2001:DB8::1]:443", "[2001:db8::1]"),
            ("XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"),
        ];
        for (text, form) in table {
            assert_eq!(canonical(text).as_deref(), Ok(form), "{text}");
            assert_eq!(canonical(form).as_deref(), Ok(form));
            let as_url = reqwest::Url::parse(&format!("https://{form}/")).unwrap();
            let host = form.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(form, |(host, _)| host);
            assert_eq!(as_url.host_str(), Some(host), "a URL has the same host");
        }
    }

    #[test]
    fn a_host_of_two_meanings_is_refused() {
        let malformed =
            ["", ".", "a..b", "-a", "a-", "a_b", "a b", "a/b", "u@a", "a:", "a:0", "a:65536", "a:+1", "a:1:2"];
        let meanings =
            ["ghcr.io.", "münchen.example", "ghcr。io", "127.1", "0x7f.0.0.1", "a.0x1", "2130706433", "127.0.0.01"];
        let addresses = ["[::1", "[::1]x", "[127.0.0.1]", "[::1%eth0]", "::1"];
        for text in malformed.iter().chain(&meanings).chain(&addresses) {
            assert!(canonical(text).is_err(), "{text}");
        }
        assert!(canonical(&"a".repeat(64)).is_err());
    }
}
