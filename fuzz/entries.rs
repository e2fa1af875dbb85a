//! Where bytes from outside come in, and what must hold whatever they are. Nothing here writes anything.
//!
//! Used twice: by the fuzzer (`scripts/fuzz`), and with its seeds by `tests/it/fuzz.rs`, which runs everywhere.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use ces::bundle::image_user;
use ces::bundle::spec::{self, HostPaths, SpecInput};
use ces::host::idmap::{Extent, FOREIGN_BASE, IdMap, RANGE};
use ces::image::document::{Config, Document, Platform};
use ces::image::reference::{Reference, Source};
use ces::image::unpack::limits::Limits;
use ces::image::unpack::plan::{self, Action, Parts};
use ces::image::unpack::protocol::Fault;
use ces::image::unpack::tarstream::{Bytes, TarStream};
use ces::policy::grant::GrantFacts;
use ces::policy::request::{RunRequest, files};
use ces::policy::{HostFacts, Policy};
use ces::stack::version::Order;
use ces::stack::{vex, vulndb};

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
            drop((index.tagged(None), index.tagged(Some("latest")), index.is_one_image()));
        }
        Err(error) => check(&error),
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
        drop(source.default_reference());
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
    let Ok(parsed) = vulndb::osv::parse(data) else { return };
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
