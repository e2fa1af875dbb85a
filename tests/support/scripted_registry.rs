//! A registry that does what the test says, request by request: statuses, headers, cut lines, HTTP/1.0, chunks, ranges.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// How often this path was asked for before.
    pub before: usize,
    /// When it came.
    pub at: Instant,
}

impl Asked {
    /// The first byte of the range that is asked for.
    pub fn from(&self) -> usize {
        let range = self.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }

    pub fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", String::as_str)
    }
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    /// As in HTTP/1.0: where the line does.
    Close,
}

/// An answer.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    /// After so many bytes of the body the line is cut.
    cut: Option<usize>,
    /// After these bytes nothing comes for a minute.
    silent: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), framing: Framing::Length, cut: None, silent: false }
    }

    pub fn bytes(body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..Self::status(200) }
    }

    /// The part of `body` that is asked for.
    pub fn range(asked: &Asked, body: &[u8]) -> Self {
        let (from, all) = (asked.from(), body.len());
        if from == 0 {
            return Self::bytes(body);
        }
        let part = Self { status: 206, ..Self::bytes(&body[from..]) };
        part.header("Content-Range", &format!("bytes {from}-{}/{all}", all - 1))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Says that the body is this part of something.
    pub fn partial(mut self, range: &str) -> Self {
        self.status = 206;
        self.header("Content-Range", range)
    }

    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub fn silent_after(mut self, bytes: usize) -> Self {
        self.silent = true;
        self.cut_after(bytes)
    }

    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    pub fn http_1_0(mut self) -> Self {
        self.framing = Framing::Close;
        self
    }

    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let version = if self.framing == Framing::Close { "1.0" } else { "1.1" };
        let mut head = format!("HTTP/{version} {} Word\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match self.framing {
            Framing::Length => format!("Content-Length: {}\r\n\r\n", self.body.len()),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            Framing::Close => "\r\n".to_owned(),
        };
        stream.write_all(head.as_bytes())?;
        let sent = &self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())];
        if self.framing == Framing::Chunked {
            for piece in sent.chunks(1000) {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
            }
            if self.cut.is_none() {
                stream.write_all(b"0\r\n\r\n")?;
            }
        } else {
            stream.write_all(sent)?;
        }
        if self.silent {
            std::thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    }
}

type Script = Box<dyn Fn(&Asked) -> Option<Reply> + Send + Sync>;

/// The registry: what its script does not answer comes from the layout it serves.
pub struct Scripted {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// Serves the image in the OCI layout `layout` as `repository:1`, wherever the script says nothing.
    pub fn start(
        layout: &Path,
        repository: &str,
        script: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let shared: Arc<(Script, HashMap<String, Vec<u8>>)> =
            Arc::new((Box::new(script), documents(layout, repository)));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, log) = (Arc::clone(&shared), Arc::clone(&log));
                std::thread::spawn(move || answer(stream, &shared.0, &shared.1, &log));
            }
        });
        Self { host, asked }
    }

    /// All requests, in their order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Those for a path that has `part` in it.
    pub fn asked_for(&self, part: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.path.contains(part)).collect()
    }
}

/// What an honest registry answers: manifest by tag and digest, blobs by digest.
fn documents(layout: &Path, repository: &str) -> HashMap<String, Vec<u8>> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let tagged = index["manifests"][0]["digest"].as_str().unwrap();
    let mut all = HashMap::new();
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let digest = format!("sha256:{}", blob.file_name().into_string().unwrap());
        let bytes = fs::read(blob.path()).unwrap();
        if digest == tagged {
            all.insert(format!("/v2/{repository}/manifests/1"), bytes.clone());
        }
        all.insert(format!("/v2/{repository}/manifests/{digest}"), bytes.clone());
        all.insert(format!("/v2/{repository}/blobs/{digest}"), bytes);
    }
    all
}

fn answer(mut stream: TcpStream, script: &Script, documents: &HashMap<String, Vec<u8>>, log: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) <= 2 {
            break;
        }
        if let Some((name, value)) = header.trim().split_once(':') {
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
    }
    let asked = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|asked| asked.path == path).count();
        let asked = Asked { path, headers, before, at: Instant::now() };
        log.push(asked.clone());
        asked
    };
    let honest = || documents.get(&asked.path).map(|bytes| Reply::range(&asked, bytes));
    let reply = script(&asked).or_else(honest).unwrap_or_else(|| Reply::status(404));
    // The client may hang up at any time: that is what is being tested.
    reply.send(&mut stream).ok();
    stream.shutdown(std::net::Shutdown::Write).ok();
    reader.read_to_end(&mut Vec::new()).ok();
}
