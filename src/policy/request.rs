//! What a user asks for, as plain data.
//!
//! Takes words of the command line and of the files it names; gives a `RunRequest`; trusts nothing; refuses what is
//! malformed. Whether it may be had is decided by `super::grant`.

use std::path::PathBuf;
use std::time::Duration;

use super::units;
use crate::error::{Error, Kind, Result, Stage};

/// Environment, argument and option files.
pub mod files;
/// Mounts, temporary file systems and ports.
pub mod places;

pub use places::{BindRequest, Listen, PortRequest, TmpfsRequest};

/// Everything a user may ask in `ces run`. Written down, it is without what may be nobody's to keep (command, variables), and without
/// what is of one call alone.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct RunRequest {
    /// The image, as the user names it.
    pub image: String,
    /// Arguments of the command.
    #[serde(skip)]
    pub args: Vec<String>,
    /// `--project`.
    pub project: Option<String>,
    /// `--profile`.
    pub profile: Option<String>,
    /// `--env` and `--env-file`, in order, values resolved.
    #[serde(skip)]
    pub env: Vec<(String, String)>,
    /// `--entrypoint`: empty removes the image's own.
    #[serde(skip)]
    pub entrypoint: Option<Vec<String>>,
    /// `--workdir`.
    pub workdir: Option<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--name`.
    #[serde(skip)]
    pub name: Option<String>,
    /// `--interactive`.
    pub interactive: bool,
    /// `--tty`.
    pub tty: bool,
    /// `--detach`.
    #[serde(skip)]
    pub detach: bool,
    /// `--publish`.
    pub ports: Vec<PortRequest>,
    /// `--volume` and `--mount type=bind`.
    pub binds: Vec<BindRequest>,
    /// `--tmpfs` and `--mount type=tmpfs`.
    pub tmpfs: Vec<TmpfsRequest>,
    /// `--memory`, in bytes.
    pub memory: Option<u64>,
    /// `--cpus`.
    pub cpus: Option<f64>,
    /// `--pids-limit`.
    pub pids: Option<u64>,
    /// `--shm-size`, in bytes.
    pub shm_size: Option<u64>,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--read-only`.
    pub read_only: bool,
    /// `--gpu`.
    pub gpu: bool,
    /// `--data-ro`.
    pub data_ro: bool,
    /// `--raw`.
    pub raw: bool,
    /// `--json-summary`.
    #[serde(skip)]
    pub json_summary: Option<PathBuf>,
    /// Options of podman that ces does not have: name and value.
    #[serde(skip)]
    pub podman: Vec<(String, Option<String>)>,
    /// What the user should know although it is accepted.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A resource limit of the process (setrlimit(2)).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ulimit {
    /// podman's name: `nofile`, `core`, …
    pub name: String,
    /// The soft limit; `u64::MAX`: unlimited.
    pub soft: u64,
    /// The hard limit; `u64::MAX`: unlimited.
    pub hard: u64,
}

/// The names `--ulimit` knows.
pub const ULIMITS: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];

impl Ulimit {
    /// Reads `NAME=SOFT[:HARD]`; `-1` and `unlimited` mean no limit.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: String| usage(format!("--ulimit {text} {why}"), "write --ulimit NAME=SOFT[:HARD]");
        let (name, limits) = text.split_once('=').ok_or_else(|| bad("has no `=`".to_owned()))?;
        if !ULIMITS.contains(&name) {
            return Err(bad(format!("names no limit; known are {}", ULIMITS.join(", "))));
        }
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| match text {
            "-1" | "unlimited" => Some(u64::MAX),
            text if units::plain_digits(text) => text.parse().ok(),
            _ => None,
        };
        let (Some(soft), Some(hard)) = (number(soft), number(hard)) else {
            return Err(bad("needs numbers, or `unlimited`".to_owned()));
        };
        if soft > hard {
            return Err(bad("has a soft limit above the hard one".to_owned()));
        }
        Ok(Self { name: name.to_owned(), soft, hard })
    }
}

/// Reads `--entrypoint`: one word, or a JSON list of words; nothing removes the image's own.
///
/// # Errors
/// When it begins with `[` and is not such a list.
pub fn entrypoint(text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    if !text.starts_with('[') {
        return Ok(vec![text.to_owned()]);
    }
    serde_json::from_str(text).map_err(|e| {
        usage(format!("--entrypoint {text} is not a JSON list of words"), "write --entrypoint '[\"sh\", \"-c\"]'")
            .because(e)
    })
}

/// Reads a size option.
///
/// # Errors
/// When it is no size.
pub fn size(option: &str, text: &str) -> Result<u64> {
    let hint = format!("write {}", units::SIZE_FORMS);
    units::size(text).filter(|n| *n > 0).ok_or_else(|| usage(format!("--{option} {text} is not a size"), &hint))
}

/// Reads `--cpus`.
///
/// # Errors
/// When it is no positive number.
pub fn cpus(text: &str) -> Result<f64> {
    units::cpus(text).ok_or_else(|| usage(format!("--cpus {text} is not a number above zero"), "write --cpus 2.5"))
}

/// Reads `--timeout`; `0` means none was asked for, as in podman.
///
/// # Errors
/// When it is no duration.
pub fn timeout(text: &str) -> Result<Option<Duration>> {
    let hint = format!("write {}", units::DURATION_FORMS);
    let duration = units::duration(text).ok_or_else(|| usage(format!("--timeout {text} is not a duration"), &hint))?;
    Ok(Some(duration).filter(|d| !d.is_zero()))
}

/// Reads `--pids-limit`; `0` and `-1` ask for no limit, which is the ceiling's to grant.
///
/// # Errors
/// When it is no number.
pub fn pids(text: &str) -> Result<u64> {
    match text {
        "0" | "-1" => Ok(u64::MAX),
        text if units::plain_digits(text) => text.parse().map_err(|e| usage(format!("--pids-limit {text}: {e}"), "")),
        _ => Err(usage(format!("--pids-limit {text} is not a number"), "write --pids-limit 1024")),
    }
}

/// Whether `text` can be a host name (RFC 1123).
pub fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 63 && text.split('.').all(label)
}

/// Whether `text` can be a run's name.
pub fn is_run_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 64 && text.bytes().all(plain) && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

/// Whether `text` has the form of a run's id, `20261122T143015-7f3a9c`.
pub fn is_run_id(text: &str) -> bool {
    let form = "00000000T000000-ffffff";
    let fits = |(b, form): (u8, u8)| match form {
        b'0' => b.is_ascii_digit(),
        b'f' => b.is_ascii_hexdigit(),
        _ => b.eq_ignore_ascii_case(&form),
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
}

/// Checks a run's `--name`: wherever an id is taken, `last` is the run that began last, `ces outputs prune` deletes old outputs, and a
/// name in the form of an id would pass for another run, which may be somebody else's.
///
/// # Errors
/// When it is none.
pub fn run_name(text: &str) -> Result<()> {
    if !is_run_name(text) || ["last", "prune"].contains(&text) {
        return Err(usage(
            format!("--name {text} is not a run's name"),
            "letters, digits, `_`, `.` and `-`, at most 64, and not `last` or `prune`",
        ));
    }
    if is_run_id(text) {
        return Err(usage(
            format!("--name {text} has the form of a run's id"),
            "choose a name that is no other run's id",
        ));
    }
    Ok(())
}

pub(crate) fn usage(what: impl Into<String>, hint: &str) -> Error {
    let error = Error::new(Stage::Cli, Kind::Usage, what);
    if hint.is_empty() { error } else { error.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulimit_is_read_as_podman_reads_it() {
        let ulimit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        assert_eq!(Ulimit::parse("nofile=1024:2048").unwrap(), ulimit("nofile", 1024, 2048));
        assert_eq!(Ulimit::parse("nofile=1024").unwrap(), ulimit("nofile", 1024, 1024));
        assert_eq!(Ulimit::parse("memlock=-1:-1").unwrap(), ulimit("memlock", u64::MAX, u64::MAX));
        for text in ["nofile", "host", "files=3", "nofile=2:1", "nofile=x", "nofile=+1"] {
            assert_eq!(Ulimit::parse(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn an_entrypoint_is_a_word_or_a_json_list_or_nothing() {
        assert_eq!(entrypoint("").unwrap(), Vec::<String>::new());
        assert_eq!(entrypoint("/bin/sh -c").unwrap(), vec!["/bin/sh -c"]);
        assert_eq!(entrypoint("[\"sh\", \"-c\"]").unwrap(), vec!["sh", "-c"]);
        assert!(entrypoint("[sh]").is_err());
    }

    #[test]
    fn names_are_plain() {
        assert!(is_hostname("node-1.cluster") && is_run_name("job_1.a"));
        for text in ["", "-a", "a_b", "a..b", "a b", &"x".repeat(64)] {
            assert!(!is_hostname(text), "{text}");
        }
        for text in ["", ".a", "a/b", "a b", "-x"] {
            assert!(!is_run_name(text), "{text}");
        }
        for text in ["last", "prune", "a b", "20261130T185658-b0dff2", "20261130t185658-B0DFF2"] {
            let error = run_name(text).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.what().contains(text), "{text}: {error}");
        }
        for text in
            ["job_1.a", "20261130", "20261130T185658-b0dff", "20261130T185658-b0dffg", "20261130T185658-b0dff2x"]
        {
            run_name(text).unwrap();
        }
    }
}
