//! The researcher on whose behalf sudo started `ces`.
//!
//! Takes sudo's variables, which sudo(8) sets itself for what it starts; gives who it is; trusts sudo, the passwd and the
//! group database; refuses a `SUDO_UID` that names nobody, or somebody else than `SUDO_USER`.

use std::ffi::{CString, OsStr};
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User, getgrouplist};

use crate::error::{Error, Kind, Result, Stage};
use crate::host::ids::HostIds;

/// A researcher, as the host's databases know them.
#[derive(Debug, Clone)]
pub struct Sudoer {
    /// Their user id.
    pub uid: Uid,
    /// Their primary group.
    pub gid: Gid,
    /// Their login name.
    pub name: String,
    /// Their home directory.
    pub home: PathBuf,
    /// All their groups, the primary one among them.
    pub groups: Vec<Gid>,
}

impl Sudoer {
    /// Whom `SUDO_UID` and `SUDO_USER` name.
    ///
    /// # Errors
    /// When they name nobody, or two people: outputs could belong to no one.
    pub fn find(uid: &OsStr, expected: Option<&OsStr>) -> Result<Self> {
        let uid = uid.to_str().and_then(|value| value.parse::<u32>().ok()).ok_or_else(|| {
            Error::new(Stage::Host, Kind::Usage, "SUDO_UID is not a number").hint("call ces through sudo itself")
        })?;
        let user = lookup(Uid::from_raw(uid))?.ok_or_else(|| unknown(uid))?;
        if let Some(expected) = expected.filter(|expected| *expected != user.name.as_str()) {
            let what = format!("SUDO_USER is {}, but uid {uid} is {}", expected.display(), user.name);
            return Err(Error::new(Stage::Host, Kind::Usage, what).hint("call ces through sudo itself"));
        }
        let fail = |why: &str| {
            Error::new(Stage::Host, Kind::Host, format!("cannot find the groups of {}", user.name)).because(why)
        };
        let name = CString::new(user.name.as_str()).map_err(|_| fail("the name holds a NUL byte"))?;
        let groups = getgrouplist(&name, user.gid).map_err(|e| fail(e.desc()))?;
        Ok(Self { uid: user.uid, gid: user.gid, name: user.name, home: user.dir, groups })
    }

    /// Their ids.
    pub fn ids(&self) -> HostIds {
        HostIds {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            groups: self.groups.iter().map(|group| group.as_raw()).collect(),
        }
    }
}

/// The entry of the passwd database.
///
/// # Errors
/// When it cannot be asked.
pub fn lookup(uid: Uid) -> Result<Option<User>> {
    User::from_uid(uid)
        .map_err(|e| Error::new(Stage::Host, Kind::Host, format!("cannot look up uid {uid}")).because(e.desc()))
}

/// The error for a user id that nobody has.
pub fn unknown(uid: u32) -> Error {
    Error::new(Stage::Host, Kind::Missing, format!("uid {uid} is not in the passwd database"))
        .hint("ces needs the researcher's name and home; check SUDO_UID and the name service")
}
