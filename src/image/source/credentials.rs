//! Who one is at a registry.
//!
//! Takes a file or standard input; gives a name and a password.
//! Trusts the file's owner, if it is the caller or root and nobody else may read it.
//! Refuses files that others can read, and empty passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;

use super::layout::open_regular;
use crate::error::{Error, Kind, Result, Stage};

/// A user's name and password at a registry; the password is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

#[derive(Deserialize)]
struct AuthFile {
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
}

impl Credentials {
    /// A name and a password.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    /// The name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password or token.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// A password on the first line of `input`.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_reader(user: &str, input: impl BufRead) -> Result<Self> {
        let mut line = String::new();
        input.take(64 << 10).read_line(&mut line).map_err(|e| {
            Error::new(Stage::Cli, Kind::Failed, "cannot read the password from standard input").because(e)
        })?;
        let password = line.trim_end_matches(['\n', '\r']);
        if password.is_empty() {
            return Err(Error::new(Stage::Cli, Kind::Usage, "the password on standard input is empty"));
        }
        Ok(Self::new(user, password))
    }

    /// The entry for `host` in a file as docker and podman write it, or a file of one line `user:password`.
    ///
    /// # Errors
    /// When the file cannot be read, can be read by others, or has no entry for the host.
    pub fn from_file(path: &Path, host: &str) -> Result<Self> {
        let what = || format!("cannot use the credentials in {}", path.display());
        let fail = |why: String| Error::new(Stage::Cli, Kind::Usage, what()).because(why);
        // What is no file may be the token itself, and is not shown.
        let file = open_regular(path).map_err(|error| {
            let why = error.causes().first().cloned().unwrap_or_default();
            Error::new(Stage::Cli, error.kind(), "cannot read the file that --creds names").because(why).hint(
                "--creds takes the path of a file with one line USER:TOKEN; a token is never given on the command line",
            )
        })?;
        let metadata = file.metadata().map_err(|e| fail(e.to_string()))?;
        if metadata.mode() & 0o077 != 0 {
            return Err(fail("others can read it".to_owned()).hint(format!("chmod 600 {}", path.display())));
        }
        let mut text = String::new();
        file.take(1 << 20).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
        let pair = if text.trim_start().starts_with('{') {
            let file: AuthFile = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
            let entry = [host.to_owned(), format!("https://{host}"), format!("https://{host}/v1/")]
                .iter()
                .find_map(|key| file.auths.get(key))
                .and_then(|entry| entry.auth.as_deref())
                .ok_or_else(|| {
                    fail(format!("it has no entry for {host}"))
                        .hint("credential helpers are not called; log in to a file")
                })?;
            base64(entry)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| fail("the entry is malformed".to_owned()))?
        } else {
            text.lines().next().unwrap_or_default().to_owned()
        };
        match pair.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(Self::new(user, password)),
            _ => Err(fail("it is neither an auth.json nor a line user:password".to_owned())),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Standard base64, padded or not (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(base64("dXNlcjpwYXNz").unwrap(), b"user:pass");
        assert_eq!(base64("dTpwdw==").unwrap(), b"u:pw");
        assert_eq!(base64("dTpwdw").unwrap(), b"u:pw");
        assert_eq!(base64("d*"), None);
    }

    #[test]
    fn a_password_is_never_shown() {
        assert!(!format!("{:?}", Credentials::new("eve", "hunter2")).contains("hunter2"));
    }
}
