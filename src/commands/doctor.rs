//! `ces doctor`: can this host keep the promises, and what to change.
//!
//! What can be tried is tried: user namespaces, idmapped layers and the overlay are really made, on the store's own file
//! system, in a process that ends.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use serde::Serialize;

use super::print;
use crate::bundle::identity::Identity;
use crate::bundle::rootfs::{Plan, ROOTFS};
use crate::cli::{Global, ListArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::{Caller, Mode};
use crate::host::cgroup;
use crate::host::dirs::Dirs;
use crate::host::features::{self, Facts};
use crate::host::idmap::IdMap;
use crate::host::sys;
use crate::policy::Policy;
use crate::run::job::{self, JobId};
use crate::run::spawn;
use crate::run::trial;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// As it should be.
    Ok,
    /// A run works, with less than there could be.
    Warning,
    /// A run would be refused.
    Refused,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    grade: Grade,
    found: String,
    needed: &'static str,
    fix: Option<String>,
}

/// Looks at the host; exit status 1 when a run would be refused.
///
/// # Errors
/// When the caller is nobody, or the policy cannot be trusted.
pub fn doctor(global: &Global, args: &ListArgs) -> Result<u8> {
    let caller = Caller::find()?;
    let dirs = Dirs::new(&caller, global.root.as_deref())?;
    let policy = Policy::load(&caller, global.policy.as_deref());
    let limits_required = policy.as_ref().map_or(true, |p| p.limits().required.value);
    let mut findings = host(&caller);
    findings.extend([
        policy_file(&policy),
        ids(&caller),
        seccomp(),
        landlock(),
        control_groups(limits_required),
        mounts(&caller, &dirs),
        data(policy.as_ref().ok()),
        bounds(policy.as_ref().ok()),
    ]);
    let refused = findings.iter().any(|f| f.grade == Grade::Refused);
    let word = match (refused, caller.mode) {
        (true, _) => "refused",
        (false, Mode::Enforced) => "enforced",
        (false, Mode::Advisory) => "advisory",
    };
    if args.json {
        print::json(&serde_json::json!({"findings": findings, "result": word}))?;
    } else {
        let mut rows = vec![["", "WHAT", "FOUND", "NEEDED"].map(str::to_owned)];
        rows.extend(findings.iter().map(|f| {
            let mark = match f.grade {
                Grade::Ok => "ok",
                Grade::Warning => "!",
                Grade::Refused => "NO",
            };
            [mark.to_owned(), f.what.to_owned(), f.found.clone(), f.needed.to_owned()]
        }));
        print::table(&rows)?;
        for finding in &findings {
            if let Some(fix) = &finding.fix {
                print::line(&format!("{}: {fix}", finding.what))?;
            }
        }
        print::line(word)?;
    }
    Ok(u8::from(refused))
}

/// How much a run may write: no file system's quota is used, ces looks itself.
fn bounds(policy: Option<&Policy>) -> Finding {
    let bounded = policy.is_some_and(|policy| {
        let limits = policy.limits();
        limits.scratch.max.is_some() && limits.outputs.max.is_some()
    });
    let found = if bounded { "watched by ces, every second" } else { "not set for both in the policy" };
    let fix = "set limits.scratch and limits.outputs in the policy, or quotas on homes and the store".to_owned();
    let problem = (!bounded).then_some((Grade::Warning, fix));
    finding("scratch, outputs", "bounds, or quotas of the file systems", found.to_owned(), problem)
}

fn finding(what: &'static str, needed: &'static str, found: String, problem: Option<(Grade, String)>) -> Finding {
    let (grade, fix) = problem.map_or((Grade::Ok, None), |(grade, fix)| (grade, Some(fix)));
    Finding { what, grade, found, needed, fix }
}

fn host(caller: &Caller) -> Vec<Finding> {
    let features = features::judge(&Facts::gather(caller.is_privileged())).into_iter();
    features
        .map(|feature| {
            let problem = feature.fix.map(|fix| (Grade::Refused, fix.to_owned()));
            finding(feature.what, feature.needed, feature.found, problem)
        })
        .collect()
}

fn policy_file(policy: &Result<Policy>) -> Finding {
    match policy {
        Ok(policy) => finding("policy", "readable, root-owned, valid", policy.file().to_owned(), None),
        Err(error) => finding(
            "policy",
            "readable, root-owned, valid",
            error.to_string(),
            Some((Grade::Refused, "ces policy check FILE tells more".to_owned())),
        ),
    }
}

fn ids(caller: &Caller) -> Finding {
    let needed = "65536 ids for the image's users";
    match IdMap::on_disk(caller) {
        Err(error) => finding(
            "ids",
            needed,
            error.to_string(),
            Some((Grade::Refused, "make /etc/subuid and /etc/subgid readable".to_owned())),
        ),
        Ok(map) if map.is_single() => finding(
            "ids",
            needed,
            "one id: your own".to_owned(),
            Some((
                Grade::Warning,
                "every user of an image is you, and the profile service is not to be had; ask for entries in /etc/subuid and /etc/subgid".to_owned(),
            )),
        ),
        Ok(map) => {
            let ranges: Vec<String> = map.uids.iter().map(|e| format!("{}+{}", e.outside, e.count)).collect();
            finding("ids", needed, ranges.join(", "), None)
        }
    }
}

fn seccomp() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let problem =
        (!actions.contains("errno")).then(|| (Grade::Refused, "boot a kernel with CONFIG_SECCOMP_FILTER".to_owned()));
    finding("seccomp", "filters", if problem.is_none() { "filters".to_owned() } else { "none".to_owned() }, problem)
}

fn landlock() -> Finding {
    let version = sys::landlock_version();
    let problem = version
        .is_none()
        .then(|| (Grade::Warning, "a second fence around unpacking is missing; boot with lsm=landlock,…".to_owned()));
    let found = version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    finding("landlock", "for unpacking", found, problem)
}

/// Makes a control group, exactly as a run would.
fn control_groups(required: bool) -> Finding {
    let needed = "memory, cpu, pids";
    let grade = if required { Grade::Refused } else { Grade::Warning };
    let kind = cgroup::setup().map_or_else(|_| "none".to_owned(), |setup| setup.to_string());
    match trial::limits() {
        Ok(missing) if missing.is_empty() => finding("control groups", needed, format!("tried: {kind}"), None),
        Ok(missing) => finding(
            "control groups",
            needed,
            format!("{kind}, without {}", missing.join(", ")),
            Some((grade, "have these delegated (systemd: Delegate= of user@.service), or use sudo".to_owned())),
        ),
        Err(error) => {
            let fix = error.hint_text().unwrap_or("without limits a run can use the whole host; use sudo").to_owned();
            finding("control groups", needed, format!("{kind}: {error}"), Some((grade, fix)))
        }
    }
}

/// Mounts an empty image, exactly as a run would.
fn mounts(caller: &Caller, dirs: &Dirs) -> Finding {
    let needed = "user namespaces, idmapped layers, overlay";
    match try_mounts(caller, dirs) {
        Ok(()) => finding("mounts", needed, "tried: they work".to_owned(), None),
        Err(error) => {
            let fix = error
                .hint_text()
                .unwrap_or("see user.max_user_namespaces, and the file system of the store")
                .to_owned();
            finding("mounts", needed, error.to_string(), Some((Grade::Refused, fix)))
        }
    }
}

fn try_mounts(caller: &Caller, dirs: &Dirs) -> Result<()> {
    let identity = Identity::new(caller, 0, 0, Vec::new(), false)?;
    let dir = dirs.store.join("work").join(format!("doctor-{}", JobId::new()?));
    let layer = dir.join("layer");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&layer).map_err(|e| {
        Error::new(Stage::Store, Kind::Host, format!("cannot write to the store {}", dirs.store.display())).because(e)
    })?;
    let work = dir.join("work");
    let privileged = caller.is_privileged();
    let prepared = fs::create_dir(&work).and_then(|()| match identity.on_disk.uid_outside(0) {
        Some(owner) if privileged => std::os::unix::fs::chown(&layer, Some(owner), Some(owner)),
        _ => Ok(()),
    });
    let tried = prepared
        .map_err(|e| Error::new(Stage::Store, Kind::Host, "cannot write to the store").because(e))
        .and_then(|()| {
            let plan = Plan {
                root_mode: 0o755,
                root_owner: identity.for_mounting(0, 0)?,
                layers: vec![layer],
                work: work.clone(),
                binds: Vec::new(),
                root_ids: identity.root(),
                cover: work,
            };
            spawn::in_stage(&plan, identity.layer_map().as_ref(), &identity.container, privileged, || {
                fs::write(Path::new(ROOTFS).join("file"), "x")
                    .map_err(|e| Error::new(Stage::Bundle, Kind::Host, "cannot write to the overlay").because(e))
            })
        });
    let removed = spawn::with_ids(&identity.container, privileged, || job::remove_work(&dir).map(|()| Vec::new()));
    tried?;
    removed.map(drop)
}

fn data(policy: Option<&Policy>) -> Finding {
    let root = policy.map_or_else(|| Path::new("/safe_data").to_path_buf(), |p| p.data_root().to_path_buf());
    let problem = (!root.is_dir())
        .then(|| (Grade::Warning, format!("make {}, with a directory for each project", root.display())));
    finding("safe data", "the directory of the projects", root.display().to_string(), problem)
}
