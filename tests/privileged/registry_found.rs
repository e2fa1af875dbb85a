//! Registries as they are found: busy, cut off, old, behind proxies, and with every sort of token service.

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ces::image::reference::Digest;
use ces::image::source::registry::Registry;
use ces::image::source::{Credentials, RegistryRule, RegistryRules};
use nix::sys::signal::{Signal, kill};

use crate::image_support::{Layer, LayoutDir, Pack, Site, Tar, ces};
use crate::support::scripted_registry::{Asked, Reply, Scripted};

/// An image of one layer that does not compress, and that layer's blob.
fn image(bytes: usize) -> (LayoutDir, Vec<u8>) {
    let mut state = 7_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(bytes)
    .collect();
    let layer = Layer::new(&Tar::default().file("noise", &noise).end(), Pack::Gzip);
    (LayoutDir::of(std::slice::from_ref(&layer)), layer.blob)
}

fn path_of(blob: &[u8]) -> String {
    format!("blobs/{}", Digest::of(blob))
}

/// The image at `registry`, with pauses that a test can wait for.
fn origin(registry: &Scripted, credentials: Option<Credentials>) -> Registry {
    let reference = format!("{}/lab/x:1", registry.host).parse().unwrap();
    Registry::new(reference, &RegistryRules::default(), credentials).unwrap().pausing(Duration::from_millis(2))
}

/// Pulls it into a store of its own.
fn pull(registry: &Scripted) -> ces::error::Result<ces::image::pull::Pulled> {
    Site::new().pull_from(&origin(registry, None), "localhost/x:1")
}

fn researcher() -> Option<Credentials> {
    Some(Credentials::new("researcher", "secret"))
}

fn ces_pull(site: &Site, registry: &Scripted, more: &[&str]) -> Command {
    let mut command = Command::new(ces());
    command.arg("--root").arg(site.directory.path()).env_remove("SUDO_UID").env_remove("SUDO_USER");
    command.arg("pull").args(more).arg(format!("{}/lab/x:1", registry.host));
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_busy_registry_is_asked_again_and_told_when_it_says_when() {
    let (layout, blob) = image(2000);
    for status in [408, 429, 500, 502, 503, 504] {
        let blob = path_of(&blob);
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            let busy = asked.before < 3 && (asked.path.contains(&blob) || asked.path.contains("manifests"));
            busy.then(|| Reply::status(status))
        });
        assert_eq!(pull(&registry).unwrap().fetched, 1, "{status}");
        assert_eq!(registry.asked_for("manifests").len(), 4, "{status}");
    }
    // Its own pause is kept: one that is asked for in seconds, and one by a date.
    let date = |second: u8| format!("Sun, 06 Nov 1994 08:49:{second:02} GMT");
    for after in ["1".to_owned(), date(38)] {
        let now = date(37);
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            let busy = || Reply::status(503).header("Date", &now).header("Retry-After", &after);
            (asked.path.contains("manifests") && asked.before == 0).then(busy)
        });
        pull(&registry).unwrap();
        let asked = registry.asked_for("manifests");
        assert!(asked[1].at - asked[0].at >= Duration::from_secs(1));
    }
}

#[test]
fn a_registry_that_stays_busy_or_asks_for_hours_is_given_up() {
    let (layout, _) = image(2000);
    let registry = Scripted::start(layout.path(), "lab/x", |_| Some(Reply::status(503)));
    let report = pull(&registry).unwrap_err().report();
    assert!(report.contains("it answers 503"), "{report}");
    assert_eq!(registry.asked().len(), 6);
    let hours = |_: &Asked| Some(Reply::status(429).header("Retry-After", "20000"));
    let registry = Scripted::start(layout.path(), "lab/x", hours);
    let report = pull(&registry).unwrap_err().report();
    assert!(report.contains("it asks to wait 6 h"), "{report}");
    assert_eq!(registry.asked().len(), 1);
}

#[test]
fn what_does_not_pass_is_asked_for_once() {
    let (layout, _) = image(2000);
    for status in [400, 401, 403, 404, 405, 410] {
        let registry = Scripted::start(layout.path(), "lab/x", move |_| Some(Reply::status(status)));
        let report = pull(&registry).unwrap_err().report();
        assert_eq!(registry.asked().len(), 1, "{status}: {report}");
    }
}

#[test]
fn a_line_that_is_cut_again_and_again_gives_the_image_as_long_as_bytes_come() {
    let (layout, blob) = image(900_000);
    for every in [20_000, 300_000] {
        let (path, bytes) = (path_of(&blob), blob.clone());
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            asked.path.contains(&path).then(|| Reply::range(asked, &bytes).cut_after(every))
        });
        assert_eq!(pull(&registry).unwrap().fetched, 1);
        let asked = registry.asked_for("blobs");
        assert!(asked.len() >= blob.len() / every, "{every}: {} requests", asked.len());
        let range = |asked: &Asked| asked.headers.get("accept-encoding").is_some_and(|coding| coding == "identity");
        assert!(asked.iter().all(range), "a coded blob has other bytes");
    }
}

#[test]
fn a_line_of_which_nothing_comes_is_given_up_and_says_how_far_it_came() {
    let (layout, blob) = image(100_000);
    let (path, bytes) = (path_of(&blob), blob.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        let cut = if asked.from() == 0 { 40_000 } else { 0 };
        asked.path.contains(&path).then(|| Reply::range(asked, &bytes).cut_after(cut))
    });
    let error = pull(&registry).unwrap_err();
    assert!(error.report().contains(&format!("40000 of {} bytes came", blob.len())), "{}", error.report());
    assert_eq!(registry.asked_for(&path_of(&blob)).len(), 6);
}

#[test]
fn a_server_that_knows_no_ranges_gives_the_rest_all_the_same() {
    let (layout, blob) = image(200_000);
    let (path, bytes) = (path_of(&blob), blob.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        let whole = Reply::bytes(&bytes);
        asked
            .path
            .contains(&path)
            .then(|| if asked.before < 3 { whole.cut_after(50_000 * (asked.before + 1)) } else { whole })
    });
    pull(&registry).unwrap();
    assert_eq!(registry.asked_for(&path_of(&blob)).len(), 4);
}

#[test]
fn a_server_of_http_1_0_or_with_chunks_is_understood_and_its_cut_line_too() {
    let (layout, blob) = image(100_000);
    for old in [true, false] {
        let (path, bytes) = (path_of(&blob), blob.clone());
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            let framed = |reply: Reply| if old { reply.http_1_0() } else { reply.chunked() };
            let cut = |reply: Reply| if asked.before == 0 { reply.cut_after(30_000) } else { reply };
            asked.path.contains(&path).then(|| cut(framed(Reply::range(asked, &bytes))))
        });
        pull(&registry).unwrap_or_else(|e| panic!("{old}: {}", e.report()));
        assert_eq!(registry.asked_for(&path_of(&blob))[1].from(), 30_000, "{old}");
    }
}

#[test]
fn a_part_that_was_not_asked_for_is_refused() {
    let (layout, blob) = image(100_000);
    let answers: [fn(&Asked, &[u8]) -> Reply; 5] = [
        |_, bytes| Reply::bytes(&bytes[60_000..]).partial("bytes 60000-100/7"),
        |_, bytes| Reply::bytes(&bytes[60_000..]).partial(&format!("bytes 60000-{}/{}", bytes.len() - 1, bytes.len())),
        |_, bytes| {
            Reply::bytes(&bytes[50_000..]).partial(&format!("bytes 50000-{}/{}", bytes.len() - 1, bytes.len() + 1))
        },
        |_, bytes| Reply::bytes(&bytes[50_000..]).partial(""),
        |_, _| Reply::status(416),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let (path, bytes) = (path_of(&blob), blob.clone());
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            let first = || Reply::bytes(&bytes).cut_after(50_000);
            asked.path.contains(&path).then(|| if asked.before == 0 { first() } else { answer(asked, &bytes) })
        });
        let error = pull(&registry).unwrap_err();
        assert_eq!(error.kind(), ces::error::Kind::Hostile, "{number}: {}", error.report());
        assert_eq!(registry.asked_for(&path_of(&blob)).len(), 2, "{number}: {}", error.report());
    }
}

#[test]
fn the_next_command_goes_on_where_the_line_was_cut() {
    let (layout, blob) = image(400_000);
    let (path, bytes) = (path_of(&blob), blob.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        let gone = (1..=6).contains(&asked.before);
        let cut = |reply: Reply| if asked.before == 0 { reply.cut_after(150_000) } else { reply };
        asked.path.contains(&path).then(|| {
            if gone { Reply::status(503).header("Retry-After", "0") } else { cut(Reply::range(asked, &bytes)) }
        })
    });
    let site = Site::new();
    let output = ces_pull(&site, &registry, &[]).output().unwrap();
    let told = said(&output);
    assert!(
        !output.status.success() && told.contains("goes on from what came") && told.contains("trying again in"),
        "{told}"
    );
    site.assert_no_leftovers();
    let output = ces_pull(&site, &registry, &["--json"]).output().unwrap();
    let told = said(&output);
    assert!(output.status.success() && told.contains(&format!("resumed at 150000 of {} bytes", blob.len())), "{told}");
    let pulled: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&pulled["resumed_bytes"], &pulled["fetched_bytes"]), (&150_000.into(), &(blob.len() - 150_000).into()));
    assert_eq!(registry.asked_for(&path_of(&blob)).last().unwrap().from(), 150_000);
    assert!(kept(&site).is_empty(), "{:?}", kept(&site));
}

/// What is kept of blobs in the store.
fn kept(site: &Site) -> Vec<(std::path::PathBuf, u64)> {
    let mut all = Vec::new();
    for directory in fs::read_dir(site.directory.path().join("store/partial")).into_iter().flatten().flatten() {
        for file in fs::read_dir(directory.path()).unwrap().flatten() {
            all.push((file.path(), file.metadata().unwrap().len()));
        }
    }
    all
}

#[test]
fn a_pull_that_is_interrupted_or_killed_is_resumed_by_the_next() {
    let (layout, blob) = image(400_000);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let (path, bytes) = (path_of(&blob), blob.clone());
        let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
            let first = || Reply::bytes(&bytes).silent_after(100_000);
            (asked.path.contains(&path) && asked.before == 0).then(first)
        });
        let site = Site::new();
        let mut child = ces_pull(&site, &registry, &["-q"]).spawn().unwrap();
        crate::support::wait_until("a part is kept", || kept(&site).iter().any(|(_, bytes)| *bytes == 100_000));
        kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        child.wait().unwrap();
        let pulled = site.pull_from(&origin(&registry, None), "localhost/x:1").unwrap();
        assert_eq!(pulled.resumed_bytes, 100_000, "{signal}");
        site.assert_no_leftovers();
    }
}

#[test]
fn ctrl_c_works_while_a_pull_waits() {
    let (layout, _) = image(2000);
    let registry = Scripted::start(layout.path(), "lab/x", |_| Some(Reply::status(503).header("Retry-After", "200")));
    let site = Site::new();
    let child = ces_pull(&site, &registry, &[]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    crate::support::wait_until("the registry was asked", || !registry.asked().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", said(&output));
    assert!(
        began.elapsed() < Duration::from_secs(5) && said(&output).contains("trying again in 4 min"),
        "{}",
        said(&output)
    );
}

#[test]
fn what_was_kept_of_other_bytes_is_thrown_away_and_the_blob_fetched_whole() {
    let (layout, blob) = image(300_000);
    let (path, bytes) = (path_of(&blob), blob.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        asked.path.contains(&path).then(|| Reply::range(asked, &bytes))
    });
    let site = Site::new();
    site.store();
    for spoilt in [
        blob[..100_000].iter().map(|byte| byte ^ 1).collect(),
        vec![0; 100_000],
        vec![9; blob.len() + 1],
        vec![7; blob.len()],
    ] {
        let directory = site.directory.path().join("store/partial/u0");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("sha256-{}", Digest::of(&blob).hex())), &spoilt).unwrap();
        let pulled =
            site.pull_from(&origin(&registry, None), "localhost/x:1").unwrap_or_else(|e| panic!("{}", e.report()));
        assert_eq!((pulled.fetched, pulled.resumed_bytes), (1, 0));
        assert!(kept(&site).is_empty());
        let removed = site.store().remove("localhost/x:1", &site.unpacker()).unwrap();
        assert_eq!(removed.layers.unwrap().layers, 1);
    }
}

#[test]
fn prune_frees_what_is_kept_of_blobs() {
    let (layout, blob) = image(300_000);
    let (path, bytes) = (path_of(&blob), blob.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        let first = Reply::bytes(&bytes).cut_after(100_000);
        asked.path.contains(&path).then(|| if asked.before == 0 { first } else { Reply::status(404) })
    });
    let site = Site::new();
    site.pull_from(&origin(&registry, None), "localhost/x:1").unwrap_err();
    assert_eq!(kept(&site).len(), 1);
    assert_eq!(site.store().prune(&site.unpacker()).unwrap().partial_bytes, 100_000);
    assert!(kept(&site).is_empty() && !site.directory.path().join("store/partial/u0").exists());
}

/// A registry that gives nothing without the token `t0ken`, and asks for it in `lines`; `HOST` in these is its own address.
fn with_tokens(layout: &LayoutDir, lines: &'static [&'static str], token: &'static str) -> Scripted {
    Scripted::start(layout.path(), "lab/x", move |asked| {
        if asked.path.starts_with("/token") {
            return Some(Reply::bytes(token.as_bytes()));
        }
        if asked.authorization() == "Bearer t0ken" {
            return None;
        }
        let host = &asked.headers["host"];
        Some(
            lines
                .iter()
                .fold(Reply::status(401), |reply, line| reply.header("www-authenticate", &line.replace("HOST", host))),
        )
    })
}

#[test]
fn token_services_are_understood_in_all_their_forms() {
    let (layout, _) = image(2000);
    let cases: [(&[&str], &str, &str); 7] = [
        (
            &[r#"Bearer realm="http://HOST/token",service="x",scope="repository:lab/x:pull""#],
            r#"{"token":"t0ken"}"#,
            "&service=x",
        ),
        (
            &["bearer realm = \"http://HOST/token\" , SERVICE=x"],
            r#"{"access_token":"t0ken","expires_in":300}"#,
            "&service=x",
        ),
        (&["Basic realm=\"x\", Bearer realm=\"http://HOST/token\""], r#"{"token":"t0ken","access_token":"other"}"#, ""),
        (
            &["Negotiate", "Basic realm=\"x\"", "Bearer realm=\"http://HOST/token\",service=\"a,b\""],
            r#"{"token":"t0ken"}"#,
            "&service=a%2Cb",
        ),
        (
            &["Bearer realm=\"http://HOST/to\\ken\",error=\"invalid_token\""],
            r#"{"token":"","access_token":"t0ken"}"#,
            "",
        ),
        (&["Bearer realm=\"http://HOST/token?a=b\",scope=\"repository:lab/x:pull,push\""], r#"{"token":"t0ken"}"#, ""),
        (&["NTLM TlRM==,Bearer realm=\"http://HOST/token\""], r#"{"token":"t0ken","expires_in":"60"}"#, ""),
    ];
    for (lines, token, service) in cases {
        let registry = with_tokens(&layout, lines, token);
        pull(&registry).unwrap_or_else(|e| panic!("{lines:?}: {}", e.report()));
        let asked = registry.asked_for("/token");
        assert_eq!(asked.len(), 1, "{lines:?}");
        assert!(asked[0].path.ends_with(&format!("scope=repository%3Alab%2Fx%3Apull{service}")), "{}", asked[0].path);
        assert_eq!(asked[0].authorization(), "");
    }
}

#[test]
fn a_token_that_ends_in_the_midst_of_a_blob_is_got_anew() {
    let (layout, blob) = image(300_000);
    let (path, bytes, used) = (path_of(&blob), blob.clone(), Mutex::new(HashSet::new()));
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        if asked.path.starts_with("/token") {
            return Some(Reply::bytes(format!("{{\"token\":\"t{}\"}}", asked.before).as_bytes()));
        }
        let token = asked.authorization().to_owned();
        let is_blob = asked.path.contains(&path);
        // Each token is good for one part of the blob.
        if token.is_empty() || (is_blob && !used.lock().unwrap().insert(token)) {
            let realm = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
            return Some(Reply::status(401).header("WWW-Authenticate", &realm));
        }
        is_blob.then(|| Reply::range(asked, &bytes).cut_after(100_000))
    });
    pull(&registry).unwrap_or_else(|e| panic!("{}", e.report()));
    assert_eq!(registry.asked_for("/token").len(), blob.len().div_ceil(100_000));
}

#[test]
fn a_password_is_sent_where_only_that_is_asked_for() {
    let (layout, _) = image(2000);
    let registry = Scripted::start(layout.path(), "lab/x", |asked| {
        let basic = asked.authorization().starts_with("Basic ");
        (!basic).then(|| Reply::status(401).header("WWW-Authenticate", "Basic realm=\"a, Bearer realm=b\""))
    });
    Site::new().pull_from(&origin(&registry, researcher()), "localhost/x:1").unwrap();
    assert!(registry.asked()[0].authorization().is_empty());
    let report = pull(&registry).unwrap_err().report();
    assert!(report.contains("--username"), "{report}");
}

#[test]
fn a_busy_token_service_is_asked_again_and_a_token_without_end_is_none() {
    let (layout, _) = image(2000);
    let registry = |status: u16, token: Vec<u8>| {
        Scripted::start(layout.path(), "lab/x", move |asked| match asked.path.starts_with("/token") {
            true if asked.before == 0 => Some(Reply::status(status)),
            true => Some(Reply::bytes(&token)),
            false if asked.authorization() == "Bearer t" => None,
            false => {
                let realm = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
                Some(Reply::status(401).header("WWW-Authenticate", &realm))
            }
        })
    };
    pull(&registry(503, br#"{"token":"t"}"#.to_vec())).unwrap();
    assert!(pull(&registry(403, Vec::new())).unwrap_err().report().contains("is not public at"));
    let report = pull(&registry(503, vec![b' '; (1 << 20) + 1])).unwrap_err().report();
    assert!(report.contains("where a document belongs"), "{report}");
}

#[test]
fn a_mirror_below_a_path_has_the_image_there_and_its_token_is_for_there() {
    let (layout, _) = image(2000);
    let registry = Scripted::start(layout.path(), "Proxy_1/hub/lab/x", |asked| {
        if asked.path.starts_with("/token") {
            return Some(Reply::bytes(br#"{"token":"t"}"#));
        }
        let realm = format!("Bearer realm=\"http://{}/token\",service=p", asked.headers["host"]);
        (asked.authorization() != "Bearer t").then(|| Reply::status(401).header("WWW-Authenticate", &realm))
    });
    let mirror = Some(format!("http://{}/Proxy_1/hub/", registry.host));
    let rules = RegistryRules {
        hosts: [("ghcr.io".to_owned(), RegistryRule { mirror, ..RegistryRule::default() })].into(),
        ..RegistryRules::default()
    };
    let origin = Registry::new("GHCR.io/lab/x:1".parse().unwrap(), &rules, None).unwrap();
    let site = Site::new();
    assert_eq!(site.pull_from(&origin, "GHCR.io/lab/x:1").unwrap().reference, "ghcr.io/lab/x:1");
    assert!(site.store().find("ghcr.io/lab/x:1").is_ok() && site.store().find("Ghcr.IO:443/lab/x:1").is_ok());
    assert!(registry.asked_for("/token")[0].path.contains("scope=repository%3AProxy_1%2Fhub%2Flab%2Fx%3Apull"));
}

#[test]
fn a_blob_may_lie_elsewhere_and_no_token_goes_along() {
    let (layout, blob) = image(200_000);
    let bytes = blob.clone();
    let store = Scripted::start(layout.path(), "unused", move |asked| {
        asked.path.starts_with("/store").then(|| Reply::range(asked, &bytes).cut_after(90_000))
    });
    let (path, elsewhere) = (path_of(&blob), store.host.clone());
    let registry = Scripted::start(layout.path(), "lab/x", move |asked| {
        if asked.path.starts_with("/token") {
            return Some(Reply::bytes(br#"{"token":"t"}"#));
        }
        if asked.authorization() != "Bearer t" {
            let realm = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
            return Some(Reply::status(401).header("WWW-Authenticate", &realm));
        }
        // Another address each time, as signed ones are.
        let signed = || format!("http://{elsewhere}/store?signature={}", asked.before);
        asked.path.contains(&path).then(|| Reply::status(307).header("Location", &signed()))
    });
    pull(&registry).unwrap_or_else(|e| panic!("{}", e.report()));
    let asked = store.asked();
    assert_eq!(asked.iter().map(Asked::from).collect::<Vec<_>>(), [0, 90_000, 180_000]);
    assert!(asked.iter().all(|asked| asked.authorization().is_empty()));
}
