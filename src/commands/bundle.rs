//! `ces spec`, `ces bundle`: what a run would get, for eyes and for other runtimes.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::prepare::{self, Prepared};
use super::print;
use crate::bundle::flatten;
use crate::bundle::identity::{HostIds, acting_as};
use crate::bundle::rootfs::{Bind, Plan, ROOTFS};
use crate::bundle::spec::{self, HostPaths};
use crate::cli::{BundleArgs, Global, SpecArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::run::job_id::JobId;
use crate::run::stage::in_child;
use crate::run::supervisor::job;
use crate::run::user_namespace;

/// Prints the `config.json` that a run would get; nothing runs.
///
/// # Errors
/// As `ces run`, before anything is made.
pub fn spec(global: &Global, args: &SpecArgs) -> Result<u8> {
    let prepared = prepare::prepare(global, &args.run, prepare::caller()?)?;
    let home = &prepared.identity.caller.home;
    let paths = HostPaths {
        data: Some(prepared.data.path.clone()),
        outputs: home.join("outputs_ID"),
        scratch: home.join("scratch_ID"),
        hosts: "hosts".into(),
        hostname: "hostname".into(),
        resolv_conf: "resolv.conf".into(),
    };
    let (spec, _) = prepared.spec("ID", &paths, Path::new("rootfs"), true)?;
    let text = spec::to_json(&spec)?;
    print::json_text(&text)?;
    Ok(0)
}

/// Makes a complete, portable OCI bundle in a new directory.
///
/// # Errors
/// As `ces run`; and when the directory is not new.
pub fn bundle(global: &Global, args: &BundleArgs) -> Result<u8> {
    let mut prepared = prepare::prepare(global, &args.run(), prepare::caller()?)?;
    prepared.identity = prepared.identity.portable()?;
    let dir = std::path::absolute(&args.dir)
        .map_err(|e| Error::new(Stage::Cli, Kind::Usage, format!("cannot use {}", args.dir.display())).because(e))?;
    make_directories(&prepared, &dir)?;
    let made = fill(&prepared, &dir);
    if made.is_err() {
        let identity = &prepared.identity;
        // The first error is the one to show.
        user_namespace::with_ids(&identity.container, identity.caller.is_privileged(), || {
            job::remove_work(&dir).map(|()| Vec::new())
        })
        .ok();
    }
    made?;
    print::line(&dir.display().to_string())?;
    Ok(0)
}

fn make_directories(prepared: &Prepared, dir: &Path) -> Result<()> {
    let identity = &prepared.identity;
    let fail = |path: &Path, e: std::io::Error| {
        Error::new(Stage::Bundle, Kind::Failed, format!("cannot make {}", path.display()))
            .because(e)
            .hint("name a directory that does not exist yet, in one that is yours")
    };
    let privileged = identity.caller.is_privileged();
    acting_as(&identity.researcher(), privileged, || {
        // Others may pass through, as the container's users must, but not look.
        fs::DirBuilder::new().mode(0o711).create(dir).map_err(|e| fail(dir, e))?;
        for name in ["rootfs", "safe_outputs", "scratch"] {
            fs::DirBuilder::new().mode(0o700).create(dir.join(name)).map_err(|e| fail(&dir.join(name), e))?;
        }
        Ok(())
    })?;
    let payload = identity.payload();
    for name in ["safe_outputs", "scratch"].into_iter().filter(|_| privileged) {
        std::os::unix::fs::lchown(dir.join(name), Some(payload.uid), Some(payload.gid))
            .map_err(|e| fail(&dir.join(name), e))?;
    }
    Ok(())
}

fn fill(prepared: &Prepared, dir: &Path) -> Result<()> {
    let identity = &prepared.identity;
    let privileged = identity.caller.is_privileged();
    let id = JobId::new()?;
    let hostname = prepared.hostname("ces").to_owned();
    let [hosts, hostname, resolv_conf] =
        acting_as(&identity.researcher(), privileged, || prepare::write_etc(dir, &hostname))?;
    let paths = HostPaths {
        data: Some(prepared.data.path.clone()),
        outputs: dir.join("safe_outputs"),
        scratch: dir.join("scratch"),
        hosts,
        hostname,
        resolv_conf,
    };
    let (spec, notes) = prepared.spec("ces", &paths, Path::new("rootfs"), true)?;
    notes.iter().try_for_each(|note| print::note(note))?;
    let config = dir.join("config.json");
    let text = spec::to_json(&spec)?;
    acting_as(&identity.researcher(), privileged, || {
        fs::write(&config, text).map_err(|e| {
            Error::new(Stage::Bundle, Kind::Failed, format!("cannot write {}", config.display())).because(e)
        })
    })?;
    copy_rootfs(prepared, &dir.join("rootfs"), &prepared.dirs.store.join("work").join(format!("bundle-{id}")))
}

/// Copies the image's merged tree, in a process that sees that tree and the target alone.
fn copy_rootfs(prepared: &Prepared, target: &Path, work: &Path) -> Result<()> {
    let identity = &prepared.identity;
    let privileged = identity.caller.is_privileged();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(work)
        .map_err(|e| Error::new(Stage::Bundle, Kind::Failed, format!("cannot make {}", work.display())).because(e))?;
    let root = prepared.image.root();
    let plan = Plan {
        root_mode: root.mode,
        root_owner: identity.for_mounting(root.uid, root.gid)?,
        layers: prepared.image.layers().iter().map(|layer| layer.path().to_path_buf()).collect(),
        work: work.to_path_buf(),
        binds: vec![Bind {
            source: target.to_path_buf(),
            text: None,
            destination: PathBuf::from("rootfs"),
            read_only: false,
            no_exec: false,
            opened_as: HostIds { uid: 0, gid: 0, groups: Vec::new() },
            follow: false,
        }],
        root_ids: identity.root(),
        cover: work.to_path_buf(),
    };
    let open = |path: &str| {
        File::open(path).map_err(|e| Error::new(Stage::Bundle, Kind::Failed, format!("cannot open {path}")).because(e))
    };
    let copied = in_child::in_stage(&plan, identity.layer_map().as_ref(), &identity.container, privileged, || {
        flatten::copy(open(ROOTFS)?.into(), open("/b/0")?.into())
    });
    let removed =
        user_namespace::with_ids(&identity.container, privileged, || job::remove_work(work).map(|()| Vec::new()));
    copied?;
    removed.map(drop)
}
