//! The directory of records and of the audit log, and where copies of the log's lines go.
//!
//! Takes a `SiteDir` and what the policy says of copies; gives both as one, so that whoever may write a line cannot forget its copy;
//! trusts both; refuses nothing.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;

use crate::host::site_dir::SiteDir;

/// A service of the host that keeps lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// syslog(3), as `/dev/log` takes it.
    Syslog,
    /// systemd-journald, by its own protocol (systemd.io, "Native Journal Protocol").
    Journald,
}

impl Service {
    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Syslog, Self::Journald].into_iter().find(|service| service.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Syslog => "syslog",
            Self::Journald => "journald",
        }
    }

    /// Where it listens.
    pub fn socket(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Syslog => "/dev/log",
            Self::Journald => "/run/systemd/journal/socket",
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where copies go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTo {
    /// Who keeps them.
    pub service: Service,
    /// Where it listens.
    pub socket: PathBuf,
    /// What has no copy does not begin.
    pub required: bool,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct LogDir {
    directory: SiteDir,
    copies: Option<CopyTo>,
}

impl LogDir {
    /// The same with copies, or without.
    #[must_use]
    pub fn copied(self, copies: Option<CopyTo>) -> Self {
        Self { copies, ..self }
    }

    /// Where copies of the audit log's lines go; nowhere, where the policy says nothing.
    pub fn copies(&self) -> Option<&CopyTo> {
        self.copies.as_ref()
    }
}

impl From<SiteDir> for LogDir {
    fn from(directory: SiteDir) -> Self {
        Self { directory, copies: None }
    }
}

impl Deref for LogDir {
    type Target = SiteDir;

    fn deref(&self) -> &SiteDir {
        &self.directory
    }
}
