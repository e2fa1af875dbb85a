//! `ces request`: a researcher asks for the approval of an image.
//!
//! The request is a file in the site's log, which root alone can read; who decides has `ces approve`.

use std::str::FromStr as _;

use serde_json::{Value, json};

use super::{Site, events, facts, print};
use crate::approval::image_request::{Request, RequestId, State, told};
use crate::approval::requests;
use crate::bundle::safe_data;
use crate::cli::approve::{RequestArgs, RequestCommand};
use crate::cli::{Format, Global};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::privilege::as_root;
use crate::image::reference::{Digest, Reference};
use crate::policy::document::is_project_name;
use crate::run::supervisor::record::now;

/// Does what is asked.
///
/// # Errors
/// When the image cannot be found, the request cannot be kept, or there is none of that name.
pub fn request(global: &Global, args: &RequestArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    match &args.command {
        Some(RequestCommand::List { all, table }) => list(&site, *all, table.form(), global.quiet),
        Some(RequestCommand::Withdraw { request, json }) => withdraw(&site, request, *json),
        None => ask(global, &site, args),
    }
}

/// An image, as somebody calls it.
pub(super) struct NamedImage {
    /// Its name in the store, or as it was given.
    pub(super) name: Option<String>,
    /// The digest of its manifest.
    pub(super) digest: String,
    /// Whether it is in the store, and the caller's to see.
    pub(super) in_store: bool,
}

/// The image that is called `words`: one in the store, or any that is named by its whole digest.
///
/// # Errors
/// When there is none in the store, and the words have no digest.
pub(super) fn named(site: &Site, words: &str) -> Result<NamedImage> {
    let error = match site.store()?.find(words) {
        Ok(image) => {
            let name = image.reference();
            let name = (!name.starts_with("sha256:")).then(|| name.to_owned());
            return Ok(NamedImage { name, digest: image.manifest_digest().to_string(), in_store: true });
        }
        Err(error) if error.kind() == Kind::Missing => error,
        Err(error) => return Err(error),
    };
    if let Ok(digest) = Digest::from_str(words) {
        return Ok(NamedImage { name: None, digest: digest.to_string(), in_store: false });
    }
    let reference = Reference::in_store(words);
    match reference.as_ref().and_then(|reference| Some((reference.to_string(), reference.digest()?.to_string()))) {
        Some((name, digest)) => Ok(NamedImage { name: Some(name), digest, in_store: false }),
        None => Err(error),
    }
}

/// The researcher whose requests the caller may see; none: everybody's.
fn whose(site: &Site) -> Option<u32> {
    site.policy.may_approve(&site.caller).is_err().then(|| site.caller.uid.as_raw())
}

fn ask(global: &Global, site: &Site, args: &RequestArgs) -> Result<u8> {
    let (Some(image), Some(reason)) = (&args.image, &args.reason) else {
        return Err(
            Error::new(Stage::Cli, Kind::Usage, "a request needs an image and a reason").hint("ces request --help")
        );
    };
    let reason = told("reason", reason)?;
    let Some(list) = as_root(|root| site.policy.approved(root))? else {
        return Err(Error::new(Stage::Policy, Kind::Failed, "no image needs an approval here")
            .because(format!("{} names no list of approved images (images.approved)", site.policy.file()))
            .hint("ces policy explain IMAGE tells what a run would get"));
    };
    let image = named(site, image)?;
    let project = project(site, args.project.as_deref())?;
    if let Ok(approval) = list.check(&image.digest, project.as_deref(), facts::today()) {
        let until = approval.expires.map_or_else(String::new, |day| format!(" until {day}"));
        print::note(&format!("the image is approved{until}: nothing is asked for"))?;
        return Ok(0);
    }
    let (uid, user) = (site.caller.uid.as_raw(), site.caller.name.clone());
    let request = as_root(|root| {
        let held = requests::hold(root, &site.dirs.log)?;
        let is_same =
            |old: &Request| old.state == State::Open && (&old.digest, &old.project) == (&image.digest, &project);
        if let Some(old) = held.all(Some(uid))?.0.into_iter().find(is_same) {
            return Ok::<_, Error>(old);
        }
        let request = Request {
            version: 1,
            id: RequestId::new()?,
            uid,
            user,
            project,
            image: image.name.unwrap_or_else(|| image.digest.clone()),
            digest: image.digest,
            in_store: image.in_store,
            reason: reason.clone(),
            asked: now(),
            state: State::Open,
            decided: None,
        };
        held.add(&request, || tell(site, "asked", &request))?;
        Ok(request)
    })?;
    if args.json {
        print::json(&request)?;
    } else {
        print::line(request.id.as_str())?;
    }
    if !global.quiet {
        if request.reason != reason {
            print::note(&format!(
                "this was asked for on {}, for another reason; ces request withdraw {} takes it back",
                request.asked, request.id
            ))?;
        }
        print::note(&outlook(site))?;
    }
    Ok(0)
}

/// Who will read it.
fn outlook(site: &Site) -> String {
    let who = site.policy.contact().unwrap_or("whoever runs this host");
    if site.caller.is_privileged() {
        return format!("{who} decides; ces request list tells");
    }
    let place = site.dirs.log.join("requests");
    format!("nobody reads {} but you, for ces runs with your own rights: send the request to {who}", place.display())
}

/// For which project: as a run finds it.
fn project(site: &Site, asked: Option<&str>) -> Result<Option<String>> {
    let found = safe_data::find(&site.caller, site.policy.data_root(), asked);
    let project = match (found, asked) {
        (Ok(data), _) => {
            // Who could not run in a project asks nothing in its name.
            safe_data::check_access(&data, &site.caller.ids(), false)?;
            data.project
        }
        (Err(error), Some(_)) => return Err(error),
        // Who has no project yet may ask for everybody.
        (Err(_), None) => None,
    };
    match project {
        Some(name) if !is_project_name(&name) => {
            Err(Error::new(Stage::Policy, Kind::Failed, format!("nothing can be approved for the project \"{name}\""))
                .because("its name has other characters than letters, digits, `-`, `_` and `.`")
                .hint("ask whoever runs this host for another name of its directory"))
        }
        project => Ok(project),
    }
}

/// A line of the audit log. The reason is not told: it is the researcher's text, and whoever decides reads it in the request.
fn tell(site: &Site, action: &str, request: &Request) -> Result<()> {
    let Request { id, image, digest, project, uid, in_store, .. } = request;
    let about = json!({
        "action": action, "request": id, "image": image, "digest": digest, "project": project, "of": uid, "in_store": in_store,
    });
    events::tell(&site.dirs.log, &site.caller, Event::Request, None, about)
}

fn list(site: &Site, all: bool, form: Format, quiet: bool) -> Result<u8> {
    let whose = whose(site);
    let (mut found, unread) = as_root(|root| requests::all(root, &site.dirs.log, whose))?;
    found.retain(|request| {
        all || request.state == State::Open || (whose.is_some() && request.state != State::Withdrawn)
    });
    unread.iter().try_for_each(|why| print::note(why))?;
    if quiet && form == Format::Table {
        return found.iter().try_for_each(|request| print::line(request.id.as_str())).map(|()| 0);
    }
    let document = || serde_json::to_value(&found).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()));
    // A table has room for the beginning of a digest, a spreadsheet for all of it.
    let digits = if form == Format::Csv { usize::MAX } else { 12 };
    let mut rows = vec![["REQUEST", "ASKED", "BY", "PROJECT", "IMAGE", "DIGEST", "STATE", "REASON"].map(str::to_owned)];
    rows.extend(found.iter().map(|request| {
        [
            request.id.to_string(),
            request.asked.chars().take(10).collect(),
            request.user.clone(),
            request.project.clone().unwrap_or_else(|| "-".to_owned()),
            request.image.clone(),
            request.digest.strip_prefix("sha256:").unwrap_or(&request.digest).chars().take(digits).collect(),
            state(request),
            request.reason.clone(),
        ]
    }));
    print::list(form, &rows, document)?;
    Ok(0)
}

/// What became of it, in a few words.
pub(super) fn state(request: &Request) -> String {
    let decided = request.decided.as_ref();
    let until = decided.and_then(|d| d.until.as_ref()).map_or_else(String::new, |day| format!(" until {day}"));
    let note = decided.and_then(|d| d.note.as_ref()).map_or_else(String::new, |note| format!(": {note}"));
    format!("{}{until}{note}", request.state.name())
}

fn withdraw(site: &Site, words: &str, json: bool) -> Result<u8> {
    // One's own, whoever asks: others' are declined.
    settle(site, (Some(site.caller.uid.as_raw()), words), ("withdrew", json), &|request| {
        request.state = State::Withdrawn;
        tell(site, "withdrawn", request)
    })
}

/// Settles an open request as `change` says, which tells the audit log before the request is written; `whose`: of this researcher alone.
///
/// # Errors
/// When there is none of that name, it is not open any more, or it cannot be written.
pub(super) fn settle(
    site: &Site,
    (whose, words): (Option<u32>, &str),
    (done, json): (&str, bool),
    change: &dyn Fn(&mut Request) -> Result<()>,
) -> Result<u8> {
    let id = RequestId::parse(words)?;
    let request = as_root(|root| {
        let held = requests::hold(root, &site.dirs.log)?;
        let mut request = held.find(whose, &id)?;
        still_open(&request)?;
        change(&mut request)?;
        held.settle(&request)?;
        Ok::<_, Error>(request)
    })?;
    if json {
        print::json(&request)?
    } else {
        print::line(&format!("{done} {id}"))?
    }
    Ok(0)
}

/// Whether there is still something to decide.
///
/// # Errors
/// When there is not.
pub(super) fn still_open(request: &Request) -> Result<()> {
    if request.state == State::Open {
        return Ok(());
    }
    let by =
        request.decided.as_ref().map_or_else(String::new, |decided| format!(" by {} on {}", decided.by, decided.at));
    Err(Error::new(Stage::Policy, Kind::Failed, format!("the request {} is not open", request.id))
        .because(format!("it was {}{by}", request.state.name()))
        .hint("ces request list --all lists all requests"))
}

/// What is done about a request, for the audit log.
pub(super) fn summary(action: &str, request: &Request, note: Option<&str>) -> Value {
    let Request { id, uid, digest, project, .. } = request;
    json!({"action": action, "request": id, "of": uid, "digest": digest, "project": project, "note": note})
}
