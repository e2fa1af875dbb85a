//! Mounts of the container, in the order they are made.
//!
//! Takes the grant and the paths of the host; gives mounts that are nosuid and nodev, and noexec where nothing is meant to
//! be executed; trusts that the grant's destinations cover nothing of ours; refuses nothing.

use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use super::{SpecInput, internal};
use crate::error::Result;
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
        let mut options = words(&["nosuid", "nodev"]);
        options.push(format!("mode={:04o}", tmpfs.mode));
        options.push(format!("size={}", tmpfs.size));
        options.extend((!tmpfs.exec).then(|| "noexec".to_owned()));
        options.extend(tmpfs.read_only.then(|| "ro".to_owned()));
        own.push(mount("tmpfs", "tmpfs", &tmpfs.destination.to_string_lossy(), options)?);
    }
    for asked in &grant.binds {
        let mut options = words(if asked.access == Access::Ro { READ_ONLY } else { READ_WRITE });
        options.extend(asked.noexec.then(|| "noexec".to_owned()));
        let source = asked.source.to_string_lossy();
        own.push(mount("bind", &source, &asked.destination.to_string_lossy(), options)?);
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

/// `rro`: file systems mounted below the data are read-only too, which `ro` alone does not do.
const READ_ONLY: &[&str] = &["rbind", "rprivate", "ro", "rro", "nosuid", "nodev"];
const READ_WRITE: &[&str] = &["rbind", "rprivate", "rw", "nosuid", "nodev"];

/// What the kernel itself offers.
fn kernel(input: &SpecInput<'_>) -> Result<Vec<Mount>> {
    let mut pts = words(&["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
    if input.ids.gid_outside(TTY_GROUP).is_some() {
        pts.push(format!("gid={TTY_GROUP}"));
    }
    let mut shm = words(&["nosuid", "noexec", "nodev", "mode=1777"]);
    shm.push(format!("size={}", input.grant.shm_bytes));
    Ok(vec![
        mount("proc", "proc", "/proc", words(&["nosuid", "noexec", "nodev"]))?,
        mount("tmpfs", "tmpfs", "/dev", words(&["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"]))?,
        mount("devpts", "devpts", "/dev/pts", pts)?,
        mount("tmpfs", "shm", "/dev/shm", shm)?,
        mount("mqueue", "mqueue", "/dev/mqueue", words(&["nosuid", "noexec", "nodev"]))?,
        mount("sysfs", "sysfs", "/sys", words(&["nosuid", "noexec", "nodev", "ro"]))?,
    ])
}

fn words(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount> {
    mount("bind", &source.to_string_lossy(), destination, words(options))
}

fn mount(typ: &str, source: &str, destination: &str, options: Vec<String>) -> Result<Mount> {
    MountBuilder::default().typ(typ).source(source).destination(destination).options(options).build().map_err(internal)
}
