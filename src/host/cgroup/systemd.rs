//! A scope of systemd's: the part of the tree that the service manager leaves to this run (systemd.scope(5),
//! org.freedesktop.systemd1(5), "Control Group APIs and Delegation").
//!
//! Takes a job's name and its two processes; gives the directory of their scope; trusts systemd and the kernel's files;
//! refuses to wait for ever.
//!
//! The supervising `ces` goes into the scope too: it keeps the scope alive until the last figures are read, and when it
//! ends, however it ends, systemd removes the scope and all below it.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, geteuid};

use super::dbus::{Body, Call, Connection, Value};

/// How long systemd may take to make a scope.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where one's service manager can be asked: first by its bus, then itself.
pub fn sockets(privileged: bool) -> Vec<(PathBuf, bool)> {
    if !Path::new("/run/systemd/system").is_dir() {
        // sd_booted(3)
        return Vec::new();
    }
    if privileged {
        // Never from the environment: it is the caller's.
        return vec![("/run/dbus/system_bus_socket".into(), true), ("/run/systemd/private".into(), false)];
    }
    let usual = PathBuf::from(format!("/run/user/{}", geteuid()));
    let runtime = env::var_os("XDG_RUNTIME_DIR").map_or(usual, PathBuf::from);
    [(runtime.join("bus"), true), (runtime.join("systemd/private"), false)]
        .into_iter()
        .filter(|(socket, _)| socket.exists())
        .collect()
}

/// Connects to the first manager that answers.
fn connect(sockets: &[(PathBuf, bool)]) -> io::Result<Connection> {
    let mut connected = Err(io::Error::new(io::ErrorKind::NotFound, "no service manager of yours is running"));
    for (socket, is_bus) in sockets {
        connected = Connection::open(socket, geteuid().as_raw(), *is_bus)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", socket.display())));
        if connected.is_ok() {
            break;
        }
    }
    connected
}

/// Whether the manager has given `unit`, a scope or service of its own, away (`Delegate=`): the manager of a user's own
/// units does not mark their groups.
pub fn has_given_away(sockets: &[(PathBuf, bool)], unit: &str) -> bool {
    let interface = if unit.ends_with(".scope") { "Scope" } else { "Service" };
    let mut body = Body::default();
    body.text(&format!("org.freedesktop.systemd1.{interface}"));
    body.text("Delegate");
    let asked = connect(sockets).and_then(|mut manager| {
        manager.call(&Call {
            destination: "org.freedesktop.systemd1",
            path: &format!("/org/freedesktop/systemd1/unit/{}", escaped(unit)),
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
            body,
        })
    });
    // Where nobody answers nothing was given away by them.
    asked.is_ok_and(|truth| truth == Some(true))
}

/// A unit's name as a part of an object's path (sd_bus_path_encode(3)).
fn escaped(unit: &str) -> String {
    let byte = |(at, byte): (usize, u8)| match byte {
        b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
        _ if byte.is_ascii_alphabetic() => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    };
    unit.bytes().enumerate().map(byte).collect()
}

/// Makes the scope `name` in `ces.slice`, with this process and `job` in it; gives its directory below `root`.
///
/// # Errors
/// When there is no manager, it refuses, or it does not do it in time.
pub fn scope(sockets: &[(PathBuf, bool)], root: &Path, name: &str, job: Pid) -> io::Result<PathBuf> {
    let unit = format!("{name}.scope");
    let pids = [Pid::this().as_raw().unsigned_abs(), job.as_raw().unsigned_abs()];
    let mut body = Body::default();
    body.text(&unit);
    body.text("fail");
    body.properties(&[
        ("Description", Value::Text("a container of ces")),
        ("Slice", Value::Text("ces.slice")),
        ("Delegate", Value::Truth(true)),
        ("CollectMode", Value::Text("inactive-or-failed")),
        ("PIDs", Value::Numbers(&pids)),
    ]);
    body.no_structures();
    connect(sockets)?.call(&Call {
        destination: "org.freedesktop.systemd1",
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "StartTransientUnit",
        signature: "ssa(sv)a(sa(sv))",
        body,
    })?;
    // The answer says that the job is queued; the kernel says when it is done.
    let began = Instant::now();
    loop {
        let groups = [Pid::this(), job].map(|pid| super::membership::group_of(pid).ok());
        if let [Some(ours), Some(theirs)] = &groups
            && ours == theirs
            && ours.ends_with(&format!("/{unit}"))
        {
            return Ok(root.join(ours.trim_start_matches('/')));
        }
        if began.elapsed() > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("systemd did not start {unit}")));
        }
        if fs::metadata(format!("/proc/{job}")).is_err() {
            return Err(io::Error::other("the job ended meanwhile"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_name_is_encoded_as_systemd_does() {
        // busctl --user tree org.freedesktop.systemd1, on Debian 12
        assert_eq!(escaped("run-r1f.scope"), "run_2dr1f_2escope");
        assert_eq!(escaped("1x@y.service"), "_31x_40y_2eservice");
    }
}
