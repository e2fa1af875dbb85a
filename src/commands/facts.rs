//! What a grant depends on, found out on this host.
//!
//! Takes paths a user names and this process's own limits; gives plain data for `crate::policy::grant`; trusts the
//! kernel; refuses nothing: what cannot be found is left out, and the grant refuses it by name.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, readlink};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

use super::prepare;
use crate::bundle::identity::acting_as;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::idmap::IdMap;
use crate::policy::Policy;
use crate::policy::grant::GrantFacts;
use crate::policy::request::{BindRequest, RunRequest};

/// Where a `-v` source is: `~` is the caller's home, relative paths begin at `cwd`.
pub fn locate(source: &str, cwd: &Path, home: &Path) -> PathBuf {
    match source.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => cwd.join(source),
    }
}

/// What each `-v` source really is: opened with the privileges this process has now (root: while it acts as the
/// researcher), then read back from the descriptor, so that links are followed once and by the kernel.
pub fn sources(binds: &[BindRequest], cwd: &Path, home: &Path) -> BTreeMap<String, PathBuf> {
    let real = |bind: &BindRequest| Some((bind.source.clone(), resolve(&locate(&bind.source, cwd, home))?));
    binds.iter().filter_map(real).collect()
}

/// The path of what `path` leads to, if it exists and may be reached.
pub fn resolve(path: &Path) -> Option<PathBuf> {
    let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok().map(PathBuf::from)
}

/// This process's hard limits by podman's names; unlimited ones are left out.
pub fn hard_limits() -> BTreeMap<String, u64> {
    let known = [
        ("as", Resource::RLIMIT_AS),
        ("core", Resource::RLIMIT_CORE),
        ("cpu", Resource::RLIMIT_CPU),
        ("data", Resource::RLIMIT_DATA),
        ("fsize", Resource::RLIMIT_FSIZE),
        ("locks", Resource::RLIMIT_LOCKS),
        ("memlock", Resource::RLIMIT_MEMLOCK),
        ("msgqueue", Resource::RLIMIT_MSGQUEUE),
        ("nice", Resource::RLIMIT_NICE),
        ("nofile", Resource::RLIMIT_NOFILE),
        ("nproc", Resource::RLIMIT_NPROC),
        ("rss", Resource::RLIMIT_RSS),
        ("rtprio", Resource::RLIMIT_RTPRIO),
        ("sigpending", Resource::RLIMIT_SIGPENDING),
        ("stack", Resource::RLIMIT_STACK),
    ];
    known
        .into_iter()
        .filter_map(|(name, resource)| Some((name.to_owned(), getrlimit(resource).ok()?.1)))
        .filter(|(_, hard)| *hard != u64::MAX)
        .collect()
}

/// Facts of a run whose image is not looked up: for `ces policy explain` of an image that is not here.
///
/// # Errors
/// When the caller's directory, ids or the list of approved images cannot be read.
pub fn without_image(policy: &Policy, caller: &Caller, request: &RunRequest) -> Result<GrantFacts> {
    let (name, digest) = match request.image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (request.image.as_str(), None),
    };
    let host =
        name.split_once('/').map(|(host, _)| host).filter(|host| host.contains(['.', ':']) || *host == "localhost");
    let cwd = std::env::current_dir().map_err(|e| {
        Error::new(Stage::Cli, Kind::Host, "the current directory cannot be found").because(e).hint("change to another")
    })?;
    let ids = prepare::researcher(caller)?;
    Ok(GrantFacts {
        project: request.project.clone(),
        data: None,
        home: resolve(&caller.home).unwrap_or_else(|| caller.home.clone()),
        registry: host.unwrap_or("docker.io").to_owned(),
        digest: digest.unwrap_or_default().to_owned(),
        named_by_digest: digest.is_some(),
        approved: policy.approved()?,
        today: jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date(),
        sources: acting_as(&ids, caller.is_privileged(), || Ok(sources(&request.binds, &cwd, &caller.home)))?,
        single_id: IdMap::on_disk(caller)?.is_single(),
        hard_limits: hard_limits(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_found_from_the_callers_directory_or_home() {
        let at = |source| locate(source, Path::new("/home/ann/lab"), Path::new("/home/ann"));
        assert_eq!(at("./pgdata"), Path::new("/home/ann/lab/./pgdata"));
        assert_eq!(at("/data"), Path::new("/data"));
        assert_eq!(at("~"), Path::new("/home/ann"));
        assert_eq!(at("~/x"), Path::new("/home/ann/x"));
        assert_eq!(at("~bob/x"), Path::new("/home/ann/lab/~bob/x"));
    }

    #[test]
    fn links_are_followed_by_the_kernel_and_what_is_missing_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let real = resolve(dir.path()).unwrap();
        std::os::unix::fs::symlink("/etc", real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), Path::new("/etc"));
        assert_eq!(resolve(&real.join("missing")), None);
    }
}
