//! How the program is linked, so that it starts quickly: a run starts it twice.
//!
//! The C compiler's unwinder is part of it: looking for, mapping and relocating `libgcc_s.so` costs as much each time as the
//! kernel takes to fork. Where there is no static one, the shared one serves as ever. Its 20,000 relative relocations are packed
//! (`DT_RELR`): half a megabyte less to read each time. C libraries before glibc 2.36 do not know that. `CES_GLIBC` names the version for
//! which the program is built, where that is an older one than this host's (`scripts/package`): its linker has an unwinder of its own.

#![allow(clippy::print_stdout, reason = "that is how cargo is told")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    println!("cargo:rerun-if-env-changed=CES_GLIBC");
    if let Some(directory) = unwinder() {
        println!("cargo:rustc-link-search=native={}", directory.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
    if c_library().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bin=ces=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the GNU C library that the program will meet; none for another machine's than this one.
fn c_library() -> Option<(u32, u32)> {
    if std::env::var_os("HOST") != std::env::var_os("TARGET") {
        return None;
    }
    let text = match std::env::var("CES_GLIBC") {
        Ok(version) => version,
        Err(_) => {
            let answer = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
            String::from_utf8(answer.stdout).ok()?.trim().strip_prefix("glibc ")?.to_owned()
        }
    };
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Where the compiler that links has its `libgcc_eh.a`; none for another machine's than this one.
fn unwinder() -> Option<PathBuf> {
    if std::env::var_os("HOST") != std::env::var_os("TARGET") || std::env::var_os("CES_GLIBC").is_some() {
        return None;
    }
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let answer = Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    // The name alone: it has none.
    path.is_absolute().then(|| path.parent().map(Path::to_path_buf)).flatten()
}
