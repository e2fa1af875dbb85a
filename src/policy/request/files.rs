//! Environment, argument and option files.
//!
//! Takes a file's text and its name; gives variables, arguments, words; trusts nothing; refuses what podman would refuse,
//! with the line. Nothing in any of them is executed or expanded.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::policy::request::usage;

/// Variables by name, in the order they first appear; later ones replace earlier ones.
pub type Variables = Vec<(String, String)>;

/// Sets a variable, replacing an earlier one of that name.
pub fn set(variables: &mut Variables, name: &str, value: &str) {
    match variables.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    }
}

/// Reads one `--env`: `NAME=value`; `NAME` takes the caller's value if there is one; `PREFIX*` takes all that begin so.
///
/// # Errors
/// When there is no name.
pub fn variable(text: &str, caller: &BTreeMap<String, String>, into: &mut Variables) -> Result<()> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    let name = name.trim_start_matches([' ', '\t']);
    // What was given is not shown: it may be a secret's value.
    let wrong = match (name.is_empty(), text.contains('\0')) {
        (_, true) => "an environment variable holds a NUL",
        (true, false) => "an environment variable has no name",
        (false, false) => "",
    };
    if !wrong.is_empty() {
        return Err(usage(wrong, "write NAME=value, or NAME alone"));
    }
    match value {
        Some(value) => set(into, name, value),
        None => match name.strip_suffix('*') {
            Some(prefix) => {
                for (name, value) in caller.iter().filter(|(name, _)| name.starts_with(prefix)) {
                    set(into, name, value);
                }
            }
            None => {
                if let Some(value) = caller.get(name) {
                    set(into, name, value);
                }
            }
        },
    }
    Ok(())
}

/// Reads an `--env-file` as podman does: a line is `NAME=value`, the value taken as it stands; `NAME` alone takes the
/// caller's value; lines that begin with `#` and blank lines are skipped. Gives warnings. They and errors name a line by its
/// number and at most a variable's name: what else is in such a file may be a secret, also where its form is wrong.
///
/// # Errors
/// When a line has no name, or holds a NUL.
pub fn env_file(
    text: &str,
    file: &str,
    caller: &BTreeMap<String, String>,
    into: &mut Variables,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (number, line) in lines(text) {
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        variable(line, caller, into)
            .map_err(|e| usage(format!("{file} line {number} is no variable"), "").because(e))?;
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.contains([' ', '\t']) {
            let what = if value.is_some() { "a blank is part of the name" } else { "there is a blank and no `=`" };
            warnings.push(format!("{file} line {number}: {what}; write NAME=value"));
        }
        if value.is_some_and(is_quoted) {
            let of = if is_variable_name(name) { name } else { "the variable" };
            warnings.push(format!("{file} line {number}: the quotes are part of the value of {of}"));
        }
    }
    Ok(warnings)
}

/// Whether it is a name that programs give variables (POSIX, 8.1), and not a part of something else.
pub fn is_variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_quoted(value: &str) -> bool {
    let value = value.trim();
    ['"', '\''].iter().any(|quote| value.len() > 1 && value.starts_with(*quote) && value.ends_with(*quote))
}

/// Reads an `--arg-file`: one argument a line, as it stands; blank lines are skipped.
///
/// # Errors
/// When a line holds a NUL.
pub fn arg_file(text: &str, file: &str) -> Result<Vec<String>> {
    let mut args = Vec::new();
    for (number, line) in lines(text).filter(|(_, line)| !line.trim().is_empty()) {
        if line.contains('\0') {
            return Err(usage(format!("{file} line {number} holds a NUL"), "an argument is text"));
        }
        args.push(line.to_owned());
    }
    Ok(args)
}

/// The words of an `--opt-file`, split as a shell would: blanks, quotes, `\`, comments, `\` at a line's end joins the
/// next. Nothing is expanded: `$HOME` stays text, which gives a warning.
///
/// # Errors
/// When a quote is not closed.
pub fn words(text: &str, file: &str) -> Result<(Vec<String>, Vec<String>)> {
    let (mut words, mut warnings) = (Vec::new(), Vec::new());
    let mut word: Option<String> = None;
    for (number, line) in lines(text) {
        let mut chars = line.chars().peekable();
        let mut joined = false;
        while let Some(c) = chars.next() {
            match c {
                ' ' | '\t' => words.extend(word.take()),
                '#' if word.is_none() => break,
                '\\' => match chars.next() {
                    Some(next) => word.get_or_insert_default().push(next),
                    None => joined = true,
                },
                '\'' => quoted(&mut chars, '\'', word.get_or_insert_default())
                    .ok_or_else(|| unclosed(file, number, '\''))?,
                '"' => {
                    quoted(&mut chars, '"', word.get_or_insert_default()).ok_or_else(|| unclosed(file, number, '"'))?
                }
                '$' | '`' => {
                    warnings.push(format!("{file} line {number}: `{c}` is taken as it stands, nothing is expanded"));
                    word.get_or_insert_default().push(c);
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        if !joined {
            words.extend(word.take());
        }
    }
    words.extend(word);
    Ok((words, warnings))
}

fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            c if c == quote => return Some(()),
            // Within double quotes a backslash counts before these alone (POSIX shell, 2.2.3).
            '\\' if quote == '"' => match chars.peek() {
                Some('"' | '\\' | '$' | '`') => word.extend(chars.next()),
                _ => word.push('\\'),
            },
            c => word.push(c),
        }
    }
}

fn unclosed(file: &str, number: usize, quote: char) -> crate::error::Error {
    usage(format!("{file} line {number} has a {quote} that is never closed"), "close it on the same line")
}

/// Lines with their numbers; an end of line may be CRLF, and the file may begin with a byte order mark.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate().map(|(at, line)| (at + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> BTreeMap<String, String> {
        [("LANG", "C.UTF-8"), ("OMP_NUM", "4"), ("OMP_BIND", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn an_environment_file_is_read_as_podman_reads_it() {
        let text = "# comment\r\n\r\nA=one two  \r\n  B=x=y\nLANG\nNOT_SET\nE=\nQ=\"q\"\nOMP_*\nA=again\n";
        let mut got = Variables::new();
        let warnings = env_file(text, "job.env", &caller(), &mut got).unwrap();
        let want = [
            ("A", "again"),
            ("B", "x=y"),
            ("LANG", "C.UTF-8"),
            ("E", ""),
            ("Q", "\"q\""),
            ("OMP_BIND", "x"),
            ("OMP_NUM", "4"),
        ];
        assert_eq!(got, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(warnings, ["job.env line 8: the quotes are part of the value of Q"]);
        let mut got = Variables::new();
        env_file("V=a b \n", "f", &caller(), &mut got).unwrap();
        assert_eq!(got, [("V".to_owned(), "a b ".to_owned())]);
        assert!(env_file("=x\n", "f", &caller(), &mut got).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn of_an_environment_file_nothing_but_names_is_told() {
        let said = |text: &str| match env_file(text, "f", &caller(), &mut Variables::new()) {
            Ok(warnings) => warnings.join("\n"),
            Err(error) => error.report(),
        };
        for text in [
            "PASSWORD: hunter2\n",
            "PASSWORD: hunter2=\n",
            "export PASSWORD=hunter2\n",
            "PASSWORD\thunter2 = \"hunter2\"\n",
            "PASSWORD:hunter2=\"x\"\n",
            "=hunter2\n",
            "PASSWORD=hunter2\0\n",
            "  = hunter2\n",
        ] {
            let said = said(&format!("# first\n{text}"));
            assert!(said.contains("f line 2") && !said.contains("hunter2"), "{text:?}: {said}");
        }
        assert!(said("PASSWORD: hunter2\n").contains("a blank and no `=`"));
        assert!(said("Q_1='q'\n").ends_with("of Q_1") && said("Q:1='q'\n").ends_with("of the variable"));
        let error = variable("=hunter2", &caller(), &mut Variables::new()).unwrap_err();
        assert!(!error.report().contains("hunter2"), "{error:?}");
    }

    #[test]
    fn an_argument_file_has_one_argument_a_line() {
        assert_eq!(arg_file("--n 5\r\n\n  two\n# three\n", "f").unwrap(), ["--n 5", "  two", "# three"]);
        assert!(arg_file("a\0b", "f").is_err());
    }

    #[test]
    fn an_option_file_is_split_as_a_shell_would_and_nothing_is_executed() {
        let text = "-p 8787:8787\r\n-it # terminal\n# all of it\n-e 'A=b c' -e \"D=\\\"e\\\" f\"\n-v \\\n ./x:/y\n-e P='a'\"b\"c\\ d\n-e EMPTY='' ''\n";
        let (got, warnings) = words(text, "opts").unwrap();
        let want = [
            "-p",
            "8787:8787",
            "-it",
            "-e",
            "A=b c",
            "-e",
            "D=\"e\" f",
            "-v",
            "./x:/y",
            "-e",
            "P=abc d",
            "-e",
            "EMPTY=",
            "",
        ];
        assert_eq!(got, want);
        assert!(warnings.is_empty());
        let (got, warnings) = words("-e A=$(reboot) -e B=`id`\n", "opts").unwrap();
        assert_eq!(got, ["-e", "A=$(reboot)", "-e", "B=`id`"]);
        assert!(warnings.first().unwrap().contains("opts line 1"));
        assert!(words("-e 'A\n'\n", "opts").unwrap_err().to_string().contains("line 1"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC*|[ -~\\n\\r\\t]*") {
            let mut into = Variables::new();
            let env = env_file(&text, "f", &caller(), &mut into).is_ok();
            let split = words(&text, "f").is_ok();
            let args = arg_file(&text, "f").is_ok();
            proptest::prop_assert!(env || split || args || !text.is_empty());
        }
    }
}
