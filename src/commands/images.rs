//! `ces images`: what the store holds.

use super::{Context, print};
use crate::error::Result;

/// What `ces images` is asked.
#[derive(Debug, Clone, Default)]
pub struct ImagesArgs {
    /// JSON on standard output.
    pub json: bool,
    /// Names alone.
    pub quiet: bool,
}

/// Lists the images, newest first.
///
/// # Errors
/// When the store cannot be read.
pub fn images(ctx: &Context, args: &ImagesArgs) -> Result<()> {
    let images = ctx.store()?.images()?;
    if args.json {
        return print::json(&images);
    }
    let name = |reference: &Option<String>| reference.clone().unwrap_or_else(|| "<none>".to_owned());
    if args.quiet {
        return images.iter().try_for_each(|image| match &image.reference {
            Some(reference) => print::line(reference),
            None => print::line(image.record.manifest.as_str()),
        });
    }
    let mut rows = vec![["REFERENCE", "DIGEST", "SIZE", "PULLED", "BY"].map(str::to_owned)];
    rows.extend(images.iter().map(|image| {
        [
            name(&image.reference),
            image.record.manifest.short().to_owned(),
            print::size(image.record.bytes),
            image.record.pulled.clone(),
            image.record.by.clone(),
        ]
    }));
    print::table(&rows)
}
