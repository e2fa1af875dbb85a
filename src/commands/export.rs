//! `ces export`: a run's outputs, its record and its pre-check in a form that other programs check.

/// Outputs, copied and compared.
mod copies;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::copies::{Output, copy};
use super::{Site, events, listed, precheck, print, records};
use crate::cli::Global;
use crate::cli::export::{CrateProfile, ExportArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::envelope;
use crate::evidence::line::Event;
use crate::evidence::log;
use crate::export::bag::{self, Oxum};
use crate::export::crate_facts::{Facts, Item, METADATA, Profile};
use crate::export::in_toto::{self, Subject};
use crate::export::known::{self, Known};
use crate::export::released::Released;
use crate::export::tree::{Copied, NewTree};
use crate::export::{five_safes, ro_crate, sacro, tes};
use crate::host::machine::Machine;
use crate::host::privilege::as_root;
use crate::precheck::look::Name;
use crate::precheck::report::Report;
use crate::run::supervisor::outputs::line::Kind as What;
use crate::run::supervisor::record::{Record, now};

/// A document that tells of each file has no more of them.
const MOST: usize = 100_000;

/// What was exported.
#[derive(Debug, Default)]
struct Told {
    files: u64,
    bytes: u64,
    left_out: Vec<String>,
    /// Of a statement: the key that signed it.
    key: Option<String>,
}

/// Exports a run that has ended.
///
/// # Errors
/// When there is no such run, an output is not what the list says, the policy does not say what the form must have, or the directory
/// cannot be written.
pub fn export(global: &Global, args: &ExportArgs) -> Result<u8> {
    let site = Site::swept(global)?;
    let record = records::read(&site, &args.id)?;
    let run = Released::of(&record).ok_or_else(|| {
        Error::new(Stage::Record, Kind::Failed, format!("run {} has not finished", record.id))
            .because("there is nothing to export of what was refused, interrupted or is running")
            .hint(format!("ces show {} tells how far it came", record.id))
    })?;
    let form = Form::of(args);
    let tree = NewTree::new(&args.out)?;
    let told = Exporter { site: &site, record: &record, run: &run }.export(form, &tree)?;
    let about = json!({"export": form.name(), "files": told.files, "bytes": told.bytes, "signed": told.key});
    let whose = (record.project.clone(), Some(record.id.as_str()));
    events::tell_of(&site.dirs.log, &site.caller, Event::Export, whose, about)?;
    tree.keep();
    say(global, args, &told)
}

/// What it is exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bag,
    Crate(Profile),
    Sacro,
    Statement,
    Task,
}

impl Form {
    fn of(args: &ExportArgs) -> Self {
        match args.ro_crate {
            Some(CrateProfile::Process) => Self::Crate(Profile::Process),
            Some(CrateProfile::FiveSafes) => Self::Crate(Profile::FiveSafes),
            None if args.sacro => Self::Sacro,
            None if args.in_toto => Self::Statement,
            None if args.tes_log => Self::Task,
            None => Self::Bag,
        }
    }

    /// Its name in the audit log.
    fn name(self) -> &'static str {
        match self {
            Self::Bag => "bagit",
            Self::Crate(Profile::Process) => "ro-crate process",
            Self::Crate(Profile::FiveSafes) => "ro-crate five-safes",
            Self::Sacro => "sacro",
            Self::Statement => "in-toto",
            Self::Task => "tes",
        }
    }
}

fn say(global: &Global, args: &ExportArgs, told: &Told) -> Result<u8> {
    if args.json {
        print::json(&json!({
            "directory": args.out, "files": told.files, "bytes": told.bytes, "left_out": told.left_out, "signed": told.key,
        }))?;
    } else if !global.quiet {
        print::line(&format!("{}: {} files, {} bytes", args.out.display(), told.files, told.bytes))?;
        told.left_out.iter().try_for_each(|what| print::note(&format!("left out: {what}")))?;
        match &told.key {
            Some(key) => print::line(&format!("signed by {key}, the key of this host's audit log"))?,
            None if args.in_toto => {
                print::note("it is not signed: root alone signs with the key of this host; root exports it signed")?;
            }
            None => {}
        }
    }
    Ok(0)
}

/// What is exported.
#[derive(Debug, Clone, Copy)]
struct Exporter<'a> {
    site: &'a Site,
    record: &'a Record,
    run: &'a Released,
}

impl Exporter<'_> {
    fn export(&self, form: Form, tree: &NewTree) -> Result<Told> {
        match form {
            Form::Bag => self.bag(tree),
            Form::Crate(profile) => self.ro_crate(tree, profile),
            Form::Sacro => self.sacro(tree),
            Form::Statement => self.in_toto(tree),
            Form::Task => self.task(tree),
        }
    }

    /// The pre-check of this moment.
    fn precheck(&self) -> Result<Report> {
        let mut report = precheck::of_run(self.site, self.record)?;
        // Where a home is tells who they are.
        report.directory.clear();
        Ok(report)
    }

    /// A bag (BagIt 1.0).
    fn bag(&self, tree: &NewTree) -> Result<Told> {
        let report = self.precheck()?;
        let mut oxum = Oxum::default();
        let mut manifest = Vec::new();
        let mut add = |name: String, bytes: u64, sha512: String| {
            oxum.bytes = oxum.bytes.saturating_add(bytes);
            oxum.files += 1;
            manifest.push((name, sha512));
        };
        let place = |path: &str| format!("{}outputs/{path}", bag::PAYLOAD);
        let left_out = copy((self.site, self.record), tree, &mut |path| place(path), &mut |output: Output| {
            add(place(&output.path), output.bytes, output.sha512);
            Ok(())
        })?;
        for (name, document) in [("run.json", self.run.document(&left_out)), ("precheck.json", value(&report)?)] {
            let name = format!("{}{name}", bag::PAYLOAD);
            let copied = write(tree, &name, &document)?;
            add(name, copied.bytes, copied.sha512);
        }
        manifest.sort();
        finish_bag(self.run, tree, &manifest, oxum)?;
        Ok(Told { files: oxum.files, bytes: oxum.bytes, left_out, key: None })
    }

    /// An RO-Crate.
    fn ro_crate(&self, tree: &NewTree, profile: Profile) -> Result<Told> {
        let known = Known::of(self.site.policy.identity(), self.record)?;
        let report = self.precheck()?;
        let mut outputs = Vec::new();
        let description = format!("Output of run {}, not yet checked for disclosure", self.run.id);
        let left_out =
            copy((self.site, self.record), tree, &mut |path| format!("outputs/{path}"), &mut |output: Output| {
                let Output { path, bytes, sha256, media, .. } = output;
                let name = format!("outputs/{path}");
                few(outputs.len())?;
                outputs.push(Item { name, description: description.clone(), bytes, sha256, media });
                Ok(())
            })?;
        let document = |name: &str, description: &str, value: &Value| {
            let Copied { bytes, sha256, .. } = write(tree, name, value)?;
            let media = "application/json".to_owned();
            Ok::<_, Error>(Item { name: name.to_owned(), description: description.to_owned(), bytes, sha256, media })
        };
        let record = document(
            "run.json",
            "The record that ces kept of the run, as it may leave",
            &self.run.document(&left_out),
        )?;
        let others = [document("precheck.json", "What a program found in the outputs; no decision", &value(&report)?)?];
        let pulled = self.site.store().and_then(|store| store.find(&self.record.digest)).ok();
        let pulled = pulled.as_ref().map(|image| image.record().pulled.as_str());
        let facts = Facts { run: self.run, known: &known, outputs: &outputs, record: &record, others: &others, pulled };
        if profile == Profile::FiveSafes {
            for (name, document) in five_safes::workflow(&facts) {
                write(tree, &name, &document)?;
            }
        }
        write(tree, METADATA, &ro_crate::metadata(profile, &facts)?)?;
        let items = || outputs.iter().chain([&record]).chain(&others);
        let files = u64::try_from(items().count()).unwrap_or(u64::MAX);
        Ok(Told { files, bytes: items().map(|item| item.bytes).sum(), left_out, key: None })
    }

    /// A directory for SACRO-Viewer.
    fn sacro(&self, tree: &NewTree) -> Result<Told> {
        let mut paths = Vec::new();
        listed::each(self.site, self.record, &mut |line| {
            if line.kind == What::File {
                few(paths.len())?;
                paths.push(String::from_utf8_lossy(&line.path().unwrap_or_default()).into_owned());
            }
            Ok(())
        })?;
        if let Some(found) = sacro::session(paths.iter().map(String::as_str)) {
            let place = if found.is_empty() { "the outputs".to_owned() } else { format!("{found}/ of the outputs") };
            return Err(Error::new(Stage::Outputs, Kind::Failed, "the run left a session of ACRO's")
                .because(format!(
                    "{} holds its document and its checksums, which the run itself wrote: nothing vouches for them",
                    crate::text::neutral_line(&place)
                ))
                .hint("what SACRO-Viewer shows of it is the run's own word; ces export --bagit has all of it with a pre-check"));
        }
        let report = self.precheck()?;
        // Of entries whose findings are not kept the worst is told that one of them may have.
        let not_kept = (report.not_kept(), vec![sacro::NOT_KEPT.to_owned()]);
        let found: BTreeMap<&Name, _> =
            report.files.iter().map(|file| (&file.looked.name, &file.looked.findings)).collect();
        let mut names = sacro::Names::default();
        let mut entries: Vec<sacro::Entry> = Vec::new();
        let mut given = BTreeMap::new();
        let mut place = |path: &str| {
            let name = names.give(path);
            given.insert(path.to_owned(), name.clone());
            name
        };
        let mut copied = Vec::new();
        let left_out = copy((self.site, self.record), tree, &mut place, &mut |output| {
            copied.push(output);
            Ok(())
        })?;
        for Output { path, bytes, sha256, .. } in copied {
            let name = given.remove(&path).unwrap_or_default();
            let checksum = format!("{}/{name}.txt", sacro::CHECKSUMS);
            tree.write(checksum.as_bytes(), &mut sha256.as_bytes())?;
            let findings = found.get(&Name::new(path.as_bytes()));
            entries.push(sacro::Entry {
                level: match findings {
                    Some(all) => all.iter().map(|finding| finding.level).min(),
                    None => not_kept.0,
                },
                found: match findings {
                    Some(all) => Some(all.iter().map(|finding| finding.because.clone()).collect()),
                    None => (report.more > 0).then(|| not_kept.1.clone()),
                },
                path,
                name,
                bytes,
                sha256,
            });
        }
        let mut left_out = left_out;
        left_out.extend((report.more > 0).then(|| {
            format!("of {} entries what the pre-check found: it keeps that of 10,000; their status is the worst that one of them may have", report.more)
        }));
        write(tree, sacro::DOCUMENT, &sacro::document(self.run, &entries))?;
        write(tree, "run.json", &self.run.document(&left_out))?;
        write(tree, "precheck.json", &value(&report)?)?;
        let files = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        Ok(Told { files, bytes: entries.iter().map(|entry| entry.bytes).sum(), left_out, key: None })
    }

    /// A statement about the outputs, without them; signed where the caller is root, or whose log it is.
    fn in_toto(&self, tree: &NewTree) -> Result<Told> {
        let url = known::address(self.site.policy.identity())?;
        let (mut subjects, mut left_out, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
        let told = listed::each(self.site, self.record, &mut |line| {
            if line.kind != What::File {
                return Ok(());
            }
            let path = line.path().unwrap_or_default();
            match (String::from_utf8(path), line.sha256) {
                (Ok(name), Some(sha256)) => {
                    few(subjects.len())?;
                    bytes = bytes.saturating_add(line.size.unwrap_or_default());
                    subjects.push(Subject { name, sha256 });
                }
                (name, _) if left_out.len() < 100 => {
                    let name = name.unwrap_or_else(|e| crate::text::neutral_bytes(e.as_bytes()));
                    left_out.push(format!(
                        "{}: it has no hash, or its name is not UTF-8",
                        crate::text::neutral_line(&name)
                    ));
                }
                _ => {}
            }
            Ok(())
        })?;
        left_out.extend(told.cut.as_ref().map(|why| format!("what is not in the list of outputs: {why}")));
        let record_sha256 = records::sha256(self.site, &self.record.id)?;
        let statement = in_toto::statement(self.run, url, &subjects, &record_sha256);
        let text = serde_json::to_vec(&statement).map_err(|e| failed(&e))?;
        tree.write(b"statement.json", &mut text.as_slice())?;
        let key = self.sign(tree, &text)?;
        let files = u64::try_from(subjects.len()).unwrap_or(u64::MAX);
        Ok(Told { files, bytes, left_out, key })
    }

    /// A task of TES: what was executed, how it ended, what it left; without the outputs.
    fn task(&self, tree: &NewTree) -> Result<Told> {
        let url = known::address(self.site.policy.identity())?;
        let (mut outputs, mut left_out) = (Vec::new(), Vec::new());
        let told = listed::each(self.site, self.record, &mut |line| {
            if line.kind == What::File {
                few(outputs.len())?;
                match String::from_utf8(line.path().unwrap_or_default()) {
                    Ok(path) => outputs.push(tes::Output { path, bytes: line.size.unwrap_or_default() }),
                    Err(e) if left_out.len() < 100 => {
                        left_out.push(format!("{}: its name is not UTF-8", crate::text::neutral_bytes(e.as_bytes())));
                    }
                    Err(_) => {}
                }
            }
            Ok(())
        })?;
        left_out.extend(told.cut.as_ref().map(|why| format!("what is not in the list of outputs: {why}")));
        let record_sha256 = records::sha256(self.site, &self.record.id)?;
        write(tree, tes::DOCUMENT, &tes::task(self.run, url, &outputs, &left_out, &record_sha256))?;
        let files = u64::try_from(outputs.len()).unwrap_or(u64::MAX);
        Ok(Told { files, bytes: outputs.iter().map(|output| output.bytes).sum(), left_out, key: None })
    }

    /// Signs a statement, where that is for the caller; gives the key's fingerprint.
    fn sign(&self, tree: &NewTree, text: &[u8]) -> Result<Option<String>> {
        if self.site.caller.by_sudo {
            return Ok(None);
        }
        let host = log::file_stem(&Machine::this()?.host);
        let (envelope, key) = as_root(|root| {
            let dir = log::directory(root, &self.site.dirs.log)?.ok_or_else(|| failed(&"there is no audit log"))?;
            envelope::sign(root, &dir, &host, in_toto::PAYLOAD, text)
        })?;
        write(tree, "envelope.json", &value(&envelope)?)?;
        tree.write(b"key.pub", &mut format!("{key}\n").as_bytes())?;
        Ok(envelope.signatures.first().map(|signed| signed.keyid.clone()))
    }
}

/// Refuses one more than a document may have.
fn few(already: usize) -> Result<()> {
    if already < MOST {
        return Ok(());
    }
    Err(Error::new(Stage::Outputs, Kind::Failed, format!("the run left more than {MOST} files"))
        .because("this form tells of each file in one document")
        .hint("ces export --bagit has no such bound"))
}

fn failed(e: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Record, Kind::Failed, "cannot write the export").because(e)
}

fn value(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| failed(&e))
}

/// Writes a document for people and programs.
fn write(tree: &NewTree, name: &str, document: &Value) -> Result<Copied> {
    let mut text = serde_json::to_vec_pretty(document).map_err(|e| failed(&e))?;
    text.push(b'\n');
    tree.write(name.as_bytes(), &mut text.as_slice())
}

/// The texts that make a bag of it.
fn finish_bag(run: &Released, tree: &NewTree, manifest: &[(String, String)], oxum: Oxum) -> Result<()> {
    let lines: Option<String> =
        manifest.iter().map(|(path, sha512)| bag::manifest_line(path.as_bytes(), sha512)).collect();
    let lines = lines.ok_or_else(|| failed(&"a name is not UTF-8"))?;
    let day: String = now().chars().take(10).collect();
    let facts = [
        ("External-Identifier", run.id.as_str()),
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
