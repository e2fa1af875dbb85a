//! The texts of a bag: BagIt 1.0 (RFC 8493), with SHA-512 alone.
//!
//! Takes names, hashes and facts; gives lines; trusts nothing of a name: what would end a line is written as the RFC says (2.1.3);
//! refuses names that are not UTF-8, for a bag cannot have them.

/// The declaration (2.1.1).
pub const DECLARATION: &str = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n";
/// The payload's directory, with its slash.
pub const PAYLOAD: &str = "data/";

/// Files and bytes of the payload, for `Payload-Oxum`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Oxum {
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// A line of a manifest; none: a bag cannot have the name.
pub fn manifest_line(path: &[u8], sha512: &str) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let path = path.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    Some(format!("{sha512}  {path}\n"))
}

/// `bag-info.txt` (2.2.2): each value on one line.
pub fn info(facts: &[(&str, &str)], day: &str, oxum: Oxum) -> String {
    let one_line = |text: &str| crate::text::neutral_line(text);
    let mut text = format!("Bagging-Date: {}\nPayload-Oxum: {}.{}\n", one_line(day), oxum.bytes, oxum.files);
    for (label, value) in facts {
        text.push_str(&format!("{label}: {}\n", one_line(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_stays_on_its_line_and_comes_back() {
        assert_eq!(manifest_line("data/é b%.csv".as_bytes(), "00").unwrap(), "00  data/é b%25.csv\n");
        assert_eq!(manifest_line(b"data/a\nb\r", "00").unwrap(), "00  data/a%0Ab%0D\n");
        assert_eq!(manifest_line(b"data/\xff", "00"), None);
        let info = info(&[("Source-Organization", "a\nb")], "2026-11-30", Oxum { bytes: 3, files: 1 });
        assert_eq!(info, "Bagging-Date: 2026-11-30\nPayload-Oxum: 3.1\nSource-Organization: a\\nb\n");
    }

    proptest! {
        #[test]
        fn every_text_is_one_line_that_is_its_own(name in any::<String>(), other in any::<String>()) {
            let line = manifest_line(name.as_bytes(), "00").unwrap();
            prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
            prop_assert_eq!(line == manifest_line(other.as_bytes(), "00").unwrap(), name == other);
        }
    }
}
