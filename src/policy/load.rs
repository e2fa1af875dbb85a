//! Which policy is in force, and whether its file can be trusted.
//!
//! Takes the caller and the file named by `--policy`; gives a `Policy`; trusts `/etc/ces/policy.toml` when root alone
//! can write it; refuses a malformed file, a writable one, and another file where the caller could widen the rules.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use nix::sys::sysinfo::sysinfo;

use super::approved::Approved;
use super::{HostFacts, Policy};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::caller::Caller;
use crate::host::named_file;
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::stack::vex::{self, Waivers};

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
    pub fn load(root: &Root, caller: &Caller, other: Option<&Path>) -> Result<Self> {
        let facts = HostFacts::gather(caller.is_privileged())?;
        match other {
            Some(_) if caller.by_sudo => {
                Err(Error::new(Stage::Policy, Kind::Policy, "--policy is not accepted through sudo")
                    .because(format!("under sudo the rules are those of {SITE_FILE}"))
                    .hint("leave out --policy and unset CES_POLICY"))
            }
            Some(path) => {
                let text = of_the_caller(path)?.ok_or_else(|| {
                    Error::new(Stage::Policy, Kind::Missing, format!("there is no policy file {}", path.display()))
                        .hint("check --policy and CES_POLICY")
                })?;
                Self::parse(&text, &path.display().to_string(), &facts)
            }
            None => match of_the_site(root, Path::new(SITE_FILE))? {
                Some(text) => Self::parse(&text, SITE_FILE, &facts),
                None => Ok(Self::builtin(&facts)),
            },
        }
    }

    /// The list of approved images, if the policy names one.
    ///
    /// # Errors
    /// When it is missing, malformed, or others than root can write it.
    pub fn approved(&self, root: &Root) -> Result<Option<Approved>> {
        let Some(rule) = &self.images.approved else { return Ok(None) };
        let file = rule.value.display().to_string();
        let text = of_the_site(root, &rule.value)?.ok_or_else(|| {
            self.refuse(format!("the list of approved images {file} does not exist"), rule, "names it")
        })?;
        Approved::parse(&text, &file).map(Some)
    }
}

impl Policy {
    /// The waivers of the directory that the policy names; none where it names none.
    ///
    /// # Errors
    /// When the directory is missing, others than root can write it, or a document in it is none: a waiver that is not understood
    /// must not be a waiver that is absent.
    pub fn waivers(&self, root: &Root) -> Result<Waivers> {
        let Some(rule) = &self.images().stack.waivers else { return Ok(Waivers::default()) };
        let place = rule.value.display().to_string();
        let fail = |what: String| {
            Error::new(Stage::Policy, Kind::Policy, what).hint("images.stack.waivers in the policy names it")
        };
        let directory = SiteDir::existing(root, &rule.value)?;
        let directory = directory.ok_or_else(|| fail(format!("the directory of waivers {place} does not exist")))?;
        let entries =
            std::fs::read_dir(directory.path()).map_err(|e| fail(format!("cannot list {place}")).because(e))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| fail(format!("cannot list {place}")).because(e))?.file_name();
            names.extend(name.to_str().filter(|name| name.ends_with(".json")).map(str::to_owned));
        }
        names.sort();
        let mut documents = Vec::new();
        for name in names {
            let Some(file) = directory.document(name.as_ref())? else { continue };
            let text = text(&directory.join(&name), file)?;
            let statements = vex::parse(text.as_bytes(), &name);
            documents.push(
                statements.map_err(|why| fail(format!("{place}/{name} is no document of waivers")).because(why))?,
            );
        }
        Ok(Waivers::new(documents))
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

/// The text of a file of the site's; `None` if there is no such file.
fn of_the_site(root: &Root, path: &Path) -> Result<Option<String>> {
    let trusted = |e: Error| {
        Error::new(Stage::Policy, Kind::Policy, format!("policy file {} cannot be trusted", path.display()))
            .because(&e)
            .hint("nothing runs under a policy that cannot be trusted; ask whoever runs this host")
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let Some(dir) = SiteDir::existing(root, parent).map_err(trusted)? else { return Ok(None) };
    match dir.document(name).map_err(trusted)? {
        Some(file) => text(path, file).map(Some),
        None => Ok(None),
    }
}

/// The text of a file that the caller names; `None` if there is no such file.
fn of_the_caller(path: &Path) -> Result<Option<String>> {
    match named_file::to_read(path) {
        Ok(file) => text(path, file).map(Some),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(path, "cannot be read").because(e)),
    }
}

fn unusable(path: &Path, what: &str) -> Error {
    Error::new(Stage::Policy, Kind::Policy, format!("policy file {} {what}", path.display()))
        .hint("nothing runs under a policy that cannot be trusted; ask whoever runs this host")
}

fn text(path: &Path, file: File) -> Result<String> {
    let fail = |what: &str| unusable(path, what);
    if !file.metadata().map_err(|e| fail("cannot be examined").because(e))?.is_file() {
        return Err(fail("is not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| fail("cannot be read").because(e))?;
    if text.len() as u64 > LARGEST {
        return Err(fail("is larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn caller(privileged: bool, by_sudo: bool) -> Caller {
        let mode = if privileged { crate::host::caller::Mode::Enforced } else { crate::host::caller::Mode::Advisory };
        let mut caller = Caller::find().unwrap();
        (caller.mode, caller.by_sudo) = (mode, by_sudo);
        caller
    }

    fn loaded(caller: &Caller, other: Option<&Path>) -> Result<Policy> {
        crate::host::privilege::as_root(|root| Policy::load(root, caller, other))
    }

    #[test]
    fn another_policy_is_refused_through_sudo_and_read_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, "contact = \"IG\"\n").unwrap();
        let error = loaded(&caller(true, true), Some(&path)).unwrap_err();
        assert_eq!(error.kind(), Kind::Policy);
        assert_eq!(loaded(&caller(true, false), Some(&path)).unwrap().contact(), Some("IG"));
        assert_eq!(loaded(&caller(false, false), Some(&path)).unwrap().contact(), Some("IG"));
    }

    #[test]
    fn a_named_file_that_is_missing_or_malformed_is_a_refusal_and_never_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        assert_eq!(loaded(&caller(false, false), Some(&path)).unwrap_err().kind(), Kind::Missing);
        for text in ["contact = ", "nonsense = 1\n", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(loaded(&caller(false, false), Some(&path)).unwrap_err().kind(), Kind::Policy, "{text}");
        }
        assert_eq!(loaded(&caller(false, false), Some(dir.path())).unwrap_err().kind(), Kind::Policy);
    }

    #[test]
    fn a_site_file_others_can_write_or_exchange_is_refused() {
        // A temporary directory is below one that everybody may write to.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, "").unwrap();
        let refused = |path: &Path| crate::host::privilege::as_root(|root| of_the_site(root, path)).unwrap_err();
        assert!(refused(&path).to_string().contains("cannot be trusted"), "{}", refused(&path));
        assert!(of_the_caller(&path).unwrap().is_some());
        assert!(
            crate::host::privilege::as_root(|root| of_the_site(root, Path::new("/no/such/p.toml"))).unwrap().is_none()
        );
    }
}
