//! Logs that are appended to, torn, changed, shortened, put aside, signed and proven.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use serde_json::json;

use super::check::{Checked, check};
use super::checkpoint::{self, Checkpoint, unhex};
use super::line::{Entry, Event};
use super::log::{append, directory, file_stem, path};
use super::proof::{Proof, prove};
use crate::host::caller::Mode;
use crate::host::log_dir::{CopyTo, LogDir, Service};
use crate::host::machine::Machine;
use crate::host::privilege::as_root;
use crate::host::site_dir::SiteDir;

struct Desk {
    _dir: tempfile::TempDir,
    log: LogDir,
    host: String,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = SiteDir::of_the_caller(&dir.path().join("log")).unwrap().into();
        Self { _dir: dir, log, host: file_stem(&Machine::this().unwrap().host) }
    }

    fn entry(&self, n: u64) -> Entry {
        let (name, project) = (format!("r{}", n % 2), Some(format!("project{}", n % 2)));
        let run = Some(format!("run{n}"));
        Entry { event: Event::RunBegun, mode: Mode::Enforced, uid: 1, name, project, rule: None, run, about: json!({}) }
    }

    fn append(&self, n: u64) -> crate::error::Result<u64> {
        as_root(|root| append(root, &self.log, &self.entry(n))).map(|place| place.seq)
    }

    fn with(lines: u64) -> Self {
        let desk = Self::new();
        (0..lines).for_each(|n| assert_eq!(desk.append(n).unwrap(), n + 1));
        desk
    }

    fn file(&self) -> PathBuf {
        path(&self.log, &self.host)
    }

    fn dir(&self) -> SiteDir {
        as_root(|root| directory(root, &self.log)).unwrap().unwrap()
    }

    fn check(&self, marks: &[Checkpoint]) -> Checked {
        as_root(|root| check(root, &self.log, &self.dir(), &self.host, marks)).unwrap()
    }

    /// What is wrong, and with which line, once the lines are changed.
    fn after(&self, change: impl Fn(&mut Vec<String>), marks: &[Checkpoint]) -> Vec<(u64, String)> {
        let before = fs::read_to_string(self.file()).unwrap();
        let mut lines = before.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(self.file(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let found = self.check(marks);
        fs::write(self.file(), before).unwrap();
        assert!(self.check(marks).holds());
        found.problems.into_iter().map(|problem| (problem.line, problem.what)).collect()
    }

    fn sign(&self) -> Checkpoint {
        let found = self.check(&[]);
        let root = unhex(&found.root).unwrap();
        let state = Checkpoint { host: self.host.clone(), size: found.lines, root, time: "then".to_owned() };
        as_root(|root| checkpoint::sign(root, &self.dir(), &state)).unwrap();
        state
    }
}

#[test]
fn a_line_that_was_changed_removed_moved_or_made_up_is_named() {
    let desk = Desk::with(9);
    assert!(desk.check(&[]).holds());
    let none: &[Checkpoint] = &[];
    let changed = desk.after(|lines| lines[4] = lines[4].replace("project1", "project0"), none);
    assert!(changed.len() == 1 && changed[0].0 == 5 && changed[0].1.contains("was changed"), "{changed:?}");
    let removed = desk.after(|lines| drop(lines.remove(4)), none);
    assert_eq!(removed, [(5, "lines 5 to 5 are missing before it".to_owned())]);
    let moved = desk.after(|lines| lines.swap(4, 5), none);
    assert!(moved.iter().any(|(line, what)| *line == 6 && what.contains("out of its order")), "{moved:?}");
    let twice = desk.after(|lines| lines.insert(4, lines[3].clone()), none);
    assert!(twice.iter().any(|(line, what)| *line == 5 && what.contains("there twice")), "{twice:?}");
    let cut = desk.after(|lines| lines[4].truncate(30), none);
    assert!(cut.iter().any(|(line, what)| *line == 5 && what.contains("make no sense")), "{cut:?}");
}

#[test]
fn a_log_shortened_below_its_checkpoint_is_refused() {
    let desk = Desk::with(5);
    let mark = desk.sign();
    desk.append(5).unwrap();
    assert!(desk.check(std::slice::from_ref(&mark)).holds());
    let shortened = desk.after(|lines| lines.truncate(4), std::slice::from_ref(&mark));
    assert!(shortened.len() == 1 && shortened[0].1.contains("the log ends here"), "{shortened:?}");
    // Written anew, line by line, so that each ties to the one before: only the checkpoint tells.
    let other = Desk::with(6);
    let found = desk.after(
        |lines| *lines = fs::read_to_string(other.file()).unwrap().lines().map(str::to_owned).collect(),
        std::slice::from_ref(&mark),
    );
    assert!(found.len() == 1 && found[0].1.contains("at the checkpoint of then"), "{found:?}");
    fs::remove_file(desk.file()).unwrap();
    assert!(!desk.check(&[mark]).holds());
}

#[test]
fn a_line_that_was_cut_is_kept_and_said() {
    let desk = Desk::with(3);
    for piece in ["{\"seq\":4,\"prev\":\"ab", "\0\0\0\0", "x\ny"] {
        OpenOptions::new().append(true).open(desk.file()).unwrap().write_all(piece.as_bytes()).unwrap();
        desk.append(9).unwrap();
        assert!(fs::read_to_string(desk.file()).unwrap().contains(piece));
    }
    let found = desk.check(&[]);
    assert!(found.holds(), "{found:?}");
    assert_eq!((found.torn, found.lines), (4, 11));
    // Nothing but a cut line.
    let desk = Desk::with(1);
    fs::write(desk.file(), "{\"se").unwrap();
    assert_eq!(desk.append(1).unwrap(), 1);
    assert_eq!(desk.check(&[]).torn, 1);
}

#[test]
fn whoever_appends_at_once_leaves_one_chain() {
    let desk = Desk::with(1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|n| assert!(desk.append(n).unwrap() > 0)));
        }
    });
    let found = desk.check(&[]);
    assert!(found.holds() && found.lines == 162, "{found:?}");
}

#[test]
fn a_log_goes_on_from_one_that_was_put_aside_or_is_of_an_older_version() {
    let desk = Desk::new();
    fs::write(desk.log.join("audit.jsonl"), "{\"old\":1}\n").unwrap();
    (0..3).for_each(|n| assert!(desk.append(n).unwrap() > 0));
    let aside = desk.dir().join(format!("{}.{:012}.jsonl", desk.host, 0));
    fs::rename(desk.file(), &aside).unwrap();
    assert_eq!(desk.append(3).unwrap(), 4);
    let found = desk.check(&[]);
    assert!(found.holds() && found.lines == 5, "{found:?}");
    // Large ones are put aside by whoever comes next.
    (4..200).for_each(|n| assert!(desk.append(n).unwrap() > 0));
    let found = desk.check(&[]);
    assert!(found.holds() && found.lines == 201, "{found:?}");
    assert!(fs::read_dir(desk.dir().path()).unwrap().count() > 3);
    fs::write(desk.log.join("audit.jsonl"), "{\"old\":2}\n").unwrap();
    assert!(desk.check(&[]).problems.iter().any(|problem| problem.line == 1 && problem.what.contains("audit.jsonl")));
}

#[test]
fn what_others_could_have_put_in_the_place_of_a_log_is_not_written_to() {
    let desk = Desk::with(1);
    let canary = desk.log.join("canary");
    fs::write(&canary, "").unwrap();
    fs::remove_file(desk.file()).unwrap();
    symlink(&canary, desk.file()).unwrap();
    assert!(desk.append(1).is_err());
    fs::remove_file(desk.file()).unwrap();
    fs::hard_link(&canary, desk.file()).unwrap();
    assert!(desk.append(1).is_err());
    fs::remove_file(desk.file()).unwrap();
    fs::write(desk.file(), "").unwrap();
    fs::set_permissions(desk.file(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(desk.append(1).is_err());
    fs::remove_file(desk.file()).unwrap();
    nix::unistd::mkfifo(&desk.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(desk.append(1).is_err());
    assert_eq!(fs::read(&canary).unwrap(), b"");
    assert_eq!(file_stem("../../etc/x\n"), "______etc_x_");
}

#[test]
fn one_run_is_proven_without_another_projects_line_and_nothing_else_is() {
    let desk = Desk::with(20);
    desk.sign();
    let last = || as_root(|root| checkpoint::last(root, &desk.dir(), &desk.host)).unwrap().unwrap();
    let proof = as_root(|root| prove(root, &desk.dir(), last(), "run7")).unwrap();
    let text = serde_json::to_string(&proof).unwrap();
    assert!(text.contains("project1") && !text.contains("project0") && !text.contains("run8"), "{text}");
    let (state, lines) = proof.verified().unwrap();
    assert_eq!((state.size, lines.len()), (21, 1));
    let forged = |from: &str, to: &str| -> Proof { serde_json::from_str(&text.replacen(from, to, 1)).unwrap() };
    assert!(forged("project1", "project2").verified().is_err());
    assert!(forged("\"run\":\"run7\"", "\"run\":\"run8\"").verified().is_err());
    assert!(forged("\\n21\\n", "\\n22\\n").verified().is_err());
    assert!(forged("\"leaf\":8", "\"leaf\":9").verified().is_err());
    assert!(as_root(|root| prove(root, &desk.dir(), last(), "run99")).is_err());
    let key = desk.dir().join(format!("{}.key", desk.host));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // The state that was signed cannot be exchanged.
    let at = desk.dir().join(format!("{}.checkpoint", desk.host));
    fs::write(&at, fs::read_to_string(&at).unwrap().replace("\n21\n", "\n20\n")).unwrap();
    assert!(as_root(|root| checkpoint::last(root, &desk.dir(), &desk.host)).is_err());
    assert!(desk.dir().document(OsStr::new("nothing")).unwrap().is_none());
}

#[test]
fn a_copy_is_the_line_itself_and_a_line_without_one_says_why() {
    let mut desk = Desk::with(1);
    let socket = desk.log.join("copies");
    let at = UnixDatagram::bind(&socket).unwrap();
    let to = |required| Some(CopyTo { service: Service::Syslog, socket: socket.clone(), required });
    desk.log = desk.log.clone().copied(to(true));
    desk.append(1).unwrap();
    let mut copy = vec![0; 64 << 10];
    let length = at.recv(&mut copy).unwrap();
    let line = |n: usize| fs::read_to_string(desk.file()).unwrap().lines().rev().nth(n).unwrap().to_owned();
    assert!(std::str::from_utf8(&copy[..length]).unwrap().ends_with(&format!("]: {}", line(0))));
    // A service that reads nothing: its queue is soon full, and nobody waits for it.
    let began = std::time::Instant::now();
    let refused = (0..100_000).find_map(|n| desk.append(n).err()).unwrap();
    assert!(refused.to_string().contains("has no copy"), "{refused}");
    assert!(line(0).contains("\"copy.failed\"") && line(1).contains("\"run.begun\""), "{}", line(0));
    assert!(began.elapsed() < std::time::Duration::from_secs(60));
    // One that is gone: what is to begin does not, what has ended is told.
    drop(at);
    let lines = || fs::read_to_string(desk.file()).unwrap().lines().count();
    let before = lines();
    assert!(desk.append(2).is_err());
    assert_eq!(lines(), before);
    let ended = Entry { event: Event::RunFinished, ..desk.entry(2) };
    as_root(|root| append(root, &desk.log, &ended)).unwrap();
    assert!(line(0).contains("\"not_copied\":"), "{}", line(0));
    desk.log = desk.log.clone().copied(to(false));
    desk.append(3).unwrap();
    let found = desk.check(&[]);
    assert!(found.holds() && found.uncopied == 3, "{found:?}");
}
