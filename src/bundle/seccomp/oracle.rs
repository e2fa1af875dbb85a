//! From rules to BPF, by seccompiler: what our own program is held against, call by call.
//!
//! Takes a `Profile` and an architecture; gives two programs; trusts the profile's own checks; refuses what seccompiler
//! refuses. It has one action for all that matches, so what fails with EPERM is a second filter: the kernel takes the
//! strictest answer of all and, between two errors, the one of the filter installed last (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Arch, Condition, FORBIDDEN, Group, Profile, UNKNOWN};
use crate::error::{Error, Kind, Result, Stage};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is allowed, all else unknown; then, installed after it, what is forbidden.
pub(super) fn programs(profile: &Profile, arch: Arch) -> Result<Vec<BpfProgram>> {
    let mut allowed = plain(&profile.allow, arch);
    let mut forbidden = plain(&profile.eperm, arch);
    for rule in profile.conditional.iter().filter(|rule| rule.arch.contains(&arch)) {
        let Some(number) = arch.number(&rule.syscall) else { continue };
        allowed.insert(number, chain(&rule.any)?);
        // An empty chain would mean "always".
        if !rule.eperm.is_empty() {
            forbidden.insert(number, chain(&rule.eperm)?);
        }
    }
    Ok(vec![
        program(allowed, SeccompAction::Errno(UNKNOWN), SeccompAction::Allow, arch)?,
        program(forbidden, SeccompAction::Allow, SeccompAction::Errno(FORBIDDEN), arch)?,
    ])
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

/// One of them must hold.
fn chain(conditions: &[Condition]) -> Result<Vec<SeccompRule>> {
    let rule = |condition: &Condition| {
        let also = condition.also.map(|(arg, value)| exactly(arg, value));
        SeccompRule::new([Some(condition_of(*condition)), also].into_iter().flatten().collect::<Result<_, _>>()?)
    };
    conditions.iter().map(rule).collect::<Result<_, _>>().map_err(failed)
}

/// All 64 bits: rubbish in the upper half is refused, not overlooked.
fn exactly(arg: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(arg, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

fn condition_of(condition: Condition) -> Result<SeccompCondition, BackendError> {
    match condition.mask {
        None => exactly(condition.arg, condition.value),
        Some(mask) => SeccompCondition::new(
            condition.arg,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(u64::from(mask)),
            condition.value,
        ),
    }
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
