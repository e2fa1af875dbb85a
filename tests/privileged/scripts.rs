//! The scripts that the README tells a newcomer to call.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Host;

/// Outputs in root's own home, which are no other test's.
struct Outputs(PathBuf);

impl Drop for Outputs {
    fn drop(&mut self) {
        if let Ok(outputs) = fs::read_link(&self.0) {
            fs::remove_dir_all(outputs).ok();
        }
    }
}

#[test]
fn the_quickstart_runs_to_its_end_twice_and_leaves_the_outputs_of_the_second_alone() {
    let Some(host) = Host::new() else { return };
    let base = host.tmp().join("quickstart");
    let outputs = Outputs(base.join("outputs"));
    let call = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/quickstart");
        let mut command = Command::new(script);
        command.env("CES_BIN", env!("CARGO_BIN_EXE_ces")).env("QUICKSTART", &base).env_remove("CES_POLICY");
        let ran = command.output().unwrap();
        let [out, said] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(ran.status.success(), "{out}\n{said}");
        assert!(out.contains("south\t2\t4.0") && out.contains("1 file, unchanged"), "{out}");
        assert!(said.contains("==> 6/6") && out.contains("quickstart: done."), "{out}\n{said}");
        fs::read_link(&outputs.0).unwrap()
    };
    let first = call();
    assert!(first.join("nights.tsv").is_file());
    let second = call();
    assert!(second.join("nights.tsv").is_file() && !first.exists());
}
