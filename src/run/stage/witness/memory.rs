//! The memory and the state of a thread that waits for an answer.
//!
//! Takes its number and addresses that it has named; gives bytes and texts, bounded; trusts nothing (they may change while they
//! are read: that falsifies the report, not the run); refuses to read further than a bound.

use std::fs;
use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::text;

/// No path is longer (limits.h, `PATH_MAX`).
pub const PATH: usize = 4096;
const PAGE: usize = 4096;
/// How a group is shown that the reader's namespace has no number for (user_namespaces(7)).
const OVERFLOW: u32 = 65534;

/// Up to `most` bytes at `address`; as many as there are.
pub fn bytes(pid: Pid, address: u64, most: usize) -> Vec<u8> {
    let Ok(base) = usize::try_from(address) else { return Vec::new() };
    let mut out = vec![0; most];
    let remote = [RemoteIoVec { base, len: most }];
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut out)], &remote).unwrap_or(0);
    out.truncate(read);
    out
}

/// The text at `address`, up to its end or `most` bytes; none where there is none to be read.
pub fn text_at(pid: Pid, address: u64, most: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while out.len() < most {
        let at = address.checked_add(u64::try_from(out.len()).ok()?)?;
        // What follows on the next page may not be there.
        let to_page = PAGE - usize::try_from(at).ok()? % PAGE;
        let part = bytes(pid, at, to_page.min(most - out.len()));
        match part.iter().position(|byte| *byte == 0) {
            Some(end) => {
                out.extend(part.get(..end)?);
                return Some(out);
            }
            None if part.is_empty() => break,
            None => out.extend(part),
        }
    }
    (!out.is_empty()).then_some(out)
}

/// The number at `at` in `bytes`, as the machine writes it.
pub fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_ne_bytes)
}

/// The texts that the null-terminated array at `address` points to: `most` at most, each cut at `length` bytes.
pub fn texts(pid: Pid, address: u64, most: usize, length: usize) -> Vec<String> {
    let array = bytes(pid, address, most * 8);
    (0..array.len() / 8)
        .map_while(|n| word(&array, n * 8).filter(|pointer| *pointer != 0))
        .map(|pointer| text::neutral_bytes(&text_at(pid, pointer, length).unwrap_or_default()))
        .collect()
}

/// Who a thread is.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// The name of its program's file.
    pub program: String,
    /// The ids with which it reaches files, as this process numbers them; none where they are not known.
    pub ids: Option<(u32, u32)>,
    /// Its supplementary groups, as this process numbers them; those that have no number here are left out.
    pub groups: Vec<u32>,
    /// Its effective capabilities.
    pub capabilities: u64,
}

impl Who {
    /// Asks the kernel.
    pub fn of(pid: Pid) -> Self {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let program = program.as_deref().and_then(|path| path.file_name()).map(|name| {
            let name = name.as_encoded_bytes();
            text::neutral_bytes(name.get(..name.len().min(64)).unwrap_or_default())
        });
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_whitespace);
        // Real, effective, saved, file system.
        let id = |name: &str| field(name)?.nth(3)?.parse().ok();
        let capabilities = field("CapEff:").and_then(|mut words| u64::from_str_radix(words.next()?, 16).ok());
        let groups = field("Groups:").map(|words| words.filter_map(|word| word.parse().ok()));
        Self {
            program: program.unwrap_or_default(),
            ids: id("Uid:").zip(id("Gid:")),
            groups: groups.into_iter().flatten().filter(|group| *group != OVERFLOW).collect(),
            capabilities: capabilities.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_to_their_end_or_the_bound_and_never_past_what_is_there() {
        let me = Pid::this();
        let text = b"/opt/tool\0rest".to_vec();
        let at = u64::try_from(text.as_ptr().addr()).unwrap();
        assert_eq!(text_at(me, at, PATH).unwrap(), b"/opt/tool");
        assert_eq!(text_at(me, at, 4).unwrap(), b"/opt");
        assert_eq!(text_at(me, 0, PATH), None);
        assert_eq!(text_at(me, u64::MAX, PATH), None);
        let array = [at, at + 5, 0, at];
        let array_at = u64::try_from(array.as_ptr().addr()).unwrap();
        assert_eq!(texts(me, array_at, 12, 64), ["/opt/tool", "tool"]);
        assert!(texts(me, 8, 12, 64).is_empty());
    }

    #[test]
    fn who_it_is_says_the_kernel() {
        let who = Who::of(Pid::this());
        assert!(!who.program.is_empty() && who.ids.is_some());
        assert_eq!(Who::of(Pid::from_raw(i32::MAX)).program, "");
    }
}
