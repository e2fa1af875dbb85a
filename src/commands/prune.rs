//! `ces prune`: what nothing uses any more.

use serde_json::json;

use super::{Context, events, print, records_prune, stack_approved};
use crate::cli::PruneArgs;
use crate::error::Result;
use crate::evidence::line::Event;
use crate::image::unpack::parent::Unpacker;

/// Deletes images without a name, layers without an image, and what crashes have left; of a researcher's images, those that have
/// no name of theirs any more. With `--records`, old records instead. 1 where something could not be removed.
///
/// # Errors
/// When something cannot be deleted.
pub fn prune(ctx: &Context, args: &PruneArgs) -> Result<u8> {
    if args.records {
        return records_prune::prune(ctx, args);
    }
    let store = if args.dry_run { ctx.store()?.changing_nothing() } else { ctx.store()? };
    let place = (&ctx.dirs, &ctx.caller, ctx.policy());
    if !args.dry_run {
        // What was approved can be judged after it is gone.
        stack_approved::keep(place, &store, |_| true)?;
    }
    let freed = store.prune(&Unpacker::new(&ctx.caller, &ctx.limits)?)?;
    if !args.dry_run {
        stack_approved::forget(place, &store)?;
        events::tell(&ctx.dirs.log, &ctx.caller, Event::Prune, None, json!({"images": freed.images}))?;
    }
    if args.json {
        return print::json(&freed).map(|()| 0);
    }
    if args.dry_run {
        freed.images.iter().try_for_each(|image| print::line(&format!("would delete {image}")))?;
    }
    let images = freed.images.len();
    let partial = match freed.partial_bytes {
        0 => String::new(),
        bytes => format!(", and {} of layers that came in part", print::size(bytes)),
    };
    let did = |done: &str, would: &str| if args.dry_run { would.to_owned() } else { done.to_owned() };
    let line = match freed.layers {
        Some(space) => format!(
            "{} {images} images, {} layers, {}{partial}",
            did("deleted", "would delete"),
            space.layers,
            print::size(space.bytes)
        ),
        None => format!("{} {images} images{partial}", did("removed", "would remove")),
    };
    print::line(&line).map(|()| 0)
}
