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

use super::{Arch, Condition, FORBIDDEN, Group, Profile, UNKNOWN};
use crate::error::{Error, Kind, Result, Stage};

/// The rules of one architecture, and no other: calls of others are answered by libseccomp, which kills.
pub(super) fn build(profile: &Profile, arch: Arch) -> Result<LinuxSeccomp> {
    let mut calls = Vec::new();
    for group in profile.allow.iter().filter(|group| group.arch.contains(&arch)) {
        calls.push(names(group, LinuxSeccompAction::ScmpActAllow, None)?);
    }
    for rule in profile.conditional.iter().filter(|rule| rule.arch.contains(&arch)) {
        // Conditions within one entry must all hold; of several entries, one is enough.
        for condition in &rule.any {
            calls.push(single(&rule.syscall, *condition, LinuxSeccompAction::ScmpActAllow, None)?);
        }
        for condition in &rule.eperm {
            calls.push(single(&rule.syscall, *condition, LinuxSeccompAction::ScmpActErrno, Some(FORBIDDEN))?);
        }
    }
    for group in profile.eperm.iter().filter(|group| group.arch.contains(&arch)) {
        calls.push(names(group, LinuxSeccompAction::ScmpActErrno, Some(FORBIDDEN))?);
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

fn single(name: &str, condition: Condition, action: LinuxSeccompAction, errno: Option<u32>) -> Result<LinuxSyscall> {
    let mut call =
        LinuxSyscallBuilder::default().names(vec![name.to_owned()]).action(action).args(arguments(condition)?);
    if let Some(errno) = errno {
        call = call.errno_ret(errno);
    }
    call.build().map_err(failed)
}

fn arguments(condition: Condition) -> Result<Vec<LinuxSeccompArg>> {
    let also = condition.also.map(|(arg, value)| argument(Condition { arg, mask: None, value, also: None }));
    [Some(argument(condition)), also].into_iter().flatten().collect()
}

fn argument(condition: Condition) -> Result<LinuxSeccompArg> {
    let arg = LinuxSeccompArgBuilder::default().index(usize::from(condition.arg));
    let arg = match condition.mask {
        None => arg.value(condition.value).op(LinuxSeccompOperator::ScmpCmpEq),
        Some(mask) => arg.value(u64::from(mask)).value_two(condition.value).op(LinuxSeccompOperator::ScmpCmpMaskedEq),
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
