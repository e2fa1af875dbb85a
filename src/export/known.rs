//! What the site says of itself, of a run's researcher and project: what no run knows, for documents that must have it.
//!
//! Takes the policy's identity and a record; gives names and addresses; trusts the policy; refuses where a fact is not stated, by
//! the key that states it.

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::identity::{Identity, Named, Person, ProjectTitle};
use crate::policy::reader::Rule;
use crate::run::supervisor::record::Record;

/// All of it, for one run.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The name of the site.
    pub name: &'a str,
    /// Its address, which ends in a slash.
    pub url: &'a str,
    /// The address of the licence.
    pub licence: &'a str,
    /// Its name.
    pub licence_name: &'a str,
    /// Who ran.
    pub person: &'a Person,
    /// The project; none: the run had none, or the policy says nothing of it.
    pub project: Option<&'a ProjectTitle>,
    identity: &'a Identity,
}

impl<'a> Known<'a> {
    /// What is known of the run of `record`.
    ///
    /// # Errors
    /// When the policy does not say what it must.
    pub fn of(identity: &'a Identity, record: &Record) -> Result<Self> {
        let person = identity
            .people
            .get(&record.researcher)
            .ok_or_else(|| missing(&format!("people.{}", record.researcher), "who ran"))?;
        let licence = stated(identity.licence.as_ref(), "site.licence", "under which terms its outputs are")?;
        Ok(Self {
            name: stated(identity.name.as_ref(), "site.name", "what the site is called")?,
            url: address(identity)?,
            licence,
            licence_name: identity.licence_name.as_ref().map_or(licence, |rule| rule.value.as_str()),
            person,
            project: record.project.as_ref().and_then(|project| identity.projects.get(project)),
            identity,
        })
    }

    /// An organisation by its key, which the policy was checked for.
    pub fn organisation(&self, key: &str) -> Option<&'a Named> {
        self.identity.organisations.get(key)
    }

    /// Who approves by that name, where the policy says more of them.
    pub fn person_named(&self, name: &str) -> Option<&'a Person> {
        self.identity.person(name)
    }
}

/// The address of the site, which ends in a slash.
///
/// # Errors
/// When the policy does not state it.
pub fn address(identity: &Identity) -> Result<&str> {
    stated(identity.url.as_ref(), "site.url", "under which address runs and images have theirs")
}

fn stated<'a>(rule: Option<&'a Rule<String>>, key: &str, what: &str) -> Result<&'a str> {
    rule.map(|rule| rule.value.as_str()).ok_or_else(|| missing(key, what))
}

/// What a policy does not say.
pub fn missing(key: &str, what: &str) -> Error {
    Error::new(Stage::Policy, Kind::Missing, format!("the policy does not say {what}: {key}"))
        .because("the export must have it, and no run knows it")
        .hint("an administrator adds it to the policy; docs/exports.md says which keys exports use")
}
