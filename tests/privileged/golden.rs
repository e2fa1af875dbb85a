//! Tables and mistakes, word for word, as a researcher has them through sudo.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::callers::Desk;
use crate::support::golden::is_as_expected;
use crate::support::terminal::Terminal;
use crate::support::{Host, Ran};

const POLICY: &str = "contact = \"Information Governance, ext. 1234\"\n\
    [limits]\nmemory = { max = \"2G\", default = \"256M\" }\ncpus = { max = 1 }\n[mounts]\nallow = []\n";

/// What is another at each run: numbers, hexadecimal digits where there are many, and the blanks that follow from their widths.
fn steady(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if is_word(c) {
            word.push(c);
            continue;
        }
        let has_digit = word.bytes().any(|b| b.is_ascii_digit());
        let is_hex = word.len() >= 6 && has_digit && word.bytes().all(|b| b.is_ascii_hexdigit());
        let of_word = |c: char| {
            if is_hex {
                'x'
            } else if c.is_ascii_digit() {
                '0'
            } else {
                c
            }
        };
        // Six hexadecimal digits of an id may all be letters.
        let is_end_of_id = word.len() == 6 && out.ends_with("T0-");
        out.extend(word.chars().map(|c| if is_end_of_id { 'x' } else { of_word(c) }));
        // Of several digits or blanks one stays, two of blanks.
        while out.contains("00") {
            out = out.replace("00", "0");
        }
        if !(c == ' ' && out.ends_with("  ")) {
            out.push(c);
        }
        word.clear();
    }
    out.pop();
    out
}

/// The mistakes that people are likeliest to make: a name of the case, and what is typed.
const MISTAKES: [(&str, &str); 27] = [
    ("image-ls", "image ls"),
    ("rm", "rm tool"),
    ("ps-a", "ps -a"),
    ("kill", "kill tool"),
    ("login", "login ghcr.io"),
    ("build", "build ."),
    ("shell", "shell tool.sif"),
    ("typo", "runz"),
    ("typo-near-rmi", "rmii tool"),
    ("run-nothing", "run"),
    ("run-unknown", "run localhost/tool"),
    ("run-option-after-image", "run localhost/demo --memory 1g ls"),
    ("run-typo", "run --memroy 1g localhost/demo"),
    ("run-bad-size", "run --memory lots localhost/demo"),
    ("run-too-much", "run --memory 100g localhost/demo"),
    ("run-nv", "run --nv localhost/demo"),
    ("run-bind", "run --bind /data localhost/demo"),
    ("run-privileged", "run --privileged localhost/demo"),
    ("run-network", "run --network host localhost/demo"),
    ("run-volume", "run -v ./x:/x localhost/demo"),
    ("run-project", "run --project nobody localhost/demo"),
    ("run-not-found", "run localhost/demo no-such-program"),
    ("pull-no-registry", "pull ubuntu"),
    ("pull-token", "pull --creds me:TOKEN ghcr.io/lab/tool:1"),
    ("show-nothing", "show"),
    ("show-unknown", "show nobody"),
    ("outputs-prune", "outputs prune"),
];

#[test]
fn the_likeliest_mistakes_are_answered_as_it_was_read() {
    let Some(host) = Host::with_demo() else { return };
    host.policy(POLICY);
    for (name, line) in MISTAKES {
        let ran = Ran::from(host.ces().args(line.split_whitespace()).output());
        assert_ne!(ran.code, Some(0), "{line}: {ran:?}");
        assert!(!ran.stderr.contains("TOKEN ") && !ran.stderr.contains("me:TOKEN"), "{ran:?}");
        let answer = ran.stderr.replace(&host.researcher().dir.display().to_string(), "/home/ann");
        let answer = answer.replace(&host.researcher().name, "ann").replace(host.token(), "TOKEN");
        // What is another at each run is in what a run says of itself.
        let of_a_run = |line: &str| if line.starts_with("ces: run ") { steady(line) } else { line.to_owned() };
        let answer: String = answer.lines().map(|line| of_a_run(line) + "\n").collect();
        let text = format!("$ ces {line}\n{}{answer}[{}]\n", ran.stdout, ran.code.unwrap());
        is_as_expected(&format!("mistakes/{name}.txt"), &text);
    }
}

#[test]
fn tables_and_pages_are_as_they_were_read_and_fit_a_terminal_of_eighty_columns() {
    let Some(host) = Host::with_demo() else { return };
    host.policy(POLICY);
    let project = host.inside(Path::new("/safe_data"));
    assert!(project.is_dir() || fs::create_dir(&project).is_ok());
    host.run(&["--name", "first", "localhost/demo", "sh", "-c", "echo 12 > /safe_outputs/table.csv"]).exits(0);
    host.run(&["localhost/demo", "sh", "-c", "exit 3"]).exits(3);
    for (name, words) in [
        ("images", &["images"][..]),
        ("images.csv", &["images", "--format", "csv"]),
        ("runs", &["runs"]),
        ("runs.csv", &["runs", "--format", "csv"]),
        ("ps", &["ps"]),
        ("show", &["show", "first"]),
        ("outputs", &["outputs", "first"]),
        ("verify", &["verify", "first"]),
        ("policy-explain", &["policy", "explain", "localhost/demo"]),
    ] {
        let plain = |text: &str| {
            let text = text.replace(&host.researcher().dir.display().to_string(), "/home/ann");
            steady(&text.replace(&host.researcher().name, "ann").replace(&hostname(), "tre"))
        };
        let ran = Ran::from(host.ces().args(words).output());
        is_as_expected(&format!("tables/{name}.txt"), &plain(ran.exits(0)));
        let mut terminal = Terminal::start(host.ces().args(words));
        terminal.finish();
        let shown = terminal.all().replace("\r\n", "\n");
        let widest = shown.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= 80 || name.ends_with(".csv") || name == "outputs", "{name}: {widest}\n{shown}");
    }
}

#[test]
fn lists_of_approvals_requests_and_vulnerability_data_are_as_they_were_read_in_three_forms() {
    let list = "[[image]]\nname = \"ghcr.io/lab/tool:1.2\"\n\
        digest = \"sha256:5ae58d2b7cee0aa70713a48d37a09e7c5b421c01c62012db08547318811cfbd3\"\nprojects = [\"projx\"]\n\
        approver = \"officer\"\nexpires = 2999-12-31\nnote = \"for paper 3, and no other\"\n";
    let Some((desk, data)) = Desk::of_a_project(list) else { return };
    desk.host.policy(&format!(
        "contact = \"IG desk\"\n[data]\nroot = \"{}\"\n[images]\napproved = \"/etc/ces/approved.toml\"\n",
        data.display()
    ));
    desk.ces(&["request", "localhost/demo", "--project", "projx", "--reason", "=1+1, a table builder"]).exits(0);
    let record = json!({"id": "GHSA-0001", "modified": "2026-11-20T10:00:00Z", "affected": [{
        "package": {"ecosystem": "PyPI", "name": "torch"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.6.0"}]}],
    }]});
    let file = desk.host.home().join("ghsa.json");
    fs::write(&file, record.to_string()).unwrap();
    desk.root(&["vulndb", "import", file.to_str().unwrap()]).exits(0);
    for (name, verb) in [("approve", "approve list"), ("request", "request list"), ("vulndb", "vulndb list")] {
        let words: Vec<&str> = verb.split(' ').collect();
        let told = |more: &[&str]| desk.root(&[&words[..], more].concat()).exits(0).to_owned();
        let steady = |text: &str| steady(&text.replace(&desk.host.researcher().name, "ann"));
        is_as_expected(&format!("tables/{name}.txt"), &steady(&told(&[])));
        is_as_expected(&format!("tables/{name}.csv.txt"), &steady(&told(&["--format", "csv"])));
        let by_option = told(&["--json"]);
        assert_eq!(told(&["--format", "json"]), by_option);
        let all: Value = serde_json::from_str(&by_option).unwrap();
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        desk.root(&[&words[..], &["--format", "xml"]].concat()).refuses(2, &["table, json, csv"]);
        // Names alone, for scripts.
        let names = desk.root(&[&["-q"], &words[..]].concat());
        assert!(names.exits(0).lines().count() == 1 && !names.stdout.contains(' '), "{names:?}");
        let mut terminal = Terminal::start(desk.host.ces_as_root().args(&words));
        terminal.finish();
        let widest = terminal.all().lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
        assert!(widest <= 80, "{name}: {widest}\n{}", terminal.all());
    }
}

#[test]
fn doctor_asks_for_what_was_read_and_fits_a_terminal_of_eighty_columns() {
    let Some(host) = Host::with_demo() else { return };
    host.policy(POLICY);
    let ran = Ran::from(host.ces().args(["doctor", "--json"]).output());
    let found: Value = serde_json::from_str(ran.exits(0)).unwrap();
    // What is found is this host's; what is asked for is the same everywhere.
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = found["findings"].as_array().unwrap();
    let asked: String = findings.iter().map(|f| format!("{}: {}\n", text(f, "what"), text(f, "needed"))).collect();
    is_as_expected("tables/doctor.txt", &format!("{asked}{}\n", text(&found, "result")));
    let mut terminal = Terminal::start(host.ces().arg("doctor"));
    terminal.finish();
    let shown = terminal.all().replace("\r\n", "\n");
    let table: Vec<&str> = shown.lines().take_while(|line| !line.contains(": ") || line.starts_with(' ')).collect();
    assert!(shown.contains("enforced: the site's policy binds this caller"), "{shown}");
    assert!(!table.is_empty() && table.iter().all(|line| line.chars().count() <= 80), "{shown}");
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}
