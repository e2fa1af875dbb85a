//! The page as text.
//!
//! Takes a page; gives lines without control characters: all words in it may be the image's (`crate::text`).

use super::page::{Item, Page};
use crate::text::neutral_line;

/// Wider columns than this push the next one away, not all of them.
const COLUMN_MAX: usize = 60;

/// The page; long lists of packages are left out but for their number, unless `all`.
pub fn text(page: &Page, all: bool) -> String {
    let mut out = format!("{}\n", neutral_line(&page.title));
    for line in &page.about {
        out.push_str(&format!("{}\n", neutral_line(line)));
    }
    for section in &page.sections {
        out.push_str(&format!("\n{}\n", neutral_line(&section.title).to_uppercase()));
        for item in &section.items {
            write_item(&mut out, item, all);
        }
    }
    out
}

fn write_item(out: &mut String, item: &Item, all: bool) {
    out.push_str(&format!("  {}\n", neutral_line(&item.line)));
    if item.long && !all {
        out.push_str("    (--all lists them)\n");
        return;
    }
    let rows: Vec<Vec<String>> =
        item.rows.iter().map(|row| row.iter().map(|cell| neutral_line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |at: usize| {
        let lengths = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        lengths.filter(|length| *length <= COLUMN_MAX).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::from("   ");
        for (cell, width) in row.iter().zip(&widths) {
            if *width > 0 || !cell.is_empty() {
                line.push_str(&format!(" {cell:<width$} "));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::Section;
    use super::*;

    #[test]
    fn words_of_the_image_steer_no_terminal_and_begin_no_line() {
        let item = Item {
            line: "x".to_owned(),
            rows: vec![vec!["a\u{1b}]52;c\n    forged".to_owned(), "1".to_owned()]],
            long: false,
        };
        let page = Page {
            title: "Software stack of x".to_owned(),
            about: vec!["\u{202e}gpj".to_owned()],
            sections: vec![Section { title: "For review".to_owned(), items: vec![item] }],
        };
        let text = text(&page, false);
        assert!(
            text.contains("FOR REVIEW\n  x\n") && text.contains("\\x1b]52;c\\n") && text.contains("\\u{202e}"),
            "{text}"
        );
        assert!(!text.lines().any(|line| line.trim() == "forged"));
    }
}
