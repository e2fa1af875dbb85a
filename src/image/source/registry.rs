//! Registries (distribution-spec). The only file with network and async code.
//!
//! Takes a reference, the policy's rule for its host, perhaps credentials; gives manifests and blobs.
//! Trusts certificates (the system's, and the site's for this host), and otherwise nothing a registry says.
//! Refuses plain http off this machine, documents that are too long, digests that differ from what was asked for.
//!
//! Tokens and manifests are fetched here, because `oci-distribution` reads both without limit and takes a password
//! wherever a registry points; blobs are fetched by it.

use std::fs;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use oci_distribution::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::errors::{DigestError, OciDistributionError};
use oci_distribution::manifest::OciDescriptor;
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::token_cache::RegistryTokenType;
use oci_distribution::{Client, RegistryOperation};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::challenge::{Challenge, Registrar, check_realm};
use super::{Credentials, Origin, RegistryRules, Sink};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::image::document::{DOCUMENT_MAX, Descriptor, Document, MANIFEST_TYPES, Manifest, Platform};
use crate::image::reference::{Digest, Reference, is_loopback};
use crate::text;

const AGENT: &str = concat!("ces/", env!("CARGO_PKG_VERSION"));
/// A registry that says nothing for so long will not say more.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a silent transfer asks whether it is to go on.
const LISTEN_EVERY: Duration = Duration::from_millis(300);
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// The longest token or error message that is read.
const ANSWER_MAX: u64 = 1 << 20;
/// How often a transfer that was cut off is taken up again.
const RESUMES: u32 = 3;

/// An image in a registry.
#[derive(Debug)]
pub struct Registry {
    reference: Reference,
    /// Where the bytes really come from.
    host: String,
    scheme: &'static str,
    ca: Option<Vec<u8>>,
    /// Where else a password may go, as the policy says.
    token_service: Option<String>,
    credentials: Option<Credentials>,
    login: Mutex<Login>,
}

/// What goes with each request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Login {
    #[default]
    Nothing,
    Basic,
    Token(String),
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    /// The image `reference`, reached as the policy says.
    ///
    /// # Errors
    /// When the policy refuses the host, or its rule makes no sense.
    pub fn new(reference: Reference, rules: &RegistryRules, credentials: Option<Credentials>) -> Result<Self> {
        let rule = rules.rule(reference.host())?;
        let wrong = |why: String| {
            Error::new(Stage::Policy, Kind::Failed, format!("the policy for {}", reference.host())).because(why)
        };
        let (scheme, host) = match rule.mirror.as_deref().map(|url| url.trim_end_matches('/')) {
            Some(url) => match url.split_once("://") {
                Some(("https", host)) => ("https", host.to_owned()),
                Some(("http", host)) if is_loopback(host) => ("http", host.to_owned()),
                _ => return Err(wrong(format!("the mirror {url} is not https://HOST[:PORT]"))),
            },
            None if is_loopback(reference.host()) && rule.ca.is_none() => ("http", reference.host().to_owned()),
            // Docker Hub answers at another name than its images have.
            None if reference.host() == "docker.io" => ("https", "registry-1.docker.io".to_owned()),
            None => ("https", reference.host().to_owned()),
        };
        // The site may close it to users.
        let ca = rule.ca.map(|path| {
            as_root(|_| fs::read(&path)).map_err(|e| wrong(format!("cannot read {}: {e}", path.display())))
        });
        let (ca, token_service) = (ca.transpose()?, rule.token);
        Ok(Self { scheme, host, ca, token_service, credentials, login: Mutex::default(), reference })
    }

    fn login(&self) -> Login {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For tokens and manifests: encrypted throughout, few redirects, no redirect to an unencrypted address.
    fn http(&self) -> Result<reqwest::Client> {
        let encrypted = self.scheme == "https";
        let redirect = reqwest::redirect::Policy::custom(move |attempt| {
            if attempt.previous().len() > 5 || (encrypted && attempt.url().scheme() != "https") {
                attempt.error("a redirect to an unencrypted address, or too many")
            } else {
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .redirect(redirect)
            .read_timeout(SILENCE_MAX)
            .connect_timeout(CONNECT_MAX)
            .https_only(encrypted);
        if !encrypted {
            // No certificates to load either.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        if let Some(ca) = &self.ca {
            let certificates = reqwest::Certificate::from_pem_bundle(ca).map_err(|e| self.unreachable(&e))?;
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|e| self.unreachable(&e))
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
        let path = format!("{}/manifests/{named}", self.reference.repository());
        let mut response = self.get(http, &path).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.log_in(http, response.headers()).await?;
            response = self.get(http, &path).await?;
        }
        let status = response.status();
        let headers = response.headers().clone();
        if !status.is_success() {
            let answer = self.body(response, ANSWER_MAX).await.unwrap_or_default();
            return Err(self.status(status, &answer));
        }
        let bytes = self.body(response, DOCUMENT_MAX).await?;
        if let Some(digest) = digest
            && !digest.matches(&bytes)
        {
            return Err(self.lies(&format!("the manifest for {digest} has the digest {}", Digest::of(&bytes))));
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // Only sha256 can be compared with certainty; another algorithm in the header is the registry's own affair.
        if let Some(claimed) = header("docker-content-digest").filter(|claimed| claimed.starts_with("sha256:"))
            && !claimed.parse::<Digest>().is_ok_and(|claimed| claimed.matches(&bytes))
        {
            return Err(self.lies("the manifest does not have the digest that the registry says"));
        }
        let kind = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if MANIFEST_TYPES.contains(&kind) {
            let says_index = kind.contains("index") || kind.contains("list");
            if says_index != matches!(Document::parse(bytes.clone())?, Document::Index(_)) {
                return Err(self.lies(&format!("the document is not a {kind}")));
            }
        }
        Ok(bytes)
    }

    async fn get(&self, http: &reqwest::Client, path: &str) -> Result<reqwest::Response> {
        let mut request =
            http.get(format!("{}://{}/v2/{path}", self.scheme, self.host)).header(ACCEPT, MANIFEST_TYPES.join(", "));
        request = match (self.login(), &self.credentials) {
            (Login::Token(token), _) => request.bearer_auth(token),
            (Login::Basic, Some(credentials)) => request.basic_auth(credentials.user(), Some(credentials.password())),
            _ => request,
        };
        request.send().await.map_err(|e| self.unreachable(&e))
    }

    /// Does what the registry asks for in its answer.
    async fn log_in(&self, http: &reqwest::Client, headers: &HeaderMap) -> Result<()> {
        let challenge =
            headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| Challenge::parse(v.to_str().ok()?)).next();
        let login = match challenge {
            Some(Challenge::Basic) if self.credentials.is_some() => Login::Basic,
            Some(Challenge::Bearer { realm, service }) => {
                Login::Token(self.token(http, &realm, service.as_deref()).await?)
            }
            _ => return Err(self.status(StatusCode::UNAUTHORIZED, &[])),
        };
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
        Ok(())
    }

    async fn token(&self, http: &reqwest::Client, realm: &str, service: Option<&str>) -> Result<String> {
        let mut url = Url::parse(realm).map_err(|e| self.lies(&format!("it sends to \"{realm}\" for a token: {e}")))?;
        let registrar =
            Registrar { name: self.reference.host(), address: &self.host, token: self.token_service.as_deref() };
        check_realm(&url, &registrar, self.credentials.is_some())?;
        let scope = format!("repository:{}:pull", self.reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let mut request = http.get(url);
        if let Some(credentials) = &self.credentials {
            request = request.basic_auth(credentials.user(), Some(credentials.password()));
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let answer = self.body(response, ANSWER_MAX).await?;
        if !status.is_success() {
            return Err(self.status(status, &answer));
        }
        let answer: TokenAnswer =
            serde_json::from_slice(&answer).map_err(|e| self.lies(&format!("its token is malformed: {e}")))?;
        answer.token.or(answer.access_token).ok_or_else(|| self.lies("its token is empty"))
    }

    /// An answer's body, up to `max` bytes.
    async fn body(&self, mut response: reqwest::Response, max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if (bytes.len() + piece.len()) as u64 > max {
                return Err(self.lies(&format!("it answers with more than {max} bytes where a document belongs")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    async fn fetch_blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        let mut refreshed = false;
        let mut resumed = 0;
        let mut seen = 0_u64;
        loop {
            match self.blob_from(descriptor, &mut seen, sink).await {
                Ok(()) => return Ok(()),
                Err(Broken::Final(error)) => return Err(error),
                // A token lives for minutes; an image may take longer.
                Err(Broken::Unauthorized(error)) => {
                    if std::mem::replace(&mut refreshed, true) {
                        return Err(error);
                    }
                    let http = self.http()?;
                    let response = self.get(&http, "").await?;
                    self.log_in(&http, response.headers()).await?;
                }
                Err(Broken::CutOff(error)) => {
                    resumed += 1;
                    if resumed > RESUMES {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// A blob from byte `seen` on.
    async fn blob_from(&self, descriptor: &Descriptor, seen: &mut u64, sink: &mut Sink<'_>) -> Result<(), Broken> {
        let (client, image) = self.client(&descriptor.digest).await.map_err(Broken::Final)?;
        let layer = OciDescriptor {
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            urls: None,
            ..OciDescriptor::default()
        };
        // Asked for as a range: what came before a cut is not fetched again, and is hashed once, by us.
        let response = client.pull_blob_stream_partial(&image, &layer, *seen, None).await;
        let mut stream = match response.map_err(|e| self.broken(e))? {
            BlobResponse::Partial(stream) => stream,
            BlobResponse::Full(stream) if *seen == 0 => stream,
            BlobResponse::Full(_) => {
                return Err(Broken::Final(self.lies("the transfer was cut off and cannot be taken up again")));
            }
        };
        while *seen <= descriptor.size {
            // A registry that falls silent must not keep the sink from saying that the work is to stop.
            let Ok(piece) = tokio::time::timeout(LISTEN_EVERY, stream.next()).await else {
                sink(&[]).map_err(Broken::Final)?;
                continue;
            };
            match piece {
                Some(Ok(bytes)) => {
                    *seen += bytes.len() as u64;
                    sink(&bytes).map_err(Broken::Final)?;
                }
                // It came to its end, and the digest is wrong: the caller has counted and hashed too, and says how.
                Some(Err(e)) if e.get_ref().is_some_and(|inner| inner.is::<DigestError>()) => break,
                Some(Err(e)) => return Err(Broken::CutOff(self.unreachable(&e))),
                None => break,
            }
        }
        Ok(())
    }

    /// The client for blobs, already logged in.
    async fn client(&self, digest: &Digest) -> Result<(Client, oci_distribution::Reference)> {
        let protocol = if self.scheme == "http" { ClientProtocol::Http } else { ClientProtocol::Https };
        let certificate = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
        let config = ClientConfig {
            protocol,
            extra_root_certificates: self.ca.iter().map(certificate).collect(),
            read_timeout: Some(SILENCE_MAX),
            connect_timeout: Some(CONNECT_MAX),
            user_agent: AGENT,
            platform_resolver: None,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| self.unreachable(&e))?;
        let image = oci_distribution::Reference::with_digest(
            self.host.clone(),
            self.reference.repository().to_owned(),
            digest.to_string(),
        );
        match (self.login(), &self.credentials) {
            (Login::Token(token), _) => client.store_auth_if_needed(&self.host, &RegistryAuth::Bearer(token)).await,
            (Login::Basic, Some(credentials)) => {
                let (user, password) = (credentials.user().to_owned(), credentials.password().to_owned());
                // Straight into its cache: otherwise it would ask the registry where to send them.
                client.store_auth_if_needed(&self.host, &RegistryAuth::Basic(user.clone(), password.clone())).await;
                client.tokens.insert(&image, RegistryOperation::Pull, RegistryTokenType::Basic(user, password)).await;
            }
            _ => {}
        }
        Ok((client, image))
    }

    fn broken(&self, error: OciDistributionError) -> Broken {
        match error {
            OciDistributionError::UnauthorizedError { .. } => {
                Broken::Unauthorized(self.status(StatusCode::UNAUTHORIZED, &[]))
            }
            OciDistributionError::ServerError { code: 404, .. } => {
                Broken::Final(self.status(StatusCode::NOT_FOUND, &[]))
            }
            OciDistributionError::RequestError(e) => Broken::CutOff(self.unreachable(&e)),
            other => Broken::Final(
                Error::new(
                    Stage::Pull,
                    Kind::Failed,
                    format!("the registry {} refuses a part of the image", self.host),
                )
                .because(text::neutral_line(&other.to_string())),
            ),
        }
    }

    /// A failure by its status; what the registry says is shown as its own words.
    fn status(&self, status: StatusCode, answer: &[u8]) -> Error {
        let image = &self.reference;
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => match &self.credentials {
                Some(credentials) => Error::new(
                    Stage::Pull,
                    Kind::Failed,
                    format!("the registry {} refuses {}", self.host, credentials.user()),
                )
                .hint("user name, password or token is wrong, or may not read this image"),
                None => Error::new(
                    Stage::Pull,
                    Kind::Failed,
                    format!("the registry {} does not give {image} to anyone", self.host),
                )
                .hint("give --username and --password-stdin, or --creds; or the image does not exist"),
            },
            StatusCode::NOT_FOUND => Error::new(Stage::Pull, Kind::Missing, format!("{image} does not exist")).hint(
                "check name and tag; some registries also say this of private images to those who are not logged in",
            ),
            StatusCode::TOO_MANY_REQUESTS => {
                Error::new(Stage::Pull, Kind::Failed, format!("the registry {} has had too many requests", self.host))
                    .hint("wait, or log in with --username")
            }
            _ => Error::new(Stage::Pull, Kind::Failed, format!("the registry {} does not give {image}", self.host))
                .hint("try again later, or tell who runs the registry"),
        };
        let words: String = String::from_utf8_lossy(answer).chars().take(300).collect();
        let words = text::neutral_line(words.trim());
        error.because(if words.is_empty() {
            format!("it answers {status}")
        } else {
            format!("it answers {status}: {words}")
        })
    }

    fn lies(&self, why: &str) -> Error {
        Error::new(Stage::Pull, Kind::Hostile, format!("the registry {} does not answer as it should", self.host))
            .because(text::neutral_line(why))
            .hint("nothing was kept; tell who runs the registry")
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        Error::new(Stage::Pull, Kind::Failed, format!("cannot reach the registry {}", self.host)).caused_by(error).hint(
            "check the name and the network; a site's own certificate goes into the policy ([registries.\"HOST\"] ca)",
        )
    }
}

/// Why a transfer stopped.
enum Broken {
    /// It may go on where it stopped.
    CutOff(Error),
    /// The token may have expired.
    Unauthorized(Error),
    /// For good.
    Final(Error),
}

impl Origin for Registry {
    fn manifest(&self, platform: &Platform) -> Result<Manifest> {
        block_on(self.fetch_manifest(platform))?
    }

    fn blob(&self, descriptor: &Descriptor, sink: &mut Sink<'_>) -> Result<()> {
        block_on(self.fetch_blob(descriptor, sink))?
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
