//! The page as one HTML file: no script, nothing from elsewhere, which its content security policy makes certain
//! (<https://www.w3.org/TR/CSP3/>); every word of the image is escaped.

use sha2::{Digest as _, Sha256};

use super::page::{Item, Page};
use crate::text::neutral_line;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#111;background:#fff}\
h1{font-size:1.5em;margin:0 0 .3em;overflow-wrap:anywhere}\
h2{font-size:1.15em;border-bottom:1px solid #999;margin:1.6em 0 .5em}\
p{margin:.3em 0}.about{color:#555;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%;margin:.2em 0 .8em}\
td{text-align:left;padding:.15em .8em .15em 0;vertical-align:top;border-bottom:1px solid #eee;overflow-wrap:anywhere}td.s{white-space:nowrap}\
td:empty{padding:0}summary{cursor:pointer;padding:.15em 0}.item{font-weight:600;margin-top:.6em}\
@media print{body{margin:0;max-width:none;font-size:9.5pt;padding:0}h2{break-after:avoid}tr{break-inside:avoid}\
details::details-content{content-visibility:visible;display:block}summary{list-style:none}}";

/// A cell of so many characters stays in one line.
const SHORT: usize = 20;

/// The page.
pub fn html(page: &Page) -> String {
    let mut out = String::from(HEAD);
    // Of all styles only this one, known by its digest.
    let style = base64(&Sha256::digest(STYLE.as_bytes()));
    out.push_str(&format!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'\">\n"
    ));
    out.push_str(
        "<meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"referrer\" content=\"no-referrer\">\n",
    );
    out.push_str(&format!("<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n", escaped(&page.title)));
    out.push_str(&format!("<h1>{}</h1>\n", escaped(&page.title)));
    for line in &page.about {
        out.push_str(&format!("<p class=\"about\">{}</p>\n", escaped(line)));
    }
    for section in &page.sections {
        out.push_str(&format!("<h2>{}</h2>\n", escaped(&section.title)));
        section.items.iter().for_each(|item| write_item(&mut out, item));
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn write_item(out: &mut String, item: &Item) {
    let line = escaped(&item.line);
    if item.rows.is_empty() {
        out.push_str(&format!("<p>{line}</p>\n"));
        return;
    }
    let (open, close) = if item.long {
        ("<details><summary class=\"item\">", "</summary>\n")
    } else {
        ("<p class=\"item\">", "</p>\n")
    };
    out.push_str(&format!("{open}{line}{close}<table>\n"));
    for row in &item.rows {
        out.push_str("<tr>");
        for cell in row {
            // A long path is broken anywhere before a short word beside it is broken at all.
            let short = if cell.chars().count() <= SHORT { " class=\"s\"" } else { "" };
            out.push_str(&format!("<td{short}>{}</td>", escaped(cell)));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
    if item.long {
        out.push_str("</details>\n");
    }
}

/// Bytes in base 64 (RFC 4648, 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let group = (0..3).fold(0_usize, |sum, at| (sum << 8) | usize::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit)) & 63;
            let character = DIGITS.get(value).copied().map_or('=', char::from);
            out.push(if digit > three.len() { '=' } else { character });
        }
    }
    out
}

/// Text as HTML, without control characters and marks of direction.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in neutral_line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::page::Section;
    use super::*;

    #[test]
    fn base_64_is_that_of_the_rfc() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn words_of_the_image_are_text_and_nothing_else() {
        let hostile = "</td></table><script>alert(1)</script><img src=x onerror='x'>\u{202e}&amp;\"";
        let item = Item { line: hostile.to_owned(), rows: vec![vec![hostile.to_owned()]], long: true };
        let page = Page {
            title: hostile.to_owned(),
            about: vec![hostile.to_owned()],
            sections: vec![Section { title: hostile.to_owned(), items: vec![item] }],
        };
        let html = html(&page);
        for forbidden in ["<script", "<img", "\u{202e}", "onerror='"] {
            assert!(!html.contains(forbidden), "{forbidden}");
        }
        assert!(html.contains("default-src 'none'") && html.contains("&lt;script&gt;"));
    }
}
