//! Options of the verbs on images: `pull`, `rmi`, `fsck`, `inspect`.

use std::path::PathBuf;

use clap::Args;

const SOURCES: &str = "ghcr.io/NS/NAME:TAG, …@sha256:…, docker://…, oci:DIR[:TAG], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] (archives also as .gz and .zst; for NAME also @N)";

/// `ces pull`.
#[derive(Debug, Clone, Args)]
pub struct PullArgs {
    /// User name at the registry
    #[arg(long, value_name = "USER")]
    pub username: Option<String>,
    /// Read the token from the first line of standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// Read user and token from FILE (one line `USER:TOKEN`, readable by you alone)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["username", "password_stdin"])]
    pub creds: Option<PathBuf>,
    /// Fetch the image for another platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Store a local image under this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Where the image is.
    #[arg(value_name = "SOURCE", help = SOURCES)]
    pub source: String,
    /// The token of `ces-pull USER TOKEN IMAGE`; no option gives it.
    #[arg(skip)]
    pub token: Option<Secret>,
}

/// Text that is never shown.
#[derive(Clone, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `ces fsck`.
#[derive(Debug, Clone, Args)]
pub struct FsckArgs {
    /// Remove what is damaged and not in use, so that the next pull fetches it again
    #[arg(long)]
    pub repair: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces rmi`.
#[derive(Debug, Clone, Args)]
pub struct RmiArgs {
    /// References or digests, as `ces images` prints them
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    /// Remove nothing; print what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `ces inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// Reference or digest
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
