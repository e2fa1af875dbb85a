//! What a file's first bytes say of its compression.
//!
//! Takes bytes; gives the compression, also of kinds that `ces` does not read, so that messages can name them.
//! Trusts nothing: whoever decompresses finds out whether it is true.
//! Refuses nothing.

use super::document::Compression;

/// As many bytes tell.
pub const LENGTH: usize = 6;

/// What bytes are packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Nothing that is known, or something that `ces` unpacks.
    Known(Compression),
    /// Something else: what it is called, and the program that unpacks it.
    Other(&'static str, &'static str),
}

impl Packing {
    /// What bytes that begin with `start` are packed with.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Known(Compression::Gzip),
            // A frame, or one to be skipped before it (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Known(Compression::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2", "bunzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz", "unxz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Other("lz4", "unlz4"),
            [b'L', b'Z', b'I', b'P', ..] => Self::Other("lzip", "lzip -d"),
            [0x5d, 0, 0, ..] => Self::Other("lzma", "unlzma"),
            [0x1f, 0x9d, ..] => Self::Other("compress", "uncompress"),
            [b'P', b'K', 3, 4, ..] => Self::Other("zip", "unzip"),
            [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => Self::Other("7-Zip", "7z x"),
            _ => Self::Known(Compression::None),
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Known(Compression::None) => "no known compression",
            Self::Known(Compression::Gzip) => "gzip",
            Self::Known(Compression::Zstd) => "zstd",
            Self::Other(name, _) => name,
        }
    }
}
