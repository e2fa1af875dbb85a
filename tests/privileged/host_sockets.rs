//! Services that listen in what is to be bound: those of this host are a refusal, names alone are not.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::Host;
use crate::support::probe::each_host;

/// Binds the name, says so, and listens.
const SERVE: &str = "import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('up', flush=True); time.sleep(60)";

/// Makes the directory `$2` in a mount namespace of its own, where the directory `$1` is empty, and serves at `$3` there.
const ELSEWHERE: &str = "set -e; mount -t tmpfs tmpfs \"$1\"; mkdir -p \"$2\"; exec python3 -c \"$0\" \"$3\"";

/// A service, from the moment at which it listens.
struct Service(Child);

impl Service {
    fn start(mut command: Command) -> Self {
        let mut service = Self(command.stdout(Stdio::piped()).spawn().expect("a service"));
        let mut line = String::new();
        BufReader::new(service.0.stdout.take().expect("its output")).read_line(&mut line).expect("its word");
        assert_eq!(line, "up\n");
        service
    }

    /// On the test's host.
    fn here(host: &Host, name: &Path) -> Self {
        let mut command = host.command("python3");
        command.args(["-c", SERVE]).arg(name);
        Self::start(command)
    }

    /// In another user and mount namespace, where the name is another file; the network namespace is the host's.
    fn elsewhere(host: &Host, name: &Path) -> Self {
        let dir = name.parent().expect("a directory");
        let top = host.researcher().dir.parent().expect("the directory of homes");
        let mut command = host.command("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", ELSEWHERE, SERVE])
            .arg(top)
            .arg(dir)
            .arg(name);
        Self::start(command)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().expect("it is there");
        self.0.wait().expect("its end");
    }
}

#[test]
fn a_name_bound_in_another_mount_namespace_refuses_nobodys_runs() {
    each_host(|host| {
        let run = || host.run(&["localhost/demo", "/bin/true"]);
        let name = host.researcher().dir.join("safe_data/s");
        let elsewhere = Service::elsewhere(host, &name);
        let list = std::fs::read_to_string("/proc/net/unix").expect("the kernel's list");
        assert!(list.contains(name.to_str().expect("a name in UTF-8")), "the host's own list has the name");
        run().exits(0);
        // A plain file of that name, and what a service here has left behind, are no service either.
        std::fs::write(host.home().join("safe_data/s"), "").expect("a file");
        run().exits(0);
        std::fs::remove_file(host.home().join("safe_data/s")).expect("it is there");
        drop(Service::here(host, &name));
        run().exits(0);
        drop(elsewhere);
        host.nothing_is_left();
    });
}

#[test]
fn a_service_of_this_host_is_a_refusal_whatever_else_has_its_name_or_it_has_for_a_name() {
    each_host(|host| {
        let run = || host.run(&["localhost/demo", "/bin/true"]);
        let name = host.researcher().dir.join("safe_data/s");
        let others = Service::elsewhere(host, &name);
        let ours = Service::here(host, &name);
        run().refuses(125, &[&name.display().to_string(), "socket of the host"]);
        drop(others);
        run().refuses(125, &[&name.display().to_string(), "socket of the host"]);
        drop(ours);
        // By another name of the same directory: a home is a mount of it.
        let other_name = host.home().join("safe_data/t");
        let _ours = Service::here(host, &other_name);
        run().refuses(125, &[&other_name.display().to_string(), "socket of the host"]);
    });
}
