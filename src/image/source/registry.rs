//! Registries (distribution-spec). Network and async code are in this file and its folder alone.
//!
//! Takes a reference, the policy's rule for its host, perhaps credentials; gives manifests and blobs.
//! Trusts certificates (the system's, and the site's for this host), and otherwise nothing a registry says.
//! Refuses plain http off this machine, documents that are too long, digests that differ from what was asked for.
//!
//! What passes (a cut line, "too many requests", "unavailable") is tried again by the rules of `patience`; what does not is
//! told at once.

use std::fs;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{RequestBuilder, StatusCode};

use super::{Credentials, Origin, RegistryRules, Resumable, Sink, Upstream, Watch};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::document::{DOCUMENT_MAX, Descriptor, Document, MANIFEST_TYPES, Manifest, Platform};
use crate::image::reference::{Digest, Reference};
use crate::image::registry_host::is_loopback;

/// What passes, and how long it is waited for.
mod patience;
/// Requests, answers and the words for their failures.
mod http;
/// Tokens.
mod login;
/// Blobs, from any byte on.
mod blob;

use login::Login;
use patience::{Failure, Pauses};

/// An image in a registry.
#[derive(Debug)]
pub struct Registry {
    reference: Reference,
    /// Where the bytes really come from.
    upstream: Upstream,
    ca: Option<Vec<u8>>,
    /// Where else a password may go, as the policy says.
    token_service: Option<String>,
    credentials: Option<Credentials>,
    login: Mutex<Login>,
    watch: Option<Box<dyn Watch>>,
    pauses: Pauses,
}

impl Registry {
    /// The image `reference`, reached as the policy says.
    ///
    /// # Errors
    /// When the policy refuses the host, or its rule makes no sense.
    pub fn new(reference: Reference, rules: &RegistryRules, credentials: Option<Credentials>) -> Result<Self> {
        let rule = rules.rule(reference.host())?;
        let wrong = |why: String| {
            Error::new(
                Stage::Policy,
                Kind::Failed,
                format!("cannot use the policy's rules for the registry {}", reference.host()),
            )
            .because(why)
        };
        let upstream = match rule.mirror.as_deref() {
            Some(url) => url.parse().map_err(|why| wrong(format!("the mirror {url} cannot be used: {why}")))?,
            None if is_loopback(reference.host()) && rule.ca.is_none() => Upstream::of_host("http", reference.host()),
            // Docker Hub answers at another name than its images have.
            None if reference.host() == "docker.io" => Upstream::of_host("https", "registry-1.docker.io"),
            None => Upstream::of_host("https", reference.host()),
        };
        // The site may close it to users.
        let ca = rule.ca.map(|path| {
            as_root(|_| fs::read(&path)).map_err(|e| wrong(format!("cannot read {}: {e}", path.display())))
        });
        Ok(Self {
            upstream,
            ca: ca.transpose()?,
            token_service: rule.token,
            credentials,
            login: Mutex::default(),
            watch: None,
            pauses: Pauses::default(),
            reference,
        })
    }

    /// The same, telling `watch` what it waits for and asking it whether to go on.
    #[must_use]
    pub fn watched_by(mut self, watch: Box<dyn Watch>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// The same, with another first pause before something is tried again; those after it are longer by the same measure.
    #[must_use]
    pub fn pausing(mut self, first: Duration) -> Self {
        self.pauses.first = first;
        self
    }

    /// Whether to go on.
    fn go_on(&self) -> Result<()> {
        self.watch.as_ref().map_or(Ok(()), |watch| watch.go_on())
    }

    fn login(&self) -> Login {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A path of the registry's interface, below this image's repository.
    fn url(&self, rest: &str) -> String {
        let (scheme, host) = (self.upstream.scheme(), self.upstream.host());
        format!("{scheme}://{host}/v2/{}/{rest}", self.upstream.repository(self.reference.repository()))
    }

    /// The request, with what the registry has asked for before.
    fn with_login(&self, request: RequestBuilder) -> RequestBuilder {
        match (self.login(), &self.credentials) {
            (Login::Token(token), _) if token.is_fresh() => request.bearer_auth(token.value()),
            (Login::Basic, Some(credentials)) => request.basic_auth(credentials.user(), Some(credentials.password())),
            _ => request,
        }
    }

    async fn fetch_manifest(&self, platform: &Platform) -> Result<Manifest> {
        let http = self.http()?;
        let named = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let bytes = self.document_at(&http, &named, self.reference.digest()).await?;
        let manifest = match Document::parse(bytes)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let chosen = index.select(platform)?;
                let bytes = self.document_at(&http, chosen.digest.as_str(), Some(&chosen.digest)).await?;
                if bytes.len() as u64 != chosen.size {
                    return Err(self.lies(&format!(
                        "the manifest has {} bytes, its index says {}",
                        bytes.len(),
                        chosen.size
                    )));
                }
                Document::parse(bytes)?.manifest()?
            }
        };
        Ok(manifest)
    }

    /// A manifest or an index, by tag or digest; checked against `digest`, and against the registry's own word.
    async fn document_at(&self, http: &reqwest::Client, named: &str, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let mut patience = self.patience();
        loop {
            let failure = match self.document_once(http, named, digest).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            self.after(http, &mut patience, failure, &mut |_| self.go_on()).await?;
        }
    }

    async fn document_once(
        &self,
        http: &reqwest::Client,
        named: &str,
        digest: Option<&Digest>,
    ) -> Result<Vec<u8>, Failure> {
        let request = http.get(self.url(&format!("manifests/{named}"))).header(ACCEPT, MANIFEST_TYPES.join(", "));
        let response = self.send(self.with_login(request)).await?;
        if response.status() != StatusCode::OK {
            return Err(self.failure(response).await);
        }
        let headers = response.headers().clone();
        let bytes = self.body(response, DOCUMENT_MAX).await?;
        let lies = |why: String| Failure::Final(self.lies(&why));
        if let Some(digest) = digest
            && !digest.matches(&bytes)
        {
            return Err(lies(format!("the manifest for {digest} has the digest {}", Digest::of(&bytes))));
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Only sha256 can be compared with certainty; another algorithm in the header is the registry's own affair.
        if let Some(claimed) = header("docker-content-digest").filter(|claimed| claimed.starts_with("sha256:"))
            && !claimed.parse::<Digest>().is_ok_and(|claimed| claimed.matches(&bytes))
        {
            return Err(lies("the manifest does not have the digest that the registry says".to_owned()));
        }
        let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if MANIFEST_TYPES.contains(&kind) {
            let says_index = kind.contains("index") || kind.contains("list");
            let is_index = matches!(Document::parse(bytes.clone()).map_err(Failure::Final)?, Document::Index(_));
            if says_index != is_index {
                return Err(lies(format!("the document is not a {kind}")));
            }
        }
        Ok(bytes)
    }
}

impl Origin for Registry {
    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        block_on(self.fetch_manifest(platform))?
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        self.blob_from(descriptor, 0, sink)
    }

    fn resumable(&self) -> Option<&dyn Resumable> {
        Some(self)
    }
}

impl Resumable for Registry {
    fn blob_from(&self, descriptor: &Descriptor, from: u64, sink: &mut Sink<'_>) -> Result<()> {
        block_on(self.fetch_blob(descriptor, from, sink))?
    }
}

/// Runs on this thread: the work in between (hashing, passing on) is done as the bytes come.
fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(Stage::Pull, Kind::Host, "cannot start the network client").because(e))?;
    Ok(runtime.block_on(future))
}
