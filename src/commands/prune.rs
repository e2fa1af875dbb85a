//! `ces prune`: what nothing uses any more.

use serde_json::json;

use super::{Context, events, print, stack_approved};
use crate::error::Result;
use crate::evidence::line::Event;
use crate::image::unpack::parent::Unpacker;

/// What `ces prune` is asked.
#[derive(Debug, Clone, Default)]
pub struct PruneArgs {
    /// JSON on standard output.
    pub json: bool,
}

/// Deletes images without a name, layers without an image, and what crashes have left; of a researcher's images, those that have
/// no name of theirs any more.
///
/// # Errors
/// When something cannot be deleted.
pub fn prune(ctx: &Context, args: &PruneArgs) -> Result<()> {
    let store = ctx.store()?;
    let place = (&ctx.dirs, &ctx.caller, ctx.policy());
    // What was approved can be judged after it is gone.
    stack_approved::keep(place, &store, |_| true)?;
    let freed = store.prune(&Unpacker::new(&ctx.caller, &ctx.limits)?)?;
    stack_approved::forget(place, &store)?;
    events::tell(&ctx.dirs.log, &ctx.caller, Event::Prune, None, json!({"images": freed.images}))?;
    if args.json {
        return print::json(&freed);
    }
    let images = freed.images.len();
    let partial = match freed.partial_bytes {
        0 => String::new(),
        bytes => format!(", and {} of layers that came in part", print::size(bytes)),
    };
    match freed.layers {
        Some(space) => print::line(&format!(
            "deleted {images} images, {} layers, {}{partial}",
            space.layers,
            print::size(space.bytes)
        )),
        None => print::line(&format!("removed {images} images{partial}")),
    }
}
