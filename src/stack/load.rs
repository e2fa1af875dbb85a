//! An image of the store as a stack.
//!
//! Takes an image that is in use; gives its layers on one another, and what its configuration says. The facts of a layer are read
//! in a process of their own when they are missing (`reading`). Trusts the store's documents by their digests.
//! What the process could not read of a layer is among its facts; a layer of which the process could not tell anything is an error.

use std::io;

use oci_spec::image::ImageConfiguration;

use super::facts::{Facts, path_text};
use super::merge::{About, LeftOut, Merge};
use super::package::{FindingKind, LayerOrigin};
use super::reading;
use crate::error::{Error, Kind, Result, Stage};
use crate::image::store::{LayerDir, Store, StoredImage};
use crate::image::unpack::parent::Unpacker;
use crate::image::unpack::protocol::{Omitted, OmittedSort};

/// What to do where a layer was not read.
const AGAIN: &str = "try again where more memory is free; an image whose layers can never be read is one that the rules cannot let through";

/// The image's layers on one another, and what is said of it beside them.
///
/// # Errors
/// When a layer's listing is missing or damaged, the store cannot be read, or the process that reads a layer does not end as it should.
pub fn image(store: &Store, unpacker: &Unpacker, image: &StoredImage) -> Result<(Merge, About)> {
    let mut merge = Merge::default();
    for layer in image.layers() {
        let facts = facts(store, unpacker, layer)?;
        let (listing, _) = store.listing(layer)?;
        let fail = |e: io::Error| {
            Error::new(Stage::Store, Kind::Failed, format!("cannot read the listing of layer {}", layer.record().key))
                .because(e)
                .hint("ces fsck tells whether the store is damaged")
        };
        let listing = reading::unpacked(listing).map_err(fail)?;
        merge.layer(listing, facts, &left_out(&layer.record().omitted)).map_err(fail)?;
    }
    Ok((merge, about(image)))
}

/// Reads the facts of those of the image's layers that have none yet; how many they were.
///
/// # Errors
/// When the store cannot be written, or a process cannot be started.
pub fn prepare(store: &Store, unpacker: &Unpacker, image: &StoredImage) -> Result<usize> {
    let missing = image.layers().iter().filter(|layer| store.facts(layer).is_none());
    let mut read = 0;
    for layer in missing {
        // What the child could not do is told when somebody asks.
        if let Ok(()) = store.read_facts(unpacker, layer)? {
            read += 1;
        }
    }
    Ok(read)
}

/// The layer's facts: as they were kept, or read anew.
fn facts(store: &Store, unpacker: &Unpacker, layer: &LayerDir) -> Result<Facts> {
    let (_, tree) = store.listing(layer)?;
    let kept = || store.facts(layer).and_then(|file| reading::load(file, tree.as_str()).ok());
    if let Some(facts) = kept() {
        return Ok(facts);
    }
    let fail = || {
        let what = format!("nothing of the layer {} could be read", layer.diff_id());
        Error::new(Stage::Store, Kind::Host, what)
    };
    // Whoever can stop the process could make an image look empty: nothing is said of a layer that was not read.
    match store.read_facts(unpacker, layer) {
        Ok(Ok(())) => kept().ok_or_else(|| {
            fail()
                .because("what was read of it cannot be read back")
                .hint("ces fsck tells whether the store is damaged")
        }),
        Ok(Err(fault)) => Err(fail().because(fault.text).hint(AGAIN)),
        Err(error) if error.stage() == Stage::Unpack => {
            let hint = error.hint_text().map_or_else(|| AGAIN.to_owned(), |hint| format!("{AGAIN} ({hint})"));
            Err(fail().because(error).hint(hint))
        }
        Err(error) => Err(error),
    }
}

/// What unpacking has left out by name; where only a number is known, that.
fn left_out(omitted: &Omitted) -> Vec<LeftOut> {
    let mut all = Vec::new();
    let mut named = (0, 0);
    for name in &omitted.names {
        let (kind, what, counted) = match name.what {
            OmittedSort::SetUserId => (FindingKind::SetId, "set-user-ID", &mut named.0),
            OmittedSort::SetGroupId => (FindingKind::SetId, "set-group-ID", &mut named.0),
            OmittedSort::Capabilities => (FindingKind::Capabilities, "file capabilities", &mut 0),
            OmittedSort::Device => (FindingKind::Device, "device node", &mut named.1),
        };
        *counted += 1;
        all.push(LeftOut { kind, place: path_text(&name.path.0), what: what.to_owned() });
    }
    // A file may have both bits: it is counted once and named twice.
    for (known, of, what) in
        [(named.0, omitted.set_id_bits, "set-user-ID or set-group-ID files"), (named.1, omitted.devices, "devices")]
    {
        if known < of {
            let what = format!("{} more {what}, whose names were not kept when the layer was unpacked", of - known);
            all.push(LeftOut { kind: FindingKind::NotReadable, place: String::new(), what });
        }
    }
    all
}

fn about(image: &StoredImage) -> About {
    let config = image.config();
    let inner = config.config().as_ref();
    let words = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let entry = inner.map(|c| [words(c.entrypoint().as_ref()), words(c.cmd().as_ref())].concat());
    About {
        image: image.manifest_digest().to_string(),
        pulled: image.record().pulled.clone(),
        platform: platform(config),
        layers: origins(image),
        entry: entry.unwrap_or_default(),
        user: inner.and_then(|c| c.user().clone()).unwrap_or_default(),
        env: words(inner.and_then(|c| c.env().as_ref())),
    }
}

fn platform(config: &ImageConfiguration) -> String {
    let variant = config.variant().as_ref().map_or_else(String::new, |variant| format!("/{variant}"));
    format!("{}/{}{variant}", config.os(), config.architecture())
}

/// The layers as they are stacked, each with its line of the history, if there are as many lines as layers.
fn origins(image: &StoredImage) -> Vec<LayerOrigin> {
    let all = &image.record().layers;
    let history = image.config().history().iter().flatten();
    let lines: Vec<_> = history.filter(|line| line.empty_layer() != Some(true)).collect();
    let tells = lines.len() == all.len();
    let mut origins = Vec::new();
    for (position, (diff_id, key)) in all.iter().enumerate() {
        // As `StoredImage::layers` has them: one that is listed twice stands at its upper place.
        if all.iter().skip(position + 1).any(|(_, later)| later == key) {
            continue;
        }
        let line = lines.get(position).filter(|_| tells).and_then(|line| line.created_by().clone());
        origins.push(LayerOrigin { diff_id: diff_id.to_string(), created_by: line.map(|line| plain_line(&line)) });
    }
    origins
}

/// A history line without what builders put around an instruction.
fn plain_line(line: &str) -> String {
    let line = line.trim();
    let line = line.strip_prefix("/bin/sh -c #(nop)").unwrap_or(line).trim();
    let line = line.strip_suffix("# buildkit").unwrap_or(line).trim();
    match line.strip_prefix("/bin/sh -c ") {
        Some(rest) => format!("RUN {}", rest.trim()),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::unpack::protocol::{OmittedName, RawPath};

    #[test]
    fn builders_words_around_an_instruction_are_left_out() {
        assert_eq!(plain_line("/bin/sh -c #(nop) ADD file:x in /"), "ADD file:x in /");
        assert_eq!(plain_line("/bin/sh -c apt-get update"), "RUN apt-get update");
        assert_eq!(plain_line("RUN /bin/sh -c make # buildkit"), "RUN /bin/sh -c make");
    }

    #[test]
    fn what_is_only_counted_is_told_as_a_number() {
        let name = OmittedName { what: OmittedSort::SetUserId, path: RawPath(b"bin/su".to_vec()) };
        let omitted = Omitted { devices: 2, set_id_bits: 1, xattrs: 0, unmapped_ids: 0, names: vec![name] };
        let all = left_out(&omitted);
        assert_eq!((all[0].place.as_str(), all[0].what.as_str()), ("bin/su", "set-user-ID"));
        assert!(all[1].what.starts_with("2 more devices"), "{all:?}");
        assert_eq!(all.len(), 2);
    }
}
