//! Who asks for an image, who holds it, and with which rights it was pulled.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::caller::Caller;

/// Somebody who pulled an image with rights of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// The researcher.
    pub uid: u32,
    /// The group of the project they pulled it for, if they had one.
    pub group: Option<u32>,
}

/// With which rights a researcher pulls an image, and under which sort of name; of no meaning where everybody is one person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// Whether it takes rights of their own: then the image is theirs and their project's.
    pub own: bool,
    /// Whether the name is another than a registry of everybody's gives the image: then the name is theirs and their project's.
    pub own_name: bool,
    /// The group of their project, if they have one.
    pub group: Option<u32>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// Root itself, or a user in their own store.
    Everyone,
    /// A researcher through sudo.
    Researcher {
        /// The researcher.
        uid: u32,
        /// All their groups.
        groups: Vec<u32>,
        /// Whether the policy shows them every image.
        shared: bool,
    },
}

impl Viewer {
    /// What `caller` may see.
    ///
    /// # Errors
    /// When the group database cannot be read.
    pub fn of(caller: &Caller) -> Result<Self> {
        if !caller.by_sudo {
            return Ok(Self::Everyone);
        }
        let groups = caller.groups().iter().map(|group| group.as_raw()).collect();
        Ok(Self::Researcher { uid: caller.uid.as_raw(), groups, shared: false })
    }

    /// Who holds what is pulled: the researcher, or whoever's process this is (root's, through sudo too).
    pub(super) fn uid(&self) -> u32 {
        match self {
            Self::Everyone => nix::unistd::getuid().as_raw(),
            Self::Researcher { uid, .. } => *uid,
        }
    }

    /// Whether an image with these holders may be seen; none: it is everybody's.
    pub(super) fn sees(&self, holders: Option<&[Holder]>) -> bool {
        match (self, holders) {
            (Self::Everyone, _) | (_, None) => true,
            // What nobody holds is on its way out.
            (Self::Researcher { shared: true, .. }, Some(holders)) => !holders.is_empty(),
            (Self::Researcher { uid, groups, .. }, Some(holders)) => holders
                .iter()
                .any(|holder| holder.uid == *uid || holder.group.is_some_and(|group| groups.contains(&group))),
        }
    }
}
