//! `ces`: harden the process, parse, dispatch, print, exit.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
