//! `ces rmi`: images out of the store.

use serde_json::json;

use super::{Context, events, print, stack_approved};
use crate::cli::RmiArgs;
use crate::error::{Error, Kind, Result};
use crate::evidence::line::Event;
use crate::image::unpack::parent::Unpacker;

/// Removes images; stops at the first that cannot be removed. A researcher lets go of what they pulled; it is deleted when
/// nobody holds it any more.
///
/// # Errors
/// When an image is not there, in use, or not the researcher's to remove.
pub fn rmi(ctx: &Context, args: &RmiArgs) -> Result<()> {
    let store = if args.dry_run { ctx.store()?.changing_nothing() } else { ctx.store()? };
    let did = |done: &str, would: &str| if args.dry_run { would.to_owned() } else { done.to_owned() };
    let unpacker = Unpacker::new(&ctx.caller, &ctx.limits)?;
    let place = (&ctx.dirs, &ctx.caller, ctx.policy());
    for image in &args.images {
        // What was approved can be judged after it is gone.
        if !args.dry_run
            && let Ok(digest) = store.find(image).map(|image| image.manifest_digest().clone())
        {
            stack_approved::keep(place, &store, |approved| *approved == digest)?;
        }
        let freed = store.remove(image, &unpacker).map_err(|error| not_theirs(ctx, error))?;
        if !args.dry_run {
            let about = json!({"asked": image, "names": freed.names, "images": freed.images});
            events::tell(&ctx.dirs.log, &ctx.caller, Event::Rmi, None, about)?;
        }
        if args.json {
            print::json(&freed)?;
            continue;
        }
        freed.names.iter().try_for_each(|name| print::line(&format!("{} {name}", did("removed", "would remove"))))?;
        match (freed.layers, freed.images.first()) {
            (Some(space), Some(manifest)) => {
                let (did, size) = (did("deleted", "would delete"), print::size(space.bytes));
                print::line(&format!("{did} {manifest}: {} layers, {size}", space.layers))?;
            }
            // By digest, without a name. Whether anything was deleted depends on what others hold.
            (None, Some(manifest)) if freed.names.is_empty() => {
                print::line(&format!("{} {manifest}", did("removed", "would remove")))?;
            }
            _ => {}
        }
    }
    stack_approved::forget(place, &store)
}

/// Whom to ask, where the policy says it.
fn not_theirs(ctx: &Context, error: Error) -> Error {
    match &ctx.registries.contact {
        Some(contact) if error.kind() == Kind::Policy => error.hint(format!("ask {contact} to remove it")),
        _ => error,
    }
}
