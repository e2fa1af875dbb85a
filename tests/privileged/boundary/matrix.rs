//! Every verb with every option that names a place, each given what is not the caller's, and what is no file: it ends soon, is
//! refused or does no harm, changes nothing outside and tells nothing.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::support::attack::{Attack, Swapper};
use crate::support::callers::OTHER_ID;

/// What a word of a command line names.
struct Case {
    what: &'static str,
    at: PathBuf,
    /// Whether a call may well do something with it.
    usable: bool,
    /// What exchanges it meanwhile.
    swap: Option<(PathBuf, PathBuf)>,
}

fn cases(attack: &Attack) -> Vec<Case> {
    let own = attack.desk.owner();
    let home = |name: &str| attack.home(name);
    attack.link(Path::new("/root/secret.txt"), &home("to-root-file"));
    attack.link(Path::new("/root"), &home("to-root"));
    attack.link(&attack.others("secret.txt"), &home("to-other-file"));
    attack.link(&attack.others(""), &home("to-other"));
    attack.link(&attack.others("made-by-the-first"), &home("dangling-to-other"));
    attack.link(Path::new("/root/made-by-the-first"), &home("dangling-to-root"));
    attack.directory(&home("in-link"), (own, own), 0o755);
    attack.link(&attack.others(""), &home("in-link/sub"));
    let fifo = home("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    chown(&fifo, Some(own), Some(own)).unwrap();
    attack.file(&home("raced"), "A=1", (own, own), 0o600);
    attack.link(&attack.others("open.txt"), &home("raced-with"));
    attack.directory(&home("raced-dir"), (own, own), 0o755);
    attack.link(Path::new("/root"), &home("raced-dir-with"));
    let case = |what, at| Case { what, at, usable: false, swap: None };
    vec![
        case("a link to root's private file", home("to-root-file")),
        case("a link to root's home", home("to-root")),
        case("a link to another's private file", home("to-other-file")),
        case("a link to another's home", home("to-other")),
        case("a link to what another does not have", home("dangling-to-other")),
        case("a link to what root does not have", home("dangling-to-root")),
        case("a file behind a link to another's home", home("in-link/sub/secret.txt")),
        case("root's private file", PathBuf::from("/etc/shadow")),
        case("root's directory", PathBuf::from("/root")),
        case("the site's records", PathBuf::from("/var/log/ces/runs.idx")),
        case("the site's store", PathBuf::from("/var/lib/ces")),
        case("another's directory", attack.others("")),
        case("another project's data", attack.data("pb")),
        case("a fifo that nobody opens", fifo),
        Case { usable: true, ..case("a device that is full", PathBuf::from("/dev/full")) },
        Case { usable: true, ..case("a device without an end", PathBuf::from("/dev/zero")) },
        case("a process's memory", PathBuf::from("/proc/1/mem")),
        Case {
            usable: true,
            swap: Some((home("raced"), home("raced-with"))),
            ..case("a file exchanged", home("raced"))
        },
        Case {
            usable: true,
            swap: Some((home("raced-dir"), home("raced-dir-with"))),
            ..case("a directory exchanged", home("raced-dir"))
        },
    ]
}

/// A call with `AT` in the place of the name.
const CALLS: [(&str, &[&str]); 28] = [
    ("run --env-file", &["run", "--env-file", "AT", "localhost/demo", "true"]),
    ("run --arg-file", &["run", "--arg-file", "AT", "localhost/demo", "true"]),
    ("run --opt-file", &["run", "--opt-file", "AT", "localhost/demo", "true"]),
    ("run --json-summary", &["run", "--json-summary", "AT", "localhost/demo", "true"]),
    ("run -v", &["run", "-v", "AT:/mnt", "localhost/demo", "true"]),
    ("run -v file", &["run", "-v", "AT/secret.txt:/mnt:ro", "localhost/demo", "cat", "/mnt"]),
    ("run --mount", &["run", "--mount", "type=bind,source=AT,destination=/mnt", "localhost/demo", "ls", "/mnt"]),
    ("run -p", &["run", "-p", "unix:AT:80", "localhost/demo", "true"]),
    ("run -p in", &["run", "-p", "unix:AT/made.sock:80", "localhost/demo", "true"]),
    ("spec --env-file", &["spec", "--env-file", "AT", "localhost/demo"]),
    ("explain --opt-file", &["policy", "explain", "--opt-file", "AT", "localhost/demo"]),
    ("policy check", &["policy", "check", "AT"]),
    ("man", &["man", "AT"]),
    ("man in", &["man", "AT/made"]),
    ("bundle", &["bundle", "localhost/demo", "AT"]),
    ("bundle in", &["bundle", "localhost/demo", "AT/made"]),
    ("bundle --env-file", &["bundle", "--env-file", "AT", "localhost/demo", "made-bundle"]),
    ("pull oci", &["pull", "oci:AT"]),
    ("pull oci-archive", &["pull", "oci-archive:AT"]),
    ("pull docker-archive", &["pull", "docker-archive:AT"]),
    ("pull --creds", &["pull", "--creds", "AT", "127.0.0.1:9/lab/tool:1"]),
    ("--call-file", &["--call-file", "AT"]),
    ("--root", &["--root", "AT", "ps"]),
    ("rehearse --data", &["rehearse", "--data", "AT", "localhost/demo", "true"]),
    ("rehearse --json", &["rehearse", "--json", "AT", "localhost/demo", "true"]),
    ("rehearse --markdown", &["rehearse", "--markdown", "AT", "localhost/demo", "true"]),
    ("rehearse --rules", &["rehearse", "--rules", "AT", "localhost/demo", "true"]),
    ("rehearse an archive", &["rehearse", "docker-archive:AT", "true"]),
];

/// Calls in the list from `first` on, each with every case; what went wrong, all of it.
fn matrix(calls: &[(&str, &[&str])]) {
    let Some(attack) = Attack::new() else { return };
    attack.policy("[mounts]\nallow = [{ host = \"~\", access = \"rw\" }]\n");
    let cases = cases(&attack);
    let mut wrong = Vec::new();
    for (name, words) in calls {
        for case in &cases {
            let canary = attack.canary();
            let swapper: Option<Swapper> = case.swap.as_ref().map(|(a, b)| attack.swapper(a, b));
            let at = case.at.display().to_string();
            let words: Vec<String> = words.iter().map(|word| word.replace("AT", &at)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match attack.ends(attack.desk.command(&words)) {
                Err(said) => wrong.push(format!("{name} {}: {said}", case.what)),
                // An empty source of arguments, an oversized one, a directory of one's own: whatever it is, it is harmless.
                Ok(ran) if ran.code == Some(0) && !case.usable => wrong.push(format!("{name} {}: {ran:?}", case.what)),
                Ok(_) => {}
            }
            drop(swapper);
            let changes = canary.changes();
            if !changes.is_empty() {
                wrong.push(format!("{name} {}: {changes:?}", case.what));
            }
            mend(&attack, case);
        }
    }
    assert!(wrong.is_empty(), "{} wrong: {wrong:#?}", wrong.len());
}

/// What a call made, and what a killed swapper left the other way round.
fn mend(attack: &Attack, case: &Case) {
    fs::remove_dir_all(attack.home("made-bundle")).ok();
    let own = attack.desk.owner();
    if let Some((a, b)) = &case.swap {
        for at in [a, b] {
            fs::remove_file(at).or_else(|_| fs::remove_dir_all(at)).ok();
        }
        if a.ends_with("raced") {
            attack.file(a, "A=1", (own, own), 0o600);
            attack.link(&attack.others("open.txt"), b);
        } else {
            attack.directory(a, (own, own), 0o755);
            attack.link(Path::new("/root"), b);
        }
    }
    assert_ne!(own, OTHER_ID);
}

#[test]
fn files_that_a_run_is_made_of_are_read_with_the_callers_rights() {
    matrix(&CALLS[..4]);
}

#[test]
fn places_that_a_run_binds_or_listens_at_are_the_callers() {
    matrix(&CALLS[4..9]);
}

#[test]
fn files_of_what_only_looks_are_read_with_the_callers_rights() {
    matrix(&CALLS[9..14]);
}

#[test]
fn places_of_bundles_are_the_callers() {
    matrix(&CALLS[14..17]);
}

#[test]
fn sources_of_images_and_calls_are_read_with_the_callers_rights() {
    matrix(&CALLS[17..23]);
}

#[test]
fn places_of_a_rehearsal_are_the_callers() {
    matrix(&CALLS[23..]);
}
