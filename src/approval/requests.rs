//! Requests on disk.
//!
//! ```text
//! log/requests/             0700, root's; locked while something in it changes
//!              <uid>/       one directory a researcher
//!                    req-….json    0600
//! ```
//!
//! Takes requests; gives them back; trusts the directory of the log, which root alone can change (for an ordinary user it is their
//! own); refuses a researcher more than `MOST_OPEN` open requests. Of what was decided or taken back the newest are kept:
//! the audit log has the rest.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;

use nix::fcntl::Flock;

use super::image_request::{Request, RequestId, State};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;

const DIRECTORY: &str = "requests";
/// No researcher has more open requests.
pub const MOST_OPEN: usize = 20;
/// No researcher has more requests that are not open; the oldest go.
const MOST_DECIDED: usize = 100;
/// No request is longer, in bytes.
const LARGEST: u64 = 64 << 10;

/// The requests, which nobody else changes while this lives.
#[derive(Debug)]
pub struct Held {
    dir: SiteDir,
    _lock: Flock<File>,
}

/// Holds the requests.
///
/// # Errors
/// When their directory cannot be made, or could be changed by others.
pub fn hold(_: &Root, log: &SiteDir) -> Result<Held> {
    let dir = log.made_below(OsStr::new(DIRECTORY))?;
    let lock = dir.lock()?;
    Ok(Held { dir, _lock: lock })
}

impl Held {
    /// Keeps a new request; `tell` is called before it is there.
    ///
    /// # Errors
    /// When its researcher has too many open ones, `tell` fails, or it cannot be written.
    pub fn add(&self, request: &Request, tell: impl FnOnce() -> Result<()>) -> Result<()> {
        let dir = self.dir.made_below(OsStr::new(&request.uid.to_string()))?;
        let mut all = in_directory(&dir)?.0;
        let open = all.iter().filter(|request| request.state == State::Open).count();
        if open >= MOST_OPEN {
            return Err(Error::new(Stage::Policy, Kind::Failed, format!("{open} requests of yours are open"))
                .because(format!("nobody has more than {MOST_OPEN}"))
                .hint("wait for a decision, or take one back: ces request withdraw REQUEST"));
        }
        tell()?;
        put(&dir, request)?;
        all.retain(|request| request.state != State::Open);
        let over = all.len().saturating_sub(MOST_DECIDED);
        all.iter().take(over).try_for_each(|old| dir.remove(&file_name(&old.id)))
    }

    /// Keeps what became of a request.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn settle(&self, request: &Request) -> Result<()> {
        put(&self.dir.made_below(OsStr::new(&request.uid.to_string()))?, request)
    }

    /// All requests: of `uid`, or of everybody; the oldest first. What cannot be read is said by the second.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn all(&self, uid: Option<u32>) -> Result<(Vec<Request>, Vec<String>)> {
        below(&self.dir, uid)
    }

    /// The request `id`: of `uid`, or of anybody.
    ///
    /// # Errors
    /// When there is none, which is also said of one of somebody else's.
    pub fn find(&self, uid: Option<u32>, id: &RequestId) -> Result<Request> {
        let uids = uid.map_or_else(|| uids(&self.dir), |uid| Ok(vec![uid]))?;
        for uid in uids {
            let Some(dir) = self.dir.below(OsStr::new(&uid.to_string()))? else { continue };
            if let Some(request) = read(&dir, uid, id)? {
                return Ok(request);
            }
        }
        Err(Error::new(Stage::Policy, Kind::Missing, format!("there is no request {id}"))
            .hint("ces request list lists them"))
    }
}

/// All requests, without holding them: each is whole. What cannot be read is said by the second.
///
/// # Errors
/// When a directory cannot be read.
pub fn all(_: &Root, log: &SiteDir, uid: Option<u32>) -> Result<(Vec<Request>, Vec<String>)> {
    match log.below(OsStr::new(DIRECTORY))? {
        Some(dir) => below(&dir, uid),
        None => Ok((Vec::new(), Vec::new())),
    }
}

fn below(dir: &SiteDir, uid: Option<u32>) -> Result<(Vec<Request>, Vec<String>)> {
    let uids = uid.map_or_else(|| uids(dir), |uid| Ok(vec![uid]))?;
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for uid in uids {
        let Some(dir) = dir.below(OsStr::new(&uid.to_string()))? else { continue };
        let (requests, said) = in_directory(&dir)?;
        found.extend(requests);
        unread.extend(said);
    }
    found.sort_by(|a, b| (&a.asked, &a.id).cmp(&(&b.asked, &b.id)));
    Ok((found, unread))
}

/// Whose requests there are.
fn uids(dir: &SiteDir) -> Result<Vec<u32>> {
    Ok(dir.names()?.iter().filter_map(|name| name.parse().ok()).collect())
}

/// The requests of one researcher, the oldest first, and why others cannot be read.
fn in_directory(dir: &SiteDir) -> Result<(Vec<Request>, Vec<String>)> {
    let uid = dir.path().file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok()).unwrap_or(u32::MAX);
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    for name in dir.names()? {
        let Some(Ok(id)) = name.strip_suffix(".json").map(RequestId::parse) else { continue };
        match read(dir, uid, &id) {
            Ok(request) => found.extend(request),
            Err(error) => unread.push(error.to_string()),
        }
    }
    found.sort_by(|a, b| (&a.asked, &a.id).cmp(&(&b.asked, &b.id)));
    Ok((found, unread))
}

fn file_name(id: &RequestId) -> String {
    format!("{id}.json")
}

/// The request `id` in the directory of `uid`. It is what its place says, or it is none: who asks is known by the directory, which
/// was made of the caller's user id, and not by a text.
fn read(dir: &SiteDir, uid: u32, id: &RequestId) -> Result<Option<Request>> {
    let name = file_name(id);
    let Some(file) = dir.document(OsStr::new(&name))? else { return Ok(None) };
    let wrong = |why: String| {
        Error::new(Stage::Policy, Kind::Failed, format!("the request {} is malformed", dir.join(&name).display()))
            .because(why)
            .hint("root can remove the file")
    };
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|e| wrong(e.to_string()))?;
    let request: Request = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if request.uid != uid || request.id != *id {
        return Err(wrong(format!("it says that it is {} of uid {}", request.id, request.uid)));
    }
    Ok(Some(request))
}

fn put(dir: &SiteDir, request: &Request) -> Result<()> {
    let fail = |why: &dyn std::fmt::Display| {
        Error::new(Stage::Policy, Kind::Failed, format!("cannot store the request {}", request.id)).because(why)
    };
    let mut text = serde_json::to_vec_pretty(request).map_err(|e| fail(&e))?;
    text.push(b'\n');
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(fail(&"it is longer than 64 KiB"));
    }
    dir.replace(&file_name(&request.id), &text, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::privilege::as_root;

    fn request(uid: u32, at: usize, state: State) -> Request {
        Request {
            version: 1,
            id: RequestId::new().unwrap(),
            uid,
            user: "ann".to_owned(),
            project: None,
            image: "localhost/x:latest".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            in_store: true,
            reason: "x".to_owned(),
            asked: format!("2026-11-30T00:00:00.{at:03}Z"),
            state,
            decided: None,
        }
    }

    fn log() -> (tempfile::TempDir, SiteDir) {
        let dir = tempfile::tempdir().unwrap();
        let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap();
        (dir, log)
    }

    #[test]
    fn a_researcher_has_so_many_open_requests_and_so_many_others_and_takes_no_place_of_anothers() {
        let (_dir, log) = log();
        let held = as_root(|root| hold(root, &log)).unwrap();
        for at in 0..MOST_OPEN {
            held.add(&request(7, at, State::Open), || Ok(())).unwrap();
        }
        let error = held.add(&request(7, 99, State::Open), || panic!("a refused request is told of")).unwrap_err();
        assert!(error.to_string().contains("nobody has more than 20"), "{error}");
        held.add(&request(8, 0, State::Open), || Ok(())).unwrap();
        // Asked and taken back, again and again.
        for at in 0..300 {
            held.add(&request(8, at, State::Withdrawn), || Ok(())).unwrap();
        }
        let of = |uid| held.all(uid).unwrap().0;
        assert_eq!((of(Some(7)).len(), of(None).len()), (20, 20 + 1 + 101));
        assert!(of(Some(8)).iter().any(|request| request.asked.ends_with("299Z")), "the newest are kept");
        assert_eq!(of(Some(9)).len(), 0);
        assert!(
            held.add(&request(9, 0, State::Open), || Err(Error::new(Stage::Record, Kind::Failed, "full"))).is_err()
        );
        assert_eq!(of(Some(9)).len(), 0, "what could not be told of is not there");
    }

    #[test]
    fn a_request_that_is_not_what_its_place_says_is_none() {
        let (_dir, log) = log();
        let held = as_root(|root| hold(root, &log)).unwrap();
        let (mine, theirs) = (request(7, 0, State::Open), request(8, 1, State::Open));
        held.add(&mine, || Ok(())).unwrap();
        held.add(&theirs, || Ok(())).unwrap();
        assert_eq!(held.find(Some(7), &theirs.id).unwrap_err().kind(), Kind::Missing);
        assert_eq!(held.find(None, &theirs.id).unwrap(), theirs);
        let at = |uid: u32, id: &RequestId| log.join(format!("requests/{uid}/{id}.json"));
        std::fs::copy(at(8, &theirs.id), at(7, &theirs.id)).unwrap();
        assert!(held.find(Some(7), &theirs.id).unwrap_err().to_string().contains("of uid 8"));
        std::fs::remove_file(at(7, &mine.id)).unwrap();
        std::os::unix::fs::symlink(at(8, &theirs.id), at(7, &mine.id)).unwrap();
        assert!(held.find(Some(7), &mine.id).unwrap_err().to_string().contains("symbolic link"));
        // One that cannot be read hides no other.
        let (found, unread) = held.all(None).unwrap();
        assert_eq!((found.len(), unread.len()), (1, 2));
    }
}
