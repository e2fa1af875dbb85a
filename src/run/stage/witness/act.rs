//! What a call does to what it names.
//!
//! Takes nothing; gives types and what they come to in a report; trusts and refuses nothing.

use crate::run::observations::Wanted;

/// Flags with which a file is opened to be written.
const WRITES: i32 = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// What is done to what is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Looked at.
    Look,
    /// Made the working directory.
    Enter,
    /// Executed.
    Execute,
    /// Opened, with these flags.
    Open(i32),
    /// Cut.
    Truncate,
    /// Made: a directory, a symbolic link, a pipe.
    Make,
    /// Removed.
    Remove,
    /// Renamed to the second name.
    Rename,
    /// Given the second name, too.
    Link,
    /// Given another mode.
    Mode,
    /// Given to these ids, as the payload numbers them; `u32::MAX`: unchanged.
    Owner(u32, u32),
}

impl Act {
    /// What it comes to in a report.
    pub fn wanted(self) -> Wanted {
        match self {
            Self::Look | Self::Enter => Wanted::Look,
            Self::Execute => Wanted::Execute,
            Self::Open(flags) if flags & libc::O_PATH != 0 => Wanted::Look,
            Self::Open(flags) if flags & WRITES != 0 => Wanted::Write,
            Self::Open(_) => Wanted::Read,
            Self::Truncate => Wanted::Write,
            Self::Make | Self::Remove | Self::Rename | Self::Link => Wanted::Change,
            Self::Mode | Self::Owner(..) => Wanted::Own,
        }
    }
}
