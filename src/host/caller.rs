//! Who calls: real root, a researcher through sudo, or an ordinary user.
//!
//! Takes what the process began with (`host::privilege`); gives a `Caller`; trusts the passwd and group databases; refuses a
//! caller without a home: outputs could belong to no one.

use std::env;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, getgid, getgroups, getuid};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;
use crate::host::privilege::{self, Power};
use crate::host::sudoer::{lookup, unknown};

/// How far the policy binds the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `ces` has root's privileges: the caller cannot go around the policy.
    Enforced,
    /// `ces` has the caller's own privileges: the caller could run another program.
    Advisory,
}

impl Mode {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Advisory => "advisory",
        }
    }
}

/// The person on whose behalf `ces` works.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The researcher's uid on the host; 0 when root calls directly.
    pub uid: Uid,
    /// The researcher's primary group on the host.
    pub gid: Gid,
    /// The login name.
    pub name: String,
    /// The home directory, from the passwd database (root and sudo) or `$HOME` (ordinary users).
    pub home: PathBuf,
    /// Whether `ces` runs with root's privileges.
    pub mode: Mode,
    /// Whether sudo named the researcher.
    pub by_sudo: bool,
    /// All groups of the researcher, the primary one among them.
    groups: Vec<Gid>,
}

impl Caller {
    /// Who this process works for.
    ///
    /// # Errors
    /// When they have no entry in the passwd database, or no home.
    pub fn find() -> Result<Self> {
        match privilege::power() {
            Power::User => Self::ordinary(),
            Power::Root => Self::root(),
            Power::Sudo(sudoer) => Ok(Self {
                uid: sudoer.uid,
                gid: sudoer.gid,
                name: sudoer.name.clone(),
                home: sudoer.home.clone(),
                mode: Mode::Enforced,
                by_sudo: true,
                groups: sudoer.groups.clone(),
            }),
        }
    }

    fn ordinary() -> Result<Self> {
        let uid = getuid();
        let user = lookup(uid)?;
        let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let (name, passwd_home) = match user {
            Some(user) => (user.name, Some(user.dir)),
            None => (uid.to_string(), None),
        };
        let home = home.or(passwd_home).ok_or_else(|| {
            Error::new(Stage::Host, Kind::Missing, format!("uid {uid} has no home directory"))
                .hint("set HOME to a directory of yours, for the outputs")
        })?;
        let (gid, groups) = (getgid(), own_groups()?);
        Ok(Self { uid, gid, name, home, mode: Mode::Advisory, by_sudo: false, groups })
    }

    fn root() -> Result<Self> {
        let user = lookup(Uid::from_raw(0))?.ok_or_else(|| unknown(0))?;
        Ok(Self {
            uid: user.uid,
            gid: user.gid,
            name: user.name,
            home: user.dir,
            mode: Mode::Enforced,
            by_sudo: false,
            groups: own_groups()?,
        })
    }

    /// All groups of the researcher, the primary one among them.
    pub fn groups(&self) -> &[Gid] {
        &self.groups
    }

    /// The researcher's ids.
    pub fn ids(&self) -> HostIds {
        HostIds {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            groups: self.groups.iter().map(|group| group.as_raw()).collect(),
        }
    }

    /// Whether `ces` has root's privileges.
    pub fn is_privileged(&self) -> bool {
        self.mode == Mode::Enforced
    }

    /// Whether they may know of everybody's runs and images: root itself, not through sudo.
    pub fn sees_everyone(&self) -> bool {
        self.is_privileged() && !self.by_sudo
    }
}

/// Of who calls directly: what the process has.
fn own_groups() -> Result<Vec<Gid>> {
    let mut groups =
        getgroups().map_err(|e| Error::new(Stage::Host, Kind::Host, "cannot ask for your groups").because(e.desc()))?;
    let own = getgid();
    if !groups.contains(&own) {
        groups.push(own);
    }
    Ok(groups)
}
