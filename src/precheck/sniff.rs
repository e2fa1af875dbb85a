//! What can be done with a file, by what it is (`evidence::sniff`), and what its name promises.
//!
//! Takes what the first kilobytes of a file seem to be; gives one of a few classes; trusts nothing else; refuses nothing: what is not
//! known is binary or text.

use crate::evidence::sniff::{Content, Sniffed};

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

/// How much of a file is looked at for what it is.
pub const HEAD: usize = 64 << 10;

/// What can be done with it.
pub fn class_of(sniffed: Sniffed) -> Class {
    match (sniffed.content, sniffed.name) {
        (_, "png" | "jpeg" | "gif") => Class::Image,
        (_, "svg" | "html") => Class::Page,
        (_, "pdf") => Class::Pdf,
        // Read as what it is: text. That it is a script is told by its name.
        (_, "script" | "postscript") => Class::Text,
        (_, "ole" | "dicom" | "rdata" | "rds") => Class::Data,
        (Content::Image, _) | (_, "mp4") => Class::OtherMedia,
        (Content::Empty | Content::Text | Content::Table | Content::Structured | Content::Document, _) => Class::Text,
        (Content::Notebook, _) => Class::Notebook,
        (Content::Archive | Content::Compressed, _) => Class::Archive,
        (Content::Array | Content::Database, _) => Class::Data,
        (Content::Objects | Content::Model, _) => Class::Model,
        (Content::Program, _) => Class::Program,
        (Content::Data, _) => Class::Binary,
    }
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
    use crate::evidence::sniff::sniff;

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
            ("é".as_bytes().get(..1).unwrap(), "binary", Class::Binary),
            (b"\0\x01......DUCK\x40", "duckdb", Class::Data),
            (b"\0\0\0\x18ftypmp42", "mp4", Class::OtherMedia),
            (b"\xff\xfea\0,\0", "binary", Class::Binary),
            (b"a\0b", "binary", Class::Binary),
            (b" <!DOCTYPE html><p>", "html", Class::Page),
            (b"<?xml version='1.0'?><svg/>", "svg", Class::Page),
            (b"{\"cells\": []}", "notebook", Class::Notebook),
            (b"#!/bin/sh\n", "script", Class::Text),
        ] {
            let sniffed = sniff(head);
            assert_eq!((sniffed.name, class_of(sniffed)), (name, class), "{head:?}");
        }
        assert_eq!(sniff(&[[0; 257].as_slice(), b"ustar"].concat()).name, "tar");
    }
}
