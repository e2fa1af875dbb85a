//! Ports that are not published, and why.

use std::net::TcpListener;

use crate::support::Host;

#[test]
fn more_ports_than_one_message_carries_are_refused_before_anything_is_made() {
    let Some(host) = Host::new() else { return };
    host.pull_demo("demo");
    let ports: Vec<String> = (0..238).map(|n| format!("-p=unix:{}", 2000 + n)).collect();
    let words: Vec<&str> = ports.iter().map(String::as_str).collect();
    host.run(&[&words[..], &["localhost/demo", "/bin/true"]].concat()).refuses(125, &["238 ports are too many", "237"]);
    host.nothing_ran();
    host.run(&[&words[1..], &["localhost/demo", "/bin/true"]].concat()).exits(0);
}

#[test]
fn a_port_in_use_is_an_error_with_its_number_and_nothing_runs() {
    let Some(host) = Host::with_demo() else { return };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let socket = host.home().join("first.sock");
    let both = ["-p", "unix:~/first.sock:80", "-p", &format!("{port}:8000")];
    host.sh(&both, "echo ran > /safe_outputs/ran").refuses(125, &[&format!("port {port}"), "in use", "-p 0:container"]);
    host.nothing_ran();
    assert!(!socket.exists(), "the socket of a run that did not start is left");
}

#[test]
fn a_port_of_root_is_refused_to_a_researcher() {
    let Some(host) = Host::with_demo() else { return };
    host.sh(&["-p", "80:8000"], "true").refuses(125, &["127.0.0.1:80", "1024"]);
    host.nothing_ran();
}

#[test]
fn other_addresses_protocols_and_ranges_are_refused_by_name() {
    let Some(host) = Host::with_demo() else { return };
    for (words, named) in [
        ("0.0.0.0:8000:8000", "0.0.0.0"),
        ("192.0.2.1:8000:8000", "192.0.2.1"),
        ("[::]:8000:8000", "[::]"),
        ("8000:8000/udp", "not tcp"),
        ("8000-8005:8000-8005", "range"),
        ("8000:0", "1 to 65535"),
        ("8000:65536", "1 to 65535"),
    ] {
        host.sh(&["-p", words], "true").refuses(125, &[words, named]);
    }
    host.nothing_ran();
}

#[test]
fn a_policy_without_ports_refuses_them_with_its_line() {
    let Some(host) = Host::with_demo() else { return };
    host.policy("contact = \"Governance, ext. 1234\"\n[ports]\nallow = false\n");
    for port in ["8000:8000", "unix:8000"] {
        host.sh(&["-p", port], "true").refuses(125, &["-p", "policy.toml line 3", "ext. 1234"]);
    }
    host.nothing_ran();
}
