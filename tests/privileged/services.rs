//! Services as the published images have them: root prepares, another user serves, the data stays in a directory of the caller's.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Host, wait_until};

/// The shape of the official PostgreSQL image's entry point, with busybox's web server for the database: root gives the data
/// directory to uid 999 and closes it to everybody else, then the server becomes that user once it listens.
const ENTRYPOINT: &str = "set -e
[ $(id -u) = 0 ] || { echo must start as root >&2; exit 1; }
mkdir -p $DATA/base
[ -s $DATA/base/first ] || echo $SECRET > $DATA/base/first
chmod 0700 $DATA $DATA/base; chmod 0600 $DATA/base/first; chown -R 999:999 $DATA
exec httpd -f -p 127.0.0.1:5432 -u 999:999 -h $DATA/base";

/// Starts it with the host's port `port`.
fn service(host: &Host, port: u16, options: &[&str]) -> Child {
    let (publish, volume) = (format!("{port}:5432"), format!("{}/data:/var/lib/data", host.researcher().dir.display()));
    let image = ["-v", &volume, "-e", "DATA=/var/lib/data", "-e", "SECRET=of the first start", "-p", &publish];
    let words = [&image, options, &["localhost/root", "/bin/sh", "-c", ENTRYPOINT]].concat();
    let mut command = host.run_command(&words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ces")
}

/// What the server says to a client on the host.
fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /first HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

#[test]
fn a_root_entrypoint_gives_its_data_to_another_user_and_finds_it_again() {
    for host in [Host::with_probe(), Host::of_an_ordinary_user_with_probe()].into_iter().flatten() {
        let data = host.home().join("data");
        fs::create_dir(&data).expect("a directory");
        let user = host.researcher();
        std::os::unix::fs::chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("the researcher's own");
        for secret in ["of the first start", "of the second"] {
            let port = free_port();
            let mut running = service(&host, port, &["--profile", "service", "-e", &format!("SECRET={secret}")]);
            let mut said = String::new();
            wait_until("the service answers", || {
                said = ask(port).unwrap_or_default();
                said.contains("200 OK") || running.try_wait().is_ok_and(|ended| ended.is_some())
            });
            // If it has ended already, what it said is shown below.
            kill(Pid::from_raw(i32::try_from(running.id()).expect("a number")), Signal::SIGTERM).ok();
            let ended = running.wait_with_output().expect("its end");
            assert!(said.ends_with("of the first start\n"), "{said}: {}", String::from_utf8_lossy(&ended.stderr));
            let owner = fs::metadata(data.join("base")).or_else(|_| fs::metadata(&data)).expect("the data").uid();
            assert!(owner != 0 && owner != 999 && owner != user.uid.as_raw(), "uid 999 of the image is {owner} here");
        }
        // Without the profile root may not give files away, and the run says so.
        let port = free_port();
        let refused = service(&host, port, &["--profile", "batch"]).wait_with_output().expect("its end");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        host.nothing_is_left();
    }
}
