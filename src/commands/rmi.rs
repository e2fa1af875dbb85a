//! `ces rmi`: images out of the store.

use super::{Context, print};
use crate::error::Result;
use crate::image::unpack::parent::Unpacker;

/// What `ces rmi` is asked.
#[derive(Debug, Clone, Default)]
pub struct RmiArgs {
    /// Names, or digests or their beginnings.
    pub images: Vec<String>,
    /// JSON on standard output.
    pub json: bool,
}

/// Removes images; stops at the first that cannot be removed.
///
/// # Errors
/// When an image is not there, or in use.
pub fn rmi(ctx: &Context, args: &RmiArgs) -> Result<()> {
    let store = ctx.store()?;
    let unpacker = Unpacker::new(&ctx.caller, &ctx.limits)?;
    for image in &args.images {
        let freed = store.remove(image, &unpacker)?;
        if args.json {
            print::json(&freed)?;
            continue;
        }
        freed.names.iter().try_for_each(|name| print::line(&format!("removed {name}")))?;
        for manifest in &freed.images {
            print::line(&format!("deleted {manifest}: {} layers, {}", freed.layers, print::size(freed.bytes)))?;
        }
    }
    Ok(())
}
