//! What a grant depends on, found out on this host.
//!
//! Takes paths a user names and this process's own limits; gives plain data for `crate::policy::grant`; trusts the
//! kernel; refuses nothing: what cannot be found is left out, and the grant refuses it by name.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::Mode;

use crate::bundle::safe_data::SafeData;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::idmap::IdMap;
use crate::host::privilege::as_root;
use crate::host::process_limits;
use crate::image::reference::Reference;
use crate::image::store::StoredImage;
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

/// What each `-v` source really is: opened with the researcher's rights, then read back from the descriptor, so that links are followed once and by the kernel.
pub fn sources(binds: &[BindRequest], cwd: &Path, home: &Path) -> BTreeMap<String, PathBuf> {
    let real = |bind: &BindRequest| Some((bind.source.clone(), resolve(&locate(&bind.source, cwd, home))?));
    binds.iter().filter_map(real).collect()
}

/// The path of what `path` leads to, if it exists and may be reached.
pub fn resolve(path: &Path) -> Option<PathBuf> {
    let fd = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str()).ok().map(PathBuf::from)
}

/// The hard limits that the caller's shell gave this process, by podman's names; unlimited ones are left out.
pub fn hard_limits() -> BTreeMap<String, u64> {
    let hard = process_limits::of_caller().iter().map(|(name, (_, hard))| ((*name).to_owned(), *hard));
    hard.filter(|(_, hard)| *hard != u64::MAX).collect()
}

/// The day it is (UTC), by which approvals end.
pub fn today() -> jiff::civil::Date {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// What a grant depends on of an image.
#[derive(Debug)]
pub struct Named {
    registry: String,
    digest: String,
    by_digest: bool,
}

impl Named {
    /// Of an image in the store, as `request` names it.
    pub fn stored(image: &StoredImage, request: &RunRequest) -> Self {
        Self {
            registry: image.reference().split('/').next().unwrap_or_default().to_owned(),
            digest: image.manifest_digest().to_string(),
            by_digest: request.image.contains("@sha256:") || request.image.starts_with("sha256:"),
        }
    }

    /// Of an image that is not here: what its name says.
    pub fn by_name(request: &RunRequest) -> Self {
        let digest = request.image.split_once('@').map_or("", |(_, digest)| digest);
        let name = Reference::in_store(&request.image);
        Self {
            registry: name.map_or_else(|| "localhost".to_owned(), |name| name.host().to_owned()),
            digest: digest.to_owned(),
            by_digest: !digest.is_empty(),
        }
    }
}

/// What the grant depends on; `data` is none where a run would find none.
///
/// # Errors
/// When the caller's directory, ids or the list of approved images cannot be read.
pub fn gather(
    policy: &Policy,
    caller: &Caller,
    request: &RunRequest,
    image: Named,
    data: Option<&SafeData>,
) -> Result<GrantFacts> {
    let cwd = std::env::current_dir().map_err(|e| {
        Error::new(Stage::Cli, Kind::Host, "the current directory cannot be found").because(e).hint("change to another")
    })?;
    let home = resolve(&caller.home).unwrap_or_else(|| caller.home.clone());
    Ok(GrantFacts {
        project: data.map_or_else(|| request.project.clone(), |data| data.project.clone()),
        data: data.map(|data| data.path.clone()),
        home,
        registry: image.registry,
        digest: image.digest,
        named_by_digest: image.by_digest,
        approved: as_root(|root| policy.approved(root))?,
        today: today(),
        sources: sources(&request.binds, &cwd, &caller.home),
        single_id: IdMap::on_disk(caller)?.is_single(),
        hard_limits: hard_limits(),
        payload_limits: process_limits::for_the_payload_alone(),
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
