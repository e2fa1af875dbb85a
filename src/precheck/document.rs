//! Notebooks with results, pages and drawings full of numbers, PDFs with files in them.
//!
//! Takes their bytes or text; gives findings; trusts nothing; refuses nothing: what cannot be read is told as not looked at. Nothing
//! here is rendered, executed or decompressed.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::finding::Findings;
use super::rules::RuleName;

/// The part of a notebook that matters here (nbformat 4; version 3 has its cells in worksheets).
#[derive(Debug, Deserialize)]
struct Notebook {
    #[serde(default)]
    cells: Vec<Cell>,
    #[serde(default)]
    worksheets: Vec<Worksheet>,
}

#[derive(Debug, Deserialize)]
struct Worksheet {
    #[serde(default)]
    cells: Vec<Cell>,
}

#[derive(Debug, Deserialize)]
struct Cell {
    #[serde(default)]
    outputs: Vec<IgnoredAny>,
    #[serde(default)]
    attachments: Option<IgnoredAny>,
}

/// Whether cells of a notebook hold results.
pub fn notebook(bytes: &[u8], findings: &mut Findings<'_>) {
    let notebook: Notebook = match serde_json::from_slice(bytes) {
        Ok(notebook) => notebook,
        Err(_) => return findings.add(RuleName::NotLookedAt, "it is no notebook that can be read"),
    };
    let cells = || notebook.cells.iter().chain(notebook.worksheets.iter().flat_map(|sheet| &sheet.cells));
    let results = cells().filter(|cell| !cell.outputs.is_empty() || cell.attachments.is_some()).count();
    if results > 0 {
        let said =
            if results == 1 { "1 cell holds results".to_owned() } else { format!("{results} cells hold results") };
        findings.add(RuleName::NotebookOutputs, said);
    }
}

/// Numbers and scripts in a page or drawing.
pub fn page(kind: &str, text: &str, findings: &mut Findings<'_>) {
    let numbers = numbers(text.as_bytes());
    if numbers > findings.rules().embedded_numbers {
        findings.add(RuleName::EmbeddedNumbers, format!("{numbers} numbers in this {kind}"));
    }
    let lower = text.to_ascii_lowercase();
    if ["<script", "javascript:", " onload=", " onerror=", "<foreignobject", "<iframe"]
        .iter()
        .any(|word| lower.contains(word))
    {
        findings.add(RuleName::Script, "it has a script, or a page in it");
    }
}

/// How many numbers a text has.
fn numbers(bytes: &[u8]) -> u64 {
    let mut inside = false;
    let mut found = 0;
    for byte in bytes {
        let part = byte.is_ascii_digit() || (inside && *byte == b'.');
        found += u64::from(part && !inside);
        inside = part;
    }
    found
}

/// Files and scripts in a PDF, and bytes after its end (ISO 32000-2, 7.5.5 and 7.11.4). What is in its compressed objects is not
/// seen, and that is told.
pub fn pdf(bytes: &[u8], whole: bool, findings: &mut Findings<'_>) {
    for (name, what) in [
        (b"/EmbeddedFile".as_slice(), "a file is embedded in it"),
        (b"/JavaScript", "it has a script"),
        (b"/Launch", "it starts a program"),
        (b"/RichMedia", "it has media embedded"),
    ] {
        if find(bytes, name).is_some() {
            findings.add(RuleName::EmbeddedFile, what);
        }
    }
    match rfind(bytes, b"%%EOF") {
        Some(end) if whole => {
            let after = bytes.get(end + 5..).unwrap_or_default();
            if after.trim_ascii().len() > 16 {
                findings.add(RuleName::TrailingData, format!("{} bytes after the document's end", after.len()));
            }
        }
        None if whole => findings.add(RuleName::NotLookedAt, "it does not end as a PDF does"),
        _ => {}
    }
    findings.add(RuleName::NotSearched, "text and compressed objects of a PDF are not looked into");
}

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

fn rfind(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).rposition(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::rules::{Rules, Site};

    fn found(look: impl FnOnce(&mut Findings<'_>)) -> Vec<RuleName> {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut findings = Findings::new(&rules);
        look(&mut findings);
        findings.end().into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn results_of_cells_are_told_of_either_version_and_a_broken_notebook_is_not_looked_at() {
        let of = |text: &str| found(|findings| notebook(text.as_bytes(), findings));
        assert_eq!(
            of(r#"{"cells":[{"outputs":[{"x":[1]}]},{"source":""}],"nbformat":4}"#),
            [RuleName::NotebookOutputs]
        );
        assert_eq!(of(r#"{"worksheets":[{"cells":[{"outputs":[1]}]}]}"#), [RuleName::NotebookOutputs]);
        assert_eq!(of(r#"{"cells":[{"attachments":{"a.png":{}}}]}"#), [RuleName::NotebookOutputs]);
        assert_eq!(of(r#"{"cells":[{"outputs":[]}],"nbformat":4}"#), []);
        let deep = format!("{{\"cells\":{}", "[".repeat(100_000));
        for text in ["{\"cells\":3}", "{\"cells\": [", deep.as_str()] {
            assert_eq!(of(text), [RuleName::NotLookedAt]);
        }
    }

    #[test]
    fn figures_that_hold_their_points_and_documents_that_hold_files_are_told() {
        let points = "<svg>".to_owned() + &"M 1.5 2.5 ".repeat(101);
        assert_eq!(found(|findings| page("svg", &points, findings)), [RuleName::EmbeddedNumbers]);
        assert_eq!(found(|findings| page("html", "<ScRipt>1</script>", findings)), [RuleName::Script]);
        assert_eq!(found(|findings| page("html", "<p>1.5 and 2", findings)), []);
        let of = |text: &[u8]| found(|findings| pdf(text, true, findings));
        assert_eq!(of(b"%PDF-1.7 ... %%EOF\n"), [RuleName::NotSearched]);
        assert_eq!(of(b"%PDF-1.7 /EmbeddedFile %%EOF"), [RuleName::EmbeddedFile, RuleName::NotSearched]);
        assert_eq!(
            of(b"%PDF-1.7 %%EOF\npatient,age\n1,2\n3,4\n5,6\n"),
            [RuleName::TrailingData, RuleName::NotSearched]
        );
        assert_eq!(of(b"%PDF-1.7"), [RuleName::NotLookedAt, RuleName::NotSearched]);
    }
}
