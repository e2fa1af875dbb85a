//! Tokens.
//!
//! Takes what a registry offers for logging in; gets a token where that is asked for, or sends the password with each request.
//! Trusts the rules of `challenge` alone on where a password may go.
//! Refuses tokens that could be more than a token in a header.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use serde::Deserialize;

use super::super::challenge::{Challenge, Registrar, check_realm, scope};
use super::Registry;
use super::http::ANSWER_MAX;
use super::patience::{Failure, Offered};
use crate::error::{Error, Result};

/// What goes with each request.
#[derive(Debug, Clone, Default)]
pub(super) enum Login {
    /// Nothing, until the registry asks.
    #[default]
    Nothing,
    /// Name and password.
    Basic,
    /// A token.
    Token(Token),
}

/// A token, and until when it is sent. It is never shown.
#[derive(Clone)]
pub(super) struct Token {
    value: String,
    until: Option<Instant>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Token {
    /// The token of a service's answer, or what is wrong with that.
    fn read(answer: &[u8], now: Instant) -> Result<Self, String> {
        let answer: TokenAnswer = serde_json::from_slice(answer).map_err(|e| format!("its token is malformed: {e}"))?;
        let named = [answer.token, answer.access_token].into_iter().flatten();
        let value = named.into_iter().find(|token| !token.is_empty()).ok_or("its token is empty")?;
        // RFC 6750, section 2.1, and whatever else is printed and no blank: some services write JSON or UUIDs with braces.
        if !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("its token has characters that no token has".to_owned());
        }
        let seconds = match answer.expires_in {
            Some(serde_json::Value::Number(number)) => number.as_u64(),
            Some(serde_json::Value::String(text)) => text.parse().ok(),
            _ => None,
        };
        // What is not said is tried until it is refused.
        let until = seconds.and_then(|seconds| now.checked_add(Duration::from_secs(seconds)));
        Ok(Self { value, until })
    }

    /// Whether it may still be worth sending.
    pub(super) fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// The token itself.
    pub(super) fn value(&self) -> &str {
        &self.value
    }
}

/// What a token service answers: distribution's "token" or OAuth 2's "access_token" (RFC 6749, section 5.1), or both.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

impl Registry {
    /// Does what the registry asks for.
    ///
    /// # Errors
    /// `refused`, if it asks for what is not known or not there; when there is no token to be had, or where it is to be had is
    /// no place for the password.
    pub(super) async fn log_in(
        &self,
        http: &Client,
        offered: &Offered,
        refused: Error,
        ask: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<()> {
        let login = match Challenge::choose(offered.iter().map(String::as_str)) {
            Some(Challenge::Basic) if self.credentials.is_some() => Login::Basic,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let url = self.token_address(&realm, service.as_deref(), scope.as_deref())?;
                let mut patience = self.patience();
                loop {
                    match self.token(http, url.clone()).await {
                        Ok(token) => break Login::Token(token),
                        Err(Failure::Passing(error, asked)) => self.wait(&mut patience, error, asked, ask).await?,
                        Err(Failure::Unauthorized(error, _) | Failure::Final(error)) => return Err(error),
                    }
                }
            }
            _ => return Err(refused),
        };
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
        Ok(())
    }

    /// Where a token is to be had, if a token may be asked for there.
    fn token_address(&self, realm: &str, service: Option<&str>, offered: Option<&str>) -> Result<Url> {
        let mut url = Url::parse(realm).map_err(|e| self.lies(&format!("it sends to \"{realm}\" for a token: {e}")))?;
        let (name, address) = (self.reference.host(), self.upstream.host());
        let registrar = Registrar { name, address, token: self.token_service.as_deref() };
        check_realm(&url, &registrar, self.credentials.is_some())?;
        let scope = scope(&self.upstream.repository(self.reference.repository()), offered);
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        Ok(url)
    }

    async fn token(&self, http: &Client, url: Url) -> Result<Token, Failure> {
        let mut request = http.get(url);
        if let Some(credentials) = &self.credentials {
            request = request.basic_auth(credentials.user(), Some(credentials.password()));
        }
        let response = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self.failure(response).await);
        }
        let answer = self.body(response, ANSWER_MAX).await?;
        Token::read(&answer, Instant::now()).map_err(|why| Failure::Final(self.lies(&why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_names_and_may_end() {
        let now = Instant::now();
        let read = |text: &str| Token::read(text.as_bytes(), now).map(|token| (token.value, token.until));
        let until = |seconds| Some(now + Duration::from_secs(seconds));
        for (text, value, end) in [
            (r#"{"token":"a"}"#, "a", None),
            (r#"{"access_token":"b","token_type":"Bearer"}"#, "b", None),
            (
                r#"{"token":"a","access_token":"b","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#,
                "a",
                until(300),
            ),
            (r#"{"token":"","access_token":"b","expires_in":"60"}"#, "b", until(60)),
            (r#"{"token":null,"access_token":"b","expires_in":null}"#, "b", None),
            (r#"{"token":"a.b-c_d~e+f/g==","expires_in":-1}"#, "a.b-c_d~e+f/g==", None),
            (r#"{"token":"a","expires_in":18446744073709551615}"#, "a", None),
        ] {
            assert_eq!(read(text).unwrap(), (value.to_owned(), end), "{text}");
        }
        for text in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":1}"#,
            r#"{"token":"a b"}"#,
            r#"{"token":"a\r\nX: y"}"#,
            r#"{"token":"é"}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token { value: "hunter2".to_owned(), until: None };
        assert!(!format!("{:?}", Login::Token(token)).contains("hunter2"));
    }
}
