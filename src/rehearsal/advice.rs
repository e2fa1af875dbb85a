//! What findings mean, and what ends them: `bundles/advice.toml`.
//!
//! Takes text; gives entries, of which the first that fits is taken; trusts nothing; refuses unknown keys and kinds.

use crate::error::{Error, Kind, Result, Stage};
use crate::policy::reader::Table;

const ADVICE: (&str, &str) = ("bundles/advice.toml", include_str!("../../bundles/advice.toml"));

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A host name.
    Name,
    /// A port.
    Port,
    /// A socket of a host.
    Socket,
    /// A command.
    Program,
    /// A path that is closed, or not there.
    Path,
    /// A directory whose files are gone with the container.
    Lost,
    /// A system call.
    Call,
}

impl About {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "name" => Self::Name,
            "port" => Self::Port,
            "socket" => Self::Socket,
            "program" => Self::Program,
            "path" => Self::Path,
            "lost" => Self::Lost,
            "call" => Self::Call,
            _ => return None,
        })
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    about: About,
    any: Vec<String>,
    /// What it is for, as it is seen.
    example: String,
    /// What it is.
    pub means: String,
    /// What to do.
    pub fix: String,
    /// A program does without it.
    pub harmless: bool,
}

/// All entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice(Vec<Entry>);

impl Advice {
    /// The kept file.
    ///
    /// # Errors
    /// Never, once tested.
    pub fn load() -> Result<Self> {
        Self::parse(ADVICE.1, ADVICE.0)
    }

    fn parse(text: &str, file: &str) -> Result<Self> {
        let mut top = Table::parse(text, file)?;
        let tables = top.tables("advice")?.map(|rule| rule.value).unwrap_or_default();
        let entries = tables.into_iter().map(|mut table| {
            let origin = table.origin("about");
            let wrong = |what: &str| {
                Error::new(Stage::Cli, Kind::Failed, "the advice of rehearsals is malformed")
                    .because(format!("{origin}: {what}"))
            };
            let about = table.string("about")?.and_then(|rule| About::of(&rule.value));
            let any = table.strings("any")?.map(|rule| rule.value).unwrap_or_default();
            let example = table.string("example")?.map(|rule| rule.value);
            let means = table.string("means")?.map(|rule| rule.value);
            let fix = table.string("do")?.map(|rule| rule.value);
            let harmless = table.boolean("harmless")?.is_some_and(|rule| rule.value);
            table.finish()?;
            let about = about.ok_or_else(|| wrong("it is about nothing known"))?;
            if any.is_empty() || any.iter().any(String::is_empty) {
                return Err(wrong("it fits nothing, or everything"));
            }
            let (means, fix) = means.zip(fix).ok_or_else(|| wrong("it says not what it means, or not what to do"))?;
            let example = example.ok_or_else(|| wrong("it has no example"))?;
            Ok(Entry { about, any, example, means, fix, harmless })
        });
        let entries = entries.collect::<Result<_>>()?;
        top.finish()?;
        Ok(Self(entries))
    }

    /// The first entry that fits; for a command its words, for everything else the one.
    pub fn of(&self, about: About, command: &[&str]) -> Option<&Entry> {
        let word = command.first().copied().unwrap_or_default();
        let fits = |any: &str| match about {
            About::Name => word.split('.').any(|label| label.eq_ignore_ascii_case(any)),
            About::Port | About::Call => word == any,
            About::Socket => word.contains(any),
            About::Path => word.starts_with(any),
            About::Lost if any.starts_with('.') => word.to_ascii_lowercase().ends_with(any),
            About::Lost => word == any || any == "/" || within(word, any),
            About::Program => in_order(command, any),
        };
        self.0.iter().find(|entry| entry.about == about && entry.any.iter().any(|any| fits(any)))
    }
}

/// Whether a path lies below what `part` names: a path itself, or a directory somewhere in it.
fn within(path: &str, part: &str) -> bool {
    path.match_indices(part).any(|(at, _)| {
        let after = path.get(at + part.len()..).unwrap_or_default();
        // "/tmp" is a place; "/.cache" may be anywhere.
        (at == 0 || part.starts_with("/.") || part.starts_with("/__")) && (after.is_empty() || after.starts_with('/'))
    })
}

/// Programs that execute the script or module that their arguments name.
const INTERPRETERS: [&str; 9] = ["python", "node", "sh", "bash", "dash", "perl", "ruby", "env", "busybox"];

/// Whether the words of `phrase` are among those of a command in their order, each a file's name, with a version or without. The first
/// is the program itself, or what its interpreter executes.
fn in_order(command: &[&str], phrase: &str) -> bool {
    let mut names = command.iter().map(|word| word.rsplit('/').next().unwrap_or(word));
    let same = |name: &str, word: &str| {
        name.strip_prefix(word).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
    };
    let mut phrase = phrase.split(' ');
    let first = phrase.next().unwrap_or_default();
    let Some(program) = names.next() else { return false };
    let by_another = INTERPRETERS.iter().any(|interpreter| same(program, interpreter));
    let begins = same(program, first) || by_another && names.by_ref().take(2).any(|name| same(name, first));
    begins && phrase.all(|word| names.any(|name| same(name, word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_of_the_kept_advice_says_what_to_do_and_is_found_by_its_example() {
        let advice = Advice::load().unwrap();
        assert!(advice.0.len() >= 40, "{}", advice.0.len());
        assert!(advice.0.iter().all(|entry| !entry.means.is_empty() && !entry.fix.is_empty()));
        for entry in &advice.0 {
            let command: Vec<&str> = match entry.about {
                About::Program => entry.example.split(' ').collect(),
                _ => vec![&entry.example],
            };
            assert_eq!(advice.of(entry.about, &command), Some(entry), "{}", entry.example);
        }
        // No host stands there: a label alone knows mirrors, too.
        let names = advice.0.iter().filter(|entry| entry.about == About::Name);
        assert!(names.flat_map(|entry| &entry.any).all(|any| !any.contains('.')));
    }

    #[test]
    fn hosts_are_known_by_a_label_and_by_no_part_of_one() {
        let advice = Advice::load().unwrap();
        let means = |host: &str| advice.of(About::Name, &[host]).map(|entry| entry.means.as_str());
        for host in ["huggingface.example", "cdn-lfs.HuggingFace.example", "mirror.huggingface.lab.example"] {
            assert_eq!(means(host), Some("Hugging Face hub"), "{host}");
        }
        assert_eq!(means("pypi.lab.example"), Some("Python's packages"));
        for host in ["", "nothuggingface.example", "pypi-not.example", "lab.example"] {
            assert_eq!(means(host), None, "{host}");
        }
    }

    #[test]
    fn commands_are_known_by_their_words_with_versions_and_by_nothing_alike() {
        let advice = Advice::load().unwrap();
        let known = |line: &str| advice.of(About::Program, &line.split(' ').collect::<Vec<_>>()).is_some();
        for line in [
            "/usr/bin/pip3.11 install -q x",
            "/usr/bin/python3 -m pip install x",
            "/usr/bin/python3 /usr/bin/pip install x",
            "git clone x",
            "/usr/bin/git -c a=b clone x",
            "/usr/bin/curl x",
            "/usr/local/bin/gosu postgres postgres",
        ] {
            assert!(known(line), "{line}");
        }
        for line in [
            "pip list",
            "python train.py --data curl",
            "/bin/cat wget-log",
            "pipeline install",
            "gitclone",
            "which curl",
            "grep sudo x",
            "cat pip install",
        ] {
            assert!(!known(line), "{line}");
        }
    }

    #[test]
    fn a_place_is_a_beginning_and_a_cache_is_anywhere() {
        let advice = Advice::load().unwrap();
        let harmless = |path: &str| advice.of(About::Lost, &[path]).unwrap().harmless;
        assert!(
            harmless("/tmp") && harmless("/tmp/x") && harmless("/home/me/.cache") && harmless("/opt/t/__pycache__")
        );
        assert!(harmless("/home/me/.cache/x.csv") && !harmless("/tmp/Results.CSV") && !harmless("/tmp/a/plot.png"));
        assert!(!harmless("/home/me") && !harmless("/tmpresults") && !harmless("/data/tmp") && !harmless("/"));
    }

    #[test]
    fn malformed_advice_is_refused() {
        let entry = |more: &str| format!("[[advice]]\nmeans = \"m\"\ndo = \"d\"\nexample = \"e\"\n{more}");
        assert!(Advice::parse(&entry("about = \"name\"\nany = [\"x\"]"), "f").is_ok());
        for more in [
            "any = [\"x\"]",
            "about = \"nmae\"\nany = [\"x\"]",
            "about = \"name\"\nany = []",
            "about = \"name\"\nany = [\"\"]",
            "about = \"name\"\nany = [\"x\"]\nsee = \"x\"",
        ] {
            assert!(Advice::parse(&entry(more), "f").is_err(), "{more}");
        }
        let without = entry("about = \"name\"\nany = [\"x\"]").replace("example = \"e\"\n", "");
        assert!(Advice::parse(&without, "f").is_err());
    }
}
