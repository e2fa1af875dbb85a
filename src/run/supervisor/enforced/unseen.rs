//! The error of a check that cannot look.

use crate::error::{Error, Kind, Stage};

pub(super) fn unseen(what: &str, why: &str) -> Error {
    Error::new(Stage::Run, Kind::Host, format!("cannot see whether the protections are in force ({what})")).because(why)
}
