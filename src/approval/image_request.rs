//! A request for the approval of an image: who asks, for which project, which digest, why, and what became of it.
//!
//! Takes what a researcher says; gives a document of bounded size; trusts nothing of it to be harmless: texts are made so before
//! they are kept, for whoever reads them is root; refuses ids that are none.

use std::fmt;
use std::fs::File;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};
use crate::text;

/// No reason and no note is longer, in characters.
pub const LONGEST: usize = 1000;

/// The name of a request: `req-` and twelve hexadecimal digits, which nobody can guess.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(String);

impl RequestId {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> Result<Self> {
        let mut bytes = [0; 6];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot get a random number for a request").because(e))?;
        Ok(Self(format!("req-{}", crate::evidence::line::hex(&bytes))))
    }

    /// Whether a caller means a request by this name.
    pub fn is_meant(name: &str) -> bool {
        name.starts_with("req-")
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is none; so it is always the name of a file, and never a way to another place.
    pub fn parse(name: &str) -> Result<Self> {
        let digits = name.strip_prefix("req-").unwrap_or_default();
        if digits.len() == 12 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(name.to_owned()));
        }
        let short: String = name.chars().take(60).collect();
        Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{short}\" is not the name of a request"))
            .hint("requests are called req- and twelve hexadecimal digits; ces request list lists them"))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RequestId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has decided.
    Open,
    /// The image was approved.
    Approved,
    /// It was not.
    Declined,
    /// Who asked took it back.
    Withdrawn,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Declined => "declined",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Who decided, and what there is to say about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// The login name.
    pub by: String,
    /// When (UTC, RFC 3339).
    pub at: String,
    /// The last day of the approval; none: it does not end, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Version of this format.
    pub version: u32,
    /// Its name.
    pub id: RequestId,
    /// Who asks, as a user id of the host.
    pub uid: u32,
    /// Their login name.
    pub user: String,
    /// For which project; none: they have no project's data.
    pub project: Option<String>,
    /// How they call the image.
    pub image: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Whether it was in the store, and theirs to see, when they asked.
    pub in_store: bool,
    /// Why.
    pub reason: String,
    /// When (UTC, RFC 3339).
    pub asked: String,
    /// What became of it.
    pub state: State,
    /// By whom and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
}

/// A text of a caller's for others to read: one line, harmless, and not too long.
///
/// # Errors
/// When there is nothing in it, or too much.
pub fn told(option: &str, value: &str) -> Result<String> {
    let wrong = |what: String| {
        Error::new(Stage::Cli, Kind::Usage, what)
            .hint(format!("write a sentence: --{option} \"for the tables of paper 3\""))
    };
    let harmless = text::neutral_line(value.trim());
    match harmless.chars().count() {
        0 => Err(wrong(format!("--{option} says nothing"))),
        length if length > LONGEST => Err(wrong(format!("--{option} is longer than {LONGEST} characters"))),
        _ => Ok(harmless),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_request_is_never_a_path() {
        assert!(RequestId::parse(RequestId::new().unwrap().as_str()).is_ok());
        for name in [
            "req-",
            "req-../../../../x",
            "req-00000000000/",
            "req-0123456789AB",
            "../req-0123456789ab",
            "req-0123456789abc",
            "",
        ] {
            assert_eq!(RequestId::parse(name).unwrap_err().kind(), Kind::Usage, "{name}");
        }
        assert!(serde_json::from_str::<RequestId>("\"req-/etc/passwd\"").is_err());
    }

    #[test]
    fn a_reason_is_one_harmless_line_of_bounded_length() {
        assert_eq!(
            told("reason", " for\tpaper 3\n\x1b]52;c;x\x07 \u{202e}").unwrap(),
            "for paper 3\\n\\x1b]52;c;x\\x07 \\u{202e}"
        );
        assert!(told("reason", " \n\t").is_err() && told("reason", &"x".repeat(1001)).is_err());
        // What grows by being made harmless is measured afterwards.
        assert!(told("reason", &"\u{1b}".repeat(400)).is_err());
    }
}
