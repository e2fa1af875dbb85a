//! Whether what is pulled may run here: said before its layers come, not when somebody wants to run it.
//!
//! Takes the name that the image gets, its digest and its platform, in the end what came of it; gives sentences, none where
//! nothing is in the way.
//! Trusts the policy and its list of approvals.
//! Refuses nothing: who approves an image has to have it first, and asks for approval by the digest that a pull prints.
//!
//! What no pull may fetch (`registries.allow`) is refused by the source itself, before it is asked for anything.

use super::{Context, stack_gate};
use crate::bundle::safe_data;
use crate::error::{Error, Result};
use crate::host::privilege::as_root;
use crate::image::document::Platform;
use crate::image::pull::Pulled;
use crate::image::reference::{Digest, Reference};
use crate::image::store::{Store, StoredImage};
use crate::image::unpack::protocol::RawPath;
use crate::policy::grant::GrantFacts;
use crate::text;

/// Why an image for `platform` will not run on this machine, if it will not.
pub(super) fn of_platform(platform: &Platform) -> Option<String> {
    let host = Platform::host();
    let same = (&platform.os, &platform.architecture) == (&host.os, &host.architecture);
    (!same).then(|| format!("the image is for {platform} and will not run on this host, which is {host}"))
}

/// What became of owners that have no ids here, if there are any.
pub(super) fn of_owners(pulled: &Pulled) -> Option<String> {
    let such_as = pulled
        .unmapped
        .as_ref()
        .map_or_else(String::new, |(RawPath(path), id)| format!(", such as {id} of \"{}\"", text::neutral_bytes(path)));
    (pulled.unmapped_ids > 0).then(|| {
        let entries = if pulled.unmapped_ids == 1 { "entry" } else { "entries" };
        format!(
            "{} {entries} of the image with a user or group beyond the ids mapped here{such_as}: nobody (65534) takes its place",
            pulled.unmapped_ids
        )
    })
}

/// Why the image may not run here, if it may not: for none of the caller's projects.
///
/// # Errors
/// When the list of approvals cannot be read.
pub(super) fn of_policy(ctx: &Context, name: &Reference, digest: &Digest) -> Result<Option<String>> {
    let approved = as_root(|root| ctx.policy().approved(root))?;
    let listed: Vec<String> =
        approved.iter().flat_map(|list| list.projects_of(digest.as_str())).map(str::to_owned).collect();
    let own = safe_data::find(&ctx.caller, &ctx.data_root, None).ok().and_then(|data| data.project);
    // Others that the caller belongs to, of those that the image is listed for.
    let is_theirs = |project: &String| {
        let is_root = ctx.caller.is_privileged() && !ctx.caller.by_sudo;
        let data = safe_data::find(&ctx.caller, &ctx.data_root, Some(project));
        is_root || data.is_ok_and(|data| data.group.is_some())
    };
    let others = listed.into_iter().filter(is_theirs).map(Some);
    let may_run = |project: Option<String>| {
        ctx.policy().image_may_run(&GrantFacts {
            project,
            registry: name.host().to_owned(),
            digest: digest.to_string(),
            named_by_digest: true,
            approved: approved.clone(),
            today: jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date(),
            ..GrantFacts::default()
        })
    };
    let Err(error) = may_run(own) else { return Ok(None) };
    if others.map(may_run).any(|outcome| outcome.is_ok()) {
        return Ok(None);
    }
    Ok(Some(in_one_line(&error)))
}

/// Why the rules for software stacks refuse the image, if they do; what they need is read, and kept for its first run.
///
/// # Errors
/// When its layers or the vulnerability data cannot be read.
pub(super) fn of_stack(ctx: &Context, store: &Store, image: &StoredImage) -> Result<Option<String>> {
    if !ctx.policy().images().stack.stated {
        return Ok(None);
    }
    let standing = stack_gate::standing((&ctx.dirs, &ctx.caller, ctx.policy()), store, image)?;
    Ok(ctx.policy().stack_is_allowed(image.reference(), &standing).err().map(|error| in_one_line(&error)))
}

fn in_one_line(error: &Error) -> String {
    let hint = error.hint_text().map_or_else(String::new, |hint| format!(" ({hint})"));
    format!("as things are the image may not run here: {error}{hint}")
}
