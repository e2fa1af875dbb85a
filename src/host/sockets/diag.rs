//! The kernel's list of unix sockets by netlink (sock_diag(7), linux/unix_diag.h).
//!
//! Takes nothing; gives the sockets that have a path for a name, with the file of each; trusts the kernel alone, by the
//! address of the sender; refuses answers that are cut short or no messages.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, send, socket,
};

use super::{Bound, File};

// Kinds of messages (linux/netlink.h, linux/sock_diag.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const ALL: u16 = 0x301;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_VFS`.
const NAME_AND_FILE: u32 = 3;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
/// Lengths of `struct nlmsghdr`, `struct unix_diag_req`, `struct unix_diag_msg` and `struct nlattr`.
const HEADER: usize = 16;
const REQUEST: usize = 24;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;
/// The kernel puts no more into one answer (`NL_DUMP_SKB_SIZE` and less).
const ROOM: usize = 64 << 10;

/// All of this network namespace.
///
/// # Errors
/// The kernel's: `ENOENT` or `EPROTONOSUPPORT` from one without unix_diag; `InvalidData` for what is no answer.
pub(super) fn list() -> io::Result<Vec<Bound>> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    send(netlink.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = vec![0; ROOM];
    let mut found = Vec::new();
    loop {
        let (length, sender) = match recvfrom::<NetlinkAddr>(netlink.as_raw_fd(), &mut answer) {
            Err(nix::errno::Errno::EINTR) => continue,
            received => received?,
        };
        let from_the_kernel = sender.is_some_and(|sender| sender.pid() == 0);
        if from_the_kernel && read(answer.get(..length).ok_or_else(cut_short)?, &mut found)? {
            return Ok(found);
        }
    }
}

/// Every socket, whatever its state.
fn request() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + REQUEST);
    out.extend(u32::try_from(HEADER + REQUEST).unwrap_or_default().to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(ALL.to_ne_bytes());
    out.extend([0; 8]); // number and sender, which answers repeat
    out.extend([u8::try_from(nix::libc::AF_UNIX).unwrap_or_default(), 0, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes()); // states
    out.extend([0; 4]); // any inode
    out.extend(NAME_AND_FILE.to_ne_bytes());
    out.extend([0; 8]); // any cookie
    out
}

/// Reads the messages of one answer; whether the last has come.
fn read(mut answer: &[u8], found: &mut Vec<Bound>) -> io::Result<bool> {
    while !answer.is_empty() {
        let length = usize::try_from(u32_at(answer, 0)?).map_err(|_| cut_short())?;
        let message = answer.get(HEADER..length).ok_or_else(cut_short)?;
        match u16_at(answer, 4)? {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let error = i32::from_ne_bytes(array(message, 0)?);
                return Err(io::Error::from_raw_os_error(error.wrapping_neg()));
            }
            SOCK_DIAG_BY_FAMILY => found.extend(bound(message)?),
            _ => {}
        }
        answer = answer.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// One socket; none if its name is no path from the root.
fn bound(message: &[u8]) -> io::Result<Option<Bound>> {
    let (mut name, mut file) = (None, None);
    let mut attributes = message.get(MESSAGE..).ok_or_else(cut_short)?;
    while !attributes.is_empty() {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(ATTRIBUTE..length).ok_or_else(cut_short)?;
        match u16_at(attributes, 2)? {
            UNIX_DIAG_NAME if value.starts_with(b"/") => {
                // A path ends with a zero byte or with the attribute; a name that begins with one is no path.
                let path = value.split(|byte| *byte == 0).next().unwrap_or_default();
                name = Some(PathBuf::from(OsStr::from_bytes(path)));
            }
            UNIX_DIAG_VFS => file = Some(File { inode: u32_at(value, 0)?, device: u32_at(value, 4)? }),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(name.map(|name| Bound { name, file }))
}

/// Messages and attributes begin at multiples of four (`NLMSG_ALIGN`, `NLA_ALIGN`).
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    Ok(u16::from_ne_bytes(array(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    Ok(u32::from_ne_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or_else(cut_short)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's list of sockets is cut short")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out.resize(aligned(out.len()), 0);
        out
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(ATTRIBUTE + value.len()).unwrap().to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(aligned(out.len()), 0);
        out
    }

    fn one(attributes: &[Vec<u8>]) -> Vec<u8> {
        message(SOCK_DIAG_BY_FAMILY, &[&[0; MESSAGE][..], &attributes.concat()].concat())
    }

    #[test]
    fn names_and_files_are_read_from_messages_and_attributes_in_any_order() {
        let file = [7_u32.to_ne_bytes(), 0x0080_0010_u32.to_ne_bytes()].concat();
        let answer = [
            one(&[attribute(UNIX_DIAG_NAME, b"/run/a\0"), attribute(UNIX_DIAG_VFS, &file)]),
            one(&[attribute(9, b"?"), attribute(UNIX_DIAG_VFS, &file), attribute(UNIX_DIAG_NAME, b"/run/a\nb")]),
            one(&[attribute(UNIX_DIAG_NAME, b"\0/abstract")]),
            one(&[attribute(UNIX_DIAG_NAME, b"relative\0")]),
            one(&[]),
            message(77, b"unknown"),
        ]
        .concat();
        let mut found = Vec::new();
        assert!(!read(&answer, &mut found).unwrap());
        let file = Some(File { inode: 7, device: 0x0080_0010 });
        assert_eq!(found, ["/run/a", "/run/a\nb"].map(|name| Bound { name: name.into(), file }));
        assert!(read(&[one(&[]), message(NLMSG_DONE, &[0; 4])].concat(), &mut found).unwrap());
        let error = read(&message(NLMSG_ERROR, &(-2_i32).to_ne_bytes()), &mut found).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(2));
    }

    #[test]
    fn an_answer_cut_short_anywhere_is_an_error_and_no_shorter_list() {
        let name = attribute(UNIX_DIAG_NAME, b"/run/abc");
        let whole = one(&[name]);
        for length in 1..whole.len() {
            assert!(read(&whole[..length], &mut Vec::new()).is_err(), "{length}");
        }
        for (at, value) in [(0, 0), (0, 15), (HEADER + MESSAGE, 0), (HEADER + MESSAGE, 3), (HEADER + MESSAGE, 200)] {
            let mut broken = whole.clone();
            broken[at] = value;
            assert!(read(&broken, &mut Vec::new()).is_err(), "{at} {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_loop(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut found = Vec::new();
            read(&bytes, &mut found).ok();
            found.extend(bound(&bytes).ok().flatten());
            proptest::prop_assert!(found.len() <= bytes.len() / HEADER + 1);
        }
    }

    #[test]
    fn this_kernel_tells_the_files_of_sockets_as_stat_does() {
        let dir = tempfile::tempdir().unwrap();
        let shared = tempfile::tempdir_in("/dev/shm").unwrap();
        let paths = [dir.path().join("listens"), dir.path().join("datagrams"), shared.path().join("s")];
        let _listeners = [UnixListener::bind(&paths[0]).unwrap(), UnixListener::bind(&paths[2]).unwrap()];
        let _datagrams = UnixDatagram::bind(&paths[1]).unwrap();
        let list = match list() {
            Ok(list) => list,
            // A kernel without unix_diag.
            Err(e) => {
                assert!([Some(2), Some(93)].contains(&e.raw_os_error()), "{e}");
                return;
            }
        };
        for path in paths {
            let found = std::fs::symlink_metadata(&path).unwrap();
            let bound = list.iter().find(|bound| bound.name == path).unwrap();
            assert_eq!(bound.file, Some(File::of(&found)), "{path:?}, device {:#x}", found.dev());
        }
    }
}
