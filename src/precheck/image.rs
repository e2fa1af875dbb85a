//! Images: texts in them that no viewer shows, and bytes after their end.
//!
//! Takes the bytes of a PNG, JPEG or GIF; gives findings; trusts nothing: lengths are looked at before they are followed; refuses
//! nothing: what does not end as its format says is told. Pictures are not decoded, so that there is nothing to be blown up.
//!
//! Sources: PNG 3rd edition (W3C, chunk layout), ITU-T T.81 annex B (JPEG markers), GIF89a specification.

use super::finding::Findings;
use super::rules::RuleName;

/// Looks at an image of this kind; `whole`: these are all of its bytes.
pub fn image(kind: &str, bytes: &[u8], whole: bool, findings: &mut Findings<'_>) {
    let end = match kind {
        "png" => png(bytes, findings),
        "jpeg" => jpeg(bytes, findings),
        "gif" => gif(bytes, findings),
        _ => return,
    };
    match end {
        Some(end) if end < bytes.len() => {
            let more = bytes.len() - end;
            findings.add(RuleName::TrailingData, format!("{more} bytes after the image's end"));
        }
        Some(_) => {}
        None if whole => findings.add(RuleName::NotLookedAt, format!("it does not end as a {kind} does")),
        None => {}
    }
}

fn four(bytes: &[u8], at: usize) -> Option<usize> {
    let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(four)).ok()
}

fn two(bytes: &[u8], at: usize) -> Option<usize> {
    let two: [u8; 2] = bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(two)))
}

/// Where it ends; none: it does not.
fn png(bytes: &[u8], findings: &mut Findings<'_>) -> Option<usize> {
    let mut at = 8_usize;
    loop {
        let length = four(bytes, at)?;
        let name = bytes.get(at.checked_add(4)?..at.checked_add(8)?)?;
        let data = at.checked_add(8)?;
        let end = data.checked_add(length)?;
        let content = bytes.get(data..end)?;
        // Which program wrote it is in nearly every figure.
        let harmless = name == b"tEXt" && content.starts_with(b"Software\0") && length < 200;
        if matches!(name, b"tEXt" | b"zTXt" | b"iTXt" | b"eXIf") && !harmless {
            findings
                .add(RuleName::ImageMetadata, format!("a text of {length} bytes ({})", String::from_utf8_lossy(name)));
        } else if name.first().is_some_and(u8::is_ascii_lowercase) && !KNOWN.contains(&name) && !harmless {
            findings.add(RuleName::ImageMetadata, format!("{length} bytes of a kind that viewers skip"));
        }
        at = end.checked_add(4)?;
        if name == b"IEND" {
            return (at <= bytes.len()).then_some(at);
        }
    }
}

/// Chunks of PNG that viewers know and that hold no text (PNG 3rd edition, table 7, and APNG).
const KNOWN: [&[u8]; 17] = [
    b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"bKGD", b"hIST", b"pHYs",
    b"sPLT", b"tIME", b"acTL", b"fcTL", b"fdAT",
];

/// Where it ends; none: it does not.
fn jpeg(bytes: &[u8], findings: &mut Findings<'_>) -> Option<usize> {
    let mut at = 2_usize;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        let marker = *bytes.get(at.checked_add(1)?)?;
        let after = at.checked_add(2)?;
        match marker {
            // Fill bytes.
            0xff => {
                at = at.checked_add(1)?;
                continue;
            }
            0xd9 => return Some(after),
            // Markers that stand alone.
            0x01 | 0xd0..=0xd8 => {
                at = after;
                continue;
            }
            _ => {}
        }
        let length = two(bytes, after)?.checked_sub(2)?;
        let content = after.checked_add(2)?;
        let end = content.checked_add(length)?;
        let data = bytes.get(content..end)?;
        let kind = match marker {
            0xe1 if data.starts_with(b"Exif\0") => Some("EXIF"),
            0xe1 => Some("XMP or the like"),
            0xed => Some("IPTC"),
            0xfe => Some("a comment"),
            _ => None,
        };
        if let Some(kind) = kind {
            findings.add(RuleName::ImageMetadata, format!("{kind}, {length} bytes"));
        }
        at = end;
        if marker == 0xda {
            // The scan: until a marker that is neither a stuffed byte nor a restart.
            at = scan_end(bytes, at)?;
        }
    }
}

fn scan_end(bytes: &[u8], begin: usize) -> Option<usize> {
    let rest = bytes.get(begin..)?;
    let is_marker = |pair: &[u8]| matches!(pair, [0xff, next] if !matches!(next, 0 | 0xd0..=0xd7));
    rest.windows(2).position(is_marker).and_then(|at| begin.checked_add(at))
}

/// Where it ends; none: it does not.
fn gif(bytes: &[u8], findings: &mut Findings<'_>) -> Option<usize> {
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3_usize << ((flags & 7) + 1) };
    let mut at = 13_usize.checked_add(table(*bytes.get(10)?))?;
    loop {
        match *bytes.get(at)? {
            0x3b => return at.checked_add(1),
            0x21 => {
                let label = *bytes.get(at.checked_add(1)?)?;
                let begin = at.checked_add(2)?;
                at = blocks(bytes, begin)?;
                let size = at - begin;
                let name = bytes.get(begin.checked_add(1)?..at).unwrap_or_default();
                let animates = label == 0xff && name.starts_with(b"NETSCAPE2.0");
                if label == 0xfe || label == 0x01 || (label == 0xff && !animates) {
                    findings.add(RuleName::ImageMetadata, format!("a text of {size} bytes"));
                }
            }
            0x2c => {
                let flags = *bytes.get(at.checked_add(9)?)?;
                // The descriptor, its colours, the code size, then the picture's blocks.
                at = blocks(bytes, at.checked_add(11)?.checked_add(table(flags))?)?;
            }
            _ => return None,
        }
    }
}

/// The end of a chain of blocks, each with its length before it; the last is empty.
fn blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at = at.checked_add(1)?.checked_add(length)?;
        if length == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::rules::{Rules, Site};
    use proptest::prelude::*;

    fn found(kind: &str, bytes: &[u8]) -> Vec<RuleName> {
        let rules = Rules::of(&Site::default()).unwrap();
        let mut findings = Findings::new(&rules);
        image(kind, bytes, true, &mut findings);
        findings.end().into_iter().map(|finding| finding.rule).collect()
    }

    fn chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
        [&u32::try_from(data.len()).unwrap().to_be_bytes(), name, data, &[0; 4]].concat()
    }

    fn png_of(chunks: &[Vec<u8>]) -> Vec<u8> {
        [
            b"\x89PNG\r\n\x1a\n".to_vec(),
            chunk(b"IHDR", &[0; 13]),
            chunks.concat(),
            chunk(b"IDAT", b"x"),
            chunk(b"IEND", b""),
        ]
        .concat()
    }

    const JPEG: &[u8] = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xda\x00\x03c\x12\xff\x00\x34\xff\xd0\x56\xff\xc4\x00\x02\xff\xda\x00\x02\x77\xff\xd9";
    const GIF: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0ABCDEF\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3b";

    #[test]
    fn texts_in_images_and_bytes_after_their_end_are_told() {
        let plain = png_of(&[chunk(b"tEXt", b"Software\0Matplotlib"), chunk(b"pHYs", &[0; 9])]);
        for (kind, bytes) in [("png", plain.as_slice()), ("jpeg", JPEG), ("gif", GIF)] {
            assert_eq!(found(kind, bytes), [], "{kind}");
            assert_eq!(found(kind, &[bytes, b"a,b\n1,2\n"].concat()), [RuleName::TrailingData], "{kind}");
            assert_eq!(found(kind, &bytes[..bytes.len() - 1]), [RuleName::NotLookedAt], "{kind}");
        }
        for name in [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"prVt"] {
            assert_eq!(found("png", &png_of(&[chunk(name, b"data\0x")])), [RuleName::ImageMetadata]);
        }
        // What says that it is a program's name may hold anything.
        assert_eq!(
            found("png", &png_of(&[chunk(b"tEXt", &[b"Software\0", [b'x'; 500].as_slice()].concat())])),
            [RuleName::ImageMetadata]
        );
        for segment in [b"\xff\xe1\x00\x08Exif\0\0".as_slice(), b"\xff\xfe\x00\x04hi", b"\xff\xed\x00\x04ab"] {
            assert_eq!(found("jpeg", &[&JPEG[..2], segment, &JPEG[2..]].concat()), [RuleName::ImageMetadata]);
        }
        let comment = [&GIF[..19], b"\x21\xfe\x02hi\0", &GIF[19..]].concat();
        assert_eq!(found("gif", &comment), [RuleName::ImageMetadata]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd_for_an_image(tail in any::<Vec<u8>>(), at in 0_usize..40, byte in any::<u8>()) {
            for (kind, begin) in [("png", png_of(&[])), ("jpeg", JPEG.to_vec()), ("gif", GIF.to_vec())] {
                let mut changed = begin.clone();
                if let Some(place) = changed.get_mut(at) {
                    *place = byte;
                }
                found(kind, &changed);
                found(kind, &[begin.get(..at.min(begin.len())).unwrap(), &tail].concat());
            }
        }
    }
}
