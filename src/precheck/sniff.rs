//! What a file is, by its first bytes: names lie.
//!
//! Takes the first kilobytes of a file; gives one of a few kinds; trusts nothing else; refuses nothing: what is not known is binary or
//! text.

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// The word for it.
    pub name: &'static str,
    /// What can be done with it.
    pub class: Class,
}

/// What can be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It is read as text, perhaps as a table.
    Text,
    /// A page or drawing, which is text as well.
    Page,
    /// A notebook.
    Notebook,
    /// An image whose structure is known here.
    Image,
    /// An image, video or sound whose structure is not.
    OtherMedia,
    /// A PDF.
    Pdf,
    /// Other files in one, or one that is compressed.
    Archive,
    /// A database or binary table.
    Data,
    /// A trained model, or a serialised object.
    Model,
    /// Something that is executed.
    Program,
    /// Not known.
    Binary,
}

/// First bytes, at an offset, and what begins so. Sources: file(1)'s magic, and the formats' own specifications.
const MAGIC: [(usize, &[u8], &str, Class); 45] = [
    (0, b"\x89PNG\r\n\x1a\n", "png", Class::Image),
    (0, b"\xff\xd8\xff", "jpeg", Class::Image),
    (0, b"GIF87a", "gif", Class::Image),
    (0, b"GIF89a", "gif", Class::Image),
    (0, b"II*\0", "tiff", Class::OtherMedia),
    (0, b"MM\0*", "tiff", Class::OtherMedia),
    (8, b"WEBP", "webp", Class::OtherMedia),
    (0, b"BM", "bmp", Class::OtherMedia),
    (4, b"ftyp", "mp4", Class::OtherMedia),
    (0, b"%PDF-", "pdf", Class::Pdf),
    (0, b"PK\x03\x04", "zip", Class::Archive),
    (0, b"PK\x05\x06", "zip", Class::Archive),
    (0, b"\x1f\x8b", "gzip", Class::Archive),
    (0, b"BZh", "bzip2", Class::Archive),
    (0, b"\xfd7zXZ\0", "xz", Class::Archive),
    (0, b"\x28\xb5\x2f\xfd", "zstd", Class::Archive),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", Class::Archive),
    (0, b"Rar!\x1a\x07", "rar", Class::Archive),
    (0, b"\x04\x22\x4d\x18", "lz4", Class::Archive),
    (257, b"ustar", "tar", Class::Archive),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole", Class::Data),
    (0, b"PAR1", "parquet", Class::Data),
    (0, b"ARROW1", "arrow", Class::Data),
    (0, b"FEA1", "feather", Class::Data),
    (0, b"Obj\x01", "avro", Class::Data),
    (0, b"ORC", "orc", Class::Data),
    (0, b"SQLite format 3\0", "sqlite", Class::Data),
    (8, b"DUCK", "duckdb", Class::Data),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5", Class::Data),
    (0, b"CDF\x01", "netcdf", Class::Data),
    (0, b"CDF\x02", "netcdf", Class::Data),
    (0, b"\x93NUMPY", "npy", Class::Data),
    (0, b"RDX", "rdata", Class::Data),
    (0, b"X\n\0\0", "rds", Class::Data),
    (0, b"$FL2", "spss", Class::Data),
    (0, b"$FL3", "spss", Class::Data),
    (0, b"<stata_dta>", "stata", Class::Data),
    (128, b"DICM", "dicom", Class::Data),
    (0, b"\x80\x02", "pickle", Class::Model),
    (0, b"\x80\x03", "pickle", Class::Model),
    (0, b"\x80\x04", "pickle", Class::Model),
    (0, b"\x80\x05", "pickle", Class::Model),
    (0, b"GGUF", "gguf", Class::Model),
    (0, b"\x7fELF", "elf", Class::Program),
    (0, b"MZ", "exe", Class::Program),
];

/// How much of a file is looked at for what it is.
pub const HEAD: usize = 64 << 10;

/// What begins with `head`.
pub fn sniff(head: &[u8]) -> Sniffed {
    let of = |name, class| Sniffed { name, class };
    let begins =
        |(at, magic, _, _): &&(usize, &[u8], &str, Class)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, magic, name, class)) = MAGIC.iter().find(begins)
        // Two letters are a word as well.
        && (magic.len() > 2 || !is_text(head))
    {
        return of(name, *class);
    }
    if is_safetensors(head) {
        return of("safetensors", Class::Model);
    }
    if !is_text(head) {
        return of("binary", Class::Binary);
    }
    let text = String::from_utf8_lossy(head.get(..head.len().min(4096)).unwrap_or_default()).to_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if text.starts_with("#!") {
        return of("script", Class::Text);
    }
    if text.starts_with("<svg")
        || (text.starts_with("<?xml") || text.starts_with("<!doctype svg")) && text.contains("<svg")
    {
        return of("svg", Class::Page);
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return of("html", Class::Page);
    }
    if text.starts_with('{') || text.starts_with('[') {
        let is_notebook = text.contains("\"cells\"") || text.contains("\"nbformat\"");
        return if is_notebook { of("notebook", Class::Notebook) } else { of("json", Class::Text) };
    }
    of("text", Class::Text)
}

/// A safetensors file begins with the length of a JSON header (eight bytes, little endian).
fn is_safetensors(head: &[u8]) -> bool {
    let length = head.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    (2..1 << 27).contains(&length) && head.get(8) == Some(&b'{')
}

/// UTF-8 without the characters that no text has; the last one may be cut.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(_) => head,
        Err(e) if e.error_len().is_none() => head.get(..e.valid_up_to()).unwrap_or_default(),
        Err(_) => return false,
    };
    valid.iter().all(|byte| !matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127))
}

/// What a name's ending says that the content is; none: it says nothing.
pub fn promised(ending: &str) -> Option<&'static [&'static str]> {
    Some(match ending {
        ".png" => &["png"],
        ".jpg" | ".jpeg" => &["jpeg"],
        ".gif" => &["gif"],
        ".pdf" => &["pdf"],
        ".csv" | ".tsv" | ".txt" | ".md" | ".log" => &["text", "json"],
        ".json" => &["json", "text"],
        ".html" | ".htm" => &["html", "text", "svg"],
        ".svg" => &["svg"],
        ".ipynb" => &["notebook"],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_known_by_its_first_bytes_and_words_are_no_magic() {
        for (head, name, class) in [
            (b"\x89PNG\r\n\x1a\n....".as_slice(), "png", Class::Image),
            (b"PK\x03\x04....", "zip", Class::Archive),
            (b"\x80\x04\x95....", "pickle", Class::Model),
            (b"\x3c\0\0\0\0\0\0\0{\"w\":{}}", "safetensors", Class::Model),
            (b"SQLite format 3\0", "sqlite", Class::Data),
            (b"\x7fELF\x02\x01", "elf", Class::Program),
            (b"MZ\x90\0\x03", "exe", Class::Program),
            (b"a,b\n1,2\n", "text", Class::Text),
            (b"BMI,n\n27,100\n", "text", Class::Text),
            (b"MZ is a code\n", "text", Class::Text),
            (b"", "text", Class::Text),
            ("é".as_bytes().get(..1).unwrap(), "text", Class::Text),
            (b"\xff\xfea\0,\0", "binary", Class::Binary),
            (b"a\0b", "binary", Class::Binary),
            (b" <!DOCTYPE html><p>", "html", Class::Page),
            (b"<?xml version='1.0'?><svg/>", "svg", Class::Page),
            (b"{\"cells\": []}", "notebook", Class::Notebook),
            (b"#!/bin/sh\n", "script", Class::Text),
        ] {
            assert_eq!(sniff(head), Sniffed { name, class }, "{head:?}");
        }
        assert_eq!(sniff(&[[0; 257].as_slice(), b"ustar"].concat()).name, "tar");
    }
}
