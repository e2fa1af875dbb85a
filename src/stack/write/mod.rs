//! A stack for people, and as documents that other programs read.
//!
//! The same stack gives the same bytes: the serial number is made from the image's digest, the time is that of its pull.

/// What a page says, whatever it is written in.
pub mod page;
/// What is known against it.
pub mod known;
/// As text.
pub mod text;
/// As one HTML file.
pub mod html;
/// Package URLs.
pub mod purl;
/// CycloneDX 1.6.
pub mod cyclonedx;
/// SPDX 2.3.
pub mod spdx;

#[cfg(test)]
mod tests;
