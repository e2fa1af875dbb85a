//! Pulls through an HTTP proxy (RFC 9110, CONNECT), which alone knows the registry's name.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::image_support::{Layer, LayoutDir, Pack, Tar};
use crate::registry_support::{RealRegistry, certificate};
use crate::support::Ran;
use crate::support::callers::{Caller, Desk};

/// A proxy on loopback: its address, and what it was asked for. It connects to this machine, whichever name it is asked for.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, log) = (client.unwrap(), Arc::clone(&log));
            std::thread::spawn(move || connect(client, &log));
        }
    });
    (address, asked)
}

/// One CONNECT; a client that goes away in between is no failure of the test's.
fn connect(client: TcpStream, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = BufReader::new(client.try_clone().ok()?);
    let mut request = String::new();
    head.read_line(&mut request).ok()?;
    let mut line = String::new();
    while head.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let target = request.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let port = target.rsplit(':').next()?.parse::<u16>().ok()?;
    log.lock().unwrap().push(target);
    let server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    to_client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let back = std::thread::spawn(move || {
        std::io::copy(&mut from_server, &mut to_client).ok();
        to_client.shutdown(Shutdown::Both).ok();
    });
    let mut to_server = server;
    std::io::copy(&mut head, &mut to_server).ok();
    to_server.shutdown(Shutdown::Both).ok();
    back.join().ok()
}

#[test]
fn a_pull_goes_through_the_proxy_that_the_environment_names_and_sudo_names_none_unless_the_site_says_so() {
    let Some(registry) = RealRegistry::start_with(false, |dir| certificate(dir, "DNS:registry.test")) else { return };
    let layer = Layer::new(&Tar::default().file("f", b"1").end(), Pack::Gzip);
    let manifest = registry.push(&LayoutDir::of(std::slice::from_ref(&layer)));
    let Some(desk) = Desk::new(Caller::Sudo) else { return };
    let name = registry.host.replace("127.0.0.1", "registry.test");
    fs::copy(registry.directory.path().join("ca.pem"), desk.host.inside(Path::new("/etc/ces/ca.pem"))).unwrap();
    desk.host
        .policy(&format!("[registries]\nallow = [\"{name}\"]\n[registries.\"{name}\"]\nca = \"/etc/ces/ca.pem\"\n"));
    let image = format!("{name}/lab/tool:1");
    let (address, asked) = proxy();
    let root = |variables: &[(&str, &str)]| {
        let mut ces = desk.host.ces_as_root();
        Ran::from(ces.envs(variables.iter().copied()).args(["pull", &image]).output())
    };
    let at = format!("http://{address}");
    // Without it, and where the host is excepted, nobody knows the name.
    root(&[]).refuses(1, &["its name is not known"]);
    root(&[("HTTPS_PROXY", &at), ("NO_PROXY", "registry.test")]).refuses(1, &["its name is not known"]);
    assert_eq!(asked.lock().unwrap().len(), 0);
    let pulled = root(&[("HTTPS_PROXY", &at)]);
    assert_eq!(pulled.exits(0).trim(), format!("{image}@{manifest}"));
    assert!(asked.lock().unwrap().iter().all(|target| *target == name) && !asked.lock().unwrap().is_empty());
    // A researcher's own variable is not the site's.
    let ces = env!("CARGO_BIN_EXE_ces");
    let researcher = || {
        let mut shell = desk.host.command("runuser");
        shell.args(["--login", "--shell", "/bin/sh", &desk.host.researcher().name, "--command"]);
        Ran::from(shell.arg(format!("export HTTPS_PROXY={at}; exec sudo -n {ces} pull {image}")).output())
    };
    let before = asked.lock().unwrap().len();
    researcher().refuses(1, &["its name is not known"]);
    assert_eq!(asked.lock().unwrap().len(), before);
    let sudoers = desk.host.inside(Path::new("/etc/sudoers.d/ces"));
    let kept = fs::read_to_string(&sudoers).unwrap();
    fs::write(&sudoers, format!("Defaults!{ces} env_keep += \"HTTPS_PROXY NO_PROXY\"\n{kept}")).unwrap();
    researcher().exits(0);
    assert!(asked.lock().unwrap().len() > before);
}
