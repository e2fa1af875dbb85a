//! Who calls: real root, a researcher through sudo, or an ordinary user.
//!
//! Takes the process's own ids and sudo's variables; gives a `Caller`; trusts the passwd database; refuses a
//! `SUDO_UID` that names nobody.

use std::env;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::unistd::{Gid, Uid, User, geteuid, getgid, getgrouplist, getgroups, getuid};

use crate::error::{Error, Kind, Result, Stage};

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
    /// The researcher's groups, once they were asked for.
    pub groups: Groups,
}

/// Groups of one researcher, asked for once: the database may be far away (LDAP), and its answer must not change on the way.
#[derive(Debug, Clone, Default)]
pub struct Groups(OnceLock<Vec<Gid>>);

impl Caller {
    /// Finds out from the process's ids, `SUDO_UID` and the passwd database.
    ///
    /// # Errors
    /// When the uid (or `SUDO_UID`) names nobody: outputs could belong to no one.
    pub fn find() -> Result<Self> {
        if !geteuid().is_root() {
            return Self::ordinary();
        }
        if !getuid().is_root() {
            return Err(Error::new(Stage::Host, Kind::Host, "ces is installed set-user-ID root")
                .hint("remove the bit (chmod u-s) and use sudo, which tells who calls"));
        }
        match env::var_os("SUDO_UID") {
            None => Self::from_passwd(Uid::from_raw(0), None, false),
            Some(value) => {
                let uid = value.to_str().and_then(|v| v.parse::<u32>().ok()).ok_or_else(|| {
                    Error::new(Stage::Host, Kind::Usage, "SUDO_UID is not a number")
                        .hint("call ces through sudo itself")
                })?;
                let name = env::var("SUDO_USER").ok();
                Self::from_passwd(Uid::from_raw(uid), name.as_deref(), true)
            }
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
        Ok(Self { uid, gid: getgid(), name, home, mode: Mode::Advisory, by_sudo: false, groups: Groups::default() })
    }

    fn from_passwd(uid: Uid, expected: Option<&str>, by_sudo: bool) -> Result<Self> {
        let user = lookup(uid)?.ok_or_else(|| {
            Error::new(Stage::Host, Kind::Missing, format!("uid {uid} is not in the passwd database"))
                .hint("ces needs the researcher's name and home; check SUDO_UID and the name service")
        })?;
        if let Some(expected) = expected.filter(|expected| *expected != user.name) {
            return Err(Error::new(
                Stage::Host,
                Kind::Usage,
                format!("SUDO_USER is {expected}, but uid {uid} is {}", user.name),
            )
            .hint("call ces through sudo itself"));
        }
        Ok(Self {
            uid,
            gid: user.gid,
            name: user.name,
            home: user.dir,
            mode: Mode::Enforced,
            by_sudo,
            groups: Groups::default(),
        })
    }

    /// All groups of the researcher, the primary one among them.
    ///
    /// # Errors
    /// When the group database cannot be read.
    pub fn groups(&self) -> Result<Vec<Gid>> {
        if let Some(known) = self.groups.0.get() {
            return Ok(known.clone());
        }
        let groups = self.ask_for_groups()?;
        Ok(self.groups.0.get_or_init(|| groups).clone())
    }

    fn ask_for_groups(&self) -> Result<Vec<Gid>> {
        let fail = |why: &str| {
            Error::new(Stage::Host, Kind::Host, format!("cannot find the groups of {}", self.name)).because(why)
        };
        // Who calls directly has their own already; whom sudo names is looked up.
        if !self.by_sudo {
            let mut groups = getgroups().map_err(|e| fail(e.desc()))?;
            groups.push(self.gid);
            return Ok(groups);
        }
        let name = CString::new(self.name.as_str()).map_err(|_| fail("the name holds a NUL byte"))?;
        getgrouplist(&name, self.gid).map_err(|e| fail(e.desc()))
    }

    /// Whether `ces` runs with root's privileges.
    pub fn is_privileged(&self) -> bool {
        self.mode == Mode::Enforced
    }
}

fn lookup(uid: Uid) -> Result<Option<User>> {
    User::from_uid(uid)
        .map_err(|e| Error::new(Stage::Host, Kind::Host, format!("cannot look up uid {uid}")).because(e.desc()))
}
