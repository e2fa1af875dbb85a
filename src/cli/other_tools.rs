//! What users of podman, docker, apptainer and EPCC's tools type, and how `ces` says it.
//!
//! Takes clap's error; gives an error with a hint where the word is one of theirs; trusts nothing; refuses nothing itself. A word of
//! another tool is not understood silently: what it would do there is seldom quite what `ces` does.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of other tools: their words, and what to type instead.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["image"], "ces images lists them, ces rmi IMAGE removes one, ces inspect IMAGE shows one"),
    (&["load", "import"], "ces pull docker-archive:FILE, oci-archive:FILE or oci:DIR"),
    (
        &["build", "buildx", "commit"],
        "images are built outside the TRE; ces rehearse docker-archive:FILE tests one there",
    ),
    (
        &["push", "save", "tag"],
        "ces sends nothing anywhere; a local image gets its name when it is pulled: ces pull --name NAME SOURCE",
    ),
    (&["rm"], "a run leaves no container behind: there is nothing to remove; ces runs lists past runs"),
    (&["kill"], "ces stop -t 0 ID"),
    (&["wait", "attach"], "ces logs -f ID prints the output of a detached run until it ends"),
    (&["login"], "ces pull --username USER --password-stdin IMAGE < TOKEN-FILE; ces keeps no passwords"),
    (&["logout"], "ces keeps no passwords: there is nothing to log out of"),
    (&["shell"], "ces run -it IMAGE bash"),
    (
        &["start", "create", "restart", "instance"],
        "ces run -d --name NAME IMAGE starts a run in the background; ces ps lists what runs",
    ),
    (&["pause", "unpause"], "a run cannot be paused; ces stop ID ends it"),
    (&["top", "stats"], "ces ps lists what runs; ces show ID shows what a run used"),
    (
        &["cp", "copy"],
        "put files into /safe_outputs in the container: they stay in ~/outputs_ID; ces outputs prints where",
    ),
    (&["history"], "ces inspect IMAGE"),
    (&["search"], "ces does not search registries; name the image: ces pull ghcr.io/NS/NAME:TAG"),
    (
        &["info", "system"],
        "ces doctor checks this host, ces policy show prints its rules, ces prune frees unused layers",
    ),
    (&["container", "pod"], "ces ps lists what runs, ces runs what ran"),
    (
        &["volume", "network", "secret"],
        "runs have no volumes of their own, no network and no secrets; -v binds a directory where the policy allows it",
    ),
    (&["cache"], "ces prune frees unused layers"),
    (&["sif", "sign"], "ces runs OCI images: ces pull docker-archive:FILE"),
];

/// Options of other tools for a run.
const OPTIONS: &[(&[&str], &str)] = &[
    (&["--bind", "-B"], "-v SRC:DST[:ro], where the policy allows it"),
    (&["--nv", "--rocm"], "--gpu"),
    (&["--pwd"], "-w DIR"),
    (
        &["--containall", "--contain", "--cleanenv", "--no-home"],
        "leave it out: a run is isolated from the host in any case",
    ),
    (&["--writable-tmpfs", "--writable"], "leave it out: what a run writes over its image is gone after it"),
    (&["--fakeroot"], "--profile service, for images that start as root and drop to another user"),
];

fn found(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    table.iter().find(|(words, _)| words.contains(&word)).map(|(_, hint)| *hint)
}

/// The error in the words of `ces`, where what was typed is another tool's.
pub fn explain(error: &clap::Error) -> Option<String> {
    let said = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = said(ContextKind::InvalidSubcommand)?;
            let hint = found(COMMANDS, word)?;
            Some(format!("error: ces has no command `{word}`\nhint: {hint}\n"))
        }
        ErrorKind::UnknownArgument => {
            let word = said(ContextKind::InvalidArg)?.split('=').next()?;
            // `ps` lists what runs, and `runs` what ran: podman has one word for both.
            if matches!(word, "-a" | "--all") {
                return Some(format!(
                    "error: ces has no option `{word}` here\nhint: ces runs lists past runs, ces ps what runs now\n"
                ));
            }
            let hint = found(OPTIONS, word)?;
            Some(format!("error: ces has no option `{word}`\nhint: {hint}\n"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn answer(line: &str) -> Option<String> {
        explain(&crate::cli::Cli::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn a_word_of_another_tool_is_answered_with_that_of_ces() {
        for (words, hint) in COMMANDS {
            for word in *words {
                assert_eq!(
                    answer(&format!("ces {word} x")),
                    Some(format!("error: ces has no command `{word}`\nhint: {hint}\n"))
                );
            }
        }
        for (words, hint) in OPTIONS {
            for word in *words {
                let want = Some(format!("error: ces has no option `{word}`\nhint: {hint}\n"));
                assert_eq!(answer(&format!("ces run {word} img")), want);
            }
        }
        assert!(answer("ces ps -a").unwrap().contains("ces runs"));
        assert_eq!(answer("ces inspekt x"), None);
    }
}
