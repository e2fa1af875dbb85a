//! Symbolic links where readers look for a database or a description of packages.
//!
//! Takes the path of a link and where it leads; tells whether a program finds there what no reader reads. A link to a place that is
//! itself read hides nothing (`lib → usr/lib`, `var/lib/rpm → usr/lib/sysimage/rpm`). Trusts nothing; refuses nothing.

use super::super::package::PackageType;
use super::{apk, conda, description, gem, join, julia, npm, pacman, perl, python, rpm, split};

/// What is told of such a link.
pub const WHAT: &str = "a symbolic link: what it leads to is not read";

/// Databases at fixed places; of those that are many files, one.
const FIXED: [&str; 5] = [
    "var/lib/dpkg/status",
    "var/lib/dpkg/status.d/x",
    "lib/apk/db/installed",
    "usr/lib/apk/db/installed",
    "var/lib/pacman/local/x/desc",
];

/// Directories by the end of their names, and what a reader would read in one.
const INSIDE: [(&str, &str); 11] = [
    (".dist-info", "/METADATA"),
    (".egg-info", "/PKG-INFO"),
    ("EGG-INFO", "/PKG-INFO"),
    ("/site-packages", "/x.dist-info/METADATA"),
    ("/dist-packages", "/x.dist-info/METADATA"),
    ("conda-meta", "/x.json"),
    ("/specifications", "/x.gemspec"),
    ("/environments", "/v1/Manifest.toml"),
    ("/node_modules", "/x/package.json"),
    ("/.julia/packages", "/X/abcde/Project.toml"),
    ("/packinfo", "/DESCRIPTION"),
];

/// The description of a package of JavaScript's to which the link at `path` leads, where nobody would look for one by its path: what
/// `npm link` and workspaces make, `node_modules/NAME → ../packages/NAME`.
pub fn npm(path: &str, target: &str) -> Option<String> {
    let to = join(split(path).0, target);
    let described = |directory: &str| format!("{directory}/package.json");
    (npm::describes(&described(path)) && !npm::describes(&described(&to))).then(|| described(&to))
}

/// Whether the link at `path`, which leads to `target`, stands where a reader would read.
pub fn hides(path: &str, target: &str) -> bool {
    let to = join(split(path).0, target);
    if is_read(path) && !is_read(&to) {
        return true;
    }
    let rpm = rpm::DIRECTORIES.iter().map(|directory| format!("{directory}rpmdb.sqlite"));
    let fixed = FIXED.iter().map(|place| (*place).to_owned()).chain(rpm);
    let mut below = fixed.filter_map(|place| Some(place.strip_prefix(path)?.to_owned()));
    if below.any(|rest| rest.starts_with('/') && !is_read(&format!("{to}{rest}"))) {
        return true;
    }
    let rooted = format!("/{path}");
    let mut inside = INSIDE.iter().filter(|(end, _)| rooted.ends_with(end));
    if inside.any(|(_, inside)| is_read(&format!("{path}{inside}")) && !is_read(&format!("{to}{inside}"))) {
        return true;
    }
    // A scope of JavaScript's.
    let is_scope = split(path).1.starts_with('@') && rooted.contains("/node_modules/");
    is_scope && npm::describes(&format!("{path}/x/package.json")) && !npm::describes(&format!("{to}/x/package.json"))
}

/// Whether a reader reads what is at `path`.
fn is_read(path: &str) -> bool {
    path == "var/lib/dpkg/status"
        || path.starts_with("var/lib/dpkg/status.d/")
        || rpm::form(path).is_some()
        || apk::PLACES.contains(&path)
        || (path.starts_with(pacman::LOCAL) && path.ends_with("/desc"))
        || python::describes(path)
        || conda::describes(path)
        || npm::describes(path)
        || description::kind(path) == Some(PackageType::Octave)
        || julia::document(path).is_some()
        || gem::describes(path)
        || perl::describes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_a_description_hides_what_it_leads_to() {
        let packages = "usr/lib/python3/dist-packages";
        for (path, target) in [
            (format!("{packages}/x-1.dist-info/METADATA"), "../data"),
            (format!("{packages}/x-1.dist-info"), "real"),
            (packages.to_owned(), "_vendor"),
            ("var/lib/dpkg/status".to_owned(), "/opt/status"),
            ("var/lib/dpkg".to_owned(), "/opt/dpkg"),
            ("var".to_owned(), "opt/var"),
            ("var/lib/rpm".to_owned(), "../../opt/rpm"),
            ("opt/conda/conda-meta".to_owned(), "meta"),
            ("app/node_modules".to_owned(), "modules"),
            ("app/node_modules/@scope".to_owned(), "../scope"),
            ("root/.julia/packages".to_owned(), "/opt/julia"),
            ("usr/share/octave/packages/x-1/packinfo".to_owned(), "../info"),
        ] {
            assert!(hides(&path, target), "{path} → {target}");
        }
    }

    #[test]
    fn a_link_to_what_is_read_hides_nothing() {
        for (path, target) in [
            ("lib", "usr/lib"),
            ("bin", "usr/bin"),
            ("var/lib/rpm", "../../usr/lib/sysimage/rpm"),
            ("var/run", "/run"),
            ("usr/lib/python3/dist-packages/x-1.egg-info", "x.egg-info"),
            ("usr/lib/python3.11/site-packages", "../python3/dist-packages"),
            ("app/node_modules/x", ".pnpm/x@1.0.0/node_modules/x"),
            ("app/node_modules/@a", "@b"),
            ("opt/venv/lib64", "lib"),
        ] {
            assert!(!hides(path, target) && npm(path, target).is_none(), "{path} → {target}");
        }
    }

    #[test]
    fn a_link_to_a_package_of_javascripts_leads_to_its_description() {
        assert_eq!(npm("app/node_modules/x", "../packages/x").as_deref(), Some("app/packages/x/package.json"));
        assert_eq!(npm("app/node_modules/@a/x", "/opt/x").as_deref(), Some("opt/x/package.json"));
        assert_eq!(npm("app/modules/x", "../packages/x"), None);
    }
}
