//! `ces fsck`: is the store what it was when it was written?

use super::{Context, print};
use crate::error::Result;
use crate::image::store::check::{Damage, Findings, What};
use crate::image::unpack::parent::Unpacker;
use crate::stack::kept::Kept;

/// What `ces fsck` is asked.
#[derive(Debug, Clone, Default)]
pub struct FsckArgs {
    /// Remove what is damaged and not in use.
    pub repair: bool,
    /// JSON on standard output.
    pub json: bool,
}

/// Checks names, images and layers; exit status 1 if something is damaged, and still there.
///
/// # Errors
/// When the store cannot be read.
pub fn fsck(ctx: &Context, args: &FsckArgs) -> Result<u8> {
    let store = ctx.store()?;
    let mut findings = store.check(&Unpacker::new(&ctx.caller, &ctx.limits)?, args.repair)?;
    if findings.everything {
        findings.damaged.extend(stacks(ctx, args.repair)?);
    }
    if args.json {
        print::json(&findings)?;
    } else {
        findings.damaged.iter().try_for_each(|damage| show(damage, args.repair))?;
        summary(&findings, args.repair)?;
    }
    Ok(u8::from(!findings.is_clean()))
}

/// Stacks of approved images that were kept, and cannot be read back.
fn stacks(ctx: &Context, repair: bool) -> Result<Vec<Damage>> {
    let Some(kept) = Kept::existing(&ctx.dirs.store)? else { return Ok(Vec::new()) };
    let mut damaged = Vec::new();
    for image in kept.stacks()? {
        let Err(error) = kept.stack(&image) else { continue };
        if repair {
            kept.remove_stack(&image)?;
        }
        damaged.push(Damage {
            what: What::Stack,
            name: image.to_string(),
            because: error.causes().first().cloned().unwrap_or_else(|| error.to_string()),
            differences: Vec::new(),
            images: Vec::new(),
            removed: repair,
        });
    }
    Ok(damaged)
}

fn show(damage: &Damage, repair: bool) -> Result<()> {
    let what = match damage.what {
        What::Name => "name",
        What::Image => "image",
        What::Layer => "layer",
        What::Facts => "what is known of the packages of layer",
        What::Stack => "the stack that was kept of image",
    };
    let of = if damage.images.is_empty() { String::new() } else { format!(" of {}", damage.images.join(", ")) };
    print::line(&format!("damaged: {what} {}{of}: {}", damage.name, damage.because))?;
    for difference in &damage.differences {
        print::line(&format!("  {}: {}", difference.path, difference.what))?;
    }
    match (damage.removed, repair) {
        (true, _) if damage.what == What::Stack => print::line("  removed; it is kept anew when the image is read"),
        (true, _) if damage.what == What::Facts => print::line("  removed; it is read anew when somebody asks"),
        (true, _) if damage.images.is_empty() => print::line("  removed"),
        (true, _) => print::line(&format!("  removed; pull again: {}", damage.images.join(", "))),
        // The same words whatever the reason: whether others have or use it is not for everybody to know.
        (false, true) => print::line("  not removed: it is in use, or not yours alone; an administrator can remove it"),
        (false, false) => Ok(()),
    }
}

fn summary(findings: &Findings, repair: bool) -> Result<()> {
    let Findings { everything, images, layers, entries, unrecorded, damaged } = findings;
    if !unrecorded.is_empty() {
        let count = unrecorded.len();
        print::note(&format!(
            "{count} layers were unpacked before trees were recorded; to have them checked, remove and pull their images again"
        ))?;
    }
    let verdict = match damaged.len() {
        0 => "nothing is damaged".to_owned(),
        n => format!("{n} damaged"),
    };
    print::line(&format!("checked {images} images, {layers} layers, {entries} entries: {verdict}"))?;
    if !everything {
        print::note("checked is what you may see; an administrator checks everything")?;
    }
    if !repair && !damaged.is_empty() {
        print::note("`ces fsck --repair` removes what is damaged and not in use; then pull it again")?;
    }
    Ok(())
}
