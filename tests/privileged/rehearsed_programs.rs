//! Real programs in a rehearsal: each gives the findings that it must, and no other; and what they are denied is what strace sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Host, children, fixtures, have, skip, wait_until};

/// A host with the image of `scripts/rehearsal-image`.
fn host() -> Option<Host> {
    let layout = fixtures().join("rehearsal");
    if !layout.join("index.json").exists() {
        return skip("the image is not there: run scripts/rehearsal-image target/fixtures/rehearsal");
    }
    let host = Host::new()?;
    host.pull(&layout, "rehearsal");
    Some(host)
}

/// A command, and all findings that it must give, each with verdict, kind and the end of its object; harmless ones are not told.
type Row = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

const TABLE: &[Row] = &[
    (
        "pip install -q --break-system-packages --retries 0 --index-url https://pypi.example/simple lifelines",
        &[("fails", "name", "pypi.example"), ("fails", "program", "lifelines")],
    ),
    (
        "curl -sS http://data.example/x",
        &[("fails", "name", "data.example"), ("fails", "program", "http://data.example/x")],
    ),
    (
        "wget -q -t 1 -T 3 http://data.example/x || true",
        &[("missed", "name", "data.example"), ("missed", "program", "http://data.example/x")],
    ),
    (
        "git clone -q http://git.example/x",
        &[("fails", "name", "git.example"), ("fails", "program", "http://git.example/x")],
    ),
    (
        "node -e \"require('http').get('http://api.example/').on('error', () => process.exit(4))\"",
        &[("fails", "name", "api.example")],
    ),
    ("fetch-go http://api.example/", &[("fails", "name", "api.example")]),
    ("lookup-musl b.example", &[("fails", "name", "b.example")]),
    (
        "python3 -c \"import urllib.request as u; u.urlopen('http://192.0.2.7/')\"",
        &[("fails", "address", "192.0.2.7 80")],
    ),
    (
        "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 5432))\" || true",
        &[("missed", "port", "5432")],
    ),
    ("python3 -c \"open('/home/ann/r.csv', 'w').write('1')\"", &[("lost", "lost", "/home/ann")]),
    ("python3 -c \"open('/usr/share/r.csv', 'w')\"", &[("fails", "path", "/usr/share/r.csv")]),
    // What lacks nothing.
    ("python3 -c \"import json, ssl, sqlite3, multiprocessing; print(1)\"", &[]),
    ("python3 -m venv --without-pip /scratch/v && /scratch/v/bin/python -c 'print(1)'", &[]),
    (
        "git init -q /scratch/r && cd /scratch/r && echo 1 > f && git add f && git -c user.name=a -c user.email=a@b commit -qm m",
        &[],
    ),
    ("node -e \"require('fs').writeFileSync('/safe_outputs/r', '1')\"", &[]),
    ("ls -lR /usr/share > /safe_outputs/list; find /etc -name 'h*' -readable > /dev/null", &[]),
    ("tar -C /usr/share -cf /safe_outputs/t.tar base-files && tar -C /scratch -xf /safe_outputs/t.tar", &[]),
];

#[test]
fn real_programs_give_the_findings_they_must_and_no_false_one() {
    let Some(host) = host() else { return };
    let mut wrong = Vec::new();
    for (command, expected) in TABLE {
        let rehearsal = host.rehearse(&["localhost/rehearsal", "sh", "-c", command]);
        if rehearsal.report.is_null() {
            wrong.push(format!("{command}: {rehearsal:?}"));
            continue;
        }
        let mut found: Vec<(&str, &str, &str)> = rehearsal
            .all()
            .iter()
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().expect("a text");
                (text("verdict"), text("kind"), text("object"))
            })
            .filter(|(verdict, ..)| *verdict != "harmless")
            .collect();
        for (verdict, kind, object) in *expected {
            let at = found.iter().position(|(v, k, o)| v == verdict && k == kind && o.ends_with(object));
            match at {
                Some(at) => drop(found.remove(at)),
                None => wrong.push(format!("{command}: no {verdict} {kind} {object}: {found:?}")),
            }
        }
        if !found.is_empty() {
            wrong.push(format!("{command}: false: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.nothing_is_left();
}

/// What the job does once strace is there: allowed and denied, by many programs and calls. (A redirection that fails ends a shell
/// whose command is a special one, as `:` is.)
const JOB: &str = r#"
n=0; while [ $n -lt 400 ]; do true 2>/dev/null > /usr/lib/o$n; true < /etc/hostname; [ -e /etc/none$n ]; n=$((n+1)); done
touch /usr/bin/x; mkdir -p /opt/a/b; rm -f /etc/passwd; rm -rf /var/lib/dpkg/info; mv /etc/fstab /tmp/; ln -s a /srv/b
ln /etc/issue /srv/hard; chmod 777 /etc; chown ann /etc/issue; cp /etc/passwd /tmp/; cat /etc/shadow; ls /root; ls /root/x
sed -i s/a/b/ /etc/issue; rmdir /opt; truncate -s 1 /etc/issue; mkdir /home/ann/ok; touch /home/ann/ok/f; mv /home/ann/ok /home/ann/ok2
cd /srv; touch relative; mkdir made; cd /; true > /proc/sys/vm/drop_caches; true > /sys/kernel/x; echo x > /dev/shm/z
python3 -c "
import os
for p in ['/opt/r.csv', '/root/m.bin', '/etc/shadow', '/safe_data/new', '/usr/lib/y', '/etc/resolv.conf', '/dev/null', '/tmp/t', '/etc/ssl/private/k']:
    for m in 'wr':
        try: open(p, m).close()
        except OSError: pass
for f, *a in [(os.mkdir, '/opt/n'), (os.rename, '/etc/issue', '/tmp/i'), (os.chown, '/tmp/t', 33, 33), (os.symlink, 'a', '/usr/l'), (os.remove, '/etc/hosts'), (os.chmod, '/etc/issue', 0o777), (os.listdir, '/root'), (os.utime, '/etc/issue')]:
    try: f(*a)
    except OSError: pass
"
node -e "try { require('fs').writeFileSync('/opt/n.txt', 'x') } catch {}"
git init -q /scratch/r; tar -C /opt -xf /scratch/none.tar; find /etc -newer /etc/issue > /dev/null; exit 0
"#;

/// A denial: the path as it was named, and the error.
type Denied = (String, &'static str);

const ERRORS: [(&str, i64); 3] = [("EPERM", 1), ("EACCES", 13), ("EROFS", 30)];

/// The denials in what strace has written; calls that were interrupted by another thread's come in two lines.
fn denials(text: &str) -> BTreeSet<Denied> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut out = BTreeSet::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.trim_start().split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some((begin, _)) = rest.split_once(" <unfinished") {
            begun.insert(pid, begin);
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(end) => format!("{} {end}", begun.remove(pid).unwrap_or_default()),
            None => rest.to_owned(),
        };
        let Some(error) = ERRORS.iter().map(|(name, _)| *name).find(|name| whole.contains(&format!("= -1 {name} (")))
        else {
            continue;
        };
        let call = whole.split('(').next().unwrap_or_default();
        let paths: Vec<&str> = whole.split('"').skip(1).step_by(2).collect();
        let path = if call.starts_with("symlink") || call.starts_with("link") { paths.get(1) } else { paths.first() };
        // Times are not watched: nothing is lost by them.
        if let Some(path) = path.filter(|_| !call.starts_with("utime")) {
            out.insert(((*path).to_owned(), error));
        }
    }
    out
}

#[test]
fn what_is_denied_is_told_as_strace_sees_it() {
    let Some(host) = host() else { return };
    if have("strace").is_none() {
        return;
    }
    let marker = format!("oracle-{}", host.token());
    let script =
        format!("# {marker}\n: > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; {JOB}");
    let report = host.home().join("report.json");
    let mut command = host.ces();
    command.args(["rehearse", "-e", &format!("CES_TEST={}", host.token()), "--timeout", "120s", "--json"]);
    command.arg(host.researcher().dir.join("report.json")).args(["localhost/rehearsal", "sh", "-c", &script]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ces");
    wait_until("the payload runs", || host.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
    let shell = children(std::path::Path::new("/proc")).into_iter().find(|dir| {
        let words = fs::read(dir.join("cmdline")).unwrap_or_default();
        words.starts_with(b"sh\0-c\0") && words.windows(marker.len()).any(|part| part == marker.as_bytes())
    });
    let shell = shell.expect("the payload's shell");
    let log = host.tmp().join("strace.log");
    let pid = shell.file_name().and_then(|name| name.to_str()).expect("a number").to_owned();
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=%file,fchownat,fchmodat", "-p", &pid, "-o"])
        .arg(&log)
        .spawn()
        .expect("strace");
    // Attached it has looked at the shell's loop.
    wait_until("strace is there", || fs::metadata(&log).is_ok_and(|found| found.len() > 0));
    let outputs = host.outputs();
    fs::write(outputs.join("go"), "").expect("a word to the payload");
    let ran = crate::support::Ran::from(child.wait_with_output());
    strace.wait().expect("strace ends with the last process");
    let text = fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report ({e}): {ran:?}"));
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let told: BTreeSet<Denied> = report["closed"]
        .as_array()
        .expect("paths")
        .iter()
        .filter_map(|closed| {
            let what = &closed["what"];
            let error = ERRORS.iter().find(|(_, number)| what["errno"] == *number)?.0;
            Some((what["path"].as_str()?.to_owned(), error))
        })
        .collect();
    let seen = denials(&fs::read_to_string(&log).expect("strace's log"));
    // strace shows a relative path as it was given.
    let same = |told: &Denied, seen: &Denied| {
        told.1 == seen.1
            && (told.0 == seen.0 || (!seen.0.starts_with('/') && told.0.ends_with(&format!("/{}", seen.0))))
    };
    let missed: Vec<_> = seen.iter().filter(|seen| !told.iter().any(|told| same(told, seen))).collect();
    let invented: Vec<_> = told.iter().filter(|told| !seen.iter().any(|seen| same(told, seen))).collect();
    eprintln!("{} denials: {} missed, {} invented", seen.len(), missed.len(), invented.len());
    assert!(seen.len() > 420, "{}", seen.len());
    assert!(missed.len() * 100 <= seen.len() && invented.is_empty(), "missed: {missed:#?}\ninvented: {invented:#?}");
    host.nothing_is_left();
}
