//! Layers on one another.

use super::*;
use crate::stack::facts::package;

const STATUS: &str = "var/lib/dpkg/status";

fn file(path: &str, digest: char) -> String {
    format!("f 755 0 0 1 9 0.0 {} - {path}\n", digest.to_string().repeat(64))
}

fn facts(debs: &[&str], programs: &[&str], claims: &[(&str, &str)]) -> Facts {
    let deb = |name: &&str| package(PackageType::Deb, name, "1", STATUS).unwrap();
    let program = |place: &&str| Program { place: (*place).to_owned(), kind: ProgramKind::Program };
    let claim = |(package, paths): &(&str, &str)| Claims {
        kind: PackageType::Deb,
        package: (*package).to_owned(),
        place: format!("var/lib/dpkg/info/{package}.list"),
        paths: (*paths).to_owned(),
    };
    Facts {
        packages: debs.iter().map(deb).collect(),
        programs: programs.iter().map(program).collect(),
        claims: claims.iter().map(claim).collect(),
        ..Facts::default()
    }
}

fn stack(layers: Vec<(String, Facts)>) -> Stack {
    let mut merge = Merge::default();
    for (listing, facts) in layers {
        merge.layer(listing.as_bytes(), facts, &[]).unwrap();
    }
    merge.finish(About::default())
}

#[test]
fn a_package_belongs_to_the_layer_since_which_its_row_is_there_without_a_break() {
    let layer = |debs: &[&str], digest| (file(STATUS, digest), facts(debs, &[], &[]));
    let gone = ("c 0 0 0 1 0 0.0 0 - var/lib/dpkg/status\n".to_owned(), Facts::default());
    let of = |stack: Stack| -> Vec<(String, usize)> { stack.packages.into_iter().map(|p| (p.name, p.layer)).collect() };
    let layers = vec![layer(&["a", "b", "c"], '1'), layer(&["a", "c"], '2'), layer(&["a", "b", "c"], '3')];
    assert_eq!(of(stack(layers.clone())), [("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 0)]);
    let again = [layers, vec![gone, layer(&["a"], '4')]].concat();
    assert_eq!(of(stack(again)), [("a".to_owned(), 4)]);
}

#[test]
fn a_list_of_files_owns_nothing_without_its_package() {
    let listing = [file(STATUS, '1'), file("bin/x", '2'), file("bin/y", '3')].concat();
    let lists = ["known", "unknown"].map(|name| file(&format!("var/lib/dpkg/info/{name}.list"), '4')).concat();
    let facts = facts(&["known"], &["bin/x", "bin/y"], &[("known", "bin/x"), ("unknown", "bin/y")]);
    let found = stack(vec![(listing + &lists, facts)]).findings;
    assert_eq!(found.iter().map(|f| (f.kind, f.place.as_str())).collect::<Vec<_>>(), [(FindingKind::Unowned, "bin/y")]);
}

#[test]
fn a_secret_is_told_whoever_owns_its_file() {
    let listing = [file(STATUS, '1'), file("srv/id_rsa", '2'), file("var/lib/dpkg/info/known.list", '3')].concat();
    let mut facts = facts(&["known"], &[], &[("known", "srv/id_rsa")]);
    facts.findings.push(Finding { layer: None, ..finding(FindingKind::Secret, "srv/id_rsa", "private key", 0) });
    let found = stack(vec![(listing, facts)]).findings;
    assert_eq!(found.iter().map(|f| (f.kind, f.hidden)).collect::<Vec<_>>(), [(FindingKind::Secret, false)]);
}

#[test]
fn a_list_of_files_that_was_changed_without_its_package_is_told() {
    let list = "var/lib/dpkg/info/known.list";
    let below = [file(STATUS, '1'), file(list, '2')].concat();
    let above = [file(list, '3'), file("bin/evil", '4')].concat();
    let claims = [("known", "bin/evil")];
    let layers = vec![(below, facts(&["known"], &[], &claims)), (above, facts(&[], &["bin/evil"], &claims))];
    let found = stack(layers).findings;
    assert_eq!(
        found.iter().map(|f| (f.kind, f.place.as_str(), f.layer)).collect::<Vec<_>>(),
        [(FindingKind::Replaced, list, Some(1))]
    );
}

#[test]
fn a_history_line_with_a_secret_is_not_shown() {
    let token = "ghp_0123456789abcdefghijABCDEFGHIJ456789";
    let lines =
        [format!("RUN git clone https://{token}@x"), "|1 API_TOKEN=abcdefghi RUN x".to_owned(), "RUN make".to_owned()];
    let layers = lines.map(|line| LayerOrigin { diff_id: String::new(), created_by: Some(line) }).to_vec();
    let stack = Merge::default().finish(About { layers, env: vec!["PASSWORD=hunter2".to_owned()], ..About::default() });
    let text = format!("{stack:?}");
    assert!(!text.contains(token) && !text.contains("abcdefghi") && !text.contains("hunter2"), "{text}");
    assert_eq!(stack.layers[2].created_by.as_deref(), Some("RUN make"));
    assert_eq!(stack.findings.len(), 3);
}
