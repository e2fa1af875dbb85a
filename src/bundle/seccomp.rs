//! Which system calls the payload may make.
//!
//! Takes `bundles/seccomp/*`, compiled in; gives a BPF program for the kernel and the same rules for `config.json`; trusts
//! those files (they are tested); refuses names an architecture does not have and comparisons other than two.
//!
//! ces installs the program itself, the last thing before the payload's parent. It is compiled when the profile changes
//! and kept beside it, so that a run neither compiles nor has a file to trust.

use oci_spec::runtime::LinuxSeccomp;
use seccompiler::BpfProgram;

use crate::error::{Error, Kind, Result, Stage};

/// From rules to BPF: what the kept program is held against.
mod bpf;
/// The program, as it is kept.
mod compiled;
/// A rule as cases of which exactly one holds.
mod cover;
/// The files' contents.
mod groups;
/// From the profile's program to that of a rehearsal.
pub mod observed;
/// From rules to BPF by seccompiler: what ours is held against.
#[cfg(test)]
mod oracle;
/// From rules to the form of the runtime spec.
mod portable;

pub use groups::{Answer, Comparison, Condition, Group, Profile, Rule};

/// What a call that is not named fails with.
pub const UNKNOWN: u32 = 38;
/// What a call that is named as forbidden fails with.
pub const FORBIDDEN: u32 = 1;

/// Architectures with a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// `x86_64`
    X86_64,
    /// `aarch64`
    Aarch64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// This machine's.
    ///
    /// # Errors
    /// When there is no profile for it.
    pub fn native() -> Result<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == std::env::consts::ARCH).ok_or_else(|| {
            Error::new(Stage::Bundle, Kind::Host, format!("there is no seccomp profile for {}", std::env::consts::ARCH))
                .hint("ces runs on x86_64 and aarch64")
        })
    }

    /// Its name, as Rust and the profile's files say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The number of a system call.
    pub fn number(self, name: &str) -> Option<i64> {
        let number = match self {
            Self::X86_64 => name.parse::<syscalls::x86_64::Sysno>().ok().map(|call| call.id()),
            // The table calls it `fstatat`; the kernel (asm-generic/unistd.h) and libseccomp do not.
            Self::Aarch64 if name == "newfstatat" => Some(79),
            Self::Aarch64 => name.parse::<syscalls::aarch64::Sysno>().ok().map(|call| call.id()),
        };
        number.map(i64::from)
    }
}

/// The name of a system call of this machine; none for a number that has none.
pub fn name_of(number: u32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match Arch::native().ok()? {
        Arch::X86_64 => syscalls::x86_64::Sysno::new(number).map(|call| call.name()),
        Arch::Aarch64 if number == 79 => Some("newfstatat"),
        Arch::Aarch64 => syscalls::aarch64::Sysno::new(number).map(|call| call.name()),
    }
}

/// The program for this machine, to be installed before the payload starts.
///
/// # Errors
/// When there is none for this machine.
pub fn program() -> Result<BpfProgram> {
    compiled::program(Arch::native()?)
}

/// The program for the relay of published ports: what faces the payload can do no more than pass bytes on.
///
/// # Errors
/// When the profile is malformed, or there is none for this machine.
pub fn compile_relay() -> Result<BpfProgram> {
    Ok(bpf::program(&Profile::relay()?, Arch::native()?))
}

/// The program for the witness of a rehearsal: what reads the payload's memory can answer and write down, and no more.
///
/// # Errors
/// When the profile is malformed, or there is none for this machine.
pub fn compile_witness() -> Result<BpfProgram> {
    Ok(bpf::program(&Profile::witness()?, Arch::native()?))
}

/// The same rules for `config.json`, as runc and crun read them.
///
/// # Errors
/// When the profile is malformed.
pub fn to_oci(arch: Arch) -> Result<LinuxSeccomp> {
    portable::build(&Profile::load()?, arch)
}
