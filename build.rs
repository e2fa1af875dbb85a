//! Links the C compiler's unwinder into the program instead of loading it with every start.
//!
//! A run starts this program twice, and looking for, mapping and relocating `libgcc_s.so` costs as much each time as the
//! kernel takes to fork. Where there is no static one, the shared one serves as ever.

#![allow(clippy::print_stdout, reason = "that is how cargo is told")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    if let Some(directory) = unwinder() {
        println!("cargo:rustc-link-search=native={}", directory.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}

/// Where the compiler that links has its `libgcc_eh.a`; none for another machine's than this one.
fn unwinder() -> Option<PathBuf> {
    if std::env::var_os("HOST") != std::env::var_os("TARGET") {
        return None;
    }
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let answer = Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    // The name alone: it has none.
    path.is_absolute().then(|| path.parent().map(Path::to_path_buf)).flatten()
}
