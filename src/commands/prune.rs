//! `ces prune`: what nothing uses any more.

use super::{Context, print};
use crate::error::Result;
use crate::image::unpack::parent::Unpacker;

/// What `ces prune` is asked.
#[derive(Debug, Clone, Default)]
pub struct PruneArgs {
    /// JSON on standard output.
    pub json: bool,
}

/// Deletes images without a name, layers without an image, and what crashes have left.
///
/// # Errors
/// When something cannot be deleted.
pub fn prune(ctx: &Context, args: &PruneArgs) -> Result<()> {
    let store = ctx.store()?;
    let freed = store.prune(&Unpacker::new(&ctx.caller, &ctx.limits)?)?;
    if args.json {
        return print::json(&freed);
    }
    print::line(&format!(
        "deleted {} images, {} layers, {}",
        freed.images.len(),
        freed.layers,
        print::size(freed.bytes)
    ))
}
