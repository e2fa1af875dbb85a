//! A command without what may be nobody's to keep.
//!
//! Takes words; gives those that say what was done: the program and the names of options. All else is withheld, for it may be a
//! password or a patient's number; what stands for it is not made of it (no hash: few numbers are possible, and each can be
//! tried). Trusts nothing: whatever has not the form of an option's name is withheld. The number of arguments can be seen.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// What stands for a withheld argument or value.
pub const WITHHELD: &str = "<withheld>";
/// How many words are kept at most; the rest is counted.
const MOST: usize = 100;
/// No word is longer, in characters.
const LONGEST: usize = 200;
/// No option's name is longer, in bytes.
const LONGEST_NAME: usize = 64;

/// A command as a record and the audit log keep it. Only [`Redacted::of`] makes one; what is read from a record of an older
/// version is as that had it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redacted(Vec<String>);

impl Redacted {
    /// The program and the names of options of `command`.
    pub fn of(command: &[String]) -> Self {
        Self::first(command, MOST)
    }

    /// The same of the first `most` words.
    pub fn first(command: &[String], most: usize) -> Self {
        let more = command.len().saturating_sub(most);
        let kept = command.iter().take(most).enumerate().map(|(at, word)| match at {
            0 => shortened(word),
            _ => option_name(word).unwrap_or_else(|| WITHHELD.to_owned()),
        });
        Self(kept.chain((more > 0).then(|| format!("{WITHHELD} and {more} more"))).collect())
    }

    /// How many of the words of `command` it does not tell whole.
    pub fn withheld(&self, command: &[String]) -> u64 {
        let whole = self.0.iter().zip(command).filter(|(kept, word)| kept == word).count();
        u64::try_from(command.len().saturating_sub(whole)).unwrap_or(u64::MAX)
    }
}

impl Deref for Redacted {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl From<Redacted> for Vec<String> {
    fn from(redacted: Redacted) -> Self {
        redacted.0
    }
}

/// A variable that was set for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, where the policy lists it (`records.values`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The names of `variables`, and the values of those in `listed`, the first of them where there are many. A value that is long is
/// withheld: half of one is none. So is a name that has not the form of one, `PASSWORD: half` of the line `PASSWORD: half=other half`.
pub fn variables(variables: &[(String, String)], listed: &[String]) -> Vec<Variable> {
    let value = |name: &String, value: &String| {
        (listed.contains(name) && value.chars().count() <= LONGEST).then(|| value.clone())
    };
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let told = |name: &String| {
        if plain(name) || listed.contains(name) { shortened(name) } else { WITHHELD.to_owned() }
    };
    let kept = variables.iter().take(MOST);
    kept.map(|(name, text)| Variable { name: told(name), value: value(name, text) }).collect()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
    }
}

/// The name of a long option, without its value; of short ones the first letter, for the rest may be its value. A name begins with
/// a letter and has few digits: `--9434765919` is none.
fn option_name(argument: &str) -> Option<String> {
    let plain = |name: &str| {
        name.len() <= LONGEST_NAME
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && name.bytes().filter(u8::is_ascii_digit).count() < 5
    };
    if let Some(long) = argument.strip_prefix("--") {
        let Some((name, _)) = long.split_once('=') else {
            return (long.is_empty() || plain(long)).then(|| format!("--{long}"));
        };
        return plain(name).then(|| format!("--{name}={WITHHELD}"));
    }
    let mut letters = argument.strip_prefix('-')?.chars();
    let letter = letters.next().filter(char::is_ascii_alphabetic)?;
    Some(if letters.next().is_none() { format!("-{letter}") } else { format!("-{letter}{WITHHELD}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn of_a_command_the_program_and_the_names_of_options_are_kept() {
        let command = words(&[
            "curl",
            "--password=s3cret",
            "-ps3cret",
            "-v",
            "--user",
            "943 476 5919",
            "9434765919",
            "-1",
            "--a b",
            "--",
            "--9434765919",
            "--nhs9434765919",
            "--top-5",
        ]);
        let kept = Redacted::of(&command);
        let expected = [
            "curl",
            "--password=<withheld>",
            "-p<withheld>",
            "-v",
            "--user",
            WITHHELD,
            WITHHELD,
            WITHHELD,
            WITHHELD,
            "--",
            WITHHELD,
            WITHHELD,
            "--top-5",
        ];
        assert_eq!(&*kept, expected);
        assert_eq!(kept.withheld(&command), 8);
        assert_eq!(Redacted::of(&command[3..4]).withheld(&command[3..4]), 0);
        let many = vec!["x".repeat(10_000); 1_000];
        let kept = Redacted::of(&many);
        assert!(serde_json::to_string(&kept).unwrap().len() < 4096 && kept.len() == MOST + 1);
        assert_eq!(kept.withheld(&many), 1_000);
    }

    #[test]
    fn of_a_variable_the_name_is_kept_and_the_value_where_it_is_listed() {
        let given = [("MODEL", "fast"), ("API_TOKEN", "s3cret"), ("LONG", &"x".repeat(1000))];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let kept = variables(&given, &words(&["MODEL", "LONG"]));
        let told: Vec<(&str, Option<&str>)> =
            kept.iter().map(|one| (one.name.as_str(), one.value.as_deref())).collect();
        assert_eq!(told, [("MODEL", Some("fast")), ("API_TOKEN", None), ("LONG", None)]);
        let given = ["PASSWORD: hunter2", "PASSWORD:hunter2", "a b", "spring.log-level"];
        let kept = variables(&given.map(|name| (name.to_owned(), "x".to_owned())), &words(&["a b"]));
        let told: Vec<&str> = kept.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(told, [WITHHELD, WITHHELD, "a b", "spring.log-level"]);
    }

    proptest! {
        #[test]
        fn no_argument_with_a_long_number_in_it_is_kept(before in "[-a-z =]{0,6}", number in "[0-9]{5,12}") {
            let command = words(&["x", &format!("{before}{number}")]);
            prop_assert!(!Redacted::of(&command)[1].contains(&number));
        }
    }
}
