//! Two researchers of different projects, each with the one right `sudo ces`, and what must not change or be learnt while the
//! first attacks: data, homes, the host's files, the site's own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use super::callers::{Caller, Desk, OTHER, OTHER_ID};
use super::{Ran, children, demo_layout, have, wait_until};

/// No command that is attacked takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// What stands in files, and in names of files, that the first researcher cannot read.
pub const SECRETS: [&str; 4] = ["whispered-by-the-other", "whispered-in-pb", "whispered-by-root", "whispered-name"];

/// Groups of the test's host: projects, and one whose members share a directory.
const GROUPS: [(&str, u32, bool, bool); 4] =
    [("pa", 46001, true, false), ("pb", 46002, false, true), ("pc", 46003, true, false), ("lab", 46004, true, true)];

/// Whoever attacks is the first researcher, of projects `pa` and `pc` (read-only by the policy); the other is of `pb`.
pub struct Attack {
    /// Where all that is.
    pub desk: Desk,
}

impl Attack {
    /// Such a host, with the demonstration image in the site's store; none where this machine cannot give one.
    pub fn new() -> Option<Self> {
        have("cc")?;
        let attack = Self { desk: Desk::new(Caller::Sudo)? };
        attack.plant();
        attack.policy("");
        let pull = ["pull", &format!("oci:{}:demo", demo_layout().display())];
        Ran::from(attack.desk.host.ces_as_root().env_remove("CES_ROOT").args(pull).output()).exits(0);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/attack.c");
        let built = Command::new("cc").args(["-O1", "-o"]).arg(attack.tmp("attack")).arg(source).status();
        assert!(built.expect("cc").success(), "tests/support/attack.c does not compile");
        Some(attack)
    }

    /// A place below the test's directory, which host and test see alike.
    pub fn tmp(&self, name: &str) -> PathBuf {
        self.desk.host.tmp().join(name)
    }

    /// The data of a project.
    pub fn data(&self, project: &str) -> PathBuf {
        self.tmp("safe").join(project)
    }

    /// A place in the first researcher's home, by a path on the same mount as everything else of the test: what is to be
    /// renamed or linked must be.
    pub fn home(&self, name: &str) -> PathBuf {
        self.tmp("home").join(name)
    }

    /// A place in the other researcher's private home.
    pub fn others(&self, name: &str) -> PathBuf {
        self.tmp(OTHER).join(name)
    }

    /// A place that both may write to, as members of a group.
    pub fn shared(&self, name: &str) -> PathBuf {
        self.tmp("lab").join(name)
    }

    /// The policy, with these lines besides.
    pub fn policy(&self, more: &str) {
        let root = self.tmp("safe");
        let text = format!("{more}\n[data]\nroot = \"{}\"\n[projects.pc]\naccess = \"ro\"\n", root.display());
        self.desk.host.policy(&text);
    }

    fn plant(&self) {
        let host = &self.desk.host;
        let etc = host.inside(Path::new("/etc"));
        let first = host.researcher().name.clone();
        let mut groups = fs::read_to_string(etc.join("group")).expect("groups");
        for (name, gid, is_first, is_other) in GROUPS {
            let members = [(is_first, first.as_str()), (is_other, OTHER)];
            let members: Vec<_> = members.iter().filter(|(is, _)| *is).map(|(_, who)| *who).collect();
            groups.push_str(&format!("{name}:x:{gid}:{}\n", members.join(",")));
        }
        fs::write(etc.join("group"), groups).expect("groups");
        for (project, gid) in [("pa", 46001), ("pb", 46002), ("pc", 46003)] {
            let secret = if project == "pb" { SECRETS[1] } else { "no secret for the first" };
            self.directory(&self.data(project), (0, gid), 0o2770);
            self.file(&self.data(project).join("ward.csv"), secret, (0, gid), 0o660);
        }
        self.directory(&self.data("pb").join(SECRETS[3]), (OTHER_ID, 46002), 0o2770);
        self.file(&self.others("secret.txt"), SECRETS[0], (OTHER_ID, OTHER_ID), 0o600);
        self.directory(&self.others(SECRETS[3]), (OTHER_ID, OTHER_ID), 0o755);
        self.file(&self.others("open.txt"), SECRETS[0], (OTHER_ID, OTHER_ID), 0o666);
        self.directory(&self.shared(""), (0, 46004), 0o770);
        let root = host.inside(Path::new("/root"));
        self.file(&root.join("secret.txt"), SECRETS[2], (0, 0), 0o600);
        self.file(&etc.join("ces/secret.txt"), SECRETS[2], (0, 0), 0o600);
        self.file(&self.tmp("ces/log/kept.txt"), SECRETS[2], (0, 0), 0o600);
    }

    /// Makes a directory, in one of root's.
    pub fn directory(&self, at: &Path, owner: (u32, u32), mode: u32) {
        fs::create_dir_all(at).expect("a directory");
        chown(at, Some(owner.0), Some(owner.1)).expect("an owner");
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// Makes a file.
    pub fn file(&self, at: &Path, text: &str, owner: (u32, u32), mode: u32) {
        fs::write(at, format!("{text}\n")).expect("a file");
        chown(at, Some(owner.0), Some(owner.1)).expect("an owner");
        fs::set_permissions(at, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// A directory of the other's that members of the group may rename, with a file that they may write (and so link to).
    pub fn movable(&self, name: &str) -> PathBuf {
        let at = self.shared(name);
        self.directory(&at, (OTHER_ID, 46004), 0o770);
        self.file(&at.join("notes.txt"), SECRETS[0], (OTHER_ID, 46004), 0o660);
        self.directory(&at.join("below"), (OTHER_ID, OTHER_ID), 0o700);
        self.file(&at.join("below/deep.txt"), SECRETS[0], (OTHER_ID, OTHER_ID), 0o600);
        at
    }

    /// A link in the place of anything that is there, the first researcher's.
    pub fn link(&self, target: &Path, at: &Path) {
        fs::remove_dir_all(at).or_else(|_| fs::remove_file(at)).ok();
        symlink(target, at).expect("a link");
        std::os::unix::fs::lchown(at, Some(self.desk.owner()), Some(self.desk.owner())).expect("an owner");
    }

    /// A shell script of the first researcher's, not yet started. `$CES` is the program, and `ces` calls it through sudo.
    pub fn script(&self, script: &str) -> Command {
        self.script_of(&self.desk.host.researcher().name.clone(), script)
    }

    fn script_of(&self, name: &str, script: &str) -> Command {
        let mut command = self.desk.host.command("runuser");
        command.args(["--login", "--shell", "/bin/sh", name, "--command"]);
        let ces = env!("CARGO_BIN_EXE_ces");
        let token = self.desk.host.token();
        command.arg(format!("export CES_TEST={token} CES={ces}; ces() {{ sudo -n $CES \"$@\"; }}\n{script}"));
        command
    }

    /// A script of the first researcher's, to its end, which comes soon; nothing is learnt by it.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Ran {
        self.ends(self.script(script)).unwrap_or_else(|said| panic!("{script}: {said}"))
    }

    /// A script of the other researcher's.
    #[track_caller]
    pub fn other(&self, script: &str) -> Ran {
        let (ran, is_late) = self.within(SOON, self.script_of(OTHER, script));
        assert!(!is_late, "it did not end: {script}: {ran:?}");
        ran
    }

    /// `ces` of the first researcher's through sudo, to its end, which comes soon; nothing is learnt by it.
    #[track_caller]
    pub fn ces(&self, words: &[&str]) -> Ran {
        self.ends(self.desk.command(words)).unwrap_or_else(|said| panic!("{words:?}: {said}"))
    }

    /// What came of a command of the first researcher's; in words, if it did not end soon, panicked, or told a secret.
    pub fn ends(&self, command: Command) -> Result<Ran, String> {
        let (ran, is_late) = self.within(SOON, command);
        if is_late {
            return Err(format!("it did not end within {} s: {ran:?}", SOON.as_secs()));
        }
        let said = format!("{}{}", ran.stdout, ran.stderr);
        if let Some(secret) = SECRETS.iter().find(|secret| said.contains(**secret)) {
            return Err(format!("it told \"{secret}\": {ran:?}"));
        }
        if said.contains("panicked") {
            return Err(format!("it panicked: {ran:?}"));
        }
        Ok(ran)
    }

    /// What came of a command, and whether it had to be ended, with all that runs on the test's host.
    pub fn within(&self, limit: Duration, mut command: Command) -> (Ran, bool) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a command");
        let (stdout, stderr) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let began = Instant::now();
        let status = loop {
            match child.try_wait().expect("a child") {
                Some(status) => break Some(status),
                None if began.elapsed() > limit => break None,
                None => sleep(Duration::from_millis(5)),
            }
        };
        if status.is_none() {
            self.desk.host.clear();
            // It may have ended with the others.
            child.kill().ok();
        }
        let status = status.unwrap_or_else(|| child.wait().expect("a child"));
        let output = std::process::Output {
            status,
            stdout: stdout.join().expect("standard output"),
            stderr: stderr.join().expect("standard error"),
        };
        (Ran::from(Ok(output)), began.elapsed() > limit)
    }

    /// A process of the first researcher's that exchanges two names in a loop.
    pub fn swapper(&self, a: &Path, b: &Path) -> Swapper {
        self.helper(&["swap".as_ref(), a.as_os_str(), b.as_os_str()])
    }

    /// The same without a pause, for so many pairs `a0` and `b0`, `a1` and `b1` of one directory.
    pub fn spinner(&self, dir: &Path, pairs: usize) -> Swapper {
        self.helper(&["spin".as_ref(), dir.as_os_str(), pairs.to_string().as_ref()])
    }

    fn helper(&self, words: &[&OsStr]) -> Swapper {
        let id = self.desk.owner();
        let mut command = self.desk.host.command("setpriv");
        command.args([format!("--reuid={id}"), format!("--regid={id}")]);
        command.args(["--init-groups", "--inh-caps=-all", "--"]).arg(self.tmp("attack")).args(words);
        Swapper(Some(command.stdout(Stdio::piped()).spawn().expect("a swapper")))
    }

    /// A run of the first researcher's whose payload waits for `/safe_outputs/go` after a script.
    #[track_caller]
    pub fn start(&self, options: &[&str], script: &str) -> Waiting {
        let before = self.desk.named("outputs_");
        let script = format!("{script}\n: > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done");
        let words = [&["run"], options, &["localhost/demo", "/bin/sh", "-c", &script]].concat();
        let mut command = self.desk.command(&words);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
        let began = Instant::now();
        let id = loop {
            let mut new = self.desk.named("outputs_").into_iter().filter(|dir| !before.contains(dir));
            let ready = new.find(|dir| dir.join("ready").exists());
            if let Some(id) = ready.as_ref().and_then(|dir| dir.file_name()?.to_str()?.strip_prefix("outputs_")) {
                break id.to_owned();
            }
            let is_over = child.try_wait().expect("a child").is_some();
            if is_over || began.elapsed() > SOON {
                self.desk.host.clear();
                panic!("the payload did not start: {:?}", Ran::from(child.wait_with_output()));
            }
            sleep(Duration::from_millis(20));
        };
        Waiting { child: Some(child), outputs: self.home(&format!("outputs_{id}")), owner: self.desk.owner(), id }
    }

    /// What is outside of anything that the first researcher may change.
    pub fn canary(&self) -> Canary {
        // Whatever is changed in /etc, /root or /var is in the upper directory of the overlay there.
        let strict = ["etc.upper", "root.upper", "var.upper"].map(|name| self.tmp(name)).into_iter();
        let strict: Vec<_> = strict.chain([self.others(""), self.data("pb")]).collect();
        let growing = ["ces/log", "ces/store/layers", "ces/store/images"].map(|name| self.tmp(name));
        let mut seen = BTreeMap::new();
        strict.iter().for_each(|top| look(top, &mut seen));
        let mut kept = BTreeMap::new();
        growing.iter().for_each(|top| look(top, &mut kept));
        // What grows there has no time of its own, and a file is what it was as far as it was.
        Canary { strict, seen, kept }
    }

    /// The record that was written last: names of one second have any order.
    pub fn record(&self) -> serde_json::Value {
        let mut records = children(&self.tmp("ces/log/runs"));
        records.retain(|path| super::records::is_record(path));
        super::records::record_at(&super::records::newest(records).expect("a record"))
    }

    /// The first researcher's outputs that were made last.
    pub fn outputs(&self) -> PathBuf {
        self.desk.outputs()
    }

    /// Says how often a race was run, and how often names were exchanged meanwhile.
    #[expect(clippy::print_stdout, reason = "shown with the test that passed, on request")]
    pub fn tried(&self, rounds: usize, exchanges: Option<u64>) {
        println!("{rounds} rounds, {} exchanges", exchanges.map_or_else(|| "uncounted".to_owned(), |n| n.to_string()));
    }

    /// How often a race is run: enough for every window to be hit, within a few seconds.
    pub fn rounds(&self) -> usize {
        if std::env::var_os("CES_LONG").is_some() { 500 } else { 100 }
    }
}

fn reader(stream: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut stream = stream.expect("a stream");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("what a command says");
        bytes
    })
}

/// A run whose payload waits.
pub struct Waiting {
    child: Option<Child>,
    /// Its id.
    pub id: String,
    /// Its outputs, by a path on the same mount as all else of the test.
    pub outputs: PathBuf,
    owner: u32,
}

impl Waiting {
    /// Lets the payload go on, and waits for the end of the run.
    pub fn go(mut self) -> Ran {
        let go = self.outputs.join("go");
        fs::write(&go, "")
            .and_then(|()| chown(&go, Some(self.owner), Some(self.owner)))
            .expect("a word to the payload");
        Ran::from(self.child.take().expect("a run").wait_with_output())
    }

    /// Ends `ces` with SIGKILL, as the kernel may for want of memory, and with it what does not end by itself.
    pub fn kill(self, attack: &Attack) -> (String, PathBuf) {
        let (killed, left) = self.kill_ces_alone(attack);
        if !left.is_empty() {
            attack.desk.host.clear();
            wait_until("the container is gone", || attack.desk.host.processes().is_empty());
        }
        killed
    }

    /// Ends `ces` with SIGKILL; gives its id and outputs, and the processes that are left of it five seconds later.
    pub fn kill_ces_alone(mut self, attack: &Attack) -> ((String, PathBuf), Vec<String>) {
        let journal = fs::read_to_string(attack.tmp("ces/run").join(&self.id).join("job.json")).expect("a journal");
        let journal: serde_json::Value = serde_json::from_str(&journal).expect("JSON");
        let pid = journal["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("ces is there");
        let mut child = self.child.take().expect("a run");
        child.wait().expect("a run");
        let began = Instant::now();
        while !attack.desk.host.processes().is_empty() && began.elapsed() < Duration::from_secs(5) {
            sleep(Duration::from_millis(20));
        }
        ((std::mem::take(&mut self.id), self.outputs.clone()), attack.desk.host.processes())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The payload of a test that failed ends by the word that it waits for.
            fs::write(self.outputs.join("go"), "").ok();
            child.wait().ok();
        }
    }
}

/// A process that exchanges two names, until it goes out of scope.
pub struct Swapper(Option<Child>);

impl Swapper {
    /// Ends it, with both names as they were; tells how often it exchanged them.
    pub fn stop(mut self) -> u64 {
        let mut child = self.0.take().expect("a swapper");
        kill(Pid::from_raw(i32::try_from(child.id()).expect("a number")), Signal::SIGTERM).expect("a swapper");
        let mut said = String::new();
        child.stdout.take().expect("its output").read_to_string(&mut said).expect("a count");
        child.wait().expect("a swapper");
        // A run may be over before the process has begun: then it says nothing.
        let said = said.trim();
        if said.is_empty() { 0 } else { said.parse().expect("a count") }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What was where.
pub struct Canary {
    strict: Vec<PathBuf>,
    seen: BTreeMap<PathBuf, Entry>,
    kept: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: u32,
    owner: (u32, u32),
    mode: u32,
    size: u64,
    time: (i64, i64),
    content: String,
}

impl Canary {
    /// Everything below `top` besides.
    #[must_use]
    pub fn and(mut self, top: &Path) -> Self {
        look(top, &mut self.seen);
        self.strict.push(top.to_owned());
        self
    }

    /// What is no longer as it was, in words.
    pub fn changes(&self) -> Vec<String> {
        let mut now = BTreeMap::new();
        self.strict.iter().for_each(|top| look(top, &mut now));
        let mut changes = Vec::new();
        for (path, was) in &self.seen {
            match now.get(path) {
                None => changes.push(format!("{} is gone", path.display())),
                Some(is) if is != was => changes.push(format!("{}: {was:?}, now {is:?}", path.display())),
                Some(_) => {}
            }
        }
        let new = now.keys().filter(|path| !self.seen.contains_key(*path));
        changes.extend(new.map(|path| format!("{} is new", path.display())));
        // The last rehearsal of an image takes the place of the one before.
        let is_rehearsal = |path: &Path| path.components().any(|part| part.as_os_str() == "rehearsals");
        for (path, was) in self.kept.iter().filter(|(path, _)| !is_rehearsal(path)) {
            let Ok(found) = fs::symlink_metadata(path) else {
                // Room for the end of a record goes with the end.
                let is_room = path.parent().is_some_and(|dir| dir.ends_with("log/runs"))
                    && path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if is_room {
                    continue;
                }
                changes.push(format!("{} is gone", path.display()));
                continue;
            };
            let is = entry(path, &found, was.size);
            let same = (is.kind, is.owner, is.mode) == (was.kind, was.owner, was.mode);
            // A record is written anew at the end of its run.
            let grows = is.kind == libc::S_IFDIR || path.parent().is_some_and(|dir| dir.ends_with("log/runs"));
            if !same || (!grows && (is.size < was.size || is.content != was.content)) {
                changes.push(format!("{}: {was:?}, now {is:?}", path.display()));
            }
        }
        changes
    }

    /// Asserts that all is as it was.
    #[track_caller]
    pub fn is_unchanged(&self) {
        let changes = self.changes();
        assert!(changes.is_empty(), "outside: {changes:#?}");
    }
}

fn look(at: &Path, into: &mut BTreeMap<PathBuf, Entry>) {
    let Ok(found) = fs::symlink_metadata(at) else { return };
    into.insert(at.to_owned(), entry(at, &found, u64::MAX));
    if found.is_dir() {
        children(at).iter().for_each(|child| look(child, into));
    }
}

/// The first `most` bytes count.
fn entry(at: &Path, found: &Metadata, most: u64) -> Entry {
    let kind = found.mode() & libc::S_IFMT;
    let content = match kind {
        libc::S_IFREG => {
            let mut bytes = Vec::new();
            // What vanishes meanwhile has no content.
            let read = fs::File::open(at).and_then(|file| file.take(most.min(1 << 20)).read_to_end(&mut bytes));
            let sum = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            format!("{:?} {sum}", read.is_ok())
        }
        libc::S_IFLNK => fs::read_link(at).map(|target| target.display().to_string()).unwrap_or_default(),
        _ => String::new(),
    };
    let size = if kind == libc::S_IFDIR { 0 } else { found.len() };
    Entry {
        kind,
        owner: (found.uid(), found.gid()),
        mode: found.mode() & 0o7777,
        size,
        time: (found.mtime(), found.mtime_nsec()),
        content,
    }
}
