//! The program as it is kept in `bundles/seccomp/`: compiled once, when the profile is changed.
//!
//! Takes text; gives a BPF program; trusts it as it trusts the profile (both are compiled in); refuses what is not four
//! numbers a line. A test keeps the two equal: no file that a run would have to trust, and no compiling at each start.
//!
//! One instruction a line, `code jt jf k` in decimal, as `tcpdump -ddd` prints and bpf(4) names them; `#` begins a comment.

use seccompiler::{BpfProgram, sock_filter};

use super::Arch;
use crate::error::{Error, Kind, Result, Stage};

const X86_64: (&str, &str) = ("bundles/seccomp/x86_64.bpf", include_str!("../../../bundles/seccomp/x86_64.bpf"));
const AARCH64: (&str, &str) = ("bundles/seccomp/aarch64.bpf", include_str!("../../../bundles/seccomp/aarch64.bpf"));

/// The program of an architecture.
pub(super) fn program(arch: Arch) -> Result<BpfProgram> {
    let (file, text) = of(arch);
    read(text).filter(|program| !program.is_empty()).ok_or_else(|| {
        Error::new(Stage::Bundle, Kind::Failed, format!("{file} holds something that is no BPF program"))
    })
}

fn of(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => X86_64,
        Arch::Aarch64 => AARCH64,
    }
}

fn read(text: &str) -> Option<BpfProgram> {
    text.lines().filter(|line| !line.starts_with('#')).map(instruction).collect()
}

fn instruction(line: &str) -> Option<sock_filter> {
    let mut numbers = line.split(' ');
    let mut next = || numbers.next();
    let (code, jt, jf, k) = (next()?, next()?, next()?, next()?);
    let whole = next().is_none();
    let read = sock_filter { code: code.parse().ok()?, jt: jt.parse().ok()?, jf: jf.parse().ok()?, k: k.parse().ok()? };
    whole.then_some(read)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::{Profile, bpf};
    use super::*;

    fn show(program: &BpfProgram) -> String {
        let mut text = "# Compiled from the .toml files beside it (code jt jf k); a test tells when it is old, and how to write it anew.\n"
            .to_owned();
        for i in program {
            writeln!(text, "{} {} {} {}", i.code, i.jt, i.jf, i.k).unwrap();
        }
        text
    }

    #[test]
    fn what_is_kept_is_what_the_profile_compiles_to() {
        for arch in Arch::ALL {
            let (file, kept) = of(arch);
            let text = show(&bpf::program(&Profile::load().unwrap(), arch));
            if std::env::var_os("CES_BLESS").is_some() {
                std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/").to_owned() + file, &text).unwrap();
            } else {
                assert!(
                    kept == text,
                    "{file} is older than the profile: CES_BLESS=1 cargo test seccomp writes it anew"
                );
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for arch in Arch::ALL {
            let program = bpf::program(&Profile::load().unwrap(), arch);
            assert_eq!(read(&show(&program)).unwrap(), program);
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for text in [
            "1 2 3",
            "1 2 3 4 5",
            "a 0 0 0",
            "6 0 0 4294967296",
            "65536 0 0 0",
            "6 256 0 0",
            "6 0  0 0",
            "-6 0 0 0",
            "6 0 0 1\n\n",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        assert_eq!(read("# comment\n6 0 0 1\n6 0 0 2\n").unwrap().len(), 2);
    }
}
