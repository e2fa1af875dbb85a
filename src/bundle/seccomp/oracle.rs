//! From rules to BPF, by seccompiler: what our own program is held against, call by call.
//!
//! Takes a `Profile` and an architecture; gives programs; trusts the profile's own checks; refuses what seccompiler
//! refuses. It has one action for all that matches, so what fails with another error than the unknown is a filter for each:
//! the kernel takes the strictest answer of all and, between two errors, the one of the filter installed last (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::groups::{Answer, Comparison};
use super::{Arch, Condition, Group, Profile, UNKNOWN, cover};
use crate::error::{Error, Kind, Result, Stage};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is allowed, all else unknown; then, installed after it, what is refused, by error number.
pub(super) fn programs(profile: &Profile, arch: Arch) -> Result<Vec<BpfProgram>> {
    let mut allowed = plain(&profile.allow, arch);
    let mut refused: BTreeMap<u32, Rules> = BTreeMap::new();
    for (group, errno) in profile.closed.iter().filter(|(_, errno)| *errno != UNKNOWN) {
        refused.entry(*errno).or_default().extend(plain(std::slice::from_ref(group), arch));
    }
    for rule in profile.conditional.iter().filter(|rule| rule.arch.contains(&arch)) {
        // An empty chain would mean "always": there is one only where a case is.
        for (condition, answer) in cover::cases(rule) {
            let rules = match answer {
                Answer::Allow => &mut allowed,
                Answer::Errno(errno) => refused.entry(errno).or_default(),
            };
            for number in rule.syscalls.iter().filter_map(|name| arch.number(name)) {
                rules.entry(number).or_default().push(rule_of(&condition)?);
            }
        }
    }
    let mut out = vec![program(allowed, SeccompAction::Errno(UNKNOWN), SeccompAction::Allow, arch)?];
    for (errno, rules) in refused {
        out.push(program(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?);
    }
    Ok(out)
}

fn plain(groups: &[Group], arch: Arch) -> Rules {
    groups
        .iter()
        .filter(|group| group.arch.contains(&arch))
        .flat_map(|group| &group.syscalls)
        .filter_map(|name| arch.number(name))
        .map(|number| (number, Vec::new()))
        .collect()
}

fn rule_of(condition: &Condition) -> Result<SeccompRule> {
    let all = condition.all.iter().map(comparison).collect::<Result<_, _>>();
    all.and_then(SeccompRule::new).map_err(failed)
}

fn comparison(one: &Comparison) -> Result<SeccompCondition, BackendError> {
    let how = match one.mask {
        u64::MAX => SeccompCmpOp::Eq,
        mask => SeccompCmpOp::MaskedEq(mask),
    };
    SeccompCondition::new(one.arg, SeccompCmpArgLen::Qword, how, one.value)
}

fn program(rules: Rules, others: SeccompAction, named: SeccompAction, arch: Arch) -> Result<BpfProgram> {
    let target = match arch {
        Arch::X86_64 => TargetArch::x86_64,
        Arch::Aarch64 => TargetArch::aarch64,
    };
    SeccompFilter::new(rules, others, named, target).and_then(BpfProgram::try_from).map_err(failed)
}

fn failed(e: BackendError) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, "the seccomp profile cannot be compiled").because(e)
}
