//! What the tests share: a host of one's own, runs on it, and what they left behind.

/// The four ways to call `ces`.
pub mod callers;
/// Researchers who attack, and what must not change meanwhile.
pub mod attack;
/// OCI layouts made by tests: the demonstration image with another configuration.
pub mod layout;
/// What is left on a host after runs: mounts, control groups, processes, directories.
pub mod leftovers;
/// A registry that does what the test says.
pub mod scripted_registry;
/// A terminal with a program in it.
pub mod terminal;
/// The probe: a payload that reports what it sees.
pub mod probe;
/// The same bundle under crun and runc.
pub mod runtimes;
/// Expected texts, a file for each case.
pub mod golden;
/// Rehearsals, and their reports.
pub mod rehearsal;
/// The runtime specification's own JSON schema.
pub mod schema;
/// Records with the documents beside them.
pub mod records;
/// Programs of others that check exports.
pub mod validators;
/// A file system that never answers.
pub mod silent;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use serde_json::Value;
use tempfile::TempDir;

/// The user for whom the tests act; `scripts/setup test` creates it.
const RESEARCHER: &str = "cesresearcher";

/// How long a test waits for something that should take a moment.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the researcher's safe data holds.
pub const WARD_CSV: &str = "ward,nights\nnorth,3\nsouth,1\nnorth,5\n";

/// What a test's host is made of. Through sudo nobody names a place, so the site's own (`/var/lib/ces`, `/var/log/ces`) are the
/// directories below `ces` there.
const DIRECTORIES: [&str; 12] = [
    "home/safe_data",
    "etc.upper/ces",
    "etc.work",
    "root.upper",
    "root.work",
    "var.upper/lib/ces",
    "var.upper/log/ces",
    "var.work",
    "ces",
    "ces/store/run",
    "ces/run",
    "ces/log",
];

/// A host of one's own: a mount namespace in which the researcher's home, changes to `/etc` and to root's home, and the
/// root of `ces` belong to one test. For `ces` it is the host: what it mounts there and leaves is found there.
pub struct Host {
    dir: TempDir,
    holder: Child,
    researcher: User,
    ordinary: bool,
    /// The `ces` that is called: the program itself, or a test's own build of it.
    pub program: PathBuf,
    mounts_before: Vec<String>,
}

impl Host {
    /// A new host, or none if this machine cannot give one: then it says so, and under `CES_MUST_RUN` it fails.
    pub fn new() -> Option<Self> {
        Self::called(false)
    }

    /// A host on which the researcher calls `ces` as themselves, without sudo: advisory mode, a store of their own.
    pub fn of_an_ordinary_user() -> Option<Self> {
        Self::called(true)
    }

    /// Whether it is an ordinary user who calls.
    pub fn is_of_an_ordinary_user(&self) -> bool {
        self.ordinary
    }

    fn called(ordinary: bool) -> Option<Self> {
        if !geteuid().is_root() {
            return skip("not root, so neither sudo nor another mount namespace can be played");
        }
        let Ok(Some(researcher)) = User::from_name(RESEARCHER) else {
            return skip("there is no user cesresearcher: run scripts/setup test");
        };
        let dir = tempfile::Builder::new().prefix("ces-test.").tempdir().expect("a temporary directory");
        let base = dir.path();
        for name in DIRECTORIES {
            fs::create_dir_all(base.join(name)).expect("a directory of the test");
        }
        fs::write(base.join("home/safe_data/ward.csv"), WARD_CSV).expect("safe data");
        // Researchers walk to their homes.
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).expect("permissions");
        for name in ["home", "home/safe_data", "home/safe_data/ward.csv"] {
            chown(base.join(name), Some(researcher.uid.as_raw()), Some(researcher.gid.as_raw())).expect("an owner");
        }
        if ordinary {
            for name in ["ces", "ces/store", "ces/store/run", "ces/run", "ces/log"] {
                chown(base.join(name), Some(researcher.uid.as_raw()), Some(researcher.gid.as_raw())).expect("an owner");
            }
        }
        let script = "set -e
            overlay() { mount -t overlay -o \"lowerdir=$2,upperdir=$1.upper,workdir=$1.work\" overlay \"$2\"; }
            mount --bind \"$1/home\" \"$2\"
            overlay \"$1/etc\" /etc
            overlay \"$1/root\" /root
            overlay \"$1/var\" /var
            mount --bind \"$1/ces/store\" /var/lib/ces
            mount --bind \"$1/ces/run\" /var/lib/ces/run
            mount --bind \"$1/ces/log\" /var/log/ces
            [ ! -d /safe_data ] || mount -t tmpfs -o mode=755 tmpfs /safe_data
            echo ready
            exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .args([base, &researcher.dir])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1)");
        let mut line = String::new();
        let said = holder.stdout.take().expect("its standard output");
        BufReader::new(said).read_line(&mut line).expect("a line from the holder");
        assert_eq!(line, "ready\n", "the mounts of a test's host could not be made");
        let mut host = Self {
            dir,
            holder,
            researcher,
            ordinary,
            program: PathBuf::from(env!("CARGO_BIN_EXE_ces")),
            mounts_before: Vec::new(),
        };
        host.remember_mounts();
        Some(host)
    }

    /// The host with the demonstration image `localhost/demo` pulled.
    pub fn with_demo() -> Option<Self> {
        let host = Self::new()?;
        host.pull_demo("demo");
        Some(host)
    }

    /// A word that is in the environment of every process of this test and in the paths of all its mounts.
    pub fn token(&self) -> &str {
        self.dir.path().file_name().and_then(OsStr::to_str).expect("a name in UTF-8")
    }

    /// The researcher.
    pub fn researcher(&self) -> &User {
        &self.researcher
    }

    /// The researcher's home, as seen from outside the test's mount namespace.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// The directory given as `CES_ROOT`, seen from inside: it may be a mount of its own.
    pub fn root(&self) -> PathBuf {
        self.inside(&self.dir.path().join("ces"))
    }

    /// A directory for the test's own files, which host and test see alike.
    pub fn tmp(&self) -> &Path {
        self.dir.path()
    }

    /// How a path of the test's mount namespace is reached from outside (proc(5), `/proc/PID/root`).
    pub fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    /// Writes the site's policy.
    pub fn policy(&self, text: &str) {
        fs::write(self.inside(Path::new("/etc/ces/policy.toml")), text).expect("a policy file");
    }

    /// A command in the test's mount namespace, as real root with an environment of its own. It is executed, not
    /// forked: a signal to the child reaches it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg("--").arg(program).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.stdin(Stdio::null());
        command
    }

    /// `ces` as real root, without sudo.
    pub fn ces_as_root(&self) -> Command {
        let mut command = self.command(&self.program);
        command.env("HOME", "/root").env("CES_ROOT", self.dir.path().join("ces"));
        command
    }

    /// `ces` as the researcher calls it: by sudo, or on an ordinary user's host as themselves.
    pub fn ces(&self) -> Command {
        if self.ordinary {
            let mut command = self.command("setpriv");
            command.arg(format!("--reuid={}", self.researcher.uid)).arg(format!("--regid={}", self.researcher.gid));
            command.args(["--init-groups", "--inh-caps=-all", "--"]).arg(&self.program);
            command.env("HOME", &self.researcher.dir).env("USER", &self.researcher.name);
            command.env("CES_ROOT", self.dir.path().join("ces"));
            return command;
        }
        let mut command = self.ces_as_root();
        command.env_remove("CES_ROOT");
        command.env("SUDO_UID", self.researcher.uid.to_string()).env("SUDO_GID", self.researcher.gid.to_string());
        command.env("SUDO_USER", &self.researcher.name).env("SUDO_COMMAND", "ces");
        command
    }

    /// Pulls a tag of the demonstration image as `localhost/<tag>`.
    pub fn pull_demo(&self, tag: &str) {
        self.pull(&demo_layout(), tag);
    }

    /// Pulls a tag of an OCI layout as `localhost/<tag>`.
    pub fn pull(&self, layout: &Path, tag: &str) {
        let pulled = Ran::from(self.ces().args(["pull", &format!("oci:{}:{tag}", layout.display())]).output());
        assert_eq!(pulled.code, Some(0), "ces pull of {tag}: {}", pulled.stderr);
    }

    /// `ces run` with these words after the options that every test's run has.
    pub fn run_command(&self, words: &[&str]) -> Command {
        let mut command = self.ces();
        command.args(rehearsal::verb(self)).args(["-e", &format!("CES_TEST={}", self.token())]).args(words);
        command
    }

    /// `ces run`, to its end.
    #[expect(clippy::print_stderr, reason = "shown with a test that fails, so that its table's line is known")]
    pub fn run(&self, words: &[&str]) -> Ran {
        eprintln!("ces run {words:?}");
        Ran::from(self.run_command(words).output())
    }

    /// `ces run` of a shell script in the demonstration image.
    pub fn sh(&self, options: &[&str], script: &str) -> Ran {
        self.run(&[options, &["localhost/demo", "/bin/sh", "-c", script]].concat())
    }

    /// Starts `ces run` of a shell script and returns when the script has made `/safe_outputs/ready`.
    pub fn start(&self, options: &[&str], script: &str) -> Running {
        let script = format!(": > /safe_outputs/ready\n{script}");
        let words = [options, &["localhost/demo", "/bin/sh", "-c", &script]].concat();
        let before = self.named("outputs_");
        let mut command = self.run_command(&words);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces");
        let mut running = Running { child: Some(child), outputs: PathBuf::new() };
        let began = Instant::now();
        loop {
            let new =
                self.named("outputs_").into_iter().find(|dir| !before.contains(dir) && dir.join("ready").exists());
            if let Some(outputs) = new {
                running.outputs = outputs;
                return running;
            }
            if running.has_ended() || began.elapsed() > PATIENCE {
                let ran = running.finish();
                panic!("the payload did not start: {ran:?}");
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Directories in the researcher's home whose names begin so, sorted: ids sort by time.
    pub fn named(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = children(&self.home());
        found.retain(|path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(prefix.as_bytes())));
        found
    }

    /// The outputs directory of the only run, or of the last.
    pub fn outputs(&self) -> PathBuf {
        records::newest(self.named("outputs_")).expect("an outputs directory")
    }

    /// The text of a file that the last run left in its outputs.
    pub fn output(&self, name: &str) -> String {
        fs::read_to_string(self.outputs().join(name)).expect("an output file")
    }

    /// The records, oldest first.
    pub fn records(&self) -> Vec<Value> {
        let mut files = children(&self.root().join("log/runs"));
        files.retain(|path| records::is_record(path));
        files.sort_by_key(records::born);
        files.iter().map(|path| records::record_at(path)).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.clear();
        }
        // Both may fail only if the holder is gone already.
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// From what `Command::output` gives.
    pub fn from(output: std::io::Result<Output>) -> Self {
        let output = output.expect("the command can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (code, signal, stderr) = (output.status.code(), output.status.signal(), text(output.stderr));
        Self { code: rehearsal::payloads(code, &stderr), signal, stdout: text(output.stdout), stderr }
    }

    /// Asserts the exit status and gives standard output.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        &self.stdout
    }

    /// Asserts a refusal: this exit status, one `error:`, a `hint:`, and these words.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines = |start: &str| self.stderr.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(lines("error: "), 1, "one error is to be printed: {self:?}");
        // A word that is not understood gets the command line's own hint.
        let hint = lines("hint: ") >= 1 || self.stderr.contains("try '--help'");
        assert!(hint, "a hint is to be printed: {self:?}");
        assert!(!self.stderr.contains("panicked"), "a panic is no report: {self:?}");
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "\"{word}\" is to be said: {self:?}");
        }
    }
}

/// A run whose payload has started.
pub struct Running {
    child: Option<Child>,
    /// Its outputs directory.
    pub outputs: PathBuf,
}

impl Running {
    /// The run's id.
    pub fn id(&self) -> String {
        let name = self.outputs.file_name().and_then(OsStr::to_str).expect("a name");
        name.trim_start_matches("outputs_").to_owned()
    }

    /// The process number of `ces run`.
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("a running child").id();
        Pid::from_raw(i32::try_from(id).expect("a process number"))
    }

    /// Sends a signal to `ces run`.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("ces run is there");
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Ran {
        Ran::from(self.child.take().expect("a running child").wait_with_output())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A test that failed leaves nothing running; both may fail only if it has ended.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The layout of the demonstration image with all its variants; `scripts/test` makes it, else it is made now.
pub fn demo_layout() -> PathBuf {
    let layout = fixtures().join("demo");
    if !layout.join("index.json").exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/demo-image");
        // Beside it and renamed, since several tests may come here at once.
        let mine = tempfile::tempdir_in(made(&fixtures())).expect("a temporary directory");
        let status = Command::new(script).arg(mine.path().join("demo")).arg("--variants").status().expect("demo-image");
        assert!(status.success(), "scripts/demo-image failed");
        // It fails when another test was quicker, and then all is well.
        fs::rename(mine.path().join("demo"), &layout).ok();
    }
    layout
}

/// The layout of the Debian image with Python and numpy; none if it was not made (it takes root and a mirror).
pub fn python_layout() -> Option<PathBuf> {
    let layout = fixtures().join("python");
    if layout.join("index.json").exists() {
        return Some(layout);
    }
    skip("the image with Python is not there: run scripts/python-image target/fixtures/python")
}

/// Where fixtures are kept between runs of the tests.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixtures")
}

/// Says loudly why a test does not run; under `CES_MUST_RUN` it fails instead.
pub fn skip<T>(why: &str) -> Option<T> {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CES_MUST_RUN").is_none(), "{test} must run, but cannot: {why}");
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").expect("standard error");
    None
}

/// Whether systemd runs a manager for the researcher, who then can have control groups.
pub fn has_user_manager() -> bool {
    let researcher = User::from_name(RESEARCHER).ok().flatten();
    researcher.is_some_and(|user| Path::new(&format!("/run/user/{}/systemd", user.uid)).exists())
}

/// Whether a program is there; if not, the test is skipped.
pub fn have(program: &str) -> Option<()> {
    let paths = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    if paths.iter().any(|dir| Path::new(dir).join(program).exists()) {
        return Some(());
    }
    skip(&format!("{program} is not installed: run scripts/setup test"))
}

/// Waits until `condition` holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "this did not come about: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// What is in a directory, sorted by name; nothing if there is no such directory.
pub fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.expect("a directory entry").path());
    let mut found = entries.collect::<Vec<_>>();
    found.sort();
    found
}

fn made(dir: &Path) -> &Path {
    fs::create_dir_all(dir).expect("a directory for fixtures");
    dir
}

/// The audit log in a directory of records: that of the one host which has one.
pub fn audit_log(log: &Path) -> PathBuf {
    let logs = children(&log.join("audit")).into_iter().filter(|path| path.extension() == Some(OsStr::new("jsonl")));
    <[PathBuf; 1]>::try_from(logs.collect::<Vec<_>>()).unwrap().into_iter().next().unwrap()
}
