//! Registries: a real one on loopback, and one that lies.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ces::image::reference::Digest;
use ces::image::source::registry::Registry;
use ces::image::source::{Credentials, RegistryRule, RegistryRules};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar, ces};
use crate::registry_support::{Answer, Liar, RealRegistry, certificate, manifest_of, origin};

fn image() -> LayoutDir {
    let layer = |name: &str, pack| Layer::new(&Tar::default().dir("d/").file(name, &[7; 70_000]).end(), pack);
    LayoutDir::of(&[layer("d/a", Pack::Gzip), layer("d/b", Pack::Zstd), layer("d/c", Pack::Plain)])
}

#[test]
fn an_image_comes_from_a_real_registry_and_a_second_pull_takes_nothing() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let manifest = registry.push(&image());
    let site = Site::new();
    let name = format!("{}/lab/tool:1", registry.host);
    let first = site.pull_from(&registry.image(None), &name).unwrap();
    assert_eq!((first.digest, first.fetched), (manifest.clone(), 3));
    let second = site.pull_from(&registry.image(None), &name).unwrap();
    assert_eq!((second.digest, second.fetched), (manifest.clone(), 0));
    let found = site.store().find(&name).unwrap();
    assert_eq!(found.layers().len(), 3);
    let pinned = format!("{}/lab/tool@{manifest}", registry.host);
    site.pull_from(&origin(&pinned, None), &pinned).unwrap();
    assert_eq!(site.store().find(&pinned).unwrap().manifest_digest(), &manifest);
    site.assert_no_leftovers();
}

#[test]
fn a_password_is_asked_for_taken_or_refused_each_with_its_own_words() {
    let Some(registry) = RealRegistry::start(true) else { return };
    registry.push(&image());
    let site = Site::new();
    let pull = |credentials| site.pull_from(&registry.image(credentials), "localhost/x:1");
    let report = pull(None).unwrap_err().report();
    assert!(report.contains("needs a login") && report.contains("--username"), "{report}");
    let report = pull(Some(Credentials::new("researcher", "wrong"))).unwrap_err().report();
    assert!(report.contains("rejected the login of user \"researcher\""), "{report}");
    assert_eq!(pull(Some(Credentials::new("researcher", "secret"))).unwrap().fetched, 3);
}

#[test]
fn an_unknown_image_and_a_silent_host_are_told_apart() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let site = Site::new();
    let unknown = origin(&format!("{}/no/such:1", registry.host), None);
    let report = site.pull_from(&unknown, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("does not exist"), "{report}");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = origin(&format!("127.0.0.1:{port}/no/such:1"), None);
    let report = site.pull_from(&nobody, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("cannot reach the registry"), "{report}");
}

fn one_layer() -> (LayoutDir, Layer) {
    let layer = Layer::new(&Tar::default().file("a", &[b'x'; 300_000]).end(), Pack::Gzip);
    (LayoutDir::of(std::slice::from_ref(&layer)), layer)
}

#[test]
fn the_honest_answers_of_the_lying_registry_make_an_image() {
    let liar = Liar::start();
    liar.offer(&one_layer().0);
    let site = Site::new();
    site.pull_from(&origin(&format!("{}/x:1", liar.host), None), "localhost/x:1").unwrap();
}

#[test]
fn a_blob_of_other_bytes_is_refused() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let mut other = layer.blob.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    liar.blob(&Digest::of(&layer.blob), Answer::Body("application/octet-stream", other));
    let report = liar.refused();
    assert!(report.contains("is not what was announced") && report.contains("layer 1 of 1"), "{report}");
}

#[test]
fn a_blob_that_is_cut_short_is_refused() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let half = layer.blob[..layer.blob.len() / 2].to_vec();
    liar.blob(&Digest::of(&layer.blob), Answer::Body("application/octet-stream", half.clone()));
    let report = liar.refused();
    assert!(report.contains("bytes came"), "{report}");
    liar.blob(&Digest::of(&layer.blob), Answer::Short(half, layer.blob.len()));
    let report = liar.refused();
    assert!(report.contains("layer 1 of 1"), "{report}");
}

#[test]
fn a_blob_without_end_is_cut_off_at_its_announced_size() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    liar.blob(&Digest::of(&layer.blob), Answer::Endless);
    let started = Instant::now();
    let report = liar.refused();
    assert!(report.contains("more than the announced"), "{report}");
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_manifest_without_end_is_refused() {
    let liar = Liar::start();
    liar.answer("/v2/x/manifests/1", Answer::Endless);
    let report = liar.refused();
    assert!(report.contains("where a document belongs"), "{report}");
}

#[test]
fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let liar = Liar::start();
    let (layout, _) = one_layer();
    liar.offer(&layout);
    let wanted = Digest::of(b"something else");
    liar.answer(
        format!("/v2/x/manifests/{wanted}"),
        Answer::Body("application/vnd.oci.image.manifest.v1+json", manifest_of(&layout)),
    );
    let site = Site::new();
    let pinned = origin(&format!("{}/x@{wanted}", liar.host), None);
    let report = site.pull_from(&pinned, "localhost/x:1").unwrap_err().report();
    assert!(report.contains("has the digest"), "{report}");
}

#[test]
fn a_document_of_another_type_than_the_answer_says_is_refused() {
    let liar = Liar::start();
    let (layout, _) = one_layer();
    liar.offer(&layout);
    liar.answer("/v2/x/manifests/1", Answer::Body("application/vnd.oci.image.index.v1+json", manifest_of(&layout)));
    assert!(liar.refused().contains("is not a application/vnd.oci.image.index"));
}

/// A registry whose image says that its layer is to be had elsewhere; the layer, and the registry there.
fn with_foreign_layer() -> (Liar, Layer, Liar) {
    let (canary, liar) = (Liar::start(), Liar::start());
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest_of(&layout)).unwrap();
    manifest["layers"][0]["urls"] = serde_json::json!([format!("http://{}/layer", canary.host)]);
    liar.answer(
        "/v2/x/manifests/1",
        Answer::Body("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest).unwrap()),
    );
    (liar, layer, canary)
}

#[test]
fn a_layer_from_another_address_is_refused_and_the_address_never_called() {
    let (liar, layer, canary) = with_foreign_layer();
    liar.blob(&Digest::of(&layer.blob), Answer::Status(404, vec![]));
    assert!(liar.refused().contains("ces never calls them"));
    assert!(canary.asked().is_empty());
}

#[test]
fn a_foreign_layer_that_the_registry_has_is_taken_from_it_alone() {
    let (liar, _, canary) = with_foreign_layer();
    let site = Site::new();
    site.pull_from(&origin(&format!("{}/x:1", liar.host), None), "localhost/x:1").unwrap();
    assert!(canary.asked().is_empty());
}

#[test]
fn a_password_is_not_sent_where_a_registry_points() {
    let liar = Liar::start();
    let realm = "Bearer realm=\"http://192.0.2.7/token\",service=\"x\"".to_owned();
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm)]));
    let site = Site::new();
    let credentials = Some(Credentials::new("researcher", "secret"));
    let report =
        site.pull_from(&origin(&format!("{}/x:1", liar.host), credentials), "localhost/x:1").unwrap_err().report();
    assert!(report.contains("would not be encrypted"), "{report}");
    assert_eq!(liar.asked(), ["/v2/x/manifests/1"]);
}

#[test]
fn a_password_goes_to_no_other_port_and_follows_no_redirect() {
    let canary = Liar::start();
    let liar = Liar::start();
    let credentials = || Some(Credentials::new("researcher", "secret"));
    let realm = |host: &str| format!("Bearer realm=\"http://{host}/token\",service=\"x\"");
    let ask = |rules: &RegistryRules| {
        let origin = Registry::new(format!("{}/x:1", liar.host).parse().unwrap(), rules, credentials()).unwrap();
        Site::new().pull_from(&origin, "localhost/x:1").unwrap_err()
    };
    // The registry names another port of this machine.
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm(&canary.host))]));
    let error = ask(&RegistryRules::default());
    let report = error.report();
    let key = format!("[registries.\"{}\"] token = \"http://{}\"", liar.host, canary.host);
    assert!(error.exit_status() == 3 && report.contains(&key) && canary.asked().is_empty(), "{report}");
    // The policy names it too.
    let rule = RegistryRule { token: Some(format!("http://{}", canary.host)), ..RegistryRule::default() };
    ask(&RegistryRules { hosts: [(liar.host.clone(), rule)].into(), ..RegistryRules::default() });
    assert!(canary.asked()[0].to_lowercase().contains("authorization: basic"), "{:?}", canary.asked());
    // The registry's own token service sends elsewhere.
    let canary = Liar::start();
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm(&liar.host))]));
    let elsewhere = format!("http://{}/token", canary.host);
    liar.answer("/token?scope=repository%3Ax%3Apull&service=x", Answer::Status(307, vec![("Location", elsewhere)]));
    ask(&RegistryRules::default());
    assert!(liar.asked().last().unwrap().to_lowercase().contains("authorization: basic"), "{:?}", liar.asked());
    assert_eq!(canary.asked(), ["/token"]);
}

#[test]
fn a_token_is_fetched_and_goes_with_manifests_and_blobs() {
    let liar = Liar::start();
    let (layout, layer) = one_layer();
    liar.offer(&layout);
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", liar.host);
    // Both requests are answered 401: enough to see that a token was fetched and sent.
    liar.answer("/v2/x/manifests/1", Answer::Status(401, vec![("WWW-Authenticate", realm)]));
    liar.answer(
        "/token?scope=repository%3Ax%3Apull&service=x",
        Answer::Body("application/json", br#"{"token":"t0ken"}"#.to_vec()),
    );
    let report = liar.refused();
    assert!(report.contains("needs a login"), "{report}");
    let asked = liar.asked();
    assert!(asked.last().unwrap().contains("Bearer t0ken"), "{asked:?}");
    drop(layer);
}

#[test]
fn an_image_list_without_this_platform_says_what_there_is() {
    let liar = Liar::start();
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b""), "size": 3,
            "platform": {"os": "linux", "architecture": "mips", "variant": "x\u{1b}[31m"}}]});
    liar.answer(
        "/v2/x/manifests/1",
        Answer::Body("application/vnd.oci.image.index.v1+json", serde_json::to_vec(&index).unwrap()),
    );
    let report = liar.refused();
    assert!(report.contains("linux/mips") && !report.contains('\u{1b}'), "{report}");
}

#[test]
fn a_registry_that_the_policy_does_not_list_is_refused_before_it_is_asked() {
    let liar = Liar::start();
    let rules = RegistryRules {
        allow: Some(vec!["ghcr.io".to_owned()]),
        contact: Some("Information Governance".to_owned()),
        ..RegistryRules::default()
    };
    let error = Registry::new(format!("{}/x:1", liar.host).parse().unwrap(), &rules, None).unwrap_err();
    assert_eq!(error.exit_status(), 3);
    assert!(error.report().contains("Information Governance"));
    assert!(liar.asked().is_empty());
}

#[test]
fn a_mirror_gives_the_bytes_and_the_image_keeps_its_name() {
    let Some(registry) = RealRegistry::start(false) else { return };
    let manifest = registry.push(&image());
    let mirror = |url: String| RegistryRules {
        allow: Some(vec!["ghcr.io".to_owned()]),
        hosts: [("ghcr.io".to_owned(), RegistryRule { mirror: Some(url), ..RegistryRule::default() })].into(),
        contact: None,
    };
    let rules = mirror(format!("http://{}/", registry.host));
    let origin = Registry::new("ghcr.io/lab/tool:1".parse().unwrap(), &rules, None).unwrap();
    let site = Site::new();
    site.pull_from(&origin, "ghcr.io/lab/tool:1").unwrap();
    assert_eq!(site.store().find("ghcr.io/lab/tool:1").unwrap().manifest_digest(), &manifest);
    for url in ["http://mirror.example", "ftp://127.0.0.1", "127.0.0.1:5000"] {
        assert!(Registry::new("ghcr.io/x:1".parse().unwrap(), &mirror(url.to_owned()), None).is_err(), "{url}");
    }
}

#[test]
fn a_certificate_of_the_sites_own_is_trusted_where_the_policy_says_and_nowhere_else() {
    let certificate = |directory: &Path| certificate(directory, "IP:127.0.0.1");
    let Some(registry) = RealRegistry::start_with(false, certificate) else { return };
    registry.push(&image());
    let rules = |mirror: Option<String>, ca: Option<&str>| RegistryRules {
        hosts: [(
            "ghcr.io".to_owned(),
            RegistryRule { mirror, ca: ca.map(|name| registry.directory.path().join(name)), ..RegistryRule::default() },
        )]
        .into(),
        ..RegistryRules::default()
    };
    let mirror = || Some(format!("https://{}", registry.host));
    let pull = |rules: &RegistryRules| {
        let origin = Registry::new("ghcr.io/lab/tool:1".parse().unwrap(), rules, None)?;
        Site::new().pull_from(&origin, "ghcr.io/lab/tool:1")
    };
    assert_eq!(pull(&rules(mirror(), Some("ca.pem"))).unwrap().fetched, 3);
    let report = pull(&rules(mirror(), None)).unwrap_err().report();
    assert!(report.contains("certificate") && report.contains("hint: "), "{report}");
    assert!(pull(&rules(mirror(), Some("missing.pem"))).unwrap_err().report().contains("missing.pem"));
}

#[test]
fn a_pull_that_is_interrupted_tidies_up_and_the_next_one_goes_on_from_there() {
    use nix::sys::signal::{Signal, kill};
    let registry = Liar::start();
    let first = Layer::new(&Tar::default().file("a", b"whole").end(), Pack::Gzip);
    let second = Layer::new(&Tar::default().file("b", &[b'x'; 300_000]).end(), Pack::Plain);
    let layout = LayoutDir::of(&[first, second.clone()]);
    registry.offer(&layout);
    let half = second.blob[..second.blob.len() / 2].to_vec();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let site = Site::new();
        site.store();
        registry.blob(&second.diff_id, Answer::Stalled(half.clone(), second.blob.len()));
        let mut command = Command::new(ces());
        command.arg("--root").arg(site.directory.path()).env_remove("SUDO_UID").env_remove("SUDO_USER");
        command.arg("pull").arg(format!("{}/x:1", registry.host)).stderr(Stdio::piped()).stdout(Stdio::null());
        let layers = || fs::read_dir(site.directory.path().join("store/layers/sha256")).map_or(0, Iterator::count);
        let child = command.spawn().unwrap();
        // The small layer is there, the other one has stalled.
        crate::support::wait_until("one layer is in the store", || layers() == 1);
        kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(128 + signal as i32), "{said}");
        assert!(said.contains("error: interrupted") && said.contains("hint: "), "{said}");
        site.assert_no_leftovers();
        site.assert_canary_unharmed();
        assert!(site.store().images().unwrap().is_empty());
        registry.blob(&second.diff_id, Answer::Body("application/octet-stream", second.blob.clone()));
        let pulled = site.pull_from(&origin(&format!("{}/x:1", registry.host), None), "localhost/x:1").unwrap();
        assert_eq!(pulled.fetched, 1, "the layer that was whole was kept");
    }
}
