//! A layer's bytes become a directory, in a process of its own.
//!
//! ```text
//! ces pull (parent)                               ces __unpack (child; one a layer)
//!   blob → count, hash → pipe ──────────────────▶ decompress → tar (headers → plan → apply) ─▶ fs/
//!                                                     └──────→ hash of the uncompressed bytes
//!   maps, job     ◀───── control socket ─────▶    root only inside its own user namespace; no network; its
//!   report or fault                               root directory is fs/; Landlock: writes below fs/ alone
//! ```
//!
//! The directory can be a layer of an overlay as it is: a whiteout is a character device 0:0, an opaque directory has
//! the attribute `user.overlay.opaque` (overlayfs with `userxattr`).
//!
//! **What differs from the archive**, by rule: block and character devices are skipped and counted; set-user-ID and
//! set-group-ID bits of files are removed; of the extended attributes only `user.*` are kept (less those that overlayfs
//! and container tools give a meaning); what belongs to ids beyond those mapped here belongs to nobody (65534), and is counted;
//! times outside 1970 to 2262 become 1970; access times equal modification times.

/// How much a layer may ask for.
pub mod limits;
/// The tar format, read in bounded memory.
pub mod tarstream;
/// From a header to an action or a refusal; touches nothing.
pub mod plan;
/// Extended attributes that are kept.
pub mod xattrs;
/// Decompression and hashing, on threads of their own.
pub mod stream;
/// Blocks of zeros take no space.
pub mod holes;
/// Directories of the new layer: found, made, remembered.
pub mod tree;
/// Actions on the new layer's directory.
pub mod apply;
/// A tree as text, for those who check it later.
pub mod listing;
/// To disk, while other work goes on.
pub mod flush;
/// Removing trees.
pub mod remove;
/// Layers as one tree, as overlayfs shows them.
pub mod merged;
/// A layer that names things of the layers below it.
pub mod settle;
/// The words that parent and child exchange.
pub mod protocol;
/// The child process.
pub mod child;
/// The parent's side.
pub mod parent;

pub use child::{Readers, child_main};
pub use limits::Limits;
pub use parent::NAME;
