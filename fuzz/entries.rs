//! Where bytes from outside come in, and what must hold whatever they are. Nothing here writes anything.
//!
//! Used twice: by the fuzzer (`scripts/fuzz`), and with its seeds by `tests/it/fuzz.rs`, which runs everywhere.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use ces::bundle::image_user;
use ces::bundle::spec::{self, HostPaths, SpecInput};
use ces::host::idmap::{Extent, FOREIGN_BASE, IdMap, RANGE};
use ces::image::document::{Compression, Config, Document, Platform};
use ces::image::magic::Packing;
use ces::image::reference::{Pick, Reference, Source};
use ces::image::source::Origin;
use ces::image::source::archive::Archive;
use ces::image::source::challenge::{self, Challenge};
use ces::image::source::docker_archive::DockerArchive;
use ces::image::source::layout::Layout;
use ces::image::source::www_authenticate;
use ces::image::unpack::limits::Limits;
use ces::image::unpack::plan::{self, Action, Parts};
use ces::image::unpack::protocol::Fault;
use ces::image::unpack::stream;
use ces::image::unpack::tarstream::{Bytes, TarStream};
use ces::policy::grant::GrantFacts;
use ces::policy::request::{RunRequest, files};
use ces::policy::{HostFacts, Policy};
use ces::stack::version::Order;
use ces::stack::{vex, vulndb};
use nix::sys::memfd::{MFdFlags, memfd_create};

const HOST: HostFacts = HostFacts { memory_bytes: 16 << 30, cpus: 4.0, privileged: true };
const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nusers:x:100:jovyan\n";

struct Slice<'a>(&'a [u8]);

impl Bytes for Slice<'_> {
    fn next(&mut self, limit: usize) -> Result<&[u8], Fault> {
        // In pieces of odd sizes, as a decompressor gives them.
        let (piece, rest) = self.0.split_at(self.0.len().min(limit).min(700));
        self.0 = rest;
        Ok(piece)
    }
}

/// A layer's bytes: whatever is decided has clean names and possible owners.
pub fn layer(data: &[u8]) {
    let limits = Limits { header_bytes: 64 << 10, ..Limits::default() };
    let ids = foreign();
    let mut archive = TarStream::new(Slice(data));
    let clean = |path: &Parts| {
        for part in path {
            assert!(!part.is_empty() && part != b"." && part != b".." && part.len() <= 255);
            assert!(!part.contains(&b'/') && !part.contains(&0));
        }
        assert!(path.len() <= limits.depth);
    };
    let mut entries = 0;
    while let Ok(Some(entry)) = archive.entry(&limits) {
        entries += 1;
        // Every entry takes a block at least.
        assert!(entries <= data.len() / 512);
        assert!(entry.mtime.1 < 1_000_000_000);
        let Ok(decision) = plan::decide(entry, &ids, &limits) else { continue };
        let meta = match &decision.action {
            Action::Directory(path, meta) => {
                clean(path);
                Some(meta)
            }
            Action::File(path, meta) | Action::Symlink(path, _, meta) | Action::Fifo(path, meta) => {
                clean(path);
                assert!(!path.is_empty() && meta.mode & 0o6000 == 0);
                Some(meta)
            }
            Action::Link(path, target) => {
                clean(path);
                clean(target);
                assert!(!path.is_empty() && !target.is_empty());
                None
            }
            Action::Whiteout(path) => {
                clean(path);
                assert!(!path.is_empty());
                None
            }
            Action::Opaque(path) => {
                clean(path);
                None
            }
            Action::Device | Action::Nothing => None,
        };
        if let Some(meta) = meta {
            assert!(meta.mode <= 0o7777 && meta.owner.is_some_and(|(uid, gid)| uid < RANGE && gid < RANGE));
            assert!(meta.xattrs.iter().all(|(name, _)| name.starts_with(b"user.")));
        }
        while matches!(archive.data(), Ok(piece) if !piece.is_empty()) {}
    }
}

/// A manifest or an index: what is taken has a number of layers that can be stacked, and is pinned by its bytes.
pub fn manifest(data: &[u8]) {
    match Document::parse(data.to_vec()) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= 500 && manifest.digest.matches(data));
        }
        Ok(Document::Index(index)) => {
            for platform in ["linux/amd64", "linux/arm64/v8", "linux/arm"] {
                let platform: Platform = platform.parse().expect("a platform");
                drop(index.select(&platform));
            }
            let platform = Platform::host();
            for pick in [Pick::Only, Pick::At(1), Pick::Named("latest".to_owned())] {
                drop(index.picked(&pick, &platform));
            }
        }
        Err(error) => check(&error),
    }
}

/// An archive of an image, of either sort, plain or compressed: nothing in it makes more be read than there is.
pub fn archive(data: &[u8]) {
    let memory = || File::from(memfd_create(c"archive", MFdFlags::MFD_CLOEXEC).expect("memory"));
    let mut file = memory();
    file.write_all(data).expect("memory");
    file.seek(SeekFrom::Start(0)).expect("memory");
    if let Packing::Known(compression @ (Compression::Gzip | Compression::Zstd)) = Packing::of(data) {
        let limits = Limits { layer_bytes: 1 << 20, memory: 64 << 20, ..Limits::default() };
        let plain = memory();
        let size = data.len() as u64;
        if stream::expand(file, compression, size, &limits, &plain).is_err() {
            return;
        }
        assert!(plain.metadata().expect("memory").len() <= 1 << 20);
        file = plain;
    }
    let platform = Platform::host();
    for pick in [Pick::Only, Pick::At(1), Pick::Named("t/x:1".to_owned())] {
        let open = || Archive::read(file.try_clone().expect("memory"), "archive");
        let saved = open().and_then(|archive| DockerArchive::new(archive, &pick));
        let layout = open().map(|archive| Layout::new(archive, pick.clone()));
        for origin in [saved.map(|found| Box::new(found) as Box<dyn Origin>), layout.map(|found| Box::new(found) as _)]
        {
            let origin = match origin {
                Ok(origin) => origin,
                Err(error) => {
                    check(&error);
                    continue;
                }
            };
            drop(origin.own_name(&platform));
            let Ok(manifest) = origin.manifest(&platform).map_err(|error| check(&error)) else { continue };
            assert!(manifest.layers.len() <= 500);
            drop(origin.document(&manifest.config).map_err(|error| check(&error)));
            for layer in manifest.layers.iter().take(10) {
                let mut seen = 0;
                let read = origin.blob(&layer.blob, &mut |bytes| {
                    seen += bytes.len() as u64;
                    Ok(())
                });
                read.unwrap_or_else(|error| check(&error));
                // One byte more shows that it is too long.
                assert!(seen <= layer.blob.size.saturating_add(1));
            }
        }
    }
}

/// What a registry asks of those it does not know: whatever it says, a token is asked for pulling one repository.
pub fn challenge(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let all = www_authenticate::parse(text.lines());
    assert!(all.len() <= text.len());
    for challenge in &all {
        assert!(
            !challenge.scheme.is_empty()
                && challenge.scheme.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
        );
    }
    if let Some(Challenge::Bearer { realm, scope, .. }) = Challenge::choose(text.lines()) {
        assert!(!realm.is_empty());
        let asked = challenge::scope("lab/tool", scope.as_deref());
        let repository = asked.strip_prefix("repository:").and_then(|rest| rest.strip_suffix(":pull"));
        assert!(repository.is_some_and(|name| name.ends_with("tool") && !name.contains([':', ' ', ','])), "{asked}");
    }
}

/// An image's configuration: a spec made from it grants nothing.
pub fn config(data: &[u8]) {
    let document: serde_json::Value = serde_json::from_slice(data).unwrap_or_default();
    let layers = document["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    let config = match Config::parse(data.to_vec(), layers) {
        Ok(config) => config,
        Err(error) => return check(&error),
    };
    assert_eq!(config.chain_ids().len(), layers);
    let user = config.parsed.config().as_ref().and_then(|config| config.user().clone());
    let user = match image_user::resolve(user.as_deref(), Some(PASSWD), Some(GROUP)) {
        Ok(user) => user,
        Err(error) => return check(&error),
    };
    let facts = GrantFacts { home: "/home/ann".into(), ..GrantFacts::default() };
    let grant = Policy::builtin(&HOST).grant(&RunRequest::default(), &facts).expect("nothing is asked for");
    let paths = HostPaths {
        outputs: "/home/ann/outputs".into(),
        scratch: "/home/ann/scratch".into(),
        hosts: "/run/hosts".into(),
        hostname: "/run/hostname".into(),
        resolv_conf: "/run/resolv.conf".into(),
        data: None,
    };
    let input = SpecInput {
        groups: &[],
        grant: &grant,
        image: &config.parsed,
        user: &user,
        ids: &foreign(),
        paths: &paths,
        rootfs: Path::new("rootfs"),
        job: "job",
        cgroups_path: None,
        disks: &BTreeSet::new(),
        term: None,
        masks: &[],
        portable: true,
    };
    let spec = match spec::build(&input) {
        Ok(spec) => spec,
        Err(error) => return check(&error),
    };
    let process = spec.process().as_ref().expect("a process");
    let args = process.args().as_ref().expect("a command");
    assert!(args.first().is_some_and(|first| !first.is_empty()) && args.iter().all(|word| !word.contains('\0')));
    let env = process.env().as_ref().expect("an environment");
    let named = |variable: &String| variable.split_once('=').is_some_and(|(name, _)| !name.is_empty());
    assert!(env.iter().all(|variable| named(variable) && !variable.contains('\0')));
    assert!(env.iter().any(|variable| variable.starts_with("HOME=")));
    assert!(process.cwd().is_absolute());
    for forbidden in ["/proc", "/sys", "/dev"] {
        assert!(!process.cwd().starts_with(forbidden), "{}", process.cwd().display());
    }
    assert_eq!(process.no_new_privileges(), Some(true));
    let capabilities = process.capabilities().as_ref().expect("capabilities");
    let sets =
        [capabilities.bounding(), capabilities.effective(), capabilities.permitted(), capabilities.inheritable()];
    assert!(sets.iter().all(|set| set.as_ref().is_some_and(std::collections::HashSet::is_empty)));
    assert!(spec.hooks().is_none());
}

/// What a user typed as an image: a reference that is taken reads the same again, and names no path.
pub fn reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Reference>() {
        Ok(reference) => {
            let again: Reference = reference.to_string().parse().expect("a reference written by ces");
            assert_eq!(again, reference);
            let name = reference.name();
            assert!(!name.split('/').any(|part| part.is_empty() || part == ".." || part == "."), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_graphic()));
        }
        Err(error) => check(&error),
    }
    if let Ok(source) = text.parse::<Source>() {
        for own in [None, Some(text.as_ref()), Some("docker.io/library/debian:12")] {
            if let Ok(name) = source.default_reference(own) {
                let local = matches!(source, Source::Registry(_)) || name.host() == "localhost";
                assert!(local, "{name}");
            }
        }
    }
}

/// An env-file, arg-file, opt-file: variables have names and no NUL.
pub fn envfile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let caller = BTreeMap::from([("HOME".to_owned(), "/home/ann".to_owned()), ("LC_ALL".to_owned(), "C".to_owned())]);
    let mut variables = Vec::new();
    match files::env_file(&text, "env", &caller, &mut variables) {
        Ok(_) => {
            let well = |(name, value): &(String, String)| {
                !name.is_empty() && !name.contains(['=', '\0', '\n']) && !value.contains(['\0', '\n'])
            };
            assert!(variables.iter().all(well), "{variables:?}");
        }
        Err(error) => check(&error),
    }
    drop((files::arg_file(&text, "args"), files::words(&text, "options")));
}

/// A site's policy: what is taken can be shown and asked.
pub fn policy(data: &[u8]) {
    match Policy::parse(&String::from_utf8_lossy(data), "policy.toml", &HOST) {
        Ok(policy) => {
            assert!(policy.rules().iter().all(|rule| !rule.because.is_empty()));
            let facts = GrantFacts { home: "/home/ann".into(), ..GrantFacts::default() };
            drop(policy.grant(&RunRequest::default(), &facts));
        }
        Err(error) => {
            check(&error);
            assert!(error.to_string().contains("policy.toml"), "{error}");
        }
    }
}

/// Two versions, one a line: each order answers the same whichever comes first, and finds a version equal to itself.
pub fn version(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (a, b) = text.split_once('\n').unwrap_or((&text, "1.0"));
    let orders = [
        Order::Deb,
        Order::Rpm,
        Order::Apk,
        Order::Pep440,
        Order::Semver,
        Order::Go,
        Order::Maven,
        Order::Gem,
        Order::R,
    ];
    for order in orders {
        assert_eq!(order.cmp(a, b), order.cmp(b, a).map(std::cmp::Ordering::reverse), "{order:?}");
        assert!(order.cmp(a, a).is_none_or(std::cmp::Ordering::is_eq), "{order:?}");
    }
}

/// A record of vulnerability data: what is kept of it has bounded names, no control characters, and is the same when it is read again.
pub fn osv(data: &[u8]) {
    vulndb::osv::parse(data).into_iter().for_each(kept);
}

/// The same of a vendor's document.
pub fn csaf(data: &[u8]) {
    vulndb::csaf::parse(data).into_iter().for_each(kept);
}

fn kept(parsed: vulndb::osv::Parsed) {
    for (ecosystem, name, record) in parsed.entries {
        let order = vulndb::ecosystem::order(&ecosystem).expect("an ecosystem with an order");
        let texts =
            [&ecosystem, &name, &record.id, &record.summary].into_iter().chain(&record.aliases).chain(&record.covers);
        texts.for_each(|text| assert!(text.len() <= 640 && !text.chars().any(char::is_control), "{text:?}"));
        let mut again = record.clone();
        again.settle(order);
        assert_eq!(again.ranges, record.ranges);
        for version in ["0", "1.0", "2.3.4-1", "x y"] {
            drop(record.judge(order, version));
        }
        let text = serde_json::to_vec(&record).expect("a record is JSON");
        assert_eq!(serde_json::from_slice::<vulndb::record::Record>(&text).expect("what was written"), record);
    }
}

/// A file of vulnerability data, whatever it is: an archive, an export, one document. What is made of it can be opened again; and bytes in
/// the place of what was made are read as that, or refused.
pub fn import(data: &[u8]) {
    let file = |bytes: &[u8]| {
        let mut file = File::from(memfd_create(c"data", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
        file.write_all(bytes).expect("memory");
        file.seek(SeekFrom::Start(0)).expect("memory");
        file
    };
    let mut made = Vec::new();
    if let Ok(source) = vulndb::import::import(&mut file(data), &mut made, "2026-11-30T00:00:00Z") {
        let index = vulndb::index::Index::open(file(&made)).expect("what was written");
        assert_eq!(index.source().records, source.records);
        assert!(source.records > 0 && source.examples.len() <= 5 && source.dated.as_str() <= "2026-11-30T00:00:00Z");
    }
    if let Ok(index) = vulndb::index::Index::open(file(data)) {
        (0..index.ecosystems().len()).for_each(|at| drop(index.records(at, "x")));
    }
}

/// A document of waivers: what has no author or no reason waives nothing.
pub fn waivers(data: &[u8]) {
    let Ok(statements) = vex::parse(data, "waivers.json") else { return };
    for vex::Statement { waiver, .. } in statements {
        let holds = waiver.holds(jiff::civil::date(2026, 11, 30));
        assert!(
            !holds
                || (!waiver.author.is_empty()
                    && matches!(waiver.status, vex::Status::NotAffected | vex::Status::Fixed))
        );
    }
}

/// An error can be shown on a terminal.
fn check(error: &ces::error::Error) {
    let report = error.report();
    assert!(report.starts_with("error: ") && !report.contains('\x1b'), "{report:?}");
}

fn foreign() -> IdMap {
    let all = vec![Extent { inside: 0, outside: FOREIGN_BASE, count: RANGE }];
    IdMap { uids: all.clone(), gids: all }
}
