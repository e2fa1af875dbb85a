//! The profiles a run can have: what a payload may do inside its own user namespace.
//!
//! Takes `bundles/<name>/profile.toml`, compiled in; gives a `Profile`; trusts those files (they are tested); refuses
//! names that are none of them.

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::reader::Table;

const SOURCES: [(&str, &str); 2] = [
    ("bundles/batch/profile.toml", include_str!("../../bundles/batch/profile.toml")),
    ("bundles/service/profile.toml", include_str!("../../bundles/service/profile.toml")),
];

/// The names of all profiles, for error messages and completions.
pub const NAMES: [&str; 2] = ["batch", "service"];

/// What a payload may do inside its own user namespace.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Profile {
    /// Its name in policy and on the command line.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Capabilities (without `CAP_`) in the bounding, effective and permitted sets.
    pub capabilities: Vec<String>,
}

impl Profile {
    /// The profile called `name`.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str) -> Result<Self> {
        for (file, text) in SOURCES {
            let profile = Self::parse(file, text)?;
            if profile.name == name {
                return Ok(profile);
            }
        }
        Err(Error::new(Stage::Policy, Kind::Usage, format!("there is no profile called {name}"))
            .hint(format!("profiles are: {}", NAMES.join(", "))))
    }

    fn parse(file: &str, text: &str) -> Result<Self> {
        let mut table = Table::parse(text, file)?;
        let missing = |key: &str| Error::new(Stage::Policy, Kind::Failed, format!("{file} lacks {key}"));
        let profile = Self {
            name: table.string("name")?.ok_or_else(|| missing("name"))?.value,
            description: table.string("description")?.ok_or_else(|| missing("description"))?.value,
            capabilities: table.strings("capabilities")?.ok_or_else(|| missing("capabilities"))?.value,
        };
        table.finish()?;
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_can_be_read_and_batch_has_no_capability() {
        for name in NAMES {
            assert_eq!(Profile::named(name).unwrap().name, name);
        }
        assert!(Profile::named("batch").unwrap().capabilities.is_empty());
        assert_eq!(Profile::named("service").unwrap().capabilities.len(), 7);
        assert_eq!(Profile::named("root").unwrap_err().kind(), Kind::Usage);
    }
}
