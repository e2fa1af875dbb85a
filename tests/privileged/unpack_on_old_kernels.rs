//! Hosts whose kernel lets no user namespace make a character device (Linux before 5.8), or where something forbids it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};

/// Runs `test` on a thread that may make no character device, nor any process that it starts.
fn without_character_devices(test: impl FnOnce() + Send + 'static) {
    let of_type = |argument| {
        let kind = SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT));
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, kind, u64::from(libc::S_IFCHR)).unwrap();
        vec![SeccompRule::new(vec![condition]).unwrap()]
    };
    let mut rules = BTreeMap::from([(libc::SYS_mknodat, of_type(2))]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_mknod, of_type(1));
    let denied = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into().unwrap());
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let thread = std::thread::spawn(move || {
        seccompiler::apply_filter(&program).unwrap();
        test();
    });
    thread.join().unwrap();
}

fn base() -> Tar {
    Tar::default().dir("d/").file("d/a", b"a").file("d/b", b"b")
}

#[test]
fn an_image_that_hides_a_file_is_refused_where_no_whiteout_can_be_made_and_says_why() {
    without_character_devices(|| {
        let site = Site::new();
        let report = site.refuse(&[base(), Tar::default().dir("d/").file("d/.wh.a", b"")]);
        for words in ["layer 2 of 2", "entry \"d/.wh.a\"", "whiteout (character device 0:0)", "Linux 5.8", "hint: "] {
            assert!(report.contains(words), "{words}: {report}");
        }
        assert!(!report.contains("hostile"), "it is not the image's fault: {report}");
        assert!(site.store().images().unwrap().is_empty());
    });
}

#[test]
fn an_image_without_whiteouts_needs_no_character_device() {
    without_character_devices(|| {
        let site = Site::new();
        // An opaque directory is an attribute, and a named pipe is no device.
        let upper = Tar::default()
            .dir("d/")
            .file("d/.wh..wh..opq", b"")
            .file("d/c", b"c")
            .raw(b"pipe", b'6', b"", |_| {})
            .raw(b"tty", b'3', b"", |_| {});
        let layers = [base(), upper].map(|tar| Layer::new(&tar.end(), Pack::Gzip));
        let image = site.pull(&LayoutDir::of(&layers)).unwrap_or_else(|e| panic!("{}", e.report()));
        let upper = image.layers()[1].path();
        assert_eq!(fs::read(upper.join("d/c")).unwrap(), b"c");
        assert!(fs::symlink_metadata(upper.join("pipe")).unwrap().file_type().is_fifo());
        assert!(!upper.join("tty").exists());
        site.assert_canary_unharmed();
        site.assert_no_leftovers();
    });
}
