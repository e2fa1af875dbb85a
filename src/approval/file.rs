//! The list of approved images on disk, and how it is changed.
//!
//! Takes its path, which the policy names, and an edit; gives a list that is whole at any moment: the new text is read as a list
//! before it is one, told of, written aside and renamed. Trusts a directory that root alone can change; refuses a file that
//! others could write, one that is no list, and one that somebody else changed meanwhile. One change at a time: the
//! directory is locked (flock(2)), which a person's editor does not know, so what was read is compared with what is there.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::Root;
use crate::host::site_dir::SiteDir;
use crate::policy::approved::Approved;

/// No policy file is longer (`policy::load`).
const LARGEST: u64 = 1 << 20;

/// What makes a new text of the old one and of the list that it is; none: there is nothing to change.
pub type Edit<'a, T> = &'a dyn Fn(&str, &Approved) -> Result<Option<(String, T)>>;

/// Changes the list at `path`, or makes it; `tell` is called when the new list is known to be one and nothing is written yet.
/// Gives what `edit` gave.
///
/// # Errors
/// When the list cannot be trusted, read or written, was changed meanwhile, or `tell` fails: then it stays as it was.
pub fn change<T>(
    _: &Root,
    dir: &SiteDir,
    path: &Path,
    edit: Edit<'_, T>,
    tell: impl FnOnce(&T) -> Result<()>,
) -> Result<Option<T>> {
    let shown = path.display().to_string();
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| fail(path, "its name is not text"))?;
    let _lock = dir.lock()?;
    let old = dir.document(name.as_ref())?;
    let text = old.as_ref().map_or_else(|| Ok(String::new()), |file| read(path, file))?;
    let Some((new, what)) = edit(&text, &Approved::parse(&text, &shown)?)? else { return Ok(None) };
    Approved::parse(&new, &shown)?;
    if u64::try_from(new.len()).unwrap_or(u64::MAX) > LARGEST {
        return Err(fail(path, "it would be longer than 1 MiB").hint("take approvals that have ended out of it"));
    }
    tell(&what)?;
    if identity(dir, name)? != old.as_ref().map(state).transpose().map_err(|e| fail(path, e))? {
        return Err(fail(path, "somebody else changed it meanwhile").hint("type the command again"));
    }
    dir.replace(name, new.as_bytes(), old.as_ref())?;
    Ok(Some(what))
}

/// The directory of the list at `path`.
///
/// # Errors
/// When there is none, or others than root can change it.
pub fn directory(root: &Root, path: &Path) -> Result<SiteDir> {
    let parent = path.parent().ok_or_else(|| fail(path, "it is in no directory"))?;
    SiteDir::existing(root, parent)?.ok_or_else(|| {
        fail(path, "there is no such directory").hint(format!("make it: mkdir -m 755 {}", parent.display()))
    })
}

/// Which file it is, and in which state: device, number, size, time of the last change.
type State = (u64, u64, u64, i64, i64);

fn state(file: &File) -> std::io::Result<State> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

fn identity(dir: &SiteDir, name: &str) -> Result<Option<State>> {
    let file = dir.document(name.as_ref())?;
    file.as_ref().map(state).transpose().map_err(|e| fail(&dir.join(name), e))
}

fn read(path: &Path, file: &File) -> Result<String> {
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|e| fail(path, e))?;
    Ok(text)
}

fn fail(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Stage::Policy, Kind::Failed, format!("cannot change the list of approved images {}", path.display()))
        .because(why)
        .hint("nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::privilege::as_root;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn entry(at: usize) -> String {
        format!("[[image]]\ndigest = \"sha256:{at:064x}\"\nprojects = [\"*\"]\napprover = \"x\"\n")
    }

    fn add(dir: &SiteDir, path: &Path, text: &str) -> Result<Option<()>> {
        let edit = |old: &str, _: &Approved| Ok(Some((format!("{old}{text}"), ())));
        as_root(|root| change(root, dir, path, &edit, |()| Ok(())))
    }

    #[test]
    fn changes_of_several_at_once_are_all_there_and_the_mode_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SiteDir::of_the_caller(tmp.path()).unwrap();
        let path = tmp.path().join("approved.toml");
        fs::write(&path, "# kept\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::thread::scope(|scope| {
            for at in 0..8 {
                let (dir, path) = (&dir, &path);
                scope.spawn(move || {
                    (0..20).for_each(|n| assert!(add(dir, path, &entry(at * 100 + n)).unwrap().is_some()))
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(Approved::parse(&text, "a").unwrap().all().len(), 160);
        assert!(text.starts_with("# kept\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let mut names = dir.names().unwrap();
        names.retain(|name| name != ".lock");
        assert_eq!(names, ["approved.toml"], "nothing is left beside it");
    }

    #[test]
    fn what_is_no_list_is_never_written_and_a_change_of_somebody_elses_is_not_lost() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SiteDir::of_the_caller(tmp.path()).unwrap();
        let path = tmp.path().join("approved.toml");
        fs::write(&path, entry(1)).unwrap();
        assert!(add(&dir, &path, "[[image]]\ndigest = 3\n").is_err());
        assert!(add(&dir, &path, &format!("# {}\n", "x".repeat(1 << 20))).unwrap_err().to_string().contains("1 MiB"));
        let edit = |old: &str, _: &Approved| Ok(Some((format!("{old}{}", entry(2)), ())));
        let told = as_root(|root| {
            change(root, &dir, &path, &edit, |()| Err(Error::new(Stage::Record, Kind::Failed, "no room")))
        });
        assert!(told.unwrap_err().to_string().contains("no room"));
        assert_eq!(fs::read_to_string(&path).unwrap(), entry(1));
        // An editor saves while ces is at it.
        let saved = as_root(|root| {
            change(root, &dir, &path, &edit, |()| {
                fs::write(tmp.path().join("x"), entry(3)).unwrap();
                fs::rename(tmp.path().join("x"), &path).unwrap();
                Ok(())
            })
        });
        assert!(saved.unwrap_err().to_string().contains("meanwhile"));
        assert_eq!(fs::read_to_string(&path).unwrap(), entry(3));
        // One that is malformed before is not touched, nor is a link followed.
        fs::write(&path, "approved = true\n").unwrap();
        assert!(add(&dir, &path, &entry(4)).is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(add(&dir, &path, &entry(4)).unwrap_err().to_string().contains("symbolic link"));
    }
}
