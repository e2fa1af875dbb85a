//! `ces stack`: what is in an image, who brought it, and what changed.
//!
//! In this order: the image is found → its layers are read, if they were not → one stack → what changed → the page.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde::Serialize;

use super::stack_gate::{self, Place};
use super::stack_verdict::{Judge, Judged};
use super::{Context, print, stack_approved};
use crate::cli::Global;
use crate::cli::stack::{Format, StackArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::named_file;
use crate::host::privilege::as_root;
use crate::image::reference::{Digest, Reference};
use crate::image::store::{Store, StoredImage};
use crate::image::unpack::parent::Unpacker;
use crate::stack::diff::{self, Diff};
use crate::stack::kept::Kept;
use crate::stack::load;
use crate::stack::merge::Owned;
use crate::stack::package::{PackageType, Stack};
use crate::stack::rules::Breach;
use crate::stack::verdict::Verdict;
use crate::stack::write::{cyclonedx, html, known, page, spdx, text};

/// Exit status where the policy refuses.
const REFUSED: u8 = 3;

/// The document of `--format json`.
#[derive(Serialize)]
struct Document<'a> {
    /// What names all of the stack, whatever is shown of it.
    digest: Option<Digest>,
    stack: &'a Stack,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a Diff>,
    verdict: &'a Verdict,
    breaches: &'a [Breach],
}

/// The answer of `--owner`, as JSON.
#[derive(Serialize)]
struct Owner {
    path: String,
    layer: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<PackageType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<String>,
}

/// Prints the stack of an image.
///
/// # Errors
/// When the image is not there or damaged, and when the file cannot be written.
pub fn stack(global: &Global, args: &StackArgs) -> Result<u8> {
    let ctx = Context::new(global)?;
    let store = ctx.store()?;
    let unpacker = Unpacker::new(&ctx.caller, &ctx.limits)?;
    let place = (&ctx.dirs, &ctx.caller, ctx.policy());
    let Some(image) = &args.image else { return approved_images(place, &store, args) };
    let image = store.find(image)?;
    if let Some(path) = &args.owner {
        return owner(&store, &unpacker, &image, path, args);
    }
    let now = stack_gate::read(place, &store, &image)?;
    let of =
        |image: &StoredImage| Ok::<_, Error>((image.reference().to_owned(), stack_gate::read(place, &store, image)?));
    let before = match args.diff.as_deref() {
        None => None,
        Some("approved") => Some(approved(&ctx, &store, &image, of)?),
        Some(other) => Some(of(&store.find(other)?)?),
    };
    let since = before.map(|(name, stack)| (name, diff::diff(&stack, &now, diff::order)));
    let since = since.as_ref().map(|(name, diff)| (name.as_str(), diff));
    let judged = Judge::new(&ctx.dirs, ctx.policy())?.judge(&now, args.vex.as_deref())?;
    let Judged { verdict, breaches } = &judged;
    let refused = judged.is_refused();
    let known = || Some(known::section(&now, verdict, breaches, args.all));
    let show = page::Show { only: args.only, all: args.all };
    let written = match args.format {
        Format::Json => {
            // What is known names packages by their places in the list: it is of all of them, whatever is shown.
            let mut shown = now.clone();
            shown.packages.retain(|package| args.only.is_none_or(|only| only == package.kind));
            json(&Document {
                digest: now.digest().ok(),
                stack: &shown,
                since: since.map(|(_, diff)| diff),
                verdict,
                breaches,
            })?
        }
        Format::Cyclonedx => json(&cyclonedx::document(&now, Some(verdict)))?,
        Format::Spdx => json(&spdx::document(&now))?,
        Format::Text => {
            text::text(&page::page(image.reference(), &now, (since, known()), show), args.all || args.only.is_some())
        }
        Format::Html => {
            html::html(&page::page(image.reference(), &now, (since, known()), page::Show { all: args.all, ..show }))
        }
    };
    write(args, &written)?;
    Ok(if refused { REFUSED } else { 0 })
}

fn json(document: &impl Serialize) -> Result<String> {
    Ok(crate::text::json(&serde_json::to_string_pretty(document).map_err(|e| failed(&e))?) + "\n")
}

/// Every approved image, judged.
fn approved_images(place: Place<'_>, store: &Store, args: &StackArgs) -> Result<u8> {
    let all = stack_approved::judge(place, store)?;
    match args.format {
        Format::Text => write(args, &stack_approved::text(&all))?,
        Format::Json => write(args, &json(&all)?)?,
        Format::Html | Format::Cyclonedx | Format::Spdx => {
            return Err(Error::new(Stage::Cli, Kind::Usage, "--approved is written as text or JSON")
                .hint("name an image for a page or a document of its stack"));
        }
    }
    Ok(if all.iter().any(stack_approved::Judged::is_refused) { REFUSED } else { 0 })
}

fn owner(store: &Store, unpacker: &Unpacker, image: &StoredImage, path: &str, args: &StackArgs) -> Result<u8> {
    let (merge, _) = load::image(store, unpacker, image)?;
    let Some(Owned { path: real, layer, package: owner }) = merge.owner(path) else {
        return Err(Error::new(Stage::Store, Kind::Missing, format!("{} has no file {path}", image.reference()))
            .hint("write the path as it is in the container, such as /usr/bin/python3"));
    };
    let (kind, package) = owner.unzip();
    let said = match (&kind, &package) {
        (Some(kind), Some(package)) => format!("package {package} ({})", page::type_name(*kind)),
        _ => "no package".to_owned(),
    };
    let text = if args.format == Format::Json {
        let owner = Owner { path: format!("/{real}"), layer: layer + 1, kind, package };
        crate::text::json(&serde_json::to_string_pretty(&owner).map_err(|e| failed(&e))?)
    } else {
        crate::text::neutral_line(&format!("/{real}: {said}, layer {}", layer + 1))
    };
    write(args, &(text + "\n"))?;
    Ok(0)
}

/// The image of the same name that is approved: the one pulled last, of those that are not the image itself. Of those that are in the
/// store no more, the one approved last, for who may see all of them.
fn approved(
    ctx: &Context,
    store: &Store,
    image: &StoredImage,
    read: impl Fn(&StoredImage) -> Result<(String, Stack)>,
) -> Result<(String, Stack)> {
    let fail = |why: String, hint: &str| {
        Error::new(Stage::Store, Kind::Missing, format!("no approved image to compare {} with", image.reference()))
            .because(why)
            .hint(hint.to_owned())
    };
    let Some(list) = as_root(|root| ctx.policy().approved(root))? else {
        let hint = "name an image: --diff IMAGE2";
        return Err(fail("the policy names no list of approved images (images.approved)".to_owned(), hint));
    };
    let repository = |name: &str| name.parse::<Reference>().ok().map(|reference| reference.name().to_owned());
    let own = repository(image.reference());
    // Newest first.
    let mut known: BTreeMap<usize, String> = BTreeMap::new();
    for (at, listed) in store.images()?.into_iter().enumerate() {
        let digest = listed.record.manifest.to_string();
        let same = listed.reference.as_deref().and_then(repository).is_some_and(|name| Some(name) == own);
        if same && digest != image.manifest_digest().as_str() && list.projects_of(&digest).next().is_some() {
            known.insert(at, digest);
        }
    }
    if let Some(digest) = known.into_values().next() {
        return read(&store.find(&digest)?);
    }
    if ctx.policy().may_approve(&ctx.caller).is_ok() {
        let kept = Kept::open(&ctx.dirs.store)?;
        for approval in list.all().iter().rev().filter(|approval| approval.digest != image.manifest_digest().as_str()) {
            let Some(name) = approval.name.as_ref().filter(|name| repository(name) == own && own.is_some()) else {
                continue;
            };
            if let Some(stack) = kept.stack(&approval.digest.parse()?)? {
                return Ok((name.clone(), stack));
            }
        }
    }
    Err(fail(
        "the list of approved images has no other image of that name that is in the store, or whose stack was kept"
            .to_owned(),
        "pull the approved version, or name an image: --diff IMAGE2",
    ))
}

/// To the file that was named, as the caller; else to standard output.
fn write(args: &StackArgs, text: &str) -> Result<()> {
    let Some(path) = &args.output else { return print::bytes(text.as_bytes()) };
    named_file::to_write(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display()))
            .because(e)
            .hint("name a file in a directory that you can write to")
    })
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Cli, Kind::Failed, "cannot write the stack").because(e)
}
