use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn me() -> Who {
    Who::of(Pid::this())
}

/// What is said of an act on a path of this process, with an error alone.
fn said(path: &Path, act: Act) -> Result<(), Errno> {
    let link = matches!(act, Act::Make | Act::Remove);
    let place = Place::open(Pid::this(), None, path.as_os_str().as_bytes(), link).unwrap();
    meet(&place, None, act, &me()).map_err(|(_, errno)| errno)
}

#[test]
fn names_that_change_elsewhere_on_the_host_close_no_path() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/b", "c", "elsewhere"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    // The kernel cannot be sure of ".." while anything on the host is renamed (openat2(2), EAGAIN).
    symlink("../../c", dir.path().join("a/b/up")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (dir.path().join("elsewhere/1"), dir.path().join("elsewhere/2"));
            fs::write(&one, "").unwrap();
            while !done.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        });
        let path = dir.path().join("a/b/up");
        let told = (0..20_000).filter(|_| said(&path, Act::Look).is_err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(told, 0);
    });
}

#[test]
fn a_link_leads_where_it_leads_the_payload_from_the_root_and_from_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("there")).unwrap();
    fs::write(dir.path().join("there/file"), "").unwrap();
    symlink(dir.path().join("there"), dir.path().join("link")).unwrap();
    symlink("nowhere", dir.path().join("hanging")).unwrap();
    let directory = fs::File::open(dir.path()).unwrap();
    let from = |path: &str, link| {
        let place = Place::open(Pid::this(), Some(directory.as_raw_fd()), path.as_bytes(), link).unwrap();
        assert_eq!(place.whole().unwrap(), dir.path().canonicalize().unwrap().join(path));
        meet(&place, None, Act::Look, &me()).map_err(|(_, errno)| errno)
    };
    assert_eq!(from("link/file", false), Ok(()));
    assert_eq!(from("link/none", false), Err(Errno::ENOENT));
    assert_eq!(from("there/../link/file", false), Ok(()));
    assert_eq!((from("hanging", true), from("hanging", false)), (Ok(()), Err(Errno::ENOENT)));
    assert_eq!(said(&dir.path().join("link/file"), Act::Look), Ok(()));
    // It would be made where the link leads; nothing is said of that.
    let made = Act::Open(libc::O_WRONLY | libc::O_CREAT);
    assert_eq!(said(&dir.path().join("hanging"), made), Err(UNKNOWN));
    assert_eq!(said(&dir.path().join("new"), made), Ok(()));
    assert_eq!(said(&dir.path().join("none/new"), made), Err(Errno::ENOENT));
}

#[test]
fn what_fails_for_no_want_of_a_right_is_nothing_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("self", dir.path().join("self")).unwrap();
    let file = dir.path().join("file");
    for (path, act) in [
        (dir.path(), Act::Open(libc::O_WRONLY)),
        (dir.path(), Act::Open(libc::O_RDONLY | libc::O_CREAT)),
        (dir.path(), Act::Make),
        (&file, Act::Open(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)),
        (&file, Act::Open(libc::O_RDONLY | libc::O_DIRECTORY)),
        (Path::new("/dev/null"), Act::Open(libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC)),
        (Path::new("/"), Act::Make),
    ] {
        assert_eq!(said(path, act), Ok(()), "{path:?} {act:?}");
    }
    assert_eq!(said(&dir.path().join("self"), Act::Look), Err(Errno::ELOOP));
    for own in ["/proc/self/none", "/dev/fd/none", "/proc/thread-self/none"] {
        assert_eq!(said(Path::new(own), Act::Look), Err(UNKNOWN), "{own}");
    }
}

#[test]
fn two_directories_of_one_file_system_may_be_on_two_mounts_and_ids_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| opened(path.to_str().unwrap()).unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    assert_eq!(on_one_mount(&open(dir.path()), &open(&dir.path().join("a"))), Ok(true));
    assert_eq!(on_one_mount(&open(dir.path()), &open(Path::new("/proc"))), Ok(false));
    assert!(is_mapped("uid_map", u32::MAX) && is_mapped("uid_map", nix::unistd::geteuid().as_raw()));
    assert!(!is_mapped("none", 0));
}
