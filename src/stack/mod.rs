//! What is in an image, who brought it, and what is known against it, told without running it.
//!
//! ```text
//! layers in the store  →  facts  →  stack  →  verdict  →  page, documents
//!  one child a layer      raw       merged    data of      text, HTML,
//!                                             today        CycloneDX, SPDX
//! ```

use crate::image::unpack::Readers;

/// Packages and findings of an image as types: what every later step reads.
pub mod package;
/// What one layer says: a reader a format.
pub mod facts;
/// ZIP archives: Java's, models', and vulnerability data.
pub mod zip;
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
/// The orders of versions, one for each package manager.
pub mod version;
/// CSAF documents: waivers, and what vendors say of their packages.
pub mod csaf;
/// What is known to be vulnerable, kept on this host.
pub mod vulndb;
/// Who said that a vulnerability does not matter here, why, and until when.
pub mod vex;
/// What is known against a stack, today.
pub mod verdict;
/// What the site allows of a stack.
pub mod rules;
/// What was judged and read of images before, kept on this host.
pub mod kept;
/// Licences as declared, and as SPDX expressions where that can be proved.
pub mod licence;
/// A stack for people, and as documents that other programs read.
pub mod write;

/// What the process reads that unpacks.
pub const READERS: Readers = Readers { facts: reading::read_layer, import: vulndb::import::in_child };

#[cfg(test)]
mod tests;
