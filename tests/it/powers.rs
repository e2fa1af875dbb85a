//! Root's power: which files name it, what for, and in which functions.

use std::fmt::Write as _;
use std::path::Path;

use crate::architecture::{Source, code, has_word, holds, only_in, snippet, sources};

/// Words without which no function has root's power.
const WORDS: [&str; 4] = ["&Root", "as_root", "over_files", "acting_as"];

/// Where root's power is named, lent or taken, and what for. Everything else has the caller's rights and no more.
const POWER: [(&str, &str); 66] = [
    ("commands/finding.rs", "files that the policy names may be closed to users"),
    ("host/privilege.rs", "lends it"),
    ("host/site_dir.rs", "opens what root alone can change"),
    ("host/dirs.rs", "the site's directories"),
    ("host/cgroup.rs", "control groups are root's"),
    ("host/scheduling.rs", "takes what the caller chose to yield back"),
    ("host/unstoppable.rs", "starts a process of root's that continues this one"),
    ("stack/vulndb/place.rs", "vulnerability data is root's"),
    ("stack/kept.rs", "what was judged is root's"),
    ("policy/load.rs", "policy and approvals may be closed to users"),
    ("bundle/image_files.rs", "reads from layers, which are in the store"),
    ("bundle/safe_data.rs", "asks the kernel as the payload, who has fewer groups"),
    ("bundle/rootfs.rs", "the stage opens binds with the rights of who named them"),
    ("image/pull.rs", "how full the store is"),
    ("image/expand.rs", "what is decompressed is in the store"),
    ("image/source/registry.rs", "a certificate that the policy names"),
    ("image/store/mod.rs", "the store is root's"),
    ("image/store/check/mod.rs", "the store is root's"),
    ("image/store/facts.rs", "the store is root's"),
    ("image/store/image.rs", "the store is root's"),
    ("image/store/layer.rs", "the store is root's"),
    ("image/store/partial.rs", "the store is root's"),
    ("image/store/remove.rs", "the store is root's"),
    ("image/store/visibility.rs", "the store is root's"),
    ("image/store/workspace.rs", "the store is root's"),
    ("image/unpack/parent.rs", "starts the child that unpacks, writes its id maps"),
    ("run/process.rs", "ends processes with ids of the container"),
    ("run/user_namespace.rs", "makes namespaces with ids of others"),
    ("run/reown.rs", "makes layers in the store"),
    ("run/exec_client.rs", "the socket is in the journal's directory"),
    ("run/stage/in_child.rs", "mounts, for a bundle"),
    ("run/pipes.rs", "gives pipes to the container's user"),
    ("run/terminal/relay.rs", "opens the caller's own terminal once more, which sudo may have made"),
    ("run/supervisor/collect.rs", "gives files of the container's ids to the researcher"),
    ("run/supervisor/detach.rs", "the log is root's"),
    ("run/supervisor/enforced.rs", "looks at processes with ids of the container"),
    ("run/supervisor/exec_server.rs", "the socket is in the journal's directory"),
    ("run/supervisor/record/index.rs", "records are root's"),
    ("run/supervisor/job.rs", "the throw-away layer, and files of the container's ids"),
    ("run/supervisor/journal.rs", "what root obeys, root wrote"),
    ("run/supervisor/launch.rs", "control group, id maps, the check"),
    ("run/supervisor/record/pending.rs", "the end of a record, in the journal's directory"),
    ("run/supervisor/ports.rs", "another's socket is removed with that other's rights"),
    ("run/supervisor/probe.rs", "tries what a run does, for doctor"),
    ("run/supervisor/quota.rs", "quotactl(2)"),
    ("run/supervisor/outputs/reading.rs", "takes the process that hashes into the run's control group"),
    ("run/supervisor/record.rs", "records are root's"),
    ("run/supervisor/spawn.rs", "starts the stage process"),
    ("run/supervisor/supervise.rs", "signals the container"),
    ("run/supervisor/sweep.rs", "journals and control groups of dead runs"),
    ("run/supervisor/watch.rs", "counts files of the container's ids"),
    ("commands/bounds.rs", "quotactl(2)"),
    ("commands/bundle.rs", "copies layers, gives files to the container's ids"),
    ("commands/context.rs", "reads the policy, opens the site's directories"),
    ("commands/doctor.rs", "tries what a run does"),
    ("commands/elevate.rs", "reads the policy"),
    ("commands/facts.rs", "reads the approvals"),
    ("commands/policy.rs", "reads the policy"),
    ("commands/prepare.rs", "reads files of the image, asks for the store's disk"),
    ("commands/pull.rs", "layers of an ordinary user's own"),
    ("commands/pull_outlook.rs", "reads the approvals"),
    ("commands/ps.rs", "journals, records, signals"),
    ("commands/stack_verdict.rs", "reads the site's waivers"),
    ("commands/stack.rs", "reads the approvals"),
    ("commands/stack_approved.rs", "reads the approvals"),
    ("commands/stack_gate.rs", "looks at vulnerability data and waivers"),
];

/// The same for what is the record's.
const RECORDS: [(&str, &str); 31] = [
    ("commands/outputs_prune.rs", "records are root's"),
    ("commands/records_prune.rs", "records are root's"),
    ("commands/runs.rs", "records are root's"),
    ("run/supervisor/record/retention.rs", "records are root's"),
    ("commands/export.rs", "signs with the key of the audit log"),
    ("commands/export/copies.rs", "opens outputs as whose they are"),
    ("commands/month.rs", "records and the audit log are root's"),
    ("evidence/envelope.rs", "its key is root's"),
    ("commands/listed.rs", "lists of outputs are root's"),
    ("precheck/parent.rs", "starts the process that looks, writes its id map"),
    ("commands/precheck.rs", "opens outputs as whose they are, keeps reports beside records"),
    ("approval/file.rs", "the list of approved images is root's"),
    ("approval/requests.rs", "requests are root's to read"),
    ("commands/approve.rs", "the list of approved images is root's"),
    ("commands/image_request.rs", "requests are root's to read"),
    ("evidence/log.rs", "the audit log is root's"),
    ("evidence/check.rs", "the audit log is root's"),
    ("evidence/checkpoint.rs", "its key is root's"),
    ("evidence/proof.rs", "the audit log is root's"),
    ("run/supervisor/record/beside.rs", "records are root's"),
    ("commands/rerun.rs", "records are root's"),
    ("commands/audit.rs", "the audit log is root's"),
    ("commands/events.rs", "the audit log is root's"),
    ("commands/logs.rs", "logs are root's"),
    ("commands/records.rs", "records are root's"),
    ("commands/run.rs", "starts the stage process, writes the record"),
    ("commands/run_plan.rs", "layers of an ordinary user's own"),
    ("commands/run_record.rs", "writes the record"),
    ("commands/rehearse.rs", "rehearsals are kept beside records"),
    ("commands/ticket.rs", "rehearsals are kept beside records"),
    ("commands/verify.rs", "records are root's"),
];

/// Which files may change the ids of a process, and why.
const IDS: [(&str, &str); 6] = [
    ("host/privilege.rs", "through sudo, the researcher by default"),
    ("run/user_namespace.rs", "root of a namespace of its own"),
    ("run/stage/mod.rs", "the project's group alone"),
    ("run/container/exec.rs", "another user of the container"),
    ("host/confine.rs", "root of a namespace of its own"),
    ("run/stage/witness/calls.rs", "names a payload's calls, and makes none"),
];

fn power(sources: &[Source]) -> Vec<String> {
    let files: Vec<&str> = POWER.iter().chain(&RECORDS).map(|(file, _)| *file).collect();
    let shipped: Vec<Source> = sources
        .iter()
        .filter(|source| !source.path.ends_with("tests.rs"))
        .map(|source| Source {
            path: source.path.clone(),
            text: source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().to_owned(),
        })
        .collect();
    let mut broken = only_in(&shipped, &WORDS, &files);
    let ids = ["seteuid", "setegid", "setresuid", "setresgid", "setgroups(", "setuid(", "setgid("];
    let ids = [&ids[..], &["set_thread_res_uid", "set_thread_res_gid", "set_thread_groups"]].concat();
    broken.extend(only_in(&shipped, &ids, &IDS.map(|(file, _)| file)));
    broken
}

#[test]
fn roots_power_is_named_in_listed_files_alone() {
    let sources = sources();
    holds(&power(&sources));
    // A list that is longer than it need be lets something in one day.
    for (file, why) in POWER.iter().chain(&RECORDS) {
        let source = sources.iter().find(|source| source.path == *file).unwrap_or_else(|| panic!("{file} is gone"));
        assert!(code(&source.text).any(|(_, line)| WORDS.iter().any(|word| has_word(line, word))), "{file}: {why}");
    }
    assert_eq!(power(&snippet("text.rs", "    as_root(|root| remove(root))")).len(), 1);
    assert_eq!(power(&snippet("commands/images.rs", "fn f(_: &Root) {}")).len(), 1);
    assert_eq!(power(&snippet("commands/images.rs", "    seteuid(Uid::from_raw(0))?;")).len(), 1);
}

/// The functions of a file that borrow root's power, or must be given it.
fn functions(source: &Source) -> Vec<&str> {
    let shipped = source.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let (mut within, mut found) = ("", Vec::new());
    for (_, line) in code(shipped) {
        let declared = line.split_once("fn ").filter(|(before, _)| {
            before
                .split_whitespace()
                .all(|word| word.starts_with("pub") || ["const", "super)", "crate)"].contains(&word))
        });
        if let Some((_, rest)) = declared {
            within = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        }
        let is_use = line.trim_start().starts_with("use ") || line.trim_start().starts_with("pub use ");
        if !is_use && !within.is_empty() && WORDS.iter().any(|word| has_word(line, word)) && !found.contains(&within) {
            found.push(within);
        }
    }
    found
}

/// The page of the documentation.
fn page() -> String {
    let sources = sources();
    let mut page = "# Where root's power is used

Through sudo `ces` is the researcher, and borrows root's power where it cannot do without (`host/privilege.rs`). These are all the places: the
functions that borrow it or must be given it, and why the researcher's own rights would not do. A test compares this list with the source, and
refuses the power's name in any other file. As root itself the same functions have the power all the time; for an ordinary user there is none.

| file below `src/` | functions | why |
| --- | --- | --- |
"
    .to_owned();
    for (file, why) in POWER.iter().chain(&RECORDS) {
        let source = sources.iter().find(|source| source.path == *file).unwrap();
        let functions: Vec<_> = functions(source).into_iter().map(|name| format!("`{name}`")).collect();
        writeln!(page, "| `{file}` | {} | {why} |", functions.join(", ")).unwrap();
    }
    page.push_str(
        "\nThe ids of a process are changed in these files alone:\n\n| file below `src/` | why |\n| --- | --- |\n",
    );
    for (file, why) in IDS {
        writeln!(page, "| `{file}` | {why} |").unwrap();
    }
    page
}

#[test]
fn the_documentation_lists_every_function_with_roots_power() {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/privileges.md");
    let page = page();
    if std::env::var_os("CES_REWRITE_GOLDEN").is_some() {
        std::fs::write(&at, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&at).unwrap(), page, "CES_REWRITE_GOLDEN=1 writes it anew");
}
