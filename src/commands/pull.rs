//! `ces pull`: an image from a registry, a layout or an archive into the store.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::{Context, events, prepare, print, pull_outlook};
use crate::bundle::identity::Identity;
use crate::bundle::safe_data;
use crate::error::{Error, Kind, Result, Stage};
use crate::evidence::line::Event;
use crate::host::privilege::as_root;
use crate::host::signals::Interrupt;
use crate::image::document::{Descriptor, Manifest, Platform};
use crate::image::expand::expand;
use crate::image::progress::Progress;
use crate::image::pull::{Pulled, Request, pull as pull_image};
use crate::image::reference::{Reference, Source};
use crate::image::source::{self, Credentials, Origin, Resumable, Sink, Watch};
use crate::image::store::viewer::Rights;
use crate::image::unpack::parent::Unpacker;
use crate::run::forked_task::ForkedTask;
use crate::run::reown;
use crate::stack::load;

/// How long another pull of the same image by the same person is waited for: then it comes over twice, which costs time and room.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `ces pull` is asked.
#[derive(Debug, Clone, Default)]
pub struct PullArgs {
    /// Where the image is.
    pub source: String,
    /// The user at the registry.
    pub username: Option<String>,
    /// The user's password or token, if the command line had one.
    pub password: Option<String>,
    /// Whether the password is on standard input.
    pub password_stdin: bool,
    /// A file with user and password.
    pub creds: Option<PathBuf>,
    /// Another platform than this machine's.
    pub platform: Option<String>,
    /// Another name to keep it by.
    pub name: Option<String>,
    /// No progress.
    pub quiet: bool,
    /// JSON on standard output.
    pub json: bool,
}

/// Pulls an image; prints its name and its manifest's digest.
///
/// # Errors
/// When the image cannot be had or is not what was announced.
pub fn pull(ctx: &Context, args: &PullArgs) -> Result<()> {
    let pulled = fetch(ctx, args)?;
    if args.json {
        return print::json(&pulled);
    }
    print::line(&format!("{}@{}", pulled.reference.split('@').next().unwrap_or_default(), pulled.digest))
}

/// Pulls an image, and says nothing of it.
///
/// # Errors
/// As [`pull`].
pub(super) fn fetch(ctx: &Context, args: &PullArgs) -> Result<Pulled> {
    let source: Source = args.source.parse()?;
    let chosen = args.name.as_ref().map(|name| chosen_name(ctx, &source, name)).transpose()?;
    let platform = match &args.platform {
        Some(platform) => platform.parse()?,
        None => Platform::host(),
    };
    let credentials = match &source {
        Source::Registry(reference) => credentials(args, reference.host())?,
        _ => None,
    };
    let with_password = credentials.is_some();
    let progress = Progress::new(args.quiet);
    // Before the first thread.
    let giving = ForkedTask::new(|reference| give_to_researcher(ctx, reference))?;
    let interrupt = Interrupt::watch()?;
    let watch = Box::new(Watched { interrupt: interrupt.clone(), progress: progress.clone() });
    let (store, unpacker) = (ctx.store()?, Unpacker::new(&ctx.caller, &ctx.limits)?);
    let expanding = Watched { interrupt: interrupt.clone(), progress: progress.clone() };
    let expand =
        |archive: &File, name: &str, compression| expand(&store, &unpacker, &expanding, (archive, name), compression);
    let origin = source::open(&source, &ctx.registries, credentials, watch, &expand)?;
    let reference = match chosen {
        Some(reference) => reference,
        None => own_name(&source, origin.as_ref(), &platform, &progress)?,
    };
    let rights = rights(ctx, &source, &reference, with_password);
    let warn = |why: String| progress.warn(&why);
    pull_outlook::of_platform(&platform).into_iter().for_each(warn);
    let name = reference.clone();
    let judge = |manifest: &Manifest| {
        pull_outlook::of_policy(ctx, &name, &manifest.digest).map(|why| why.into_iter().for_each(warn))
    };
    let origin = Judged { origin: origin.as_ref(), judge: &judge };
    let by = ctx.caller.name.clone();
    let (progress, interrupt) = (&progress, &interrupt);
    let unmapped_may_be = |entries| ctx.policy().unmapped_may_be(entries);
    let request = Request {
        reference,
        source: args.source.clone(),
        by,
        rights,
        platform,
        progress,
        interrupt,
        patience: PATIENCE,
        unmapped_may_be: &unmapped_may_be,
    };
    let pulled = pull_image(&store, &unpacker, &origin, &request).map_err(|e| elsewhere(ctx, e))?;
    // Before anything is said: whoever does not read what is said, and has this ended there, would have an image and no line.
    let about = json!({"image": pulled.reference, "digest": pulled.digest, "from": args.source, "result": "done"});
    events::tell(&ctx.dirs.log, &ctx.caller, Event::Pull, None, about)?;
    pull_outlook::of_owners(&pulled).into_iter().for_each(warn);
    pulled.unused.iter().for_each(|unused| progress.note(unused));
    // What could not be read now is read when somebody asks for it.
    let read = store.find(&pulled.reference).and_then(|image| {
        load::prepare(&store, &unpacker, &image)?;
        pull_outlook::of_stack(ctx, &store, &image)
    });
    match read {
        Ok(refused) => refused.into_iter().for_each(warn),
        Err(error) => progress.note(&format!("what the image says of packages is not read yet: {error}")),
    }
    giving.run(&pulled.reference)?;
    Ok(pulled)
}

/// The name of an image that nobody has named: a registry's, or what its archive calls it.
fn own_name(source: &Source, origin: &dyn Origin, platform: &Platform, progress: &Progress) -> Result<Reference> {
    let own = origin.own_name(platform)?;
    let reference = source.default_reference(own.as_deref())?;
    let of_registry = own.filter(|own| own.parse::<Reference>().is_ok_and(|own| own.host() != "localhost"));
    if let Some(own) = of_registry {
        progress.note(&format!(
            "the archive calls the image {own}; it is kept as {reference}, as a file is not the registry (--name chooses another name)"
        ));
    }
    Ok(reference)
}

/// Whom the transfer tells what it waits for, and asks whether to go on.
#[derive(Debug)]
struct Watched {
    interrupt: Interrupt,
    progress: Progress,
}

impl Watch for Watched {
    fn go_on(&self) -> Result<()> {
        self.interrupt.check(Stage::Pull, "interrupted")
    }

    fn tell(&self, what: &str) {
        self.progress.note(what);
    }
}

/// A source whose manifest is looked at before anything else of it comes.
struct Judged<'a> {
    origin: &'a dyn Origin,
    judge: &'a (dyn Fn(&Manifest) -> Result<()> + Sync),
}

impl Origin for Judged<'_> {
    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        let manifest = self.origin.manifest(platform)?;
        (self.judge)(&manifest).map(|()| manifest)
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        self.origin.blob(descriptor, sink)
    }

    fn resumable(&self) -> Option<&dyn Resumable> {
        self.origin.resumable()
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.origin.document(descriptor)
    }
}

/// What an ordinary user can do where the home's file system holds no owners or attributes (NFS, FUSE and their like).
fn elsewhere(ctx: &Context, error: Error) -> Error {
    let denied = [nix::Error::EPERM, nix::Error::ENOTSUP].map(nix::Error::desc);
    let unsuited = error.causes().iter().any(|cause| denied.iter().any(|words| cause.contains(*words)));
    if ctx.caller.is_privileged() || !unsuited {
        return error;
    }
    let store = ctx.dirs.store.path().display();
    error.hint(format!(
        "the file system of the store {store} does not do what ces needs; name a directory on a local one with --root or CES_ROOT"
    ))
}

/// Whose the image and its name are. An image that took rights of the researcher's own to get is theirs and their project's,
/// and so is every name but that by which a registry of everybody's gives the image to anybody.
fn rights(ctx: &Context, source: &Source, reference: &Reference, with_password: bool) -> Rights {
    let caller = &ctx.caller;
    if !caller.by_sudo {
        return Rights::default();
    }
    let (own, named_by_registry) = match source {
        Source::Registry(origin) => {
            (with_password || !ctx.registries.is_everybodys(origin.host()), reference == origin)
        }
        Source::Layout(..) | Source::LayoutArchive(..) | Source::DockerArchive(..) => (true, false),
    };
    // Without a project it is theirs alone.
    let group = safe_data::find(caller, &ctx.data_root, None).ok().and_then(|data| data.group);
    let group = group.map(nix::unistd::Gid::as_raw).filter(|group| *group != caller.gid.as_raw());
    Rights { own: own && !ctx.shared, own_name: own || !named_by_registry, group }
}

/// What belongs to the image's user will be the researcher's in every run: done here, once.
fn give_to_researcher(ctx: &Context, reference: &str) -> Result<()> {
    if ctx.caller.is_privileged() {
        // Each run maps the layers then (idmapped mounts).
        return Ok(());
    }
    let image = ctx.store()?.find(reference)?;
    // An image without a usable user can still be pulled; what is wrong with it is told when it is run.
    let Ok(user) = prepare::container_user(None, &image) else { return Ok(()) };
    let identity = Identity::new(&ctx.caller, user.uid, user.gid, Vec::new(), false)?;
    as_root(|root| reown::layers(root, &ctx.dirs, &image, &identity)).map(drop)
}

/// The name a user chose. An image of a file, or of another repository, cannot take the name of a registry's image, not even for
/// their project: only who could change the policy anyway may say that a file is such an image.
fn chosen_name(ctx: &Context, source: &Source, name: &str) -> Result<Reference> {
    let first = name.split('/').next().unwrap_or_default();
    let names_host = name.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let reference: Reference = if names_host { name.parse()? } else { format!("localhost/{name}").parse()? };
    let own = match source {
        Source::Registry(origin) => origin.name() == reference.name(),
        Source::Layout(..) | Source::LayoutArchive(..) | Source::DockerArchive(..) => false,
    };
    if !own && ctx.caller.by_sudo && reference.host() != "localhost" {
        return Err(Error::new(Stage::Policy, Kind::Policy, format!("this image cannot be called {reference}"))
            .because("its name would say that it comes from where it does not come from")
            .hint(format!(
                "call it localhost/{}",
                reference.to_string().split_once('/').map_or("", |(_, rest)| rest)
            )));
    }
    Ok(reference)
}

/// The user's name and password for `host`, if any were given.
fn credentials(args: &PullArgs, host: &str) -> Result<Option<Credentials>> {
    let usage = |what: &str| Error::new(Stage::Cli, Kind::Usage, what.to_owned());
    if let Some(file) = &args.creds {
        return Credentials::from_file(file, host).map(Some);
    }
    match (&args.username, &args.password, args.password_stdin) {
        (None, None, false) => Ok(None),
        (Some(user), Some(password), false) => Ok(Some(Credentials::new(user, password))),
        (Some(user), None, true) => Credentials::from_reader(user, std::io::stdin().lock()).map(Some),
        (Some(_), None, false) => {
            Err(usage("a user name needs a password").hint("give it on standard input, with --password-stdin"))
        }
        (None, _, _) => Err(usage("a password needs a user name").hint("give it with --username")),
        (Some(_), Some(_), true) => Err(usage("the password is given twice")),
    }
}
