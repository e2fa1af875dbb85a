//! What a grant depends on, found out on this host.
//!
//! Takes paths a user names and this process's own limits; gives plain data for `crate::policy::grant`; trusts the
//! kernel; refuses nothing: what cannot be found is left out, and the grant refuses it by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::ticket;
use crate::bundle::safe_data::SafeData;
use crate::bundle::seccomp;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::idmap::IdMap;
use crate::host::place::Place;
use crate::host::privilege::as_root;
use crate::host::process_limits;
use crate::image::reference::Reference;
use crate::image::store::StoredImage;
use crate::policy::Policy;
use crate::policy::grant::{GrantFacts, Rehearsed};
use crate::policy::request::{BindRequest, RunRequest};
use crate::rehearsal::ticket::rules;

/// Where a `-v` source is: `~` is the caller's home, relative paths begin at `cwd`.
pub fn locate(source: &str, cwd: &Path, home: &Path) -> PathBuf {
    match source.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => cwd.join(source),
    }
}

/// What each `-v` source really is: opened with the researcher's rights, so that links are followed once and by the kernel.
///
/// # Errors
/// When the caller's directory cannot be found.
pub fn sources(binds: &[BindRequest], home: &Path) -> Result<BTreeMap<String, Place>> {
    let cwd = current_directory()?;
    let real = |bind: &BindRequest| Some((bind.source.clone(), Place::open(&locate(&bind.source, &cwd, home)).ok()?));
    Ok(binds.iter().filter_map(real).collect())
}

/// The path of what `path` leads to, if it exists and may be reached.
pub fn resolve(path: &Path) -> Option<PathBuf> {
    Place::glance(path).ok().map(|place| place.path().to_owned())
}

fn current_directory() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| {
        Error::new(Stage::Cli, Kind::Host, "the current directory cannot be found")
            .because(e)
            .hint("change to another directory (cd)")
    })
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
    unmapped_ids: u64,
}

impl Named {
    /// Of an image in the store, as `request` names it.
    pub fn stored(image: &StoredImage, request: &RunRequest) -> Self {
        Self {
            registry: image.reference().split('/').next().unwrap_or_default().to_owned(),
            digest: image.manifest_digest().to_string(),
            by_digest: request.image.contains("@sha256:") || request.image.starts_with("sha256:"),
            unmapped_ids: image.record().unmapped_ids,
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
            unmapped_ids: 0,
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
    sources: &BTreeMap<String, Place>,
) -> Result<GrantFacts> {
    let home = resolve(&caller.home).unwrap_or_else(|| caller.home.clone());
    Ok(GrantFacts {
        project: data.map_or_else(|| request.project.clone(), |data| data.project.clone()),
        data: data.map(|data| data.path.clone()),
        home,
        registry: image.registry,
        digest: image.digest,
        named_by_digest: image.by_digest,
        unmapped_ids: image.unmapped_ids,
        approved: as_root(|root| policy.approved(root))?,
        rehearsed: Rehearsed::Never,
        today: today(),
        sources: sources.iter().map(|(name, place)| (name.clone(), place.path().to_owned())).collect(),
        single_id: IdMap::on_disk(caller)?.is_single(),
        hard_limits: hard_limits(),
        payload_limits: process_limits::for_the_payload_alone(),
    })
}

/// What is known of rehearsals of an image by this caller.
///
/// # Errors
/// When there is no filter for this machine.
pub fn rehearsed(site: (&Dirs, &Caller, &Policy), digest: &str) -> Result<Rehearsed> {
    let (dirs, caller, policy) = site;
    let Some(ticket) = as_root(|root| ticket::of_image(root, &dirs.log, caller.uid.as_raw(), digest)) else {
        return Ok(Rehearsed::Never);
    };
    Ok(ticket.says(&filter_hash()?, &rules(policy), now()))
}

/// The time, in seconds since 1970.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// SHA-256 of the seccomp program of a run on this machine.
///
/// # Errors
/// When there is none.
pub fn filter_hash() -> Result<String> {
    let mut hash = Sha256::new();
    for i in &seccomp::program()? {
        hash.update(i.code.to_le_bytes());
        hash.update([i.jt, i.jf]);
        hash.update(i.k.to_le_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
