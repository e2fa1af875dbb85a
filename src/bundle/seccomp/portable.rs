//! From rules to the form of the runtime spec, as runc and crun read it.
//!
//! Takes a `Profile` and an architecture; gives a `LinuxSeccomp`; trusts the profile's own checks; refuses nothing.
//!
//! For a masked comparison runc and crun take `value` as the mask and `valueTwo` as what is wanted, since they hand both
//! to libseccomp in that order (seccomp_rule_add(3), SCMP_CMP_MASKED_EQ).

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::groups::{Answer, Comparison};
use super::{Arch, Condition, Group, Profile, Rule, UNKNOWN, cover};
use crate::error::{Error, Kind, Result, Stage};

/// The rules of one architecture, and no other: calls of others are answered by libseccomp, which kills.
pub(super) fn build(profile: &Profile, arch: Arch) -> Result<LinuxSeccomp> {
    let mut calls = Vec::new();
    for group in profile.allow.iter().filter(|group| group.arch.contains(&arch)) {
        calls.push(names(group, LinuxSeccompAction::ScmpActAllow, None)?);
    }
    for rule in profile.conditional.iter().filter(|rule| rule.arch.contains(&arch)) {
        // Comparisons within one entry must all hold; of several entries, exactly one does.
        for (condition, answer) in cover::cases(rule) {
            calls.push(case(rule, &condition, answer)?);
        }
    }
    // libseccomp takes no rule that answers what every call gets that is not named.
    let closed = profile.closed.iter().filter(|(_, errno)| *errno != UNKNOWN);
    for (group, errno) in closed.filter(|(group, _)| group.arch.contains(&arch)) {
        calls.push(names(group, LinuxSeccompAction::ScmpActErrno, Some(*errno))?);
    }
    let arch = match arch {
        Arch::X86_64 => OciArch::ScmpArchX86_64,
        Arch::Aarch64 => OciArch::ScmpArchAarch64,
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(UNKNOWN)
        .architectures(vec![arch])
        .syscalls(calls)
        .build()
        .map_err(failed)
}

fn names(group: &Group, action: LinuxSeccompAction, errno: Option<u32>) -> Result<LinuxSyscall> {
    let mut call = LinuxSyscallBuilder::default().names(group.syscalls.clone()).action(action);
    if let Some(errno) = errno {
        call = call.errno_ret(errno);
    }
    call.build().map_err(failed)
}

fn case(rule: &Rule, condition: &Condition, answer: Answer) -> Result<LinuxSyscall> {
    let (action, errno) = match answer {
        Answer::Allow => (LinuxSeccompAction::ScmpActAllow, None),
        Answer::Errno(errno) => (LinuxSeccompAction::ScmpActErrno, Some(errno)),
    };
    let arguments: Vec<LinuxSeccompArg> = condition.all.iter().map(argument).collect::<Result<_>>()?;
    let mut call = LinuxSyscallBuilder::default().names(rule.syscalls.clone()).action(action).args(arguments);
    if let Some(errno) = errno {
        call = call.errno_ret(errno);
    }
    call.build().map_err(failed)
}

fn argument(one: &Comparison) -> Result<LinuxSeccompArg> {
    let arg = LinuxSeccompArgBuilder::default().index(usize::from(one.arg));
    let arg = match one.mask {
        u64::MAX => arg.value(one.value).op(LinuxSeccompOperator::ScmpCmpEq),
        mask => arg.value(mask).value_two(one.value).op(LinuxSeccompOperator::ScmpCmpMaskedEq),
    };
    arg.build().map_err(failed)
}

fn failed(e: OciSpecError) -> Error {
    Error::new(Stage::Bundle, Kind::Failed, "the seccomp profile cannot be written").caused_by(&e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_rule_has_its_mask_in_value_and_what_is_wanted_in_value_two() {
        let oci = build(&Profile::load().unwrap(), Arch::X86_64).unwrap();
        let value = serde_json::to_value(&oci).unwrap();
        let calls = value["syscalls"].as_array().unwrap();
        let clone = calls.iter().find(|call| call["names"][0] == "clone").unwrap();
        assert_eq!(
            clone["args"],
            serde_json::json!([{ "index": 0, "value": 0x7E02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }])
        );
        assert_eq!(value["defaultErrnoRet"], 38);
        assert_eq!(value["architectures"], serde_json::json!(["SCMP_ARCH_X86_64"]));
    }
}
