//! What is in an image, who brought it, and what is known against it, told without running it.
//!
//! ```text
//! layers in the store  →  facts  →  stack  →  verdict  →  page, documents
//!  one child a layer      raw       merged    data of      text, HTML,
//!                                             today        CycloneDX, SPDX
//! ```

/// Packages and findings of an image as types: what every later step reads.
pub mod package;
/// What one layer says: a reader a format.
pub mod facts;
/// A layer's listing as entries.
pub mod listing;
/// One layer's facts, read in a process that is shut into it.
pub mod reading;
/// What is visible of several layers.
pub mod tree;
/// Which package owns which file.
pub mod owners;
/// Layers as one stack.
pub mod merge;
/// An image of the store as a stack.
pub mod load;
/// Two stacks compared.
pub mod diff;
/// A stack for people and for programs.
pub mod write;
