//! An ordinary user's call made again through sudo, where the site wants its policy to bind.
//!
//! Takes the words of the call; gives nothing, or never comes back; trusts sudo; refuses to do it twice.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use crate::cli;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::policy::Policy;
use crate::policy::load::SITE_FILE;

/// Executes `sudo -n ces …` when the caller is an ordinary user and the site's policy says `mode = "enforced"`; `leave` is
/// called before: nothing of this process may remain.
///
/// # Errors
/// When sudo does not let the caller, or did and gave no privileges.
pub fn through_sudo(words: &[OsString], command: &cli::Command, leave: impl FnOnce()) -> Result<()> {
    let harmless = matches!(command, cli::Command::Completions(_) | cli::Command::Man(_) | cli::Command::Policy(_));
    // Most hosts without such a policy have none at all.
    let none = || matches!(Path::new(SITE_FILE).symlink_metadata(), Err(e) if e.kind() == ErrorKind::NotFound);
    if geteuid().is_root() || harmless || none() || !Policy::load(&Caller::find()?, None)?.is_enforced() {
        return Ok(());
    }
    leave();
    let refused = |why: String| {
        Error::new(Stage::Policy, Kind::Policy, "ces is to be called through sudo on this host (mode = \"enforced\")")
            .because(why)
            .hint("ask the administrator for a line in sudoers: %ces-users ALL=(root) NOPASSWD: /usr/local/bin/ces")
    };
    let program = program(words.first().map(OsString::as_os_str)).map_err(|e| refused(e.to_string()))?;
    // sudo(8) sets it for what it starts: if it names this program, it has been here and gave no privileges.
    let before = std::env::var_os("SUDO_COMMAND").unwrap_or_default();
    if before.as_encoded_bytes().starts_with(program.as_os_str().as_encoded_bytes()) {
        return Err(refused("sudo started ces, but not as root".to_owned()));
    }
    // Asked first: a refusal of sudo's own would look like the payload's.
    let listed = Command::new("sudo").args(["-n", "-l", "--"]).arg(&program).stdin(Stdio::null()).output();
    match listed {
        Ok(answer) if answer.status.success() => {}
        Ok(answer) => {
            let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
            let said = if said.is_empty() { format!("sudo does not let you call {}", program.display()) } else { said };
            return Err(refused(said));
        }
        Err(e) => return Err(refused(format!("sudo cannot be called: {e}"))),
    }
    let e = Command::new("sudo").args(["-n", "--"]).arg(&program).args(words.iter().skip(1)).exec();
    Err(refused(format!("sudo cannot be called: {e}")))
}

/// This program, by the name it was called by: that decides how its words are read.
fn program(called: Option<&OsStr>) -> std::io::Result<PathBuf> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let name = called.and_then(|name| Path::new(name).file_name());
    Ok(match name {
        Some(name) if name == "ces-run" || name == "ces-pull" => program.with_file_name(name),
        _ => program,
    })
}
