//! What a rehearsal tells of denied paths, beside what strace sees of the same payload: its witness predicts, strace saw the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::rehearsed_programs::host;
use crate::support::{Host, Ran, children, have, wait_until};

/// What the job does once strace is there: allowed and denied, by many programs and calls. (A redirection that fails ends a shell
/// whose command is a special one, as `:` is.)
const JOB: &str = r#"
n=0; while [ $n -lt 400 ]; do true 2>/dev/null > /usr/lib/o$n; true < /etc/hostname; [ -e /etc/none$n ]; n=$((n+1)); done
touch /usr/bin/x; mkdir -p /opt/a/b; rm -f /etc/passwd; rm -rf /var/lib/dpkg/info; mv /etc/fstab /tmp/; ln -s a /srv/b
ln /etc/issue /srv/hard; ln /etc/issue /tmp/hard; chmod 777 /etc; chown ann /etc/issue; cp /etc/passwd /tmp/; cat /etc/shadow; ls /root; ls /root/x
sed -i s/a/b/ /etc/issue; rmdir /opt; truncate -s 1 /etc/issue; mkdir /home/ann/ok; touch /home/ann/ok/f; mv /home/ann/ok /home/ann/ok2
cd /srv; touch relative; mkdir made; mkfifo pipe; cd /; true > /proc/sys/vm/drop_caches; true > /sys/kernel/x; echo x > /dev/shm/z
cd /root; mkdir /tmp/d; mkfifo /tmp/p; ln -s /opt /tmp/d/abs; ln -s ../../root /tmp/d/up; cd /tmp/d; touch abs/new; ls up/x; cat up/../etc/shadow
cp /bin/true /home/ann/t; chmod 644 /home/ann/t; /home/ann/t; /etc; echo x > /dev/stdout; echo x > /dev/full; mv /home/ann/t /scratch/t; mv /etc/issue /scratch/
rm -f /proc/1/comm; mkdir /proc/x /sys/x; ln -s a /sys/y; chmod 600 /proc/version; chown 1 /proc/version; truncate -s 0 /proc/version
python3 -c "
import os
for p in ['/opt/r.csv', '/root/m.bin', '/etc/shadow', '/safe_data/new', '/usr/lib/y', '/etc/resolv.conf', '/dev/null', '/tmp/t', '/etc/ssl/private/k', '/etc', '/proc/self/comm']:
    for m in 'wr':
        try: open(p, m).close()
        except OSError: pass
for f, *a in [(os.mkdir, '/opt/n'), (os.rename, '/etc/issue', '/tmp/i'), (os.rename, '/tmp/t', '/opt/t'), (os.rename, '/home/ann/t2', '/opt/t'), (os.rename, '/etc/issue', '/opt/t'),
    (os.chown, '/tmp/t', 33, 33), (os.chown, '/tmp/t', 1000, 1000), (os.chown, '/tmp/t', -1, 33), (os.chown, '/etc/issue', -1, -1), (os.lchown, '/tmp/d/abs', 0, 0),
    (os.symlink, 'a', '/usr/l'), (os.remove, '/etc/hosts'), (os.remove, '/safe_data/none'), (os.rmdir, '/etc/ssl'),
    (os.chmod, '/etc/issue', 0o777), (os.listdir, '/root'), (os.utime, '/etc/issue'), (os.link, '/bin/true', '/tmp/true'), (os.link, '/bin/true', '/home/ann/true'),
    (os.open, '/etc/issue', os.O_RDONLY | os.O_NOATIME), (os.open, '/opt', os.O_TMPFILE | os.O_RDWR), (os.open, '/bin/true', os.O_RDWR),
    (os.open, '/opt', os.O_RDONLY | os.O_DIRECTORY | os.O_CREAT), (os.truncate, '/usr/bin/env', 1), (os.execv, '/etc/issue', ['x']), (os.mkfifo, '/opt/p')]:
    try: f(*a)
    except OSError: pass
d = os.open('/usr/share', os.O_RDONLY)
for f, a, k in [(os.unlink, 'none', {}), (os.unlink, 'base-files/none', {}), (os.mkdir, 'new', {}), (os.open, '../lib/new', {'flags': os.O_CREAT | os.O_WRONLY}), (os.chmod, 'base-files', {'mode': 0o777})]:
    try: f(a, dir_fd=d, **k)
    except OSError: pass
"
node -e "try { require('fs').writeFileSync('/opt/n.txt', 'x') } catch {}"
git init -q /scratch/r; tar -C /opt -xf /scratch/none.tar; find /etc -newer /etc/issue > /dev/null; ls -lR /usr/share /etc > /dev/null
tar -C /etc -cf /scratch/etc.tar . ; tar -C /opt -xf /scratch/etc.tar; cp -a /etc /usr/local/; rm -rf /usr/local/etc; exit 0
"#;

/// Errors by which a right is denied.
const ERRORS: [(&str, i64); 3] = [("EPERM", 1), ("EACCES", 13), ("EROFS", 30)];

/// A denial: the paths as they were named, and the error.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Denied {
    call: String,
    paths: Vec<String>,
    error: &'static str,
}

impl Denied {
    /// What is told of `path` is this. strace shows a relative path as it was given.
    fn is(&self, path: &str, error: &str) -> bool {
        let same = |named: &String| {
            path == named || !named.starts_with('/') && path.ends_with(&format!("/{}", named.trim_end_matches('/')))
        };
        self.error == error && self.paths.iter().any(same)
    }

    /// What a rehearsal does not tell: times and attributes, by which nothing is lost, and what `access` asks without wanting it.
    fn is_untold(&self) -> bool {
        const UNTOLD: [&str; 5] = ["utime", "access", "faccessat", "statfs", "inotify"];
        UNTOLD.iter().any(|call| self.call.starts_with(call)) || self.call.contains("xattr")
    }
}

/// A text as strace shows it, with its octal escapes read (`\305\221`); no path of the job has a quotation mark.
fn unescaped(shown: &str) -> String {
    let mut out = Vec::new();
    let mut rest = shown.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.iter().take(3).take_while(|digit| (b'0'..b'8').contains(digit)).count();
        let octal = std::str::from_utf8(&after[..digits]).ok().and_then(|digits| u8::from_str_radix(digits, 8).ok());
        (out, rest) = match octal.filter(|_| *first == b'\\') {
            Some(byte) => ([out, vec![byte]].concat(), &after[digits..]),
            None => ([out, vec![*first]].concat(), after),
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The denials in what strace has written; a call that another thread's interrupted comes in two lines.
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
        let error = ERRORS.iter().map(|(name, _)| *name).find(|name| whole.contains(&format!("= -1 {name} (")));
        let (Some(error), Some((call, words))) = (error, whole.split_once('(')) else { continue };
        let paths = words.split('"').skip(1).step_by(2).map(unescaped).collect();
        out.insert(Denied { call: call.to_owned(), paths, error });
    }
    out
}

/// What the report tells of closed paths, each with its error.
fn told(report: &Value) -> BTreeSet<(String, &'static str)> {
    let closed = report["closed"].as_array().expect("paths").iter();
    let one = |closed: &Value| {
        let what = &closed["what"];
        let (error, _) = ERRORS.iter().find(|(_, number)| what["errno"] == *number)?;
        Some((what["path"].as_str()?.to_owned(), *error))
    };
    closed.map(|closed| one(closed).unwrap_or_else(|| panic!("{closed} is no denial"))).collect()
}

/// Rehearses the job with strace at its shell; strace's log and the report.
fn traced(host: &Host) -> (String, Value) {
    let marker = format!("oracle-{}", host.token());
    let script =
        format!("# {marker}\n: > /safe_outputs/ready; while [ ! -e /safe_outputs/go ]; do sleep 0.05; done; {JOB}");
    let mut command = host.ces();
    command.args(["rehearse", "-e", &format!("CES_TEST={}", host.token()), "--timeout", "300s", "--json"]);
    command.arg(host.researcher().dir.join("report.json")).args(["localhost/rehearsal", "sh", "-c", &script]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("ces");
    wait_until("the payload runs", || host.named("outputs_").iter().any(|dir| dir.join("ready").exists()));
    let shell = children(Path::new("/proc")).into_iter().find(|dir| {
        let words = fs::read(dir.join("cmdline")).unwrap_or_default();
        words.starts_with(b"sh\0-c\0") && words.windows(marker.len()).any(|part| part == marker.as_bytes())
    });
    let shell = shell.expect("the payload's shell");
    let log = host.tmp().join("strace.log");
    let pid = shell.file_name().and_then(|name| name.to_str()).expect("a number").to_owned();
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-s", "4096", "-e", "trace=%file", "-p", &pid, "-o"])
        .arg(&log)
        .spawn()
        .expect("strace");
    // Attached it has looked at the shell's loop.
    wait_until("strace is there", || fs::metadata(&log).is_ok_and(|found| found.len() > 0));
    fs::write(host.outputs().join("go"), "").expect("a word to the payload");
    let ran = Ran::from(child.wait_with_output());
    strace.wait().expect("strace ends with the last process");
    let report = fs::read_to_string(host.home().join("report.json"));
    let report = report.unwrap_or_else(|e| panic!("no report ({e}): {ran:?}"));
    (fs::read_to_string(&log).expect("strace's log"), serde_json::from_str(&report).expect("JSON"))
}

#[test]
fn what_is_denied_is_told_as_strace_sees_it() {
    let Some(host) = host("rehearsal") else { return };
    if have("strace").is_none() {
        return;
    }
    let (log, report) = traced(&host);
    let (seen, told) = (denials(&log), told(&report));
    let must: Vec<_> = seen.iter().filter(|seen| !seen.is_untold()).collect();
    let missed: Vec<_> = must.iter().filter(|seen| !told.iter().any(|(path, error)| seen.is(path, error))).collect();
    let invented: Vec<_> = told.iter().filter(|(path, error)| !seen.iter().any(|seen| seen.is(path, error))).collect();
    eprintln!("{} denials, {} told: {} missed, {} invented", must.len(), told.len(), missed.len(), invented.len());
    assert!(must.len() > 1000, "{}", must.len());
    // Of a thousand, three may be missed.
    assert!(missed.len() * 1000 <= must.len() * 3 && invented.is_empty(), "{missed:#?}\ninvented: {invented:#?}");
    host.nothing_is_left();
}
