//! A run's id.

use std::fmt;
use std::fs::File;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, Stage};

/// A job's id: `20261122T143015-7f3a9c`, sortable and unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct JobId(String);

impl JobId {
    /// A new id: the time (UTC), and six random hexadecimal digits.
    ///
    /// # Errors
    /// When the kernel gives no random bytes.
    pub fn new() -> Result<Self> {
        let mut random = [0; 3];
        File::open("/dev/urandom")
            .and_then(|mut f| f.read_exact(&mut random))
            .map_err(|e| Error::new(Stage::Run, Kind::Failed, "cannot get random numbers for a run's id").because(e))?;
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S");
        Ok(Self(format!("{now}-{:02x}{:02x}{:02x}", random[0], random[1], random[2])))
    }

    /// An id given by a person or a file name.
    ///
    /// # Errors
    /// When it does not look like one.
    pub fn parse(text: &str) -> Result<Self> {
        let well_formed =
            !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if well_formed {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{text}\" is not a run's id")).hint("ces runs lists them"))
    }

    /// The id as a text of its own.
    pub fn into_string(self) -> String {
        self.0
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::request;

    #[test]
    fn a_new_id_has_the_form_that_no_name_may_have() {
        let id = JobId::new().unwrap();
        assert!(request::is_run_id(id.as_str()) && request::run_name(id.as_str()).is_err(), "{id}");
    }
}
