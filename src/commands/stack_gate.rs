//! What the site's rules for software stacks make of an image: for a run, an approval, a pull.
//!
//! In this order: what was kept under the same key, one small file → else the layers are read, judged, and that is kept. The key is
//! made from all that the answer depends on: the program itself, the image, the rules, the database, the waivers, the day.

use sha2::{Digest as _, Sha256};

use super::stack_verdict::Judge;
use super::{context, facts};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::Dirs;
use crate::host::privilege::as_root;
use crate::host::site_dir::SiteDir;
use crate::image::reference::Digest;
use crate::image::store::{Store, StoredImage};
use crate::image::unpack::parent::Unpacker;
use crate::policy::Policy;
use crate::policy::approved::Approved;
use crate::policy::grant::Decision;
use crate::policy::stack_grant::ToRun;
use crate::stack::kept::{Kept, Standing, marks};
use crate::stack::load;
use crate::stack::package::Stack;
use crate::stack::vulndb;

/// Where things are, who calls, the rules.
pub(super) type Place<'a> = (&'a Dirs, &'a Caller, &'a Policy);

/// Whether the image may run with what is known of its stack; none where no rule and no approval asks for it, which costs nothing.
///
/// # Errors
/// When it may not, or its layers or the vulnerability data cannot be read.
pub(super) fn may_run(
    place: Place<'_>,
    store: &Store,
    image: &StoredImage,
    (approved, project): (Option<&Approved>, Option<&str>),
) -> Result<Option<Decision>> {
    let digest = image.manifest_digest().to_string();
    let to_run = ToRun { name: image.reference(), digest: &digest, project, today: facts::today() };
    if !place.2.stack_counts(&to_run, approved) {
        return Ok(None);
    }
    let standing = standing(place, store, image)?;
    place.2.stack_may_run(&to_run, approved, &standing).map(Some)
}

/// Whether the image may be approved: the rules do not refuse it, and what was read of it, where that is said, is what it holds. Of an
/// image that is not in the store nothing can be said; a run asks again.
///
/// # Errors
/// When it may not, or its layers or the vulnerability data cannot be read.
pub(super) fn may_be_approved(place: Place<'_>, store: &Store, digest: &str, read: Option<&str>) -> Result<()> {
    if !place.2.images().stack.stated && read.is_none() {
        return Ok(());
    }
    let image = match store.find(digest) {
        Ok(image) => image,
        Err(error) if error.kind() == Kind::Missing => return Ok(()),
        Err(error) => return Err(error),
    };
    let standing = standing(place, store, &image)?;
    place.2.stack_is_allowed(image.reference(), &standing)?;
    match read.filter(|read| *read != standing.stack.as_str()) {
        None => Ok(()),
        Some(read) => {
            Err(Error::new(Stage::Policy, Kind::Failed, format!("{} does not hold that stack", image.reference()))
                .because(format!("--stack names {read}, and what is read of it is {}", standing.stack))
                .hint(format!("read ces stack {} and name the stack that it names", image.reference())))
        }
    }
}

/// What the rules make of the image today.
///
/// # Errors
/// When its layers, the vulnerability data or the waivers cannot be read.
pub(super) fn standing(place: Place<'_>, store: &Store, image: &StoredImage) -> Result<Standing> {
    let (dirs, _, policy) = place;
    let kept = Kept::open(&dirs.store)?;
    let key = key(dirs, policy, image.manifest_digest())?;
    if let Some(standing) = key.as_ref().and_then(|key| kept.standing(image.manifest_digest(), key)) {
        return Ok(standing);
    }
    let stack = read(place, store, image)?;
    let judged = Judge::new(dirs, policy)?.judge(&stack, None)?;
    let standing = Standing::new(&stack, &judged.verdict, judged.breaches).map_err(|e| {
        Error::new(Stage::Store, Kind::Failed, format!("cannot name the stack of {}", image.reference())).because(e)
    })?;
    if let Some(key) = key {
        // Where it cannot be kept, it is judged again.
        kept.keep_standing(image.manifest_digest(), &key, &standing).ok();
    }
    Ok(standing)
}

/// The image's stack; its layers are read where they were not.
///
/// # Errors
/// When a layer's listing is missing or damaged, or the store cannot be read.
pub(super) fn read((_, caller, policy): Place<'_>, store: &Store, image: &StoredImage) -> Result<Stack> {
    let unpacker = Unpacker::new(caller, &context::limits(&policy.images().limits))?;
    let (merge, about) = load::image(store, &unpacker, image)?;
    Ok(merge.finish(about))
}

/// All that a standing depends on, as one word; none where this program does not know itself. Another build of the program may read and
/// judge in another way.
fn key(dirs: &Dirs, policy: &Policy, image: &Digest) -> Result<Option<String>> {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(program) = std::fs::metadata("/proc/self/exe") else { return Ok(None) };
    let rules = &policy.images().stack;
    let mut parts = vec![
        format!(
            "program {} {} {} {}.{}",
            program.dev(),
            program.ino(),
            program.size(),
            program.ctime(),
            program.ctime_nsec()
        ),
        format!("image {image}"),
        format!("rules {:?}", rules.values()),
        // What a layer says is read with as much memory as this.
        format!("memory {:?}", policy.images().limits.memory),
        format!("day {}", facts::today()),
        "data".to_owned(),
    ];
    parts.extend(
        as_root(|_| dirs.store.below(vulndb::place::NAME.as_ref()))?
            .map_or(Ok(Vec::new()), |directory| marks(&directory, vulndb::place::ENDING))?,
    );
    parts.push("waivers".to_owned());
    if let Some(rule) = &rules.waivers {
        // One that is missing is an error where waivers are read.
        let directory = as_root(|root| SiteDir::existing(root, &rule.value))?;
        parts.extend(directory.map_or(Ok(Vec::new()), |directory| marks(&directory, ".json"))?);
    }
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    Ok(Some(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
