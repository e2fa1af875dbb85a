//! Markup that holds texts from outside as texts.
//!
//! Takes elements by names that are written here, and texts; gives a document; trusts nothing of a text; refuses to make markup of
//! one: an element's name and class are `&'static str`, so that they are known when the program is made, and every other
//! string goes through `text`, which escapes it and makes it harmless.

use sha2::{Digest as _, Sha256};

use crate::evidence::base64::base64;
use crate::text;

/// A document, as it grows.
#[derive(Debug, Default)]
pub struct Html(String);

impl Html {
    /// A document with this title and style. Its policy (CSP 3, W3C) lets the browser load nothing, execute nothing, and apply
    /// this one style.
    pub fn new(title: &str, style: &'static str) -> Self {
        let hash = base64(&Sha256::digest(style));
        let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'");
        let mut page = Self("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n".to_owned());
        page.0.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"");
        page.0.push_str(&policy);
        page.0.push_str("\">\n<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"viewport\" content=\"width=device-width\">\n");
        page.element("title", |page| page.text(title));
        page.0.push_str("\n<style>");
        page.0.push_str(style);
        page.0.push_str("</style>\n</head>\n<body>\n");
        page
    }

    /// A text from wherever: shown as it is, and never more.
    pub fn text(&mut self, from_outside: &str) {
        for c in text::neutral_line(from_outside).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
    }

    /// An element with what `content` puts into it.
    pub fn element(&mut self, name: &'static str, content: impl FnOnce(&mut Self)) {
        self.with_class(name, "", content);
    }

    /// The same, with a class.
    pub fn with_class(&mut self, name: &'static str, class: &'static str, content: impl FnOnce(&mut Self)) {
        self.0.push('<');
        self.0.push_str(name);
        if !class.is_empty() {
            self.0.push_str(" class=\"");
            self.0.push_str(class);
            self.0.push('"');
        }
        self.0.push('>');
        content(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with a text in it.
    pub fn say(&mut self, name: &'static str, text: &str) {
        self.element(name, |page| page.text(text));
    }

    /// A line break of the document's own text.
    pub fn line(&mut self) {
        self.0.push('\n');
    }

    /// The document.
    pub fn end(mut self) -> String {
        self.0.push_str("</body>\n</html>\n");
        self.0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every element that begins ends, in order.
    #[track_caller]
    pub fn every_element_ends(page: &str) {
        let mut open = Vec::new();
        for tag in page.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
            let name = tag.split(' ').next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{page}"),
                None if ["meta", "!DOCTYPE"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    proptest! {
        #[test]
        fn no_text_becomes_markup(from_outside in any::<String>(), odd in "[<>&\"'=/ a-z\u{202e}\u{1b}]{0,40}") {
            for from_outside in [from_outside, odd] {
                let mut page = Html::default();
                page.text(&from_outside);
                let markup = ['<', '>', '"', '\'', '\u{1b}', '\u{202e}', '\n'];
                prop_assert!(!page.0.contains(markup));
                let bare = page.0.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").replace("&quot;", "").replace("&#39;", "");
                prop_assert!(!bare.contains('&'));
            }
        }
    }
}
