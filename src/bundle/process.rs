//! What the payload is started with: command, environment, working directory.
//!
//! Takes the image's configuration and the grant; gives plain words; trusts neither labels nor anything else of the image
//! that could steer a runtime; refuses an empty command and a working directory in /proc, /sys or /dev.

use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::sys::signal::Signal;
use oci_spec::image::ImageConfiguration;

use super::image_user::ResolvedUser;
use crate::error::{Error, Kind, Result, Stage};
use crate::policy::grant::{Grant, NEVER_SET};
use crate::policy::units::plain_digits;

/// Where programs are looked for when the image does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The kernel takes no longer argument or variable (MAX_ARG_STRLEN, 32 pages of 4 KiB, with its final NUL).
const LONGEST: usize = 128 * 1024 - 1;
/// And no more of all of them (a quarter of the usual 8 MiB stack).
const MOST: usize = 2 * 1024 * 1024 - 4096;

fn hostile(what: impl Into<String>) -> Error {
    Error::new(Stage::Bundle, Kind::Hostile, what)
}

/// The command: ENTRYPOINT and CMD of the image, or what replaces them.
///
/// As Docker does: arguments replace CMD; `--entrypoint` replaces ENTRYPOINT and drops CMD.
///
/// # Errors
/// When nothing is left to execute, or a word holds a NUL or is too long.
pub fn command(image: &ImageConfiguration, grant: &Grant) -> Result<Vec<String>> {
    let config = image.config().as_ref();
    let entrypoint = config.and_then(|c| c.entrypoint().as_ref());
    let cmd = config.and_then(|c| c.cmd().as_ref());
    let mut command: Vec<String> = match &grant.entrypoint {
        Some(command) => command.clone(),
        None => entrypoint.cloned().unwrap_or_default(),
    };
    if !grant.args.is_empty() {
        command.extend(grant.args.iter().cloned());
    } else if grant.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        command.extend(cmd.cloned().unwrap_or_default());
    }
    match command.first() {
        None => Err(hostile("the image names no command").hint("say what to run: ces run IMAGE COMMAND [ARGS]")),
        Some(first) if first.is_empty() => {
            Err(hostile("the command is an empty word").hint("correct ENTRYPOINT or CMD, or use --entrypoint"))
        }
        Some(_) => {
            check_sizes("argument", &command)?;
            Ok(command)
        }
    }
}

/// The environment, and what of the image's was left out.
///
/// From weak to strong: the image's `Env`; what ces knows (`TMPDIR`, `TERM`, and where the image does not say, `PATH` and
/// `HOME`); the user's `-e`; `HOSTNAME`, which is a fact. `HOME` is always set, or the engine would ask the image's name
/// service for it.
///
/// # Errors
/// When a variable is too long for the kernel.
pub fn environment(
    image: &ImageConfiguration,
    grant: &Grant,
    user: &ResolvedUser,
    hostname: &str,
    term: Option<&str>,
) -> Result<(Vec<String>, Vec<String>)> {
    let (mut env, mut notes): (Vec<(String, String)>, Vec<String>) = (Vec::new(), Vec::new());
    let stated = image.config().as_ref().and_then(|c| c.env().as_ref());
    for entry in stated.into_iter().flatten() {
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') && !NEVER_SET.contains(&name) => {
                set(&mut env, name, value);
            }
            _ => notes.push(format!("the image's variable \"{entry}\" is left out: not of the form NAME=value")),
        }
    }
    set_if_absent(&mut env, "PATH", DEFAULT_PATH);
    set_if_absent(&mut env, "HOME", user.home.as_deref().unwrap_or("/"));
    set(&mut env, "TMPDIR", "/scratch");
    if grant.tty {
        set(&mut env, "TERM", term.filter(|term| is_term(term)).unwrap_or("xterm"));
    }
    for (name, value) in &grant.env {
        set(&mut env, name, value);
    }
    // An empty PATH or HOME is as bad as none.
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", "/")] {
        if env.iter().any(|(known, value)| known == name && value.is_empty()) {
            set(&mut env, name, value);
        }
    }
    set(&mut env, "HOSTNAME", hostname);
    let env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    check_sizes("environment variable", &env)?;
    Ok((env, notes))
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    }
}

fn set_if_absent(env: &mut Vec<(String, String)>, name: &str, value: &str) {
    if env.iter().all(|(known, value)| known != name || value.is_empty()) {
        set(env, name, value);
    }
}

fn is_term(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

/// The working directory: `--workdir`, else the image's, else `/`.
///
/// # Errors
/// When it is not absolute, or in a place where a name can lead out of the container (CVE-2024-21626).
pub fn workdir(image: &ImageConfiguration, grant: &Grant) -> Result<PathBuf> {
    let stated = image.config().as_ref().and_then(|c| c.working_dir().as_deref());
    let text = grant.workdir.as_deref().or(stated).filter(|text| !text.is_empty()).unwrap_or("/");
    let bad = |why: &str| {
        hostile(format!("the working directory {text} cannot be used"))
            .because(why)
            .hint("correct WORKDIR in the Dockerfile, or use --workdir")
    };
    if !Path::new(text).is_absolute() {
        return Err(bad("it is not absolute"));
    }
    if text.contains('\0') {
        return Err(bad("it holds a NUL"));
    }
    // As Docker and podman: `..` goes by the words of the path, whatever links the image has there.
    let mut path = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            // Nothing is above the root.
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    if ["/proc", "/sys", "/dev"].iter().any(|dir| path.starts_with(dir)) {
        return Err(bad("nothing can start in /proc, /sys or /dev"));
    }
    Ok(path)
}

/// What asks the payload to end: the image's `StopSignal`, else SIGTERM, which is also taken for one that is no signal; then
/// with a sentence that says so.
///
/// As Docker reads it: a name in any case, with or without `SIG`, `RTMIN+n` and `RTMAX-n`, or a number.
pub fn stop_signal(image: &ImageConfiguration) -> (i32, Option<String>) {
    let stated = image.config().as_ref().and_then(|c| c.stop_signal().as_deref()).map(str::trim);
    let Some(text) = stated.filter(|text| !text.is_empty()) else { return (libc::SIGTERM, None) };
    match signal(text) {
        Some(number) => (number, None),
        None => {
            (libc::SIGTERM, Some(format!("the image's STOPSIGNAL \"{text}\" is no signal: SIGTERM takes its place")))
        }
    }
}

/// The first and the last signal without a name of its own, as programs see them (signal(7); the C library keeps two).
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

fn signal(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let distance =
        |text: &str| text.parse::<i32>().ok().filter(|n| plain_digits(text) && (0..=RTMAX - RTMIN).contains(n));
    if plain_digits(name) {
        // `SIG15` is no name.
        return text.parse().ok().filter(|number| (1..=RTMAX).contains(number));
    }
    match name {
        "RTMIN" => return Some(RTMIN),
        "RTMAX" => return Some(RTMAX),
        "CLD" => return Some(libc::SIGCHLD),
        "IOT" => return Some(libc::SIGABRT),
        "POLL" => return Some(libc::SIGIO),
        _ => {}
    }
    if let Some(above) = name.strip_prefix("RTMIN+") {
        return distance(above).map(|n| RTMIN + n);
    }
    if let Some(below) = name.strip_prefix("RTMAX-") {
        return distance(below).map(|n| RTMAX - n);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn check_sizes(what: &str, texts: &[String]) -> Result<()> {
    let mut sum = 0_usize;
    for word in texts {
        let begin: String = word.chars().take(24).collect();
        if word.contains('\0') {
            return Err(hostile(format!("the {what} \"{begin}…\" holds a NUL byte"))
                .hint("remove the NUL byte: no argument and no variable can have one"));
        }
        if word.len() > LONGEST {
            return Err(hostile(format!("the {what} \"{begin}…\" is longer than the kernel takes"))
                .because(format!("{} bytes; at most {LONGEST}", word.len()))
                .hint("write it into a file that the program reads"));
        }
        sum = sum.saturating_add(word.len() + 9);
    }
    if sum > MOST {
        return Err(hostile(format!("the {what}s are longer than the kernel takes"))
            .because(format!("{sum} bytes; at most {MOST}"))
            .hint("put them into a file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    fn of(stop_signal: serde_json::Value) -> (i32, Option<String>) {
        let image = serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {"StopSignal": stop_signal}
        });
        super::stop_signal(&serde_json::from_value(image).unwrap())
    }

    #[test]
    fn a_stop_signal_is_read_in_every_form_of_docker() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("INT", 2),
            ("WINCH", 28),
            ("9", 9),
            ("64", 64),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("SIGRTMAX", 64),
            ("SIGCLD", 17),
            ("", 15),
            (" SIGUSR1 ", 10),
        ] {
            assert_eq!(of(text.into()), (number, None), "{text}");
        }
        assert_eq!(of(serde_json::Value::Null), (15, None));
    }

    #[test]
    fn what_is_no_signal_is_told_and_sigterm_in_its_place() {
        for text in
            ["SIGNONE", "0", "65", "-1", "+15", "SIG15", "RTMIN+31", "RTMIN+", "RTMAX-+1", "TERM KILL", "99999999999"]
        {
            let (number, told) = of(text.into());
            assert_eq!(number, 15, "{text}");
            assert!(told.unwrap().contains(&format!("STOPSIGNAL \"{text}\" is no signal")));
        }
    }
}
