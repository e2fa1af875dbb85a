//! From the profile's program to that of a rehearsal: the same answers, asked of a witness instead of given in silence.
//!
//! Takes the kept program F and what is watched (`bundles/seccomp/observed.toml`); gives a program F′ in which each error is
//! `SECCOMP_RET_USER_NOTIF` and each watched call is one too (seccomp_unotify(2)); trusts F; refuses a list that is malformed.
//!
//! The witness evaluates F itself on the registers of a call that it is told of, and answers what F says. So a call gets in a
//! rehearsal what it gets in a run, by construction: the tests below hold the two against each other for every call number. Where
//! nobody answers (the witness is killed), the kernel does, with `ENOSYS`: never with permission.

use seccompiler::{BpfProgram, sock_filter};

use super::bpf::{
    ALLOW, AND, ARCHITECTURE, ARGUMENTS, AT_LEAST, EQUAL, ERRNO, JUMP, LOAD, NUMBER, RETURN, audit, compared, jump,
    step,
};
use super::groups::{Comparison, comparison, malformed, text_of};
use super::{Arch, UNKNOWN};
use crate::error::Result;
use crate::policy::reader::Table;

const OBSERVED: (&str, &str) =
    ("bundles/seccomp/observed.toml", include_str!("../../../bundles/seccomp/observed.toml"));

/// The answer "ask the witness" (linux/seccomp.h, `SECCOMP_RET_USER_NOTIF`).
pub(super) const NOTIFY: u32 = 0x7fc0_0000;
/// What of an answer says its kind; the rest is its value (`SECCOMP_RET_ACTION_FULL`).
const ACTION: u32 = 0xffff_0000;

/// A system call as a filter sees it: registers alone (`struct seccomp_data`, without the instruction pointer, which no rule of
/// ours reads).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// What F says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The kernel takes it.
    Allow,
    /// It fails with this error number.
    Errno(u32),
}

/// Calls that are watched, with one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Watch {
    syscalls: Vec<String>,
    /// With one of these arguments the call is of no interest.
    unless: Vec<Comparison>,
}

/// The program of a rehearsal for this machine; `paths` watches what is opened and looked for, too.
///
/// # Errors
/// When there is no profile for this machine.
pub fn program(paths: bool) -> Result<BpfProgram> {
    let arch = Arch::native()?;
    observe(&super::compiled::program(arch)?, &watched(paths)?, arch)
}

/// What F says of a call that the witness was told of. A call that F would kill the process for is never told (F′ kills as well),
/// and a program that makes no sense allows nothing.
pub fn decide(filter: &[sock_filter], call: &Call) -> Decision {
    match answer(filter, call) {
        Some(ALLOW) => Decision::Allow,
        Some(answer) if answer & ACTION == ERRNO => Decision::Errno(answer & !ACTION),
        _ => Decision::Errno(UNKNOWN),
    }
}

/// What is watched; those of `paths` first, for they take in more.
fn watched(paths: bool) -> Result<Vec<Watch>> {
    let mut top = Table::parse(OBSERVED.1, OBSERVED.0)?;
    let (wider, always) = (watches(&mut top, "paths")?, watches(&mut top, "always")?);
    top.finish()?;
    Ok(if paths { wider.into_iter().chain(always).collect() } else { always })
}

fn watches(top: &mut Table<'_>, key: &'static str) -> Result<Vec<Watch>> {
    let tables = top.tables(key)?.map(|rule| rule.value).unwrap_or_default();
    tables
        .into_iter()
        .map(|mut table| {
            let origin = table.origin("syscalls");
            text_of(&mut table, "name")?;
            text_of(&mut table, "reason")?;
            let syscalls = table.strings("syscalls")?.map(|rule| rule.value).unwrap_or_default();
            let known = |name: &String| Arch::ALL.into_iter().any(|arch| arch.number(name).is_some());
            if syscalls.is_empty() || !syscalls.iter().all(known) {
                return Err(malformed(format!("{origin} names a call that no architecture has, or none")));
            }
            let mut unless = Vec::new();
            for mut one in table.tables("unless")?.map(|rule| rule.value).unwrap_or_default() {
                unless.push(comparison(&mut one, &origin)?);
                one.finish()?;
            }
            table.finish()?;
            Ok(Watch { syscalls, unless })
        })
        .collect()
}

/// F′: first the calls that are watched, then F with every error a notification.
fn observe(filter: &BpfProgram, watched: &[Watch], arch: Arch) -> Result<BpfProgram> {
    // Jumps to F have their distance only when all that stands before it is there.
    let to_filter = step(JUMP, u32::MAX);
    let mut out = vec![step(LOAD, ARCHITECTURE), jump(EQUAL, audit(arch), 1, 0), to_filter.clone(), step(LOAD, NUMBER)];
    for (name, unless) in watched.iter().flat_map(|watch| watch.syscalls.iter().map(|name| (name, &watch.unless))) {
        let Some(number) = arch.number(name).and_then(|number| u32::try_from(number).ok()) else { continue };
        let mut body = Vec::new();
        for one in unless {
            let mut part = compared(one);
            // What is not equal goes past the jump.
            let past = part.len() + 1;
            for (at, instruction) in part.iter_mut().enumerate().filter(|(_, i)| i.code == EQUAL) {
                instruction.jf = distance(past - at - 1)?;
            }
            body.extend(part);
            body.push(to_filter.clone());
        }
        body.push(step(RETURN, NOTIFY));
        out.push(jump(EQUAL, number, 0, distance(body.len())?));
        out.extend(body);
    }
    let length = out.len();
    for (at, instruction) in out.iter_mut().enumerate().filter(|(_, i)| **i == to_filter) {
        instruction.k = u32::from(u16::try_from(length - at - 1).map_err(|_| malformed("too much is watched"))?);
    }
    let told = |i: &sock_filter| i.code == RETURN && i.k & ACTION == ERRNO;
    out.extend(filter.iter().map(|i| if told(i) { step(RETURN, NOTIFY) } else { i.clone() }));
    Ok(out)
}

fn distance(instructions: usize) -> Result<u8> {
    u8::try_from(instructions).map_err(|_| malformed("a watched call has a long condition"))
}

/// What the kernel does with a program: the few instructions that ours have (kernel docs: networking/filter). None for a program
/// that ends without an answer, or has other instructions.
pub(super) fn answer(program: &[sock_filter], call: &Call) -> Option<u32> {
    let (mut at, mut a) = (0_usize, 0_u32);
    loop {
        let i = program.get(at)?;
        at += 1;
        let choose = |holds: bool| usize::from(if holds { i.jt } else { i.jf });
        match i.code {
            LOAD => a = load(call, i.k)?,
            AND => a &= i.k,
            JUMP => at = at.checked_add(usize::try_from(i.k).ok()?)?,
            EQUAL => at += choose(a == i.k),
            AT_LEAST => at += choose(a >= i.k),
            RETURN => return Some(i.k),
            // "Greater than", which seccompiler's programs have.
            #[cfg(test)]
            0x25 => at += choose(a > i.k),
            _ => return None,
        }
    }
}

/// A word of `struct seccomp_data`, on a little-endian machine.
fn load(call: &Call, offset: u32) -> Option<u32> {
    match offset {
        NUMBER => Some(call.number),
        ARCHITECTURE => Some(call.arch),
        _ => {
            let word = offset.checked_sub(ARGUMENTS).filter(|past| past % 4 == 0)? / 4;
            let argument = call.args.get(usize::try_from(word / 2).ok()?)?;
            let half = if word % 2 == 1 { argument >> 32 } else { argument & 0xffff_ffff };
            u32::try_from(half).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::bpf::KILL;
    use super::super::{Profile, bpf};
    use super::*;

    /// Every number that a table of system calls may have, x32's, and the greatest.
    fn numbers() -> impl Iterator<Item = u32> {
        (0..1024).chain(0x4000_0000..0x4000_0400).chain([u32::MAX, 0x7fff_ffff, 0x8000_0000])
    }

    /// Calls of which an argument decides something, by their numbers.
    fn depending(arch: Arch) -> BTreeSet<u32> {
        let rules = Profile::load().unwrap().conditional.into_iter().flat_map(|rule| rule.syscalls);
        let watched = watched(true).unwrap().into_iter().filter(|watch| !watch.unless.is_empty());
        let names = rules.chain(watched.flat_map(|watch| watch.syscalls));
        names.filter_map(|name| u32::try_from(arch.number(&name)?).ok()).collect()
    }

    /// Arguments at which some rule of the profile or of what is watched decides otherwise, and all others alike.
    fn arguments() -> Vec<[u64; 6]> {
        let profile = Profile::load().unwrap();
        let rules =
            profile.conditional.iter().flat_map(|rule| rule.listed().map(|(c, _)| c.clone()).collect::<Vec<_>>());
        let mut all: Vec<Comparison> = rules.flat_map(|condition| condition.all).collect();
        all.extend(watched(true).unwrap().into_iter().flat_map(|watch| watch.unless));
        all.dedup();
        let mut out = vec![[0; 6], [u64::MAX; 6], [1 << 32; 6]];
        for rest in [0, u64::MAX] {
            for one in &all {
                let mut args = [rest; 6];
                args[usize::from(one.arg)] = rest & !one.mask | one.value;
                out.push(args);
                args[usize::from(one.arg)] ^= 1 << one.mask.trailing_zeros();
                out.push(args);
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    #[test]
    fn a_rehearsal_gives_every_call_the_answer_of_a_run_on_both_architectures() {
        for arch in Arch::ALL {
            let filter = bpf::program(&Profile::load().unwrap(), arch);
            let (all, depending) = (arguments(), depending(arch));
            for paths in [false, true] {
                let observed = observe(&filter, &watched(paths).unwrap(), arch).unwrap();
                // The kernel takes 4,096 (BPF_MAXINSNS).
                assert!(observed.len() < 1000, "{}", observed.len());
                for other in [audit(arch), 0, 0x4000_0003, audit(Arch::ALL[1 - arch as usize])] {
                    for number in numbers() {
                        // Of all others no argument is looked at.
                        let of_it = if depending.contains(&number) { &all[..] } else { &[[0; 6], [u64::MAX; 6]] };
                        for args in of_it {
                            let call = Call { number, arch: other, args: *args };
                            let (must, is) = (answer(&filter, &call).unwrap(), answer(&observed, &call).unwrap());
                            if is == NOTIFY {
                                let told = match decide(&filter, &call) {
                                    Decision::Allow => ALLOW,
                                    Decision::Errno(errno) => ERRNO | errno,
                                };
                                assert_eq!(told, must, "{call:x?}");
                            } else {
                                // In silence nothing but what F allows, or kills for.
                                assert!(is == must && (is == ALLOW || is == KILL), "{call:x?}: {is:x} {must:x}");
                            }
                        }
                        if other != audit(arch) {
                            break;
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_watched_is_told_and_what_is_of_no_interest_is_not() {
        for arch in Arch::ALL {
            let filter = bpf::program(&Profile::load().unwrap(), arch);
            let program = |paths| observe(&filter, &watched(paths).unwrap(), arch).unwrap();
            let (light, whole) = (program(false), program(true));
            let told = |program: &BpfProgram, name: &str, args: [u64; 6]| {
                let number = u32::try_from(arch.number(name).unwrap()).unwrap();
                answer(program, &Call { number, arch: audit(arch), args }) == Some(NOTIFY)
            };
            for name in ["connect", "sendmmsg", "bind", "execve", "setresuid", "mkdirat", "fchownat", "unlinkat", "bpf"]
            {
                assert!(told(&light, name, [0; 6]) && told(&whole, name, [0; 6]), "{name}");
            }
            for name in ["read", "write", "exit_group", "close", "futex", "recvmsg"] {
                assert!(!told(&light, name, [0; 6]) && !told(&whole, name, [0; 6]), "{name}");
            }
            for (name, args, in_light, in_whole) in [
                ("sendto", [3, 1, 1, 0, 0, 0], false, false),
                ("sendto", [3, 1, 1, 0, 1, 16], true, true),
                ("socket", [2, 1, 6, 0, 0, 0], false, false),
                ("socket", [2, 0x80002, 17, 0, 0, 0], false, false),
                ("socket", [2, 3, 1, 0, 0, 0], true, true),
                ("socket", [10, 0x80803, 58, 0, 0, 0], true, true),
                ("sendmsg", [3, 1, 0, 0, 0, 0], true, true),
                ("sendmsg", [3, 1, 0x4010, 0, 0, 0], false, false),
                ("openat", [0, 1, 0, 0, 0, 0], false, true),
                ("openat", [0, 1, 0o100, 0o644, 0, 0], true, true),
                ("openat", [0, 1, 1, 0, 0, 0], true, true),
                ("newfstatat", [3, 1, 1, 0, 0, 0], false, true),
                ("newfstatat", [3, 1, 1, 0x1000, 0, 0], false, false),
            ] {
                assert_eq!(told(&light, name, args), in_light, "{name} {args:x?}");
                assert_eq!(told(&whole, name, args), in_whole, "{name} {args:x?}");
            }
        }
    }

    #[test]
    fn a_program_that_makes_no_sense_allows_nothing() {
        let call = Call { number: 0, arch: audit(Arch::X86_64), args: [0; 6] };
        for program in [
            vec![],
            vec![step(LOAD, NUMBER)],
            vec![step(LOAD, 2), step(RETURN, ALLOW)],
            vec![step(LOAD, 64), step(RETURN, ALLOW)],
            vec![step(JUMP, u32::MAX), step(RETURN, ALLOW)],
            vec![step(0x61, 0), step(RETURN, ALLOW)],
            vec![step(RETURN, KILL)],
            vec![step(RETURN, NOTIFY)],
        ] {
            assert_eq!(decide(&program, &call), Decision::Errno(UNKNOWN), "{program:?}");
        }
    }

    #[test]
    fn a_list_that_is_malformed_is_refused() {
        for text in [
            "[[always]]\nname = \"n\"\nreason = \"r\"\nsyscalls = []",
            "[[always]]\nname = \"n\"\nreason = \"r\"\nsyscalls = [\"raed\"]",
            "[[always]]\nname = \"n\"\nsyscalls = [\"read\"]",
            "[[always]]\nname = \"n\"\nreason = \"r\"\nsyscalls = [\"read\"]\nunless = [{ arg = 9, eq = 1 }]",
            "[[always]]\nname = \"n\"\nreason = \"r\"\nsyscalls = [\"read\"]\nallow = true",
        ] {
            assert!(watches(&mut Table::parse(text, "f").unwrap(), "always").is_err(), "{text}");
        }
    }
}
