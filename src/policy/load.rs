//! Which policy is in force, and whether its file can be trusted.
//!
//! Takes the caller and the file named by `--policy`; gives a `Policy`; trusts `/etc/ces/policy.toml` when root alone
//! can write it; refuses a malformed file, a writable one, and another file where the caller could widen the rules.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::sysinfo::sysinfo;

use super::approved::Approved;
use super::{HostFacts, Policy};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::dirs::check_directory;

/// The site's policy.
pub const SITE_FILE: &str = "/etc/ces/policy.toml";

/// No policy is longer; more would be something else.
const LARGEST: u64 = 1 << 20;

impl Policy {
    /// The rules in force for `caller`: the site's file, or the built-in rules where there is none.
    ///
    /// `other` (`--policy`, `CES_POLICY`) counts where the caller could change the rules anyway: real root without sudo,
    /// or an ordinary user, for whom the policy is advisory.
    ///
    /// # Errors
    /// When the file is malformed, or others than root can write it, or `other` may not be used.
    pub fn load(caller: &Caller, other: Option<&Path>) -> Result<Self> {
        let facts = HostFacts::gather(caller.is_privileged())?;
        match other {
            Some(_) if caller.is_privileged() && caller.by_sudo => {
                Err(Error::new(Stage::Policy, Kind::Policy, "another policy file is not accepted through sudo")
                    .because(format!("under sudo the rules are those of {SITE_FILE}"))
                    .hint("leave out --policy and unset CES_POLICY"))
            }
            Some(path) => {
                let text = read(path, false)?.ok_or_else(|| {
                    Error::new(Stage::Policy, Kind::Missing, format!("there is no policy file {}", path.display()))
                        .hint("check --policy and CES_POLICY")
                })?;
                Self::parse(&text, &path.display().to_string(), &facts)
            }
            None => match read(Path::new(SITE_FILE), true)? {
                Some(text) => Self::parse(&text, SITE_FILE, &facts),
                None => Ok(Self::builtin(&facts)),
            },
        }
    }

    /// The list of approved images, if the policy names one.
    ///
    /// # Errors
    /// When it is missing, malformed, or others than root can write it.
    pub fn approved(&self) -> Result<Option<Approved>> {
        let Some(rule) = &self.images.approved else { return Ok(None) };
        let file = rule.value.display().to_string();
        let text = read(&rule.value, true)?.ok_or_else(|| {
            self.refuse(format!("the list of approved images {file} does not exist"), rule, "names it")
        })?;
        Approved::parse(&text, &file).map(Some)
    }
}

impl HostFacts {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When the kernel does not tell (sysinfo(2)).
    pub fn gather(privileged: bool) -> Result<Self> {
        let fail =
            |why: String| Error::new(Stage::Host, Kind::Host, "cannot find out how much memory there is").because(why);
        let machine = sysinfo().map_err(|e| fail(format!("sysinfo: {}", e.desc())))?;
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        Ok(Self { memory_bytes: machine.ram_total(), cpus: f64::from(cpus), privileged })
    }
}

/// The text of `path`; `None` if there is no such file.
fn read(path: &Path, root_owned: bool) -> Result<Option<String>> {
    let fail = |what: &str| {
        Error::new(Stage::Policy, Kind::Policy, format!("policy file {} {what}", path.display()))
            .hint("nothing runs under a policy that cannot be trusted; ask whoever runs this host")
    };
    // What is checked is what is read: everything by this one descriptor.
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail("cannot be read").because(e)),
    };
    let meta = file.metadata().map_err(|e| fail("cannot be examined").because(e))?;
    if !meta.is_file() {
        return Err(fail("is not a regular file"));
    }
    if root_owned {
        check_owner(&meta).map_err(|why| fail(&format!("could be changed by others than root: {why}")))?;
        for dir in path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            let meta = fs::metadata(dir).map_err(|e| fail("is in a directory that cannot be examined").because(e))?;
            check_directory(dir, &meta)
                .map_err(|why| fail(&format!("could be replaced by others than root: {why}")))?;
        }
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| fail("cannot be read").because(e))?;
    if text.len() as u64 > LARGEST {
        return Err(fail("is larger than 1 MiB"));
    }
    Ok(Some(text))
}

fn check_owner(meta: &fs::Metadata) -> Result<(), String> {
    if meta.uid() != 0 {
        return Err(format!("it is owned by uid {}", meta.uid()));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(format!("its mode is {:04o}", meta.mode() & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn caller(privileged: bool, by_sudo: bool) -> Caller {
        let mut caller = Caller::find().unwrap();
        caller.mode =
            if privileged { crate::host::caller::Mode::Enforced } else { crate::host::caller::Mode::Advisory };
        caller.by_sudo = by_sudo;
        caller
    }

    #[test]
    fn another_policy_is_refused_through_sudo_and_read_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, "contact = \"IG\"\n").unwrap();
        let error = Policy::load(&caller(true, true), Some(&path)).unwrap_err();
        assert_eq!(error.kind(), Kind::Policy);
        assert_eq!(Policy::load(&caller(true, false), Some(&path)).unwrap().contact(), Some("IG"));
        assert_eq!(Policy::load(&caller(false, false), Some(&path)).unwrap().contact(), Some("IG"));
    }

    #[test]
    fn a_named_file_that_is_missing_or_malformed_is_a_refusal_and_never_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        assert_eq!(Policy::load(&caller(false, false), Some(&path)).unwrap_err().kind(), Kind::Missing);
        for text in ["contact = ", "nonsense = 1\n", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Policy::load(&caller(false, false), Some(&path)).unwrap_err().kind(), Kind::Policy, "{text}");
        }
        assert_eq!(Policy::load(&caller(false, false), Some(dir.path())).unwrap_err().kind(), Kind::Policy);
    }

    #[test]
    fn a_site_file_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&path, true).unwrap_err().to_string().contains("others than root"));
        assert!(read(&path, false).unwrap().is_some());
    }
}
