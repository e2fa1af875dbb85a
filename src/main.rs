//! `ces`: become who calls, harden the process, parse, dispatch, print, exit.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use ces::error::{Error, Kind, Result, Stage};
use ces::host::{privilege, sys, unstoppable};
use ces::{cli, commands, text};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// `ces run` failed or refused, and nothing ran.
const NOTHING_RAN: u8 = 125;

fn main() -> ExitCode {
    if let Some(code) = child() {
        return code;
    }
    // Before an argument is read: through sudo, all that follows has the researcher's rights.
    let begun = privilege::begin().and_then(|()| unstoppable::begin());
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    if let Err(error) = begun {
        say(&error.report());
        return ExitCode::from(if cli::says_run(&argv) { NOTHING_RAN } else { error.exit_status() });
    }
    let hardened = harden().and_then(|()| commands::take_over_call(&mut argv));
    let mut started = (hardened.is_ok() && cli::says_run(&argv)).then(commands::start_stage).flatten();
    let (parsed, is_run) = cli::parse(&argv);
    let status = |other: u8| if is_run { NOTHING_RAN } else { other };
    if let Err(error) = hardened {
        say(&error.report());
        return ExitCode::from(status(error.exit_status()));
    }
    let (cli, warnings) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let explained = cli::other_tools::explain(&error);
            let text = explained.clone().unwrap_or_else(|| error.render().to_string());
            let safe = text::neutral(&text);
            // Help and version are no failures; where they are printed to is clap's decision. What was typed, or pasted, may
            // hold anything.
            let shown = if explained.is_none() && safe == text { error.print().is_ok() } else { say(&safe) };
            return ExitCode::from(if error.use_stderr() || !shown { status(2) } else { 0 });
        }
    };
    for warning in warnings.iter().filter(|_| !cli.global.quiet) {
        say(&format!("warning: {}\n", text::neutral_line(warning)));
    }
    let here = commands::through_sudo(&argv, &cli.command, || drop(started.take()));
    match here.and_then(|()| commands::dispatch(&cli.global, &cli.command, started)) {
        Ok(code) => ExitCode::from(code),
        // Nobody reads on (print.rs).
        Err(error) if error.kind() == Kind::Interrupted(nix::libc::SIGPIPE) => ExitCode::from(error.exit_status()),
        Err(error) => {
            say(&error.report());
            ExitCode::from(status(error.exit_status()))
        }
    }
}

/// Processes that `ces` starts of itself: known by the name they are executed under, which no word of a command line is, and
/// by a socket of their parent's. Their descriptors are the ones their parent gave them.
fn child() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = name.as_encoded_bytes();
    if name == ces::run::protocol::STAGE.to_bytes() {
        return Some(ExitCode::from(ces::run::stage::child_main()));
    }
    if name == ces::precheck::NAME.as_bytes() {
        return Some(ces::precheck::child_main());
    }
    (name == ces::image::unpack::NAME.as_bytes()).then(|| ces::image::unpack::child_main(ces::stack::READERS))
}

/// Nothing of the caller's process stays but its three streams and its environment, and the environment is never handed
/// on: every child gets one of its own, without LISTEN_FDS. Descriptors the caller left open are closed.
fn harden() -> Result<()> {
    sys::close_from(3).map_err(|e| {
        Error::new(Stage::Host, Kind::Host, "cannot close inherited descriptors")
            .because(e)
            .hint("ces needs a kernel of 5.9 or later")
    })?;
    enough_descriptors()?;
    if !privilege::is_lent() {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    }
    Ok(())
}

/// Said once and at the start, rather than by whichever step happens to need one descriptor too many.
fn enough_descriptors() -> Result<()> {
    const ENOUGH: u64 = 64;
    let fail = |because: String| {
        Error::new(Stage::Host, Kind::Host, format!("ces needs {ENOUGH} open files"))
            .because(because)
            .hint(format!("raise the limit: ulimit -n 1024, or at least {ENOUGH}"))
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| fail(e.to_string()))?;
    if soft >= ENOUGH {
        return Ok(());
    }
    if hard < ENOUGH {
        return Err(fail(format!("the limit is {hard}")));
    }
    setrlimit(Resource::RLIMIT_NOFILE, ENOUGH, hard).map_err(|e| fail(format!("the limit is {soft}, and {e}")))
}

/// Whether it could be said: with standard error closed there is nobody to tell.
fn say(text: &str) -> bool {
    std::io::stderr().write_all(text.as_bytes()).is_ok()
}
