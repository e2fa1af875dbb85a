//! Programs of others that check exports: Python's, in an environment of their own (`scripts/validators`).

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ran, skip};

/// The checks of `tests/validators/check.py`.
pub struct Validators {
    python: PathBuf,
}

impl Validators {
    /// If they are there; if not, the test is skipped.
    pub fn new() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/tools/validators/bin/python");
        if python.exists() && root.join("target/tools/validators/requirements.txt").exists() {
            return Some(Self { python });
        }
        skip("the programs that check exports are not there: run scripts/validators")
    }

    /// What a check says; nothing is well.
    pub fn check(&self, words: &[&str]) -> Ran {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validators/check.py");
        let mut command = Command::new(&self.python);
        command.env("MPLBACKEND", "agg").arg(script).args(words);
        Ran::from(command.output())
    }

    /// Makes an environment of conda's, and files of models, in a directory; gives what its installer says is there.
    pub fn conda(&self, top: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validators/conda.py");
        Ran::from(Command::new(&self.python).arg(script).arg(top).output()).exits(0).to_owned()
    }

    /// Finds nothing.
    #[track_caller]
    pub fn passes(&self, words: &[&str]) {
        assert_eq!(self.check(words).exits(0), "", "{words:?}");
    }

    /// Finds something that has `what` in it.
    #[track_caller]
    pub fn fails(&self, words: &[&str], what: &str) {
        let ran = self.check(words);
        assert!(ran.code == Some(1) && ran.stdout.contains(what), "{words:?}, {what}: {ran:?}");
    }
}
