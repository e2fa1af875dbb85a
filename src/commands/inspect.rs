//! `ces inspect`: an image's configuration and layers.

use serde::Serialize;

use super::{Context, print};
use crate::error::Result;
use crate::image::reference::Digest;
use crate::image::store::{ImageRecord, LayerRecord};

/// What `ces inspect` is asked.
#[derive(Debug, Clone, Default)]
pub struct InspectArgs {
    /// A name, or a digest or its beginning.
    pub image: String,
}

#[derive(Serialize)]
struct Inspected<'a> {
    reference: &'a str,
    digest: &'a Digest,
    config_digest: &'a Digest,
    record: &'a ImageRecord,
    config: &'a oci_spec::image::ImageConfiguration,
    layers: Vec<&'a LayerRecord>,
}

/// Prints what is known about an image, as JSON.
///
/// # Errors
/// When it is not there, or damaged.
pub fn inspect(ctx: &Context, args: &InspectArgs) -> Result<()> {
    let image = ctx.store()?.find(&args.image)?;
    print::json(&Inspected {
        reference: image.reference(),
        digest: image.manifest_digest(),
        config_digest: image.config_digest(),
        record: image.record(),
        config: image.config(),
        layers: image.layers().iter().map(|layer| layer.record()).collect(),
    })
}
