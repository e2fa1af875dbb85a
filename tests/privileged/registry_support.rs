//! Registries to pull from: a real one on loopback, and one that lies.

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
use ces::image::source::{Credentials, RegistryRules};

use crate::image_support::{LayoutDir, Site};

/// Debian's docker-registry on a free port, with its data below a temporary directory.
pub struct RealRegistry {
    pub host: String,
    pub directory: tempfile::TempDir,
    child: Child,
}

impl RealRegistry {
    /// With `login`, everyone has to be researcher:secret.
    pub fn start(login: bool) -> Option<Self> {
        Self::start_with(login, |_| String::new())
    }

    /// `http` adds lines to the section on http, and may put files into the directory.
    pub fn start_with(login: bool, http: impl FnOnce(&Path) -> String) -> Option<Self> {
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
    pub fn push(&self, layout: &LayoutDir) -> Digest {
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

    pub fn image(&self, credentials: Option<Credentials>) -> Registry {
        origin(&format!("{}/lab/tool:1", self.host), credentials)
    }
}

/// A certificate for `name` ("DNS:registry.test"), and that of its authority (`ca.pem`), for [`RealRegistry::start_with`].
pub fn certificate(directory: &Path, name: &str) -> String {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(directory.join("names"), format!("subjectAltName={name}\nextendedKeyUsage=serverAuth\n")).unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=site -days 2 -keyout ca.key -out ca.pem");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=registry -keyout server.key -out server.csr");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out server.pem");
    let path = |name: &str| directory.join(name).display().to_string();
    format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"))
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn origin(reference: &str, credentials: Option<Credentials>) -> Registry {
    Registry::new(reference.parse().unwrap(), &RegistryRules::default(), credentials).unwrap()
}

/// A registry that answers what the test says.
pub struct Liar {
    pub host: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
pub enum Answer {
    Body(&'static str, Vec<u8>),
    /// Announces more than it sends, then hangs up.
    Short(Vec<u8>, usize),
    /// Announces more than it sends, then says nothing for a minute.
    Stalled(Vec<u8>, usize),
    /// Never ends.
    Endless,
    Status(u16, Vec<(&'static str, String)>),
}

impl Liar {
    pub fn start() -> Self {
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

    pub fn answer(&self, path: impl Into<String>, answer: Answer) {
        self.answers.lock().unwrap().insert(path.into(), answer);
    }

    /// Answers with all of a layout, as `x:1`.
    pub fn offer(&self, layout: &LayoutDir) {
        for blob in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let bytes = fs::read(blob.path()).unwrap();
            self.blob(&Digest::of(&bytes), Answer::Body("application/octet-stream", bytes));
        }
        let manifest = manifest_of(layout);
        self.answer("/v2/x/manifests/1", Answer::Body("application/vnd.oci.image.manifest.v1+json", manifest));
    }

    pub fn blob(&self, digest: &Digest, answer: Answer) {
        self.answer(format!("/v2/x/blobs/{digest}"), answer);
    }

    #[track_caller]
    pub fn refused(&self) -> String {
        let site = Site::new();
        let error = site.pull_from(&origin(&format!("{}/x:1", self.host), None), "localhost/x:1").unwrap_err();
        site.assert_no_leftovers();
        site.assert_canary_unharmed();
        assert!(site.store().images().unwrap().is_empty());
        error.report()
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

pub fn serve(stream: TcpStream, answers: &Mutex<HashMap<String, Answer>>, log: &Mutex<Vec<String>>) {
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
        Some(Answer::Stalled(body, announced)) => {
            stream.write_all(head("application/octet-stream", announced).as_bytes()).ok();
            stream.write_all(&body).ok();
            std::thread::sleep(Duration::from_secs(60));
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

pub fn manifest_of(layout: &LayoutDir) -> Vec<u8> {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    fs::read(layout.path().join("blobs/sha256").join(digest.hex())).unwrap()
}
