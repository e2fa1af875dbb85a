//! What is known against an image's stack today, and what the site says to it.

use std::io::Read as _;
use std::path::Path;

use super::facts;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::dirs::Dirs;
use crate::host::named_file;
use crate::host::privilege::as_root;
use crate::policy::Policy;
use crate::stack::package::Stack;
use crate::stack::rules::{self, Action, Breach, Rules};
use crate::stack::verdict::{self, Verdict};
use crate::stack::vex::{self, Waivers};
use crate::stack::vulndb::database::Database;
use crate::stack::vulndb::place::Place;

/// No document of waivers that a caller names is longer.
const LARGEST: u64 = 16 << 20;

/// The verdict, and the rules that the stack breaks.
#[derive(Debug)]
pub struct Judged {
    /// What is known, and what was not judged.
    pub verdict: Verdict,
    /// The rules of `[images.stack]` that it breaks.
    pub breaches: Vec<Breach>,
}

impl Judged {
    /// Whether the site refuses such a stack.
    pub fn is_refused(&self) -> bool {
        self.breaches.iter().any(|breach| breach.action == Action::Refuse)
    }
}

/// What stacks are judged by: the data that was imported, the site's waivers and rules.
#[derive(Debug)]
pub struct Judge {
    database: Database,
    waivers: Waivers,
    rules: Rules,
}

impl Judge {
    /// Opens and reads them.
    ///
    /// # Errors
    /// When a source or a document of waivers is damaged.
    pub fn new(dirs: &Dirs, policy: &Policy) -> Result<Self> {
        Ok(Self {
            database: Place::open(&dirs.store)?.database()?,
            waivers: as_root(|root| policy.waivers(root))?,
            rules: policy.images().stack.values(),
        })
    }

    /// Judges a stack; `vex` is a caller's own document of waivers, which is shown and which the site's rules do not know of.
    ///
    /// # Errors
    /// When a source is damaged, or the caller's document is none.
    pub fn judge(&self, stack: &Stack, vex: Option<&Path>) -> Result<Judged> {
        let of = |waivers: &Waivers| {
            verdict::judge(stack, &self.database, waivers, facts::today()).map_err(|e| {
                Error::new(Stage::Store, Kind::Failed, "the vulnerability data cannot be read")
                    .because(e)
                    .hint("root imports it again: ces vulndb import FILE…")
            })
        };
        let verdict = of(&self.waivers)?;
        let breaches = rules::refusals(&verdict, &self.rules);
        let verdict = match vex {
            Some(path) => of(&self.waivers.clone().and(own(path)?))?,
            None => verdict,
        };
        Ok(Judged { verdict, breaches })
    }
}

fn own(path: &Path) -> Result<Vec<vex::Statement>> {
    let fail = |why: String| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot use {}", path.display()))
            .because(why)
            .hint("name a document in OpenVEX or CSAF")
    };
    let mut text = Vec::new();
    let file = named_file::to_read(path).map_err(|e| fail(e.to_string()))?;
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| fail(e.to_string()))?;
    vex::parse(&text, &path.display().to_string()).map_err(fail)
}
