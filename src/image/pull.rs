//! A whole image from a source into the store.
//!
//! Takes an origin and the name to keep the image by; gives what was stored.
//! Trusts nothing that the origin says: the manifest's digest pins the configuration, that one the layers' content.
//! Refuses an image that does not fit the disk or the limits, before or while it comes.
//!
//! 1. the manifest; if the store has that image, done
//! 2. the configuration, which tells what each layer is uncompressed: what is here already is not fetched
//! 3. the missing layers, some at once: blob → count and hash → child process → directory
//! 4. base first, layers that ask what lies below them
//! 5. the image, then its name

/// What failed, in words.
mod failure;
/// Layers that ask what lies below them.
mod settling;

use std::cell::Cell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use jiff::Timestamp;
use nix::errno::Errno;

use super::document::{Compression, Config, LayerDescriptor, Manifest, Platform};
use super::download::Download;
use super::progress::Progress;
use super::reference::{DiffId, Digest, Reference};
use super::source::{Checked, Origin};
use super::store::layer::PinnedLayer;
use super::store::viewer::Rights;
use super::store::workspace::Workspace;
use super::store::{ImageRecord, LayerRecord, Store};
use super::unpack::parent::{BlobPipe, Unpacker};
use super::unpack::protocol::{Fault, RawPath, Report, Work};
use crate::error::{Error, Kind, Result, Stage};
use crate::host::privilege::as_root;
use crate::host::signals::Interrupt;

/// Layers fetched and unpacked at once.
const AT_ONCE: usize = 3;
/// After a child has found the blob malformed: how much more is read to see whether the blob is what was announced.
const DRAIN_MAX: u64 = 64 << 20;

/// What to pull, and how.
#[allow(missing_debug_implementations, reason = "a closure says nothing")]
pub struct Request<'a> {
    /// The name to keep it by.
    pub reference: Reference,
    /// Where it comes from, in the user's words.
    pub source: String,
    /// Who asks.
    pub by: String,
    /// With which rights, and hence whose it is.
    pub rights: Rights,
    /// Which of several builds.
    pub platform: Platform,
    /// Where to show progress.
    pub progress: &'a Progress,
    /// Whether to go on.
    pub interrupt: &'a Interrupt,
    /// How long another pull of the same image by the same person is waited for.
    pub patience: Duration,
    /// Whether an image may be kept of which so many entries belong to nobody, for their ids have none here.
    pub unmapped_may_be: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

/// What was stored.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Pulled {
    /// The name it is kept by.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Layers that came over.
    pub fetched: usize,
    /// Layers it has.
    pub layers: usize,
    /// Bytes that came over for layers.
    pub fetched_bytes: u64,
    /// Bytes of these layers that an earlier pull had left, which was cut off.
    pub resumed_bytes: u64,
    /// Devices that were left out.
    pub devices_skipped: u64,
    /// Entries that belong to nobody (65534), for their user or group has no id here.
    pub unmapped_ids: u64,
    /// One of them, and its id, if it came over just now.
    #[serde(skip)]
    pub unmapped: Option<(RawPath, u64)>,
    /// What the image asks for and does not get, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<String>,
}

/// What one layer of the image is to become.
#[derive(Debug)]
struct Task {
    position: usize,
    descriptor: LayerDescriptor,
    diff_id: DiffId,
}

/// A layer that was unpacked.
enum Unpacked {
    /// In its place.
    Stored(Box<PinnedLayer>),
    /// Waiting for those below it.
    Waiting(Box<(Workspace, Report)>),
}

/// What the workers share.
struct Job<'a> {
    store: &'a Store,
    unpacker: &'a Unpacker,
    origin: &'a dyn Origin,
    request: &'a Request<'a>,
    manifest: &'a Manifest,
    config: &'a Config,
    tasks: Mutex<VecDeque<Task>>,
    done: Mutex<Vec<(usize, Unpacked)>>,
    failed: Mutex<Option<Error>>,
    stop: AtomicBool,
    bytes: AtomicU64,
    devices: AtomicU64,
    unmapped: Mutex<Option<(RawPath, u64)>>,
    resumed: AtomicU64,
}

/// Pulls an image.
///
/// # Errors
/// When it cannot be had, is not what was announced, asks for too much, or the disk is full; nothing half-written
/// remains.
pub fn pull(store: &Store, unpacker: &Unpacker, origin: &dyn Origin, request: &Request<'_>) -> Result<Pulled> {
    let manifest = origin.manifest(&request.platform)?;
    let blobs = manifest.layers.iter().map(|layer| layer.blob.size).sum();
    fetch(store, unpacker, origin, request, manifest).map_err(|error| with_room(store, error, blobs))
}

/// Adds what is free and what the image needs to an error about a full disk that does not tell yet, wherever it came from:
/// the child that unpacks says it in words alone.
fn with_room(store: &Store, error: Error, blobs: u64) -> Error {
    let told = |what: &str| error.causes().iter().any(|cause| cause.contains(what));
    let full = [Errno::ENOSPC, Errno::EDQUOT].iter().any(|errno| told(errno.desc()));
    if !full || told(" free") {
        return error;
    }
    let Ok(found) = as_root(|_| nix::sys::statvfs::statvfs(store.root())) else { return error };
    let bytes = found.blocks_available().saturating_mul(found.fragment_size());
    let (root, inodes) = (store.root().display(), found.files_available());
    error
        .because(format!(
            "{root} has {bytes} bytes and {inodes} inodes free; of layers, {blobs} bytes (compressed) are needed"
        ))
        .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy")
}

fn fetch(
    store: &Store,
    unpacker: &Unpacker,
    origin: &dyn Origin,
    request: &Request<'_>,
    manifest: Manifest,
) -> Result<Pulled> {
    let mut pulled = Pulled {
        reference: request.reference.to_string(),
        digest: manifest.digest.clone(),
        fetched: 0,
        layers: manifest.layers.len(),
        fetched_bytes: 0,
        resumed_bytes: 0,
        devices_skipped: 0,
        unmapped_ids: 0,
        unmapped: None,
        unused: Vec::new(),
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let pull = store.pull_by(&request.by, &request.source, now, request.rights);
    if let Some(unmapped) = store.has(&manifest.digest)? {
        pulled.unmapped_ids = unmapped;
        (request.unmapped_may_be)(unmapped)?;
        store.hold(&pulled.reference, &manifest.digest, pull, request.rights)?;
        return Ok(pulled);
    }
    let most = unpacker.limits().layers;
    if manifest.layers.len() as u64 > most {
        return Err(Error::new(Stage::Pull, Kind::Hostile, format!("refused {}", pulled.reference))
            .because(format!("it has {} layers; at most {most} are allowed", manifest.layers.len()))
            .hint("build the image with fewer layers"));
    }
    let _turn = {
        let told = Cell::new(false);
        let go_on = || {
            if !told.replace(true) {
                let most = request.patience.as_secs();
                request
                    .progress
                    .note(&format!("another pull of yours is at this image; waiting for it, {most} s at most"));
            }
            request.interrupt.check(Stage::Pull, "interrupted")
        };
        store.turn(&manifest.digest, request.patience, &go_on)?
    };
    store.sweep(unpacker)?;
    let config = Config::parse(origin.document(&manifest.config)?, manifest.layers.len())?;
    config.check_platform(&request.platform)?;
    pulled.unused.clone_from(&config.unused);
    let mut places = present(store, &config)?;
    let tasks = missing(&manifest, &config, &places);
    pre_flight(store, &tasks)?;
    pulled.fetched = tasks.len();
    pulled.fetched_bytes = tasks.iter().map(|task| task.descriptor.blob.size).sum();

    let job = Job {
        store,
        unpacker,
        origin,
        request,
        manifest: &manifest,
        config: &config,
        tasks: Mutex::new(tasks),
        done: Mutex::default(),
        failed: Mutex::default(),
        stop: AtomicBool::new(false),
        bytes: AtomicU64::new(0),
        devices: AtomicU64::new(0),
        unmapped: Mutex::default(),
        resumed: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(pulled.fetched) {
            scope.spawn(|| job.work());
        }
    });
    if let Some(error) = take(&job.failed) {
        return Err(error);
    }
    pulled.resumed_bytes = job.resumed.load(Ordering::Relaxed);
    pulled.fetched_bytes = pulled.fetched_bytes.saturating_sub(pulled.resumed_bytes);
    pulled.devices_skipped = job.devices.load(Ordering::Relaxed);
    let mut done = take(&job.done);
    done.sort_by_key(|(position, _)| *position);
    for (position, unpacked) in done {
        job.go_on()?;
        let layer = match unpacked {
            Unpacked::Stored(layer) => *layer,
            Unpacked::Waiting(waiting) => job.settle(position, *waiting, &places)?,
        };
        // The same layer may stand at several places.
        let diff_id = layer.dir.diff_id().clone();
        let layer = std::sync::Arc::new(layer);
        for (at, wanted) in config.diff_ids.iter().enumerate() {
            if *wanted == diff_id
                && (at == position || layer.dir.record().key == *diff_id.digest())
                && let Some(place) = places.get_mut(at)
            {
                place.get_or_insert_with(|| std::sync::Arc::clone(&layer));
            }
        }
    }
    let places: Vec<_> = places.into_iter().flatten().collect();
    if places.len() != manifest.layers.len() {
        // A layer that stands at several places and depends on them: nobody builds that.
        return Err(Error::new(
            Stage::Unpack,
            Kind::Failed,
            "the image uses a layer twice that depends on the ones below",
        ));
    }
    let layers = places.iter().map(|p| (p.dir.diff_id().clone(), p.dir.record().key.clone())).collect();
    let bytes = places.iter().map(|p| p.dir.record().file_bytes).sum();
    let blob_bytes = manifest.layers.iter().map(|layer| layer.blob.size).sum();
    pulled.unmapped_ids = places.iter().map(|p| p.dir.record().omitted.unmapped_ids).sum();
    pulled.unmapped = take(&job.unmapped);
    (request.unmapped_may_be)(pulled.unmapped_ids)?;
    let sizes = (bytes, blob_bytes, pulled.unmapped_ids);
    let record = ImageRecord::new(manifest.digest.clone(), layers, sizes, pull);
    store.commit(&pulled.reference, &manifest, &config, record, request.rights)?;
    Ok(pulled)
}

type Places = Vec<Option<std::sync::Arc<PinnedLayer>>>;

/// The layers that the store has, each at its place.
fn present(store: &Store, config: &Config) -> Result<Places> {
    let chain_ids = config.chain_ids();
    let mut places = Vec::with_capacity(config.diff_ids.len());
    for (diff_id, chain_id) in config.diff_ids.iter().zip(&chain_ids) {
        let pin = |key| if store.shows_layer(key)? { store.pin_layer(key, diff_id) } else { Ok(None) };
        let found = match pin(diff_id.digest())? {
            Some(layer) => Some(layer),
            None => pin(chain_id)?,
        };
        places.push(found.map(std::sync::Arc::new));
    }
    Ok(places)
}

/// What has to be fetched: each layer once, largest first, so that the last one to finish is a small one.
fn missing(manifest: &Manifest, config: &Config, places: &Places) -> VecDeque<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    for (position, (descriptor, diff_id)) in manifest.layers.iter().zip(&config.diff_ids).enumerate() {
        let here = places.get(position).is_some_and(Option::is_some);
        if !here && !tasks.iter().any(|task| task.diff_id == *diff_id) {
            tasks.push(Task { position, descriptor: descriptor.clone(), diff_id: diff_id.clone() });
        }
    }
    tasks.sort_by_key(|task| std::cmp::Reverse(task.descriptor.blob.size));
    tasks.into()
}

/// Refuses what cannot fit even if it were stored as it comes.
fn pre_flight(store: &Store, tasks: &VecDeque<Task>) -> Result<()> {
    let needed: u64 = tasks.iter().fold(0, |sum, task| sum.saturating_add(task.descriptor.blob.size));
    let free = free_bytes(store)?;
    if needed > free {
        return Err(Error::new(Stage::Store, Kind::Host, "the image does not fit the disk")
            .because(format!("its layers have {needed} bytes (compressed); {} has {free} free", store.root().display()))
            .hint("make room (ces prune deletes what nothing uses), or put the store elsewhere: --root, through sudo [site] in the policy"));
    }
    Ok(())
}

fn free_bytes(store: &Store) -> Result<u64> {
    let stat = as_root(|_| nix::sys::statvfs::statvfs(store.root()))
        .map_err(|e| Error::new(Stage::Store, Kind::Host, "cannot see how much space is free").because(e.desc()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

fn take<T: Default>(shared: &Mutex<T>) -> T {
    std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let task = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = task.filter(|_| !self.stop.load(Ordering::Relaxed)) else { return };
            match self.layer(&task, &[]) {
                Ok(unpacked) => {
                    self.done.lock().unwrap_or_else(PoisonError::into_inner).push((task.position, unpacked));
                }
                Err(error) => {
                    // The first failure is the one to tell; the others follow from stopping.
                    if !self.stop.swap(true, Ordering::SeqCst) {
                        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                    return;
                }
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        self.request.interrupt.check(Stage::Pull, "interrupted")
    }

    /// Fetches and unpacks one layer; if what was kept of it was something else, once more. Links of the layers in `lower` are
    /// followed entry by entry.
    fn layer(&self, task: &Task, lower: &[PathBuf]) -> Result<Unpacked> {
        let mut download = Download::new(self.store, self.origin, &task.descriptor.blob, &self.resumed);
        loop {
            let unpacked = self.unpack(task, &mut download, lower);
            if !download.ended(unpacked.as_ref().err()) {
                return unpacked;
            }
        }
    }

    fn unpack(&self, task: &Task, download: &mut Download<'_>, lower: &[PathBuf]) -> Result<Unpacked> {
        let blob = &task.descriptor.blob;
        let bar = self.request.progress.layer(blob.digest.short(), blob.size, download.resumed());
        let workspace = self.store.workspace(self.unpacker)?;
        let work = Work::Unpack {
            compression: task.descriptor.compression,
            blob_size: blob.size,
            has_base: task.position > 0,
            lower: lower.to_vec(),
        };
        let (fs, listing) = (workspace.fs(), workspace.listing());
        let ended = self.unpacker.unpack(&fs, &listing, work, |pipe| self.feed(task, download, pipe, &bar));
        bar.finish_and_clear();
        let report = match ended? {
            Ok(report) => report,
            Err(fault) => return Err(self.refuse(task.position, fault)),
        };
        if report.diff_id != *task.diff_id.digest() {
            let cause =
                format!("its uncompressed digest is {}, the configuration says {}", report.diff_id, task.diff_id);
            return Err(self.refuse(task.position, Fault::refused(cause)));
        }
        let total = self.bytes.fetch_add(report.bytes, Ordering::Relaxed).saturating_add(report.bytes);
        if total > self.unpacker.limits().image_bytes {
            let text = format!("the image expands to more than {} bytes", self.unpacker.limits().image_bytes);
            return Err(self.refuse(task.position, Fault::refused(text)));
        }
        self.devices.fetch_add(report.omitted.devices, Ordering::Relaxed);
        if let Some(unmapped) = &report.unmapped {
            self.unmapped.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| unmapped.clone());
        }
        // What depends on the layers below is not stored as the layer that it is by itself.
        if report.open.is_empty() && lower.is_empty() {
            let record = self.record(task.diff_id.digest(), &task.diff_id, &task.descriptor, &report);
            return Ok(Unpacked::Stored(Box::new(self.store.publish(workspace, record)?)));
        }
        Ok(Unpacked::Waiting(Box::new((workspace, report))))
    }

    /// Counts and hashes the blob on its way to the child.
    fn feed(&self, task: &Task, download: &mut Download<'_>, pipe: &mut BlobPipe, bar: &ProgressBar) -> Result<()> {
        use std::io::Write;
        let mut checked = Checked::new(&task.descriptor.blob);
        let mut stopped_after: Option<u64> = None;
        let mut seen = 0_u64;
        let read = download.run(&mut |bytes| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::new(Stage::Pull, Kind::Failed, "another layer failed"));
            }
            self.go_on()?;
            checked.update(bytes)?;
            seen += bytes.len() as u64;
            bar.inc(bytes.len() as u64);
            if let Some(after) = stopped_after {
                let stopped = || Error::new(Stage::Unpack, Kind::Failed, "the unpacking process stopped");
                return if seen - after > DRAIN_MAX { Err(stopped()) } else { Ok(()) };
            }
            match pipe.write_all(bytes) {
                Ok(()) => Ok(()),
                // The child has stopped, and will say why. If the blob is damaged, that is the reason.
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                    stopped_after = Some(seen);
                    Ok(())
                }
                Err(e) => Err(Error::new(Stage::Unpack, Kind::Host, "cannot pass the layer on").because(e)),
            }
        });
        match (read, stopped_after) {
            (Ok(()), _) => checked.finish().map_err(|error| self.damaged(task, &error)),
            (Err(_), Some(after)) if seen - after > DRAIN_MAX => Ok(()),
            (Err(error), _) => Err(self.damaged(task, &error)),
        }
    }

    fn record(&self, key: &Digest, diff_id: &DiffId, descriptor: &LayerDescriptor, report: &Report) -> LayerRecord {
        LayerRecord {
            diff_id: diff_id.clone(),
            key: key.clone(),
            blob: descriptor.blob.digest.clone(),
            blob_bytes: descriptor.blob.size,
            bytes: report.bytes,
            file_bytes: report.file_bytes,
            entries: report.entries,
            omitted: report.omitted.clone(),
            root: report.root,
            ids: self.unpacker.ids().clone(),
            tree: None,
        }
    }

    fn which(&self, position: usize) -> String {
        format!("layer {} of {} of {}", position + 1, self.manifest.layers.len(), self.request.reference)
    }
}

/// What a plain layer is called in a manifest that `ces` writes itself (for archives without one).
pub(crate) fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
