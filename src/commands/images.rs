//! `ces images`: what the store holds.

use jiff::civil::Date;
use serde_json::{Value, json};

use super::{Context, facts, print};
use crate::bundle::safe_data;
use crate::cli::{Format, TableArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::store::Listed;
use crate::policy::approved::{Approval, Approved, days};

/// Lists the images, newest first.
///
/// # Errors
/// When the store cannot be read.
pub fn images(ctx: &Context, args: &TableArgs, quiet: bool) -> Result<()> {
    let images = ctx.store()?.images()?;
    let approvals = Approvals::of(ctx)?;
    let document = || {
        let all: Result<Vec<_>> = images.iter().map(|image| document(image, approvals.as_ref())).collect();
        all.map(Value::Array)
    };
    let name = |reference: &Option<String>| reference.clone().unwrap_or_else(|| "<none>".to_owned());
    if quiet && args.form() == Format::Table {
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
    let Some(approved) = &approvals else { return print::list(args.form(), &rows, document) };
    let word = |image: &Listed| approved.word(image.record.manifest.as_str());
    let column = std::iter::once("APPROVED".to_owned()).chain(images.iter().map(word));
    let wider: Vec<[String; 6]> = rows
        .into_iter()
        .zip(column)
        .map(|([reference, digest, size, pulled, by], approved)| [reference, digest, size, pulled, by, approved])
        .collect();
    print::list(args.form(), &wider, document)
}

/// What the list of approved images says to the caller, where the policy names one.
struct Approvals {
    list: Approved,
    /// The caller's project; root sees what is approved for anybody.
    project: Option<String>,
    everybody: bool,
    today: Date,
}

impl Approvals {
    fn of(ctx: &Context) -> Result<Option<Self>> {
        let Some(list) = ctx.approved()? else { return Ok(None) };
        let everybody = ctx.caller.sees_everyone();
        // Who has no project is told what is approved for all.
        let project = safe_data::find(&ctx.caller, &ctx.data_root, None).ok().and_then(|data| data.project);
        Ok(Some(Self { list, project, everybody, today: facts::today() }))
    }

    /// The approval that ends last.
    fn last(&self, digest: &str) -> Option<&Approval> {
        if self.everybody {
            let of_it = self.list.all().iter().filter(|approval| approval.digest == digest);
            return of_it.max_by_key(|approval| approval.expires.unwrap_or(Date::MAX));
        }
        self.list.of(digest, self.project.as_deref()).first().copied()
    }

    fn word(&self, digest: &str) -> String {
        let Some(approval) = self.last(digest) else { return "no".to_owned() };
        match approval.expires {
            None => "yes".to_owned(),
            Some(last) if !approval.counts_on(self.today) => format!("ended {last}"),
            Some(last) if approval.ends_soon(self.today).is_some() => {
                format!("until {last} ({} days left)", days(self.today, last))
            }
            Some(last) => format!("until {last}"),
        }
    }
}

/// An image as JSON; with its approval, where the policy wants one.
fn document(image: &Listed, approvals: Option<&Approvals>) -> Result<Value> {
    let mut value = serde_json::to_value(image).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()))?;
    if let (Some(approvals), Some(fields)) = (approvals, value.as_object_mut()) {
        let approval = approvals.last(image.record.manifest.as_str()).map(|approval| {
            json!({
                "counts": approval.counts_on(approvals.today), "expires": approval.expires.map(|day| day.to_string()),
                "projects": if approvals.everybody { json!(approval.projects) } else { json!(approvals.project) },
                "approver": approval.approver,
            })
        });
        fields.insert("approval".to_owned(), json!(approval));
    }
    Ok(value)
}
