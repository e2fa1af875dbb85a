//! What `ces run` says on standard error.
//!
//! Takes what came of a run; gives sentences; trusts nothing that comes out of a container to be printable; refuses nothing.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use super::prepare::Prepared;
use crate::bundle::safe_data;
use crate::host::cgroup::Usage;
use crate::policy::Access;
use crate::policy::units::{show_seconds, show_size};
use crate::run::ending::Ending;
use crate::run::job_id::JobId;
use crate::run::supervisor::ports::Published;
use crate::run::supervisor::record::Record;
use crate::run::supervisor::supervise::Outcome;
use crate::text;

/// A path of the researcher's, with `~` for their home.
fn from_home(prepared: &Prepared, path: &Path) -> PathBuf {
    let below = path.strip_prefix(&prepared.identity.caller.home);
    below.map_or_else(|_| path.to_path_buf(), |below| PathBuf::from("~").join(below))
}

/// How it ended, in words.
pub(super) struct Ended {
    /// The sentence.
    pub text: String,
    /// A limit ended it.
    pub over_limit: bool,
}

/// From what is known of the end, what was `used_up`, and what was `granted` in bytes of memory.
pub(super) fn describe(outcome: &Outcome, usage: &Usage, used_up: &[String], record: &Record, granted: u64) -> Ended {
    if let Some(exceeded) = &outcome.exceeded {
        return Ended { text: exceeded.clone(), over_limit: true };
    }
    if let (Some(exceeded), Ending::Exited(0)) = (&outcome.exceeded_at_end, outcome.ending) {
        return Ended { text: exceeded.clone(), over_limit: true };
    }
    let killed = matches!(outcome.ending, Ending::Killed | Ending::Signalled(libc::SIGKILL));
    // A shell reports its killed child as 128 + 9.
    let told = matches!(outcome.ending, Ending::Exited(137));
    let own = record.enforced.as_ref().is_none_or(|enforced| !enforced["limits"].is_null());
    if usage.oom_kills > 0 && (killed || told) && !own {
        let text = "out of memory: the group in which ces was called has no more".to_owned();
        return Ended { text, over_limit: true };
    }
    if usage.oom_kills > 0 && (killed || told) {
        let limit = record.enforced.as_ref().and_then(|e| e.pointer("/limits/memory")?.as_u64()).unwrap_or(granted);
        let peak = usage.peak_memory.map_or_else(|| "unknown".to_owned(), show_size);
        return Ended { text: format!("out of memory: limit {}, peak {peak}", show_size(limit)), over_limit: true };
    }
    let program = record.command.first().map_or("", String::as_str);
    let mut text = match outcome.ending {
        Ending::Exited(code) => format!("exit {code}"),
        Ending::Signalled(signal) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned());
            format!("killed by signal {name}")
        }
        Ending::TimedOut => "deadline passed".to_owned(),
        Ending::NotExecuted(_) if outcome.not_executed.is_some() => {
            format!("{program} cannot be executed: {}", outcome.not_executed.as_deref().unwrap_or_default())
        }
        Ending::NotExecuted(nix::Error::ENOENT) if program.starts_with('-') => {
            format!("{program} was not found in the container: options of ces run go before the image")
        }
        Ending::NotExecuted(nix::Error::ENOENT) => format!("{program} was not found in the container"),
        Ending::NotExecuted(errno) => format!("{program} cannot be executed: {}", errno.desc()),
        Ending::Killed => "the container was killed".to_owned(),
    };
    if usage.oom_kills > 0 {
        text.push_str(&format!(" ({} of its processes killed for want of memory)", usage.oom_kills));
    }
    used_up.iter().chain(&outcome.exceeded_at_end).for_each(|bound| text.push_str(&format!(" ({bound})")));
    Ended { text, over_limit: false }
}

/// What is said on standard error.
pub(super) struct Report {
    /// Only what must be said.
    pub quiet: bool,
}

impl Report {
    /// One line, unless it is to be quiet.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            self.always(&format!("{}\n", text::neutral_line(line)));
        }
    }

    /// Said in any case.
    pub fn always(&self, text: &str) {
        // With standard error closed there is nobody to tell.
        std::io::stderr().write_all(text.as_bytes()).ok();
    }

    /// What begins, and where its outputs will be: to a person, who sees it pass on a terminal.
    pub fn beginning(&self, prepared: &Prepared, id: &JobId, outputs: &Path) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let access = match prepared.grant.data {
            Access::Ro => "read-only",
            Access::Rw => "read and write",
        };
        let data = match &prepared.data.project {
            Some(project) => format!("project {project}"),
            None => format!("data {}", from_home(prepared, &prepared.data.path).display()),
        };
        let outputs = from_home(prepared, outputs);
        self.say(&format!("ces: run {id}: {data} ({access}), outputs go to {}", outputs.display()));
        if prepared.request.project.is_none() {
            let mut others = safe_data::projects(&prepared.identity.caller, prepared.policy.data_root());
            others.retain(|other| Some(other) != prepared.data.project.as_ref());
            if !others.is_empty() {
                self.say(&format!("note: other projects of yours, for --project: {}", others.join(", ")));
            }
        }
    }

    /// Where the ports are, and who else can reach them.
    pub fn ports(&self, ports: &[Published]) {
        for Published { host, container } in ports {
            self.say(&format!("ces: port {container} of the container is at {host}"));
        }
        if let Some(port) = ports.iter().find(|port| !port.host.starts_with('/')) {
            self.say(&format!(
                "note: every user of this host can connect to {}: protect the service with a password, or use a socket \
                 that you alone can open: -p unix:{}",
                port.host, port.container
            ));
        }
    }

    /// How the run ended, and what it left.
    pub fn summary(&self, prepared: &Prepared, record: &Record, ended: &Ended, usage: Usage) {
        let seconds = record.seconds.unwrap_or_default();
        let peak = usage.peak_memory.map_or_else(String::new, |bytes| format!(", peak memory {}", show_size(bytes)));
        let line = format!("ces: run {}: {}, {}{peak}", record.id, ended.text, show_seconds(seconds));
        if ended.over_limit {
            self.always(&format!(
                "{line}\nhint: use less, or ask for more (--memory, or of the batch system; scratch and outputs are the policy's)\n"
            ));
        } else {
            self.say(&line);
        }
        let Some(outputs) = &record.outputs else { return };
        let files = match outputs.files.count() {
            1 => "1 file".to_owned(),
            files => format!("{files} files"),
        };
        let path = from_home(prepared, &outputs.path);
        if outputs.is_empty() {
            self.say("ces: no outputs: nothing was written to /safe_outputs");
        } else {
            self.say(&format!("ces: {files}, {} in {}", show_size(outputs.bytes), path.display()));
        }
        outputs.refused.lines().iter().for_each(|refused| self.say(&format!("warning: output {refused}")));
        outputs.links.lines().iter().for_each(|link| self.say(&format!("note: the output {link} is a symbolic link")));
        if outputs.set_ids > 0 {
            self.say(&format!("note: {} outputs lost their set-ID bits", outputs.set_ids));
        }
        if outputs.attributes > 0 {
            self.say(&format!(
                "note: {} ACLs and extended attributes were removed from the outputs",
                outputs.attributes
            ));
        }
        if outputs.not_hashed > 0 {
            self.say(&format!("warning: {} outputs were not hashed; their list says why", outputs.not_hashed));
        }
        if let Some(cut) = outputs.list.as_ref().and_then(|list| list.cut.as_ref()) {
            self.say(&format!("warning: the list of outputs is not whole: {cut}"));
        }
    }
}
