//! `ces pull`: an image from a registry, a layout or an archive into the store.

use std::path::PathBuf;

use super::{Context, print};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::document::Platform;
use crate::image::progress::Progress;
use crate::image::pull::{Request, pull as pull_image};
use crate::image::reference::{Reference, Source};
use crate::image::source::{self, Credentials};
use crate::image::store::Store;
use crate::image::unpack::parent::Unpacker;

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
    let source: Source = args.source.parse()?;
    let reference: Reference = match &args.name {
        Some(name) => own_name(name)?,
        None => source.default_reference()?,
    };
    let platform = match &args.platform {
        Some(platform) => platform.parse()?,
        None => Platform::host(),
    };
    let credentials = match &source {
        Source::Registry(reference) => credentials(args, reference.host())?,
        _ => None,
    };
    let origin = source::open(&source, &ctx.registries, credentials)?;
    let store = Store::open(&ctx.dirs, &ctx.caller)?;
    let unpacker = Unpacker::new(&ctx.caller, &ctx.limits)?;
    let progress = Progress::new(args.quiet);
    let request =
        Request { reference, source: args.source.clone(), by: ctx.caller.name.clone(), platform, progress: &progress };
    let pulled = pull_image(&store, &unpacker, origin.as_ref(), &request)?;
    if args.json {
        return print::json(&pulled);
    }
    print::line(&format!("{}@{}", pulled.reference.split('@').next().unwrap_or_default(), pulled.digest))
}

/// A name that a user may give: one of this host. The names of registries are for what came from them, because policies
/// and readers of records go by them.
fn own_name(name: &str) -> Result<Reference> {
    let reference: Reference = name.parse()?;
    if reference.host() == "localhost" && reference.digest().is_none() {
        return Ok(reference);
    }
    Err(Error::new(Stage::Cli, Kind::Usage, format!("an image cannot be named {reference} here"))
        .because("that name says that it came from a registry, or what its digest is")
        .hint("choose a name such as --name localhost/tool:1.0"))
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
