//! From rules to one BPF program.
//!
//! Takes a `Profile` and an architecture; gives a program; trusts the profile's own checks; refuses nothing.
//!
//! The kernel runs a filter for every number there is when it is installed, and converts each instruction, so its length
//! is paid at the start of each run: a search over ranges of numbers answers after nine comparisons, where seccompiler's
//! two chains hold 2,500 instructions. What each call gets is held against those chains by the tests below.
//!
//! It kills a process that enters the kernel as another architecture (32-bit calls on x86_64). Calls of the x32 ABI have
//! other numbers, which no rule names: they fail as unknown.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

use super::{Arch, Condition, FORBIDDEN, Group, Profile, UNKNOWN};

// Instructions of classic BPF (linux/bpf_common.h) and answers of a filter (linux/seccomp.h).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL: u32 = 0x8000_0000;

// Where things are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What a call gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Always(u32),
    /// The first list that holds decides: forbidden, allowed; else unknown.
    Depends {
        forbidden: Vec<Condition>,
        allowed: Vec<Condition>,
    },
}

/// The one program of a profile.
pub(super) fn program(profile: &Profile, arch: Arch) -> BpfProgram {
    let audit = match arch {
        Arch::X86_64 => 0xc000_003e,  // AUDIT_ARCH_X86_64
        Arch::Aarch64 => 0xc000_00b7, // AUDIT_ARCH_AARCH64
    };
    let mut out = vec![step(LOAD, ARCHITECTURE), jump(EQUAL, audit, 1, 0), step(RETURN, KILL), step(LOAD, NUMBER)];
    out.extend(search(&ranges(&answers(profile, arch))));
    out
}

/// What each call that is named gets.
fn answers(profile: &Profile, arch: Arch) -> BTreeMap<u32, Answer> {
    let plain = |groups: &[Group], answer: u32| -> Vec<(u32, Answer)> {
        let here = groups.iter().filter(|group| group.arch.contains(&arch)).flat_map(|group| &group.syscalls);
        here.map(|name| (number(arch, name), Answer::Always(answer))).collect()
    };
    let depends = profile.conditional.iter().filter(|rule| rule.arch.contains(&arch)).map(|rule| {
        (number(arch, &rule.syscall), Answer::Depends { forbidden: rule.eperm.clone(), allowed: rule.any.clone() })
    });
    let (allowed, forbidden) = (plain(&profile.allow, ALLOW), plain(&profile.eperm, ERRNO | FORBIDDEN));
    allowed.into_iter().chain(forbidden).chain(depends).collect()
}

fn number(arch: Arch, name: &str) -> u32 {
    arch.number(name).and_then(|number| u32::try_from(number).ok()).expect("the profile's names were checked")
}

/// All numbers there are, as the first of each range with one answer.
fn ranges(answers: &BTreeMap<u32, Answer>) -> Vec<(u32, Answer)> {
    let unknown = Answer::Always(ERRNO | UNKNOWN);
    let mut out = vec![(0, unknown.clone())];
    let mut put = |at: u32, answer: &Answer| match out.last_mut() {
        Some((_, last)) if last == answer => {}
        Some((first, last)) if *first == at => *last = answer.clone(),
        _ => out.push((at, answer.clone())),
    };
    for (at, answer) in answers {
        put(*at, answer);
        if !answers.contains_key(&(at + 1)) {
            put(at + 1, &unknown);
        }
    }
    out
}

/// Finds the range of the number that is loaded.
fn search(ranges: &[(u32, Answer)]) -> BpfProgram {
    let (below, above) = ranges.split_at(ranges.len() / 2);
    match (below, above) {
        ([], [(_, answer)]) => answered(answer),
        (_, [(first, _), ..]) => {
            let (below, above) = (search(below), search(above));
            let mut out = match u8::try_from(below.len()) {
                Ok(length) => vec![jump(AT_LEAST, *first, length, 0)],
                Err(_) => vec![jump(AT_LEAST, *first, 0, 1), step(JUMP, length(&below))],
            };
            out.extend(below);
            out.extend(above);
            out
        }
        (_, []) => unreachable!("a half is empty only below one range"),
    }
}

fn answered(answer: &Answer) -> BpfProgram {
    match answer {
        Answer::Always(answer) => vec![step(RETURN, *answer)],
        Answer::Depends { forbidden, allowed } => {
            let forbidden = forbidden.iter().flat_map(|condition| decided(condition, ERRNO | FORBIDDEN));
            let allowed = allowed.iter().flat_map(|condition| decided(condition, ALLOW));
            forbidden.chain(allowed).chain([step(RETURN, ERRNO | UNKNOWN)]).collect()
        }
    }
}

/// The answer if a condition holds; what follows if not.
fn decided(condition: &Condition, answer: u32) -> BpfProgram {
    let mut out = match condition.mask {
        // All 64 bits: rubbish in the upper half is refused, not overlooked.
        None => exactly(condition.arg, condition.value),
        // The kernel looks at the low half alone.
        Some(mask) => vec![step(LOAD, half(condition.arg, false)), step(AND, mask), unless(low(condition.value))],
    };
    out.extend(condition.also.into_iter().flat_map(|(arg, value)| exactly(arg, value)));
    out.push(step(RETURN, answer));
    // Whatever is not equal goes past the end.
    let end = out.len();
    for (at, instruction) in out.iter_mut().enumerate().filter(|(_, i)| i.code == EQUAL) {
        instruction.jf = u8::try_from(end - at - 1).expect("a condition is short");
    }
    out
}

fn exactly(arg: u8, value: u64) -> BpfProgram {
    let high = low(value >> 32);
    vec![step(LOAD, half(arg, true)), unless(high), step(LOAD, half(arg, false)), unless(low(value))]
}

/// Where half of an argument is, on a little-endian machine.
fn half(arg: u8, high: bool) -> u32 {
    ARGUMENTS + 8 * u32::from(arg) + if high { 4 } else { 0 }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("32 bits")
}

fn length(program: &BpfProgram) -> u32 {
    u32::try_from(program.len()).expect("a few hundred instructions")
}

fn unless(k: u32) -> sock_filter {
    jump(EQUAL, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn step(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::oracle;
    use super::*;
    use std::sync::OnceLock;

    /// What the kernel does with a program: the few instructions that are used (filter.txt of the kernel).
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

    fn compiled(arch: Arch) -> &'static BpfProgram {
        static COMPILED: [OnceLock<BpfProgram>; 2] = [OnceLock::new(), OnceLock::new()];
        COMPILED[arch as usize].get_or_init(|| program(&Profile::load().unwrap(), arch))
    }

    /// What a call gets: `Ok`, or an error number.
    fn call(arch: Arch, name: &str, args: [u64; 6]) -> Result<(), u32> {
        let number = u32::try_from(arch.number(name).unwrap()).unwrap();
        match answer(compiled(arch), audit(arch), number, args) {
            ALLOW => Ok(()),
            answer => {
                assert_eq!(answer & 0xffff_0000, ERRNO, "{name}");
                Err(answer & 0xffff)
            }
        }
    }

    /// The same by seccompiler's programs together, as the kernel does it (seccomp(2)).
    fn by_seccompiler(arch: Arch, audit: u32, number: u32, args: [u64; 6]) -> u32 {
        static COMPILED: [OnceLock<Vec<BpfProgram>>; 2] = [OnceLock::new(), OnceLock::new()];
        let programs =
            COMPILED[arch as usize].get_or_init(|| oracle::programs(&Profile::load().unwrap(), arch).unwrap());
        let answers: Vec<u32> = programs.iter().map(|p| answer(p, audit, number, args)).collect();
        *answers.iter().rev().find(|answer| **answer != ALLOW).unwrap_or(&ALLOW)
    }

    /// Every number that a table of system calls may have, x32's, and the greatest.
    fn numbers() -> impl Iterator<Item = u32> {
        (0..1024).chain(0x4000_0000..0x4000_0400).chain([u32::MAX, 0x7fff_ffff, 0x8000_0000])
    }

    #[test]
    fn every_call_gets_what_seccompilers_programs_say() {
        for arch in Arch::ALL {
            let profile = Profile::load().unwrap();
            let conditions = profile.conditional.iter().flat_map(|rule| rule.any.iter().chain(&rule.eperm));
            let mut values: Vec<u64> =
                conditions.flat_map(|c| [Some(c.value), c.also.map(|(_, v)| v)]).flatten().collect();
            values.extend([u64::MAX, 0, 1]);
            values.sort_unstable();
            values.dedup();
            // Each value that a rule names, and its neighbours by one bit.
            let near: Vec<u64> =
                values.iter().flat_map(|v| (0..64).map(move |bit| v ^ (1 << bit)).chain([*v])).collect();
            let depends = |number| matches!(answers(&profile, arch).get(&number), Some(Answer::Depends { .. }));
            for number in numbers() {
                let same = |args| {
                    let is = answer(compiled(arch), audit(arch), number, args);
                    assert_eq!(is, by_seccompiler(arch, audit(arch), number, args), "{number} {args:x?}");
                };
                [0, u64::MAX].into_iter().for_each(|value| same([value; 6]));
                if depends(number) {
                    near.iter().for_each(|value| same([*value; 6]));
                    for (first, second) in near.iter().zip(near.iter().cycle().skip(7)) {
                        same([*first, *second, 0, 0, 0, 0]);
                        same([16, *first, *second, 0, 0, 0]);
                        same([*second, 0, *first, 0, 0, 0]);
                    }
                }
            }
            for other in [0, 0x4000_0003, 0xc000_003f, audit(Arch::ALL[1 - arch as usize])] {
                assert_eq!(answer(compiled(arch), other, 0, [0; 6]), by_seccompiler(arch, other, 0, [0; 6]));
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
        let program = compiled(Arch::X86_64);
        // 32-bit calls (int 0x80): another architecture.
        assert_eq!(answer(program, 0x4000_0003, 3, [0; 6]), KILL);
        // x32: read is 0x40000000.
        assert_eq!(answer(program, audit(Arch::X86_64), 0x4000_0000, [0; 6]), ERRNO | UNKNOWN);
    }

    #[test]
    fn the_program_is_short_and_most_answers_come_soon() {
        for arch in Arch::ALL {
            // The kernel takes 4,096 (BPF_MAXINSNS).
            assert!(compiled(arch).len() < 600, "{}", compiled(arch).len());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_call_gets_what_seccompilers_programs_say(
            number in proptest::num::u32::ANY,
            known in 0_u32..500,
            args in proptest::array::uniform6(proptest::num::u64::ANY),
            few in proptest::array::uniform6(0_u64..64),
        ) {
            for arch in Arch::ALL {
                for (number, args) in [(number, args), (known, args), (known, few)] {
                    let is = answer(compiled(arch), audit(arch), number, args);
                    proptest::prop_assert_eq!(is, by_seccompiler(arch, audit(arch), number, args));
                }
            }
        }

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
