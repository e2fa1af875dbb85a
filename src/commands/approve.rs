//! `ces approve`: which images may run, for whom, until when.
//!
//! For root, and through sudo for those whom the policy names (`images.approvers`). Every change is a line in the audit log before
//! it is in the list.

use std::path::PathBuf;

use jiff::civil::Date;
use serde_json::{Value, json};

use super::image_request::{self, NamedImage, named, still_open};
use super::{Site, events, facts, print, stack_approved, stack_gate};
use crate::approval::edit::{self, Entry};
use crate::approval::image_request::{Decided, Request, RequestId, State, told};
use crate::approval::{file, requests};
use crate::cli::approve::{AddArgs, ApproveCommand, ChangeArgs, CheckArgs, RenewArgs};
use crate::cli::{Format, Global, TableArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::privilege::{Root, as_root};
use crate::policy::approved::{Approval, Approved, days};
use crate::policy::document::is_project_name;
use crate::run::supervisor::record::now;

/// Does what is asked.
///
/// # Errors
/// When the caller may not, or the list cannot be read or changed.
pub fn approve(global: &Global, command: &ApproveCommand) -> Result<u8> {
    let site = Site::swept(global)?;
    site.policy.may_approve(&site.caller)?;
    let list = Approvals { path: path(&site)?, site, quiet: global.quiet };
    match command {
        ApproveCommand::Add(args) => list.add(args),
        ApproveCommand::List(args) => list.list(args),
        ApproveCommand::Revoke(args) => list.revoke(args),
        ApproveCommand::Renew(args) => list.renew(args),
        ApproveCommand::Decline { request, note, json } => list.decline(request, note.as_deref(), *json),
        ApproveCommand::Check(args) => list.check(args),
    }
}

/// Where the list is.
fn path(site: &Site) -> Result<PathBuf> {
    site.policy.images().approved.as_ref().map(|rule| rule.value.clone()).ok_or_else(|| {
        Error::new(Stage::Policy, Kind::Failed, "there is no list of approved images")
            .because(format!("{} names none, so that every image may run", site.policy.file()))
            .hint("write into the policy: [images] approved = \"/etc/ces/approved.toml\"")
    })
}

/// A day as somebody writes it.
fn day(text: &str) -> Result<Date> {
    let last: Date = text.parse().map_err(|_| {
        Error::new(Stage::Cli, Kind::Usage, format!("--until {text} is not a date"))
            .hint("write it so: --until 2027-01-31")
    })?;
    if last < facts::today() {
        return Err(Error::new(Stage::Cli, Kind::Usage, format!("--until {text} is in the past"))
            .hint("give a date in the future; ces approve revoke ends an approval at once"));
    }
    Ok(last)
}

/// A caller who may approve, and the list.
struct Approvals {
    site: Site,
    path: PathBuf,
    quiet: bool,
}

impl Approvals {
    /// The list; before there is one, an empty one.
    fn approved(&self) -> Result<Approved> {
        as_root(|root| {
            let dir = file::directory(root, &self.path)?;
            match self.path.file_name().map(|name| dir.document(name)).transpose()?.flatten() {
                Some(_) => Ok(self.site.policy.approved(root)?.unwrap_or_default()),
                None => Ok(Approved::default()),
            }
        })
    }

    fn tell(&self, about: Value) -> Result<()> {
        events::tell(&self.site.dirs.log, &self.site.caller, Event::Approve, None, about)
    }

    /// Changes the list, told of before; what could not be written then is told of as well.
    fn change(&self, root: &Root, edit: file::Edit<'_, ()>, about: &Value) -> Result<bool> {
        let dir = file::directory(root, &self.path)?;
        let mut told = false;
        let done = file::change(root, &dir, &self.path, edit, |()| {
            self.tell(about.clone())?;
            told = true;
            Ok(())
        });
        match done {
            Err(error) if told => {
                let failed = json!({"result": "failed", "because": error.to_string(), "what": about});
                match self.tell(failed) {
                    Ok(()) => Err(error),
                    Err(unwritten) => Err(error.because(format!("and the audit log does not have this: {unwritten}"))),
                }
            }
            done => done.map(|changed| changed.is_some()),
        }
    }

    fn add(&self, args: &AddArgs) -> Result<u8> {
        let (today, last) = (facts::today(), args.until.as_deref().map(day).transpose()?);
        let note = args.note.as_deref().map(|note| told("note", note)).transpose()?;
        if let Some(name) = args.project.iter().find(|name| *name != "*" && !is_project_name(name)) {
            return Err(Error::new(Stage::Cli, Kind::Usage, format!("\"{name}\" is not a project's name"))
                .hint("letters, digits, `-`, `_` and `.`; `*` stands for all"));
        }
        let image = if RequestId::is_meant(&args.what) { None } else { Some(named(&self.site, &args.what)?) };
        let of = |held: &requests::Held| {
            let asked = match &image {
                Some(_) => None,
                None => Some(held.find(None, &RequestId::parse(&args.what)?)?),
            };
            asked.as_ref().map(still_open).transpose()?;
            self.entry(args, image.as_ref(), asked.as_ref(), (today, last), note.clone())
        };
        let entry = as_root(|root| {
            // Layers are read, which takes as long as they are large, while nobody waits for the requests.
            let looked_at = of(&requests::hold(root, &self.site.dirs.log)?)?;
            let place = (&self.site.dirs, &self.site.caller, &self.site.policy);
            stack_gate::may_be_approved(place, &self.site.store()?, &looked_at.digest, looked_at.stack.as_deref())?;
            let held = requests::hold(root, &self.site.dirs.log)?;
            // It may have been withdrawn or decided meanwhile.
            let entry = of(&held)?;
            if entry.digest != looked_at.digest {
                return Err(Error::new(Stage::Policy, Kind::Failed, format!("{} was changed meanwhile", args.what))
                    .because("it names another image than the one that was looked at")
                    .hint("do it again"));
            }
            let edit = |text: &str, list: &Approved| {
                refuse_double(list, &entry, today)?;
                Ok(Some((edit::add(text, &entry)?, ())))
            };
            let about = json!({
                "action": "added", "digest": entry.digest, "image": entry.name, "projects": entry.projects,
                "until": last.map(|day| day.to_string()), "request": entry.request, "stack": entry.stack,
                "note": entry.note,
            });
            self.change(root, &edit, &about)?;
            // Whoever asked for the same has the answer, too.
            for mut request in held.all(None)?.0.into_iter().filter(|request| is_answered(request, &entry)) {
                request.state = State::Approved;
                request.decided = Some(self.decided(last, note.clone()));
                held.settle(&request)?;
            }
            Ok::<_, Error>(entry)
        })?;
        let place = (&self.site.dirs, &self.site.caller, &self.site.policy);
        stack_approved::keep(place, &self.site.store()?, |approved| approved.as_str() == entry.digest)?;
        let until = last.map_or_else(|| "without an end".to_owned(), |day| format!("until {day}"));
        if args.json {
            print::json(&json!({
                "digest": entry.digest, "projects": entry.projects, "until": last.map(|day| day.to_string()), "request": entry.request,
            }))?;
        } else if !self.quiet {
            print::line(&format!("approved {} for {} {until}", entry.digest, entry.projects.join(", ")))?;
        }
        Ok(0)
    }

    fn entry(
        &self,
        args: &AddArgs,
        image: Option<&NamedImage>,
        asked: Option<&Request>,
        (today, last): (Date, Option<Date>),
        note: Option<String>,
    ) -> Result<Entry> {
        let no_project = || {
            Error::new(Stage::Cli, Kind::Usage, format!("for which project is {} to be approved?", args.what))
                .hint("--project NAME, or --project '*' for all")
        };
        let projects = match (args.project.as_slice(), asked.and_then(|request| request.project.clone())) {
            ([], Some(project)) => vec![project],
            ([], None) => return Err(no_project()),
            (projects, _) => projects.to_vec(),
        };
        let of_request = |request: &Request| (Some(request.image.clone()), request.digest.clone());
        let (name, digest) = match (image, asked) {
            (Some(image), _) => (image.name.clone(), image.digest.clone()),
            (None, Some(request)) => of_request(request),
            (None, None) => return Err(no_project()),
        };
        Ok(Entry {
            name: name.filter(|name| *name != digest),
            digest,
            projects,
            approved: today,
            expires: last,
            approver: self.site.caller.name.clone(),
            request: asked.map(|request| request.id.to_string()),
            stack: args.stack.clone(),
            note,
        })
    }

    fn decided(&self, until: Option<Date>, note: Option<String>) -> Decided {
        let by = self.site.caller.name.clone();
        Decided { by, at: now(), until: until.map(|day| day.to_string()), note }
    }

    fn decline(&self, words: &str, note: Option<&str>, json: bool) -> Result<u8> {
        let note = note.map(|note| told("note", note)).transpose()?;
        image_request::settle(&self.site, (None, words), ("declined", json), &|request| {
            request.state = State::Declined;
            request.decided = Some(self.decided(None, note.clone()));
            self.tell(image_request::summary("declined", request, note.as_deref()))
        })
    }

    fn revoke(&self, args: &ChangeArgs) -> Result<u8> {
        self.changed("revoked", args, None, |text, digest| edit::revoke(text, digest, args.project.as_deref()))
    }

    fn renew(&self, args: &RenewArgs) -> Result<u8> {
        let last = day(&args.until)?;
        let renew = |text: &str, digest: &str| edit::renew(text, digest, args.change.project.as_deref(), last);
        self.changed("renewed", &args.change, Some(last), renew)
    }

    /// A change of approvals that are there: `change` gives the list's new text, and how many it changed.
    fn changed(
        &self,
        action: &str,
        args: &ChangeArgs,
        last: Option<Date>,
        change: impl Fn(&str, &str) -> Result<(String, usize)>,
    ) -> Result<u8> {
        let note = args.note.as_deref().map(|note| told("note", note)).transpose()?;
        let (image, project) = (named(&self.site, &args.image)?, args.project.as_deref());
        let edit = |text: &str, _: &Approved| {
            let (new, changed) = change(text, &image.digest)?;
            Ok((changed > 0).then_some((new, ())))
        };
        let until = last.map(|day| day.to_string());
        let about = json!({
            "action": action, "digest": image.digest, "image": image.name, "project": project, "until": until, "note": note,
        });
        if !as_root(|root| self.change(root, &edit, &about))? {
            let whom = project.map_or_else(String::new, |project| format!(" for {project} by name"));
            return Err(Error::new(Stage::Policy, Kind::Missing, format!("{} is not approved{whom}", image.digest))
                .hint("ces approve list lists what is"));
        }
        let whom = project.map_or_else(String::new, |project| format!(" for {project}"));
        let until = until.map_or_else(String::new, |day| format!(" until {day}"));
        if args.json {
            print::json(&about)?
        } else {
            print::line(&format!("{action} {}{whom}{until}", image.digest))?
        }
        Ok(0)
    }

    fn list(&self, args: &TableArgs) -> Result<u8> {
        let (list, today) = (self.approved()?, facts::today());
        let document = || Ok(list.all().iter().map(|approval| shown(approval, today)).collect::<Vec<_>>());
        if self.quiet && args.form() == Format::Table {
            return list.all().iter().try_for_each(|approval| print::line(&approval.digest)).map(|()| 0);
        }
        let mut rows = vec![["IMAGE", "DIGEST", "PROJECTS", "UNTIL", "APPROVER", "NOTE"].map(str::to_owned)];
        rows.extend(list.all().iter().map(|approval| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            [
                or_none(&approval.name),
                approval.digest.clone(),
                approval.projects.join(", "),
                // A spreadsheet sorts by days.
                match args.form() {
                    Format::Csv => approval.expires.map_or_else(|| "-".to_owned(), |last| last.to_string()),
                    _ => until(approval, today),
                },
                approval.approver.clone(),
                or_none(&approval.note),
            ]
        }));
        print::list(args.form(), &rows, document)?;
        Ok(0)
    }

    fn check(&self, args: &CheckArgs) -> Result<u8> {
        let asked = if RequestId::is_meant(&args.what) {
            let id = RequestId::parse(&args.what)?;
            Some(as_root(|root| requests::hold(root, &self.site.dirs.log)?.find(None, &id))?)
        } else {
            None
        };
        let image = match &asked {
            Some(request) => {
                let name = Some(request.image.clone());
                let in_store = named(&self.site, &request.digest)?.in_store;
                NamedImage { name, digest: request.digest.clone(), in_store }
            }
            None => named(&self.site, &args.what)?,
        };
        let project = args.project.clone().or_else(|| asked.as_ref().and_then(|request| request.project.clone()));
        let (list, today) = (self.approved()?, facts::today());
        let is_asked = |a: &&Approval| {
            a.digest == image.digest && project.as_deref().is_none_or(|project| a.is_for(Some(project)))
        };
        let found: Vec<&Approval> = list.all().iter().filter(is_asked).collect();
        let approved = found.iter().any(|approval| approval.counts_on(today));
        if args.json {
            print::json(&json!({
                "digest": image.digest, "image": image.name, "in_store": image.in_store, "project": project, "approved": approved,
                "approvals": found.iter().map(|approval| shown(approval, today)).collect::<Vec<_>>(), "request": asked,
            }))?;
            return Ok(if approved { 0 } else { 3 });
        }
        let mut rows = vec![["image".to_owned(), image.name.unwrap_or_else(|| "-".to_owned())]];
        let mut say = |what: &str, text: String| rows.push([what.to_owned(), text]);
        say("digest", image.digest);
        say("in the store", if image.in_store { "yes; ces inspect shows it" } else { "no" }.to_owned());
        if let Some(request) = &asked {
            say("request", format!("{} of {} (uid {}), {}", request.id, request.user, request.uid, request.asked));
            say("project", request.project.clone().unwrap_or_else(|| "none".to_owned()));
            say("reason", request.reason.clone());
            say("state", image_request::state(request));
        }
        for approval in &found {
            say(
                "approval",
                format!("for {} by {}, {}", approval.projects.join(", "), approval.approver, until(approval, today)),
            );
        }
        say("approved", if approved { "yes" } else { "no" }.to_owned());
        print::table(&rows)?;
        Ok(if approved { 0 } else { 3 })
    }
}

/// Whether an entry gives what a request asks for.
fn is_answered(request: &Request, entry: &Entry) -> bool {
    let is_for = |project: &str| entry.projects.iter().any(|p| p == "*" || p == project);
    let same = entry.request.as_deref() == Some(request.id.as_str());
    let given = request.digest == entry.digest
        && request.project.as_deref().map_or(entry.projects.contains(&"*".to_owned()), is_for);
    request.state == State::Open && (same || given)
}

/// What is approved already, for as long, is not approved again.
fn refuse_double(list: &Approved, entry: &Entry, today: Date) -> Result<()> {
    let lasts = |approval: &Approval| match (approval.expires, entry.expires) {
        (None, _) => true,
        (Some(old), Some(new)) => old >= new,
        (Some(_), None) => false,
    };
    let has = |project: &String| {
        let project = if project == "*" { None } else { Some(project.as_str()) };
        // One that names the stack that was read is none for another.
        let same = |approval: &Approval| approval.stack.is_none() || approval.stack == entry.stack;
        let covers = |approval: &&Approval| approval.counts_on(today) && lasts(approval) && same(approval);
        list.of(&entry.digest, project).iter().any(covers)
    };
    if entry.projects.iter().all(has) {
        return Err(Error::new(Stage::Policy, Kind::Failed, format!("{} is approved already", entry.digest))
            .because(format!("for {}, for as long or longer", entry.projects.join(", ")))
            .hint("ces approve renew gives it another last day"));
    }
    Ok(())
}

/// How long it counts, in words.
fn until(approval: &Approval, today: Date) -> String {
    match approval.expires {
        None => "does not end".to_owned(),
        Some(last) if !approval.counts_on(today) => format!("{last}: ended"),
        Some(last) if approval.ends_soon(today).is_some() => format!("{last}: {} days left", days(today, last)),
        Some(last) => last.to_string(),
    }
}

fn shown(approval: &Approval, today: Date) -> Value {
    json!({
        "digest": approval.digest, "image": approval.name, "projects": approval.projects,
        "approved": approval.approved.map(|day| day.to_string()), "expires": approval.expires.map(|day| day.to_string()),
        "days_left": approval.expires.map(|last| days(today, last)), "counts": approval.counts_on(today),
        "approver": approval.approver, "request": approval.request, "stack": approval.stack, "note": approval.note,
        "place": approval.origin,
    })
}
