//! Options of podman that `ces run` does not have itself.
//!
//! Takes an option's name and value; gives a `Verdict`; trusts nothing; refuses by name whatever would widen a run or
//! would have to be ignored. An option that states what holds for every run is accepted without a word.

use crate::error::{Error, Kind, Result, Stage};

/// What an option is followed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing, or `=true` / `=false`.
    Switch,
    /// A value.
    Value,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Says what every run does anyway, whatever its value.
    Already,
    /// Says what every run does anyway for these values (a `*` at the end stands for any rest); refused for the reason
    /// given for others.
    AlreadyIf(&'static [&'static str], &'static str),
    /// Would widen the run; no policy can allow it. The rule's name, and what holds instead.
    Widens(&'static str, &'static str),
    /// Means nothing here; what to do instead.
    Elsewhere(&'static str),
}

/// An option: long name, short name, what it takes, what becomes of it.
pub type PodmanOption = (&'static str, Option<char>, Takes, Verdict);

use Takes::{Switch, Value};
use Verdict::{Already, AlreadyIf, Elsewhere, Widens};

const NETWORK: &str = "a run has a network of its own with `lo` alone";
const IDS: &str = "who is who in a run is decided by ces, so that outputs belong to the researcher";
const DEVICES: &str = "a run has null, zero, full, random, urandom, tty and its own pts, no other device";
const LIMIT: &str = "use --memory, --cpus and --pids-limit";
const PULL: &str = "`ces run` never pulls; give it to `ces pull`";
const GONE: &str = "nothing of the container remains after the run; remove the option";
const HEALTH: &str = "a run has no health checks; remove the option";
const FRONT: &str = "a run stays in the foreground; remove the option";

/// Every option of `podman run` that `ces run` does not have itself.
pub const OPTIONS: &[PodmanOption] = &[
    // What every run does anyway.
    ("rm", None, Switch, AlreadyIf(&["true"], "nothing of a container remains after the run")),
    ("init", None, Switch, AlreadyIf(&["true"], "a run always has an init process, which reaps orphans")),
    ("init-path", None, Value, Elsewhere("a run's init process is ces's own")),
    ("sig-proxy", None, Switch, AlreadyIf(&["true"], "signals always reach the payload")),
    ("cap-drop", None, Value, Already),
    ("expose", None, Value, Already),
    ("no-healthcheck", None, Switch, Already),
    ("attach", Some('a'), Value, AlreadyIf(&["stdin", "stdout", "stderr"], "only stdin, stdout and stderr exist")),
    ("restart", None, Value, AlreadyIf(&["no"], "a run is one run: it is never restarted")),
    ("pull", None, Value, AlreadyIf(&["never", "missing"], PULL)),
    ("umask", None, Value, AlreadyIf(&["022", "0022"], "the payload starts with umask 0022")),
    ("memory-swappiness", None, Value, AlreadyIf(&["0"], "a run has no swap")),
    ("memory-swap", None, Value, Elsewhere("a run has no swap; use --memory")),
    ("read-only-tmpfs", None, Switch, AlreadyIf(&["true"], "with --read-only, /tmp, /var/tmp and /run are tmpfs")),
    ("systemd", None, Value, AlreadyIf(&["false"], "the first process is always ces's own init")),
    ("replace", None, Switch, AlreadyIf(&["false"], "a name is free as soon as its run has ended")),
    ("rmi", None, Switch, AlreadyIf(&["false"], "an image stays in the store until `ces rmi`")),
    ("disable-content-trust", None, Switch, AlreadyIf(&["true"], "what is pulled is verified by digest")),
    ("tls-verify", None, Switch, AlreadyIf(&["true"], PULL)),
    ("image-volume", None, Value, AlreadyIf(&["ignore"], "volumes of the image are plain directories of its root")),
    ("log-driver", None, Value, AlreadyIf(&["none", "passthrough"], "output goes where ces's own output goes")),
    // Isolation, which no policy can lower.
    ("privileged", None, Switch, AlreadyIf(&["false"], "a run never has the host's privileges")),
    ("network", None, Value, AlreadyIf(&["none"], NETWORK)),
    ("net", None, Value, AlreadyIf(&["none"], NETWORK)),
    ("pid", None, Value, AlreadyIf(&["private"], "a run sees its own processes alone")),
    ("ipc", None, Value, AlreadyIf(&["private", "none"], "a run has its own shared memory; for more, use --shm-size")),
    ("uts", None, Value, AlreadyIf(&["private"], "a run has its own host name; use --hostname")),
    ("cgroupns", None, Value, AlreadyIf(&["private"], "a run sees its own control group alone")),
    ("cgroups", None, Value, AlreadyIf(&["enabled"], "a run is always in a control group of its own")),
    ("userns", None, Value, AlreadyIf(&["", "auto*", "keep-id*", "private"], "a run has a user namespace of its own")),
    (
        "security-opt",
        None,
        Value,
        AlreadyIf(
            &[
                "no-new-privileges",
                "no-new-privileges=true",
                "no-new-privileges:true",
                "label=disable",
                "label:disable",
            ],
            "seccomp, masked paths and no-new-privileges hold for every run",
        ),
    ),
    (
        "cap-add",
        None,
        Value,
        Widens("isolation.capabilities", "capabilities come with a profile; try --profile service"),
    ),
    ("device", None, Value, Widens("isolation.devices", DEVICES)),
    ("device-cgroup-rule", None, Value, Widens("isolation.devices", DEVICES)),
    ("device-read-bps", None, Value, Elsewhere(LIMIT)),
    ("device-read-iops", None, Value, Elsewhere(LIMIT)),
    ("device-write-bps", None, Value, Elsewhere(LIMIT)),
    ("device-write-iops", None, Value, Elsewhere(LIMIT)),
    ("gpus", None, Value, Elsewhere("GPUs are not supported yet")),
    ("group-add", None, Value, Widens("isolation.groups", IDS)),
    ("uidmap", None, Value, Widens("isolation.ids", IDS)),
    ("gidmap", None, Value, Widens("isolation.ids", IDS)),
    ("subuidname", None, Value, Widens("isolation.ids", IDS)),
    ("subgidname", None, Value, Widens("isolation.ids", IDS)),
    ("hostuser", None, Value, Widens("isolation.ids", IDS)),
    ("passwd", None, Switch, AlreadyIf(&["false"], "the image's own /etc/passwd is used")),
    ("passwd-entry", None, Value, Elsewhere("the image's own /etc/passwd is used")),
    ("group-entry", None, Value, Elsewhere("the image's own /etc/group is used")),
    ("sysctl", None, Value, Widens("isolation.kernel", "kernel settings are those of the host")),
    ("seccomp-policy", None, Value, Widens("isolation.seccomp", "one seccomp profile holds for every run")),
    ("personality", None, Value, Widens("isolation.seccomp", "one seccomp profile holds for every run")),
    ("env-host", None, Switch, AlreadyIf(&["false"], "the host's environment stays outside; use -e NAME")),
    ("http-proxy", None, Switch, AlreadyIf(&["false"], NETWORK)),
    ("preserve-fds", None, Value, AlreadyIf(&["0"], "a run has stdin, stdout and stderr alone")),
    ("preserve-fd", None, Value, Widens("isolation.descriptors", "a run has stdin, stdout and stderr alone")),
    ("volumes-from", None, Value, Widens("mounts", "a run has no mounts of other containers; use -v")),
    ("rootfs", None, Switch, Widens("images", "a run is of an image in the store")),
    ("cgroup-parent", None, Value, Widens("isolation.cgroup", "a run is always in a control group of its own")),
    ("cgroup-conf", None, Value, Widens("isolation.cgroup", LIMIT)),
    ("oom-kill-disable", None, Switch, AlreadyIf(&["false"], "a run that exceeds its memory is killed")),
    ("oom-score-adj", None, Value, Elsewhere("the payload is always killed before the host's own processes")),
    // A network that is not there.
    ("dns", None, Value, Widens("isolation.network", NETWORK)),
    ("dns-option", None, Value, Widens("isolation.network", NETWORK)),
    ("dns-opt", None, Value, Widens("isolation.network", NETWORK)),
    ("link-local-ip", None, Value, Widens("isolation.network", NETWORK)),
    ("hosts-file", None, Value, Elsewhere("a run has an /etc/hosts of its own")),
    ("domainname", None, Value, Elsewhere("use --hostname")),
    ("dns-search", None, Value, Widens("isolation.network", NETWORK)),
    ("add-host", None, Value, Widens("isolation.network", NETWORK)),
    ("ip", None, Value, Widens("isolation.network", NETWORK)),
    ("ip6", None, Value, Widens("isolation.network", NETWORK)),
    ("mac-address", None, Value, Widens("isolation.network", NETWORK)),
    ("network-alias", None, Value, Widens("isolation.network", NETWORK)),
    ("link", None, Value, Widens("isolation.network", NETWORK)),
    ("no-hosts", None, Switch, AlreadyIf(&["false"], "a run has an /etc/hosts of its own")),
    ("no-hostname", None, Switch, AlreadyIf(&["false"], "a run has an /etc/hostname of its own")),
    ("publish-all", Some('P'), Switch, AlreadyIf(&["false"], "publish ports one by one, with -p")),
    // Other ways to say it.
    ("memory-reservation", None, Value, Elsewhere(LIMIT)),
    ("cpu-shares", Some('c'), Value, Elsewhere(LIMIT)),
    ("cpu-quota", None, Value, Elsewhere(LIMIT)),
    ("cpu-period", None, Value, Elsewhere(LIMIT)),
    ("cpu-rt-period", None, Value, Elsewhere(LIMIT)),
    ("cpu-rt-runtime", None, Value, Elsewhere(LIMIT)),
    ("cpuset-cpus", None, Value, Elsewhere(LIMIT)),
    ("cpuset-mems", None, Value, Elsewhere(LIMIT)),
    ("blkio-weight", None, Value, Elsewhere(LIMIT)),
    ("blkio-weight-device", None, Value, Elsewhere(LIMIT)),
    ("shm-size-systemd", None, Value, Elsewhere("use --shm-size")),
    ("rdt-class", None, Value, Elsewhere(LIMIT)),
    ("tz", None, Value, Elsewhere("use -e TZ=…")),
    ("env-merge", None, Value, Elsewhere("give the whole value, with -e NAME=value")),
    ("unsetenv", None, Value, Elsewhere("set the variable to nothing with -e NAME=")),
    ("unsetenv-all", None, Switch, Elsewhere("set single variables to nothing with -e NAME=")),
    ("detach-keys", None, Value, AlreadyIf(&[""], "every key is the payload's: nothing detaches from a run")),
    ("secret", None, Value, Elsewhere("put it into a file below your home and bind it with -v")),
    (
        "stop-signal",
        None,
        Value,
        AlreadyIf(
            &["SIGTERM", "TERM", "15"],
            "a run is stopped by its image's STOPSIGNAL, which is SIGTERM if it has none",
        ),
    ),
    ("stop-timeout", None, Value, Elsewhere("`ces stop` and --timeout give a fixed time of grace")),
    ("platform", None, Value, Elsewhere(PULL)),
    ("arch", None, Value, Elsewhere(PULL)),
    ("os", None, Value, Elsewhere(PULL)),
    ("variant", None, Value, Elsewhere(PULL)),
    ("authfile", None, Value, Elsewhere(PULL)),
    ("cert-dir", None, Value, Elsewhere(PULL)),
    ("creds", None, Value, Elsewhere(PULL)),
    ("decryption-key", None, Value, Elsewhere(PULL)),
    ("retry", None, Value, Elsewhere(PULL)),
    ("retry-delay", None, Value, Elsewhere(PULL)),
    // What would have to be ignored.
    ("label", Some('l'), Value, Elsewhere(GONE)),
    ("label-file", None, Value, Elsewhere(GONE)),
    ("annotation", None, Value, Elsewhere(GONE)),
    ("cidfile", None, Value, Elsewhere("use --json-summary, which names the run")),
    ("conmon-pidfile", None, Value, Elsewhere("use --json-summary, which names the run")),
    ("pidfile", None, Value, Elsewhere("use --json-summary, which names the run")),
    ("pod", None, Value, Elsewhere("there are no pods; remove the option")),
    ("pod-id-file", None, Value, Elsewhere("there are no pods; remove the option")),
    ("requires", None, Value, Elsewhere("a run depends on no other; remove the option")),
    ("log-opt", None, Value, Elsewhere("output goes where ces's own output goes; remove the option")),
    ("chrootdirs", None, Value, Elsewhere(GONE)),
    ("sdnotify", None, Value, AlreadyIf(&["ignore"], FRONT)),
    ("health-cmd", None, Value, AlreadyIf(&["none"], HEALTH)),
    ("health-interval", None, Value, Elsewhere(HEALTH)),
    ("health-log-destination", None, Value, Elsewhere(HEALTH)),
    ("health-max-log-count", None, Value, Elsewhere(HEALTH)),
    ("health-max-log-size", None, Value, Elsewhere(HEALTH)),
    ("health-on-failure", None, Value, AlreadyIf(&["none"], HEALTH)),
    ("health-retries", None, Value, Elsewhere(HEALTH)),
    ("health-start-period", None, Value, Elsewhere(HEALTH)),
    ("health-startup-cmd", None, Value, Elsewhere(HEALTH)),
    ("health-startup-interval", None, Value, Elsewhere(HEALTH)),
    ("health-startup-retries", None, Value, Elsewhere(HEALTH)),
    ("health-startup-success", None, Value, Elsewhere(HEALTH)),
    ("health-startup-timeout", None, Value, Elsewhere(HEALTH)),
    ("health-timeout", None, Value, Elsewhere(HEALTH)),
];

/// Accepts an option that states what holds anyway, and refuses every other by name.
///
/// # Errors
/// [`Kind::Policy`] when it would widen the run, [`Kind::Usage`] when it means nothing here.
pub fn judge(name: &str, value: Option<&str>, whom_to_ask: &str) -> Result<()> {
    let Some((_, _, takes, verdict)) = OPTIONS.iter().find(|(long, ..)| *long == name) else {
        return Err(Error::new(Stage::Cli, Kind::Usage, format!("--{name} is not an option of ces or podman")));
    };
    let shown = match value {
        Some("true") if *takes == Switch => format!("--{name}"),
        Some(value) if *takes == Switch => format!("--{name}={value}"),
        Some(value) => format!("--{name} {value}"),
        None => format!("--{name}"),
    };
    let said = if *takes == Switch { value.unwrap_or("true") } else { value.unwrap_or_default() };
    let widens = |rule: &str, why: &str| {
        Error::new(Stage::Policy, Kind::Policy, format!("{shown} is refused"))
            .because(format!("built-in: {rule}: {why}"))
            .hint(format!("ces never allows this; {}", whom_to_ask.replacen("if you need this", "for another way", 1)))
    };
    match verdict {
        Already => Ok(()),
        AlreadyIf(values, _) if values.iter().any(|allowed| matches(allowed, said)) => Ok(()),
        AlreadyIf(_, why) => Err(widens(name, why)),
        Widens(..) if *takes == Switch && said == "false" => Ok(()),
        Widens(rule, why) => Err(widens(rule, why)),
        Elsewhere(what) => {
            Err(Error::new(Stage::Cli, Kind::Usage, format!("{shown} has no meaning here")).hint((*what).to_owned()))
        }
    }
}

fn matches(allowed: &str, said: &str) -> bool {
    match allowed.strip_suffix('*') {
        Some(prefix) => said.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
        None => allowed.eq_ignore_ascii_case(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_anyway_is_accepted() {
        for (name, value) in [
            ("rm", None),
            ("init", Some("true")),
            ("network", Some("none")),
            ("cap-drop", Some("all")),
            ("security-opt", Some("no-new-privileges")),
            ("userns", Some("keep-id")),
            ("userns", Some("keep-id:uid=1000,gid=1000")),
            ("privileged", Some("false")),
        ] {
            assert!(judge(name, value, "").is_ok(), "{name} {value:?}");
        }
    }

    #[test]
    fn what_would_widen_is_refused_by_name_with_the_contact() {
        for (name, value) in [
            ("privileged", None),
            ("network", Some("host")),
            ("cap-add", Some("SYS_ADMIN")),
            ("device", Some("/dev/fuse")),
            ("pid", Some("host")),
            ("security-opt", Some("seccomp=unconfined")),
            ("userns", Some("host")),
            ("userns", Some("keep-idle")),
            ("ipc", Some("host")),
            ("env-host", None),
            ("rm", Some("false")),
        ] {
            let error = judge(name, value, "ask IG").unwrap_err();
            assert_eq!(error.kind(), Kind::Policy, "{name}");
            let report = error.report();
            assert!(report.contains(&format!("--{name}")) && report.contains("ask IG"), "{report}");
        }
    }

    #[test]
    fn nothing_is_ignored_and_nothing_is_listed_twice() {
        assert_eq!(judge("label", Some("a=b"), "").unwrap_err().kind(), Kind::Usage);
        assert_eq!(judge("no-such-option", None, "").unwrap_err().kind(), Kind::Usage);
        // Whatever their value: they name what a run has not, or an image may say in vain.
        let always = OPTIONS.iter().filter(|(name, ..)| judge(name, Some("of no meaning"), "").is_ok());
        let always: Vec<&str> = always.map(|(name, ..)| *name).collect();
        assert_eq!(always, ["cap-drop", "expose", "no-healthcheck"]);
        let mut names: Vec<&str> = OPTIONS.iter().map(|(long, ..)| *long).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
