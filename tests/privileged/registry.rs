//! Registries: a real one on loopback, and one that lies.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ces::image::reference::Digest;
use ces::image::source::registry::Registry;
use ces::image::source::{Credentials, RegistryRule, RegistryRules};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};

/// Debian's docker-registry on a free port, with its data below a temporary directory.
struct RealRegistry {
    host: String,
    directory: tempfile::TempDir,
    child: Child,
}

impl RealRegistry {
    /// With `login`, everyone has to be researcher:secret.
    fn start(login: bool) -> Option<Self> {
        Self::start_with(login, |_| String::new())
    }

    /// `http` adds lines to the section on http, and may put files into the directory.
    fn start_with(login: bool, http: impl FnOnce(&Path) -> String) -> Option<Self> {
        if !Path::new("/usr/bin/docker-registry").exists() {
            assert!(std::env::var_os("CES_MUST_RUN").is_none(), "docker-registry is not installed");
            eprintln!("skipped: docker-registry is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let auth = if login {
            let file = directory.path().join("htpasswd");
            // bcrypt of "secret"
            fs::write(&file, "researcher:$2y$05$CyJg85IweztHs55QxKA./Oy6XAMzNN1t4nJXu2XctWCTYIv3p9k7i\n").unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        } else {
            String::new()
        };
        let config = directory.path().join("config.yml");
        let data = directory.path().join("data");
        let http = http(directory.path());
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{http}{auth}",
                data.display()
            ),
        )
        .unwrap();
        let child = Command::new("/usr/bin/docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { host: format!("127.0.0.1:{port}"), directory, child })
    }

    /// Puts a layout's image into the registry's own files, as `lab/tool:1`.
    fn push(&self, layout: &LayoutDir) -> Digest {
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
        let manifest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
        let root = self.directory.path().join("data/docker/registry/v2");
        let repository = root.join("repositories/lab/tool");
        let link = |path: &str, digest: &str| {
            let path = repository.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, digest).unwrap();
        };
        for blob in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let hex = blob.file_name().into_string().unwrap();
            let target = root.join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]));
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(blob.path(), target).unwrap();
            link(&format!("_layers/sha256/{hex}/link"), &format!("sha256:{hex}"));
        }
        link(&format!("_manifests/revisions/sha256/{}/link", manifest.hex()), manifest.as_str());
        link("_manifests/tags/1/current/link", manifest.as_str());
        link(&format!("_manifests/tags/1/index/sha256/{}/link", manifest.hex()), manifest.as_str());
        manifest
    }

    fn image(&self, credentials: Option<Credentials>) -> Registry {
        origin(&format!("{}/lab/tool:1", self.host), credentials)
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn origin(reference: &str, credentials: Option<Credentials>) -> Registry {
    Registry::new(reference.parse().unwrap(), &RegistryRules::default(), credentials).unwrap()
}

fn image() -> LayoutDir {
    let layer = |name: &str, pack| Layer::new(&Tar::default().dir("d/").file(name, &[7; 70_000]).end(), pack);
    LayoutDir::of(&[layer("d/a", Pack::Gzip), layer("d/b", Pack::Zstd), layer("d/c", Pack::Plain)])
}

#[test]
fn an_image_comes_from_a_real_registry_and_a_second_pull_takes_nothing() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let manifest = registry.push(&image());
    let site = Site::new();
    let name = format!("{}/lab/tool:1", registry.host);
    let first = site.pull_from(&registry.image(None), &name).unwrap();
    assert_eq!((first.digest, first.fetched), (manifest.clone(), 3));
    let second = site.pull_from(&registry.image(None), &name).unwrap();
    assert_eq!((second.digest, second.fetched), (manifest.clone(), 0));
    let found = site.store().find(&name).unwrap();
    assert_eq!(found.layers().len(), 3);
    let pinned = format!("{}/lab/tool@{manifest}", registry.host);
    site.pull_from(&origin(&pinned, None), &pinned).unwrap();
    assert_eq!(site.store().find(&pinned).unwrap().manifest_digest(), &manifest);
    site.assert_no_leftovers();
}

#[test]
fn a_password_is_asked_for_taken_or_refused_each_with_its_own_words() {
    let Some(registry) = RealRegistry::start(true) else { return };
    registry.push(&image());
    let site = Site::new();
    let pull = |credentials| site.pull_from(&registry.image(credentials), "localhost/x:1");
    let report = pull(None).unwrap_err().report();
    assert!(report.contains("does not give") && report.contains("--username"), "{report}");
    let report = pull(Some(Credentials::new("researcher", "wrong"))).unwrap_err().report();
    assert!(report.contains("refuses researcher"), "{report}");
    assert_eq!(pull(Some(Credentials::new("researcher", "secret"))).unwrap().fetched, 3);
}

#[test]
fn an_unknown_image_and_a_silent_host_are_told_apart() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let site = Site::new();
    let unknown = origin(&format!("{}/no/such:1", registry.host), None);
    let report = site.pull_from(&unknown, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("does not exist"), "{report}");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = origin(&format!("127.0.0.1:{port}/no/such:1"), None);
    let report = site.pull_from(&nobody, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("cannot reach the registry"), "{report}");
}

/// A registry that answers what the test says.
struct Liar {
    host: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Answer {
    Body(&'static str, Vec<u8>),
    /// Announces more than it sends, then hangs up.
    Short(Vec<u8>, usize),
    /// Never ends.
    Endless,
    Status(u16, Vec<(&'static str, String)>),
}

impl Liar {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let answers: Arc<Mutex<HashMap<String, Answer>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (all, log) = (Arc::clone(&answers), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (all, log) = (Arc::clone(&all), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &all, &log));
            }
        });
        Self { host, answers, asked }
    }

    fn answer(&self, path: impl Into<String>, answer: Answer) {
        self.answers.lock().unwrap().insert(path.into(), answer);
    }

    /// Answers with all of a layout, as `x:1`.
    fn offer(&self, layout: &LayoutDir) {
        for blob in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let bytes = fs::read(blob.path()).unwrap();
            self.blob(&Digest::of(&bytes), Answer::Body("application/octet-stream", bytes));
        }
        let manifest = manifest_of(layout);
        self.answer("/v2/x/manifests/1", Answer::Body("application/vnd.oci.image.manifest.v1+json", manifest));
    }

    fn blob(&self, digest: &Digest, answer: Answer) {
        self.answer(format!("/v2/x/blobs/{digest}"), answer);
    }

    #[track_caller]
    fn refused(&self) -> String {
        let site = Site::new();
        let error = site.pull_from(&origin(&format!("{}/x:1", self.host), None), "localhost/x:1").unwrap_err();
        site.assert_no_leftovers();
        site.assert_canary_unharmed();
        assert!(site.store().images().unwrap().is_empty());
        error.report()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answers: &Mutex<HashMap<String, Answer>>, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut authorization = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        if header.to_lowercase().starts_with("authorization:") {
            authorization = header.trim().to_owned();
        }
    }
    log.lock().unwrap().push(format!("{path} {authorization}").trim().to_owned());
    let answer = answers.lock().unwrap().get(&path).cloned();
    let head = |kind: &str, length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
    };
    // The client may hang up at any time: that is what is being tested.
    match answer {
        Some(Answer::Body(kind, body)) => {
            stream.write_all(head(kind, body.len()).as_bytes()).ok();
            stream.write_all(&body).ok();
        }
        Some(Answer::Short(body, announced)) => {
            stream.write_all(head("application/octet-stream", announced).as_bytes()).ok();
            stream.write_all(&body).ok();
        }
        Some(Answer::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok();
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        }
        Some(Answer::Status(status, headers)) => {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("HTTP/1.1 {status} No\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).ok();
        }
        None => {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        }
    }
    stream.shutdown(std::net::Shutdown::Write).ok();
    reader.read_to_end(&mut Vec::new()).ok();
}

fn manifest_of(layout: &LayoutDir) -> Vec<u8> {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    fs::read(layout.path().join("blobs/sha256").join(digest.hex())).unwrap()
}

fn one_layer() -> (LayoutDir, Layer) {
    let layer = Layer::new(&Tar::default().file("a", &[b'x'; 300_000]).end(), Pack::Gzip);
    (LayoutDir::of(std::slice::from_ref(&layer)), layer)
}

#[test]
fn the_honest_answers_of_the_lying_registry_make_an_image() {
    let liar = Liar::start();
    liar.offer(&one_layer().0);
    let site = Site::new();
    site.pull_from(&origin(&format!("{}/x:1", liar.host), None), "localhost/x:1").unwrap();
}

#[test]
fn a_blob_of_other_bytes_is_refused() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let mut other = layer.blob.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    liar.blob(&Digest::of(&layer.blob), Answer::Body("application/octet-stream", other));
    let report = liar.refused();
    assert!(report.contains("is not what was announced") && report.contains("layer 1 of 1"), "{report}");
}

#[test]
fn a_blob_that_is_cut_short_is_refused() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let half = layer.blob[..layer.blob.len() / 2].to_vec();
    liar.blob(&Digest::of(&layer.blob), Answer::Body("application/octet-stream", half.clone()));
    let report = liar.refused();
    assert!(report.contains("bytes came"), "{report}");
    liar.blob(&Digest::of(&layer.blob), Answer::Short(half, layer.blob.len()));
    let report = liar.refused();
    assert!(report.contains("layer 1 of 1"), "{report}");
}

#[test]
fn a_blob_without_end_is_cut_off_at_its_announced_size() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    liar.blob(&Digest::of(&layer.blob), Answer::Endless);
    let started = Instant::now();
    let report = liar.refused();
    assert!(report.contains("more than the announced"), "{report}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_manifest_without_end_is_refused() {
    let liar = Liar::start();
    liar.answer("/v2/x/manifests/1", Answer::Endless);
    let report = liar.refused();
    assert!(report.contains("where a document belongs"), "{report}");
}

#[test]
fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let liar = Liar::start();
    let (layout, _) = one_layer();
    liar.offer(&layout);
    let wanted = Digest::of(b"something else");
    liar.answer(
        format!("/v2/x/manifests/{wanted}"),
        Answer::Body("application/vnd.oci.image.manifest.v1+json", manifest_of(&layout)),
    );
    let site = Site::new();
    let pinned = origin(&format!("{}/x@{wanted}", liar.host), None);
    let report = site.pull_from(&pinned, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("has the digest"), "{report}");
}

#[test]
fn a_document_of_another_type_than_the_answer_says_is_refused() {
    let liar = Liar::start();
    let (layout, _) = one_layer();
    liar.offer(&layout);
    liar.answer("/v2/x/manifests/1", Answer::Body("application/vnd.oci.image.index.v1+json", manifest_of(&layout)));
    assert!(liar.refused().contains("is not a application/vnd.oci.image.index"));
}

#[test]
fn a_layer_from_another_address_is_refused_and_the_address_never_called() {
    let canary = Liar::start();
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest_of(&layout)).unwrap();
    manifest["layers"][0]["urls"] = serde_json::json!([format!("http://{}/layer", canary.host)]);
    liar.answer(
        "/v2/x/manifests/1",
        Answer::Body("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest).unwrap()),
    );
    liar.blob(&Digest::of(&layer.blob), Answer::Status(404, vec![]));
    assert!(liar.refused().contains("fetched from other addresses"));
    assert!(canary.asked().is_empty());
}

#[test]
fn a_password_is_not_sent_where_a_registry_points() {
    let liar = Liar::start();
    let realm = "Bearer realm=\"http://192.0.2.7/token\",service=\"x\"".to_owned();
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm)]));
    let site = Site::new();
    let credentials = Some(Credentials::new("researcher", "secret"));
    let report =
        site.pull_from(&origin(&format!("{}/x:1", liar.host), credentials), "localhost/x:1").unwrap_err().report();
    assert!(report.contains("would not be encrypted"), "{report}");
    assert_eq!(liar.asked(), ["/v2/x/manifests/1"]);
}

#[test]
fn a_token_is_fetched_and_goes_with_manifests_and_blobs() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", liar.host);
    // Both requests are answered 401: enough to see that a token was fetched and sent.
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm)]));
    liar.answer(
        "/token?scope=repository%3Ax%3Apull&service=x",
        Answer::Body("application/json", br#"{"token":"t0ken"}"#.to_vec()),
    );
    let report = liar.refused();
    assert!(report.contains("does not give"), "{report}");
    let asked = liar.asked();
    assert!(asked.last().unwrap().contains("Bearer t0ken"), "{asked:?}");
    drop(layer);
}

#[test]
fn an_image_list_without_this_platform_says_what_there_is() {
    let liar = Liar::start();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b""), "size": 3,
            "platform": {"os": "linux", "architecture": "mips", "variant": "x\u{1b}[31m"}}]});
    liar.answer(
        "/v2/x/manifests/1",
        Answer::Body("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&index).unwrap()),
    );
    let report = liar.refused();
    assert!(report.contains("linux/mips") && !report.contains('\u{1b}'), "{report}");
}

#[test]
fn a_registry_that_the_policy_does_not_list_is_refused_before_it_is_asked() {
    let liar = Liar::start();
    let rules = RegistryRules {
        allow: Some(vec!["ghcr.io".to_owned()]),
        contact: Some("Information Governance".to_owned()),
        ..RegistryRules::default()
    };
    let error = Registry::new(format!("{}/x:1", liar.host).parse().unwrap(), &rules, None).unwrap_err();
    assert_eq!(error.exit_status(), 3);
    assert!(error.report().contains("Information Governance"));
    assert!(liar.asked().is_empty());
}

#[test]
fn a_mirror_gives_the_bytes_and_the_image_keeps_its_name() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let manifest = registry.push(&image());
    let mirror = |url: String| RegistryRules {
        allow: Some(vec!["ghcr.io".to_owned()]),
        hosts: [("ghcr.io".to_owned(), RegistryRule { mirror: Some(url), ca: None })].into(),
        contact: None,
    };
    let rules = mirror(format!("http://{}/", registry.host));
    let origin = Registry::new("ghcr.io/lab/tool:1".parse().unwrap(), &rules, None).unwrap();
    let site = Site::new();
    site.pull_from(&origin, "ghcr.io/lab/tool:1").unwrap();
    assert_eq!(site.store().find("ghcr.io/lab/tool:1").unwrap().manifest_digest(), &manifest);
    for url in ["http://mirror.example", "ftp://127.0.0.1", "127.0.0.1:5000"] {
        assert!(Registry::new("ghcr.io/x:1".parse().unwrap(), &mirror(url.to_owned()), None).is_err(), "{url}");
    }
}

#[test]
fn a_certificate_of_the_sites_own_is_trusted_where_the_policy_says_and_nowhere_else() {
    let certificate = |directory: &Path| {
        let openssl = |arguments: &str| {
            let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n").unwrap();
        openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=site -days 2 -keyout ca.key -out ca.pem");
        openssl("req -newkey rsa:2048 -nodes -subj /CN=registry -keyout server.key -out server.csr");
        openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out server.pem");
        let path = |name: &str| directory.join(name).display().to_string();
        format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"))
    };
    let Some(registry) = RealRegistry::start_with(false, certificate) else { return };
    registry.push(&image());
    let rules = |mirror: Option<String>, ca: Option<&str>| RegistryRules {
        hosts: [(
            "ghcr.io".to_owned(),
            RegistryRule { mirror, ca: ca.map(|name| registry.directory.path().join(name)) },
        )]
        .into(),
        ..RegistryRules::default()
    };
    let mirror = || Some(format!("https://{}", registry.host));
    let pull = |rules: &RegistryRules| {
        let origin = Registry::new("ghcr.io/lab/tool:1".parse().unwrap(), rules, None)?;
        Site::new().pull_from(&origin, "ghcr.io/lab/tool:1")
    };
    assert_eq!(pull(&rules(mirror(), Some("ca.pem"))).unwrap().fetched, 3);
    let report = pull(&rules(mirror(), None)).unwrap_err().report();
    assert!(report.contains("certificate") && report.contains("hint: "), "{report}");
    assert!(pull(&rules(mirror(), Some("missing.pem"))).unwrap_err().report().contains("missing.pem"));
}
