//! What a file holds, by its first bytes: never by its name, which whoever made it chose.
//!
//! Takes the first bytes, 512 of an output that is listed and more where outputs are looked at; gives a word, a kind and a media type,
//! as good a guess as the begin of a file allows; trusts nothing: a guess is told to people and compared. Nothing is parsed,
//! decompressed or followed.
//!
//! Signatures are those of the formats' own specifications, and of file(1)'s magic; the rest is text if it is UTF-8 without control characters, and then
//! looked at for the words and shapes that it begins with.

use serde::{Deserialize, Serialize};

/// So much of a file is looked at for the list of outputs.
pub const HEAD: usize = 512;

/// What sort of thing a file is, for who decides what may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Nothing.
    Empty,
    /// Text for people.
    Text,
    /// Rows and columns.
    Table,
    /// A document: pages, marked-up text.
    Document,
    /// A picture.
    Image,
    /// A notebook: code with its results.
    Notebook,
    /// Text for programs.
    Structured,
    /// Several files in one.
    Archive,
    /// Another file, compressed.
    Compressed,
    /// Numbers or columns in binary.
    Array,
    /// A database.
    Database,
    /// Objects of a program, which run code when they are read.
    Objects,
    /// A trained model.
    Model,
    /// A program.
    Program,
    /// Something else.
    Data,
}

/// What a file seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// The word for it.
    pub name: &'static str,
    /// What sort of thing.
    pub content: Content,
    /// Its media type.
    pub media: &'static str,
}

const fn sniffed(name: &'static str, content: Content, media: &'static str) -> Sniffed {
    Sniffed { name, content, media }
}

/// What a file begins with, at which place, and what it is then; the first that fits counts.
const SIGNATURES: [(usize, &[u8], Sniffed); 45] = [
    (0, b"\x7fELF", sniffed("elf", Content::Program, "application/x-executable")),
    (0, b"MZ", sniffed("exe", Content::Program, "application/vnd.microsoft.portable-executable")),
    (0, b"\xcf\xfa\xed\xfe", sniffed("mach-o", Content::Program, "application/x-mach-binary")),
    (0, b"\0asm", sniffed("wasm", Content::Program, "application/wasm")),
    (0, b"\x1f\x8b", sniffed("gzip", Content::Compressed, "application/gzip")),
    (0, b"\x28\xb5\x2f\xfd", sniffed("zstd", Content::Compressed, "application/zstd")),
    (0, b"\xfd7zXZ\0", sniffed("xz", Content::Compressed, "application/x-xz")),
    (0, b"BZh", sniffed("bzip2", Content::Compressed, "application/x-bzip2")),
    (0, b"\x04\x22\x4d\x18", sniffed("lz4", Content::Compressed, "application/x-lz4")),
    (0, b"7z\xbc\xaf\x27\x1c", sniffed("7z", Content::Archive, "application/x-7z-compressed")),
    (0, b"PK\x03\x04", sniffed("zip", Content::Archive, "application/zip")),
    (0, b"PK\x05\x06", sniffed("zip", Content::Archive, "application/zip")),
    (0, b"Rar!\x1a\x07", sniffed("rar", Content::Archive, "application/vnd.rar")),
    (257, b"ustar", sniffed("tar", Content::Archive, "application/x-tar")),
    (0, b"!<arch>\n", sniffed("ar", Content::Archive, "application/x-archive")),
    (0, b"\x89PNG\r\n\x1a\n", sniffed("png", Content::Image, "image/png")),
    (0, b"\xff\xd8\xff", sniffed("jpeg", Content::Image, "image/jpeg")),
    (0, b"GIF87a", sniffed("gif", Content::Image, "image/gif")),
    (0, b"GIF89a", sniffed("gif", Content::Image, "image/gif")),
    (0, b"II*\0", sniffed("tiff", Content::Image, "image/tiff")),
    (0, b"MM\0*", sniffed("tiff", Content::Image, "image/tiff")),
    (8, b"WEBP", sniffed("webp", Content::Image, "image/webp")),
    (0, b"BM", sniffed("bmp", Content::Image, "image/bmp")),
    (128, b"DICM", sniffed("dicom", Content::Image, "application/dicom")),
    (4, b"ftyp", sniffed("mp4", Content::Data, "video/mp4")),
    (0, b"%PDF-", sniffed("pdf", Content::Document, "application/pdf")),
    (0, b"%!PS", sniffed("postscript", Content::Document, "application/postscript")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", sniffed("ole", Content::Document, "application/x-ole-storage")),
    (0, b"\x89HDF\r\n\x1a\n", sniffed("hdf5", Content::Array, "application/x-hdf5")),
    (0, b"CDF\x01", sniffed("netcdf", Content::Array, "application/x-netcdf")),
    (0, b"CDF\x02", sniffed("netcdf", Content::Array, "application/x-netcdf")),
    (0, b"\x93NUMPY", sniffed("npy", Content::Array, "application/x-npy")),
    (0, b"PAR1", sniffed("parquet", Content::Array, "application/vnd.apache.parquet")),
    (0, b"ARROW1", sniffed("arrow", Content::Array, "application/vnd.apache.arrow.file")),
    (0, b"FEA1", sniffed("feather", Content::Array, "application/vnd.apache.arrow.file")),
    (0, b"Obj\x01", sniffed("avro", Content::Array, "application/vnd.apache.avro")),
    (0, b"ORC", sniffed("orc", Content::Array, "application/vnd.apache.orc")),
    (0, b"$FL2", sniffed("spss", Content::Array, "application/x-spss-sav")),
    (0, b"$FL3", sniffed("spss", Content::Array, "application/x-spss-sav")),
    (0, b"<stata_dta>", sniffed("stata", Content::Array, "application/x-stata-dta")),
    (0, b"SQLite format 3\0", sniffed("sqlite", Content::Database, "application/vnd.sqlite3")),
    (8, b"DUCK", sniffed("duckdb", Content::Database, "application/x-duckdb")),
    (0, b"RDX", sniffed("rdata", Content::Objects, "application/x-r-data")),
    (0, b"X\n\0\0", sniffed("rds", Content::Objects, "application/x-r-data")),
    (0, b"GGUF", sniffed("gguf", Content::Model, "application/x-gguf")),
];

/// What a file seems to be that begins with `head`, and may be longer if that is [`HEAD`] bytes or more.
pub fn sniff(head: &[u8]) -> Sniffed {
    if head.is_empty() {
        return sniffed("text", Content::Empty, "application/x-empty");
    }
    let begins =
        |(at, signature, _): &&(usize, &[u8], Sniffed)| head.get(*at..).is_some_and(|rest| rest.starts_with(signature));
    // "MZ", "BZh", "BM" and "PAR1" are words, too: none of these formats is text.
    match SIGNATURES.iter().find(begins) {
        Some((_, signature, found)) if !(signature.is_ascii() && text(head).is_some() && !is_text_format(found)) => {
            *found
        }
        _ if is_pickle(head) => sniffed("pickle", Content::Objects, "application/x-python-pickle"),
        _ if is_safetensors(head) => sniffed("safetensors", Content::Model, "application/x-safetensors"),
        _ => text(head).map_or(sniffed("binary", Content::Data, "application/octet-stream"), of_text),
    }
}

/// Formats whose whole head may be plain text.
fn is_text_format(found: &Sniffed) -> bool {
    matches!(
        found.media,
        "application/pdf" | "application/postscript" | "application/x-archive" | "application/x-stata-dta"
    )
}

/// Python's pickle, from protocol 2 on: its first instruction names the protocol (pickletools, `PROTO`), and the next one is a
/// frame, an empty collection, a global or a short text.
fn is_pickle(head: &[u8]) -> bool {
    match head {
        [0x80, 4 | 5, 0x95, ..] => true,
        [0x80, 2..=5, next, ..] => b"}])(cX\x8cKJGN".contains(next),
        _ => false,
    }
}

/// A file of safetensors begins with the length of a JSON header (eight bytes, little endian).
fn is_safetensors(head: &[u8]) -> bool {
    let length = head.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    (2..1 << 27).contains(&length) && head.get(8) == Some(&b'{')
}

/// The head as text, without a character that was cut at its end; none where there is anything but text.
fn text(head: &[u8]) -> Option<&str> {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Cut within a character: only where the head is all that was looked at.
        Err(e) if e.error_len().is_none() && head.len() + 3 >= HEAD => {
            std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0c' | '\x1b');
    (!text.chars().any(control)).then_some(text)
}

fn of_text(text: &str) -> Sniffed {
    let begin = text.trim_start();
    let lower: String = begin.chars().take(4096).map(|c| c.to_ascii_lowercase()).collect();
    let holds = |word: &str| lower.contains(word);
    if begin.starts_with("#!") {
        return sniffed("script", Content::Program, "text/x-script");
    }
    if lower.starts_with("<svg") || (lower.starts_with("<?xml") && holds("<svg")) || lower.starts_with("<!doctype svg")
    {
        return sniffed("svg", Content::Image, "image/svg+xml");
    }
    if lower.starts_with("<!doctype html")
        || ["<html", "<head", "<body", "<script"].iter().any(|tag| lower.starts_with(tag))
    {
        return sniffed("html", Content::Document, "text/html");
    }
    if lower.starts_with("<?xml") {
        return sniffed("text", Content::Structured, "application/xml");
    }
    if begin.starts_with('{') || begin.starts_with('[') {
        return of_json(begin);
    }
    match columns(text) {
        Some('\t') => sniffed("text", Content::Table, "text/tab-separated-values"),
        Some(_) => sniffed("text", Content::Table, "text/csv"),
        None => sniffed("text", Content::Text, "text/plain"),
    }
}

/// What begins like JSON, by what may follow the first bracket (RFC 8259).
fn of_json(begin: &str) -> Sniffed {
    let rest = begin.get(1..).unwrap_or_default().trim_start();
    let value = ["true", "false", "null", "\"", "[", "]", "{", "-"].iter().any(|word| rest.starts_with(word));
    let is_json = match begin.chars().next() {
        _ if rest.is_empty() => true,
        Some('{') => rest.starts_with(['"', '}']),
        _ => value || rest.starts_with(|c: char| c.is_ascii_digit()),
    };
    // Where a notebook says so is at its end as often as not; its cells come first (nbformat 4).
    let notebook = ["\"cells\"", "\"nbformat\"", "\"cell_type\""].iter().any(|word| begin.contains(word));
    match (is_json, notebook && begin.starts_with('{')) {
        (true, true) => sniffed("notebook", Content::Notebook, "application/x-ipynb+json"),
        (true, false) => sniffed("json", Content::Structured, "application/json"),
        (false, _) => sniffed("text", Content::Text, "text/plain"),
    }
}

/// The separator of a table: the same number of it in each of the first lines, of which there are two at least. The last line may
/// be cut. What stands in quotes counts, so that a table of texts may pass for text; never the other way round.
fn columns(text: &str) -> Option<char> {
    let whole = if text.ends_with('\n') || text.len() + 3 < HEAD { text } else { text.rsplit_once('\n')?.0 };
    let lines: Vec<&str> = whole.lines().filter(|line| !line.trim().is_empty()).collect();
    let (first, others) = lines.split_first()?;
    let count = |line: &str, separator: char| line.chars().filter(|c| *c == separator).count();
    let same = |separator: &char| {
        let fields = count(first, *separator);
        fields > 0 && !others.is_empty() && others.iter().all(|line| count(line, *separator) == fields)
    };
    [',', '\t', ';', '|'].into_iter().find(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn media(head: &[u8]) -> &'static str {
        sniff(head).media
    }

    #[test]
    fn each_format_is_known_by_its_first_bytes_and_none_by_a_word() {
        for (at, signature, found) in SIGNATURES {
            let mut head = vec![0; at];
            head.extend_from_slice(signature);
            head.extend_from_slice(&[0, 1, 2, 3]);
            assert_eq!(sniff(&head), found);
        }
        for text in [
            "MZ is a man",
            "BZh",
            "PAR1 was played",
            "12345678DUCK",
            "RDX,n\n1,2\n",
            "BMI,n\n27,100\n",
            "CDF",
            "GIF89a is a format",
        ] {
            assert!(media(text.as_bytes()).starts_with("text/"), "{text}: {}", media(text.as_bytes()));
        }
        assert_eq!(media(b"%PDF-1.7\n1 0 obj\n"), "application/pdf");
    }

    #[test]
    fn text_is_told_by_what_it_begins_with_and_by_its_shape() {
        let long_csv = "sex,outcome,n\n".to_owned() + &"f,1,12345678\n".repeat(100);
        for (text, expected) in [
            ("", "application/x-empty"),
            ("a line\n", "text/plain"),
            ("sex,outcome,n\nf,1,12\nm,0,9\n", "text/csv"),
            (&long_csv[..HEAD], "text/csv"),
            ("a;b\n1;2\n", "text/csv"),
            ("a\tb\n1\t2\n", "text/tab-separated-values"),
            ("Dear all, this\nis a letter, with, commas\n", "text/plain"),
            ("{\"a\": 1}", "application/json"),
            (" [\n 1, 2]", "application/json"),
            ("{{ template }}", "text/plain"),
            ("[section]\nkey = 1\n", "text/plain"),
            ("[test]\nkey = 1\n", "text/plain"),
            ("{\n \"cells\": [\n  {\n   \"cell_type\": \"code\"", "application/x-ipynb+json"),
            ("<!DOCTYPE html>\n<html>", "text/html"),
            ("<?xml version=\"1.0\"?>\n<!-- made by R -->\n<svg width=\"5\">", "image/svg+xml"),
            ("<?xml version=\"1.0\"?><rss/>", "application/xml"),
            ("#!/bin/sh\nrm -rf /\n", "text/x-script"),
        ] {
            assert_eq!(media(text.as_bytes()), expected, "{text}");
        }
        let cut = format!("{}é", "x".repeat(HEAD - 1));
        assert_eq!(media(&cut.as_bytes()[..HEAD]), "text/plain");
        assert_eq!(media(b"short \xc3"), "application/octet-stream");
        assert_eq!(media(b"\xef\xbb\xbfa,b\n1,2\n"), "text/csv");
    }

    #[test]
    fn objects_of_python_are_known_whichever_protocol_wrote_them() {
        // pickle.dumps({'a': 1}, p) for each p.
        for head in [
            &b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s."[..],
            b"\x80\x03}q\x00X\x01",
            b"\x80\x04\x95\x0a\0\0",
            b"\x80\x05}\x94.",
        ] {
            assert_eq!(sniff(head).content, Content::Objects, "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_file_begins_with_it_is_something(head in prop::collection::vec(any::<u8>(), 0..HEAD), text in ".{0,300}") {
            let empty = sniff(&head).content == Content::Empty;
            prop_assert_eq!(empty, head.is_empty());
            prop_assert!(sniff(text.as_bytes()).content != Content::Database || text.starts_with("SQLite"));
        }
    }
}
