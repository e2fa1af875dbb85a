//! Images built by code: archives entry by entry, layouts, a store of one's own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ces::error::{Error, Result};
use ces::host::caller::Caller;
use ces::host::dirs::{Dirs, Places};
use ces::host::idmap::IdMap;
use ces::host::privilege::as_root;
use ces::host::signals::Interrupt;
use ces::image::document::Platform;
use ces::image::progress::Progress;
use ces::image::pull::{Pulled, Request, pull};
use ces::image::reference::{Digest, Pick};
use ces::image::source::{Origin, layout::Layout};
use ces::image::store::{Store, StoredImage};
use ces::image::unpack::Limits;
use ces::image::unpack::parent::Unpacker;

/// The real program, which the unpacking child is; a test that runs as another user has it elsewhere.
pub fn ces() -> PathBuf {
    std::env::var_os("CES_TEST_EXE").map_or_else(|| env!("CARGO_BIN_EXE_ces").into(), PathBuf::from)
}

/// This test binary again, to run one of its ignored tests, perhaps as someone else; in a directory open to all.
pub struct Again {
    pub directory: tempfile::TempDir,
}

impl Again {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let open =
            |path: &Path, mode| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        open(directory.path(), 0o755);
        for (from, name) in [(std::env::current_exe().unwrap(), "tests"), (ces(), "ces")] {
            fs::copy(from, directory.path().join(name)).unwrap();
            open(&directory.path().join(name), 0o755);
        }
        fs::create_dir(directory.path().join("tmp")).unwrap();
        open(&directory.path().join("tmp"), 0o1777);
        Self { directory }
    }

    /// To run one ignored test.
    pub fn command(&self, test: &str) -> std::process::Command {
        let mut command = self.binary();
        command.args(["--exact", "--ignored", "--nocapture", test]);
        command
    }

    /// To run what its arguments say.
    pub fn binary(&self) -> std::process::Command {
        let mut command = std::process::Command::new(self.directory.path().join("tests"));
        command
            .current_dir("/")
            .env("CES_TEST_EXE", self.directory.path().join("ces"))
            .env("TMPDIR", self.directory.path().join("tmp"))
            .env("HOME", self.directory.path().join("tmp"))
            .env_remove("SUDO_UID")
            .env_remove("SUDO_USER");
        command
    }
}

/// An archive in the making; every field can be wrong.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// An entry with everything chosen.
    pub fn raw(mut self, name: &[u8], kind: u8, data: &[u8], change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_ustar();
        let length = name.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&name[..length]);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(name.as_bytes(), b'0', data, |_| {})
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(name.as_bytes(), b'5', b"", |h| h.set_mode(0o755))
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.link(name, b'2', target)
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(name, b'1', target)
    }

    fn link(self, name: &str, kind: u8, target: &str) -> Self {
        self.raw(name.as_bytes(), kind, b"", |h| {
            h.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// A pax header for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if length.to_string().len() + rest != length {
                length += 1;
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b"PaxHeaders/x", b'x', &body, |_| {})
    }

    /// The archive with its end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// How a layer is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pack {
    Plain,
    Gzip,
    Zstd,
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer: its blob, and the digest of what it is uncompressed.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
    pub media_type: &'static str,
}

impl Layer {
    pub fn new(archive: &[u8], pack: Pack) -> Self {
        let diff_id = Digest::of(archive);
        let (blob, media_type) = match pack {
            Pack::Plain => (archive.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Pack::Gzip => (gzip(archive), "application/vnd.oci.image.layer.v1.tar+gzip"),
            Pack::Zstd => {
                (zstd::stream::encode_all(archive, 3).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        };
        Self { blob, diff_id, media_type }
    }
}

/// An OCI layout in a directory.
pub struct LayoutDir(pub tempfile::TempDir);

impl LayoutDir {
    pub fn of(layers: &[Layer]) -> Self {
        let layout = Self(tempfile::tempdir().unwrap());
        let manifest = layout.image(layers, &Platform::host().architecture);
        layout.index(&[(manifest, Some("test"))]);
        layout
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let directory = self.path().join("blobs/sha256");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(digest.hex()), bytes).unwrap();
        digest
    }

    /// Writes layers, configuration and manifest; gives the manifest's bytes.
    pub fn image(&self, layers: &[Layer], architecture: &str) -> Vec<u8> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap();
        let config_digest = self.blob(&config);
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.blob(&layer.blob);
                serde_json::json!({"mediaType": layer.media_type, "digest": digest, "size": layer.blob.len()})
            })
            .collect();
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": layers,
        }))
        .unwrap();
        self.blob(&manifest);
        manifest
    }

    pub fn index(&self, manifests: &[(Vec<u8>, Option<&str>)]) {
        let entries: Vec<_> = manifests
            .iter()
            .map(|(bytes, tag)| {
                let mut entry = serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": Digest::of(bytes), "size": bytes.len()});
                if let Some(tag) = tag {
                    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": tag});
                }
                entry
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": entries});
        fs::write(self.path().join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        fs::write(self.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// A store below a temporary directory, with a canary beside it that nothing may touch.
pub struct Site {
    pub directory: tempfile::TempDir,
    pub caller: Caller,
    pub limits: Limits,
    /// How long a pull waits for another of the same image.
    pub patience: Duration,
    canary: Vec<String>,
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::at(directory)
    }

    pub fn at(directory: tempfile::TempDir) -> Self {
        let canary = directory.path().join("store/canary");
        fs::create_dir_all(&canary).unwrap();
        fs::set_permissions(directory.path().join("store"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        fs::write(canary.join("victim"), "untouched").unwrap();
        let mut site = Self {
            directory,
            caller: Caller::find().unwrap(),
            limits: Limits::default(),
            patience: Duration::from_secs(60),
            canary: Vec::new(),
        };
        site.canary = site.look_at_canary();
        site
    }

    /// Everything about the canary that an escape could change.
    fn look_at_canary(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let directory = self.directory.path().join("store/canary");
        let mut seen: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .chain([directory.clone()])
            .map(|path| {
                let m = fs::symlink_metadata(&path).unwrap();
                let text = if m.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
                format!("{} {:o} {} {} {} {} {text}", path.display(), m.mode(), m.uid(), m.gid(), m.mtime(), m.nlink())
            })
            .collect();
        seen.sort();
        seen
    }

    #[track_caller]
    pub fn assert_canary_unharmed(&self) {
        assert_eq!(self.canary, self.look_at_canary(), "the canary beside the layers was changed");
    }

    pub fn dirs(&self) -> Dirs {
        as_root(|root| Dirs::open(root, &self.caller, Some(self.directory.path()), &Places::default())).unwrap()
    }

    pub fn store(&self) -> Store {
        Store::open(&self.dirs(), &self.caller).unwrap()
    }

    pub fn unpacker(&self) -> Unpacker {
        Unpacker::with_exe(&self.caller, &self.limits, &ces()).unwrap()
    }

    pub fn pull_from(&self, origin: &dyn Origin, name: &str) -> Result<Pulled> {
        let progress = Progress::new(true);
        let request = Request {
            rights: ces::image::store::viewer::Rights::default(),
            reference: name.parse().unwrap(),
            source: "a test".to_owned(),
            by: "tester".to_owned(),
            platform: Platform::host(),
            progress: &progress,
            interrupt: &Interrupt::default(),
            patience: self.patience,
            unmapped_may_be: &|_| Ok(()),
        };
        pull(&self.store(), &self.unpacker(), origin, &request)
    }

    pub fn pull(&self, layout: &LayoutDir) -> Result<StoredImage> {
        self.pull_from(&Layout::directory(layout.path(), Pick::Only).unwrap(), "localhost/test:latest")?;
        self.store().find("localhost/test:latest")
    }

    /// Pulls an image of these archives, unpacked; gives the layers' trees, base first.
    pub fn unpack(&self, archives: &[Tar]) -> Result<Vec<PathBuf>> {
        let layers: Vec<_> = archives.iter().map(|archive| Layer::new(&archive.clone().end(), Pack::Plain)).collect();
        let image = self.pull(&LayoutDir::of(&layers))?;
        Ok(image.layers().iter().map(|layer| layer.path().to_owned()).collect())
    }

    /// Pulls an image of one archive, which must be refused; gives the report, and checks that nothing is left.
    #[track_caller]
    pub fn refuse(&self, archives: &[Tar]) -> String {
        let error = self.unpack(archives).expect_err("the image should be refused");
        self.assert_canary_unharmed();
        self.assert_no_leftovers();
        report(&error)
    }

    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        let left: Vec<_> = fs::read_dir(self.directory.path().join("store/tmp")).unwrap().collect();
        assert!(left.is_empty(), "left over: {left:?}");
    }
}

pub fn report(error: &Error) -> String {
    error.report()
}

/// Unpacks one layer that is fine; gives its tree.
#[track_caller]
pub fn kept(site: &Site, archive: Tar) -> PathBuf {
    let trees = site.unpack(&[archive]).unwrap_or_else(|e| panic!("{}", e.report()));
    site.assert_canary_unharmed();
    site.assert_no_leftovers();
    trees[0].clone()
}

/// A tree in a store that lives as long as it.
pub struct Alone(PathBuf, #[allow(dead_code, reason = "kept for its directory")] Site);

impl std::ops::Deref for Alone {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// As [`kept`], in a store of its own.
#[track_caller]
pub fn alone(archive: Tar) -> Alone {
    let site = Site::new();
    Alone(kept(&site, archive), site)
}

/// A layer that must be refused, with `why` in the report.
#[track_caller]
pub fn refused(archive: Tar, why: &str) {
    let report = Site::new().refuse(&[archive]);
    assert!(report.contains(why), "not \"{why}\":\n{report}");
    assert!(report.contains("layer 1 of 1 of localhost/test:latest"), "{report}");
}

/// The owner and group on this disk of what belongs to `uid` and `gid` in an image.
pub fn on_disk(uid: u32, gid: u32) -> (u32, u32) {
    let ids = IdMap::on_disk(&Caller::find().unwrap()).unwrap();
    (ids.uid_outside(uid).unwrap(), ids.gid_outside(gid).unwrap())
}

/// An archive with nothing in it yet.
pub fn empty() -> Tar {
    Tar::default()
}
