//! `ces export`: a run's outputs, its record and its pre-check as a bag that other programs check.

use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use super::{Site, events, listed, precheck, print, records};
use crate::cli::Global;
use crate::cli::export::ExportArgs;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::evidence::redact::Redacted;
use crate::export::bag::{self, Oxum};
use crate::export::tree::{NewTree, open_below};
use crate::host::privilege::acting_as;
use crate::run::supervisor::outputs::line::Kind as What;
use crate::run::supervisor::record::{Record, State, now};
use crate::text;

/// Exports a run that has ended.
///
/// # Errors
/// When there is no such run, an output is not what the list says, or the directory cannot be written.
pub fn export(global: &Global, args: &ExportArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    if record.state != State::Finished {
        return Err(Error::new(Stage::Record, Kind::Failed, format!("run {} has not finished", record.id))
            .because("there is nothing to export of what was refused, interrupted or is running")
            .hint(format!("ces show {} tells how far it came", record.id)));
    }
    let mut report = precheck::of_run(&site, &record)?;
    // Where a home is tells who they are.
    report.directory.clear();
    let tree = NewTree::new(&args.out)?;
    let mut manifest = Vec::new();
    let mut oxum = Oxum::default();
    let left_out = outputs(&site, &record, &tree, &mut manifest, &mut oxum)?;
    let mut run = release(&record)?;
    if let Some(fields) = run.as_object_mut() {
        fields.insert("left_out".to_owned(), json!(left_out));
    }
    for (name, document) in [("run.json", run), ("precheck.json", document(&report)?)] {
        let mut text = serde_json::to_vec_pretty(&document).map_err(|e| failed(&e))?;
        text.push(b'\n');
        add(&tree, format!("{}{name}", bag::PAYLOAD).as_bytes(), &mut text.as_slice(), (&mut manifest, &mut oxum))?;
    }
    finish(&record, &tree, manifest, oxum)?;
    let about = json!({"export": "bagit", "files": oxum.files, "bytes": oxum.bytes});
    events::tell(&site.dirs.log, &site.caller, Event::Export, Some(record.id.as_str()), about)?;
    tree.keep();
    if args.json {
        print::json(&json!({"directory": args.out, "files": oxum.files, "bytes": oxum.bytes, "left_out": left_out}))?;
    } else if !global.quiet {
        print::line(&format!("{}: {} files, {} bytes", args.out.display(), oxum.files, oxum.bytes))?;
        left_out.iter().try_for_each(|what| print::note(&format!("left out: {what}")))?;
    }
    Ok(0)
}

/// Manifest and counts of what is in the bag so far.
type Sums<'a> = (&'a mut Vec<(Vec<u8>, String)>, &'a mut Oxum);

/// Adds a file to the payload.
fn add(tree: &NewTree, name: &[u8], from: &mut dyn std::io::Read, (manifest, oxum): Sums<'_>) -> Result<String> {
    let copied = tree.write(name, from)?;
    oxum.bytes = oxum.bytes.saturating_add(copied.bytes);
    oxum.files += 1;
    manifest.push((name.to_vec(), copied.sha512));
    Ok(copied.sha256)
}

/// Copies what the list has of regular files; gives what is left out, in words.
fn outputs(
    site: &Site,
    record: &Record,
    tree: &NewTree,
    manifest: &mut Vec<(Vec<u8>, String)>,
    oxum: &mut Oxum,
) -> Result<Vec<String>> {
    let owner = precheck::owner(site, record)?;
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top: OwnedFd = acting_as(&owner, || {
        open(&record.outputs_path, flags, Mode::empty()).map_err(|e| {
            Error::new(Stage::Outputs, Kind::Missing, format!("cannot open {}", record.outputs_path.display()))
                .because(e.desc())
        })
    })?;
    let (mut left_out, mut more) = (Vec::new(), 0_u64);
    let told = listed::each(site, record, &mut |line| {
        let path = line.path().unwrap_or_default();
        let shown = text::neutral_bytes(&path);
        if line.kind != What::File {
            let what = match line.kind {
                What::Link => "a link",
                What::Refused => "refused when the run ended",
                What::File | What::Directory => return Ok(()),
            };
            if left_out.len() < 100 {
                left_out.push(format!("{shown}: {what}"))
            } else {
                more += 1
            }
            return Ok(());
        }
        let name = [bag::PAYLOAD.as_bytes(), b"outputs/", &path].concat();
        if bag::manifest_line(&name, "").is_none() {
            return Err(Error::new(Stage::Outputs, Kind::Failed, format!("{shown} cannot be in a bag"))
                .because("its name is not UTF-8 (RFC 8493, 2.1.3)")
                .hint("rename it by another run, or export without it"));
        }
        let mut file = acting_as(&owner, || open_below(&top, &path).map_err(|e| changed(&shown).because(e)))?;
        let sha256 = add(tree, &name, &mut file, (&mut *manifest, &mut *oxum))?;
        match &line.sha256 {
            Some(listed) if *listed != sha256 => {
                Err(changed(&shown).because("its SHA-256 is another than the list has"))
            }
            Some(_) => Ok(()),
            None => {
                left_out.push(format!(
                    "{shown}: it is there, but was not hashed when the run ended, so that it cannot be compared"
                ));
                Ok(())
            }
        }
    })?;
    left_out.extend((more > 0).then(|| format!("and {more} more")));
    left_out
        .extend(told.cut.as_ref().map(|why| format!("what is not in the list of outputs, which is not whole: {why}")));
    Ok(left_out)
}

fn changed(shown: &str) -> Error {
    Error::new(Stage::Outputs, Kind::Failed, format!("{shown} is not what it was when the run ended"))
        .hint("ces verify tells what else changed; only what a run left is exported")
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Record, Kind::Failed, "cannot write the export").because(e)
}

fn document(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| failed(&e))
}

/// The record as it may leave: the command without its arguments, no directories of the host, nothing of the kernel's own.
fn release(record: &Record) -> Result<Value> {
    let decisions = document(&record.decisions)?;
    let image =
        decisions.as_array().into_iter().flatten().find(|decision| decision.get("what") == Some(&json!("image")));
    Ok(json!({
        "version": record.version, "id": record.id, "state": document(&record.state)?, "mode": document(&record.mode)?, "ces": record.ces,
        "project": record.project, "image": record.image, "digest": record.digest, "approval": image.cloned(),
        "command": Redacted::of(&record.command), "data_access": record.data_access, "started": record.started,
        "finished": record.finished, "exit": record.exit, "ended": record.ended, "seconds": record.seconds,
        "peak_memory": record.peak_memory, "warnings": record.warnings,
        "outputs": record.outputs.as_ref().map(|told| json!({
            "files": told.files.count(), "bytes": told.bytes, "list_sha256": told.list.as_ref().map(|list| &list.sha256),
        })),
        "redacted": ["arguments of the command", "researcher", "host", "paths of the host", "enforced", "decisions"],
    }))
}

/// The texts that make a bag of it.
fn finish(record: &Record, tree: &NewTree, mut manifest: Vec<(Vec<u8>, String)>, oxum: Oxum) -> Result<()> {
    manifest.sort();
    let lines: Option<String> = manifest.iter().map(|(path, sha512)| bag::manifest_line(path, sha512)).collect();
    let lines = lines.ok_or_else(|| failed(&"a name is not UTF-8"))?;
    let day: String = now().chars().take(10).collect();
    let facts = [
        ("External-Identifier", record.id.as_str()),
        ("External-Description", "Outputs of a run in a Trusted Research Environment, not yet checked for disclosure"),
        ("Bag-Software-Agent", concat!("ces ", env!("CARGO_PKG_VERSION"))),
    ];
    let info = bag::info(&facts, &day, oxum);
    let mut tags = String::new();
    for (name, text) in [("bagit.txt", bag::DECLARATION), ("bag-info.txt", &info), ("manifest-sha512.txt", &lines)] {
        let copied = tree.write(name.as_bytes(), &mut text.as_bytes())?;
        tags.push_str(&bag::manifest_line(name.as_bytes(), &copied.sha512).unwrap_or_default());
    }
    tree.write(b"tagmanifest-sha512.txt", &mut tags.as_bytes()).map(drop)
}
