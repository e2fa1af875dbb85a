//! What is in an image: packages and who owns what, over layers; what a reviewer looks at; and that nothing of the image steers
//! whoever reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ces::image::document::Platform;
use ces::image::unpack::protocol::OmittedSort;
use serde_json::{Value, json};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar};
use crate::support::callers::{Caller, Desk};
use crate::support::{Host, Ran, children, python_layout};

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
const TOKEN: &str = "hf_abcdefghijklmnopqrstuvwxyz01234567";

/// As much of a program as its kind is known by.
fn program(content: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64, 0);
    [&bytes, content.as_bytes()].concat()
}

fn executable(tar: Tar, name: &str, content: &[u8], mode: u32) -> Tar {
    tar.raw(name.as_bytes(), b'0', content, |header| header.set_mode(mode))
}

fn dist_info(tar: Tar, name: &str, version: &str, record: &str) -> Tar {
    let at = format!("usr/lib/python3/dist-packages/{name}-{version}.dist-info");
    let metadata =
        format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n\nText\nVersion: 9\n");
    tar.dir(&format!("{at}/"))
        .file(&format!("{at}/METADATA"), metadata.as_bytes())
        .file(&format!("{at}/RECORD"), format!("{at}/METADATA,,\n{record}").as_bytes())
}

/// What a distribution would have brought.
fn base() -> Tar {
    let status = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.15-2+b7\nSource: bash (5.2.15-2)\n\n\
        Package: python3-six\nStatus: install ok installed\nArchitecture: all\nVersion: 1.16.0-4\nSource: six\n\n\
        Package: removed\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n";
    let mut tar = Tar::default();
    for directory in ["usr", "usr/bin", "usr/lib", "usr/lib/python3", "usr/lib/python3/dist-packages", "usr/share"] {
        tar = tar.dir(&format!("{directory}/"));
    }
    for directory in
        ["usr/share/doc", "usr/share/doc/bash", "var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info", "root"]
    {
        tar = tar.dir(&format!("{directory}/"));
    }
    tar = executable(tar.symlink("bin", "usr/bin"), "usr/bin/bash", &program("bash"), 0o755);
    tar = executable(tar, "usr/bin/su", &program("su"), 0o4755);
    let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nLicense: GPL-3+\n";
    tar.file("usr/lib/os-release", b"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n")
        .file("usr/share/doc/bash/copyright", copyright.as_bytes())
        .file("usr/lib/python3/dist-packages/six-1.16.0.egg-info", b"Name: six\nVersion: 1.16.0\n")
        .file("var/lib/dpkg/status", status.as_bytes())
        .file("var/lib/dpkg/info/bash.list", b"/.\n/bin\n/bin/bash\n/usr/bin/su\n/usr/share/doc/bash/copyright\n")
        .file("var/lib/dpkg/info/bash.postinst", b"#!/bin/sh\n")
        .file("var/lib/dpkg/info/python3-six.list", b"/usr/lib/python3/dist-packages/six-1.16.0.egg-info\n")
}

/// What a project adds, and what it should not.
fn added() -> Tar {
    let mut tar = Tar::default().dir("usr/").dir("usr/bin/").dir("usr/lib/").dir("usr/local/").dir("usr/local/bin/");
    for directory in
        ["usr/lib/python3", "usr/lib/python3/dist-packages", "root", "root/.ssh", "app", "app/node_modules"]
    {
        tar = tar.dir(&format!("{directory}/"));
    }
    tar = dist_info(tar, "requests", "2.25.1", "../../../bin/requests,,\n");
    tar = executable(tar, "usr/bin/requests", b"#!/usr/bin/python3\n", 0o755);
    tar = executable(tar, "usr/local/bin/tool", &program("tool"), 0o755);
    tar = executable(tar, "usr/local/bin/helper", &program("helper"), 0o6755);
    tar = tar.pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]);
    executable(tar, "usr/local/bin/ping", &program("ping"), 0o755)
        .raw(b"app/null", b'3', b"", |header| header.set_mode(0o666))
        .file("root/.ssh/id_ed25519", KEY.as_bytes())
        .file("root/.netrc", b"machine pypi.example login u password hunter2hunter2\n")
        .dir("app/node_modules/lodash/")
        .file("app/node_modules/lodash/package.json", br#"{"name":"lodash","version":"4.17.15","license":"MIT"}"#)
        .dir("app/node_modules/odd/")
        .file(
            "app/node_modules/odd/package.json",
            "{\"name\":\"<script>\\u001b]52;c;x\\u0007\",\"version\":\"1\"}".as_bytes(),
        )
}

/// What somebody changes later.
fn changed() -> Tar {
    let mut tar =
        Tar::default().dir("usr/").dir("usr/bin/").dir("usr/lib/").dir("root/").dir("app/").dir("app/node_modules/");
    tar = tar.dir("usr/lib/python3/").dir("usr/lib/python3/dist-packages/").dir("root/.ssh/");
    tar = executable(tar, "usr/bin/bash", &program("another"), 0o755);
    tar = tar.file("usr/lib/python3/dist-packages/.wh.requests-2.25.1.dist-info", b"");
    tar = dist_info(tar, "requests", "2.32.3", "../../../bin/requests,,\n");
    tar.file("root/.ssh/.wh.id_ed25519", b"").file("app/node_modules/.wh.lodash", b"")
}

/// A layout at a place that everybody can read, with the tag `tool`: layers and what made them.
fn layout(at: &Path, layers: &[(Tar, &str)]) -> PathBuf {
    let layout = LayoutDir(tempfile::tempdir_in(at).unwrap());
    let (mut blobs, mut diff_ids, mut history) =
        (Vec::new(), Vec::new(), vec![json!({"created_by": "ENV", "empty_layer": true})]);
    for (tar, line) in layers {
        let layer = Layer::new(&tar.clone().end(), Pack::Gzip);
        let digest = layout.blob(&layer.blob);
        blobs.push(json!({"mediaType": layer.media_type, "digest": digest, "size": layer.blob.len()}));
        diff_ids.push(layer.diff_id);
        history.push(json!({"created_by": line}));
    }
    let config = json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "config": {"Entrypoint": ["/usr/local/bin/tool"], "Env": ["PATH=/bin", format!("API_TOKEN={TOKEN}")], "User": "1000"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": layout.blob(&config), "size": config.len()},
        "layers": blobs,
    });
    let manifest = manifest.to_string().into_bytes();
    layout.blob(&manifest);
    layout.index(&[(manifest, Some("tool"))]);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(layout.path(), open).unwrap();
    layout.0.keep()
}

/// The images of these tests hold what looks like secrets, which a site refuses unless it says otherwise.
const SECRETS_ARE_TOLD: &str = "[images.stack]\nsecrets = \"report\"\n";

/// A host with the image `before` of two layers, and `now` with one more.
fn host() -> Option<Host> {
    let host = Host::new()?;
    host.policy(SECRETS_ARE_TOLD);
    let layers = [(base(), "debootstrap"), (added(), "RUN curl x | sh"), (changed(), "RUN upgrade")];
    for (count, name) in [(2, "before"), (3, "now")] {
        let source = format!("oci:{}:tool", layout(host.tmp(), &layers[..count]).display());
        Ran::from(host.ces().args(["pull", "--name", name, &source]).output()).exits(0);
    }
    Some(host)
}

fn ces(host: &Host, words: &[&str]) -> Ran {
    Ran::from(host.ces().args(words).output())
}

fn document(host: &Host, words: &[&str]) -> Value {
    let words = [&["stack", "--format", "json"], words].concat();
    serde_json::from_str(ces(host, &words).exits(0)).unwrap()
}

/// `KIND NAME VERSION LAYER OWNER` of each package.
fn packages(document: &Value) -> Vec<String> {
    let all = document["stack"]["packages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    all.map(|p| {
        format!(
            "{} {} {} {} {}",
            text(&p["kind"]),
            text(&p["name"]),
            text(&p["version"]),
            p["layer"],
            text(&p["owner"])
        )
    })
    .collect()
}

/// `KIND PLACE LAYER` of each finding, and `hidden`.
fn findings(document: &Value) -> Vec<String> {
    let all = document["stack"]["findings"].as_array().unwrap().iter();
    let hidden = |f: &Value| if f["hidden"] == json!(true) { " hidden" } else { "" };
    all.map(|f| format!("{} {} {}{}", f["kind"].as_str().unwrap(), f["place"].as_str().unwrap(), f["layer"], hidden(f)))
        .collect()
}

#[test]
fn packages_owners_layers_and_findings_are_exactly_what_was_planted() {
    let Some(host) = host() else { return };
    let before = document(&host, &["before"]);
    let expected = [
        "deb bash 5.2.15-2+b7 0 -",
        "deb python3-six 1.16.0-4 0 -",
        "pypi requests 2.25.1 1 -",
        "pypi six 1.16.0 0 python3-six",
        "npm <script>\u{1b}]52;c;x\u{7} 1 1 -",
        "npm lodash 4.17.15 1 -",
    ];
    assert_eq!(packages(&before), expected);
    assert_eq!(before["stack"]["packages"][0]["source"], json!(["bash", "5.2.15-2"]));
    assert_eq!(before["stack"]["packages"][0]["licence"], "GPL-3+");
    let planted = [
        "unowned usr/local/bin/helper 1",
        "unowned usr/local/bin/ping 1",
        "unowned usr/local/bin/tool 1",
        "set-id usr/bin/su 0",
        "set-id usr/local/bin/helper 1",
        "set-id usr/local/bin/helper 1",
        "capabilities usr/local/bin/ping 1",
        "device app/null 1",
        "secret Env API_TOKEN null",
        "secret root/.netrc 1",
        "secret root/.ssh/id_ed25519 1",
    ];
    assert_eq!(findings(&before), planted);
    assert_eq!(before["stack"]["distribution"]["id"], "debian");
    assert_eq!(before["stack"]["layers"][1]["created_by"], "RUN curl x | sh");
    assert_eq!(
        (&before["stack"]["user"], &before["stack"]["entry"][0]),
        (&json!("1000"), &json!("/usr/local/bin/tool"))
    );
    // The same again, byte for byte.
    let words = ["stack", "--format", "json", "before"];
    assert_eq!(ces(&host, &words).exits(0), ces(&host, &words).exits(0));
    // No secret's value is in any form.
    for format in ["json", "text", "html"] {
        let said = ces(&host, &["stack", "--all", "--format", format, "before"]);
        for value in [TOKEN, "hunter2hunter2", "b3BlbnNzaC1rZXk"] {
            assert!(!said.exits(0).contains(value), "{format}: {value}");
        }
    }
}

#[test]
fn what_changed_since_another_image_is_exactly_what_was_planted() {
    let Some(host) = host() else { return };
    let now = document(&host, &["now", "--diff", "before"]);
    let since = &now["since"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let changes: Vec<String> = since["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {} {} {}", text(&c["change"]), text(&c["name"]), text(&c["from"]), text(&c["to"])))
        .collect();
    assert_eq!(changes, ["upgraded requests 2.25.1 2.32.3", "gone lodash 4.17.15 -"]);
    assert_eq!(since["unchanged"], 4);
    let places =
        |key: &str| -> Vec<String> { since[key].as_array().unwrap().iter().map(|f| text(&f["place"])).collect() };
    assert_eq!(places("new_findings"), ["usr/bin/bash"]);
    assert!(places("gone_findings").is_empty());
    let findings = findings(&now);
    assert!(findings.contains(&"replaced usr/bin/bash 2".to_owned()), "{findings:?}");
    assert!(findings.contains(&"secret root/.ssh/id_ed25519 1 hidden".to_owned()), "{findings:?}");
    let page = ces(&host, &["stack", "now", "--diff", "before"]);
    let page = page.exits(0);
    for line in ["SINCE localhost/before", "2.25.1 → 2.32.3", "deleted or replaced later", "layer 2: RUN curl x | sh"]
    {
        assert!(page.contains(line) || page.contains(&line.to_uppercase()), "{line}\n{page}");
    }
    // Of an image that is not approved there is nothing to compare with.
    ces(&host, &["stack", "now", "--diff", "approved"])
        .refuses(1, &["no approved image", "images.approved", "--diff IMAGE2"]);
    let owner = |path: &str| ces(&host, &["stack", "now", "--owner", path]).exits(0).to_owned();
    assert_eq!(owner("/bin/bash"), "/usr/bin/bash: package bash (Debian packages), layer 3\n");
    assert_eq!(owner("/usr/local/bin/tool"), "/usr/local/bin/tool: no package, layer 2\n");
    ces(&host, &["stack", "now", "--owner", "/none"]).refuses(1, &["has no file /none"]);
}

#[test]
fn what_is_known_against_a_package_is_told_until_it_is_fixed_and_refused_where_the_policy_says_so() {
    let Some(host) = host() else { return };
    let record = json!({
        "id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "modified": "2026-11-01T00:00:00Z", "summary": "sends what it should not",
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
        "affected": [{
            "package": {"ecosystem": "PyPI", "name": "Requests"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.30.0"}]}],
        }],
    });
    let file = host.tmp().join("osv.json");
    fs::write(&file, record.to_string()).unwrap();
    Ran::from(host.ces_as_root().args(["vulndb", "import", file.to_str().unwrap()]).output()).exits(0);

    let text = ces(&host, &["stack", "before"]);
    let line = text.exits(0).lines().find(|line| line.contains("fixed in 2")).unwrap_or_else(|| panic!("{text:?}"));
    assert!(
        line.contains("critical") && line.contains("requests 2.25.1") && line.contains("fixed in 2.30.0"),
        "{line}"
    );
    // Of the distribution and of npm nothing was imported, and of Python's packages one record: five are not judged, and that is said.
    assert!(text.stdout.contains("not judged: 5"), "{text:?}");
    let now = document(&host, &["now"]);
    assert_eq!((now["verdict"]["known"].as_array().unwrap().len(), &now["verdict"]["fixed"]), (0, &json!(1)));

    host.policy(&format!("{SECRETS_ARE_TOLD}on_finding = \"refuse\"\n"));
    let refused = ces(&host, &["stack", "before"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stdout.contains("REFUSED by images.stack.max_severity"), "{refused:?}");
    ces(&host, &["stack", "now"]).exits(0);
    let bom: Value = serde_json::from_str(&ces(&host, &["stack", "before", "--format", "cyclonedx"]).stdout).unwrap();
    assert_eq!(bom["vulnerabilities"][0]["id"], "CVE-2026-1");
}

#[test]
fn the_approved_version_is_the_one_that_is_compared_with() {
    let Some(host) = host() else { return };
    let digest = document(&host, &["before"])["stack"]["image"].as_str().unwrap().to_owned();
    let source =
        format!("oci:{}:tool", layout(host.tmp(), &[(base(), "a"), (added(), "b"), (changed(), "c")]).display());
    Ran::from(host.ces().args(["pull", "--name", "before:next", &source]).output()).exits(0);
    let list = format!("[[image]]\ndigest = \"{digest}\"\nprojects = [\"*\"]\napprover = \"A. Person\"\n");
    fs::write(host.inside(Path::new("/etc/ces/approved.toml")), list).unwrap();
    host.policy(&format!("[images]\napproved = \"/etc/ces/approved.toml\"\n{SECRETS_ARE_TOLD}"));
    assert_eq!(document(&host, &["before:next", "--diff", "approved"])["since"]["from"], digest);
}

#[test]
fn the_pages_steer_no_terminal_and_no_browser() {
    let Some(host) = host() else { return };
    let text = ces(&host, &["stack", "--all", "before"]);
    assert!(text.exits(0).contains("<script>\\x1b]52;c;x\\x07") && !text.stdout.contains('\u{1b}'), "{text:?}");
    let html = ces(&host, &["stack", "--format", "html", "before"]);
    assert!(html.exits(0).contains("&lt;script&gt;") && !html.stdout.contains("<script"), "{html:?}");
    assert!(html.stdout.contains("default-src 'none'") && !html.stdout.contains('\u{1b}'));
    // A file is written as the researcher, and nobody else's.
    let page = host.home().join("stack.html");
    let inside = host.researcher().dir.join("stack.html");
    ces(&host, &["stack", "--format", "html", "-o", inside.to_str().unwrap(), "before"]).exits(0);
    assert_eq!(fs::read_to_string(&page).unwrap(), html.stdout);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&page).unwrap()), host.researcher().uid.as_raw());
    ces(&host, &["stack", "-o", "/etc/ces/stack.txt", "before"]).refuses(1, &["cannot write /etc/ces/stack.txt"]);
}

#[test]
fn the_stack_of_an_image_that_may_not_be_seen_is_not_told() {
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    desk.host.policy(SECRETS_ARE_TOLD);
    let source = format!("oci:{}:tool", layout(desk.host.tmp(), &[(base(), "a")]).display());
    desk.ces(&["pull", &source]).exits(0);
    desk.ces(&["stack", "localhost/tool"]).exits(0);
    desk.other_ces("stack localhost/tool").refuses(1, &["is not in the store"]);
    desk.other_ces(&format!("pull {source} --name theirs")).exits(0);
    desk.other_ces("stack theirs --diff localhost/tool").refuses(1, &["is not in the store"]);
}

/// The layers' directories, and the file of each that tells its packages.
fn kept(host: &Host) -> Vec<PathBuf> {
    let layers = children(&host.root().join("store/layers/sha256"));
    layers.into_iter().map(|layer| layer.join("facts.zst")).collect()
}

#[test]
fn what_is_kept_of_a_layer_is_made_by_a_pull_and_anew_where_it_is_missing_or_damaged() {
    let Some(host) = host() else { return };
    let before = document(&host, &["now"]);
    assert_eq!(kept(&host).iter().filter(|file| file.exists()).count(), 3);
    let bytes: Vec<_> = kept(&host).iter().map(|file| fs::read(file).unwrap()).collect();
    for (at, damage) in [&b"damaged"[..], b"", &bytes[1]].into_iter().enumerate() {
        fs::write(&kept(&host)[0], damage).unwrap();
        let said = Ran::from(host.ces_as_root().arg("fsck").output());
        assert!(said.code == Some(1) && said.stdout.contains("packages of layer"), "{at}: {said:?}");
        if at == 1 {
            let repaired = Ran::from(host.ces_as_root().args(["fsck", "--repair"]).output());
            assert!(repaired.exits(0).contains("read anew"), "{repaired:?}");
        }
        assert_eq!(document(&host, &["now"]), before);
        assert_eq!(kept(&host).iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>(), bytes);
    }
    Ran::from(host.ces_as_root().arg("fsck").output()).exits(0);
    assert!(children(&host.root().join("store/tmp")).is_empty());
}

#[test]
fn names_of_what_is_left_out_are_kept_up_to_a_bound() {
    let mut tar = added();
    for number in 0..11_000 {
        tar = tar.raw(format!("app/d{number}").as_bytes(), b'3', b"", |_| {});
    }
    let site = Site::new();
    let image = site.pull(&LayoutDir::of(&[Layer::new(&tar.end(), Pack::Gzip)])).unwrap();
    let omitted = &image.layers()[0].record().omitted;
    assert_eq!((omitted.devices, omitted.names.len()), (11_001, 10_000));
    let sorts: Vec<OmittedSort> = omitted.names.iter().take(4).map(|name| name.what).collect();
    use OmittedSort::{Capabilities, Device, SetGroupId, SetUserId};
    assert_eq!(sorts, [SetUserId, SetGroupId, Capabilities, Device]);
    assert_eq!(omitted.names[0].path.0, b"usr/local/bin/helper");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_as_well() {
    let Some(host) = Host::new() else { return };
    host.policy(SECRETS_ARE_TOLD);
    let tar = base()
        .dir("opt/")
        .file("opt/broken.jar", b"PK\x05\x06 nothing")
        .dir("var/lib/rpm/")
        .file("var/lib/rpm/rpmdb.sqlite", b"SQLite format 3\0 and nothing of it")
        .dir("usr/lib/node_modules/")
        .dir("usr/lib/node_modules/x/")
        .file("usr/lib/node_modules/x/package.json", b"{")
        .dir("usr/lib/python3/dist-packages/y-1.dist-info/")
        .file("usr/lib/python3/dist-packages/y-1.dist-info/METADATA", b"\xff\xfe");
    let source = format!("oci:{}:tool", layout(host.tmp(), &[(tar, "a")]).display());
    Ran::from(host.ces().args(["pull", &source]).output()).exits(0);
    let found = document(&host, &["tool"]);
    let unread: Vec<String> = findings(&found).into_iter().filter(|line| line.starts_with("not-readable")).collect();
    let places = [
        "opt/broken.jar",
        "usr/lib/node_modules/x/package.json",
        "usr/lib/python3/dist-packages/y-1.dist-info/METADATA",
    ];
    for place in places.into_iter().chain(["var/lib/rpm/rpmdb.sqlite"]) {
        assert!(unread.iter().any(|line| line.contains(place)), "{place}: {unread:?}");
    }
    assert_eq!(packages(&found).len(), 3);
}

#[test]
fn the_stack_of_an_ordinary_image_is_what_its_package_managers_say() {
    let Some(host) = Host::new() else { return };
    let Some(image) = python_layout() else { return };
    host.pull(&image, "python");
    let found = document(&host, &["python"]);
    let of = |kind: &str| -> BTreeSet<String> {
        let all = found["stack"]["packages"].as_array().unwrap().iter().filter(|p| p["kind"] == kind);
        all.map(|p| format!("{} {}", p["name"].as_str().unwrap(), p["version"].as_str().unwrap())).collect()
    };
    let say = |words: &[&str]| -> BTreeSet<String> {
        host.run(&[&["localhost/python"], words].concat()).exits(0).lines().map(str::to_owned).collect()
    };
    let debs = say(&["dpkg-query", "-W", "-f", "${Package} ${Version}\n"]);
    assert!(debs.len() > 50, "{debs:?}");
    assert_eq!(of("deb"), debs);
    let program = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'], d.version)";
    assert_eq!(of("pypi"), say(&["python3", "-c", program]));
    // All of it is Debian's, and nothing stands out but what Debian has.
    let packages = packages(&found);
    assert!(packages.iter().all(|line| line.starts_with("deb ") || !line.ends_with(" -")), "{packages:?}");
    let invented: Vec<String> = findings(&found);
    let known = |line: &&String| !line.starts_with("set-id usr/") && !line.starts_with("device dev/");
    assert_eq!(invented.iter().filter(known).count(), 0, "{invented:?}");
}
