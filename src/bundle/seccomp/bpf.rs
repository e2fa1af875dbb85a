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

use super::groups::{Answer, Comparison};
use super::{Arch, Condition, Group, Profile, Rule, UNKNOWN};

// Instructions of classic BPF (linux/bpf_common.h) and answers of a filter (linux/seccomp.h).
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const EQUAL: u16 = 0x15;
pub(super) const AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;
pub(super) const KILL: u32 = 0x8000_0000;

// Where things are in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

/// What a number gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Gets {
    Always(u32),
    /// The first condition that holds decides; else the last.
    Depends(Vec<(Condition, u32)>, u32),
}

/// The one program of a profile.
pub(super) fn program(profile: &Profile, arch: Arch) -> BpfProgram {
    let mut out =
        vec![step(LOAD, ARCHITECTURE), jump(EQUAL, audit(arch), 1, 0), step(RETURN, KILL), step(LOAD, NUMBER)];
    out.extend(search(&ranges(&answers(profile, arch))));
    out
}

/// `AUDIT_ARCH_*` (linux/audit.h).
pub(super) fn audit(arch: Arch) -> u32 {
    match arch {
        Arch::X86_64 => 0xc000_003e,
        Arch::Aarch64 => 0xc000_00b7,
    }
}

/// What each call that is named gets.
fn answers(profile: &Profile, arch: Arch) -> BTreeMap<u32, Gets> {
    let plain = |(group, answer): (&Group, u32)| -> Vec<(u32, Gets)> {
        let here = group.syscalls.iter().filter(|_| group.arch.contains(&arch));
        here.map(|name| (number(arch, name), Gets::Always(answer))).collect()
    };
    let rules = profile.conditional.iter().filter(|rule| rule.arch.contains(&arch));
    let depends = rules.flat_map(|rule| rule.syscalls.iter().map(move |name| (number(arch, name), gets(rule))));
    let allowed = profile.allow.iter().map(|group| (group, ALLOW));
    let closed = profile.closed.iter().map(|(group, errno)| (group, ERRNO | errno));
    allowed.chain(closed).flat_map(plain).chain(depends).collect()
}

/// A program has an order, so that a rule is taken as it stands.
fn gets(rule: &Rule) -> Gets {
    let listed = rule.listed().map(|(condition, answer)| (condition.clone(), value(answer)));
    Gets::Depends(listed.collect(), value(rule.otherwise))
}

fn value(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => ALLOW,
        Answer::Errno(errno) => ERRNO | errno,
    }
}

fn number(arch: Arch, name: &str) -> u32 {
    arch.number(name).and_then(|number| u32::try_from(number).ok()).expect("the profile's names were checked")
}

/// All numbers there are, as the first of each range with one answer.
fn ranges(answers: &BTreeMap<u32, Gets>) -> Vec<(u32, Gets)> {
    let unknown = Gets::Always(ERRNO | UNKNOWN);
    let mut out = vec![(0, unknown.clone())];
    let mut put = |at: u32, answer: &Gets| match out.last_mut() {
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
fn search(ranges: &[(u32, Gets)]) -> BpfProgram {
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

fn answered(answer: &Gets) -> BpfProgram {
    match answer {
        Gets::Always(answer) => vec![step(RETURN, *answer)],
        Gets::Depends(listed, otherwise) => {
            let listed = listed.iter().flat_map(|(condition, answer)| decided(condition, *answer));
            listed.chain([step(RETURN, *otherwise)]).collect()
        }
    }
}

/// The answer if a condition holds; what follows if not.
fn decided(condition: &Condition, answer: u32) -> BpfProgram {
    let mut out: BpfProgram = condition.all.iter().flat_map(compared).collect();
    out.push(step(RETURN, answer));
    // Whatever is not equal goes past the end.
    let end = out.len();
    for (at, instruction) in out.iter_mut().enumerate().filter(|(_, i)| i.code == EQUAL) {
        instruction.jf = u8::try_from(end - at - 1).expect("a condition is short");
    }
    out
}

/// Those halves that have a bit in the mask.
pub(super) fn compared(one: &Comparison) -> BpfProgram {
    let halves = [(true, one.mask >> 32, one.value >> 32), (false, one.mask, one.value)];
    halves
        .into_iter()
        .map(|(high, mask, value)| (half(one.arg, high), low(mask), low(value)))
        .filter(|(_, mask, _)| *mask != 0)
        .flat_map(|(at, mask, value)| {
            let masked = (mask != u32::MAX).then(|| step(AND, mask));
            [Some(step(LOAD, at)), masked, Some(unless(value))].into_iter().flatten()
        })
        .collect()
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

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

pub(super) fn step(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::super::FORBIDDEN;
    use super::super::observed::Call;
    use super::super::{cover, observed, oracle};
    use super::*;
    use std::sync::OnceLock;

    /// What the kernel does with a program.
    fn answer(program: &BpfProgram, arch: u32, number: u32, args: [u64; 6]) -> u32 {
        observed::answer(program, &Call { number, arch, args }).expect("an answer")
    }

    /// EPROTONOSUPPORT and ENOTTY.
    const PROTOCOL: u32 = 93;
    /// EAFNOSUPPORT.
    const FAMILY: u32 = 97;
    const TERMINAL: u32 = 25;
    const HIGH: u64 = 1 << 32;

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
            for number in numbers() {
                for args in [[0; 6], [u64::MAX; 6]] {
                    let is = answer(compiled(arch), audit(arch), number, args);
                    assert_eq!(is, by_seccompiler(arch, audit(arch), number, args), "{number} {args:x?}");
                }
            }
            for other in [0, 0x4000_0003, 0xc000_003f, audit(Arch::ALL[1 - arch as usize])] {
                assert_eq!(answer(compiled(arch), other, 0, [0; 6]), by_seccompiler(arch, other, 0, [0; 6]));
            }
        }
    }

    /// Arguments for which a condition holds, and those that differ from them by one bit.
    fn near(condition: &Condition) -> Vec<[u64; 6]> {
        let mut out = Vec::new();
        for rest in [0, u64::MAX] {
            let mut args = [rest; 6];
            for one in &condition.all {
                args[usize::from(one.arg)] = rest & !one.mask | one.value;
            }
            out.push(args);
            for (one, bit) in condition.all.iter().flat_map(|one| (0..64).map(move |bit| (one, bit))) {
                let mut args = args;
                args[usize::from(one.arg)] ^= 1 << bit;
                out.push(args);
            }
        }
        out
    }

    #[test]
    fn where_arguments_decide_the_program_the_rule_and_seccompilers_programs_say_the_same() {
        for arch in Arch::ALL {
            for rule in Profile::load().unwrap().conditional.iter().filter(|rule| rule.arch.contains(&arch)) {
                let cases = cover::cases(rule).into_iter().map(|(condition, _)| condition);
                let conditions: Vec<Condition> = rule.listed().map(|(c, _)| c.clone()).chain(cases).collect();
                for name in &rule.syscalls {
                    for args in conditions.iter().flat_map(near) {
                        let is = answer(compiled(arch), audit(arch), number(arch, name), args);
                        assert_eq!(is, value(rule.answer(args)), "{name} {args:x?}");
                        assert_eq!(is, by_seccompiler(arch, audit(arch), number(arch, name), args), "{name} {args:x?}");
                    }
                }
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
            for name in ["read", "write", "readv", "newfstatat", "execve", "futex", "mmap", "exit_group", "getrandom"] {
                assert_eq!(call(arch, name, [u64::MAX; 6]), Ok(()), "{name}");
            }
            for name in ["mount", "bpf", "ptrace", "unshare", "setns", "perf_event_open", "chroot", "reboot"] {
                assert_eq!(call(arch, name, [0; 6]), Err(FORBIDDEN), "{name}");
            }
            for name in ["splice", "vmsplice", "tee"] {
                assert_eq!(call(arch, name, [0; 6]), Err(22), "{name}");
            }
            for name in ["clone3", "io_uring_setup", "keyctl", "add_key", "memfd_secret", "io_setup", "openat2"] {
                assert_eq!(call(arch, name, [0; 6]), Err(UNKNOWN), "{name}");
            }
        }
    }

    #[test]
    fn arguments_decide_and_bits_above_cannot_hide_them() {
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
            for family in [0, 3, 15, 17, 31, 38, 40, 40 | HIGH, HIGH, 44, 46 | HIGH << 31] {
                assert_eq!(call(arch, "socket", arg(0, family)), Err(FAMILY), "{family}");
            }
            assert_eq!(call(arch, "socket", arg(0, u64::MAX)), Err(UNKNOWN));
            // Of netlink, the protocol that programs list their interfaces with, and none that tells of the host.
            for protocol in [0, 6, 9, 15, 16, 9 | HIGH, HIGH] {
                let result = call(arch, "socket", [16, 3, protocol, 0, 0, 0]);
                assert_eq!(result, if protocol & 31 == 0 { Ok(()) } else { Err(PROTOCOL) }, "{protocol}");
                assert_eq!(call(arch, "socket", [1, 1, protocol, 0, 0, 0]), Ok(()));
            }
            for family in [2, 10] {
                for protocol in [0, 6, 17, HIGH | 6] {
                    assert_eq!(call(arch, "socket", [family, 1, protocol, 0, 0, 0]), Ok(()), "{protocol}");
                }
                // ICMP (of both), DCCP, SCTP, UDP-Lite, raw, SMC, MPTCP.
                for protocol in [1, 58, 33, 132, 136, 255, 256, 262] {
                    for protocol in [protocol, protocol | HIGH, protocol | HIGH << 31] {
                        let result = call(arch, "socket", [family, 1, protocol, 0, 0, 0]);
                        assert_eq!(result, Err(PROTOCOL), "{protocol:#x}");
                    }
                }
                assert_eq!(call(arch, "socket", [family, 1, 512, 0, 0, 0]), Err(FAMILY));
            }
            for command in [0x5412, 0x541C, 0x5412 | HIGH, 0x541C | HIGH << 7, 0xffff_ffff_0000_5412] {
                assert_eq!(call(arch, "ioctl", arg(1, command)), Err(FORBIDDEN), "{command:#x}");
            }
            for command in [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602, 0x4004_7602, 0x800c_6613, 0x4080_6685] {
                for command in [command, command | HIGH, command | HIGH << 31, command | 0xffff_ffff_0000_0000] {
                    assert_eq!(call(arch, "ioctl", arg(1, command)), Err(TERMINAL), "{command:#x}");
                }
            }
            // Terminals, bytes that wait, reading flags, versions and projects, cloning, punching holes.
            for command in [
                0x5401,
                0x5413,
                0x541B,
                0x5421,
                0x8004_5430,
                0x5401 | HIGH,
                0x8008_6601,
                0x8008_7601,
                0x801c_581f,
                0x4004_9409,
                0xc020_660b,
            ] {
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
            for persona in [0, 8, 0x20008, 0xffff_ffff] {
                assert_eq!(call(arch, "personality", arg(0, persona)), Ok(()), "{persona:#x}");
            }
            for persona in [0x40000, 0x400000, HIGH] {
                assert_eq!(call(arch, "personality", arg(0, persona)), Err(UNKNOWN), "{persona:#x}");
            }
        }
        assert_eq!(call(Arch::X86_64, "mknod", arg(1, 0o020644)), Err(FORBIDDEN));
        assert_eq!(call(Arch::Aarch64, "mknodat", arg(2, 0o060644)), Err(FORBIDDEN));
    }

    #[test]
    fn no_mode_has_a_set_id_bit_and_none_is_looked_at_where_no_file_is_made() {
        for arch in Arch::ALL {
            let x86 = [("chmod", 1), ("creat", 1), ("mknod", 1)];
            let all = [("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("mknodat", 2)];
            for (name, at) in all.into_iter().chain(x86.into_iter().filter(|_| arch == Arch::X86_64)) {
                for mode in [0, 0o644, 0o755, 0o1777, 0o777 | HIGH] {
                    assert_eq!(call(arch, name, arg(at, mode)), Ok(()), "{name} {mode:o}");
                }
                for mode in [0o4755, 0o2755, 0o6711, 0o7777, 0o4000, 0o2000, 0o2755 | HIGH, 0o104755, u64::MAX] {
                    assert_eq!(call(arch, name, arg(at, mode)), Err(FORBIDDEN), "{name} {mode:o}");
                }
            }
            for (name, at) in [("openat", 2), ("open", 1)].into_iter().take(if arch == Arch::X86_64 { 2 } else { 1 }) {
                let open = |flags: u64, mode: u64| {
                    let mut args = [u64::MAX; 6];
                    (args[at], args[at + 1]) = (flags, mode);
                    call(arch, name, args)
                };
                // O_RDONLY; O_WRONLY | O_TRUNC; O_DIRECTORY | O_CLOEXEC, which is the other half of O_TMPFILE; O_PATH.
                for flags in [0, 0o1001, 0o2200000, 0o10000000] {
                    for mode in [0, 0o6777, 0xdead_beef, u64::MAX] {
                        assert_eq!(open(flags, mode), Ok(()), "{name} {flags:o} {mode:o}");
                        assert_eq!(open(flags | HIGH, mode), Ok(()), "{name} {flags:o} {mode:o}");
                    }
                }
                // O_CREAT | O_WRONLY; O_TMPFILE | O_RDWR; its own bit alone; both.
                for flags in [0o101, 0o20200002, 0o20000000, 0o20200102] {
                    for flags in [flags, flags | HIGH] {
                        for mode in [0, 0o600, 0o1777, 0o644 | HIGH] {
                            assert_eq!(open(flags, mode), Ok(()), "{name} {flags:o} {mode:o}");
                        }
                        for mode in [0o4755, 0o2755, 0o6755, 0o4000 | HIGH, 0o102755, u64::MAX] {
                            assert_eq!(open(flags, mode), Err(FORBIDDEN), "{name} {flags:o} {mode:o}");
                        }
                    }
                }
            }
        }
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
        fn an_ioctl_is_allowed_unless_it_is_one_of_a_few(command in proptest::num::u64::ANY, low in 0_u64..0x1_0000) {
            for command in [command, command & !0xffff_ffff | low, command & !0xffff | low] {
                let low = command & 0xffff_ffff;
                let flags = [0x6602, 0x6604, 0x7602, 0x5820, 0x6613, 0x6685].contains(&(low & 0xffff));
                let ok = low != 0x5412 && low != 0x541C && !flags;
                proptest::prop_assert_eq!(call(Arch::X86_64, "ioctl", arg(1, command)).is_ok(), ok);
            }
        }
    }
}
