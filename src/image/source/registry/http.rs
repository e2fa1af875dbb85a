//! Requests, answers and the words for their failures.
//!
//! Takes requests; gives answers, bodies up to a limit, or why there is none.
//! Trusts nothing of an answer; what it says is shown as its own words, harmless to a terminal.
//! Refuses redirects to an unencrypted address, from elsewhere to this machine, and too many of them.

use std::time::Duration;

use oci_distribution::errors::OciEnvelope;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::Registry;
use super::patience::Failure;
use crate::error::{Error, Kind, Result, Stage};
use crate::image::registry_host::is_loopback;
use crate::text;

const AGENT: &str = concat!("ces/", env!("CARGO_PKG_VERSION"));
/// A registry that says nothing for so long will not say more.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// The longest token or error message that is read.
pub(super) const ANSWER_MAX: u64 = 1 << 20;
/// As many redirects are followed.
const REDIRECTS_MAX: usize = 5;

impl Registry {
    /// Encrypted throughout; passwords and tokens do not go along to another host or port (reqwest leaves them out there).
    pub(super) fn http(&self) -> Result<reqwest::Client> {
        let encrypted = self.upstream.scheme() == "https";
        let elsewhere = !is_loopback(self.upstream.host());
        let redirect = reqwest::redirect::Policy::custom(move |attempt| {
            let to_this_machine = attempt.url().host_str().is_some_and(is_loopback);
            let refused = (encrypted && attempt.url().scheme() != "https") || (elsewhere && to_this_machine);
            if attempt.previous().len() > REDIRECTS_MAX || refused {
                attempt.error("a redirect to an unencrypted address or to this machine, or too many")
            } else {
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .redirect(redirect)
            .read_timeout(SILENCE_MAX)
            .connect_timeout(CONNECT_MAX)
            .https_only(encrypted);
        if !encrypted {
            // No certificates to load either.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        if let Some(ca) = &self.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(ca).map_err(|e| self.unreachable(&e))?;
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|e| self.unreachable(&e))
    }

    /// Sends a request; whatever its status, an answer is one.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        request.send().await.map_err(|e| {
            let error = self.unreachable(&e);
            // A request that cannot be made, or is sent somewhere else than it may go, will not be better later.
            if e.is_builder() || e.is_redirect() { Failure::Final(error) } else { Failure::Passing(error, None) }
        })
    }

    /// What an answer without success means.
    pub(super) async fn failure(&self, response: Response) -> Failure {
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = self.body(response, ANSWER_MAX).await.unwrap_or_default();
        Failure::of(status, &headers, self.status(status, &answer))
    }

    /// An answer's body, up to `max` bytes.
    pub(super) async fn body(&self, mut response: Response, max: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| Failure::Passing(self.unreachable(&e), None))? {
            if (bytes.len() + piece.len()) as u64 > max {
                let why = format!("it answers with more than {max} bytes where a document belongs");
                return Err(Failure::Final(self.lies(&why)));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// A failure by its status; what the registry says is shown as its own words.
    pub(super) fn status(&self, status: StatusCode, answer: &[u8]) -> Error {
        let (image, host) = (&self.reference, self.upstream.host());
        let failed = |what: String| Error::new(Stage::Pull, Kind::Failed, what);
        let error = match status {
            StatusCode::UNAUTHORIZED => match &self.credentials {
                Some(credentials) => {
                    failed(format!("the registry {host} rejected the login of user \"{}\"", credentials.user()))
                        .hint("check user name and token: a token may have expired, or be for another registry")
                }
                None => failed(format!("{image} needs a login at {host}"))
                    .hint("give --username USER and --password-stdin, or --creds FILE; or check the name"),
            },
            StatusCode::FORBIDDEN => match &self.credentials {
                Some(credentials) => failed(format!("user \"{}\" may not read {image} at {host}", credentials.user()))
                    .hint("ask the owner of the image for the right to read it, for this user or token"),
                None => failed(format!("{image} is not public at {host}"))
                    .hint("give --username USER and --password-stdin, or --creds FILE; or check the name"),
            },
            StatusCode::NOT_FOUND => Error::new(Stage::Pull, Kind::Missing, format!("{image} does not exist")).hint(
                "check name and tag; some registries also say this of private images to those who are not logged in",
            ),
            StatusCode::TOO_MANY_REQUESTS => failed(format!("the registry {host} has had too many requests"))
                .hint("wait some minutes; many registries allow more to who logs in (--username)"),
            _ => failed(format!("the registry {host} cannot give {image} now"))
                .hint("try again later, or tell who runs the registry"),
        };
        let message = message_of(answer);
        error.because(if message.is_empty() {
            format!("it answers {status}")
        } else {
            format!("it answers {status}: {message}")
        })
    }

    /// A registry that says what cannot be.
    pub(super) fn lies(&self, why: &str) -> Error {
        let what = format!("the registry {} does not answer as it should", self.upstream.host());
        Error::new(Stage::Pull, Kind::Hostile, what)
            .because(text::neutral_line(why))
            .hint("nothing was kept; tell who runs the registry")
    }

    /// A registry that does not answer.
    pub(super) fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        let what = format!("cannot reach the registry {}", self.upstream.host());
        let (because, hint) = cause(error);
        Error::new(Stage::Pull, Kind::Failed, what).because(because).hint(hint)
    }
}

/// The one cause of a connection that failed, and what to do about it: the innermost error, in words. What the TLS library says of a
/// certificate is known by its text (rustls, `CertificateError`).
fn cause(error: &(dyn std::error::Error + 'static)) -> (String, &'static str) {
    let mut innermost = error;
    let mut is_name = false;
    let mut refused = false;
    while let Some(source) = innermost.source() {
        innermost = source;
        is_name |= innermost.to_string().contains("dns error");
        let io = innermost.downcast_ref::<std::io::Error>();
        refused |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
    }
    let said = text::neutral_line(&innermost.to_string());
    if is_name {
        return (
            format!("its name is not known: {said}"),
            "check the name; on a host without DNS for it, the policy names a mirror ([registries.\"HOST\"] mirror)",
        );
    }
    if refused {
        return (
            "nothing listens there: the connection was refused".to_owned(),
            "check host and port, and whether the registry runs",
        );
    }
    if said.contains("UnknownIssuer") {
        return (
            "its certificate is signed by an authority that this host does not know".to_owned(),
            "name the authority's certificate in the policy: [registries.\"HOST\"] ca = \"/etc/ces/ca.pem\"",
        );
    }
    if said.contains("certificate expired") || said.contains("Expired") {
        let when = expiry(&said).map_or_else(String::new, |day| format!(" on {day}"));
        return (
            format!("its certificate has expired{when}"),
            "tell who runs the registry; if the day is in the future, the clock of this host is wrong",
        );
    }
    if said.contains("not valid for name") || said.contains("NotValidForName") {
        return (
            format!("its certificate is for another name: {said}"),
            "name the registry as its certificate does, or tell who runs it",
        );
    }
    (said, "check the name and the network, and whether a proxy is needed (HTTPS_PROXY)")
}

/// The day of which rustls says "certificate is not valid after N (M seconds ago)", in seconds since 1970.
fn expiry(said: &str) -> Option<String> {
    let (_, after) = said.split_once("not valid after ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    let time = jiff::Timestamp::from_second(digits.parse().ok()?).ok()?;
    Some(time.strftime("%Y-%m-%d").to_string())
}

/// The most that is shown of what a registry says, in characters.
const SHOWN_MAX: usize = 300;

/// What a registry says of a failure: its messages, where it answers as the distribution specification has it ("Error Codes"),
/// or else the beginning of its answer; in one line, harmless to a terminal.
fn message_of(answer: &[u8]) -> String {
    let said = match serde_json::from_slice::<OciEnvelope>(answer) {
        Ok(envelope) if envelope.errors.iter().any(|error| !error.message.is_empty()) => {
            let messages = envelope.errors.into_iter().map(|error| error.message).filter(|message| !message.is_empty());
            messages.collect::<Vec<_>>().join("; ")
        }
        _ => String::from_utf8_lossy(answer).into_owned(),
    };
    let said: String = said.trim().chars().take(SHOWN_MAX).collect();
    text::neutral_line(&said)
}

#[cfg(test)]
mod tests {
    use super::{cause, expiry, message_of};

    #[test]
    fn a_connection_that_fails_has_one_cause_and_a_hint_of_its_own() {
        #[derive(Debug)]
        struct Outer(&'static str, Option<Box<dyn std::error::Error + 'static>>);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.1.as_deref()
            }
        }
        let nested = |text: &'static str, inner: Outer| {
            Outer("error sending request", Some(Box::new(Outer(text, Some(Box::new(inner))))))
        };
        let tls = |said: &'static str| nested("client error (Connect)", Outer(said, None));
        let mut hints = Vec::new();
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (error, because) in [
            (nested("dns error", Outer("no such host", None)), "its name is not known: no such host"),
            (Outer("tcp connect error", Some(Box::new(io))), "nothing listens there: the connection was refused"),
            (
                tls("invalid peer certificate: UnknownIssuer"),
                "its certificate is signed by an authority that this host does not know",
            ),
            (
                tls(
                    "invalid peer certificate: certificate expired: verification time 1764500000 (UNIX), but certificate is not valid after 1700000000 (64500000 seconds ago)",
                ),
                "its certificate has expired on 2023-11-14",
            ),
            (
                tls("invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b"),
                "its certificate is for another name: invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b",
            ),
            (tls("connection reset"), "connection reset"),
        ] {
            let (said, hint) = cause(&error);
            assert_eq!(said, because);
            assert!(!hints.contains(&hint), "{hint}");
            hints.push(hint);
        }
        assert_eq!(expiry("not valid after x"), None);
    }

    #[test]
    fn a_registry_is_quoted_by_its_messages_and_else_by_what_it_answers() {
        let answer = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"1"}},
            {"code":"TOOMANYREQUESTS","message":"slow \u001b[2Jdown"}]}"#;
        assert_eq!(message_of(answer), "manifest unknown; slow \\x1b[2Jdown");
        for (answer, words) in [
            (&b""[..], ""),
            (b" <html>\n502", "<html>\\n502"),
            (br#"{"errors":[]}"#, r#"{"errors":[]}"#),
            (br#"{"errors":[{"code":"NOT_A_CODE","message":"m"}]}"#, "m"),
        ] {
            assert_eq!(message_of(answer), words);
        }
        assert_eq!(message_of(&[b'x'; 1000]).len(), 300);
    }
}
