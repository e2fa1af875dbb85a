//! Entries of the run's user and group in its own `/etc/passwd` and `/etc/group`, where the image has none.
//!
//! Takes the resolved user; gives lines of passwd(5) and group(5), which go to the end of the run's own copies of the files
//! (the throw-away layer of the overlay); trusts nothing that the image has there; refuses nothing: where something other than
//! a plain file of ordinary size is there, it stays as it is.
//!
//! Programs ask for the name of their own user (getpwuid(3)): whoami, ssh, Python's getpass, Postgres, Open MPI. `USER 4321`
//! names one that no file of the image knows. podman adds the same entry.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::image_user::ResolvedUser;
use crate::error::{Error, Kind, Result, Stage};

/// A file that is larger is not copied into the throw-away layer for a line of its own.
const LARGEST: i64 = 4 << 20;

/// The lines; none where the image has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// For `/etc/passwd`.
    pub passwd: Option<String>,
    /// For `/etc/group`.
    pub group: Option<String>,
}

impl Accounts {
    /// What the image lacks of `user`, whose home is the `HOME` of the `spec`.
    pub fn of(user: &ResolvedUser, spec: &Spec) -> Self {
        let env = spec.process().as_ref().and_then(|process| process.env().as_ref());
        let home = env.into_iter().flatten().find_map(|variable| variable.strip_prefix("HOME=")).unwrap_or("/");
        let ResolvedUser { uid, gid, .. } = user;
        let is_plain = home.starts_with('/') && !home.contains([':', '\n', '\0']);
        let home = if is_plain { home } else { "/" };
        // Root has a name everywhere; of others only the number is known.
        let name = |id: &u32| if *id == 0 { "root".to_owned() } else { id.to_string() };
        Self {
            passwd: user.name.is_none().then(|| format!("{}:x:{uid}:{gid}:container user:{home}:/bin/sh", name(uid))),
            group: (!user.group_is_named).then(|| format!("{}:x:{gid}:", name(gid))),
        }
    }
}

/// Adds the lines in the tree at `rootfs`, before anything is mounted in it.
///
/// # Errors
/// When there is no room for them.
pub fn add(rootfs: &Path, accounts: &Accounts) -> Result<()> {
    let lines = [("etc/passwd", &accounts.passwd), ("etc/group", &accounts.group)];
    lines.into_iter().try_for_each(|(path, line)| line.as_deref().map_or(Ok(()), |line| add_line(rootfs, path, line)))
}

fn add_line(rootfs: &Path, path: &str, line: &str) -> Result<()> {
    let fail = |e: std::io::Error| {
        Error::new(Stage::Bundle, Kind::Failed, format!("cannot add the run's user to /{path} in the container"))
            .because(e)
    };
    let Some(mut file) = own_file(rootfs, path) else { return Ok(()) };
    let length = file.seek(SeekFrom::End(0)).map_err(fail)?;
    // A last line without its end is ended first.
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(fail)?;
    }
    let begin = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{begin}{line}\n").as_bytes()).map_err(fail)
}

/// The plain file at `path`, made if nothing is there: found by the kernel within the tree, and looked at before it is opened,
/// for to open a device or a fifo may do something or wait (CVE-2024-9676).
fn own_file(rootfs: &Path, path: &str) -> Option<File> {
    let root = File::open(rootfs).ok()?;
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let open = |flags: OFlag, mode: u32| {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(Mode::from_bits_truncate(mode)).resolve(resolve);
        openat2(&root, path, how)
    };
    let found = match open(OFlag::O_PATH, 0) {
        Err(nix::Error::ENOENT) => {
            return open(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR, 0o644).ok().map(File::from);
        }
        found => fstat(found.ok()?).ok()?,
    };
    let is_file = SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT) == SFlag::S_IFREG;
    // Nothing of the payload runs yet: what is opened is what was looked at.
    (is_file && found.st_size <= LARGEST).then(|| open(OFlag::O_RDWR | OFlag::O_NONBLOCK, 0).ok().map(File::from))?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn after(prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, Option<String>) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        prepare(root.path());
        let accounts = Accounts { passwd: Some("7:x:7:7::/:/bin/sh".to_owned()), group: None };
        add(root.path(), &accounts).unwrap();
        let text = fs::symlink_metadata(root.path().join("etc/passwd")).unwrap().is_file();
        let text = text.then(|| fs::read_to_string(root.path().join("etc/passwd")).unwrap());
        (root, text)
    }

    #[test]
    fn a_line_goes_to_the_end_of_the_file_or_into_a_new_one() {
        let line = "7:x:7:7::/:/bin/sh\n";
        let write = |text: &'static str| move |root: &Path| fs::write(root.join("etc/passwd"), text).unwrap();
        assert_eq!(after(|_| {}).1.unwrap(), line);
        assert_eq!(after(write("")).1.unwrap(), line);
        assert_eq!(after(write("a:x:1:1::/:\n")).1.unwrap(), format!("a:x:1:1::/:\n{line}"));
        assert_eq!(after(write("a:x:1:1::/:")).1.unwrap(), format!("a:x:1:1::/:\n{line}"));
    }

    #[test]
    fn what_is_no_plain_file_of_ordinary_size_stays_as_it_is() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        for target in [outside.path().to_str().unwrap(), "/dev/null", "/proc/self/fd/0", "passwd"] {
            after(|root| symlink(target, root.join("etc/passwd")).unwrap());
        }
        assert_eq!(fs::read(outside.path()).unwrap(), b"");
        // A link within the image leads to the image's own file.
        let (root, _) = after(|root| {
            symlink("../../../../real", root.join("etc/passwd"))
                .and_then(|()| fs::write(root.join("real"), ""))
                .unwrap()
        });
        assert_eq!(fs::read_to_string(root.path().join("real")).unwrap(), "7:x:7:7::/:/bin/sh\n");
        let fifo = |root: &Path| nix::unistd::mkfifo(&root.join("etc/passwd"), Mode::S_IRWXU).unwrap();
        assert_eq!(after(fifo).1, None);
        assert_eq!(after(|root| fs::create_dir(root.join("etc/passwd")).unwrap()).1, None);
        let (root, _) = after(|root| fs::File::create(root.join("etc/passwd")).unwrap().set_len(1 << 30).unwrap());
        assert_eq!(fs::metadata(root.path().join("etc/passwd")).unwrap().len(), 1 << 30);
    }

    #[test]
    fn entries_are_those_that_the_image_lacks() {
        let spec = |home: &str| -> Spec {
            let process =
                serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": [format!("HOME={home}")]});
            serde_json::from_value(serde_json::json!({"ociVersion": "1.0.2", "process": process})).unwrap()
        };
        let user = |uid, gid| ResolvedUser { uid, gid, ..ResolvedUser::default() };
        let made = Accounts::of(&user(4321, 0), &spec("/srv"));
        assert_eq!(made.passwd.unwrap(), "4321:x:4321:0:container user:/srv:/bin/sh");
        assert_eq!(made.group.unwrap(), "root:x:0:");
        // A home cannot make another entry.
        assert_eq!(
            Accounts::of(&user(5, 5), &spec("/x\nroot::0:0::/:")).passwd.unwrap(),
            "5:x:5:5:container user:/:/bin/sh"
        );
        let known = ResolvedUser { name: Some("ann".to_owned()), group_is_named: true, ..user(5, 5) };
        assert_eq!(Accounts::of(&known, &spec("/")), Accounts::default());
    }
}
