//! From rules to BPF, by seccompiler.
//!
//! Takes a `Profile` and an architecture; gives two programs; trusts the profile's own checks; refuses what seccompiler
//! refuses.
//!
//! Both programs kill a process that enters the kernel as another architecture (32-bit calls on x86_64). Calls of the x32
//! ABI have other numbers, which no rule names: they fail as unknown.

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;

    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const KILL: u32 = 0x8000_0000;

    /// What the kernel does with a program: the few instructions seccompiler uses (filter.txt of the kernel).
    fn answer(program: &BpfProgram, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(arch.to_le_bytes());
        data.extend(0_u64.to_le_bytes());
        for arg in args {
            data.extend(arg.to_le_bytes());
        }
        let (mut at, mut a) = (0_usize, 0_u32);
        loop {
            let i = &program[at];
            at += 1;
            match i.code {
                0x20 => a = u32::from_le_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
                0x54 => a &= i.k,
                0x05 => at += i.k as usize,
                0x15 => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                0x25 => at += usize::from(if a > i.k { i.jt } else { i.jf }),
                0x35 => at += usize::from(if a >= i.k { i.jt } else { i.jf }),
                0x06 => return i.k,
                code => panic!("{code:#x}"),
            }
        }
    }

    fn audit(arch: Arch) -> u32 {
        match arch {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    /// What a call gets from both programs: `Ok`, or an error number.
    fn call(arch: Arch, name: &str, args: [u64; 6]) -> Result<(), u32> {
        static COMPILED: [OnceLock<Vec<BpfProgram>>; 2] = [OnceLock::new(), OnceLock::new()];
        let number = u32::try_from(arch.number(name).unwrap()).unwrap();
        let programs = COMPILED[arch as usize].get_or_init(|| programs(&Profile::load().unwrap(), arch).unwrap());
        let answers: Vec<u32> = programs.iter().map(|p| answer(p, audit(arch), number, args)).collect();
        match answers.iter().rev().find(|answer| **answer != ALLOW) {
            None => Ok(()),
            Some(answer) => {
                assert_eq!(answer & 0xffff_0000, ERRNO, "{name}");
                Err(answer & 0xffff)
            }
        }
    }

    fn arg(at: usize, value: u64) -> [u64; 6] {
        let mut args = [0; 6];
        args[at] = value;
        args
    }

    #[test]
    fn calls_get_what_the_profile_says() {
        for arch in Arch::ALL {
            for name in ["read", "write", "openat", "newfstatat", "execve", "futex", "mmap", "exit_group", "getrandom"]
            {
                assert_eq!(call(arch, name, [u64::MAX; 6]), Ok(()), "{name}");
            }
            for name in ["mount", "bpf", "ptrace", "unshare", "setns", "keyctl", "perf_event_open", "chroot", "reboot"]
            {
                assert_eq!(call(arch, name, [0; 6]), Err(FORBIDDEN), "{name}");
            }
            for name in ["clone3", "io_uring_setup", "splice", "vmsplice", "memfd_secret", "io_setup"] {
                assert_eq!(call(arch, name, [0; 6]), Err(UNKNOWN), "{name}");
            }
        }
    }

    #[test]
    fn arguments_decide_and_bits_above_cannot_hide_them() {
        const HIGH: u64 = 1 << 32;
        for arch in Arch::ALL {
            for flags in [0x3d0f00, 0x1200011, 17, HIGH | 17] {
                assert_eq!(call(arch, "clone", arg(0, flags)), Ok(()), "{flags:#x}");
            }
            for namespace in [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000_u64] {
                for flags in [namespace, namespace | 17, namespace | HIGH] {
                    assert_eq!(call(arch, "clone", arg(0, flags)), Err(FORBIDDEN), "{flags:#x}");
                }
            }
            for family in [1, 2, 10, 16] {
                assert_eq!(call(arch, "socket", arg(0, family)), Ok(()));
            }
            for family in [0, 3, 15, 17, 31, 38, 40, 40 | HIGH, HIGH | 1, 44, u64::MAX] {
                assert_eq!(call(arch, "socket", arg(0, family)), Err(UNKNOWN), "{family}");
            }
            // Of netlink, the protocol that programs list their interfaces with, and none that tells of the host.
            for (protocol, ok) in [(0, true), (6, false), (9, false), (15, false), (16, false), (HIGH, false)] {
                let result = call(arch, "socket", [16, 3, protocol, 0, 0, 0]);
                assert_eq!(result, if ok { Ok(()) } else { Err(UNKNOWN) }, "{protocol}");
                assert_eq!(call(arch, "socket", [2, 1, protocol, 0, 0, 0]), Ok(()));
            }
            for command in [0x5412, 0x541C, 0x5412 | HIGH, 0x541C | HIGH << 7, 0xffff_ffff_0000_5412] {
                assert_eq!(call(arch, "ioctl", arg(1, command)), Err(FORBIDDEN), "{command:#x}");
            }
            for command in [0x5401, 0x5413, 0x541B, 0x5421, 0x8004_5430, 0x5401 | HIGH] {
                assert_eq!(call(arch, "ioctl", arg(1, command)), Ok(()), "{command:#x}");
            }
            for (mode, ok) in [
                (0o644, true),
                (0o100644, true),
                (0o010644, true),
                (0o140755, true),
                (0o020644, false),
                (0o060644, false),
                (0o120777, false),
            ] {
                assert_eq!(call(arch, "mknodat", arg(2, mode)).is_ok(), ok, "{mode:o}");
            }
            for (persona, ok) in [
                (0, true),
                (8, true),
                (0x20008, true),
                (0xffff_ffff, true),
                (0x40000, false),
                (0x400000, false),
                (HIGH, false),
            ] {
                assert_eq!(call(arch, "personality", arg(0, persona)).is_ok(), ok, "{persona:#x}");
            }
        }
        assert_eq!(call(Arch::X86_64, "mknod", arg(1, 0o020644)), Err(FORBIDDEN));
        assert_eq!(call(Arch::Aarch64, "mknodat", arg(2, 0o060644)), Err(FORBIDDEN));
    }

    #[test]
    fn other_entries_into_the_kernel_are_closed() {
        let programs = programs(&Profile::load().unwrap(), Arch::X86_64).unwrap();
        // 32-bit calls (int 0x80): another architecture.
        assert!(programs.iter().all(|p| answer(p, 0x4000_0003, 3, [0; 6]) == KILL));
        // x32: read is 0x40000000.
        assert_eq!(answer(&programs[0], audit(Arch::X86_64), 0x4000_0000, [0; 6]), ERRNO | UNKNOWN);
    }

    #[test]
    fn the_programs_fit_the_kernel() {
        for arch in Arch::ALL {
            let programs = programs(&Profile::load().unwrap(), arch).unwrap();
            assert!(programs.iter().all(|p| p.len() < 4096) && programs.len() == 2);
        }
    }

    proptest::proptest! {
        #[test]
        fn an_ioctl_is_allowed_unless_its_low_half_is_one_of_two(command in proptest::num::u64::ANY, low in 0_u64..0x1_0000) {
            for command in [command, command & !0xffff_ffff | low] {
                let low = command & 0xffff_ffff;
                let ok = low != 0x5412 && low != 0x541C;
                proptest::prop_assert_eq!(call(Arch::X86_64, "ioctl", arg(1, command)).is_ok(), ok);
            }
        }
    }
}
