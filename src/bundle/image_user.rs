//! The image's user: from `name`, `uid`, `uid:gid`, `name:group` or `:group` to numbers.
//!
//! Takes the text of `USER` (or `--user`) and the bytes of the image's passwd and group files, whose size the caller has
//! capped; gives a `ResolvedUser`; trusts nothing; refuses names that do not exist and numbers that are not plain.
//!
//! Numbers are read strictly: a value that wraps around, is signed or is padded has been root elsewhere
//! (CVE-2024-40635, CVE-2026-30892).

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::units::plain_digits;

/// Who the payload runs as, inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// The home directory in the image's passwd file.
    pub home: Option<String>,
    /// The name in the image's passwd file.
    pub name: Option<String>,
    /// The other groups of that name in the image's group file, where `USER` names no group.
    pub groups: Vec<u32>,
    /// The group has an entry in the image's group file.
    pub group_is_named: bool,
}

/// More groups than any image has are an attack on whoever reads them (the kernel takes 65536 of a process).
const MOST_GROUPS: usize = 1024;

/// An entry of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Finds out who `user` is; nothing means root.
///
/// # Errors
/// When it is malformed, or names a user or group the image does not have.
pub fn resolve(user: Option<&str>, passwd: Option<&[u8]>, group: Option<&[u8]>) -> Result<ResolvedUser> {
    let text = user.unwrap_or_default();
    // As Docker and podman take it: nobody before the colon is root, nothing after it is no group.
    let (user, chosen) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let mut resolved = find_user(user, passwd).map_err(|why| bad(text, &why))?;
    match chosen {
        Some(chosen) => resolved.gid = find_group(chosen, group).map_err(|why| bad(text, &why))?,
        None => {
            resolved.groups = others_of(&resolved, group).map_err(|why| bad(text, &why))?;
        }
    }
    resolved.group_is_named = lines(group).filter_map(entry).any(|(_, gid, _)| gid == resolved.gid);
    Ok(resolved)
}

/// Whether `user` (as in [`resolve`]) is understood without a file of the image: two numbers.
pub fn is_a_pair_of_numbers(user: Option<&str>) -> bool {
    user.and_then(|text| text.split_once(':')).is_some_and(|(user, group)| id(user).is_ok() && id(group).is_ok())
}

/// The groups of which a user is a member, but for its own.
fn others_of(user: &ResolvedUser, group: Option<&[u8]>) -> Result<Vec<u32>, String> {
    let Some(name) = user.name.as_deref().filter(|name| !name.is_empty()) else { return Ok(Vec::new()) };
    let is_member = |members: &str| members.split(',').any(|member| member == name);
    let named = lines(group).filter_map(entry).filter(|(_, gid, members)| *gid != user.gid && is_member(members));
    let groups: BTreeSet<u32> = named.map(|(_, gid, _)| gid).collect();
    if groups.len() > MOST_GROUPS {
        return Err(format!(
            "it is in {} groups of the image's /etc/group, and at most {MOST_GROUPS} are taken",
            groups.len()
        ));
    }
    Ok(groups.into_iter().collect())
}

/// An entry of group(5): name, number, members.
fn entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = id(fields.nth(1)?).ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

fn bad(user: &str, why: &str) -> Error {
    Error::new(Stage::Bundle, Kind::Hostile, format!("the image's user \"{user}\" cannot be used"))
        .because(why)
        .hint("correct USER in the Dockerfile, or choose one with --user UID:GID")
}

fn find_user(user: &str, passwd: Option<&[u8]>) -> Result<ResolvedUser, String> {
    let accounts = || lines(passwd).filter_map(account);
    let known = |a: Account<'_>| ResolvedUser {
        uid: a.uid,
        gid: a.gid,
        home: Some(a.home.to_owned()).filter(|home| home.starts_with('/')),
        name: Some(a.name.to_owned()),
        ..ResolvedUser::default()
    };
    if looks_numeric(user) {
        let uid = id(user)?;
        let found = accounts().find(|a| a.uid == uid).map(known);
        return Ok(found.unwrap_or(ResolvedUser { uid, ..ResolvedUser::default() }));
    }
    check_name(user)?;
    accounts()
        .find(|a| a.name == user)
        .map(known)
        .ok_or_else(|| format!("there is no user \"{user}\" in the image's /etc/passwd"))
}

fn find_group(group: &str, file: Option<&[u8]>) -> Result<u32, String> {
    if looks_numeric(group) {
        return id(group);
    }
    check_name(group)?;
    lines(file)
        .filter_map(entry)
        .find_map(|(name, gid, _)| (name == group).then_some(gid))
        .ok_or_else(|| format!("there is no group \"{group}\" in the image's /etc/group"))
}

/// Whether it was meant as a number: names cannot begin with a digit, a sign or a blank.
fn looks_numeric(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | ' ' | '\t'))
}

/// A plain decimal number below 2^32 - 1, which means "no change" to chown(2).
fn id(text: &str) -> Result<u32, String> {
    let plain = plain_digits(text) && (text.len() == 1 || !text.starts_with('0'));
    text.parse::<u32>()
        .ok()
        .filter(|id| plain && *id != u32::MAX)
        .ok_or_else(|| format!("\"{text}\" is not a plain number from 0 to 4294967294"))
}

fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$');
    if name.is_empty() || name.len() > 256 || !name.chars().all(plain) {
        return Err("it is neither a name, nor a number, nor one of them, `:`, and a group".to_owned());
    }
    Ok(())
}

/// Lines that are text; others name nobody.
fn lines(file: Option<&[u8]>) -> impl Iterator<Item = &str> {
    file.unwrap_or_default().split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = id(fields.nth(1)?).ok()?;
    let gid = id(fields.next()?).ok()?;
    let home = fields.nth(1)?;
    Some(Account { name, uid, gid, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\xff\xfe:x:7:7::/:\nbroken:x:1\n\
        ann:x:1000:100:Ann:/home/ann:/bin/sh\nevil:x:-1:0::/:\nnohome:x:5:5::relative:\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:ann\nbad:x:4294967295:\n";

    fn ids(user: &str) -> (u32, u32) {
        let user = resolve(Some(user), Some(PASSWD), Some(GROUP)).unwrap();
        (user.uid, user.gid)
    }

    #[test]
    fn every_form_of_a_user_is_understood() {
        assert_eq!(ids(""), (0, 0));
        assert_eq!(ids("ann"), (1000, 100));
        assert_eq!(ids("ann:staff"), (1000, 50));
        assert_eq!(ids("ann:7"), (1000, 7));
        assert_eq!(ids("1000"), (1000, 100));
        assert_eq!(ids("1234"), (1234, 0));
        assert_eq!(ids("1:2"), (1, 2));
        assert_eq!(ids("0:0"), (0, 0));
        assert_eq!(ids("2147483648"), (2_147_483_648, 0));
        assert_eq!(ids(":staff"), (0, 50));
        assert_eq!(ids(":7"), (0, 7));
        assert_eq!(ids("ann:"), (1000, 100));
        assert_eq!(ids(":"), (0, 0));
    }

    #[test]
    fn the_images_own_groups_are_those_of_its_group_file_where_none_is_named() {
        let group = b"root:x:0:\nstaff:x:50:bob,ann\nstaff:x:50:ann\nown:x:100:ann\nodd:x:-5:ann\nbig:x:70:ann,\n\
            short:x\nnone:x:71:\nanna:x:72:anna\n\xff:x:73:ann\nwheel:x:0:ann";
        let groups = |user| resolve(Some(user), Some(PASSWD), Some(group)).unwrap().groups;
        assert_eq!(groups("ann"), [0, 50, 70]);
        assert_eq!(groups("1000"), [0, 50, 70]);
        assert_eq!(groups("ann:"), [0, 50, 70]);
        assert!(groups("ann:100").is_empty() && groups("1234").is_empty() && groups("root").is_empty());
        // An entry without a name has no groups: lists of members without any hold it.
        assert!(resolve(Some("7"), Some(b":x:7:7::/:\n"), Some(b"a:x:8:\nb:x:9:,\n")).unwrap().groups.is_empty());
        let many: String = (1..2000).map(|n| format!("g{n}:x:{n}:ann\n")).collect();
        let error = resolve(Some("ann"), Some(PASSWD), Some(many.as_bytes())).unwrap_err();
        assert!(error.causes()[0].contains("1998 groups"), "{error:?}");
    }

    #[test]
    fn home_and_name_come_from_the_images_passwd() {
        let user = |name: &str| resolve(Some(name), Some(PASSWD), None).unwrap();
        assert_eq!(user("ann").home.as_deref(), Some("/home/ann"));
        assert_eq!(user("1000").name.as_deref(), Some("ann"));
        assert_eq!(user("77").home, None);
        assert_eq!(user("nohome").home, None);
        assert_eq!(resolve(None, None, None).unwrap().uid, 0);
    }

    #[test]
    fn what_has_been_root_elsewhere_is_refused() {
        for user in [
            "-1",
            "+1",
            " 1",
            "1 ",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "0x0",
            "00",
            "01",
            ":-1",
            ":01",
            "ann:+0",
            "a:b:c",
            "1:2:3",
            "nobody",
            "evil",
            "ann:bad",
            "ann:nogroup",
            "ann\n",
            "../x",
            "1e3",
            "\u{661}",
        ] {
            let error = resolve(Some(user), Some(PASSWD), Some(GROUP)).unwrap_err();
            assert!(error.to_string().contains(user), "{user}: {error}");
        }
        let long = "a".repeat(100_000);
        assert!(resolve(Some(&long), Some(PASSWD), None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_number_is_itself_or_refused(text in "[0-9+ -]{1,24}") {
            if let Ok(user) = resolve(Some(&text), None, None) {
                proptest::prop_assert_eq!(user.uid.to_string(), text);
            }
        }
    }
}
