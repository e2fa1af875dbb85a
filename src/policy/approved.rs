//! The list of approved images: digest × project × expiry × approver.
//!
//! Takes `approved.toml`; gives the approval that lets an image run for a project; trusts the root-owned file; refuses
//! what is not on the list, what is approved for others, and what has expired.
//!
//! ```toml
//! [[image]]
//! digest = "sha256:…"            # of the manifest, as `ces pull` and `ces images` print it
//! projects = ["projx"]           # or ["*"]
//! expires = 2027-01-31           # the last day; left out: never
//! approver = "A. Person"
//! name = "ghcr.io/lab/tool:1"    # what follows is for people, and may be left out: how it was called,
//! approved = 2026-11-30          # on which day it was approved,
//! request = "req-3fa94c01d2b7"   # on whose request (`ces request`),
//! stack = "sha256:…"             # what was read of it (`ces stack`): another stack is refused
//! note = "table builder"         # and whatever else there is to say
//! ```
//!
//! `ces approve` writes it (`approval::edit`), and so may a person.

use jiff::civil::Date;

use super::document::is_project_name;
use super::reader::{Table, wrong};
use crate::error::{Error, Kind, Result, Stage};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Which image.
    pub digest: String,
    /// For whom; `*`: everyone.
    pub projects: Vec<String>,
    /// The last day it counts.
    pub expires: Option<Date>,
    /// Who approved it.
    pub approver: String,
    /// How the image was called.
    pub name: Option<String>,
    /// On which day it was approved.
    pub approved: Option<Date>,
    /// The request that it answers.
    pub request: Option<String>,
    /// What was read of it, as `ces stack` names it.
    pub stack: Option<String>,
    /// What else there is to say.
    pub note: Option<String>,
    /// Where the list says so.
    pub origin: String,
}

/// An approval is told to end from so many days before its last one.
pub const SOON: i64 = 30;

impl Approval {
    /// Whether it is for `project`.
    pub fn is_for(&self, project: Option<&str>) -> bool {
        self.projects.iter().any(|p| p == "*" || Some(p.as_str()) == project)
    }

    /// Whether it counts on the day `today`.
    pub fn counts_on(&self, today: Date) -> bool {
        self.expires.is_none_or(|last| today <= last)
    }

    /// How many days are left after `today`, if they are few; 0: it ends today.
    pub fn ends_soon(&self, today: Date) -> Option<i64> {
        let days_left = days(today, self.expires?);
        (0..=SOON).contains(&days_left).then_some(days_left)
    }
}

/// How many days there are from `today` to `last`; fewer than none: that many ago.
pub fn days(today: Date, last: Date) -> i64 {
    today.duration_until(last).as_hours() / 24
}

/// The whole list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Approved {
    file: String,
    list: Vec<Approval>,
}

impl Approved {
    /// Reads the list.
    ///
    /// # Errors
    /// When anything in it is unknown or malformed.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let mut top = Table::parse(text, file)?;
        let mut list = Vec::new();
        if let Some(rule) = top.tables("image")? {
            for table in rule.value {
                list.push(read(table)?);
            }
        }
        top.finish()?;
        Ok(Self { file: file.to_owned(), list })
    }

    /// Every approval, in the order of the file.
    pub fn all(&self) -> &[Approval] {
        &self.list
    }

    /// Those of `digest` that are for `project`, the one that ends last first.
    pub fn of<'a>(&'a self, digest: &str, project: Option<&str>) -> Vec<&'a Approval> {
        let mut found: Vec<&Approval> = self.list.iter().filter(|a| a.digest == digest && a.is_for(project)).collect();
        found.sort_by_key(|a| std::cmp::Reverse(a.expires.unwrap_or(Date::MAX)));
        found
    }

    /// That the approval of `digest` ends soon, if it does: to be said while there is time to have it renewed.
    pub fn ends_soon(&self, digest: &str, project: Option<&str>, today: Date) -> Option<String> {
        let approval = self.check(digest, project, today).ok()?;
        let (last, days_left) = (approval.expires?, approval.ends_soon(today)?);
        let whom = project.map_or_else(String::new, |project| format!(" for {project}"));
        let days_left = match days_left {
            0 => "today".to_owned(),
            1 => "tomorrow".to_owned(),
            days_left => format!("in {days_left} days"),
        };
        Some(format!(
            "the approval of this image{whom} ends {days_left}, on {last}; ask {} to renew it",
            approval.approver
        ))
    }

    /// The projects for which `digest` is listed, ended approvals among them.
    pub fn projects_of<'a>(&'a self, digest: &'a str) -> impl Iterator<Item = &'a str> {
        self.list.iter().filter(move |a| a.digest == digest).flat_map(|a| a.projects.iter().map(String::as_str))
    }

    /// The approval that lets `digest` run for `project` on the day `today`.
    ///
    /// # Errors
    /// When there is none: not listed, listed for other projects, or expired, which is said.
    pub fn check(&self, digest: &str, project: Option<&str>, today: Date) -> Result<&Approval> {
        let refuse = |why: String| {
            Error::new(Stage::Policy, Kind::Policy, format!("image {digest} is not approved"))
                .because(why)
                .hint("ask for its approval, naming this digest")
        };
        let listed: Vec<&Approval> = self.list.iter().filter(|a| a.digest == digest).collect();
        if listed.is_empty() {
            return Err(refuse(format!("{} does not list it", self.file)));
        }
        // The one that ends last: nobody is warned of the end of another.
        let for_us = self.of(digest, project);
        if for_us.is_empty() {
            let name = project.unwrap_or("no project");
            return Err(refuse(format!("{} lists it, but not for {name}", self.file)));
        }
        match for_us.iter().find(|a| a.counts_on(today)) {
            Some(approval) => Ok(approval),
            None => {
                let last = for_us.iter().filter_map(|a| a.expires).max().map_or(String::new(), |d| d.to_string());
                Err(refuse(format!("its approval in {} ended on {last}", self.file)))
            }
        }
    }
}

fn read(mut table: Table<'_>) -> Result<Approval> {
    let sha256 = "\"sha256:\" and 64 hexadecimal digits";
    let digest = table.text("digest", sha256, self::digest)?;
    let projects = table.strings("projects")?;
    let expires = table.date("expires")?;
    let approver = table.string("approver")?;
    let name = table.string("name")?;
    let approved = table.date("approved")?;
    let request = table.string("request")?;
    let stack = table.text("stack", sha256, self::digest)?;
    let note = table.string("note")?;
    let place = table.origin("digest");
    table.finish()?;
    let (Some(digest), Some(projects), Some(approver)) = (digest, projects, approver) else {
        return Err(wrong(&place, "belongs to an entry that lacks one of: digest, projects, approver"));
    };
    if let Some(name) = projects.value.iter().find(|name| *name != "*" && !is_project_name(name)) {
        return Err(wrong(&projects.origin, &format!("names \"{name}\", which is not a project's name")));
    }
    Ok(Approval {
        digest: digest.value,
        projects: projects.value,
        expires: expires.map(|rule| rule.value),
        approver: approver.value,
        name: name.map(|rule| rule.value),
        approved: approved.map(|rule| rule.value),
        request: request.map(|rule| rule.value),
        stack: stack.map(|rule| rule.value),
        note: note.map(|rule| rule.value),
        origin: digest.origin.to_string(),
    })
}

/// A digest as the list has it.
pub fn digest(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:")?;
    let plain = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Approved {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = format!(
            "[[image]]\ndigest = \"{digest}\"\nprojects = [\"projx\"]\nexpires = 2026-12-31\napprover = \"A. Person\"\n"
        );
        Approved::parse(&text, "approved.toml").unwrap()
    }

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn an_approval_counts_for_its_digest_its_project_and_until_its_last_day() {
        let (list, good) = (list(), format!("sha256:{}", "a".repeat(64)));
        assert_eq!(list.check(&good, Some("projx"), day("2026-12-31")).unwrap().approver, "A. Person");
        for (digest, project, today, why) in [
            (good.as_str(), Some("projx"), "2027-01-01", "ended on 2026-12-31"),
            (good.as_str(), Some("projy"), "2026-01-01", "not for projy"),
            (good.as_str(), None, "2026-01-01", "not for no project"),
            ("sha256:b", Some("projx"), "2026-01-01", "does not list it"),
        ] {
            let error = list.check(digest, project, day(today)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(error.kind(), Kind::Policy);
        }
    }

    #[test]
    fn an_end_is_told_from_thirty_days_before_and_of_the_approval_that_ends_last() {
        let list = list();
        let good = format!("sha256:{}", "a".repeat(64));
        let approval = list.check(&good, Some("projx"), day("2026-12-01")).unwrap();
        for (today, left) in
            [("2026-11-30", None), ("2026-12-01", Some(30)), ("2026-12-31", Some(0)), ("2027-01-01", None)]
        {
            assert_eq!(approval.ends_soon(day(today)), left, "{today}");
        }
        let entry =
            |end: &str| format!("[[image]]\ndigest = \"{good}\"\nprojects = [\"*\"]\napprover = \"B\"\n{end}\n");
        for (first, second) in [("expires = 2026-12-05", ""), ("", "expires = 2026-12-05")] {
            let two = Approved::parse(&format!("{}{}", entry(first), entry(second)), "a.toml").unwrap();
            assert_eq!(two.check(&good, None, day("2026-12-01")).unwrap().ends_soon(day("2026-12-01")), None);
        }
    }

    #[test]
    fn a_malformed_entry_is_refused_with_its_line() {
        for text in [
            "[[image]]\ndigest = \"sha256:short\"\nprojects = [\"*\"]\napprover = \"x\"\n",
            "[[image]]\nprojects = [\"*\"]\napprover = \"x\"\n",
            "[[image]]\nsigned = true\n",
            "image = 3\n",
        ] {
            assert!(Approved::parse(text, "a.toml").unwrap_err().to_string().contains("a.toml"), "{text}");
        }
    }
}
