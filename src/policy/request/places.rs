//! Mounts, temporary file systems and ports, as podman writes them.
//!
//! Takes the words after `-v`, `--mount`, `--tmpfs`, `-p`; gives plain requests; trusts nothing; refuses malformed words,
//! and options that would widen a mount (`suid`, `dev`, shared propagation, re-owning).

use std::path::PathBuf;

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::request::usage;
use crate::policy::units;

/// A directory or file of the host to bind.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BindRequest {
    /// As the user wrote it; relative paths begin at the caller's directory.
    pub source: String,
    /// Where in the container.
    pub destination: String,
    /// `:ro`.
    pub read_only: bool,
    /// `:noexec`.
    pub noexec: bool,
}

/// An empty file system in memory, counted as the run's memory.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TmpfsRequest {
    /// Where in the container.
    pub destination: String,
    /// Bytes; `None`: as much as the run's memory.
    pub size: Option<u64>,
    /// Permissions of its root.
    pub mode: u32,
    /// `ro`.
    pub read_only: bool,
    /// Whether programs may be executed from it.
    pub exec: bool,
}

/// Where the host listens for a published port.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Listen {
    /// 127.0.0.1 and this port; 0: any free one.
    Loopback(u16),
    /// A socket only the caller can open; `None`: ces chooses the place.
    Socket(Option<PathBuf>),
}

/// A port of the container, reached from the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortRequest {
    /// Where the host listens.
    pub listen: Listen,
    /// The port on the container's own loopback.
    pub container: u16,
}

const VOLUME_FORM: &str = "write -v HOST-DIR:CONTAINER-DIR[:ro]";
const MOUNT_FORM: &str = "write --mount type=bind,source=…,destination=…[,readonly] or type=tmpfs,destination=…";
const TMPFS_FORM: &str = "write --tmpfs DIR[:size=1g,mode=1777]";
const PORT_FORM: &str = "write -p [127.0.0.1:]HOST:CONTAINER, or -p unix:PATH:CONTAINER";

fn widens(what: String, why: &str) -> Error {
    Error::new(Stage::Policy, Kind::Policy, what).because(format!("built-in: mounts: {why}"))
}

/// Reads `-v SRC:DST[:ro,…]`.
///
/// # Errors
/// When it is not of that form, or names a volume instead of a path.
pub fn volume(text: &str) -> Result<BindRequest> {
    let whole = format!("-v {text}");
    let mut parts = text.split(':');
    let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
        return Err(usage(format!("{whole} has no host directory"), "for an empty directory use --tmpfs DIR"));
    };
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() || source.is_empty() || destination.is_empty() {
        return Err(usage(format!("{whole} is not a volume"), VOLUME_FORM));
    }
    if !source.contains('/') && !matches!(source, "." | ".." | "~") {
        let hint = format!("named volumes would outlive the run; bind a directory: -v ./{source}:{destination}");
        return Err(usage(format!("{whole} names a volume"), &hint));
    }
    let mut bind =
        BindRequest { source: source.to_owned(), destination: destination.to_owned(), read_only: false, noexec: false };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        bind_option(&mut bind, option, &whole, VOLUME_FORM)?;
    }
    Ok(bind)
}

fn bind_option(bind: &mut BindRequest, option: &str, whole: &str, form: &str) -> Result<()> {
    match option {
        "ro" | "readonly" | "readonly=true" | "ro=true" | "rro" => bind.read_only = true,
        "noexec" => bind.noexec = true,
        // True of every mount: nosuid and nodev always, private always, labels never.
        "rw" | "exec" | "nosuid" | "nodev" | "bind" | "rbind" | "private" | "rprivate" | "z" | "Z" => {}
        "rw=true" | "ro=false" | "readonly=false" | "bind-propagation=private" | "bind-propagation=rprivate" => {}
        "relabel=shared" | "relabel=private" => {}
        "suid" | "dev" => return Err(widens(format!("{whole} asks for {option}"), "mounts are nosuid and nodev")),
        "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {
            return Err(widens(format!("{whole} asks for {option}"), "mounts never propagate"));
        }
        "U" | "U=true" | "chown" | "chown=true" => {
            return Err(widens(format!("{whole} asks for {option}"), "files keep their owners"));
        }
        other => return Err(usage(format!("{whole} has an unknown option \"{other}\""), form)),
    }
    Ok(())
}

/// What `--mount` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountRequest {
    /// `type=bind`.
    Bind(BindRequest),
    /// `type=tmpfs`.
    Tmpfs(TmpfsRequest),
}

/// Reads `--mount type=bind|tmpfs,…`.
///
/// # Errors
/// When it is not of that form, or of another type.
pub fn mount(text: &str) -> Result<MountRequest> {
    let whole = format!("--mount {text}");
    let (mut kind, mut source, mut destination, mut rest) = ("volume", None, None, Vec::new());
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("type", value)) => kind = value,
            Some(("source" | "src", value)) => source = Some(value),
            Some(("target" | "destination" | "dst", value)) => destination = Some(value),
            _ => rest.push(part),
        }
    }
    let destination = destination
        .filter(|text| !text.is_empty())
        .ok_or_else(|| usage(format!("{whole} has no destination"), MOUNT_FORM))?;
    match kind {
        "bind" => {
            let source = source
                .filter(|text| !text.is_empty())
                .ok_or_else(|| usage(format!("{whole} has no source"), MOUNT_FORM))?;
            let mut bind = BindRequest {
                source: source.to_owned(),
                destination: destination.to_owned(),
                read_only: false,
                noexec: false,
            };
            for option in rest {
                bind_option(&mut bind, option, &whole, MOUNT_FORM)?;
            }
            Ok(MountRequest::Bind(bind))
        }
        "tmpfs" if source.is_none() => {
            let mut tmpfs = empty_tmpfs(destination);
            for option in rest {
                tmpfs_option(&mut tmpfs, option.strip_prefix("tmpfs-").unwrap_or(option), &whole, MOUNT_FORM)?;
            }
            Ok(MountRequest::Tmpfs(tmpfs))
        }
        "tmpfs" => Err(usage(format!("{whole} has a source, but tmpfs begins empty"), MOUNT_FORM)),
        other => Err(usage(format!("{whole} is of type {other}, which ces does not have"), MOUNT_FORM)),
    }
}

fn empty_tmpfs(destination: &str) -> TmpfsRequest {
    TmpfsRequest { destination: destination.to_owned(), size: None, mode: 0o1777, read_only: false, exec: true }
}

/// Reads `--tmpfs DST[:opts]`.
///
/// # Errors
/// When an option is unknown or would widen.
pub fn tmpfs(text: &str) -> Result<TmpfsRequest> {
    let whole = format!("--tmpfs {text}");
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    if destination.is_empty() {
        return Err(usage(format!("{whole} has no directory"), TMPFS_FORM));
    }
    let mut tmpfs = empty_tmpfs(destination);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        tmpfs_option(&mut tmpfs, option, &whole, TMPFS_FORM)?;
    }
    Ok(tmpfs)
}

fn tmpfs_option(tmpfs: &mut TmpfsRequest, option: &str, whole: &str, form: &str) -> Result<()> {
    let bad = || usage(format!("{whole} has an unknown option \"{option}\""), form);
    match option.split_once('=') {
        Some(("size", value)) => tmpfs.size = Some(units::size(value).filter(|n| *n > 0).ok_or_else(bad)?),
        Some(("mode", value)) => {
            let octal = value.bytes().all(|b| matches!(b, b'0'..=b'7')) && value.len() <= 5;
            let mode = u32::from_str_radix(value, 8).ok().filter(|mode| octal && *mode <= 0o1777);
            tmpfs.mode = mode.ok_or_else(bad)?;
        }
        Some((_, _)) => return Err(bad()),
        None => match option {
            "ro" | "readonly" => tmpfs.read_only = true,
            "noexec" => tmpfs.exec = false,
            "rw" | "exec" | "nosuid" | "nodev" | "tmpcopyup" | "notmpcopyup" | "private" | "rprivate" => {}
            "suid" | "dev" => return Err(widens(format!("{whole} asks for {option}"), "mounts are nosuid and nodev")),
            _ => return Err(bad()),
        },
    }
    Ok(())
}

/// Reads `-p [127.0.0.1:]HOST:CONTAINER[/tcp]`, `-p CONTAINER`, `-p unix:[PATH:]CONTAINER`.
///
/// # Errors
/// When it is not of that form; [`Kind::Policy`] when it would listen where others of the network can reach it.
pub fn port(text: &str) -> Result<PortRequest> {
    let whole = format!("-p {text}");
    let bad = |why: &str| usage(format!("{whole} {why}"), PORT_FORM);
    let (ends, protocol) = text.split_once('/').filter(|_| !text.starts_with("unix:")).unwrap_or((text, "tcp"));
    if protocol != "tcp" {
        return Err(bad("is not TCP, which is all that can be published"));
    }
    let number = |text: &str, least: u16| {
        if text.contains('-') {
            return Err(bad("is a range; publish ports one by one"));
        }
        let plain = units::plain_digits(text).then(|| text.parse::<u16>().ok()).flatten();
        plain.filter(|port| *port >= least).ok_or_else(|| bad("is not a port from 1 to 65535"))
    };
    if let Some(rest) = ends.strip_prefix("unix:") {
        let (path, container) = match rest.rsplit_once(':') {
            Some((path, container)) => (Some(path), container),
            None => (None, rest),
        };
        let path = path.filter(|path| !path.is_empty()).map(PathBuf::from);
        return Ok(PortRequest { listen: Listen::Socket(path), container: number(container, 1)? });
    }
    let (address, host, container) = match ends.rsplit_once(':') {
        None => ("127.0.0.1", "", ends),
        Some((left, container)) => match left.rsplit_once(':') {
            None => ("127.0.0.1", left, container),
            Some((address, host)) => (address, host, container),
        },
    };
    if address != "127.0.0.1" && address != "localhost" {
        return Err(Error::new(Stage::Policy, Kind::Policy, format!("{whole} would listen on \"{address}\""))
            .because("built-in: ports: a published port listens on 127.0.0.1 alone")
            .hint(PORT_FORM));
    }
    let host = if host.is_empty() { 0 } else { number(host, 0)? };
    Ok(PortRequest { listen: Listen::Loopback(host), container: number(container, 1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_read_as_podman_reads_it() {
        let bind = volume("./pgdata:/var/lib/postgresql").unwrap();
        assert_eq!((bind.source.as_str(), bind.destination.as_str()), ("./pgdata", "/var/lib/postgresql"));
        assert!(!bind.read_only);
        assert!(volume("/a:/b:ro,Z").unwrap().read_only);
        for text in ["/a", "data:/b", "/a:", ":/b", "/a:/b:ro:rw", "/a:/b:weird"] {
            assert_eq!(volume(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
        for text in ["/a:/b:suid", "/a:/b:dev", "/a:/b:rshared", "/a:/b:U"] {
            assert_eq!(volume(text).unwrap_err().kind(), Kind::Policy, "{text}");
        }
    }

    #[test]
    fn a_mount_is_a_bind_or_a_tmpfs() {
        let MountRequest::Tmpfs(tmpfs) = mount("type=tmpfs,destination=/var/lib/rstudio-server").unwrap() else {
            panic!()
        };
        assert_eq!((tmpfs.destination.as_str(), tmpfs.mode), ("/var/lib/rstudio-server", 0o1777));
        let MountRequest::Bind(bind) = mount("type=bind,src=/a,dst=/b,readonly").unwrap() else { panic!() };
        assert!(bind.read_only);
        for text in [
            "type=volume,source=x,destination=/y",
            "type=bind,destination=/y",
            "type=tmpfs",
            "type=devpts,dst=/x",
            "src=a,dst=b",
        ] {
            assert_eq!(mount(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_tmpfs_may_have_a_size_and_a_mode() {
        let got = tmpfs("/run:size=64m,mode=755,noexec").unwrap();
        assert_eq!((got.size, got.mode, got.exec), (Some(64 << 20), 0o755, false));
        for text in ["", "/run:size=x", "/run:mode=9", "/run:mode=4755", "/run:uid=0"] {
            assert_eq!(tmpfs(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_port_listens_on_loopback_or_on_a_socket_and_nowhere_else() {
        let loopback = |host, container| PortRequest { listen: Listen::Loopback(host), container };
        assert_eq!(port("8787:8787").unwrap(), loopback(8787, 8787));
        assert_eq!(port("127.0.0.1:80:8080/tcp").unwrap(), loopback(80, 8080));
        assert_eq!(port("8888").unwrap(), loopback(0, 8888));
        assert_eq!(port("unix:5432").unwrap().listen, Listen::Socket(None));
        assert_eq!(port("unix:/home/me/s:5432").unwrap().listen, Listen::Socket(Some("/home/me/s".into())));
        for text in ["0.0.0.0:80:80", ":80:80", "192.0.2.1:80:80", "[::]:80:80", "::1:80:80"] {
            assert_eq!(port(text).unwrap_err().kind(), Kind::Policy, "{text}");
        }
        for text in ["", "x", "80:0", "80:65536", "80:80/udp", "8000-8005:8000-8005", "+80:80", "a:b"] {
            assert_eq!(port(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }
}
