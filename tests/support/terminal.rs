//! A terminal with a program in it: what a person at a desk has.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use super::{PATIENCE, wait_until};

/// A terminal, the program in it, and what it has shown.
pub struct Terminal {
    master: Option<File>,
    /// The program's side, so that the terminal outlives the program.
    slave: File,
    child: Child,
    shown: String,
    /// How much of it was expected already.
    read: usize,
}

impl Terminal {
    /// Starts `command` as the leader of a session with a terminal of 24 rows and 80 columns.
    pub fn start(command: &Command) -> Self {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let (master, slave) = (File::from(pty.master), File::from(pty.slave));
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a master that does not wait");
        resize(&slave, 24, 80);
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--"]).arg(command.get_program()).args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let end = || slave.try_clone().expect("a descriptor");
        let child = session.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid(1)");
        Self { master: Some(master), slave, child, shown: String::new(), read: 0 }
    }

    /// Presses keys.
    pub fn types(&mut self, keys: &str) {
        self.master.as_mut().expect("a terminal").write_all(keys.as_bytes()).expect("keys are taken");
    }

    /// Waits until `text` is shown, after what was waited for before; gives what was shown until then.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            self.look();
            if let Some(at) = self.shown[self.read..].find(text) {
                let until = self.read + at + text.len();
                let shown = self.shown[self.read..until].to_owned();
                self.read = until;
                return shown;
            }
            assert!(began.elapsed() < PATIENCE, "{text:?} is to be shown after this: {}", self.shown);
            sleep(Duration::from_millis(5));
        }
    }

    /// Types a line of a shell, and gives what is shown between its echo and the shell's word that it has done it.
    #[track_caller]
    pub fn says(&mut self, line: &str) -> String {
        // The quotes are not in what is printed, so that the echo of the line is not taken for it.
        self.types(&format!("{line}; echo do''ne\r"));
        self.shows("do''ne");
        self.shows("done")
    }

    /// All that was shown.
    pub fn all(&mut self) -> &str {
        self.look();
        &self.shown
    }

    fn look(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.master.as_mut().expect("a terminal").read(&mut buffer) {
                Ok(read) if read > 0 => self.shown.push_str(&String::from_utf8_lossy(&buffer[..read])),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                _ => return,
            }
        }
    }

    /// Another size; the program is told.
    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.slave, rows, columns);
    }

    /// Its modes.
    pub fn modes(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).expect("modes")
    }

    /// Whether every key goes to the program as it is.
    pub fn is_raw(&self) -> bool {
        !self.modes().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// What a shell would read now that the program has ended: what was typed and not taken.
    pub fn left_to_read(&mut self) -> Vec<u8> {
        fcntl(&self.slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a terminal that does not wait");
        // A line that is not ended would not be given out.
        self.types("\r");
        let mut left = Vec::new();
        wait_until("the end of the line", || {
            let mut buffer = [0; 256];
            if let Ok(read) = (&self.slave).read(&mut buffer) {
                left.extend_from_slice(&buffer[..read]);
            }
            left.ends_with(b"\n")
        });
        left.pop();
        left
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the program is there");
    }

    /// The program's process number.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }

    /// The window is closed.
    pub fn closes(&mut self) {
        self.look();
        // What is kept of the other side would keep the terminal.
        self.slave = File::open("/dev/null").expect("the null device");
        self.master = None;
    }

    /// Waits for the program's end; what it shows meanwhile is read.
    pub fn finish(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if self.master.is_some() {
                self.look();
            }
            if let Some(status) = self.child.try_wait().expect("the program's end") {
                if self.master.is_some() {
                    self.look();
                }
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the program has not ended: {}", self.shown);
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves nothing running; both may fail only if it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let mut stty = Command::new("stty");
    stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
    let status = stty.stdin(terminal.try_clone().expect("a descriptor")).status().expect("stty(1)");
    assert!(status.success(), "stty failed");
}
