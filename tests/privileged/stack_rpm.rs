//! RPM's databases in their three forms, each written by who writes it: SQLite and (where it is built in) NDB by `rpm`, Berkeley DB by
//! Berkeley DB's own `db_load`. What `ces stack` lists is what `rpm -qa` lists of the same file.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::stack_managers::{directory, findings, lines, owner, says, stack};
use crate::support::{Host, Ran, children, have};

const SPEC: &str = "\
Name: ces-tool
Epoch: 2
Version: 1.0~rc1
Release: 3.el9
Summary: a tool
License: MIT
ModularityLabel: tool:stream:1:ab
%description
a tool
%package libs
Summary: many files
License: GPL-2.0-or-later
%description libs
many files
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/usr/share/ces-tool
printf '#!/bin/sh\\n' > %{buildroot}/usr/bin/ces-tool
chmod 755 %{buildroot}/usr/bin/ces-tool
for i in $(seq 1 300); do echo $i > %{buildroot}/usr/share/ces-tool/file-$i; done
%files
/usr/bin/ces-tool
%files libs
/usr/share/ces-tool
";

/// What a database of RPM's is asked for, and what this form of it is.
fn rpm<'a>(root: &'a str, backend: &'a str) -> Vec<&'a str> {
    vec!["--root", root, "--dbpath", "/var/lib/rpm", "--define", backend]
}

/// `NAME VERSION ARCHITECTURE` of each package, as rpm has it in the database below `root`.
fn listed(root: &str, backend: &str) -> BTreeSet<String> {
    let query = "%{NAME} %|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE} %{ARCH}\\n";
    lines(&says("rpm", &[&rpm(root, backend)[..], &["-qa", "--qf", query]].concat()))
}

/// The same, as ces has it.
fn told(document: &Value) -> BTreeSet<String> {
    let all = document["stack"]["packages"].as_array().unwrap().iter().filter(|package| package["kind"] == "rpm");
    let word = |package: &Value, field: &str| package[field].as_str().unwrap().to_owned();
    all.map(|package| ["name", "version", "architecture"].map(|field| word(package, field)).join(" ")).collect()
}

/// Packages that `rpmbuild` has made.
fn built(work: &Path) -> Vec<String> {
    fs::write(work.join("tool.spec"), SPEC).unwrap();
    let top = format!("_topdir {}/top", work.display());
    let spec = work.join("tool.spec");
    says("rpmbuild", &["-bb", "--quiet", "--target", "noarch", "--define", &top, spec.to_str().unwrap()]);
    let made = children(&work.join("top/RPMS/noarch"));
    assert_eq!(made.len(), 2, "{made:?}");
    made.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

/// Installs them below `root` into a database of this form.
fn install(root: &str, backend: &str, packages: &[String]) {
    let words = ["-i", "--nodeps", "--noscripts", "--nosignature", "--force-debian"];
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    says("rpm", &[&rpm(root, backend)[..], &words, &packages].concat());
}

const SQLITE: &str = "_db_backend sqlite";

#[test]
fn what_rpm_has_installed_is_what_rpm_says_of_its_database() {
    let Some(host) = Host::new() else { return };
    let Some(()) = have("rpmbuild") else { return };
    let ((work, _), (root, root_word)) = (directory(&host, "rpm"), directory(&host, "root"));
    install(&root_word, SQLITE, &built(&work));
    let expected = listed(&root_word, SQLITE);
    assert_eq!(expected.len(), 2, "{expected:?}");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/planted"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("usr/bin/planted"), fs::Permissions::from_mode(0o755)).unwrap();
    let found = stack(&host, &root);
    assert_eq!(told(&found), expected);
    let tool =
        found["stack"]["packages"].as_array().unwrap().iter().find(|package| package["name"] == "ces-tool").unwrap();
    assert_eq!((&tool["module"], &tool["licence"]), (&json!("tool:stream:1:ab"), &json!("MIT")));
    // Every file that rpm lists is the package's, and what it does not know is nobody's.
    assert_eq!(findings(&found, "unowned"), BTreeSet::from(["usr/bin/planted".to_owned()]));
    assert!(owner(&host, "/usr/share/ces-tool/file-300").contains("package ces-tool-libs"));
}

/// The rows of RPM's database in SQLite as Berkeley DB's `db_load` reads them: a key of four bytes and a header, in hexadecimal digits.
const DUMP: &str = "import sqlite3, struct, sys
path, order, size = sys.argv[1:]
rows = sqlite3.connect(path).execute('select hnum, blob from Packages order by hnum').fetchall()
key = lambda number: struct.pack('>I' if order == '4321' else '<I', number).hex()
print('VERSION=3', 'format=bytevalue', 'type=hash', 'db_lorder=' + order, 'db_pagesize=' + size, 'HEADER=END', sep='\\n')
for number, blob in [(0, bytes.fromhex(key(len(rows))))] + rows:
    print(' ' + key(number), ' ' + blob.hex(), sep='\\n')
print('DATA=END')
";

#[test]
fn a_database_that_berkeley_db_wrote_says_what_rpm_says_of_it() {
    let Some(host) = Host::new() else { return };
    for program in ["rpmbuild", "db5.3_load", "python3"] {
        let Some(()) = have(program) else { return };
    }
    let ((work, _), (from, from_word)) = (directory(&host, "rpm"), directory(&host, "sqlite"));
    install(&from_word, SQLITE, &built(&work));
    let source = from.join("var/lib/rpm/rpmdb.sqlite");
    let expected = listed(&from_word, SQLITE);
    // In either order of bytes; on pages of 64 KiB a header stands among the keys, on small ones on pages of its own.
    for (order, size) in [("1234", "4096"), ("4321", "512"), ("1234", "65536")] {
        let (root, root_word) = directory(&host, &format!("bdb-{order}-{size}"));
        fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
        let dump = says("python3", &["-c", DUMP, source.to_str().unwrap(), order, size]);
        let mut load = Command::new("db5.3_load");
        let mut load = load.arg(root.join("var/lib/rpm/Packages")).stdin(Stdio::piped()).spawn().unwrap();
        load.stdin.take().unwrap().write_all(dump.as_bytes()).unwrap();
        assert!(load.wait().unwrap().success());
        assert_eq!(listed(&root_word, "_db_backend bdb_ro"), expected, "{order} {size}");
        // Locks that rpm leaves are no packages.
        let found = stack(&host, &root);
        assert_eq!(told(&found), expected, "{order} {size}");
        assert_eq!(findings(&found, "not-readable"), BTreeSet::new());
        // Cut off anywhere it is told, and never taken for a smaller one.
        let path = root.join("var/lib/rpm/Packages");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 200]).unwrap();
        let found = stack(&host, &root);
        let unread = found["stack"]["findings"].as_array().unwrap().iter().filter(|one| one["kind"] == "not-readable");
        assert!(unread.count() > 0, "{found:#}");
    }
}

/// Written by rpm 4.20.1, which was given three packages, had one taken away, and said of the rest what stands below.
const NDB: &str = "fuzz/seeds/database/ndb-rpm-4.20";
const IN_NDB: [&str; 3] =
    ["ces-old 2:0.9-3.el9 noarch", "ces-tool 2:1.0~rc1-3.el9 noarch", "ces-tool-libs 2:1.0~rc1-3.el9 noarch"];

#[test]
fn a_database_of_rpms_own_says_what_rpm_says_of_it() {
    let Some(host) = Host::new() else { return };
    let Some(()) = have("rpmbuild") else { return };
    let (root, _) = directory(&host, "root");
    let at = root.join("usr/lib/sysimage/rpm");
    fs::create_dir_all(&at).unwrap();
    fs::copy(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(NDB), at.join("Packages.db")).unwrap();
    fs::create_dir_all(root.join("usr/share/ces-tool")).unwrap();
    fs::write(root.join("usr/share/ces-tool/file-12"), "12\n").unwrap();
    let found = stack(&host, &root);
    assert_eq!(told(&found), IN_NDB.map(str::to_owned).into());
    assert!(owner(&host, "/usr/share/ces-tool/file-12").contains("package ces-tool-libs"));
    // Not every distribution builds this form into its rpm.
    let ((work, _), (root, root_word)) = (directory(&host, "rpm"), directory(&host, "of-this-host"));
    let ndb = "_db_backend ndb";
    let asked = Ran::from(Command::new("rpm").args(rpm(&root_word, ndb)).arg("--initdb").output());
    if asked.stderr.contains("invalid %_db_backend") {
        return;
    }
    install(&root_word, ndb, &built(&work));
    assert_eq!(told(&stack(&host, &root)), listed(&root_word, ndb));
}
