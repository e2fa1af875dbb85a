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
    if name.is_empty() || text.contains('\0') {
        return Err(usage(format!("\"{text}\" is not an environment variable"), "write NAME=value, or NAME alone"));
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
/// caller's value; lines that begin with `#` and blank lines are skipped. Gives warnings.
///
/// # Errors
/// When a line has no name.
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
            .map_err(|e| usage(format!("{file} line {number} has no variable's name"), "").because(e))?;
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        if name.contains([' ', '\t']) {
            warnings.push(format!("{file} line {number}: the blank is part of the name \"{name}\""));
        }
        if is_quoted(value) {
            warnings.push(format!("{file} line {number}: the quotes are part of the value of {name}"));
        }
    }
    Ok(warnings)
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
