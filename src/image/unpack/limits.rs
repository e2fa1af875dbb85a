//! How much a layer may ask for.
//!
//! Takes nothing; gives the limits with their reasons.
//! Trusts nothing: an image of a few kilobytes can describe terabytes, or millions of files.
//! Refuses, where a limit is met, with the figure in the message.

use serde::{Deserialize, Serialize};

/// Limits of unpacking; the defaults are far above what real images need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes a layer may expand to, trailing bytes included.
    pub layer_bytes: u64,
    /// Bytes all layers of an image may expand to.
    pub image_bytes: u64,
    /// Entries a layer may have; each is an inode or a name in the store's file system.
    pub entries: u64,
    /// Layers an image may have; as many as overlayfs can stack are possible (`OVL_MAX_STACK`).
    pub layers: u64,
    /// Bytes of an entry's path, as the kernel allows in one call (`PATH_MAX` less the final NUL).
    pub path_bytes: usize,
    /// How deep directories may nest, measured in the tree as it is, not in the name.
    pub depth: usize,
    /// Bytes of one PAX or long-name header.
    pub header_bytes: u64,
    /// Bytes of all extended attributes of one entry (Linux allows 64 KiB for one value).
    pub xattr_bytes: usize,
    /// How many times larger than its blob a layer may be, once it is larger than `ratio_from`.
    pub ratio: u64,
    /// Size from which `ratio` counts: small layers of zeros are harmless.
    pub ratio_from: u64,
    /// The window of a Zstandard frame, as a power of two: bytes that decompression holds in memory, for each layer that is
    /// unpacked at the time. Decoders should support 23 (RFC 8878, 3.1.1.1.2), `zstd` reads 27 and writes it with `--long`.
    /// Where `memory` leaves less room, that counts.
    pub zstd_window_log: u32,
    /// Bytes of data the unpacking process may hold (`RLIMIT_DATA`, setrlimit(2)). It takes some 16 MiB, and what it has
    /// to remember of a layer comes on top: about 100 bytes a file, and each name of a file with several.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            layer_bytes: 64 * GIB,
            image_bytes: 128 * GIB,
            entries: 4_000_000,
            layers: 500,
            path_bytes: 4095,
            depth: 256,
            header_bytes: 1 << 20,
            xattr_bytes: 64 << 10,
            ratio: 200,
            ratio_from: GIB / 4,
            zstd_window_log: 27,
            memory: GIB,
        }
    }
}
