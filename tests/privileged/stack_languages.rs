//! What the installers of languages have written themselves, held against their own lists.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;

use crate::stack_managers::{directory, findings, lines, owner, packages, says, stack};
use crate::support::validators::Validators;
use crate::support::{Host, Ran, children, fixtures, have, skip};

#[test]
fn what_pip_has_installed_is_what_pip_says() {
    let Some(host) = Host::new() else { return };
    let Some(()) = have("python3") else { return };
    let (root, root_word) = directory(&host, "root");
    let place = format!("{root_word}/opt/venv");
    says("python3", &["-m", "venv", "--copies", &place]);
    let listed =
        says(&format!("{place}/bin/python"), &["-m", "pip", "--disable-pip-version-check", "list", "--format=freeze"]);
    let expected = lines(&listed.replace("==", " "));
    assert!(expected.iter().any(|line| line.starts_with("pip ")), "{expected:?}");
    fs::write(root.join("opt/venv/bin/planted"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("opt/venv/bin/planted"), fs::Permissions::from_mode(0o755)).unwrap();
    let found = stack(&host, &root);
    // What pip carries inside itself is a part of pip.
    assert_eq!(packages(&found, "pypi"), expected);
    assert!(owner(&host, "/opt/venv/bin/pip3").contains("package pip"));
    assert!(owner(&host, "/opt/venv/bin/planted").contains("no package"));
}

/// Installs what is below `src` as every `Makefile.PL` does, with the list of files that it leaves.
const INSTALL: &str = "install([from_to => {'lib' => '/usr/local/share/perl5', 'script' => '/usr/local/bin', read => '', \
    write => '/usr/local/lib/perl5/auto/Ces/Tool/.packlist'}]);";
/// `NAME VERSION` of each module that Perl finds by such lists.
const INSTALLED: &str = "my $all = ExtUtils::Installed->new(inc_override => [map \"$ARGV[0]/usr/local/$_/perl5\", 'lib', 'share'], skip_cwd => 1); \
    print map \"$_ \" . $all->version($_) . \"\\n\", grep { $_ ne 'Perl' } $all->modules;";

#[test]
fn what_perl_has_installed_is_what_perl_says() {
    let Some(host) = Host::new() else { return };
    let Some(()) = have("perl") else { return };
    let ((work, _), (root, root_word)) = (directory(&host, "work"), directory(&host, "root"));
    fs::create_dir_all(work.join("lib/Ces")).unwrap();
    fs::create_dir_all(work.join("script")).unwrap();
    fs::write(work.join("lib/Ces/Tool.pm"), "package Ces::Tool;\nour $VERSION = \"1.03\";\n1;\n").unwrap();
    fs::write(work.join("script/ces-tool"), "#!/usr/bin/perl\n").unwrap();
    fs::set_permissions(work.join("script/ces-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut install = Command::new("perl");
    install.args(["-MExtUtils::Install=install", "-e", INSTALL]).current_dir(&work);
    Ran::from(install.env("PERL_INSTALL_ROOT", &root_word).output()).exits(0);
    let expected = lines(&says("perl", &["-MExtUtils::Installed", "-e", INSTALLED, &root_word]));
    assert_eq!(expected, BTreeSet::from(["Ces::Tool 1.03".to_owned()]));
    // In an image it was installed where it is.
    let list = root.join("usr/local/lib/perl5/auto/Ces/Tool/.packlist");
    let text = fs::read_to_string(&list).unwrap();
    fs::remove_file(&list).unwrap();
    fs::write(&list, text.replace(&root_word, "")).unwrap();
    let found = stack(&host, &root);
    assert_eq!(packages(&found, "cpan"), expected);
    assert_eq!(findings(&found, "unowned"), BTreeSet::new());
    assert!(owner(&host, "/usr/local/bin/ces-tool").contains("package Ces::Tool"));
}

#[test]
fn what_an_installer_of_conda_packages_has_installed_is_what_it_says() {
    let Some(host) = Host::new() else { return };
    let Some(validators) = Validators::new() else { return };
    let (_, root_word) = directory(&host, "root");
    let listed = validators.conda(&root_word);
    let expected: BTreeSet<String> = listed.lines().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
    assert_eq!(expected.len(), 3);
    let found = stack(&host, &host.tmp().join("root"));
    assert_eq!(packages(&found, "conda"), expected);
    let all = found["stack"]["packages"].as_array().unwrap();
    for line in listed.lines() {
        let (name, licence) = (line.split(' ').next().unwrap(), line.rsplit(' ').next().unwrap());
        let one = all.iter().find(|one| one["name"] == name).unwrap();
        assert!(one.to_string().contains(&format!("\"{licence}\"")), "{licence}: {one}");
    }
    assert!(owner(&host, "/opt/conda/bin/tool").contains("package tool"));
    assert_eq!(findings(&found, "unowned"), BTreeSet::new());
    let models = packages(&found, "model");
    assert!(
        models.len() == 2
            && ["model.safetensors ", "tiny.gguf "]
                .iter()
                .all(|name| { models.iter().any(|model| model.starts_with(name)) }),
        "{models:?}"
    );
}

#[test]
fn a_program_that_go_has_built_tells_the_go_that_built_it() {
    let Some(host) = Host::new() else { return };
    let layout = fixtures().join("programs");
    if !layout.join("index.json").exists() {
        return skip("the image with programs is not there: run scripts/programs-image target/fixtures/programs")
            .unwrap_or_default();
    }
    host.pull(&layout, "programs");
    let said = Ran::from(host.ces().args(["stack", "--format", "json", "programs"]).output());
    let found: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    let layers = children(&host.root().join("store/layers/sha256"));
    let program = layers.iter().find_map(|layer| fs::read(layer.join("fs/usr/local/bin/copy-go")).ok()).unwrap();
    let all = found["stack"]["packages"].as_array().unwrap();
    let of_it: Vec<&Value> =
        all.iter().filter(|one| one["kind"] == "golang" && one["place"] == "usr/local/bin/copy-go").collect();
    let standard = of_it.iter().find(|one| one["name"] == "stdlib").unwrap_or_else(|| panic!("{of_it:?}"));
    let version = standard["version"].as_str().unwrap();
    let written = format!("go{version}");
    assert!(version.starts_with("1.") && program.windows(written.len()).any(|part| part == written.as_bytes()));
}
