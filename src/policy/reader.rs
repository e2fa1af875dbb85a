//! Reads a TOML document key by key, and remembers the line of each.
//!
//! Takes text and the file's name; gives values as `Rule`s that know their `Origin`; trusts nothing; refuses unknown
//! keys and wrong types, naming file, line, key and what is allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Kind, Result, Stage};

/// Where a rule comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, or `built-in`.
    pub file: String,
    /// The line in it.
    pub line: Option<usize>,
    /// The key, with dots.
    pub key: String,
}

impl Origin {
    /// The origin of a rule no file states.
    pub fn builtin(key: &str) -> Self {
        Self { file: "built-in".to_owned(), line: None, key: key.to_owned() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} line {line}: {}", self.file, self.key),
            None => write!(f, "{}: {}", self.file, self.key),
        }
    }
}

/// A value and where it is stated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule<T> {
    /// What is stated.
    pub value: T,
    /// Where.
    pub origin: Origin,
}

impl<T> Rule<T> {
    /// A rule no file states.
    pub fn builtin(key: &str, value: T) -> Self {
        Self { value, origin: Origin::builtin(key) }
    }

    /// The same origin with another value.
    pub fn with<U>(&self, value: U) -> Rule<U> {
        Rule { value, origin: self.origin.clone() }
    }
}

/// A table being read: every key must be asked for before [`Table::finish`].
#[derive(Debug)]
pub struct Table<'i> {
    lines: Rc<Lines>,
    file: &'i str,
    path: String,
    entries: BTreeMap<String, (Range<usize>, DeValue<'i>)>,
    known: Vec<&'static str>,
}

/// What to do about a malformed file.
const HINT: &str = "nothing runs under a malformed policy; `ces policy check FILE` tells whether it is right";

impl<'i> Table<'i> {
    /// Parses a document.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn parse(text: &'i str, file: &'i str) -> Result<Self> {
        let lines = Rc::new(Lines::of(text));
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| lines.at(span.start));
            Error::new(Stage::Policy, Kind::Policy, format!("{file} line {line} is not valid TOML"))
                .because(e.message())
                .hint(HINT)
        })?;
        Ok(Self::new(lines, file, String::new(), table.into_inner()))
    }

    fn new(lines: Rc<Lines>, file: &'i str, path: String, table: DeTable<'i>) -> Self {
        let entries = table
            .into_iter()
            .map(|(key, value)| {
                let span = key.span();
                (key.into_inner().into_owned(), (span, value.into_inner()))
            })
            .collect();
        Self { lines, file, path, entries, known: Vec::new() }
    }

    /// Where `key` of this table stands.
    pub fn origin(&self, key: &str) -> Origin {
        let line = self.entries.get(key).map(|(span, _)| self.lines.at(span.start));
        Origin { file: self.file.to_owned(), line, key: self.full(key) }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn take(&mut self, key: &'static str) -> Option<(Origin, DeValue<'i>)> {
        self.known.push(key);
        let origin = self.origin(key);
        self.entries.remove(key).map(|(_, value)| (origin, value))
    }

    /// A string.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn string(&mut self, key: &'static str) -> Result<Option<Rule<String>>> {
        self.convert(key, "a string", |value| match value {
            DeValue::String(text) => Some(text.into_owned()),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn boolean(&mut self, key: &'static str) -> Result<Option<Rule<bool>>> {
        self.convert(key, "true or false", |value| match value {
            DeValue::Boolean(yes) => Some(yes),
            _ => None,
        })
    }

    /// Whatever `read` makes of a boolean (`true`) or a string (`"advice"`, with its quotes); `allowed` says what that is.
    ///
    /// # Errors
    /// When the value is of another type, or `read` gives nothing.
    pub fn choice<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Rule<T>>> {
        self.convert(key, allowed, |value| match value {
            DeValue::Boolean(yes) => read(if yes { "true" } else { "false" }),
            DeValue::String(text) => read(&format!("\"{text}\"")),
            _ => None,
        })
    }

    /// A whole number, not negative.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn integer(&mut self, key: &'static str) -> Result<Option<Rule<u64>>> {
        self.convert(key, "a whole number, not negative", |value| whole(&value))
    }

    /// A list of whole numbers, not negative.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn integers(&mut self, key: &'static str) -> Result<Option<Rule<Vec<u64>>>> {
        self.convert(key, "a list of whole numbers, such as [1, 2]", |value| match value {
            DeValue::Array(items) => items.into_iter().map(|item| whole(&item.into_inner())).collect(),
            _ => None,
        })
    }

    /// A list of strings.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn strings(&mut self, key: &'static str) -> Result<Option<Rule<Vec<String>>>> {
        self.convert(key, "a list of strings, such as [\"a\", \"b\"]", |value| match value {
            DeValue::Array(items) => items
                .into_iter()
                .map(|item| match item.into_inner() {
                    DeValue::String(text) => Some(text.into_owned()),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// Whatever `read` makes of a string; `allowed` says what that is.
    ///
    /// # Errors
    /// When the value is no string, or `read` gives nothing.
    pub fn text<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Rule<T>>> {
        self.convert(key, allowed, |value| match value {
            DeValue::String(text) => read(&text),
            _ => None,
        })
    }

    /// Whatever `read` makes of a number, whole or not.
    ///
    /// # Errors
    /// When the value is no number, or `read` gives nothing.
    pub fn number<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Rule<T>>> {
        self.convert(key, allowed, |value| match value {
            DeValue::Integer(number) if number.radix() == 10 => read(number.as_str()),
            DeValue::Float(number) => read(number.as_str()),
            _ => None,
        })
    }

    /// A day, such as `2027-01-31`.
    ///
    /// # Errors
    /// When the value is of another type, or no day of the calendar.
    pub fn date(&mut self, key: &'static str) -> Result<Option<Rule<jiff::civil::Date>>> {
        self.convert(key, "a day such as 2027-01-31", |value| match value {
            DeValue::Datetime(day) if day.time.is_none() => day.to_string().parse().ok(),
            DeValue::String(text) => text.parse().ok(),
            _ => None,
        })
    }

    fn convert<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        read: impl FnOnce(DeValue<'i>) -> Option<T>,
    ) -> Result<Option<Rule<T>>> {
        let Some((origin, value)) = self.take(key) else { return Ok(None) };
        let found = show(&value);
        match read(value) {
            Some(value) => Ok(Some(Rule { value, origin })),
            None => Err(wrong(&origin, &format!("must be {allowed}, not {found}"))),
        }
    }

    /// A table below this one.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn table(&mut self, key: &'static str) -> Result<Option<Table<'i>>> {
        match self.take(key) {
            None => Ok(None),
            Some((_, DeValue::Table(table))) => {
                Ok(Some(Self::new(Rc::clone(&self.lines), self.file, self.full(key), table)))
            }
            Some((origin, other)) => Err(wrong(&origin, &format!("must be a table, not {}", show(&other)))),
        }
    }

    /// A list of tables, such as `[{ … }, { … }]`, each with its own line.
    ///
    /// # Errors
    /// When the value is of another type.
    pub fn tables(&mut self, key: &'static str) -> Result<Option<Rule<Vec<Table<'i>>>>> {
        let (lines, file, path) = (Rc::clone(&self.lines), self.file, self.full(key));
        self.convert(key, "a list of tables, such as [{ … }]", |value| match value {
            DeValue::Array(items) => items
                .into_iter()
                .map(|item| match item.into_inner() {
                    DeValue::Table(table) => Some(Self::new(Rc::clone(&lines), file, path.clone(), table)),
                    _ => None,
                })
                .collect(),
            _ => None,
        })
    }

    /// All that is left, as tables by name: for keys the site chooses (hosts, projects).
    ///
    /// # Errors
    /// When something left is no table.
    pub fn named_tables(&mut self) -> Result<Vec<(String, Origin, Table<'i>)>> {
        let mut out = Vec::new();
        for (key, (span, value)) in std::mem::take(&mut self.entries) {
            let line = Some(self.lines.at(span.start));
            let origin = Origin { file: self.file.to_owned(), line, key: self.full(&key) };
            match value {
                DeValue::Table(table) => {
                    let table = Self::new(Rc::clone(&self.lines), self.file, origin.key.clone(), table);
                    out.push((key, origin, table));
                }
                other => return Err(wrong(&origin, &format!("must be a table, not {}", show(&other)))),
            }
        }
        Ok(out)
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// When a key was never asked for; a rule that is misspelt must not be a rule that is absent.
    pub fn finish(self) -> Result<()> {
        let Some(key) = self.entries.keys().next() else { return Ok(()) };
        let place = if self.path.is_empty() { "at the top".to_owned() } else { format!("in [{}]", self.path) };
        Err(wrong(&self.origin(key), &format!("is not a key; allowed {place}: {}", self.known.join(", "))))
    }
}

/// A malformed rule: names file, line and key.
pub fn wrong(origin: &Origin, what: &str) -> Error {
    Error::new(Stage::Policy, Kind::Policy, format!("{origin} {what}")).hint(HINT)
}

/// Where the lines of a document end; every key asks for its own.
#[derive(Debug)]
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter_map(|(at, byte)| (byte == b'\n').then_some(at)).collect())
    }

    /// The line of a byte, from 1.
    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|end| *end < byte) + 1
    }
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    match value {
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
