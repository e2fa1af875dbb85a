//! The contents of `bundles/seccomp/*.toml`.
//!
//! Takes text; gives a `Profile`; trusts nothing; refuses unknown keys, unknown names, and names listed twice.

use std::collections::BTreeMap;

use super::Arch;
use super::cover::{self, Masked};
use crate::error::{Error, Kind, Result, Stage};
use crate::policy::reader::{Origin, Table};

const ALLOW: (&str, &str) = ("bundles/seccomp/allow.toml", include_str!("../../../bundles/seccomp/allow.toml"));
const EPERM: (&str, &str) = ("bundles/seccomp/eperm.toml", include_str!("../../../bundles/seccomp/eperm.toml"));
const CONDITIONAL: (&str, &str) =
    ("bundles/seccomp/conditional.toml", include_str!("../../../bundles/seccomp/conditional.toml"));

const RELAY: (&str, &str) = ("bundles/seccomp/relay.toml", include_str!("../../../bundles/seccomp/relay.toml"));

/// System calls with one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// The architectures that have these calls.
    pub arch: Vec<Arch>,
    /// Their names.
    pub syscalls: Vec<String>,
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0.
    pub arg: u8,
    /// `None`: all 64 bits equal `value`; else those under the mask do.
    pub mask: Option<u32>,
    /// What is wanted.
    pub value: u64,
    /// Another argument, all 64 bits of which must equal a value as well.
    pub also: Option<(u8, u64)>,
}

/// A system call that is allowed if one of its conditions holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// The architectures that have it.
    pub arch: Vec<Arch>,
    /// The call.
    pub syscall: String,
    /// One must hold.
    pub any: Vec<Condition>,
    /// If one of these holds instead, the call fails with EPERM.
    pub eperm: Vec<Condition>,
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Always allowed.
    pub allow: Vec<Group>,
    /// Allowed if a condition holds.
    pub conditional: Vec<Rule>,
    /// Fail with EPERM.
    pub eperm: Vec<Group>,
}

impl Profile {
    /// The profile of every run.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn load() -> Result<Self> {
        let profile = Self {
            allow: groups(ALLOW.1, ALLOW.0)?,
            conditional: rules(CONDITIONAL.1, CONDITIONAL.0)?,
            eperm: groups(EPERM.1, EPERM.0)?,
        };
        profile.check()?;
        Ok(profile)
    }

    /// What the relay of published ports may call, and nothing else.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn relay() -> Result<Self> {
        let mut top = Table::parse(RELAY.1, RELAY.0)?;
        let (allow, conditional) = (groups_of(&mut top)?, rules_of(&mut top)?);
        top.finish()?;
        let profile = Self { allow, conditional, eperm: Vec::new() };
        profile.check()?;
        Ok(profile)
    }

    /// Every name with its architectures and the list it is in.
    fn names(&self) -> impl Iterator<Item = (&str, &[Arch], &'static str)> {
        let allow = self.allow.iter().flat_map(|g| g.syscalls.iter().map(|n| (n.as_str(), g.arch.as_slice(), ALLOW.0)));
        let eperm = self.eperm.iter().flat_map(|g| g.syscalls.iter().map(|n| (n.as_str(), g.arch.as_slice(), EPERM.0)));
        let rules = self.conditional.iter().map(|r| (r.syscall.as_str(), r.arch.as_slice(), CONDITIONAL.0));
        allow.chain(eperm).chain(rules)
    }

    fn check(&self) -> Result<()> {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, archs, file) in self.names() {
            if let Some(other) = seen.insert(name, file) {
                return Err(malformed(format!("{name} is in {file} and in {other}")));
            }
            for arch in archs {
                if arch.number(name).is_none() {
                    return Err(malformed(format!("{file} names {name}, which {} does not have", arch.name())));
                }
            }
        }
        Ok(())
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, "the seccomp profile is malformed").because(what.into())
}

fn groups(text: &str, file: &str) -> Result<Vec<Group>> {
    let mut top = Table::parse(text, file)?;
    let groups = groups_of(&mut top)?;
    top.finish()?;
    Ok(groups)
}

fn groups_of(top: &mut Table<'_>) -> Result<Vec<Group>> {
    top.tables("group")?
        .map(|rule| rule.value)
        .unwrap_or_default()
        .into_iter()
        .map(|mut table| {
            let group = Group {
                name: text_of(&mut table, "name")?,
                reason: text_of(&mut table, "reason")?,
                arch: archs(&mut table)?,
                syscalls: table.strings("syscalls")?.map(|rule| rule.value).unwrap_or_default(),
            };
            table.finish()?;
            Ok(group)
        })
        .collect()
}

fn rules(text: &str, file: &str) -> Result<Vec<Rule>> {
    let mut top = Table::parse(text, file)?;
    let rules = rules_of(&mut top)?;
    top.finish()?;
    Ok(rules)
}

fn rules_of(top: &mut Table<'_>) -> Result<Vec<Rule>> {
    top.tables("rule")?
        .map(|rule| rule.value)
        .unwrap_or_default()
        .into_iter()
        .map(|mut table| {
            let origin = table.origin("syscall");
            let rule = Rule {
                name: text_of(&mut table, "name")?,
                reason: text_of(&mut table, "reason")?,
                arch: archs(&mut table)?,
                syscall: text_of(&mut table, "syscall")?,
                any: allowing(&mut table, &origin)?,
                eperm: conditions(&mut table, "eperm", &origin)?,
            };
            table.finish()?;
            Ok(rule)
        })
        .collect()
}

fn text_of(table: &mut Table<'_>, key: &'static str) -> Result<String> {
    let origin = table.origin(key);
    let text = table.string(key)?.map(|rule| rule.value).filter(|text| !text.is_empty());
    text.ok_or_else(|| malformed(format!("{origin} is missing")))
}

fn archs(table: &mut Table<'_>) -> Result<Vec<Arch>> {
    let Some(names) = table.strings("arch")? else { return Ok(Arch::ALL.to_vec()) };
    names
        .value
        .iter()
        .map(|name| {
            let known = Arch::ALL.into_iter().find(|arch| arch.name() == name);
            known.ok_or_else(|| malformed(format!("{} names {name}", names.origin)))
        })
        .collect()
}

fn allowing(table: &mut Table<'_>, origin: &Origin) -> Result<Vec<Condition>> {
    let mut out = conditions(table, "any", origin)?;
    if let Some(mut none_of) = table.table("none_of")? {
        let arg = argument(&mut none_of, origin)?;
        let values = none_of.integers("values")?.ok_or_else(|| malformed(format!("{origin} forbids nothing")))?;
        none_of.finish()?;
        let values: Vec<u32> = values.value.iter().map(|v| small(*v, &values.origin)).collect::<Result<_>>()?;
        let masked =
            |Masked { mask, wanted }| Condition { arg, mask: Some(mask), value: u64::from(wanted), also: None };
        out.extend(cover::all_but(&values).into_iter().map(masked));
    }
    if out.is_empty() {
        return Err(malformed(format!("{origin} has no condition")));
    }
    Ok(out)
}

fn conditions(table: &mut Table<'_>, key: &'static str, origin: &Origin) -> Result<Vec<Condition>> {
    let mut out = Vec::new();
    for mut one in table.tables(key)?.map(|rule| rule.value).unwrap_or_default() {
        let arg = argument(&mut one, origin)?;
        let mask = one.integer("mask")?.map(|rule| small(rule.value, &rule.origin)).transpose()?;
        let value =
            one.integer("eq")?.ok_or_else(|| malformed(format!("{origin} has a condition without `eq`")))?.value;
        let also = match (one.integer("and_arg")?, one.integer("and_eq")?) {
            (None, None) => None,
            (Some(arg), Some(value)) => {
                let arg = u8::try_from(arg.value).ok().filter(|arg| *arg < 6);
                Some((arg.ok_or_else(|| malformed(format!("{origin} has no such argument")))?, value.value))
            }
            _ => return Err(malformed(format!("{origin} has one half of `and_arg` and `and_eq`"))),
        };
        one.finish()?;
        if mask.is_some_and(|mask| value & !u64::from(mask) != 0) {
            return Err(malformed(format!("{origin} wants bits outside its mask")));
        }
        out.push(Condition { arg, mask, value, also });
    }
    Ok(out)
}

fn argument(table: &mut Table<'_>, origin: &Origin) -> Result<u8> {
    let arg = table.integer("arg")?.and_then(|rule| u8::try_from(rule.value).ok()).filter(|arg| *arg < 6);
    arg.ok_or_else(|| malformed(format!("{origin} has a condition without an argument from 0 to 5")))
}

fn small(value: u64, origin: &Origin) -> Result<u32> {
    u32::try_from(value).map_err(|_| malformed(format!("{origin} is more than 32 bits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_to_every_architecture_it_is_for_and_stands_once() {
        let profile = Profile::load().unwrap();
        assert!(profile.names().count() > 300);
        assert!(profile.allow.iter().chain(&profile.eperm).all(|group| !group.reason.is_empty()));
    }

    #[test]
    fn an_unknown_name_and_a_name_in_two_lists_are_refused() {
        let group = |names: &[&str]| Group {
            name: "g".to_owned(),
            reason: "r".to_owned(),
            arch: Arch::ALL.to_vec(),
            syscalls: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let profile =
            |allow: Group, eperm: Group| Profile { allow: vec![allow], conditional: vec![], eperm: vec![eperm] };
        assert!(profile(group(&["read"]), group(&["bpf"])).check().is_ok());
        for (allow, eperm) in [
            (&["raed"][..], &["bpf"][..]),
            (&["read"], &["read"]),
            (&["read", "read"], &["bpf"]),
            (&["fork"], &["bpf"]),
        ] {
            assert!(profile(group(allow), group(eperm)).check().is_err(), "{allow:?} {eperm:?}");
        }
    }

    #[test]
    fn what_attacks_the_kernel_is_in_no_list_of_allowed_calls() {
        let profile = Profile::load().unwrap();
        let allowed: Vec<&str> = profile.allow.iter().flat_map(|g| g.syscalls.iter().map(String::as_str)).collect();
        for name in [
            "clone",
            "clone3",
            "unshare",
            "setns",
            "mount",
            "bpf",
            "ptrace",
            "io_uring_setup",
            "io_uring_enter",
            "keyctl",
            "ioctl",
            "socket",
            "userfaultfd",
            "perf_event_open",
            "splice",
            "tee",
            "vmsplice",
            "io_setup",
            "modify_ldt",
            "memfd_secret",
            "process_vm_writev",
            "personality",
            "mknod",
            "mknodat",
            "chroot",
            "syslog",
            "reboot",
            "name_to_handle_at",
        ] {
            assert!(!allowed.contains(&name), "{name}");
        }
    }

    #[test]
    fn the_relay_may_neither_open_nor_execute_nor_fork() {
        let profile = Profile::relay().unwrap();
        let all: Vec<&str> = profile.names().map(|(name, ..)| name).collect();
        assert!(all.contains(&"splice") && all.len() < 40, "{all:?}");
        for name in [
            "open", "openat", "openat2", "execve", "execveat", "clone", "clone3", "fork", "vfork", "ioctl", "write",
            "bind", "listen", "sendmsg", "recvmsg", "kill", "ptrace", "prctl", "unshare", "setns", "mount", "seccomp",
        ] {
            assert!(!all.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_condition_must_be_one_of_two_kinds() {
        let rule =
            |condition: &str| format!("[[rule]]\nname = \"n\"\nreason = \"r\"\nsyscall = \"read\"\n{condition}\n");
        assert!(rules(&rule("any = [{ arg = 0, eq = 1 }]"), "f").is_ok());
        for condition in [
            "",
            "any = []",
            "any = [{ arg = 6, eq = 1 }]",
            "any = [{ arg = 0 }]",
            "any = [{ arg = 0, mask = 1, eq = 2 }]",
            "any = [{ arg = 0, mask = 0x100000000, eq = 0 }]",
            "any = [{ arg = 0, lt = 2 }]",
            "none_of = { arg = 1, values = [0x100000000] }",
            "any = [{ arg = 0, eq = 1, and_arg = 2 }]",
            "any = [{ arg = 0, eq = 1, and_eq = 2 }]",
            "any = [{ arg = 0, eq = 1, and_arg = 6, and_eq = 2 }]",
        ] {
            assert!(rules(&rule(condition), "f").is_err(), "{condition}");
        }
    }
}
