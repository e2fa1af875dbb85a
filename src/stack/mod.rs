//! What is in an image, who brought it, and what is known against it, told without running it.
//!
//! ```text
//! layers in the store  →  facts  →  stack  →  verdict  →  page, documents
//!  one child a layer      raw       merged    data of      text, HTML,
//!                                             today        CycloneDX, SPDX
//! ```

/// Packages and findings of an image as types: what every later step reads.
pub mod package;
