//! What users of podman, docker, apptainer and EPCC's tools type, and how `ces` says it.
//!
//! Takes clap's error; gives an error with a hint where the word is one of theirs; trusts nothing; refuses nothing itself. A word of
//! another tool is not understood silently: what it would do there is seldom quite what `ces` does.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::policy::podman;

/// Commands of other tools: their words, and what to type instead.
const COMMANDS: &[(&[&str], &str)] = &[
    (&["image"], "ces images lists images, ces inspect IMAGE shows one, ces help lists the other commands"),
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
    (&["info", "system"], "ces doctor checks this host, ces policy show prints its rules"),
    (&["container", "pod"], "ces ps lists what runs, ces runs what ran"),
    (
        &["volume", "network", "secret"],
        "runs have no volumes of their own, no network and no secrets; -v binds a directory where the policy allows it",
    ),
    (&["cache"], "ces images lists what is stored; ces prune --dry-run prints what is unused"),
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

/// Commands that no guess proposes: what is deleted by a mistake in typing is gone.
const NEVER_GUESSED: [&str; 2] = ["rmi", "prune"];

/// The error of the command line in the form of all errors, with the word of `ces` where what was typed is another tool's. None for
/// what is no error (help, version), and for what clap says best.
pub fn explain(error: &clap::Error) -> Option<String> {
    let at = called(error);
    let help = format!("{at} --help shows its options and examples");
    let (what, hint) = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand)?;
            let own = if at == "ces" { found(COMMANDS, &word).map(str::to_owned) } else { None };
            let what = format!("{at} has no command `{word}`");
            let near = near(error, ContextKind::SuggestedSubcommand, |word| !NEVER_GUESSED.contains(&word));
            (what, own.or(near).unwrap_or_else(|| format!("{at} --help lists the commands")))
        }
        ErrorKind::UnknownArgument => {
            let word = text(error, ContextKind::InvalidArg)?;
            let word = word.split('=').next().unwrap_or_default();
            if !word.starts_with('-') {
                return Some(said(&format!("{at} does not take `{word}`"), &help));
            }
            // `ps` lists what runs, and `runs` what ran: podman has one word for both.
            if matches!(word, "-a" | "--all") {
                let hint = "ces runs lists past runs, ces ps what runs now";
                return Some(said(&format!("{at} has no option `{word}`"), hint));
            }
            let own = found(OPTIONS, word).map(str::to_owned);
            // What podman calls so is understood, and is not recommended.
            let is_own = |word: &str| !podman::OPTIONS.iter().any(|(long, ..)| word.strip_prefix("--") == Some(*long));
            (
                format!("{at} has no option `{word}`"),
                own.or(near(error, ContextKind::SuggestedArg, is_own)).unwrap_or(help),
            )
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = texts(error, ContextKind::InvalidArg)?;
            let names =
                missing.iter().map(|name| name.split([' ', '>']).next().unwrap_or_default().trim_start_matches('<'));
            (format!("{at} needs {}", names.collect::<Vec<_>>().join(" and ")), help)
        }
        ErrorKind::InvalidValue => {
            let option = text(error, ContextKind::InvalidArg)?;
            let option = option.split([' ', '=']).next().unwrap_or_default().to_owned();
            let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
            match (value.is_empty(), texts(error, ContextKind::ValidValue)) {
                (true, _) => (format!("{option} needs a value"), help),
                (false, Some(valid)) => {
                    (format!("{option} cannot be `{value}`"), format!("it is one of: {}", valid.join(", ")))
                }
                (false, None) => (format!("{option} cannot be `{value}`"), help),
            }
        }
        ErrorKind::ArgumentConflict => {
            let one = text(error, ContextKind::InvalidArg)?;
            let other = texts(error, ContextKind::PriorArg)?.join(", ");
            let name = |text: &str| text.split([' ', '=']).next().unwrap_or_default().to_owned();
            let what = if name(&one) == name(&other) {
                format!("{at}: {} is given twice", name(&one))
            } else {
                format!("{at}: {} and {} cannot be given together", name(&one), name(&other))
            };
            (what, help)
        }
        _ => return None,
    };
    Some(said(&what, &hint))
}

fn said(what: &str, hint: &str) -> String {
    format!("error: {what}\nhint: {hint}\n")
}

/// The command that did not understand: the words before the first option or value of its usage.
fn called(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let words = usage.split_whitespace().skip(1);
    let is_command = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') && !word.starts_with('-');
    let words: Vec<&str> = words.take_while(is_command).collect();
    if words.is_empty() { "ces".to_owned() } else { words.join(" ") }
}

fn texts(error: &clap::Error, kind: ContextKind) -> Option<Vec<String>> {
    match error.get(kind) {
        Some(ContextValue::String(word)) => Some(vec![word.clone()]),
        Some(ContextValue::Strings(words)) => Some(words.clone()),
        _ => None,
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    texts(error, kind)?.into_iter().next()
}

/// What may have been meant, of what is `proposed`.
fn near(error: &clap::Error, kind: ContextKind, proposed: impl Fn(&str) -> bool) -> Option<String> {
    let mut near: Vec<String> = texts(error, kind)?.into_iter().filter(|word| proposed(word)).collect();
    // clap has the likeliest last.
    near.reverse();
    near.truncate(3);
    let near: Vec<String> = near.iter().map(|word| format!("`{word}`")).collect();
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
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
                let want = Some(format!("error: ces run has no option `{word}`\nhint: {hint}\n"));
                assert_eq!(answer(&format!("ces run {word} img")), want);
            }
        }
        assert!(answer("ces ps -a").unwrap().contains("ces runs"));
    }

    #[test]
    fn what_is_not_understood_is_told_in_the_form_of_all_errors() {
        for (line, want) in [
            ("ces inspekt x", "error: ces has no command `inspekt`\nhint: did you mean `inspect` or `spec`?\n"),
            ("ces qqq", "error: ces has no command `qqq`\nhint: ces --help lists the commands\n"),
            ("ces policy shwo", "error: ces policy has no command `shwo`\nhint: did you mean `show`?\n"),
            ("ces run --memroy 1g img", "error: ces run has no option `--memroy`\nhint: did you mean `--memory`?\n"),
            ("ces show", "error: ces show needs ID\nhint: ces show --help shows its options and examples\n"),
            (
                "ces runs --state lost",
                "error: --state cannot be `lost`\nhint: it is one of: running, finished, refused, interrupted\n",
            ),
            (
                "ces images --json --format csv",
                "error: ces images: --json and --format cannot be given together\nhint: ces images --help shows its options and examples\n",
            ),
            ("ces runs --since", "error: --since needs a value\nhint: ces --help shows its options and examples\n"),
            (
                "ces doctor now",
                "error: ces doctor does not take `now`\nhint: ces doctor --help shows its options and examples\n",
            ),
        ] {
            assert_eq!(answer(line).as_deref(), Some(want), "{line}");
        }
        for line in ["ces --help", "ces run --help", "ces --version"] {
            assert_eq!(answer(line), None, "{line}");
        }
    }

    #[test]
    fn no_guess_deletes_anything_and_none_is_an_option_that_is_refused() {
        for line in ["ces runz", "ces rmii x", "ces prun", "ces pruen"] {
            let said = answer(line).unwrap();
            assert!(!said.contains("`rmi`") && !said.contains("`prune`"), "{said}");
        }
        for line in ["ces run --priviledged img", "ces run --netwrk host img", "ces run --cap-ad X img"] {
            let said = answer(line).unwrap();
            assert!(!said.contains("did you mean `--privileged`") && !said.contains("--network`"), "{said}");
            assert!(!said.contains("--cap-add`"), "{said}");
        }
    }
}
