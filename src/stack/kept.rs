//! What was judged and read of images before, kept on this host.
//!
//! ```text
//! <store>/stacks/                    0700
//!   sha256-<manifest>.standing       what the site's rules made of an image: one line of SHA-256, one of JSON
//!   sha256-<manifest>.stack          the stack of an approved image (JSON, Zstandard), which stays when the image is removed
//! ```
//!
//! Takes standings and stacks; gives them back as they were; trusts what is in this directory as the store itself: root's, or an
//! ordinary user's own. What belongs to others, or may be written by others, is refused (`host::site_dir`). A standing counts for one
//! key, which is made from all that it depends on: under another, or damaged, it is none, and the image is judged anew.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use super::package::Stack;
use super::rules::{Action, Breach};
use super::verdict::Verdict;
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::host::site_dir::SiteDir;
use crate::image::reference::Digest;

/// The directory, in the store.
const NAME: &str = "stacks";
/// What files end with.
const STANDING: &str = ".standing";
const STACK: &str = ".stack";
/// The longest standing, and the longest stack, unpacked.
const STANDING_MAX: u64 = 1 << 20;
const STACK_MAX: u64 = 256 << 20;
/// How hard a stack is compressed.
const LEVEL: i32 = 6;

/// What the site's rules make of an image on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// What was read ([`Stack::digest`]).
    pub stack: Digest,
    /// The rules that it breaks.
    pub breaches: Vec<Breach>,
    /// The sources that it was judged by, each with the time of its data.
    pub sources: Vec<(String, String)>,
}

impl Standing {
    /// Of a stack that was judged.
    ///
    /// # Errors
    /// When the stack cannot be written as JSON.
    pub fn new(stack: &Stack, verdict: &Verdict, breaches: Vec<Breach>) -> io::Result<Self> {
        let sources = verdict.sources.iter().map(|used| (used.name.clone(), used.dated.clone())).collect();
        Ok(Self { stack: stack.digest()?, breaches, sources })
    }

    /// What refuses it.
    pub fn refusals(&self) -> impl Iterator<Item = &Breach> {
        self.breaches.iter().filter(|breach| breach.action == Action::Refuse)
    }
}

/// The directory.
#[derive(Debug)]
pub struct Kept(SiteDir);

impl Kept {
    /// In the store; made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to, or may be written by, others than the store's owner.
    pub fn open(store: &SiteDir) -> Result<Self> {
        as_root(|_| store.made_below(NAME.as_ref())).map(Self)
    }

    /// The same; none where nothing was ever kept.
    ///
    /// # Errors
    /// When it belongs to, or may be written by, others than the store's owner.
    pub fn existing(store: &SiteDir) -> Result<Option<Self>> {
        Ok(as_root(|_| store.below(NAME.as_ref()))?.map(Self))
    }

    /// What was kept of `image` under `key`.
    pub fn standing(&self, image: &Digest, key: &str) -> Option<Standing> {
        let text = self.read(&name(image, STANDING), STANDING_MAX).ok()??;
        let (sum, json) = std::str::from_utf8(&text).ok()?.split_once('\n')?;
        if sum != checksum(key, json) {
            return None;
        }
        serde_json::from_str(json).ok()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_standing(&self, image: &Digest, key: &str, standing: &Standing) -> Result<()> {
        let json = serde_json::to_string(standing).map_err(|e| self.error("cannot write a standing").because(e))?;
        self.write(&name(image, STANDING), format!("{}\n{json}", checksum(key, &json)).as_bytes())
    }

    /// The stack that was kept of `image`; none where none was.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn stack(&self, image: &Digest) -> Result<Option<Stack>> {
        let damaged = |e: io::Error| {
            self.error(&format!("the stack that was kept of {image} is damaged"))
                .because(e)
                .hint("ces fsck --repair removes it; it is read anew where the image is in the store")
        };
        let file = as_root(|_| self.0.document(name(image, STACK).as_ref()))?;
        let Some(file) = file else { return Ok(None) };
        let unpacked = || -> io::Result<Stack> {
            let mut bytes = Vec::new();
            zstd::stream::read::Decoder::new(file)?.take(STACK_MAX).read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        let stack = unpacked().map_err(damaged)?;
        if stack.image == image.as_str() { Ok(Some(stack)) } else { Err(damaged(io::Error::other("it is another's"))) }
    }

    /// Keeps the stack of the image `image`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_stack(&self, image: &Digest, stack: &Stack) -> Result<()> {
        let pack = || -> io::Result<Vec<u8>> {
            let mut sink = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
            // What a failing disk has changed is seen when it is read.
            sink.include_checksum(true)?;
            serde_json::to_writer(&mut sink, stack)?;
            sink.finish()
        };
        let bytes = pack().map_err(|e| self.error("cannot write a stack").because(e))?;
        self.write(&name(image, STACK), &bytes)
    }

    /// The images of which stacks are kept.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn stacks(&self) -> Result<Vec<Digest>> {
        let names = as_root(|_| self.0.names())?;
        let mut all: Vec<Digest> = names.iter().filter_map(|name| image(name, STACK)).collect();
        all.sort();
        Ok(all)
    }

    /// Forgets the stack of `image`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_stack(&self, image: &Digest) -> Result<()> {
        as_root(|_| self.0.remove(&name(image, STACK)))
    }

    /// Forgets standings of images that are not in the store, and stacks of those that are `approved` no more; without a list, no stack.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prune(&self, in_store: &[Digest], approved: Option<&[Digest]>) -> Result<()> {
        as_root(|_| {
            let is_old = |name: &String| {
                let standing = image(name, STANDING).is_some_and(|image| !in_store.contains(&image));
                let listed = |image: Digest| approved.is_some_and(|approved| !approved.contains(&image));
                standing || image(name, STACK).is_some_and(listed)
            };
            self.0.names()?.iter().filter(|name| is_old(name)).try_for_each(|name| self.0.remove(name))
        })
    }

    fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = as_root(|_| self.0.document(name.as_ref()))? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(most).read_to_end(&mut bytes);
        read.map(|_| Some(bytes)).map_err(|e| self.error("cannot read what was kept").because(e))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        as_root(|_| {
            let _held = self.0.lock()?;
            self.0.replace(name, bytes, None)
        })
    }

    fn error(&self, what: &str) -> Error {
        Error::new(Stage::Store, Kind::Failed, format!("{what} ({})", self.0.path().display()))
    }
}

/// What changes with every change of the files in `directory` whose names have that ending: name, inode, size, and the time of the
/// last change, which no program sets (`st_ctim`, inode(7)). Nothing is read.
///
/// # Errors
/// When one of them cannot be trusted or looked at.
pub fn marks(directory: &SiteDir, ending: &str) -> Result<Vec<String>> {
    as_root(|_| {
        let mut marks = Vec::new();
        for name in directory.names()?.into_iter().filter(|name| name.ends_with(ending)) {
            let Some(file) = directory.document(OsStr::new(&name))? else { continue };
            let found = file.metadata().map_err(|e| {
                Error::new(Stage::Store, Kind::Failed, format!("cannot look at {}", directory.join(&name).display()))
                    .because(e)
            })?;
            marks.push(format!(
                "{name:?} {} {} {} {}.{}",
                found.dev(),
                found.ino(),
                found.size(),
                found.ctime(),
                found.ctime_nsec()
            ));
        }
        marks.sort();
        Ok(marks)
    })
}

fn checksum(key: &str, json: &str) -> String {
    Digest::of(format!("{key}\n{json}").as_bytes()).hex().to_owned()
}

fn name(image: &Digest, ending: &str) -> String {
    format!("{}-{}{ending}", image.algorithm(), image.hex())
}

/// The image that a file is about.
fn image(name: &str, ending: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_suffix(ending)?.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn kept() -> (tempfile::TempDir, Kept) {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let kept = Kept::open(&SiteDir::of_the_caller(directory.path()).unwrap()).unwrap();
        (directory, kept)
    }

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn standing(rule: &'static str) -> Standing {
        let breach = Breach { rule: rule.into(), what: "1 secret".to_owned(), action: Action::Refuse };
        Standing {
            stack: digest("stack"),
            breaches: vec![breach],
            sources: vec![("osv-PyPI".to_owned(), String::new())],
        }
    }

    #[test]
    fn a_standing_counts_for_its_image_and_its_key_alone() {
        let (directory, kept) = kept();
        let image = digest("image");
        assert_eq!(kept.standing(&image, "key"), None);
        kept.keep_standing(&image, "key", &standing("secrets")).unwrap();
        assert_eq!(kept.standing(&image, "key"), Some(standing("secrets")));
        assert_eq!(kept.standing(&image, "another day"), None);
        assert_eq!(kept.standing(&digest("another image"), "key"), None);
        // Any change of the file is seen, and so is a file that others may write.
        let path = directory.path().join("stacks").join(name(&image, STANDING));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            fs::write(&path, &changed).unwrap();
            assert_eq!(kept.standing(&image, "key"), None, "byte {at}");
        }
        fs::write(&path, &whole).unwrap();
        assert!(kept.standing(&image, "key").is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        assert_eq!(kept.standing(&image, "key"), None);
    }

    #[test]
    fn a_stack_is_kept_until_its_image_is_approved_no_more_and_damage_is_told() {
        let (directory, kept) = kept();
        let (one, two) = (digest("one"), digest("two"));
        let stack = |image: &Digest| Stack { image: image.to_string(), user: "ann".to_owned(), ..Stack::default() };
        for image in [&one, &two] {
            kept.keep_stack(image, &stack(image)).unwrap();
            kept.keep_standing(image, "key", &standing("unowned")).unwrap();
        }
        assert_eq!(kept.stack(&one).unwrap(), Some(stack(&one)));
        kept.prune(&[], None).unwrap();
        assert_eq!((kept.stacks().unwrap().len(), kept.standing(&one, "key")), (2, None));
        kept.prune(&[], Some(std::slice::from_ref(&two))).unwrap();
        assert_eq!((kept.stacks().unwrap(), kept.stack(&one).unwrap()), (vec![two.clone()], None));
        // Another image's, and a damaged one.
        let file = |image: &Digest| directory.path().join("stacks").join(name(image, STACK));
        fs::copy(file(&two), file(&one)).unwrap();
        assert!(kept.stack(&one).unwrap_err().to_string().contains("is another's"));
        let mut bytes = fs::read(file(&two)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file(&two), bytes).unwrap();
        assert!(kept.stack(&two).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn every_change_of_a_directory_changes_its_marks() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let site = SiteDir::of_the_caller(directory.path()).unwrap();
        let path = directory.path().join("a.json");
        fs::write(&path, "one").unwrap();
        fs::write(directory.path().join("README"), "not looked at").unwrap();
        let mut seen = vec![marks(&site, ".json").unwrap()];
        assert_eq!((seen[0].len(), &seen[0]), (1, &marks(&site, ".json").unwrap()));
        // The same length, with the times of before: a clock tick later the kernel's own time tells.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        seen.push(marks(&site, ".json").unwrap());
        fs::rename(&path, directory.path().join("b.json")).unwrap();
        seen.push(marks(&site, ".json").unwrap());
        fs::remove_file(directory.path().join("b.json")).unwrap();
        seen.push(marks(&site, ".json").unwrap());
        let all: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(all.len(), seen.len(), "{seen:?}");
    }
}
