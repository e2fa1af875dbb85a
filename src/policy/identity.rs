//! What exports say of the site, its organisations, people and projects: names and addresses that no run knows (`[site]`,
//! `[organisations.KEY]`, `[people.LOGIN]`, `[projects.NAME]`).
//!
//! Takes tables of the policy; gives names and IRIs (RFC 3987); trusts nothing in them; refuses an address that is none, and a key that
//! no organisation has. All of it may be left out: an export that needs a fact which is not there says so, by its key.

use std::collections::BTreeMap;

use super::reader::{Origin, Rule, Table, wrong};
use crate::error::Result;

/// What an address looks like, for errors.
const IRI_FORM: &str =
    "an address such as \"https://ror.org/01nrxwf90\": https:// or http://, without spaces and quotes";
/// The same of one under which others are made.
const BASE_FORM: &str = "an address that ends in a slash, such as \"https://tre.example.ac.uk/\"";

/// All that is stated.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// The name of the site.
    pub name: Option<Rule<String>>,
    /// The address under which runs, images and projects have theirs; it ends in a slash.
    pub url: Option<Rule<String>>,
    /// The address of the licence of what is exported, or of the terms that stand for one.
    pub licence: Option<Rule<String>>,
    /// The name of that licence.
    pub licence_name: Option<Rule<String>>,
    /// Organisations by the keys that people and projects name them by.
    pub organisations: BTreeMap<String, Named>,
    /// People by their login names.
    pub people: BTreeMap<String, Person>,
    /// Projects by their names.
    pub projects: BTreeMap<String, ProjectTitle>,
}

/// A name and an address, of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its address.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where the policy says so.
    pub origin: Origin,
}

/// A researcher, or who approves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Their address: an ORCID, or one of the site's.
    pub id: String,
    /// Their name.
    pub name: String,
    /// The key of their organisation.
    pub affiliation: Option<String>,
    /// Where the policy says so.
    pub origin: Origin,
}

/// A project as others know it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProjectTitle {
    /// Its title.
    pub title: Option<Rule<String>>,
    /// The keys of the organisations that take part, the first one first.
    pub members: Option<Rule<Vec<String>>>,
    /// The address of its grant.
    pub grant: Option<Rule<String>>,
    /// The name of its grant.
    pub grant_name: Option<Rule<String>>,
}

impl Identity {
    /// Reads the keys of `[site]` that are about its name.
    ///
    /// # Errors
    /// When one is of another form.
    pub fn read_site(&mut self, table: &mut Table<'_>) -> Result<()> {
        self.name = not_empty(table, "name")?;
        self.url = table.text("url", BASE_FORM, |text| iri(text).filter(|text| text.ends_with('/')))?;
        self.licence = table.text("licence", IRI_FORM, iri)?;
        self.licence_name = not_empty(table, "licence_name")?;
        Ok(())
    }

    /// Reads `[organisations]`, before what names them.
    ///
    /// # Errors
    /// When one is of another form, or lacks a key.
    pub fn read_organisations(&mut self, mut table: Table<'_>) -> Result<()> {
        for (key, origin, mut table) in table.named_tables()? {
            let (id, name) = (table.text("id", IRI_FORM, iri)?, not_empty(&mut table, "name")?);
            table.finish()?;
            let (Some(id), Some(name)) = (id, name) else { return Err(lacks(&origin)) };
            self.organisations.insert(key, Named { id: id.value, name: name.value, origin });
        }
        Ok(())
    }

    /// Reads `[people]`.
    ///
    /// # Errors
    /// When one is of another form, lacks a key, or names an organisation that is not listed.
    pub fn read_people(&mut self, mut table: Table<'_>) -> Result<()> {
        for (login, origin, mut table) in table.named_tables()? {
            let (id, name) = (table.text("id", IRI_FORM, iri)?, not_empty(&mut table, "name")?);
            let affiliation = table.string("affiliation")?;
            table.finish()?;
            let (Some(id), Some(name)) = (id, name) else { return Err(lacks(&origin)) };
            if let Some(rule) = &affiliation {
                self.known(&rule.value, &rule.origin)?;
            }
            let affiliation = affiliation.map(|rule| rule.value);
            self.people.insert(login, Person { id: id.value, name: name.value, affiliation, origin });
        }
        Ok(())
    }

    /// Reads the keys of a project's table that are about its title.
    ///
    /// # Errors
    /// When one is of another form, or names an organisation that is not listed.
    pub fn read_project(&mut self, name: &str, table: &mut Table<'_>) -> Result<()> {
        let read = ProjectTitle {
            title: not_empty(table, "title")?,
            members: table.strings("members")?,
            grant: table.text("grant", IRI_FORM, iri)?,
            grant_name: not_empty(table, "grant_name")?,
        };
        if let Some(rule) = &read.members {
            if rule.value.is_empty() {
                return Err(wrong(&rule.origin, "must name at least one organisation"));
            }
            rule.value.iter().try_for_each(|key| self.known(key, &rule.origin))?;
        }
        if read != ProjectTitle::default() {
            self.projects.insert(name.to_owned(), read);
        }
        Ok(())
    }

    fn known(&self, key: &str, origin: &Origin) -> Result<()> {
        if self.organisations.contains_key(key) {
            return Ok(());
        }
        Err(wrong(origin, &format!("names \"{key}\", and there is no [organisations.{key}]")))
    }

    /// Who has that name: by login, or by the name that is stated for them.
    pub fn person(&self, name: &str) -> Option<&Person> {
        self.people.get(name).or_else(|| self.people.values().find(|person| person.name == name))
    }

    /// Everything that is stated, a line each: what, value, where.
    pub fn lines(&self) -> Vec<(String, String, &Origin)> {
        let mut out = Vec::new();
        let rules = [
            ("site name", &self.name),
            ("site url", &self.url),
            ("licence of exports", &self.licence),
            ("name of that licence", &self.licence_name),
        ];
        for (what, rule) in rules {
            out.extend(rule.as_ref().map(|rule| (what.to_owned(), rule.value.clone(), &rule.origin)));
        }
        for (key, Named { id, name, origin }) in &self.organisations {
            out.push((format!("organisation {key}"), format!("{name}, {id}"), origin));
        }
        for (login, Person { id, name, affiliation, origin }) in &self.people {
            let of = affiliation.as_ref().map_or_else(String::new, |key| format!(" of {key}"));
            out.push((format!("person {login}"), format!("{name}{of}, {id}"), origin));
        }
        for (project, ProjectTitle { title, members, grant, grant_name }) in &self.projects {
            let what = format!("project {project}");
            for rule in [title, grant, grant_name].into_iter().flatten() {
                out.push((what.clone(), rule.value.clone(), &rule.origin));
            }
            out.extend(members.as_ref().map(|rule| (what.clone(), rule.value.join(", "), &rule.origin)));
        }
        out
    }
}

/// A text that says something.
fn not_empty(table: &mut Table<'_>, key: &'static str) -> Result<Option<Rule<String>>> {
    table.text(key, "a text that is not empty", |text| (!text.trim().is_empty()).then(|| text.to_owned()))
}

/// An address, if it is one: what RFC 3987 has in one, of the two schemes that identifiers in crates have.
fn iri(text: &str) -> Option<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !"<>\"{}|\\^`'".contains(c);
    let host = rest.split('/').next().unwrap_or_default();
    (!host.is_empty() && rest.chars().all(plain) && text.is_ascii()).then(|| text.to_owned())
}

fn lacks(origin: &Origin) -> crate::error::Error {
    wrong(origin, "lacks one of: id, name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_can_be_an_identifier() {
        for good in ["https://ror.org/01nrxwf90", "http://a/", "https://gtr.ukri.org/projects?ref=MR%2F1#x"] {
            assert_eq!(iri(good).as_deref(), Some(good));
        }
        for bad in [
            "",
            "ror.org/0",
            "javascript:alert(1)",
            "https://",
            "https:///x",
            "https://a b",
            "https://a\"b",
            "https://é",
        ] {
            assert_eq!(iri(bad), None, "{bad}");
        }
    }
}
