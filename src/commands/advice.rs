//! What a failed run may have wanted.
//!
//! Takes a prepared run and its outcome; gives a hint; trusts nothing; refuses to guess where the policy forbids the remedy.

use super::prepare::Prepared;
use crate::run::ending::Ending;
use crate::run::supervisor::supervise::Outcome;

/// Said of a failure that the profile may have caused.
pub const SERVICE: &str = "hint: this image starts as root, to which the profile batch gives no capability; if its entrypoint has to \
    give files to others or to become another user, --profile service may help (tar --no-same-owner keeps to one's own)";

/// Longer than it takes an entrypoint to find that it may not do something.
const SOON: std::time::Duration = std::time::Duration::from_secs(10);

/// Whether a failure looks like one for want of a capability: the image's own entrypoint, as root, without any, failed soon
/// and by itself. Nothing proves it, so the hint says "may"; where the policy or the host refuse the profile nothing is said.
pub fn may_want_service(prepared: &Prepared, outcome: &Outcome) -> bool {
    let failed = matches!(outcome.ending, Ending::Exited(code) if code != 0) && outcome.exceeded.is_none();
    let config = prepared.image.config().config().as_ref();
    let own_entrypoint = prepared.grant.entrypoint.is_none()
        && config.and_then(|c| c.entrypoint().as_ref()).is_some_and(|words| !words.is_empty());
    failed
        && outcome.elapsed < SOON
        && own_entrypoint
        && prepared.user.uid == 0
        && prepared.grant.profile.capabilities.is_empty()
        && !prepared.identity.container.is_single()
        && prepared.policy.allows_profile("service", prepared.data.project.as_deref())
}
