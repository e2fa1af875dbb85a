//! `ces doctor`: can this host run containers safely, and how to fix what is missing.
//!
//! What can be tried is tried: user namespaces, idmapped layers and the overlay are really made, on the store's own file
//! system, in a process that ends.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::finding::{self, Finding, Grade, finding};
use super::{facts, prepare, print};
use crate::approval::image_request::State;
use crate::approval::requests;
use crate::bundle::identity::Identity;
use crate::bundle::rootfs::{Plan, ROOTFS};
use crate::bundle::safe_data;
use crate::bundle::spec::resources;
use crate::cli::{Global, ListArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::copy::Copier;
use crate::host::caller::{Caller, Mode};
use crate::host::cgroup;
use crate::host::dirs::Dirs;
use crate::host::features::{self, Facts};
use crate::host::idmap::IdMap;
use crate::host::ids::HostIds;
use crate::host::log_dir::CopyTo;
use crate::host::privilege::{Root, as_root};
use crate::host::sys;
use crate::policy::reader::Rule;
use crate::policy::units::show_size;
use crate::policy::{Access, Limit, Policy};
use crate::run::job_id::JobId;
use crate::run::stage::in_child;
use crate::run::supervisor::job;
use crate::run::supervisor::probe::{self, Seen};
use crate::run::user_namespace;

/// Looks at the host; exit status 1 when a run would be refused.
///
/// # Errors
/// When the caller is nobody, or the policy cannot be trusted.
pub fn doctor(global: &Global, args: &ListArgs) -> Result<u8> {
    let caller = Caller::find()?;
    let policy = as_root(|root| Policy::load(root, &caller, global.policy.as_deref()));
    let places = policy.as_ref().map(|policy| policy.places().clone()).unwrap_or_default();
    let dirs = as_root(|root| Dirs::open(root, &caller, global.root.as_deref(), &places));
    // What names a place in vain is wrong with the call, not with the host.
    let dirs = match dirs {
        Err(error) if error.kind() != Kind::Host => return Err(error),
        other => other,
    };
    let limits_required = policy.as_ref().map_or(true, |p| p.limits().required.value);
    let mut findings = host(&caller);
    findings.extend([policy_file(&policy), ids(&caller), seccomp(), landlock()]);
    if let Ok(policy) = &policy {
        findings.extend([finding::data(policy), project(policy, &caller)]);
        findings.extend(
            [finding::registries(policy), finding::waivers(policy), ordinary_users(policy, &caller)]
                .into_iter()
                .flatten(),
        );
        findings.extend(approvals(policy, &caller, dirs.as_ref().ok()));
    }
    match &dirs {
        Ok(dirs) => {
            let io = policy.as_ref().ok().and_then(|p| p.limits().io.default.as_ref());
            findings.push(control_groups(limits_required, io, &caller, dirs));
            findings.push(mounts(&caller, dirs));
            findings.extend(home(&caller, dirs, policy.as_ref().ok()));
        }
        Err(error) => {
            let fix = error.hint_text().unwrap_or("see [site] in the policy").to_owned();
            let needed = "directories that only their owner can change";
            findings.push(finding("store", needed, error.to_string(), Some((Grade::Refused, fix))));
        }
    }
    findings.extend(policy.as_ref().ok().and_then(Policy::copies).map(|to| copies(&to)));
    let refused = findings.iter().any(|f| f.grade == Grade::Refused);
    let word = match (refused, caller.mode) {
        (true, _) => "refused",
        (false, Mode::Enforced) => "enforced",
        (false, Mode::Advisory) => "advisory",
    };
    if args.json {
        print::json(&serde_json::json!({"findings": findings, "result": word}))?;
    } else {
        let mut rows = vec![["", "CHECK", "FOUND", "NEEDED"].map(str::to_owned)];
        rows.extend(
            findings
                .iter()
                .map(|f| [f.grade.word().to_owned(), f.what.to_owned(), f.found.clone(), f.needed.to_owned()]),
        );
        print::page(&rows)?;
        for finding in &findings {
            if let Some(fix) = &finding.fix {
                print::line(&format!("{}: {fix}", finding.what))?;
            }
        }
        let means = match (refused, caller.mode) {
            (true, _) => "a run would be refused: fix what is marked FAIL",
            (false, Mode::Enforced) => "the site's policy binds this caller",
            (false, Mode::Advisory) => {
                "containers are isolated, but the policy is advice: this caller runs with their own rights"
            }
        };
        print::line(&format!("{word}: {means}"))?;
    }
    Ok(u8::from(refused))
}

/// The home, where scratch and outputs are made, and how they are bounded: by their file systems, or ces counts what is in
/// them, and in the layer over the image, while the payload runs. Both are tried, with the rights that a run has.
fn home(caller: &Caller, dirs: &Dirs, policy: Option<&Policy>) -> [Finding; 2] {
    let (place, needed) = (caller.home.display().to_string(), "a directory that the researcher can write to");
    let watched = probe::watch(caller);
    let home = match &watched {
        Ok(_) => finding("home", needed, format!("tested: {place}"), None),
        Err(error) => {
            let fix = error.hint_text().unwrap_or("let the researcher make and remove directories there");
            finding("home", needed, error.to_string(), Some((Grade::Refused, fix.to_owned())))
        }
    };
    let limits = policy.map(Policy::limits);
    let bytes = |limit: Option<&Limit<u64>>| {
        limit.and_then(|limit| limit.default.as_ref().or(limit.max.as_ref())).map(|max| show_size(max.value))
    };
    let files = |limit: Option<&Limit<u64>>| {
        limit.and_then(|limit| limit.default.as_ref().or(limit.max.as_ref())).map(|max| format!("{} files", max.value))
    };
    let of = |bounds: [Option<String>; 2]| bounds.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let scratch = of([bytes(limits.map(|l| &l.scratch)), files(limits.map(|l| &l.scratch_files))]);
    let outputs = of([bytes(limits.map(|l| &l.outputs)), files(limits.map(|l| &l.output_files))]);
    let bounded = [&scratch, &outputs].into_iter().filter(|bound| !bound.is_empty()).count();
    let quotas = if bounded == 0 { Ok([false; 2]) } else { quotas(caller, dirs) };
    let watch = match &watched {
        Ok(Ok(Seen::All)) => "watched by ces every second, tested".to_owned(),
        Ok(Ok(Seen::Open)) => {
            "watched by ces every second, tested; a directory that a program makes unreadable ends the run".to_owned()
        }
        Ok(Err(error)) => format!("cannot be watched: {error}"),
        Err(_) => "not tested".to_owned(),
    };
    let how = |kept: bool| if kept { "kept by the file system: project quotas, tested" } else { watch.as_str() };
    let [scratch_kept, outputs_kept] = *quotas.as_ref().unwrap_or(&[false; 2]);
    let bound = |what: &str, max: &str, how: &str| match max {
        "" => format!("{what} has no limit"),
        max => format!("{what}: {max}{how}"),
    };
    let [scratch_how, outputs_how] = [scratch_kept, outputs_kept].map(|kept| format!(" ({})", how(kept)));
    let both = bounded == 2 && scratch_how == outputs_how;
    let scratch_said = bound("scratch", &scratch, if both { "" } else { &scratch_how });
    let found = format!("{scratch_said}; {}", bound("outputs", &outputs, &outputs_how));
    let all_kept = (scratch.is_empty() || scratch_kept) && (outputs.is_empty() || outputs_kept);
    let problem = match (&quotas, &watched) {
        // A run would be refused.
        (Err(error), _) => Some((Grade::Refused, error.hint_text().unwrap_or("see quotaon(8)").to_owned())),
        // Such a run would be ended at its first look.
        (_, Ok(Err(error))) if bounded > 0 && !all_kept => {
            Some((Grade::Refused, error.hint_text().unwrap_or("use a home on another file system").to_owned()))
        }
        (_, Ok(Ok(Seen::Open))) if bounded > 0 && !all_kept => {
            Some((Grade::Warning, "on a local file system such directories can be counted too".to_owned()))
        }
        _ if bounded == 2 => None,
        _ => Some((
            Grade::Warning,
            "set limits.scratch and limits.outputs in the policy; or quotas on homes and the store".to_owned(),
        )),
    };
    let found = quotas.as_ref().err().map_or(found, |error| error.to_string());
    let needed = "a limit for each, kept by the file system or watched by ces";
    [home, finding("scratch, outputs", needed, found, problem)]
}

/// Whether the file systems of what a run writes as scratch, and of its outputs, keep bounds on them.
fn quotas(caller: &Caller, dirs: &Dirs) -> Result<[bool; 2]> {
    if !caller.is_privileged() {
        return Ok([false; 2]);
    }
    let (home, store) = (caller.ids(), HostIds { uid: 0, gid: 0, groups: Vec::new() });
    as_root(|root| {
        let outputs = probe::quota(root, &caller.home, &home)?;
        Ok([outputs && probe::quota(root, dirs.store.path(), &store)?, outputs])
    })
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
        Ok(policy) => finding("policy", "readable, owned by root, valid", policy.file().to_owned(), None),
        Err(error) => finding(
            "policy",
            "readable, owned by root, valid",
            error.to_string(),
            Some((Grade::Refused, "ces policy check FILE tells the line".to_owned())),
        ),
    }
}

/// The list of approved images, where the policy names one: whether it can be read, and which approvals end within thirty days. To
/// who approves, of everybody; to researchers, of their project.
fn approvals(policy: &Policy, caller: &Caller, dirs: Option<&Dirs>) -> Option<Finding> {
    let (what, needed) = ("approvals", "a list that can be read, and none that ends within 30 days");
    let list = match as_root(|root| policy.approved(root)) {
        Ok(list) => list?,
        Err(error) => {
            let fix = error.hint_text().unwrap_or("ces approve add makes the list").to_owned();
            return Some(finding(what, needed, error.to_string(), Some((Grade::Refused, fix))));
        }
    };
    let (today, approves) = (facts::today(), policy.may_approve(caller).is_ok());
    let project = safe_data::find(caller, policy.data_root(), None).ok().and_then(|data| data.project);
    let theirs: Vec<_> =
        list.all().iter().filter(|a| a.counts_on(today) && (approves || a.is_for(project.as_deref()))).collect();
    let ending: Vec<String> = theirs
        .iter()
        .filter(|approval| approval.ends_soon(today).is_some())
        .map(|a| format!("{} on {}", a.name.as_ref().unwrap_or(&a.digest), a.expires.unwrap_or(today)))
        .collect();
    let open = || {
        let all = as_root(|root| requests::all(root, &dirs?.log, None).ok())?;
        Some(all.0.iter().filter(|request| request.state == State::Open).count())
    };
    let open = if approves { open() } else { None };
    let asked = open.map_or_else(String::new, |open| format!(", {open} open requests"));
    let found = format!("{} approvals count, {} of them end within 30 days{asked}", theirs.len(), ending.len());
    let problem = (!ending.is_empty()).then(|| {
        let whom = if approves { "ces approve renew IMAGE --until DATE".to_owned() } else { policy.whom_to_ask() };
        (Grade::Warning, format!("{}; {whom}", ending.join("; ")))
    });
    Some(finding(what, needed, found, problem))
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
                "every user of an image is mapped to you, and the profile service is not available; ask for entries in /etc/subuid and /etc/subgid".to_owned(),
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
    let problem = version.is_none().then(|| {
        (
            Grade::Warning,
            "unpacking is confined by its user namespace alone; boot with lsm=landlock,… to add Landlock".to_owned(),
        )
    });
    let found = version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"));
    finding("landlock", "for unpacking", found, problem)
}

/// Makes a control group, exactly as a run would.
fn control_groups(required: bool, io: Option<&Rule<u64>>, caller: &Caller, dirs: &Dirs) -> Finding {
    let needed = if io.is_some() { "memory, cpu, pids, io" } else { "memory, cpu, pids" };
    let grade = if required { Grade::Refused } else { Grade::Warning };
    let kind = cgroup::setup().map_or_else(|_| "none".to_owned(), |setup| setup.to_string());
    let tried = io.map_or_else(|| Ok(LinuxResources::default()), |rate| disk_limits(rate.value, caller, dirs));
    match tried.and_then(|resources| as_root(|root| probe::limits(root, &resources))) {
        Ok(missing) if missing.is_empty() => finding("control groups", needed, format!("tested: {kind}"), None),
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

/// The limit of traffic with the disks of the home and of the store.
fn disk_limits(rate: u64, caller: &Caller, dirs: &Dirs) -> Result<LinuxResources> {
    let disks = prepare::disks_of(caller, dirs, std::iter::empty())?;
    let mut limits = LinuxResources::default();
    limits.set_block_io(Some(resources::block_io(rate, &disks)?));
    Ok(limits)
}

/// Mounts an empty image, exactly as a run would.
fn mounts(caller: &Caller, dirs: &Dirs) -> Finding {
    let needed = "user namespaces, idmapped layers, overlay";
    match as_root(|root| try_mounts(root, caller, dirs)) {
        Ok(()) => finding("mounts", needed, "tested: OK".to_owned(), None),
        Err(error) => {
            let fix = error
                .hint_text()
                .unwrap_or("see user.max_user_namespaces, and the file system of the store")
                .to_owned();
            finding("mounts", needed, error.to_string(), Some((Grade::Refused, fix)))
        }
    }
}

fn try_mounts(root: &Root, caller: &Caller, dirs: &Dirs) -> Result<()> {
    let identity = Identity::new(caller, 0, 0, Vec::new(), false)?;
    let dir = dirs.store.join("work").join(format!("doctor-{}", JobId::new()?));
    let layer = dir.join("layer");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&layer).map_err(|e| {
        Error::new(Stage::Store, Kind::Host, format!("cannot write to the store {}", dirs.store.path().display()))
            .because(e)
            .hint("name a directory that you can write to, on a local file system, with --root DIR or CES_ROOT")
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
            in_child::in_stage(root, &plan, identity.layer_map().as_ref(), &identity.container, privileged, || {
                fs::write(Path::new(ROOTFS).join("file"), "x")
                    .map_err(|e| Error::new(Stage::Bundle, Kind::Host, "cannot write to the overlay").because(e))
            })
        });
    let removed =
        user_namespace::with_ids(root, &identity.container, privileged, || job::remove_work(&dir).map(|()| Vec::new()));
    tried?;
    removed.map(drop)
}

/// Whether somebody takes copies of the audit log's lines, where the policy names who.
fn copies(to: &CopyTo) -> Finding {
    let (place, needed) = (format!("{} at {}", to.service, to.socket.display()), "a service that takes each line");
    match Copier::open(to) {
        Ok(_) => finding("audit copies", needed, place, None),
        Err(e) => {
            let grade = if to.required { Grade::Refused } else { Grade::Warning };
            let fix = "start the service, or change [audit] in the policy; each line says that it has no copy";
            finding("audit copies", needed, format!("{place}: {e}"), Some((grade, fix.to_owned())))
        }
    }
}

/// The caller's own project: without one a run is refused. Root's own are mostly none, and it names one.
fn project(policy: &Policy, caller: &Caller) -> Finding {
    let (what, needed) = ("project", "a project of the caller's, or ~/safe_data");
    let data = match safe_data::find(caller, policy.data_root(), None) {
        Ok(data) => data,
        Err(error) if caller.is_privileged() && !caller.by_sudo => {
            let fix = "root belongs to no project: name one with --project".to_owned();
            return finding(what, needed, error.to_string(), Some((Grade::Warning, fix)));
        }
        Err(error) => return finding::refused(what, needed, &error, "ask for membership of the project's group"),
    };
    let access = policy.access_to(data.project.as_deref());
    match safe_data::check_access(&data, &caller.ids(), access == Access::Rw) {
        Ok(()) => {
            let name = data.project.as_deref().unwrap_or("none, but data of your own");
            let access = if access == Access::Rw { "read and write" } else { "read-only" };
            finding(what, needed, format!("{name}: {} ({access})", data.path.display()), None)
        }
        Err(error) => finding::refused(what, needed, &error, "ask the project's owner for access"),
    }
}

/// What researchers get who call ces without sudo: told to root.
fn ordinary_users(policy: &Policy, caller: &Caller) -> Option<Finding> {
    if caller.by_sudo || !caller.is_privileged() {
        return None;
    }
    let (what, needed) = ("ordinary users", "calls that go through sudo");
    Some(if policy.is_enforced() {
        finding(what, needed, "their calls go through sudo: mode = \"enforced\"".to_owned(), None)
    } else {
        let found = "they run with their own rights, records and store".to_owned();
        let fix = "set mode = \"enforced\" in the policy, and let them call ces through sudo".to_owned();
        finding(what, needed, found, Some((Grade::Warning, fix)))
    })
}
