//! What package managers have written themselves: each list of `ces stack` against the manager's own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Host, Ran, children, have, layout, python_layout};

/// The words of a program's answer, which it must give.
pub fn says(program: &str, words: &[&str]) -> String {
    let ran = Ran::from(Command::new(program).args(words).output());
    ran.exits(0).to_owned()
}

/// A directory of the test's own, and its path as a word.
pub fn directory(host: &Host, name: &str) -> (PathBuf, String) {
    let path = host.tmp().join(name);
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let word = path.to_str().unwrap().to_owned();
    (path, word)
}

/// All below `root` in a layer, on the demonstration image, as `localhost/managed`.
pub fn pull(host: &Host, root: &Path) {
    let tar = host.tmp().join("layer.tar");
    says("tar", &["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    let layout = layout::with_layers(
        &directory(host, "layout").0,
        "managed",
        &json!({"Cmd": ["/bin/sh"]}),
        &[fs::read(&tar).unwrap()],
    );
    Ran::from(host.ces().args(["pull", "--quiet", &format!("oci:{}:managed", layout.display())]).output()).exits(0);
}

/// The stack of such an image.
pub fn stack(host: &Host, root: &Path) -> Value {
    pull(host, root);
    let said = Ran::from(host.ces().args(["stack", "--format", "json", "managed"]).output());
    serde_json::from_str(said.exits(0)).unwrap()
}

/// `NAME VERSION` of each package of that kind.
pub fn packages(document: &Value, kind: &str) -> BTreeSet<String> {
    let all = document["stack"]["packages"].as_array().unwrap().iter().filter(|package| package["kind"] == kind);
    all.map(|package| format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap()))
        .collect()
}

pub fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

/// The places of findings of that kind below `/usr/`.
pub fn findings(document: &Value, kind: &str) -> BTreeSet<String> {
    let all = document["stack"]["findings"].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind);
    let places = all.map(|finding| finding["place"].as_str().unwrap().to_owned());
    places.filter(|place| place.starts_with("usr/")).collect()
}

pub fn owner(host: &Host, path: &str) -> String {
    Ran::from(host.ces().args(["stack", "--owner", path, "managed"]).output()).exits(0).to_owned()
}

#[test]
fn what_pacman_has_installed_is_what_pacman_says() {
    let Some(host) = Host::new() else { return };
    let Some(()) = have("pacman") else { return };
    let ((work, at), (root, root_word)) = (directory(&host, "pacman"), directory(&host, "root"));
    fs::write(work.join("pacman.conf"), "[options]\nSigLevel = Never\nArchitecture = auto\n").unwrap();
    let config = format!("{at}/pacman.conf");
    let database = format!("{root_word}/var/lib/pacman");
    fs::create_dir_all(&database).unwrap();
    let base = ["--config", &config, "--root", &root_word, "--dbpath", &database];
    for (name, version) in [("ces-tool", "1:2.0-3"), ("ces-tool-docs", "2.0rc1-1.1")] {
        let package = work.join(name);
        fs::create_dir_all(package.join("usr/bin")).unwrap();
        fs::write(package.join("usr/bin").join(name), "#!/bin/sh\n").unwrap();
        fs::set_permissions(package.join("usr/bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        let info = format!(
            "pkgname = {name}\npkgver = {version}\npkgdesc = x\nurl = x\nbuilddate = 1700000000\npackager = x\nsize = 10\narch = any\nlicense = MIT\n"
        );
        fs::write(package.join(".PKGINFO"), info).unwrap();
        let file = format!("{at}/{name}.pkg.tar.zst");
        says("tar", &["--zstd", "-C", package.to_str().unwrap(), "-cf", &file, ".PKGINFO", "usr"]);
        let rest = ["--cachedir", &at, "--gpgdir", &at, "--hookdir", &at, "--noconfirm", "-U", &file];
        let log = format!("{at}/log");
        says("pacman", &[&base[..], &["--logfile", &log], &rest].concat());
    }
    let expected = lines(&says("pacman", &[&base[..], &["-Q"]].concat()));
    assert_eq!(expected.len(), 2, "{expected:?}");
    let found = stack(&host, &root);
    assert_eq!(packages(&found, "alpm"), expected);
    assert_eq!(findings(&found, "unowned"), BTreeSet::new());
    assert!(owner(&host, "/usr/bin/ces-tool-docs").contains("package ces-tool-docs"));
}

#[test]
fn an_image_without_a_package_manager_tells_the_packages_that_were_put_into_it() {
    let Some(host) = Host::new() else { return };
    let Some(image) = python_layout() else { return };
    host.pull(&image, "python");
    let query = host.run(&["localhost/python", "dpkg-query", "-W", "-f", "${Package} ${Version}\n"]);
    let expected = lines(query.exits(0));
    // As distroless images are made: the control file of each package of Debian's, and its checksums, and no database.
    let layers = children(&host.root().join("store/layers/sha256"));
    let databases: Vec<PathBuf> = layers.iter().map(|layer| layer.join("fs/var/lib/dpkg")).collect();
    let newest =
        databases.iter().max_by_key(|at| fs::metadata(at.join("status")).map_or(0, |found| found.len())).unwrap();
    let status = fs::read_to_string(newest.join("status")).unwrap();
    let (root, _) = directory(&host, "root");
    let directory = root.join("var/lib/dpkg/status.d");
    fs::create_dir_all(&directory).unwrap();
    let mut of_bash = None;
    for paragraph in status.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let name = field("Package:");
        let control: Vec<&str> = paragraph.lines().filter(|line| !line.starts_with("Status:")).collect();
        fs::write(directory.join(name), control.join("\n") + "\n").unwrap();
        let suffix = ["".to_owned(), format!(":{}", field("Architecture:"))];
        let sums = databases
            .iter()
            .flat_map(|at| suffix.iter().map(move |suffix| at.join(format!("info/{name}{suffix}.md5sums"))));
        if let Some(sums) = sums.into_iter().find_map(|path| fs::read(path).ok()) {
            if name == "bash" {
                of_bash = String::from_utf8(sums.clone()).unwrap().lines().next().map(str::to_owned);
            }
            fs::write(directory.join(format!("{name}.md5sums")), sums).unwrap();
        }
    }
    let path = of_bash.unwrap().split_whitespace().nth(1).unwrap().to_owned();
    fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
    fs::write(root.join(&path), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join(&path), fs::Permissions::from_mode(0o755)).unwrap();
    let found = stack(&host, &root);
    assert!(expected.len() > 50);
    assert_eq!(packages(&found, "deb"), expected);
    assert!(owner(&host, &format!("/{path}")).contains("package bash"), "{path}");
}

#[test]
fn a_callers_own_waivers_are_shown_and_change_nothing_of_what_the_site_says() {
    let Some(host) = Host::new() else { return };
    host.policy("[images.stack]\non_finding = \"refuse\"\n");
    let (root, _) = directory(&host, "root");
    let at = root.join("usr/lib/python3/dist-packages/requests-2.25.1.dist-info");
    fs::create_dir_all(&at).unwrap();
    fs::write(at.join("METADATA"), "Metadata-Version: 2.1\nName: requests\nVersion: 2.25.1\n\n").unwrap();
    let record = json!({
        "id": "PYSEC-2026-1", "modified": "2026-11-01T00:00:00Z",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
        "affected": [{"package": {"ecosystem": "PyPI", "name": "requests"}, "versions": ["2.25.1"]}],
    });
    let data = host.tmp().join("osv.json");
    fs::write(&data, record.to_string()).unwrap();
    Ran::from(host.ces_as_root().args(["vulndb", "import", data.to_str().unwrap()]).output()).exits(0);
    pull(&host, &root);
    let waiver = json!({
        "author": "ann", "timestamp": "2026-11-01T00:00:00Z",
        "statements": [{
            "vulnerability": {"name": "PYSEC-2026-1"}, "products": [{"@id": "pkg:pypi/requests"}],
            "status": "not_affected", "justification": "vulnerable_code_not_present",
        }],
    });
    // The caller's file is read with the caller's rights.
    let own = host.home().join("waivers.json");
    fs::write(&own, waiver.to_string()).unwrap();
    std::os::unix::fs::chown(&own, Some(host.researcher().uid.as_raw()), Some(host.researcher().gid.as_raw())).unwrap();
    let inside = host.researcher().dir.join("waivers.json");
    let with =
        |path: &str| Ran::from(host.ces().args(["stack", "--format", "json", "--vex", path, "managed"]).output());
    let judged = with(inside.to_str().unwrap());
    let document: Value = serde_json::from_str(judged.exits(3)).unwrap();
    let known = &document["verdict"]["known"][0];
    assert_eq!((&known["waived"], &known["statements"][0]["author"]), (&json!(true), &json!("ann")));
    assert_eq!(document["breaches"][0]["rule"], "max_severity");
    let hidden = host.tmp().join("hidden.json");
    fs::write(&hidden, waiver.to_string()).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).unwrap();
    with(hidden.to_str().unwrap()).refuses(1, &["cannot use", "ermission denied"]);
    fs::write(&own, "{}").unwrap();
    with(inside.to_str().unwrap()).refuses(1, &["neither an OpenVEX document nor a CSAF one"]);
}
