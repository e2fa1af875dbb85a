//! Readers of what an image says of packages: whatever the bytes are, they end, and what they give is bounded and has a name.
//!
//! Used twice, as `entries.rs`.

use ces::stack::facts::rpm::{self, Form};
use ces::stack::facts::{Claims, apk, conda, description, dpkg, elf, gem, jar, julia, model, npm, os_release, pacman};
use ces::stack::facts::{WORD_MAX, links, path_bytes, path_text, perl, python, secret};
use ces::stack::package::{Package, PackageType};
use ces::stack::{licence, listing};

fn check(packages: impl IntoIterator<Item = Package>) {
    for package in packages {
        assert!(!package.name.is_empty() && package.name.len() <= WORD_MAX && package.version.len() <= WORD_MAX);
        assert!(!package.name.contains('\n') && !package.version.contains('\n'));
    }
}

fn claims(claims: impl IntoIterator<Item = Claims>) {
    claims.into_iter().for_each(|claims| assert!(!claims.package.is_empty() && !claims.package.contains('\n')));
}

fn both(found: Option<(Package, Claims)>) {
    let (packages, lists): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    check(packages);
    claims(lists);
}

/// Databases and descriptions in text, and listings of layers.
pub fn packages(data: &[u8]) {
    assert_eq!(path_bytes(&path_text(data)), data);
    check(dpkg::status(data, dpkg::STATUS));
    claims(dpkg::list(data, "var/lib/dpkg/info/x.list"));
    claims(dpkg::sums(data, "var/lib/dpkg/status.d/x.md5sums"));
    drop((dpkg::copyright(data), dpkg::fixes(data)));
    let (found, lists) = apk::installed(data, apk::PLACES[0]);
    check(found);
    claims(lists);
    check(pacman::desc(data, "var/lib/pacman/local/a-1-1/desc"));
    claims(pacman::files(data, "var/lib/pacman/local/a-1-1/files"));
    check(python::metadata(data, "x.dist-info/METADATA"));
    claims([
        python::record(data, "x", "a/x.dist-info/RECORD", &|_| true),
        python::installed_files(data, "x", "a/x.egg-info/y", &|_| false),
    ]);
    both(conda::record(data, "opt/conda/conda-meta/x.json", &|_| true));
    both(npm::read(data, "a/node_modules/x/package.json"));
    both(gem::read(data, "g/specifications/x-1.gemspec"));
    both(description::read(data, PackageType::Cran, "l/x/DESCRIPTION"));
    both(description::read(data, PackageType::Octave, "octave/x-1/packinfo/DESCRIPTION"));
    both(julia::project(data, "packages/X/abcde/Project.toml"));
    check(julia::manifest(data, "m").into_iter().flatten());
    check(perl::install(data, "x/.meta/X-1/install.json"));
    claims(perl::packlist(data, "lib/perl5/auto/X/.packlist"));
    drop(os_release::read(data));
    for name in [".netrc", ".npmrc", "x.key", ".pgpass", "config.json", "credentials"] {
        assert!(secret::read(data, name).len() < 32);
    }
    let text = path_text(data);
    let (path, target) = text.split_once('\n').unwrap_or((&text, "../x"));
    assert!(links::npm(path, target).is_none_or(|to| !to.split('/').any(|part| part == "..")));
    links::hides(path, target);
    drop(licence::expression(PackageType::Pypi, &text));
    // What a listing may not hold is refused; whatever it holds is read to its end.
    listing::read(data, &mut |_| Ok(())).ok();
}

/// RPM's databases.
pub fn database(data: &[u8]) {
    for form in [Form::Sqlite, Form::Ndb, Form::Bdb] {
        let found = rpm::read(data, form, "var/lib/rpm/x");
        check(found.packages);
        claims(found.claims);
    }
}

/// Java archives and models.
pub fn archive(data: &[u8]) {
    let found = jar::read(data, "a/x-1.0.jar");
    assert!(found.packages.len() <= 200_000 && found.unread.len() <= 1000);
    check(found.packages);
    for name in ["m.safetensors", "m.pt", "m.gguf", "m.onnx", "m.pkl", "m.h5", "m.keras", "m.tflite", "m.bin"] {
        model::read(data, name);
    }
}

/// Programs.
pub fn program(data: &[u8]) {
    check(elf::read(data, "usr/bin/x").into_iter().flat_map(|found| found.packages));
}
