//! What a call says: addresses, programs, privileges.
//!
//! Takes a call that waits and its thread; gives what it wants; trusts nothing in the payload's memory; refuses nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::unistd::Pid;

use super::memory::{self, PATH, Who};
use crate::run::observations::{Address, Program};
use crate::text;

/// The longest address (`struct sockaddr_storage`).
const ADDRESS: usize = 128;
/// How many arguments of a program are taken down, and how much of each.
const ARGUMENTS: usize = 12;
const ARGUMENT: usize = 120;

/// Where `connect`, `bind`, `sendto`, `sendmsg` and `sendmmsg` name an address, in the payload's memory, and its length.
pub fn address_of(name: &str, pid: Pid, args: [u64; 6]) -> Option<Address> {
    let [_, second, third, _, fifth, sixth] = args;
    let (at, length) = match name {
        "connect" | "bind" => (second, third),
        "sendto" => (fifth, sixth),
        // `struct msghdr`, with which `struct mmsghdr` begins: msg_name, msg_namelen.
        "sendmsg" | "sendmmsg" => {
            let header = memory::bytes(pid, second, 16);
            (memory::word(&header, 0)?, memory::word(&header, 8)? & 0xffff_ffff)
        }
        _ => return None,
    };
    if at == 0 {
        return None;
    }
    read_address(&memory::bytes(pid, at, usize::try_from(length).ok()?.min(ADDRESS)))
}

/// Reads `struct sockaddr_in`, `_in6` and `_un`.
fn read_address(bytes: &[u8]) -> Option<Address> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = || Some(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
    let of = |ip: IpAddr, port| {
        let ip = ip.to_canonical();
        Address::Internet { host: ip.to_string(), port, loopback: ip.is_loopback() || ip.is_unspecified() }
    };
    match family {
        libc::AF_INET => {
            let four: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(of(IpAddr::V4(Ipv4Addr::from(four)), port()?))
        }
        libc::AF_INET6 => {
            let sixteen: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            Some(of(IpAddr::V6(Ipv6Addr::from(sixteen)), port()?))
        }
        libc::AF_UNIX => {
            let name = bytes.get(2..)?;
            match name.split_first()? {
                (0, []) => None,
                (0, of_nobody) => Some(Address::Socket(format!("@{}", text::neutral_bytes(of_nobody)))),
                _ => Some(Address::Socket(text::neutral_bytes(name.split(|byte| *byte == 0).next()?))),
            }
        }
        _ => None,
    }
}

/// What `execve` or `execveat` is to execute.
pub fn program_of(name: &str, pid: Pid, args: [u64; 6]) -> Option<Program> {
    let [first, second, third, ..] = args;
    let (path, arguments) = match name {
        "execve" => (first, second),
        "execveat" => (second, third),
        _ => return None,
    };
    let path = text::neutral_bytes(&memory::text_at(pid, path, PATH)?);
    let path = if path.is_empty() { "(by descriptor)".to_owned() } else { path.chars().take(512).collect() };
    Some(Program { path, args: memory::texts(pid, arguments, ARGUMENTS, ARGUMENT) })
}

/// CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE and CAP_NET_RAW (linux/capability.h).
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;

/// The privilege that a call takes and its thread lacks, in words; `uid` and `gid` are its own, as it numbers them itself.
pub fn privilege_of(
    name: &str,
    who: &Who,
    (uid, gid): (u32, u32),
    args: [u64; 6],
    address: Option<&Address>,
) -> Option<String> {
    let lacks = |capability: u64| who.capabilities & capability == 0;
    // -1: unchanged.
    let others = |ids: &[u64], own: u32| {
        ids.iter().any(|id| u32::try_from(id & 0xffff_ffff).is_ok_and(|id| id != own && id != u32::MAX))
    };
    let [first, second, third, ..] = args;
    let wanted = match name {
        "setuid" => lacks(SETUID) && others(&[first], uid),
        "setreuid" => lacks(SETUID) && others(&[first, second], uid),
        "setresuid" => lacks(SETUID) && others(&[first, second, third], uid),
        "setgid" => lacks(SETGID) && others(&[first], gid),
        "setregid" => lacks(SETGID) && others(&[first, second], gid),
        "setresgid" => lacks(SETGID) && others(&[first, second, third], gid),
        "setgroups" => lacks(SETGID),
        // Those of netlink need none (socket(2), netlink(7)).
        "socket" => {
            let (family, kind) = (i32::try_from(first & 0xffff_ffff), second & 0xf);
            lacks(NET_RAW) && kind == 3 && matches!(family, Ok(libc::AF_INET | libc::AF_INET6))
        }
        "bind" => {
            let below = |port: u16| (1..1024).contains(&port);
            lacks(BIND_SERVICE) && matches!(address, Some(Address::Internet { port, .. }) if below(*port))
        }
        _ => false,
    };
    match (wanted, address) {
        (false, _) => None,
        (true, _) if name == "socket" => Some("to open a raw socket (as ping and scanners of networks do)".to_owned()),
        (true, Some(Address::Internet { port, .. })) => Some(format!("to listen at port {port}")),
        (true, _) => Some(format!("to become another user ({name})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet(host: &str, port: u16, loopback: bool) -> Option<Address> {
        Some(Address::Internet { host: host.to_owned(), port, loopback })
    }

    #[test]
    fn addresses_of_each_family_are_read_and_cut_ones_are_not() {
        let mut four = vec![2, 0, 1, 187, 93, 184, 216, 34];
        assert_eq!(read_address(&four), internet("93.184.216.34", 443, false));
        four.truncate(7);
        assert_eq!(read_address(&four), None);
        let mut six = vec![10, 0, 0, 53, 0, 0, 0, 0];
        six.extend([0; 15]);
        six.push(1);
        assert_eq!(read_address(&six), internet("::1", 53, true));
        six[18..24].copy_from_slice(&[255, 255, 127, 0, 0, 53]);
        assert_eq!(read_address(&six), internet("127.0.0.53", 53, true));
        assert_eq!(read_address(b"\x01\0/run/docker.sock\0junk"), Some(Address::Socket("/run/docker.sock".to_owned())));
        assert_eq!(read_address(b"\x01\0\0/tmp/.X11-unix/X0"), Some(Address::Socket("@/tmp/.X11-unix/X0".to_owned())));
        assert_eq!(read_address(b"\x01\0\x1b[2J"), Some(Address::Socket("\\x1b[2J".to_owned())));
        for none in [&b""[..], b"\x01", b"\x01\0", b"\x01\0\0", b"\x10\0\0\0"] {
            assert_eq!(read_address(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_privilege_is_wanted_only_where_it_is_lacking_and_changes_something() {
        const OWN: (u32, u32) = (1000, 1000);
        let who = Who { program: "sudo".to_owned(), ids: Some(OWN), ..Who::default() };
        let unchanged = u64::from(u32::MAX);
        assert!(privilege_of("setuid", &who, OWN, [0; 6], None).is_some());
        assert!(privilege_of("setuid", &who, OWN, [1000; 6], None).is_none());
        assert!(privilege_of("setresuid", &who, OWN, [unchanged, 1000, unchanged, 0, 0, 0], None).is_none());
        assert!(privilege_of("setuid", &Who { capabilities: SETUID, ..who.clone() }, OWN, [0; 6], None).is_none());
        let raw = |family: i32, kind: u64| [u64::from(family.unsigned_abs()), kind, 0, 0, 0, 0];
        assert!(privilege_of("socket", &who, OWN, raw(libc::AF_INET, 0x80003), None).unwrap().contains("raw socket"));
        assert!(privilege_of("socket", &who, OWN, raw(libc::AF_NETLINK, 3), None).is_none());
        assert!(privilege_of("socket", &who, OWN, raw(libc::AF_INET, 5), None).is_none());
        let web = internet("0.0.0.0", 80, true);
        assert_eq!(privilege_of("bind", &who, OWN, [0; 6], web.as_ref()).unwrap(), "to listen at port 80");
        assert!(privilege_of("bind", &who, OWN, [0; 6], internet("0.0.0.0", 8080, true).as_ref()).is_none());
    }
}
