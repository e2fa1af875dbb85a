//! RPM's own database (`lib/backend/ndb/rpmpkg.c`): pages of 4096 bytes of slots (16 bytes each: magic, package, block
//! offset, block count), and blobs in blocks of 16 bytes. Numbers are little-endian.

use std::io;

use super::super::{Source, bad};
use super::HEADER_MAX;

const MAGIC: &[u8] = b"RpmP";
const SLOT_MAGIC: &[u8] = b"Slot";
const BLOB_MAGIC: &[u8] = b"BlbS";
const PAGE: u64 = 4096;
const SLOT: u64 = 16;
const BLOCK: u64 = 16;
/// The most pages of slots: 256 packages a page.
const PAGES_MAX: u64 = 1024;

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Gives each package's header to `each`.
///
/// # Errors
/// When it is no such database, or is damaged; and `each`'s.
pub fn blobs(source: &(impl Source + ?Sized), each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let wrong = || bad("not a package database of RPM (ndb)");
    let head = source.bytes(0, 32, 32)?;
    if !head.starts_with(MAGIC) {
        return Err(wrong());
    }
    let pages = u64::from(le32(&head, 12).ok_or_else(wrong)?);
    if pages == 0 || pages > PAGES_MAX {
        return Err(bad("more pages of slots than are read"));
    }
    let slots = source.bytes(0, pages * PAGE, usize::MAX)?;
    // The first two are the head.
    for slot in slots.chunks_exact(16).skip(usize::try_from(32 / SLOT).unwrap_or(2)) {
        if !slot.starts_with(SLOT_MAGIC) {
            return Err(bad("a slot that is not as the format has it"));
        }
        let field = |at| le32(slot, at).unwrap_or_default();
        let (package, block) = (field(4), u64::from(field(8)));
        if block == 0 {
            continue;
        }
        let at = block * BLOCK;
        let head = source.bytes(at, 16, 16)?;
        if !head.starts_with(BLOB_MAGIC) || le32(&head, 4) != Some(package) {
            return Err(bad("a package that is not where its slot says"));
        }
        let length = u64::from(le32(&head, 12).unwrap_or_default());
        each(&source.bytes(at + 16, length, HEADER_MAX)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::header;
    use super::*;

    #[test]
    fn what_rpm_wrote_is_read_and_what_it_took_away_is_not() {
        let bytes = include_bytes!("../../../../fuzz/seeds/database/ndb-rpm-4.20");
        let found = super::super::read(bytes.as_slice(), super::super::Form::Ndb, "db");
        let mut names: Vec<&str> = found.packages.iter().map(|package| package.name.as_str()).collect();
        names.sort_unstable();
        // `ces-old-libs` was removed: its slot is free, and its bytes are still there in part.
        assert_eq!((names, found.unread), (vec!["ces-old", "ces-tool", "ces-tool-libs"], vec![]));
    }

    #[test]
    fn packages_are_found_by_their_slots() {
        let blob = header("bash", &["bash"]);
        let word = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut bytes = [MAGIC, &word(0), &word(1), &word(1), &[0; 16]].concat();
        bytes.extend([SLOT_MAGIC, &word(1), &word(256), &word(9)].concat());
        while bytes.len() < 4096 {
            bytes.extend([SLOT_MAGIC, &[0; 12]].concat());
        }
        bytes.extend([BLOB_MAGIC, &word(1), &word(0), &word(blob.len()), &blob].concat());
        let found = super::super::read(bytes.as_slice(), super::super::Form::Ndb, "db");
        assert_eq!((found.packages.len(), found.packages[0].name.as_str()), (1, "bash"), "{found:?}");
        for at in (0..bytes.len()).step_by(3) {
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            drop(super::super::read(changed.as_slice(), super::super::Form::Ndb, "db"));
        }
    }
}
