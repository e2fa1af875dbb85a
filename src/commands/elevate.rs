//! An ordinary user's call made again through sudo, where the site wants its policy to bind.
//!
//! Takes the words of the call; gives nothing, or never comes back; trusts sudo; refuses to do it twice.
//!
//! The words go into a private file of the caller's and not onto sudo's command line, which everybody on the host can read in
//! `ps` and which sudo logs: a token, or the value of a variable, may be among them. The caller's variables go with them, for
//! sudo passes none on. The `ces` that sudo starts reads the file with the researcher's rights and removes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::getuid;
use serde::{Deserialize, Serialize};

use super::request;
use crate::cli;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::privilege::{self, as_root};
use crate::policy::Policy;
use crate::policy::load::SITE_FILE;
use crate::run::job_id::JobId;

/// The word before the name of the file with the words.
const CALL_FILE: &str = "--call-file";
/// No call is longer.
const LARGEST: u64 = 8 << 20;

/// A call, as it goes through sudo.
#[derive(Debug, Serialize, Deserialize)]
struct Call {
    /// The words after the program's name, as bytes.
    words: Vec<Vec<u8>>,
    /// The caller's variables that are text.
    variables: BTreeMap<String, String>,
}

/// Executes `sudo -n ces …` when the caller is an ordinary user and the site's policy says `mode = "enforced"`; `leave` is
/// called before: nothing of this process may remain.
///
/// # Errors
/// When sudo does not let the caller, or did and gave no privileges.
pub fn through_sudo(argv: &[OsString], command: &cli::Command, leave: impl FnOnce()) -> Result<()> {
    // What the policy says of a run is what it says of one through sudo: `show` and `explain` go there, `check` reads a file.
    let harmless = matches!(
        command,
        cli::Command::Completions(cli::CompletionsArgs { names: None, .. })
            | cli::Command::Version(_)
            | cli::Command::Man(_)
            | cli::Command::Policy(cli::PolicyCommand::Check { .. })
    );
    // Most hosts without such a policy have none at all.
    let none = || matches!(Path::new(SITE_FILE).symlink_metadata(), Err(e) if e.kind() == ErrorKind::NotFound);
    if getuid().is_root() || harmless || none() {
        return Ok(());
    }
    let caller = Caller::find()?;
    if !as_root(|root| Policy::load(root, &caller, None))?.is_enforced() {
        return Ok(());
    }
    leave();
    let refused = |why: String| {
        Error::new(Stage::Policy, Kind::Policy, "ces is to be called through sudo on this host (mode = \"enforced\")")
            .because(why)
            .hint("ask the administrator for a line in sudoers: %ces-users ALL=(root) NOPASSWD: /usr/local/bin/ces")
    };
    let program = program(argv.first().map(OsString::as_os_str)).map_err(|e| refused(e.to_string()))?;
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
    let file = write_call(&caller, argv)?;
    let e = Command::new("sudo").args(["-n", "--"]).arg(&program).arg(CALL_FILE).arg(&file).exec();
    // What cannot be removed is the caller's own, and private.
    fs::remove_file(&file).ok();
    Err(refused(format!("sudo cannot be called: {e}")))
}

/// Writes the call into a new file that the caller alone can read.
fn write_call(caller: &Caller, argv: &[OsString]) -> Result<PathBuf> {
    let runtime =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir());
    let dir = runtime.unwrap_or_else(|| caller.home.clone());
    let path = dir.join(format!(".ces-call-{}", JobId::new()?));
    let call = Call {
        words: argv.iter().skip(1).map(|word| OsStr::as_bytes(word).to_vec()).collect(),
        variables: request::caller_env(),
    };
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&serde_json::to_vec(&call)?)
    };
    write().map_err(|e| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display())).because(e).hint(
            "what is called goes through sudo by way of a private file: is your home there, writable and not full?",
        )
    })?;
    Ok(path)
}

/// Through sudo: takes words and variables from the file that [`through_sudo`] wrote, and removes it.
///
/// # Errors
/// When it is not a private file of the caller's.
pub fn take_over_call(argv: &mut Vec<OsString>) -> Result<()> {
    let [_, option, path] = argv.as_slice() else { return Ok(()) };
    if option != CALL_FILE || !privilege::is_lent() {
        return Ok(());
    }
    let path = PathBuf::from(path);
    let refused = |why: String| {
        Error::new(Stage::Cli, Kind::Usage, format!("cannot read the call in {}", path.display()))
            .because(why)
            .hint("call ces without it: it is for ces itself")
    };
    let owner = Caller::find()?.uid.as_raw();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(|e| refused(e.to_string()))?;
    let found = file.metadata().map_err(|e| refused(e.to_string()))?;
    if !found.is_file() || found.uid() != owner || found.mode() & 0o077 != 0 || found.len() > LARGEST {
        return Err(refused("it is not a private file of yours".to_owned()));
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| refused(e.to_string()))?;
    let call: Call = serde_json::from_slice(&text).map_err(|e| refused(e.to_string()))?;
    fs::remove_file(&path).map_err(|e| refused(e.to_string()))?;
    argv.truncate(1);
    argv.extend(call.words.into_iter().map(OsString::from_vec));
    request::remember_env(call.variables);
    Ok(())
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
