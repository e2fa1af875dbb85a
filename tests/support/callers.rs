//! The four ways to call `ces`, each as it is done on a real host.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::records::{is_record, newest, record_at};
use super::{Host, Ran, WARD_CSV, children, demo_layout};

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Root itself, without sudo.
    Root,
    /// The researcher, through sudo.
    Sudo,
    /// The researcher, with subordinate ids.
    UserWithSubids,
    /// The researcher, with no id but their own.
    User,
}

impl Caller {
    /// Whether the policy binds them.
    pub fn is_enforced(self) -> bool {
        matches!(self, Self::Root | Self::Sudo)
    }
}

/// Another researcher, who is in no project of the first's.
pub const OTHER: &str = "cesother";
/// Their user id and group id.
pub const OTHER_ID: u32 = 45999;

/// A test's host with somebody who calls.
pub struct Desk {
    /// The host.
    pub host: Host,
    /// Who calls.
    pub caller: Caller,
}

impl Desk {
    /// A host on which `caller` may call `ces`: sudoers, subordinate ids and the projects' group are as a site has them.
    pub fn new(caller: Caller) -> Option<Self> {
        let host = Host::new()?;
        let etc = host.inside(Path::new("/etc"));
        let name = host.researcher().name.clone();
        fs::create_dir_all(etc.join("sudoers.d")).expect("sudoers.d");
        let ces = env!("CARGO_BIN_EXE_ces");
        let subids = if caller == Caller::UserWithSubids { format!("{name}:100000:65536\n") } else { String::new() };
        for file in ["subuid", "subgid"] {
            fs::write(etc.join(file), &subids).expect("subordinate ids");
        }
        // Another researcher, of another project.
        let passwd = fs::read_to_string(etc.join("passwd")).expect("passwd");
        let theirs = host.tmp().join(OTHER);
        fs::create_dir(&theirs).expect("their home");
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).expect("a private home");
        chown(&theirs, Some(OTHER_ID), Some(OTHER_ID)).expect("an owner");
        let line = format!("{OTHER}:x:{OTHER_ID}:{OTHER_ID}::{}:/bin/sh\n", theirs.display());
        fs::write(etc.join("passwd"), format!("{passwd}{line}")).expect("passwd");
        let shadow = fs::read_to_string(etc.join("shadow")).expect("shadow");
        fs::write(etc.join("shadow"), format!("{shadow}{OTHER}:*:19000:0:99999:7:::\n")).expect("shadow");
        let sudoers = format!("{name} ALL=(root) NOPASSWD: {ces}\n{OTHER} ALL=(root) NOPASSWD: {ces}\n");
        fs::write(etc.join("sudoers.d/ces"), sudoers).expect("a sudoers file");
        let groups = fs::read_to_string(etc.join("group")).expect("groups");
        fs::write(etc.join("group"), format!("{groups}projx:x:45678:{name}\n{OTHER}:x:45999:\n")).expect("groups");
        if caller == Caller::Root {
            // Root itself is nobody's researcher: what the container is to read must be open to all on the way.
            let home = host.inside(Path::new("/root"));
            fs::create_dir(home.join("safe_data")).expect("safe data");
            fs::set_permissions(home.join("safe_data"), fs::Permissions::from_mode(0o1777)).expect("safe data");
            fs::write(home.join("safe_data/ward.csv"), WARD_CSV).expect("safe data");
            fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("a home that is open");
        }
        Some(Self { host, caller })
    }

    /// The same with the demonstration image.
    pub fn with_demo(caller: Caller) -> Option<Self> {
        let desk = Self::new(caller)?;
        desk.ces(&["pull", &format!("oci:{}:demo", demo_layout().display())]).exits(0);
        Some(desk)
    }

    /// The same through sudo, at a site that approves images one by one (`list` is its list so far): the researcher's data is that of
    /// their project `projx`, below the directory of all projects, which comes beside. The policy is still to be written.
    pub fn of_a_project(list: &str) -> Option<(Self, PathBuf)> {
        let desk = Self::with_demo(Caller::Sudo)?;
        let (data, project) = (desk.host.tmp().join("safe"), desk.host.tmp().join("safe/projx"));
        fs::create_dir_all(&project).expect("the project's data");
        chown(&project, Some(0), Some(45678)).expect("the project's group");
        fs::set_permissions(&project, fs::Permissions::from_mode(0o770)).expect("data of the group alone");
        fs::remove_dir_all(desk.home().join("safe_data")).expect("no data of their own");
        fs::write(desk.host.inside(Path::new("/etc/ces/approved.toml")), list).expect("a list");
        Some((desk, data))
    }

    /// `ces` as real root calls it.
    pub fn root(&self, words: &[&str]) -> Ran {
        Ran::from(self.host.ces_as_root().args(words).output())
    }

    /// The command, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let ces = env!("CARGO_BIN_EXE_ces");
        if self.caller == Caller::Root {
            let mut command = self.host.ces_as_root();
            command.args(words);
            return command;
        }
        let mut words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        if self.caller == Caller::Sudo {
            words.splice(0..0, ["sudo".to_owned(), "-n".to_owned(), quoted(ces)]);
        } else {
            words.insert(0, quoted(ces));
        }
        // A login: supplementary groups, and with systemd a session and a manager of one's own.
        let mut command = self.host.command("runuser");
        command.args(["--login", "--shell", "/bin/sh", &self.host.researcher().name, "--command"]);
        command.arg(format!("export CES_TEST={}; exec {}", self.host.token(), words.join(" ")));
        command
    }

    /// A shell script of the other researcher's.
    pub fn other(&self, script: &str) -> Ran {
        let mut command = self.host.command("runuser");
        command.args(["--login", "--shell", "/bin/sh", OTHER, "--command"]);
        command.arg(format!("export CES_TEST={}; cd /; {script}", self.host.token()));
        Ran::from(command.output())
    }

    /// What the other researcher's `ces` says, through sudo.
    pub fn other_ces(&self, words: &str) -> Ran {
        self.other(&format!("sudo -n {} {words}", env!("CARGO_BIN_EXE_ces")))
    }

    /// `ces` with these words, to its end.
    #[expect(clippy::print_stderr, reason = "shown with a test that fails, so that its table's line is known")]
    pub fn ces(&self, words: &[&str]) -> Ran {
        eprintln!("{:?}: ces {words:?}", self.caller);
        Ran::from(self.command(words).output())
    }

    /// `ces run` of a shell script in the demonstration image.
    pub fn sh(&self, options: &[&str], script: &str) -> Ran {
        self.ces(&[&["run"], options, &["localhost/demo", "/bin/sh", "-c", script]].concat())
    }

    /// Where this caller's outputs are made.
    pub fn home(&self) -> PathBuf {
        if self.caller == Caller::Root { self.host.inside(Path::new("/root")) } else { self.host.home() }
    }

    /// Directories in that home whose names begin so.
    pub fn named(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = children(&self.home());
        found.retain(|path| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(prefix.as_bytes())));
        found
    }

    /// The outputs of the last run.
    pub fn outputs(&self) -> PathBuf {
        newest(self.named("outputs_")).expect("an outputs directory")
    }

    /// Who the files are to belong to.
    pub fn owner(&self) -> u32 {
        if self.caller == Caller::Root { 0 } else { self.host.researcher().uid.as_raw() }
    }

    /// Where this caller's records are.
    pub fn log(&self) -> PathBuf {
        if self.caller.is_enforced() { self.host.root().join("log") } else { self.host.home().join(".local/state/ces") }
    }

    /// The record of the last run.
    pub fn record(&self) -> Value {
        let mut runs = children(&self.log().join("runs"));
        runs.retain(|path| is_record(path));
        record_at(&newest(runs).expect("a record"))
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
