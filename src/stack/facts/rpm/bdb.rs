//! Berkeley DB's hash tables, as far as RPM uses them (`dbinc/db_page.h` of Berkeley DB 5): keys are numbers, values are
//! headers on chains of overflow pages, or among the keys where pages are large.

use std::collections::HashSet;
use std::io;

use super::super::{Source, bad};
use super::HEADER_MAX;

const HASH_MAGIC: u32 = 0x0006_1561;
/// Types of pages: an old and a new form of a hash page, overflow.
const HASH_UNSORTED: u8 = 2;
const HASH: u8 = 13;
const OVERFLOW: u8 = 7;
/// An item that is on its page, and one that is on overflow pages.
const ON_PAGE: u8 = 1;
const OFF_PAGE: u8 = 3;
/// The longest value that is no header: the count of packages, which has the key 0.
const COUNT: usize = 8;
const PAGE_HEAD: usize = 26;

struct Order {
    big: bool,
}

impl Order {
    fn u32(&self, bytes: &[u8], at: usize) -> Option<u32> {
        let four = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
    }

    fn u16(&self, bytes: &[u8], at: usize) -> Option<u16> {
        let two = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
    }
}

/// Gives each package's header to `each`.
///
/// # Errors
/// When it is no such database, or is damaged; and `each`'s.
pub fn blobs(source: &(impl Source + ?Sized), each: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let wrong = || bad("not a package database of RPM (Berkeley DB, hash)");
    let head = source.bytes(0, 512, 512)?;
    let mut orders = [false, true].map(|big| Order { big }).into_iter();
    let order = orders.find(|order| order.u32(&head, 12) == Some(HASH_MAGIC)).ok_or_else(wrong)?;
    let page_size = u64::from(order.u32(&head, 20).ok_or_else(wrong)?);
    let last = u64::from(order.u32(&head, 32).ok_or_else(wrong)?);
    if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) {
        return Err(wrong());
    }
    let size = usize::try_from(page_size).map_err(|_| wrong())?;
    for number in 1..=last {
        // One that is cut off is told: a smaller database would be believed.
        let page = source.bytes(number * page_size, page_size, size)?;
        if !matches!(page.get(25), Some(&HASH | &HASH_UNSORTED)) {
            continue;
        }
        let entries = usize::from(order.u16(&page, 20).ok_or_else(wrong)?);
        // Keys and values in turn; the values are what is wanted.
        for entry in (1..entries).step_by(2) {
            let place = |entry: usize| order.u16(&page, PAGE_HEAD + entry * 2).map(usize::from).ok_or_else(wrong);
            // Items stand from the end of the page on: each ends where the one before it begins.
            let (at, end) = (place(entry)?, place(entry - 1)?);
            let item = page.get(at..end).ok_or_else(wrong)?;
            match item.split_first().ok_or_else(wrong)? {
                (&OFF_PAGE, _) => {
                    let first = order.u32(item, 4).ok_or_else(wrong)?;
                    let length = order.u32(item, 8).ok_or_else(wrong)?;
                    each(&overflow(source, &order, first, length, size)?)?;
                }
                (&ON_PAGE, value) if value.len() > COUNT => each(value)?,
                (&ON_PAGE, _) => {}
                // RPM stores no two values under one key.
                _ => return Err(wrong()),
            }
        }
    }
    Ok(())
}

/// What is on the chain of overflow pages that begins at `first`.
fn overflow(
    source: &(impl Source + ?Sized),
    order: &Order,
    first: u32,
    length: u32,
    size: usize,
) -> io::Result<Vec<u8>> {
    let wrong = || bad("a chain of pages that is not as the format has it");
    let length = usize::try_from(length).ok().filter(|length| *length <= HEADER_MAX).ok_or_else(wrong)?;
    let (mut bytes, mut next, mut seen) = (Vec::new(), first, HashSet::new());
    while next != 0 && bytes.len() < length {
        if !seen.insert(next) {
            return Err(wrong());
        }
        let page = source.bytes(u64::from(next) * size as u64, size as u64, size)?;
        if page.get(25) != Some(&OVERFLOW) {
            return Err(wrong());
        }
        let used = order.u16(&page, 22).map(usize::from).ok_or_else(wrong)?;
        bytes.extend_from_slice(page.get(PAGE_HEAD..PAGE_HEAD + used).ok_or_else(wrong)?);
        next = order.u32(&page, 16).ok_or_else(wrong)?;
    }
    bytes.truncate(length);
    if bytes.len() == length { Ok(bytes) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::super::header;
    use super::*;

    #[test]
    fn packages_are_found_on_their_pages() {
        let blob = header("bash", &["bash"]);
        const SIZE: usize = 512;
        let chunks: Vec<&[u8]> = blob.chunks(SIZE - PAGE_HEAD).collect();
        let mut bytes = vec![0; SIZE];
        bytes[12..16].copy_from_slice(&HASH_MAGIC.to_le_bytes());
        bytes[20..24].copy_from_slice(&512_u32.to_le_bytes());
        bytes[32..36].copy_from_slice(&u32::try_from(1 + chunks.len()).unwrap().to_le_bytes());
        let mut page = vec![0; SIZE];
        page[25] = HASH;
        page[20..22].copy_from_slice(&2_u16.to_le_bytes());
        page[26..28].copy_from_slice(&500_u16.to_le_bytes());
        page[28..30].copy_from_slice(&488_u16.to_le_bytes());
        page[488] = OFF_PAGE;
        page[492..496].copy_from_slice(&2_u32.to_le_bytes());
        page[496..500].copy_from_slice(&u32::try_from(blob.len()).unwrap().to_le_bytes());
        bytes.extend(&page);
        for (at, chunk) in chunks.iter().enumerate() {
            let mut page = vec![0; SIZE];
            page[25] = OVERFLOW;
            let next = if at + 1 < chunks.len() { 3 + u32::try_from(at).unwrap() } else { 0 };
            page[16..20].copy_from_slice(&next.to_le_bytes());
            page[22..24].copy_from_slice(&u16::try_from(chunk.len()).unwrap().to_le_bytes());
            page[PAGE_HEAD..PAGE_HEAD + chunk.len()].copy_from_slice(chunk);
            bytes.extend(&page);
        }
        let found = super::super::read(bytes.as_slice(), super::super::Form::Bdb, "db");
        assert_eq!((found.packages.len(), found.unread.len()), (1, 0), "{found:?}");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            drop(super::super::read(changed.as_slice(), super::super::Form::Bdb, "db"));
        }
    }
}
