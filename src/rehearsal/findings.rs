//! From observations to findings, each with a verdict and what to do.
//!
//! Takes what the witness saw and how the payload ended; gives findings, the worst first; trusts the bounds of the observations;
//! refuses nothing.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::advice::{About, Advice, Entry};
use crate::policy::units::show_size;
use crate::run::observations::{Address, Lost, LostFiles, Missed, Observations, Program, Running, Seen, Wanted};

/// What a finding comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It will fail inside; what was missed nearest the end of a payload that failed is probably why.
    Fails,
    /// What was written is gone with the container.
    Lost,
    /// It was wanted and not had, and the payload went on.
    Missed,
    /// Programs do without.
    Harmless,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What it comes to.
    pub verdict: Verdict,
    /// Its kind: `name`, `address`, `port`, `socket`, `program`, `path`, `absent`, `privilege`, `call`, `lost`, `running`.
    pub kind: &'static str,
    /// In words.
    pub what: String,
    /// The name, address, path or call itself.
    pub object: String,
    /// Programs.
    pub by: BTreeSet<String>,
    /// How often.
    pub times: u64,
    /// How long before the end the last was, in seconds.
    pub seconds_before_end: Option<f64>,
    /// What to do.
    pub fix: String,
    /// It is probably why the payload ended.
    pub probably_why: bool,
}

/// How many closed and absent paths are told.
const PATHS: usize = 20;

/// From observations; `failed`: the payload did not exit with 0.
pub fn from(advice: &Advice, seen: &Observations, lost_files: &LostFiles, failed: bool) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    found.extend(seen.names.iter().map(|name| of_name(advice, seen, name)));
    found.extend(seen.addresses.iter().filter_map(|address| of_address(advice, seen, address)));
    found.extend(seen.programs.iter().filter_map(|program| of_program(advice, seen, program)));
    found.extend(of_paths(advice, seen));
    found.extend(seen.privileges.iter().map(|wanted| {
        let fix = "set USER and a port above 1023 in the Dockerfile; an image that must start as root is run with --profile service; nothing opens raw sockets";
        finding(seen, wanted, Verdict::Missed, "privilege", format!("wanted {}", wanted.what), &wanted.what, fix)
    }));
    found.extend(seen.refused.iter().map(|refused| {
        let name = &refused.what.call;
        let known = advice.of(About::Call, &[name]);
        let verdict = verdict(known, Verdict::Missed);
        let fix = known.map_or("find out whether the program does without it", |entry| &entry.fix);
        let what = format!("called {name} ({}){}", errno(refused.what.errno.cast_signed()), meaning(known));
        finding(seen, refused, verdict, "call", what, name, fix)
    }));
    if failed {
        blame(&mut found, seen.elapsed);
    }
    found.extend(lost_files.lost.iter().map(|lost| of_lost(advice, lost)));
    found.sort_by(|a, b| {
        (a.verdict, !a.probably_why, a.kind, &a.object).cmp(&(b.verdict, !b.probably_why, b.kind, &b.object))
    });
    found
}

/// What still ran when the payload had ended.
pub fn of_running(running: &Running) -> Finding {
    let processes = if running.count == 1 { "1 process".to_owned() } else { format!("{} processes", running.count) };
    Finding {
        verdict: Verdict::Missed,
        kind: "running",
        what: format!("{processes} still ran at its end, and ended with it: {}", running.names),
        object: running.names.clone(),
        by: BTreeSet::new(),
        times: u64::from(running.count),
        seconds_before_end: Some(0.0),
        fix:
            "wait for them before the first program ends (in a shell: wait); what they had not written by then is gone"
                .to_owned(),
        probably_why: false,
    }
}

/// What was missed nearest the end of a payload that failed is probably why; installations fail in any case.
fn blame(found: &mut [Finding], elapsed: u64) {
    // In seconds; half of a short run, for what fails may take its time to end.
    let soon = f64::from(u32::try_from(elapsed / 2000).unwrap_or(u32::MAX)).clamp(5.0, 30.0);
    let near = |finding: &Finding| finding.seconds_before_end.filter(|_| finding.verdict == Verdict::Missed);
    let nearest = found.iter().filter(|finding| !matches!(finding.kind, "absent" | "program"));
    let nearest = nearest.filter_map(near).filter(|before| *before <= soon).min_by(f64::total_cmp);
    for finding in found.iter_mut().filter(|finding| finding.verdict == Verdict::Missed) {
        finding.probably_why = finding.seconds_before_end.is_some()
            && finding.seconds_before_end == nearest
            && !matches!(finding.kind, "absent" | "program");
        if finding.probably_why || finding.kind == "program" {
            finding.verdict = Verdict::Fails;
        }
    }
}

fn of_name(advice: &Advice, seen: &Observations, name: &Seen<String>) -> Finding {
    let known = advice.of(About::Name, &[&name.what]);
    let what = format!("looked up {}{}", name.what, meaning(known));
    let fix = known
        .map_or("there is no network inside: bring what it fetches into the image or into safe data", |entry| {
            &entry.fix
        });
    finding(seen, name, verdict(known, Verdict::Missed), "name", what, &name.what, fix)
}

fn of_address(advice: &Advice, seen: &Observations, address: &Seen<Address>) -> Option<Finding> {
    match &address.what {
        Address::Internet { host, port, loopback } => {
            let closed = seen.closed.iter().any(|closed| closed.what == *port && !is_answered(seen, closed));
            let known = advice.of(About::Port, &[&port.to_string()]);
            let (kind, what, other) = match (loopback, closed) {
                (true, false) => return None,
                (true, true) => (
                    "port",
                    format!("connected to its own port {port}, where nothing listens{}", meaning(known)),
                    "start the service in the same container, and wait until it listens",
                ),
                (false, _) => (
                    "address",
                    format!("connected to {host}, port {port}{}", meaning(known)),
                    "there is no network inside: bring what it fetches into the image or into safe data",
                ),
            };
            let fix = known.map_or(other, |entry| &entry.fix);
            let object = if *loopback { port.to_string() } else { format!("{host} {port}") };
            Some(finding(seen, address, verdict(known, Verdict::Missed), kind, what, &object, fix))
        }
        // Of others it is not known whether somebody listened: they may be the payload's own.
        Address::Socket(path) => {
            let known = advice.of(About::Socket, &[path])?;
            let what = format!("connected to the socket {path}{}", meaning(Some(known)));
            Some(finding(seen, address, verdict(Some(known), Verdict::Missed), "socket", what, path, &known.fix))
        }
    }
}

/// Whether a port of the loopback was connected to more often than it refused: somebody listened there at some time. A client may wait
/// for its server, try both families of `localhost`, or come once more when the server has ended.
fn is_answered(seen: &Observations, closed: &Seen<u16>) -> bool {
    let own =
        |address: &Address| matches!(address, Address::Internet { port, loopback: true, .. } if *port == closed.what);
    let connected = seen.addresses.iter().filter(|address| own(&address.what)).map(|address| address.times);
    connected.fold(0, u64::saturating_add) > closed.times
}

fn of_program(advice: &Advice, seen: &Observations, program: &Seen<Program>) -> Option<Finding> {
    let Program { path, args } = &program.what;
    let words: Vec<&str> = [path.as_str()].into_iter().chain(args.iter().skip(1).map(String::as_str)).collect();
    // What asks its own container is no transfer.
    let own = |word: &&str| ["://localhost", "://127.", "://[::1]"].iter().any(|own| word.contains(own));
    let known = advice.of(About::Program, &words).filter(|_| !words.iter().any(own))?;
    // As it was typed, if that is known.
    let line = if args.is_empty() { path.clone() } else { args.join(" ") };
    let line: String = line.chars().take(200).collect();
    let what = format!("executed {line}{}", meaning(Some(known)));
    Some(finding(seen, program, verdict(Some(known), Verdict::Missed), "program", what, &line, &known.fix))
}

/// Whether a path is not there, rather than closed.
pub fn is_absent(missed: &Missed) -> bool {
    matches!(missed.errno, libc::ENOENT | libc::ENOTDIR)
}

/// Paths that are closed, those of one directory together; of those that are not there, what is known to be looked for.
fn of_paths(advice: &Advice, seen: &Observations) -> Vec<Finding> {
    let mut closed: BTreeMap<(Wanted, i32, &str), Vec<&Seen<Missed>>> = BTreeMap::new();
    let mut found = Vec::new();
    for missed in &seen.missed {
        let path = missed.what.path.as_str();
        if is_absent(&missed.what) {
            // Every program looks for files in many places; what it does without is no finding.
            let Some(known) = advice.of(About::Path, &[path]).filter(|known| !known.harmless) else { continue };
            let what = format!("looked for {path}, which is not there{}", meaning(Some(known)));
            found.push(finding(seen, missed, verdict(Some(known), Verdict::Missed), "absent", what, path, &known.fix));
            continue;
        }
        let parent = path.rsplit_once('/').map_or(path, |(parent, _)| parent);
        closed.entry((missed.what.wanted, missed.what.errno, parent)).or_default().push(missed);
    }
    found.truncate(PATHS);
    for ((wanted, number, parent), all) in closed.into_iter().take(PATHS) {
        let Some(first) = all.iter().max_by_key(|missed| missed.last) else { continue };
        let path = first.what.path.as_str();
        let known = advice.of(About::Path, &[path]);
        let (verb, fix) = match wanted {
            Wanted::Look => ("look at", "give the image's user the right to enter the directory, in the Dockerfile"),
            Wanted::Read => {
                ("read", "give the image's user the right to read it, in the Dockerfile (RUN chmod a+rX …)")
            }
            Wanted::Write => ("write", "write results to /safe_outputs, temporary files to /scratch"),
            Wanted::Change => ("make or remove", "write results to /safe_outputs, temporary files to /scratch"),
            Wanted::Execute => ("execute", "make it executable in the Dockerfile (RUN chmod a+rx …)"),
            Wanted::Own => {
                ("change the owner or mode of", "set owners and modes in the Dockerfile (COPY --chown, RUN chmod)")
            }
        };
        let object = if all.len() == 1 { path.to_owned() } else { format!("{} files below {parent}/", all.len()) };
        let what = format!("wanted to {verb} {object} ({}){}", errno(number), meaning(known));
        let fix = known.map_or(fix, |entry| &entry.fix);
        let mut one = finding(seen, first, verdict(known, Verdict::Missed), "path", what, path, fix);
        one.times = all.iter().fold(0, |times: u64, missed| times.saturating_add(missed.times));
        found.push(one);
    }
    found
}

fn of_lost(advice: &Advice, lost: &Lost) -> Finding {
    // What a file lies in decides, where all that are named lie in it.
    let known_by = |path: &str| advice.of(About::Lost, &[path]);
    let known = lost.examples.iter().map(|path| known_by(path)).find(|known| known.is_none_or(|entry| !entry.harmless));
    let known = known.unwrap_or_else(|| known_by(lost.examples.first().map_or(&lost.below, |path| path)));
    let files = if lost.files == 1 { "1 file".to_owned() } else { format!("{} files", lost.files) };
    let harmless = known.is_some_and(|entry| entry.harmless);
    Finding {
        verdict: if harmless { Verdict::Harmless } else { Verdict::Lost },
        kind: "lost",
        what: format!("{files}, {} below {}: {}", show_size(lost.bytes), lost.below, lost.examples.join(", ")),
        object: lost.below.clone(),
        by: BTreeSet::new(),
        times: lost.files,
        seconds_before_end: None,
        fix: known.map(|entry| entry.fix.clone()).unwrap_or_default(),
        probably_why: false,
    }
}

fn finding<T>(
    all: &Observations,
    seen: &Seen<T>,
    verdict: Verdict,
    kind: &'static str,
    what: String,
    object: &str,
    fix: &str,
) -> Finding {
    let before = u32::try_from(all.elapsed.saturating_sub(seen.last)).unwrap_or(u32::MAX);
    Finding {
        verdict,
        kind,
        what,
        object: object.to_owned(),
        by: seen.by.clone(),
        times: seen.times,
        seconds_before_end: Some(f64::from(before) / 1000.0),
        fix: fix.to_owned(),
        probably_why: false,
    }
}

fn verdict(known: Option<&Entry>, other: Verdict) -> Verdict {
    if known.is_some_and(|entry| entry.harmless) { Verdict::Harmless } else { other }
}

fn meaning(known: Option<&Entry>) -> String {
    known.map_or_else(String::new, |entry| format!(" ({})", entry.means))
}

fn errno(number: i32) -> String {
    format!("{:?}", Errno::from_raw(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::observations::Refused;

    fn seen<T>(what: T, last: u64) -> Seen<T> {
        Seen { what, by: BTreeSet::from(["python3.11".to_owned()]), times: 2, first: 1, last }
    }

    fn program(line: &str) -> Program {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Program { path: format!("/usr/bin/{}", args[0]), args }
    }

    fn observed() -> Observations {
        Observations {
            names: vec![seen("cdn.huggingface.example".to_owned(), 9_900), seen("pypi.example".to_owned(), 2_000)],
            addresses: vec![
                seen(Address::Internet { host: "127.0.0.1".to_owned(), port: 5432, loopback: true }, 100),
                seen(Address::Internet { host: "127.0.0.1".to_owned(), port: 8080, loopback: true }, 100),
                seen(Address::Internet { host: "127.0.0.1".to_owned(), port: 9090, loopback: true }, 100),
                seen(Address::Internet { host: "::1".to_owned(), port: 9090, loopback: true }, 100),
                seen(Address::Socket("/run/docker.sock".to_owned()), 100),
                seen(Address::Socket("/tmp/own.sock".to_owned()), 100),
            ],
            closed: vec![seen(5432, 100), seen(9090, 200)],
            programs: ["pip3 install -q lifelines", "ls /tmp", "curl http://localhost:8080/health"]
                .map(|line| seen(program(line), 3_000))
                .into(),
            refused: vec![
                seen(Refused { call: "clone3".to_owned(), errno: 38 }, 1),
                seen(Refused { call: "mount".to_owned(), errno: 1 }, 1),
            ],
            elapsed: 10_000,
            ..Observations::default()
        }
    }

    fn judged(seen: &Observations, failed: bool) -> Vec<(Verdict, &'static str, String)> {
        let found = from(&Advice::load().unwrap(), seen, &LostFiles::default(), failed);
        found.into_iter().map(|finding| (finding.verdict, finding.kind, finding.object)).collect()
    }

    #[test]
    fn of_a_payload_that_failed_the_last_thing_missed_is_probably_why_and_of_another_nothing_is() {
        let fails = |failed| {
            let all = judged(&observed(), failed);
            all.into_iter()
                .filter(|(verdict, ..)| *verdict == Verdict::Fails)
                .map(|(_, kind, _)| kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(fails(true), ["name", "program"]);
        assert!(fails(false).is_empty());
    }

    #[test]
    fn what_is_the_payloads_own_is_no_finding_and_what_programs_do_without_is_harmless() {
        let all = judged(&observed(), false);
        let objects: Vec<&str> = all.iter().map(|(_, _, object)| object.as_str()).collect();
        for there in ["5432", "/run/docker.sock", "mount", "pypi.example", "pip3 install -q lifelines"] {
            assert!(objects.contains(&there), "{there}: {objects:?}");
        }
        // The last: by one family refused, and answered by the other.
        for own in ["8080", "/tmp/own.sock", "ls /tmp", "curl http://localhost:8080/health", "9090"] {
            assert!(!objects.contains(&own), "{own}: {objects:?}");
        }
        assert!(all.contains(&(Verdict::Harmless, "call", "clone3".to_owned())));
    }

    #[test]
    fn closed_paths_of_one_directory_are_told_together_and_absent_ones_if_they_are_known() {
        let missed = |path: &str, wanted, errno| seen(Missed { path: path.to_owned(), wanted, errno }, 5_000);
        let mut all: Vec<_> =
            (0..1000).map(|n| missed(&format!("/opt/out/{n}"), Wanted::Write, libc::EACCES)).collect();
        all.push(missed("/dev/nvidia0", Wanted::Look, libc::ENOENT));
        all.push(missed("/usr/lib/none.so", Wanted::Read, libc::ENOENT));
        let observed = Observations { missed: all, elapsed: 10_000, ..Observations::default() };
        let found = from(&Advice::load().unwrap(), &observed, &LostFiles::default(), false);
        let words: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            words,
            [
                "looked for /dev/nvidia0, which is not there (a GPU)",
                "wanted to write 1000 files below /opt/out/ (EACCES)"
            ]
        );
        assert_eq!(found[1].times, 2000);
    }

    #[test]
    fn results_are_lost_and_caches_are_not_missed() {
        let lost = |below: &str, example: &str| Lost {
            below: below.to_owned(),
            files: 1,
            bytes: 8000,
            examples: vec![example.to_owned()],
        };
        let lost_files = LostFiles {
            lost: vec![
                lost("/home/me", "/home/me/results.csv"),
                lost("/home/you", "/home/you/.cache/x"),
                lost("/tmp", "/tmp/x"),
            ],
            ..LostFiles::default()
        };
        let found = from(&Advice::load().unwrap(), &Observations::default(), &lost_files, false);
        let verdicts: Vec<_> = found.iter().map(|finding| (finding.object.as_str(), finding.verdict)).collect();
        assert_eq!(
            verdicts,
            [("/home/me", Verdict::Lost), ("/home/you", Verdict::Harmless), ("/tmp", Verdict::Harmless)]
        );
        assert!(!super::super::report::ready(0, &found, false));
        assert!(super::super::report::ready(0, &found[1..], true));
        assert!(!super::super::report::ready(1, &[], false));
    }
}
