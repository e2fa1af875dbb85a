//! Packets of the container's loopback: questions to a name server, and refused connections.
//!
//! Takes bytes that the payload has made, as a raw socket gives them; gives a name or a port; trusts nothing; refuses what is cut, compressed or longer than a name can be (RFC 1035, 2.3.4).

use crate::host::sys::loopback::Seen;
use crate::text;

/// What a packet says.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// Somebody asked for this name.
    Question(String),
    /// Nobody listens at this port.
    Refused(u16),
}

/// The longest name (RFC 1035, 2.3.4) and the longest label.
const NAME: usize = 255;
const LABEL: u8 = 63;
/// A question's header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// Reads one packet.
pub fn read(seen: Seen, packet: &[u8]) -> Option<Packet> {
    let segment = match seen {
        Seen::Udp4 | Seen::Tcp4 => packet.get(usize::from(packet.first()? & 15) * 4..)?,
        Seen::Udp6 | Seen::Tcp6 => packet,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
    match seen {
        Seen::Udp4 | Seen::Udp6 if port(2)? == 53 => question(segment.get(8..)?).map(Packet::Question),
        // What answers a SYN where nobody listens: RST and ACK, with the sequence number 0 (RFC 9293, 3.10.7.1).
        Seen::Tcp4 | Seen::Tcp6 if segment.get(13)? & 0x14 == 0x14 && segment.get(4..8)? == [0; 4] => {
            port(0).map(Packet::Refused)
        }
        _ => None,
    }
}

/// The name of the first question.
fn question(message: &[u8]) -> Option<String> {
    // A query (QR is 0) with one question or more.
    if message.get(2)? & 0x80 != 0 || (*message.get(4)?, *message.get(5)?) == (0, 0) {
        return None;
    }
    let mut rest = message.get(HEADER..)?;
    let mut name = String::new();
    let mut length = 0;
    loop {
        let (size, after) = rest.split_first()?;
        if *size == 0 {
            break;
        }
        // A greater one is a pointer (RFC 1035, 4.1.4), which a question has no use for.
        if *size > LABEL {
            return None;
        }
        let (label, after) = after.split_at_checked(usize::from(*size))?;
        length += label.len() + 1;
        if length > NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        // A point within a label would look like two labels.
        name.push_str(&text::neutral_bytes(label).to_ascii_lowercase().replace('.', "\\x2e"));
        rest = after;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for `labels` over UDP and IPv4.
    fn asked(labels: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet.extend([0x80, 1, 0, 53, 0, 0, 0, 0]);
        packet.extend([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in labels {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(*label);
        }
        packet.extend([0, 0, 1, 0, 1]);
        packet
    }

    #[test]
    fn a_question_is_read_over_both_families() {
        let four = asked(&[b"Hugging", b"example"]);
        assert_eq!(read(Seen::Udp4, &four), Some(Packet::Question("hugging.example".to_owned())));
        assert_eq!(read(Seen::Udp6, &four[20..]), Some(Packet::Question("hugging.example".to_owned())));
    }

    #[test]
    fn a_refused_connection_names_its_port() {
        let mut packet = vec![0; 40];
        (packet[0], packet[20], packet[21], packet[33]) = (0x45, 0x15, 0x38, 0x14);
        let read = |packet: &[u8]| [read(Seen::Tcp4, packet), read(Seen::Tcp6, &packet[20..])];
        assert_eq!(read(&packet), [(); 2].map(|()| Some(Packet::Refused(5432))));
        packet[27] = 1;
        assert_eq!(read(&packet), [None, None], "the end of a connection that was there");
        (packet[27], packet[33]) = (0, 0x02);
        assert_eq!(read(&packet), [None, None]);
    }

    #[test]
    fn hostile_labels_are_neutralised_and_bounded() {
        let read = |packet: &[u8]| read(Seen::Udp4, packet);
        let name = |labels: &[&[u8]]| read(&asked(labels));
        assert_eq!(
            name(&[b"\x1b]52;c;x\x07", b"a.b\n"]),
            Some(Packet::Question("\\x1b]52;c;x\\x07.a\\x2eb\\n".to_owned()))
        );
        assert_eq!(name(&[b"\xff\xfe"]), Some(Packet::Question("\\xff\\xfe".to_owned())));
        assert_eq!(name(&[]), None);
        assert_eq!(name(&[&[b'a'; 63][..]; 4]), None);
        let mut pointer = asked(&[b"a"]);
        pointer[40] = 0xc0;
        assert_eq!(read(&pointer), None);
        let whole = asked(&[b"abc", b"def"]);
        for length in 0..whole.len() - 4 {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_packet_is_too_much(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            for seen in [Seen::Udp4, Seen::Tcp4, Seen::Udp6, Seen::Tcp6] {
                if let Some(Packet::Question(name)) = read(seen, &bytes) {
                    // Each byte becomes four characters at most.
                    proptest::prop_assert!(name.len() <= 4 * NAME && crate::text::neutral_line(&name) == name);
                }
            }
        }
    }

    /// Numbers without an order (xorshift, Marsaglia 2003), the same at every run.
    fn scrambled(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn whatever_a_payload_puts_into_a_packet_what_is_read_of_it_is_short_and_harmless() {
        let mut state = 0x2545_f491_4f6c_dd1d;
        let good = asked(&[b"cdn-lfs", b"huggingface", b"example"]);
        let mut read_names = 0;
        for _ in 0..200_000 {
            let mut packet = good.clone();
            for _ in 0..scrambled(&mut state) % 8 {
                let at = usize::try_from(scrambled(&mut state)).unwrap() % packet.len();
                packet[at] = u8::try_from(scrambled(&mut state) & 0xff).unwrap();
            }
            packet.truncate(usize::try_from(scrambled(&mut state)).unwrap() % (packet.len() + 1));
            packet.extend((0..scrambled(&mut state) % 80).map(|n| u8::try_from(n).unwrap()));
            if let Some(Packet::Question(name)) = read(Seen::Udp4, &packet) {
                read_names += 1;
                assert!(name.len() <= NAME * 4 && !name.is_empty(), "{name:?}");
                assert!(name.chars().all(|c| !c.is_control()) && text::neutral_line(&name) == name, "{name:?}");
            }
        }
        assert!(read_names > 1000, "{read_names}");
    }
}
