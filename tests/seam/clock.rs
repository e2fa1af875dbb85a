//! A clock on the wall that is set while ces runs: forwards by a day, then back by two, over and over.
//!
//! The function below has the name of the C library's, so all of this program asks it; every other clock tells the truth.
#![allow(unsafe_code, reason = "stands in for a function of the C library")]

use std::sync::OnceLock;

use libc::{c_int, clockid_t, timespec};

/// The variable of the environment by which a test says that the clock jumps.
pub const WORD: &str = "CES_CLOCK_JUMPS";

const DAY: i64 = 24 * 60 * 60;

/// # Safety
/// As clock_gettime(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    static JUMPS: OnceLock<bool> = OnceLock::new();
    // SAFETY: the caller's own.
    let done = c_int::try_from(unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) }).unwrap_or(-1);
    if clock == libc::CLOCK_REALTIME && done == 0 && *JUMPS.get_or_init(|| std::env::var_os(WORD).is_some()) {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        // Each quarter of a second another day, and never the right one.
        time.tv_sec += if time.tv_nsec / 250_000_000 % 2 == 0 { DAY } else { -DAY };
    }
    done
}
