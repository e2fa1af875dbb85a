//! A file system that never answers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use super::Host;

/// Opens the device and mounts it, and reads nothing from it: whoever asks anything waits, at most for a minute.
const SCRIPT: &str = "exec 9<>/dev/fuse
    kind=40000; [ -d \"$1\" ] || kind=100000
    mount -i -t fuse -o fd=9,rootmode=$kind,user_id=0,group_id=0,allow_other silent \"$1\" || exit 1
    echo mounted; exec sleep 60";

/// Ends it.
pub struct Silent(Child);

impl Host {
    /// Mounts a FUSE file system without a server on `at`, a directory or a file, for everybody to see.
    pub fn mount_silent(&self, at: &Path) -> Silent {
        let mut command = self.command("/bin/sh");
        let mut child = command.args(["-c", SCRIPT, "sh"]).arg(at).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut said).expect("a line");
        assert_eq!(said, "mounted\n", "{}", at.display());
        Silent(child)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // With its last descriptor the file system is over, and who waits for it goes on.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
