//! `ces rehearse`: a run whose payload is watched, and what it will not get inside.
//!
//! In this order: a local archive is pulled → everything is decided as for a run, on synthetic data → the run → the report.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::prepare::{self, Prepared};
use super::run::{carry_through, new_stage, settle_interaction};
use super::run_report::Report as Said;
use super::{Context, facts, pull};
use crate::bundle::safe_data::SafeData;
use crate::bundle::seccomp;
use crate::cli::{Global, RehearseArgs, RunArgs};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::named_file;
use crate::image::reference::Source;
use crate::rehearsal::advice::Advice;
use crate::rehearsal::report::{self, Conditions, Report};
use crate::rehearsal::{findings, show};
use crate::run::forked_task::ForkedTask;
use crate::run::job_id::JobId;
use crate::run::observations::{Left, Observations};
use crate::run::protocol::Rehearsal;
use crate::run::supervisor::record::Record;

/// Nothing can be said of the image.
const COULD_NOT: u8 = 125;
/// No report of the witness is longer: some thousand paths.
const LARGEST: u64 = 16 << 20;

/// Rehearses an image; the exit status is the verdict.
///
/// # Errors
/// A call that makes no sense, and a refusal of the policy. Everything else is said here: its status would look like a verdict.
pub fn rehearse(global: &Global, args: &RehearseArgs) -> Result<u8> {
    match attempt(global, args) {
        Err(error) if !matches!(error.kind(), Kind::Usage | Kind::Policy | Kind::Interrupted(_)) => {
            Said { quiet: false }.always(&error.report());
            Ok(COULD_NOT)
        }
        other => other,
    }
}

fn attempt(global: &Global, args: &RehearseArgs) -> Result<u8> {
    let mut global = global.clone();
    global.policy = args.rules.clone().or(global.policy);
    let caller = prepare::caller()?;
    if args.options.detach == Some(true) {
        return Err(Error::new(Stage::Cli, Kind::Usage, "a rehearsal cannot be detached")
            .because("its report is what it is for")
            .hint("leave -d out; a shell can run it in the background"));
    }
    let mut run = RunArgs { options: args.options.clone(), words: args.words.clone() };
    if let Some(local) = pull_local(&global, run.image())?
        && let Some(image) = run.words.first_mut()
    {
        *image = local;
    }
    let empty = if args.data.is_none() { Some(empty_directory()?) } else { None };
    let data = args.data.as_deref().or(empty.as_ref().map(TempDir::path)).unwrap_or(Path::new("/"));
    // To real root's payload no directory of root's is given away.
    run.options.data_ro |= caller.uid.is_root();
    let mut prepared = prepare::prepare_on(&global, &run, caller, |_, root, _| synthetic(data, root))?;
    settle_interaction(&mut prepared);
    let (id, said) = (JobId::new()?, Said { quiet: global.quiet });
    let conditions = conditions(&prepared, args.light)?;
    let (image, digest) = (prepared.image.reference().to_owned(), prepared.image.manifest_digest().to_string());
    let file = File::from(memfd_create(c"ces-rehearsal", MFdFlags::MFD_CLOEXEC).map_err(|e| fail(&e))?);
    let report = file.try_clone().map_err(|e| fail(&e))?;
    let idle = new_stage(&prepared.identity.caller)?;
    let asked = (Rehearsal { paths: !args.light }, report.into());
    let (status, record) = carry_through(idle, prepared, &id, (None, Some(asked)), &said)?;
    // What is in it by now the payload has written; where it cannot be removed, it is the caller's own, in TMPDIR.
    drop(empty);
    let (seen, left) = read(file)?;
    let report = judge((seen, left), (status, record), conditions, (image, digest), args)?;
    said.always(&format!("\n{}", show::plain(&report)));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|e| fail(&e))?;
        write(path, &(crate::text::json(&text) + "\n"))?;
    }
    if let Some(path) = &args.markdown {
        write(path, &show::markdown(&report))?;
    }
    Ok(u8::from(!report.ready))
}

/// Pulls what is no reference but a file or directory of this host; gives the name it has in the store.
fn pull_local(global: &Global, word: &str) -> Result<Option<String>> {
    let local = ["oci:", "oci-archive:", "docker-archive:"].iter().any(|kind| word.starts_with(kind));
    if !local {
        return Ok(None);
    }
    let source: Source = word.parse()?;
    // By the file's name: what is in it is not known before it is pulled.
    let name = source.default_reference(None)?.to_string();
    // In a process of its own: what unpacks has threads, and what runs a container forks.
    let pulling = ForkedTask::new(|word| {
        let (source, name) = (word.to_owned(), Some(name.clone()));
        let asked = pull::PullArgs { source, name, quiet: global.quiet, ..pull::PullArgs::default() };
        pull::fetch(&Context::new(global)?, &asked).map(drop)
    })?;
    pulling.run(word)?;
    Ok(Some(name))
}

/// An empty directory in the place of data, which whoever the payload is can read.
fn empty_directory() -> Result<TempDir> {
    let mode = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("ces-rehearsal-").permissions(mode).tempdir().map_err(|e| {
        fail(&e).hint("a directory in TMPDIR or /tmp takes the place of the data; or name one with --data")
    })
}

/// The directory that takes the place of the project's data, which is never mounted in a rehearsal: its payload is not yet approved.
fn synthetic(named: &Path, data_root: &Path) -> Result<SafeData> {
    let path = facts::resolve(named).filter(|path| path.is_dir()).ok_or_else(|| {
        Error::new(Stage::Cli, Kind::Usage, format!("{} is no directory", named.display()))
            .hint("name a directory of synthetic data with --data")
    })?;
    let root = facts::resolve(data_root).unwrap_or_else(|| data_root.to_owned());
    if path.starts_with(&root) || root.starts_with(&path) {
        return Err(Error::new(Stage::Policy, Kind::Policy, format!("{} is not for a rehearsal", named.display()))
            .because(format!("it is {}, and projects' data is in {}", path.display(), root.display()))
            .hint("rehearse on synthetic data, laid out as the project's"));
    }
    Ok(SafeData { project: None, path, group: None })
}

/// Under which conditions it will be: the report holds for these.
fn conditions(prepared: &Prepared, light: bool) -> Result<Conditions> {
    let filter = seccomp::program()?;
    let mut hash = Sha256::new();
    for i in &filter {
        hash.update(i.code.to_le_bytes());
        hash.update([i.jt, i.jf]);
        hash.update(i.k.to_le_bytes());
    }
    let digest = hash.finalize();
    let identity = &prepared.identity;
    let mut not_as_inside = Vec::new();
    if !identity.caller.is_privileged() && identity.nested.is_some() {
        not_as_inside.push(
            "you have no subordinate ids: files of the image are yours here, which inside belong to others (see ces doctor)"
                .to_owned(),
        );
    }
    Ok(Conditions {
        ces: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        filter: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        policy: prepared.policy.file().to_owned(),
        profile: prepared.grant.profile.name.clone(),
        memory: prepared.grant.limits.memory_bytes,
        light,
        not_as_inside,
    })
}

/// What the witness wrote, then what the stage process wrote.
fn read(mut file: File) -> Result<(Observations, Left)> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::new(Stage::Run, Kind::Failed, "the rehearsal has no report").because(e).hint("rehearse again")
    };
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.take(LARGEST).read_to_end(&mut text)).map_err(|e| wrong(&e))?;
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let seen = serde_json::from_slice(next()).map_err(|e| wrong(&e))?;
    let left = serde_json::from_slice(next()).map_err(|e| wrong(&e))?;
    Ok((seen, left))
}

fn judge(
    (seen, left): (Observations, Left),
    (status, record): (u8, Record),
    conditions: Conditions,
    (image, digest): (String, String),
    args: &RehearseArgs,
) -> Result<Report> {
    let found = findings::from(&Advice::load()?, &seen, &left, status != 0);
    let mut not_seen = Vec::new();
    if seen.forgotten > 0 {
        not_seen.push(format!("{} things more than are held", seen.forgotten));
    }
    if left.uncounted {
        not_seen.push(
            "all of the files that are gone with the container: there are too many, or some are closed".to_owned(),
        );
    }
    if args.light {
        not_seen.push("files that are not there, or closed to reading (--light)".to_owned());
    }
    Ok(Report {
        version: 1,
        rehearsal: record.id.to_string(),
        image,
        digest,
        command: record.command.into(),
        conditions,
        exit: status,
        ended: record.ended.unwrap_or_default(),
        seconds: record.seconds.unwrap_or_default(),
        peak_memory: record.peak_memory,
        ready: report::ready(status, &found, args.strict),
        counts: report::count(&found),
        findings: found,
        not_seen,
    })
}

/// Writes a document, with the caller's rights.
fn write(path: &Path, text: &str) -> Result<()> {
    named_file::to_write(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(|e| {
        Error::new(Stage::Cli, Kind::Failed, format!("cannot write {}", path.display()))
            .because(e)
            .hint("name a file in a directory that you can write to")
    })
}

fn fail(e: &dyn std::fmt::Display) -> Error {
    Error::new(Stage::Run, Kind::Failed, "cannot prepare the rehearsal").because(e)
}
