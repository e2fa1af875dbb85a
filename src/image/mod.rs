//! From a reference to layers on disk.
//!
//! ```text
//! "ghcr.io/lab/tool:1"  →  reference  →  source  →  document  →  store  ←  unpack
//!  what the user typed     what it is    bytes      checked      layers    one child process a layer
//! ```

/// The name of a registry's host, in the one form that is compared.
pub mod registry_host;
/// What an image is called: references, digests, sources.
pub mod reference;
/// Which of several images is meant.
pub mod selection;
/// Manifests, indexes and configurations: parsed strictly, matched to a platform.
pub mod document;
/// What a file's first bytes say of its compression.
pub mod magic;
/// Where the bytes come from: registries, OCI layouts, archives.
pub mod source;
/// What is shown while it lasts.
pub mod progress;
/// Images and layers on disk.
pub mod store;
/// A layer's bytes become a directory, in a process of its own.
pub mod unpack;
/// A layer's blob on its way, and what is kept of it for the next try.
mod download;
/// A compressed archive becomes a plain one.
pub mod expand;
/// A whole image from a source into the store.
pub mod pull;
