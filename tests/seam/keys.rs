//! Keys of whoever calls ces: looked for in a created container, in the last moment before its filter refuses every such call.
#![allow(unsafe_code, reason = "calls that no library has")]

use std::fs;
use std::io::Error;
use std::os::unix::ffi::OsStrExt as _;

use libc::{c_char, c_int, c_long};

/// By this word a run says that keys are to be looked for.
pub const LOOK: &str = "keys";
/// The variable of ces's environment by which a test says that it keeps the caller's session keyring.
pub const KEPT: &str = "CES_KEYS_KEPT";
/// What was found, among the outputs.
pub const FOUND: &str = "keys";

pub const JOIN_SESSION_KEYRING: c_int = 1;
const SEARCH: c_int = 10;
const SESSION_KEYRING: c_int = -3;
const NAME: &std::ffi::CStr = c"ces-seam-canary";

/// Gives this process a session keyring of its own, with a key in it.
pub fn plant() {
    let (kind, secret) = (c"user", b"secret");
    // SAFETY: constant strings, and a null name that asks for a new keyring.
    let planted = unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<c_char>());
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), NAME.as_ptr(), secret.as_ptr(), secret.len(), SESSION_KEYRING)
    };
    assert!(planted > 0, "a key: {}", Error::last_os_error());
    assert!(search() > 0, "the key that was planted");
}

/// Looks for that key, and says in the outputs what there was.
pub fn look() {
    let found = if search() > 0 { "found".to_owned() } else { Error::last_os_error().to_string() };
    fs::write(std::path::Path::new("/safe_outputs").join(FOUND), found).unwrap();
}

/// Whether a test says that the caller's session keyring is kept.
pub fn are_kept() -> bool {
    std::env::var_os(KEPT).is_some_and(|kept| !kept.as_bytes().is_empty())
}

fn search() -> c_long {
    // SAFETY: constant strings.
    unsafe { libc::syscall(libc::SYS_keyctl, SEARCH, SESSION_KEYRING, c"user".as_ptr(), NAME.as_ptr(), 0) }
}
