//! Outputs of a run, copied into an export: each is what the list says, or there is no export.
//!
//! Takes the list of outputs, and the directory with the rights of whose it is; gives copies with their hashes, and what is left out in
//! words; trusts the list, which the record has the hash of; refuses an output that is another than it was, and a name that is not
//! UTF-8, which no form has a way to write. An output that the list has no hash of is left out: nothing shows what it was.

use crate::commands::{Site, listed, precheck};
use crate::error::{Error, Kind, Result, Stage};
use crate::export::tree::{NewTree, open_below};
use crate::host::privilege::acting_as;
use crate::run::supervisor::outputs::line::{Kind as What, Line};
use crate::run::supervisor::record::Record;
use crate::text;

/// So much of what is left out is named; the rest is counted.
const NAMED: usize = 100;

/// An output that was copied.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// Where the run left it.
    pub(super) path: String,
    /// Its bytes.
    pub(super) bytes: u64,
    /// SHA-256 of it.
    pub(super) sha256: String,
    /// SHA-512 of it.
    pub(super) sha512: String,
    /// Its media type, by content.
    pub(super) media: String,
}

/// What is left out, the first of it named.
#[derive(Debug, Default)]
struct LeftOut {
    named: Vec<String>,
    more: u64,
}

impl LeftOut {
    fn add(&mut self, what: String) {
        if self.named.len() < NAMED { self.named.push(what) } else { self.more += 1 }
    }
}

/// Copies each regular file of the list to where `place` says, and tells `each` of it; gives what is left out, in words.
///
/// # Errors
/// When the outputs cannot be opened, or one is not what it was; and `each`'s.
pub(super) fn copy(
    (site, record): (&Site, &Record),
    tree: &NewTree,
    place: &mut dyn FnMut(&str) -> String,
    each: &mut dyn FnMut(Output) -> Result<()>,
) -> Result<Vec<String>> {
    let owner = precheck::owner(site, record)?;
    let top = precheck::outputs_of(site, record)?;
    let mut left_out = LeftOut::default();
    let told = listed::each(site, record, &mut |line| {
        let path = line.path().unwrap_or_default();
        let shown = text::neutral_bytes(&path);
        match line.kind {
            What::Link => left_out.add(format!("{shown}: a link")),
            What::Refused => left_out.add(format!("{shown}: refused when the run ended")),
            What::Directory => {}
            What::File => {
                let Some(listed) = line.sha256.clone() else {
                    let why = text::neutral_line(line.not_hashed.as_deref().unwrap_or("no reason is known"));
                    left_out
                        .add(format!("{shown}: not hashed when the run ended ({why}), so that it cannot be compared"));
                    return Ok(());
                };
                let name = String::from_utf8(path).map_err(|_| not_text(&shown))?;
                let top = top.as_ref().ok_or_else(|| changed(&shown))?;
                let mut file =
                    acting_as(&owner, || open_below(top, name.as_bytes()).map_err(|e| changed(&shown).because(e)))?;
                let copied = tree.write(place(&name).as_bytes(), &mut file)?;
                if listed != copied.sha256 {
                    return Err(changed(&shown).because("its SHA-256 is another than the list has"));
                }
                let (bytes, sha256, sha512) = (copied.bytes, copied.sha256, copied.sha512);
                each(Output { path: name, bytes, sha256, sha512, media: media(&line) })?;
            }
        }
        Ok(())
    })?;
    let LeftOut { named: mut all, more } = left_out;
    all.extend((more > 0).then(|| format!("and {more} more")));
    all.extend(told.cut.as_ref().map(|why| format!("what is not in the list of outputs, which is not whole: {why}")));
    Ok(all)
}

/// What a file seems to be; lists of older versions do not tell.
fn media(line: &Line) -> String {
    line.media.clone().unwrap_or_else(|| "application/octet-stream".to_owned())
}

fn not_text(shown: &str) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("{shown} cannot be exported"))
        .because("its name is not UTF-8, and no form of an export has such names (RFC 8493, 2.1.3)")
        .hint("rename the file, in a run that copies it to outputs of its own")
}

fn changed(shown: &str) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("{shown} is not what it was when the run ended"))
        .hint("ces verify tells what else changed; only what a run left is exported")
}
