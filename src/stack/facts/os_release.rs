//! Which distribution it is (os-release(5)).

use super::super::package::Distribution;
use super::word;

/// Where it says so, the first that exists.
pub const PLACES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// What the file says; none where it does not name a distribution.
pub fn read(bytes: &[u8]) -> Option<Distribution> {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str| {
        let line = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == name);
        line.map(|(_, value)| unquoted(value.trim())).as_deref().and_then(word)
    };
    Some(Distribution {
        id: field("ID")?,
        id_like: field("ID_LIKE").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
        version_id: field("VERSION_ID").unwrap_or_default(),
        codename: field("VERSION_CODENAME"),
        pretty_name: field("PRETTY_NAME"),
    })
}

/// A value as a shell would read it, as far as the format allows quoting.
fn unquoted(value: &str) -> String {
    let inner = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let mut out = String::new();
    let mut characters = inner.unwrap_or(value).chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => out.extend(characters.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_names_itself() {
        let text = b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID='12'\nVERSION_CODENAME=bookworm\nID=debian\nID_LIKE=\"a b\"\n";
        let found = read(text).unwrap();
        assert_eq!((found.id.as_str(), found.version_id.as_str()), ("debian", "12"));
        assert_eq!(found.id_like, ["a", "b"]);
        assert_eq!(found.pretty_name.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert!(read(b"NAME=x").is_none());
    }
}
