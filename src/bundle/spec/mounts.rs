//! Mounts of the container, in the order they are made.
//!
//! Takes the grant and the paths of the host; gives mounts that are nosuid and nodev, and noexec where nothing is meant to
//! be executed; trusts that the grant's destinations cover nothing of ours; refuses paths that are not
//! text, which config.json cannot hold.

use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::{SpecInput, internal};
use crate::error::{Error, Kind, Result, Stage};
use crate::policy::Access;

/// The group of terminals in every distribution.
const TTY_GROUP: u32 = 5;

/// All mounts.
pub(super) fn build(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let grant = input.grant;
    let mut mounts = kernel(input)?;
    let data = if grant.data == Access::Ro { READ_ONLY } else { READ_WRITE };
    if let Some(path) = &input.paths.data {
        mounts.push(bind(path, "/safe_data", data)?);
    }
    mounts.push(bind(&input.paths.outputs, "/safe_outputs", READ_WRITE)?);
    mounts.push(bind(&input.paths.scratch, "/scratch", READ_WRITE)?);
    // The user's own: temporary file systems and binds together, parents first.
    let mut own: Vec<Mount> = Vec::new();
    for tmpfs in &grant.tmpfs {
        let mut options = owned(&["nosuid", "nodev"]);
        options.push(format!("mode={:04o}", tmpfs.mode));
        options.push(format!("size={}", tmpfs.size));
        options.extend((!tmpfs.exec).then(|| "noexec".to_owned()));
        options.extend(tmpfs.read_only.then(|| "ro".to_owned()));
        own.push(mount("tmpfs", Path::new("tmpfs"), &tmpfs.destination, options)?);
    }
    for asked in &grant.binds {
        let mut options = owned(if asked.access == Access::Ro { READ_ONLY } else { READ_WRITE });
        options.extend(asked.noexec.then(|| "noexec".to_owned()));
        own.push(mount("bind", &asked.source, &asked.destination, options)?);
    }
    own.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(own);
    // Last, so that nothing covers them.
    let file = &["bind", "ro", "nosuid", "nodev", "noexec"];
    mounts.push(bind(&input.paths.hosts, "/etc/hosts", file)?);
    mounts.push(bind(&input.paths.hostname, "/etc/hostname", file)?);
    mounts.push(bind(&input.paths.resolv_conf, "/etc/resolv.conf", file)?);
    Ok(mounts)
}

/// `rro` and the like: file systems mounted below carry the flag too, which `ro` alone does not do (runtime spec 1.1,
/// "Linux mount options"); crun 1.8 leaves `nosuid` and `nodev` of an `rbind` out altogether, but not these.
const READ_ONLY: &[&str] = &["rbind", "rprivate", "ro", "rro", "nosuid", "rnosuid", "nodev", "rnodev"];
const READ_WRITE: &[&str] = &["rbind", "rprivate", "rw", "nosuid", "rnosuid", "nodev", "rnodev"];

/// What the kernel itself offers.
fn kernel(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let mut pts = owned(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    if input.ids.gid_outside(TTY_GROUP).is_some() {
        pts.push(format!("gid={TTY_GROUP}"));
    }
    let mut shm = owned(&["nosuid", "noexec", "nodev", "mode=1777"]);
    shm.push(format!("size={}", input.grant.shm_bytes));
    Ok(vec![
        own("proc", "proc", "/proc", owned(&["nosuid", "noexec", "nodev"]))?,
        own("tmpfs", "tmpfs", "/dev", owned(&["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]))?,
        own("devpts", "devpts", "/dev/pts", pts)?,
        own("tmpfs", "shm", "/dev/shm", shm)?,
        own("mqueue", "mqueue", "/dev/mqueue", owned(&["nosuid", "noexec", "nodev"]))?,
        own("sysfs", "sysfs", "/sys", owned(&["nosuid", "noexec", "nodev", "ro"]))?,
    ])
}

fn own(typ: &str, source: &str, destination: &str, options: Vec<String>) -> Result<Mount> {
    mount(typ, Path::new(source), Path::new(destination), options)
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount> {
    mount("bind", source, Path::new(destination), owned(options))
}

fn mount(typ: &str, source: &Path, destination: &Path, options: Vec<String>) -> Result<Mount> {
    if let Some(path) = [source, destination].into_iter().find(|path| path.to_str().is_none()) {
        return Err(Error::new(Stage::Bundle, Kind::Usage, format!("{} is not text", path.display()))
            .because("config.json is UTF-8")
            .hint("rename the directory"));
    }
    MountBuilder::default().typ(typ).source(source).destination(destination).options(options).build().map_err(internal)
}
