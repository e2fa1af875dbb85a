//! The text of the list of approved images with one thing changed.
//!
//! Takes the text as it is and what is to change; gives the new text; trusts nothing: who calls reads the result as a list
//! (`policy::approved`) before it is one; refuses a text that is no TOML document of `[[image]]` tables. Comments, keys that are not
//! known here, order and spacing stay, for `toml_edit` keeps them: what is not changed is the same to the byte.

use jiff::civil::Date;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use crate::error::{Error, Kind, Result, Stage};

const IMAGE: &str = "image";

/// A new approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which image.
    pub digest: String,
    /// How it is called.
    pub name: Option<String>,
    /// For whom; `*`: everyone.
    pub projects: Vec<String>,
    /// On which day it is approved.
    pub approved: Date,
    /// The last day that it counts.
    pub expires: Option<Date>,
    /// Who approves it.
    pub approver: String,
    /// The request that it answers.
    pub request: Option<String>,
    /// What was read of it, as `ces stack` names it.
    pub stack: Option<String>,
    /// What else there is to say.
    pub note: Option<String>,
}

/// The list with `entry` at its end.
///
/// # Errors
/// When the text is no list.
pub fn add(text: &str, entry: &Entry) -> Result<String> {
    let mut document = parse(text)?;
    let mut table = Table::new();
    table.insert("digest", value(&entry.digest));
    let mut optional = |key: &str, text: &Option<String>| {
        if let Some(text) = text {
            table.insert(key, value(text));
        }
    };
    optional("name", &entry.name);
    optional("request", &entry.request);
    optional("stack", &entry.stack);
    optional("note", &entry.note);
    table.insert("projects", value(Array::from_iter(&entry.projects)));
    table.insert("approved", day(entry.approved)?);
    if let Some(last) = entry.expires {
        table.insert("expires", day(last)?);
    }
    table.insert("approver", value(&entry.approver));
    // What stands after the last entry stays after it, and before this one: it is not this one's.
    let after = document.trailing().as_str().unwrap_or_default().to_owned();
    let first = document.get(IMAGE).is_none();
    let before = match (first && after.is_empty(), after.ends_with("\n\n")) {
        (true, _) | (_, true) => after,
        (false, false) => format!("{after}\n"),
    };
    table.decor_mut().set_prefix(before);
    document.set_trailing("");
    if first {
        document.insert(IMAGE, Item::ArrayOfTables(ArrayOfTables::new()));
    }
    images(&mut document)?.push(table);
    Ok(document.to_string())
}

/// The list without the approvals of `digest` for `project` (none: for anybody), and how many entries were changed. An entry for
/// other projects as well stays for those.
///
/// # Errors
/// When the text is no list.
pub fn revoke(text: &str, digest: &str, project: Option<&str>) -> Result<(String, usize)> {
    let mut document = parse(text)?;
    if document.get(IMAGE).is_none() {
        return Ok((text.to_owned(), 0));
    }
    let list = images(&mut document)?;
    let (mut changed, mut at) = (0, 0);
    let mut comments = String::new();
    while let Some(table) = list.get_mut(at) {
        if is_of(table, digest, project) {
            changed += 1;
            let stay = project.is_some_and(|project| without(table, project));
            if !stay {
                comments.push_str(kept_comments(table));
                list.remove(at);
                continue;
            }
        }
        if !comments.is_empty() {
            let own = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
            let both = format!("{comments}{own}");
            table.decor_mut().set_prefix(both);
            comments.clear();
        }
        at += 1;
    }
    let trailing = format!("{comments}{}", document.trailing().as_str().unwrap_or_default());
    document.set_trailing(trailing);
    Ok((document.to_string(), changed))
}

/// The list in which the approvals of `digest` for `project` (none: for anybody) end after `last`, and how many entries were
/// changed. Of an entry for other projects as well only that one project's share ends then: it gets an entry of its own.
///
/// # Errors
/// When the text is no list.
pub fn renew(text: &str, digest: &str, project: Option<&str>, last: Date) -> Result<(String, usize)> {
    let mut document = parse(text)?;
    if document.get(IMAGE).is_none() {
        return Ok((text.to_owned(), 0));
    }
    let list = images(&mut document)?;
    let mut own = Vec::new();
    let mut changed = 0;
    for table in list.iter_mut().filter(|table| is_of(table, digest, project)) {
        changed += 1;
        match project {
            Some(project) if projects(table).len() > 1 => {
                let mut share = table.clone();
                share.set_position(None);
                share.decor_mut().set_prefix("\n");
                share.insert("projects", value(Array::from_iter([project])));
                without(table, project);
                own.push(share);
            }
            _ => set_day(table, last)?,
        }
    }
    for mut share in own {
        set_day(&mut share, last)?;
        list.push(share);
    }
    Ok((document.to_string(), changed))
}

fn parse(text: &str) -> Result<DocumentMut> {
    text.parse().map_err(|e: toml_edit::TomlError| wrong("it is not valid TOML").because(e.message()))
}

fn wrong(why: &str) -> Error {
    Error::new(Stage::Policy, Kind::Policy, "the list of approved images cannot be changed")
        .because(why)
        .hint("correct it by hand; docs/policy.toml shows how it is written")
}

fn images(document: &mut DocumentMut) -> Result<&mut ArrayOfTables> {
    document
        .get_mut(IMAGE)
        .and_then(Item::as_array_of_tables_mut)
        .ok_or_else(|| wrong("its entries are not written as [[image]]"))
}

/// A day as TOML writes it.
fn day(date: Date) -> Result<Item> {
    let day = date.to_string().parse::<toml_edit::Datetime>();
    day.map(value).map_err(|e| wrong("the day cannot be written").because(e))
}

/// Sets the last day, and keeps what is said beside it.
fn set_day(table: &mut Table, last: Date) -> Result<()> {
    let mut new = day(last)?;
    if let (Some(old), Some(new)) = (table.get("expires").and_then(Item::as_value), new.as_value_mut()) {
        *new.decor_mut() = old.decor().clone();
    }
    match table.get_mut("expires") {
        Some(item) => *item = new,
        None => {
            table.insert("expires", new);
        }
    }
    Ok(())
}

fn projects(table: &Table) -> Vec<String> {
    let listed = table.get("projects").and_then(Item::as_array);
    listed.into_iter().flatten().filter_map(|project| project.as_str().map(str::to_owned)).collect()
}

fn is_of(table: &Table, digest: &str, project: Option<&str>) -> bool {
    table.get("digest").and_then(Item::as_str) == Some(digest)
        && project.is_none_or(|project| projects(table).iter().any(|p| p == project))
}

/// Takes a project out of an entry; says whether others are left in it.
fn without(table: &mut Table, project: &str) -> bool {
    if let Some(listed) = table.get_mut("projects").and_then(Item::as_array_mut) {
        listed.retain(|p| p.as_str() != Some(project));
    }
    !projects(table).is_empty()
}

/// Of the comments before an entry those that are not about it alone: what an empty line stands after.
fn kept_comments(table: &Table) -> &str {
    let before = table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
    before
        .rfind("\n\n")
        .and_then(|end| before.get(..end + 1))
        .filter(|kept| !kept.trim().is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::approved::Approved;
    use proptest::prelude::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn list() -> String {
        format!(
            "# The list of the safe haven.\n# Ask IG before you change it.\n\n# the table builder\n[[image]]\n\
             digest = \"{A}\" # 1.2\nprojects = [\"projx\",  \"projy\"]\nfuture = {{ x = 1 }}   # of a later ces\n\
             expires = 2026-12-31 # end of the grant\napprover = \"IG\"\n\n# for everybody\n[[image]]\ndigest = \"{B}\"\n\
             projects = [\"*\"]\napprover = \"IG\"\n# end of the list\n"
        )
    }

    fn entry(digest: &str, projects: &[&str]) -> Entry {
        Entry {
            digest: digest.to_owned(),
            name: Some("ghcr.io/lab/tool:1".to_owned()),
            projects: projects.iter().map(|p| (*p).to_owned()).collect(),
            approved: "2026-11-30".parse().unwrap(),
            expires: Some("2027-01-31".parse().unwrap()),
            approver: "A. Person".to_owned(),
            request: None,
            stack: Some(B.to_owned()),
            note: Some("says \"quoted\"\n[[image]]\ndigest = 'x'".to_owned()),
        }
    }

    #[test]
    fn what_is_added_comes_last_and_everything_else_stays_to_the_byte() {
        let new = add(&list(), &entry(A, &["projz"])).unwrap();
        assert!(new.starts_with(&list()), "{new}");
        let read = Approved::parse(&new.replace("future = { x = 1 }   # of a later ces\n", ""), "a.toml").unwrap();
        let [_, _, added] = read.all() else { panic!("{new}") };
        assert_eq!((added.digest.as_str(), added.projects.as_slice()), (A, ["projz".to_owned()].as_slice()));
        assert_eq!(added.note, entry(A, &[]).note, "a text is a text, whatever is in it");
        assert_eq!(added.stack.as_deref(), Some(B));
        let first = add("", &entry(A, &["*"])).unwrap();
        assert!(first.starts_with("[[image]]\n"), "{first}");
        assert_eq!(Approved::parse(&first, "a.toml").unwrap().all().len(), 1);
        let header = add("# only a comment\n", &entry(A, &["*"])).unwrap();
        assert!(header.starts_with("# only a comment\n\n[[image]]"), "{header}");
    }

    #[test]
    fn what_is_revoked_goes_with_its_own_comment_and_no_other_is_lost() {
        let (new, changed) = revoke(&list(), A, None).unwrap();
        assert_eq!(changed, 1);
        assert!(new.starts_with("# The list of the safe haven.\n# Ask IG before you change it.\n"), "{new}");
        assert!(!new.contains("the table builder") && new.contains("# for everybody\n[[image]]"), "{new}");
        assert!(new.ends_with("approver = \"IG\"\n# end of the list\n"), "{new}");
        let (new, changed) = revoke(&list(), A, Some("projx")).unwrap();
        assert!(
            changed == 1 && new.contains("projy") && !new.contains("projx") && new.contains("future = { x = 1 }   #"),
            "{new}"
        );
        assert_eq!(revoke(&list(), A, Some("projz")).unwrap(), (list(), 0));
        // `*` is not one of the projects that it stands for.
        assert_eq!(revoke(&list(), B, Some("projx")).unwrap(), (list(), 0));
        let (new, _) = revoke(&revoke(&list(), A, None).unwrap().0, B, None).unwrap();
        assert!(new.contains("# Ask IG") && new.contains("# end of the list") && !new.contains("[[image]]"), "{new}");
        assert_eq!(revoke("", A, None).unwrap(), (String::new(), 0));
    }

    #[test]
    fn what_is_renewed_keeps_its_comments_and_other_projects_their_day() {
        let last = "2027-12-31".parse().unwrap();
        let (new, changed) = renew(&list(), A, None, last).unwrap();
        assert_eq!((changed, new), (1, list().replace("expires = 2026-12-31 #", "expires = 2027-12-31 #")));
        let (new, _) = renew(&list(), A, Some("projy"), last).unwrap();
        let read = Approved::parse(&new.replace("future = { x = 1 }   # of a later ces\n", ""), "a.toml").unwrap();
        let day = |project| read.of(A, Some(project)).first().unwrap().expires.unwrap().to_string();
        assert_eq!((day("projx").as_str(), day("projy").as_str()), ("2026-12-31", "2027-12-31"), "{new}");
        let (new, _) = renew(&list(), B, None, last).unwrap();
        assert!(new.contains("approver = \"IG\"\nexpires = 2027-12-31\n"), "{new}");
    }

    #[test]
    fn what_is_no_list_of_tables_is_not_changed() {
        for text in ["image = [{ digest = \"x\" }]\n", "image = 3\n", "[image]\nx = 1\n", "image = \n"] {
            assert_eq!(add(text, &entry(A, &["*"])).unwrap_err().kind(), Kind::Policy, "{text}");
            assert_eq!(revoke(text, A, None).unwrap_err().kind(), Kind::Policy, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_added_is_read_back_and_revoked_again(note in ".{0,60}", name in ".{0,60}", approver in ".{0,30}") {
            let entry = Entry { note: Some(note), name: Some(name), approver, ..entry(A, &["projz"]) };
            let plain = list().replace("future = { x = 1 }   # of a later ces\n", "");
            let new = add(&plain, &entry).unwrap();
            let read = Approved::parse(&new, "a.toml").unwrap();
            let added = read.all().last().unwrap();
            prop_assert_eq!((&added.note, &added.name, &added.approver), (&entry.note, &entry.name, &entry.approver));
            let (old, changed) = revoke(&new, A, Some("projz")).unwrap();
            prop_assert_eq!(changed, 1);
            let (old, plain) = (Approved::parse(&old, "a.toml").unwrap(), Approved::parse(&plain, "a.toml").unwrap());
            prop_assert_eq!(old, plain);
        }
    }
}
