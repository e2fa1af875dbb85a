//! The contents of `bundles/seccomp/*.toml`.
//!
//! Takes text; gives a `Profile`; trusts nothing; refuses unknown keys, unknown names, and names listed twice.

use std::collections::BTreeMap;

use super::{Arch, FORBIDDEN, UNKNOWN};
use crate::error::{Error, Kind, Result, Stage};
use crate::policy::reader::{Origin, Table};

const ALLOW: (&str, &str) = ("bundles/seccomp/allow.toml", include_str!("../../../bundles/seccomp/allow.toml"));
const CLOSED: (&str, &str) = ("bundles/seccomp/closed.toml", include_str!("../../../bundles/seccomp/closed.toml"));
const CONDITIONAL: (&str, &str) =
    ("bundles/seccomp/conditional.toml", include_str!("../../../bundles/seccomp/conditional.toml"));

const WITNESS: (&str, &str) = ("bundles/seccomp/witness.toml", include_str!("../../../bundles/seccomp/witness.toml"));
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

/// A comparison of one argument: `(argument & mask) == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Which argument, from 0.
    pub arg: u8,
    /// The bits compared.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
}

/// Comparisons of different arguments, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// By argument.
    pub all: Vec<Comparison>,
}

impl Condition {
    /// Whether it holds for these arguments.
    #[cfg(test)]
    pub(super) fn holds(&self, args: [u64; 6]) -> bool {
        self.all.iter().all(|one| args[usize::from(one.arg)] & one.mask == one.value)
    }
}

/// What a call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel takes it.
    Allow,
    /// It fails with this error number.
    Errno(u32),
}

/// System calls whose arguments decide: the first condition that holds, of `any` and then of `refuse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// The architectures that have these calls.
    pub arch: Vec<Arch>,
    /// Their names.
    pub syscalls: Vec<String>,
    /// If one of these holds, the call is allowed.
    pub any: Vec<Condition>,
    /// Else, if one of these holds, it fails with that error number.
    pub refuse: Vec<(Condition, u32)>,
    /// Else this.
    pub otherwise: Answer,
}

impl Rule {
    /// The conditions in their order, each with what it decides.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&Condition, Answer)> {
        let any = self.any.iter().map(|condition| (condition, Answer::Allow));
        any.chain(self.refuse.iter().map(|(condition, errno)| (condition, Answer::Errno(*errno))))
    }

    /// What it says of these arguments.
    #[cfg(test)]
    pub(super) fn answer(&self, args: [u64; 6]) -> Answer {
        self.listed().find(|(condition, _)| condition.holds(args)).map_or(self.otherwise, |(_, answer)| answer)
    }
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Always allowed.
    pub allow: Vec<Group>,
    /// Arguments decide.
    pub conditional: Vec<Rule>,
    /// Always refused, with the error number of each group.
    pub closed: Vec<(Group, u32)>,
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
            closed: closed(CLOSED.1, CLOSED.0)?,
        };
        profile.check()?;
        Ok(profile)
    }

    /// What the relay of published ports may call, and nothing else.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn relay() -> Result<Self> {
        Self::of_a_helper(RELAY)
    }

    /// What the witness of a rehearsal may call, and nothing else.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn witness() -> Result<Self> {
        Self::of_a_helper(WITNESS)
    }

    fn of_a_helper((file, text): (&str, &str)) -> Result<Self> {
        let mut top = Table::parse(text, file)?;
        let (allow, conditional) = (groups_of(&mut top)?, rules_of(&mut top)?);
        top.finish()?;
        let profile = Self { allow, conditional, closed: Vec::new() };
        profile.check()?;
        Ok(profile)
    }

    /// Every name with its architectures and the list it is in.
    fn names(&self) -> impl Iterator<Item = (&str, &[Arch], &'static str)> {
        let allow = self.allow.iter().flat_map(|g| g.syscalls.iter().map(|n| (n.as_str(), g.arch.as_slice(), ALLOW.0)));
        let closed = self.closed.iter().map(|(group, _)| group);
        let closed = closed.flat_map(|g| g.syscalls.iter().map(|n| (n.as_str(), g.arch.as_slice(), CLOSED.0)));
        let rules = self.conditional.iter();
        let rules = rules.flat_map(|r| r.syscalls.iter().map(|n| (n.as_str(), r.arch.as_slice(), CONDITIONAL.0)));
        allow.chain(closed).chain(rules)
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

/// A profile that cannot be read, and why.
pub(super) fn malformed(what: impl Into<String>) -> Error {
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
            let group = group(&mut table)?;
            table.finish()?;
            Ok(group)
        })
        .collect()
}

fn group(table: &mut Table<'_>) -> Result<Group> {
    Ok(Group {
        name: text_of(table, "name")?,
        reason: text_of(table, "reason")?,
        arch: archs(table)?,
        syscalls: table.strings("syscalls")?.map(|rule| rule.value).unwrap_or_default(),
    })
}

/// Groups, each with the error number that it must name.
fn closed(text: &str, file: &str) -> Result<Vec<(Group, u32)>> {
    let mut top = Table::parse(text, file)?;
    let tables = top.tables("group")?.map(|rule| rule.value).unwrap_or_default();
    top.finish()?;
    let one = |mut table: Table<'_>| {
        let (origin, name) = (table.origin("errno"), text_of(&mut table, "errno")?);
        let closed = (group(&mut table)?, errno(&name, &origin)?);
        table.finish()?;
        Ok(closed)
    };
    tables.into_iter().map(one).collect()
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
            let origin = table.origin("syscalls");
            let refuse = conditions(&mut table, "refuse", &origin)?;
            let any = conditions(&mut table, "any", &origin)?;
            if any.iter().any(|(_, errno)| errno.is_some()) {
                return Err(malformed(format!("{origin} allows with an error number")));
            }
            let rule = Rule {
                name: text_of(&mut table, "name")?,
                reason: text_of(&mut table, "reason")?,
                arch: archs(&mut table)?,
                syscalls: table.strings("syscalls")?.map(|rule| rule.value).unwrap_or_default(),
                any: any.into_iter().map(|(condition, _)| condition).collect(),
                refuse: refuse.into_iter().map(|(condition, errno)| (condition, errno.unwrap_or(FORBIDDEN))).collect(),
                otherwise: otherwise(&mut table, &origin)?,
            };
            if rule.syscalls.is_empty() || rule.listed().next().is_none() {
                return Err(malformed(format!("{origin} has no call or no condition")));
            }
            table.finish()?;
            Ok(rule)
        })
        .collect()
}

/// A text that must be there.
pub(super) fn text_of(table: &mut Table<'_>, key: &'static str) -> Result<String> {
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

/// What a call gets for which no condition holds.
fn otherwise(table: &mut Table<'_>, origin: &Origin) -> Result<Answer> {
    match table.string("otherwise")?.map(|rule| rule.value).as_deref() {
        None => Ok(Answer::Errno(UNKNOWN)),
        Some("allow") => Ok(Answer::Allow),
        Some(name) => errno(name, origin).map(Answer::Errno),
    }
}

/// The numbers are those of every architecture here (asm-generic/errno.h).
fn errno(name: &str, origin: &Origin) -> Result<u32> {
    match name {
        "EPERM" => Ok(FORBIDDEN),
        "EINVAL" => Ok(22),
        "ENOTTY" => Ok(25),
        "ENOSYS" => Ok(UNKNOWN),
        "EPROTONOSUPPORT" => Ok(93),
        "EAFNOSUPPORT" => Ok(97),
        _ => Err(malformed(format!("{origin} names {name}, which is no error number that a rule may answer with"))),
    }
}

/// Conditions, each with the error number it names.
fn conditions(table: &mut Table<'_>, key: &'static str, origin: &Origin) -> Result<Vec<(Condition, Option<u32>)>> {
    let mut out = Vec::new();
    for mut one in table.tables(key)?.map(|rule| rule.value).unwrap_or_default() {
        let mut all = vec![comparison(&mut one, origin)?];
        let number = one.string("errno")?.map(|rule| errno(&rule.value, origin)).transpose()?;
        for mut also in one.tables("and")?.map(|rule| rule.value).unwrap_or_default() {
            all.push(comparison(&mut also, origin)?);
            also.finish()?;
        }
        one.finish()?;
        all.sort_by_key(|comparison| comparison.arg);
        // runc takes comparisons of the same argument for alternatives, as libseccomp once did.
        if all.windows(2).any(|two| matches!(two, [first, second] if first.arg == second.arg)) {
            return Err(malformed(format!("{origin} compares an argument twice in one condition")));
        }
        out.push((Condition { all }, number));
    }
    Ok(out)
}

/// A comparison of one argument.
pub(super) fn comparison(table: &mut Table<'_>, origin: &Origin) -> Result<Comparison> {
    let arg = argument(table, origin)?;
    // Without a mask all 64 bits: rubbish in the upper half is refused, not overlooked.
    let mask = table.integer("mask")?.map(|rule| small(rule.value, &rule.origin)).transpose()?;
    let mask = mask.map_or(u64::MAX, u64::from);
    let value = table.integer("eq")?.ok_or_else(|| malformed(format!("{origin} has a condition without `eq`")))?.value;
    if value & !mask != 0 {
        return Err(malformed(format!("{origin} wants bits outside its mask")));
    }
    Ok(Comparison { arg, mask, value })
}

fn argument(table: &mut Table<'_>, origin: &Origin) -> Result<u8> {
    let arg = table.integer("arg")?.and_then(|rule| u8::try_from(rule.value).ok()).filter(|arg| *arg < 6);
    arg.ok_or_else(|| malformed(format!("{origin} has a condition without an argument from 0 to 5")))
}

fn small(value: u64, origin: &Origin) -> Result<u32> {
    u32::try_from(value).map_err(|_| malformed(format!("{origin} is more than 32 bits")))
}

#[cfg(test)]
mod tests;
