//! Real programs in a rehearsal: each gives the findings that it must, and no other.

use std::fs;

use crate::support::{Host, fixtures, skip};

/// A host with an image of `scripts/rehearsal-image`.
pub fn host(tag: &str) -> Option<Host> {
    let layout = fixtures().join("rehearsal");
    if !fs::read_to_string(layout.join("index.json")).is_ok_and(|text| text.contains(&format!("\"{tag}\""))) {
        return skip("the image is not there: run scripts/rehearsal-image target/fixtures/rehearsal");
    }
    let host = Host::new()?;
    host.pull(&layout, tag);
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
    ("ls -lR /usr/share > /safe_outputs/list; find /usr/lib -name 'h*' -readable > /dev/null", &[]),
    ("find /etc -name 'h*' > /dev/null", &[("fails", "path", "/etc/ssl/private")]),
    ("tar -C /usr/share -cf /safe_outputs/t.tar base-files && tar -C /scratch -xf /safe_outputs/t.tar", &[]),
];

/// The same of the larger image.
const LARGE: &[Row] = &[
    // A warning, and no error of R's.
    (
        "Rscript -e \"install.packages('survival', repos = 'http://cran.example', lib = '/scratch')\"",
        &[("missed", "name", "cran.example")],
    ),
    ("Rscript -e \"readLines(url('http://data.example/x'))\"", &[("fails", "name", "data.example")]),
    ("java -cp /opt/fetch Fetch http://api.example/", &[("fails", "name", "api.example")]),
    ("python3 -c \"import requests; requests.get('http://api.example/')\"", &[("fails", "name", "api.example")]),
    (
        "HF_ENDPOINT=http://huggingface.example python3 -c \"from huggingface_hub import hf_hub_download as get; get('lab/model', 'config.json')\"",
        &[("fails", "name", "huggingface.example")],
    ),
    (NOTEBOOK_THAT_FETCHES, &[("fails", "name", "data.example")]),
    // What lacks nothing.
    (NOTEBOOK, &[]),
    (
        "Rscript -e \"x <- rnorm(100); write.csv(summary(lm(x ~ seq_along(x)))\\$coefficients, '/safe_outputs/fit.csv')\"",
        &[],
    ),
    (DATABASE, &[]),
];

const NOTEBOOK: &str = r#"python3 -c "
import nbformat.v4 as v4, nbclient
book = v4.new_notebook(cells=[v4.new_code_cell('1 + 1')])
assert '2' in str(nbclient.NotebookClient(book).execute().cells[0].outputs)""#;

const NOTEBOOK_THAT_FETCHES: &str = r#"python3 -c "
import nbformat.v4 as v4, nbclient
cell = v4.new_code_cell('import urllib.request as u; u.urlopen(\"http://data.example/x\")')
nbclient.NotebookClient(v4.new_notebook(cells=[cell])).execute()""#;

/// `pg_ctl` knocks at the port until the server listens there.
const DATABASE: &str = "set -e; export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) PGDATA=/scratch/db PGHOST=127.0.0.1
    initdb -A trust > /scratch/log; pg_ctl -w -l /scratch/log -o '-k /scratch -c listen_addresses=127.0.0.1' start
    psql -Atc 'select sum(n) from generate_series(1, 10) n' postgres; pg_ctl -w stop";

/// What a rehearsal of the command tells too little, or too much.
fn problems(host: &Host, image: &str, command: &str, expected: &[(&str, &str, &str)]) -> Vec<String> {
    let rehearsal = host.rehearse(&[image, "sh", "-c", command]);
    if rehearsal.report.is_null() {
        return vec![format!("{command}: no report")];
    }
    let all = rehearsal.all();
    let mut found: Vec<(&str, &str, &str)> = all
        .iter()
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().expect("a text");
            (text("verdict"), text("kind"), text("object"))
        })
        .filter(|(verdict, ..)| *verdict != "harmless")
        .collect();
    let mut wrong = Vec::new();
    for (verdict, kind, object) in expected {
        let at = found.iter().position(|(v, k, o)| v == verdict && k == kind && o.ends_with(object));
        match at {
            Some(at) => drop(found.remove(at)),
            None => wrong.push(format!("{command}: no {verdict} {kind} {object}")),
        }
    }
    wrong.extend(found.iter().map(|found| format!("{command}: false: {found:?}")));
    wrong
}

fn holds(tag: &str, table: &[Row]) {
    let Some(host) = host(tag) else { return };
    let image = format!("localhost/{tag}");
    let all = table.iter().flat_map(|(command, expected)| problems(&host, &image, command, expected));
    let wrong: Vec<String> = all.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.nothing_is_left();
}

#[test]
fn real_programs_give_the_findings_they_must_and_no_false_one() {
    holds("rehearsal", TABLE);
}

#[test]
fn languages_notebooks_and_a_database_give_the_findings_they_must_and_no_false_one() {
    holds("rehearsal-large", LARGE);
}
