//! `ces vulndb`: vulnerability data in, listed, out.

use std::path::Path;

use serde_json::json;

use super::{Context, events, print};
use crate::cli::Format;
use crate::cli::vulndb::{ImportArgs, VulndbCommand};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::named_file;
use crate::image::unpack::parent::Unpacker;
use crate::stack::vulndb::builder::Source;
use crate::stack::vulndb::place::Place;

/// Runs the verb.
///
/// # Errors
/// When a researcher wants to change what the site knows, a file is no source, or there is no such source.
pub fn vulndb(ctx: &Context, command: &VulndbCommand, quiet: bool) -> Result<u8> {
    let place = Place::open(&ctx.dirs.store)?;
    match command {
        VulndbCommand::Import(args) => import(ctx, &place, args)?,
        VulndbCommand::List(args) => list(&place, args.form(), quiet)?,
        VulndbCommand::Remove { source, json } => remove(ctx, &place, source, *json)?,
    }
    Ok(0)
}

/// What is known to be vulnerable decides what is refused: it is the site's, like its policy.
fn may_change(ctx: &Context) -> Result<()> {
    if !ctx.caller.by_sudo {
        return Ok(());
    }
    Err(Error::new(Stage::Policy, Kind::Policy, "vulnerability data is the site's")
        .because("through sudo nobody but root imports or removes it")
        .hint(ctx.policy().whom_to_ask()))
}

fn import(ctx: &Context, place: &Place, args: &ImportArgs) -> Result<()> {
    may_change(ctx)?;
    let unpacker = Unpacker::new(&ctx.caller, &ctx.limits)?;
    for path in &args.files {
        let file = open(path)?;
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (source, replaced) = place.import(&unpacker, file, &path.display().to_string(), &now)?;
        let about = json!({
            "source": source.name, "digest": source.digest, "dated": source.dated, "records": source.records,
            "withdrawn": source.withdrawn, "unreadable": source.unreadable,
            "replaces": replaced.as_ref().map(|old| &old.digest),
        });
        events::tell(&ctx.dirs.log, &ctx.caller, Event::VulndbImport, None, about)?;
        if args.json {
            print::json(&source)?;
            continue;
        }
        print::line(&format!(
            "imported {}: {} records of {} packages, dated {}",
            source.name,
            source.records,
            source.packages,
            day(&source.dated)
        ))?;
        if let Some(old) = replaced {
            print::line(&format!("replaces {}: {} records, dated {}", old.name, old.records, day(&old.dated)))?;
        }
        if !source.is_whole() {
            print::note(&format!(
                "{} is no whole ecosystem: packages that it has no record of stay \"not judged\"",
                source.name
            ))?;
        }
        left_out(&source)?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<std::fs::File> {
    let fail = |e: std::io::Error| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::Missing } else { Kind::Failed };
        Error::new(Stage::Cli, kind, format!("cannot read {}", path.display()))
            .because(e)
            .hint("name files that were fetched elsewhere; ces vulndb import --help lists the formats")
    };
    let file = named_file::to_read(path).map_err(fail)?;
    // A zip file is read from its end.
    if file.metadata().map_err(fail)?.is_file() {
        Ok(file)
    } else {
        Err(fail(std::io::Error::other("it is a pipe, and no file")))
    }
}

/// What is not kept is told.
fn left_out(source: &Source) -> Result<()> {
    if source.withdrawn > 0 {
        print::note(&format!("{} records were withdrawn by their source, and are left out", source.withdrawn))?;
    }
    if source.unreadable > 0 {
        print::note(&format!(
            "{} records could not be read, and are left out: {}",
            source.unreadable,
            source.examples.join("; ")
        ))?;
    }
    Ok(())
}

fn day(time: &str) -> &str {
    time.get(..10).unwrap_or(time)
}

fn list(place: &Place, form: Format, quiet: bool) -> Result<()> {
    let sources = place.sources()?;
    if quiet && form == Format::Table {
        return sources.iter().try_for_each(|source| print::line(&source.name));
    }
    let document = || serde_json::to_value(&sources).map_err(|e| Error::new(Stage::Cli, Kind::Failed, e.to_string()));
    let head = ["SOURCE", "DATED", "IMPORTED", "RECORDS", "PACKAGES", "WITHDRAWN", "UNREADABLE"].map(str::to_owned);
    let rows = sources.iter().map(|source| {
        let numbers =
            [source.records, source.packages, source.withdrawn, source.unreadable].map(|number| number.to_string());
        let [records, packages, withdrawn, unreadable] = numbers;
        [
            source.name.clone(),
            day(&source.dated).to_owned(),
            day(&source.imported).to_owned(),
            records,
            packages,
            withdrawn,
            unreadable,
        ]
    });
    print::list(form, &std::iter::once(head).chain(rows).collect::<Vec<_>>(), document)
}

fn remove(ctx: &Context, place: &Place, name: &str, json: bool) -> Result<()> {
    may_change(ctx)?;
    let source = place.remove(name)?;
    let about = json!({"source": source.name, "digest": source.digest});
    events::tell(&ctx.dirs.log, &ctx.caller, Event::VulndbRemove, None, about)?;
    if json { print::json(&source) } else { print::line(&format!("removed {}", source.name)) }
}
