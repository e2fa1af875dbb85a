//! Alpine's security database (<https://secdb.alpinelinux.org>): which version of a package fixed what, for one release and
//! repository. It tells nothing of what is not fixed.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use super::builder::Builder;
use super::record::{Event, Record};
use crate::stack::version::Order;

#[derive(Deserialize)]
struct Document {
    distroversion: String,
    reponame: String,
    packages: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    pkg: Fixed,
}

#[derive(Deserialize)]
struct Fixed {
    name: String,
    #[serde(default)]
    secfixes: BTreeMap<String, Option<Vec<String>>>,
}

/// What was read: number of records, release, repository.
#[derive(Debug)]
pub struct Read {
    /// Records.
    pub records: u64,
    /// `v3.20`.
    pub release: String,
    /// `main`.
    pub repository: String,
}

/// Reads the document into `builder`.
///
/// # Errors
/// When it is none, or too large.
pub fn import(bytes: &[u8], builder: &mut Builder) -> io::Result<Read> {
    let document: Document = serde_json::from_slice(bytes)?;
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    if !plain(&document.distroversion) || !plain(&document.reponame) {
        return Err(io::Error::other("its release or repository has no plain name"));
    }
    let place = format!("Alpine:{}", document.distroversion);
    let mut records = 0;
    for Listed { pkg } in document.packages {
        for (version, ids) in pkg.secfixes {
            for ids in ids.unwrap_or_default() {
                // Several names of one vulnerability stand in one text.
                let mut names = ids.split_whitespace().map(str::to_owned);
                let Some(id) = names.next() else { continue };
                let mut record = Record { id, aliases: names.collect(), ..Record::default() };
                // `0`: the package never had it.
                if version != "0" {
                    record.ranges = vec![vec![Event::Introduced("0".to_owned()), Event::Fixed(version.clone())]];
                }
                record.settle(Order::Apk);
                builder.add(&place, &pkg.name, &record)?;
                records += 1;
            }
        }
    }
    Ok(Read { records, release: document.distroversion, repository: document.reponame })
}
