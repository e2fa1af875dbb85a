//! What of a host decides whether containers can run on it at all.
//!
//! Takes a few files of `/proc`; gives a `Feature` each: what was found, what is needed, how to mend it; trusts the kernel;
//! refuses nothing itself: `ces run` refuses with the first that is missing, `ces doctor` shows them all.

use std::path::Path;

use nix::sys::utsname::uname;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::kernel_files;

/// The oldest kernel on which overlay takes idmapped layers.
const KERNEL: (u32, u32) = (5, 19);

/// File systems that are mounted below every `/proc`, on directories that the kernel keeps empty for them.
const USUAL: [&str; 3] = ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/proc/bus/usb"];

/// What the judgement depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `uname -r`.
    pub release: String,
    /// `user.max_user_namespaces`; none where the kernel has no user namespaces.
    pub user_namespaces: Option<u64>,
    /// `user.max_net_namespaces`; none where the kernel has no network namespaces.
    pub net_namespaces: Option<u64>,
    /// Debian's `kernel.unprivileged_userns_clone` is 0.
    pub clone_forbidden: bool,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1, and this program has no profile of its own.
    pub apparmor_restricts: bool,
    /// What is mounted below `/proc`.
    pub over_proc: Vec<String>,
    /// `ces` has root's privileges.
    pub privileged: bool,
}

/// One thing that a host has or lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// What it is.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What is needed.
    pub needed: &'static str,
    /// How to mend it; none when it is as it should be.
    pub fix: Option<&'static str>,
}

impl Facts {
    /// Asks the kernel.
    pub fn gather(privileged: bool) -> Self {
        let text = |path: &str| kernel_files::read(path).map(|text| text.trim().to_owned()).ok();
        let number = |path: &str| text(path).and_then(|text| text.parse().ok());
        let label = text("/proc/self/attr/apparmor/current").unwrap_or_else(|| "unconfined".to_owned());
        Self {
            release: uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
            user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            net_namespaces: number("/proc/sys/user/max_net_namespaces"),
            clone_forbidden: number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1)
                && label.starts_with("unconfined"),
            over_proc: over_proc(&text("/proc/self/mountinfo").unwrap_or_default()),
            privileged,
        }
    }
}

/// Mount points below `/proc` that hide something (proc_pid_mountinfo(5)).
fn over_proc(mountinfo: &str) -> Vec<String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|at| at.starts_with("/proc/") && !USUAL.iter().any(|usual| Path::new(at).starts_with(usual)))
        .map(str::to_owned)
        .collect()
}

/// What this host has and lacks. Pure.
pub fn judge(facts: &Facts) -> Vec<Feature> {
    let feature = |what, found, needed, lacks: bool, fix| Feature { what, found, needed, fix: lacks.then_some(fix) };
    let mut parts = facts.release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let (user, user_fix) = match facts {
        Facts { user_namespaces: None, .. } => ("none".to_owned(), "boot a kernel with CONFIG_USER_NS"),
        Facts { user_namespaces: Some(0), .. } => (
            "user.max_user_namespaces is 0".to_owned(),
            "as root: sysctl user.max_user_namespaces=10000, and the same in a file of /etc/sysctl.d",
        ),
        Facts { clone_forbidden: true, privileged: false, .. } => (
            "kernel.unprivileged_userns_clone is 0".to_owned(),
            "as root: sysctl kernel.unprivileged_userns_clone=1, and the same in a file of /etc/sysctl.d; or use sudo",
        ),
        Facts { apparmor_restricts: true, privileged: false, .. } => (
            "kernel.apparmor_restrict_unprivileged_userns is 1".to_owned(),
            "as root: a profile for ces with the rule `userns,` (docs/hosts.md has one); or use sudo",
        ),
        Facts { user_namespaces: Some(n), .. } => (format!("up to {n}"), ""),
    };
    let (net, net_fix) = match facts.net_namespaces {
        None => ("none".to_owned(), "boot a kernel with CONFIG_NET_NS"),
        Some(0) => (
            "user.max_net_namespaces is 0".to_owned(),
            "as root: sysctl user.max_net_namespaces=10000, and the same in a file of /etc/sysctl.d",
        ),
        Some(n) => (format!("up to {n}"), ""),
    };
    let masked = !facts.over_proc.is_empty();
    let proc = if masked { format!("masked at {}", facts.over_proc.join(", ")) } else { "not masked".to_owned() };
    vec![
        feature("kernel", facts.release.clone(), "5.19 or newer", version < KERNEL, "boot a kernel of 5.19 or newer"),
        feature("user namespaces", user, "at least 2", !user_fix.is_empty(), user_fix),
        feature("network namespaces", net, "at least 1", !net_fix.is_empty(), net_fix),
        feature(
            "/proc",
            proc,
            "nothing mounted over it",
            masked,
            "this is inside another container: run ces on the host itself, or start that container with its /proc unmasked",
        ),
    ]
}

/// Refuses a host that lacks something, with cause and remedy.
///
/// # Errors
/// For the first feature that is missing.
pub fn require(privileged: bool) -> Result<()> {
    let missing = judge(&Facts::gather(privileged)).into_iter().find_map(|feature| Some((feature.fix?, feature)));
    match missing {
        None => Ok(()),
        Some((fix, feature)) => Err(Error::new(Stage::Host, Kind::Host, "this host cannot run containers as it is")
            .because(format!("{}: {}; needed: {}", feature.what, feature.found, feature.needed))
            .hint(format!("{fix}; ces doctor shows all that is needed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            release: "6.1.0-50-amd64".to_owned(),
            user_namespaces: Some(127_000),
            net_namespaces: Some(127_000),
            clone_forbidden: false,
            apparmor_restricts: false,
            over_proc: Vec::new(),
            privileged: false,
        }
    }

    fn lacks(facts: &Facts) -> Vec<&'static str> {
        judge(facts).into_iter().filter(|feature| feature.fix.is_some()).map(|feature| feature.what).collect()
    }

    #[test]
    fn each_kernel_is_judged_by_its_number() {
        let cases = [
            ("3.10.0-1160.el7.x86_64", false),
            ("4.18.0-553.el8_10.x86_64", false),
            ("5.4.0-200-generic", false),
            ("5.14.0-503.el9_5.x86_64", false),
            ("5.15.0-1.fc34", false),
            ("5.18.19", false),
            ("5.19.0", true),
            ("6.1.0-50-cloud-amd64", true),
            ("6.18.44", true),
            ("10.0", true),
            ("", false),
            ("nonsense", false),
        ];
        for (release, fits) in cases {
            let facts = Facts { release: release.to_owned(), ..good() };
            assert_eq!(lacks(&facts), if fits { vec![] } else { vec!["kernel"] }, "{release}");
        }
    }

    #[test]
    fn what_forbids_namespaces_is_named_and_binds_those_whom_it_binds() {
        assert_eq!(lacks(&good()), Vec::<&str>::new());
        assert_eq!(lacks(&Facts { user_namespaces: None, ..good() }), ["user namespaces"]);
        assert_eq!(lacks(&Facts { user_namespaces: Some(0), privileged: true, ..good() }), ["user namespaces"]);
        assert_eq!(lacks(&Facts { net_namespaces: Some(0), ..good() }), ["network namespaces"]);
        for facts in [Facts { clone_forbidden: true, ..good() }, Facts { apparmor_restricts: true, ..good() }] {
            assert_eq!(lacks(&facts), ["user namespaces"], "{facts:?}");
            assert_eq!(lacks(&Facts { privileged: true, ..facts }), Vec::<&str>::new());
        }
        let restricted = judge(&Facts { apparmor_restricts: true, ..good() });
        assert!(restricted[1].found.contains("apparmor") && restricted[1].fix.unwrap().contains("profile"));
    }

    #[test]
    fn a_masked_proc_is_seen_and_what_every_host_mounts_there_is_not() {
        let line = |at: &str| format!("30 25 0:26 / {at} rw,relatime - tmpfs tmpfs rw\n");
        assert_eq!(over_proc(&[line("/proc"), line("/proc/sys/fs/binfmt_misc")].concat()), Vec::<String>::new());
        let masked = over_proc(&[line("/proc"), line("/proc/kcore"), line("/proc/sys")].concat());
        assert_eq!(masked, ["/proc/kcore", "/proc/sys"]);
        assert_eq!(lacks(&Facts { over_proc: masked, privileged: true, ..good() }), ["/proc"]);
    }
}
