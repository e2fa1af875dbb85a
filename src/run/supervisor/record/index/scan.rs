//! A line of the index as `ces` writes it, read without a parser of JSON: a list may have a hundred thousand of them, and this takes a
//! tenth of the time.
//!
//! Takes a line; gives its entry, or none where it is written in any other way: then serde reads it. Trusts nothing else.

use std::borrow::Cow;

use super::{Entry, State};
use crate::run::job_id::JobId;

/// The entry of a line whose fields are those of today, in their order, with no text that JSON escapes.
pub(super) fn entry(line: &str) -> Option<Entry<'_>> {
    let mut rest = Rest(line);
    let entry = Entry {
        id: JobId::parse(rest.field("{\"id\":")?.text()?).ok()?,
        uid: rest.field(",\"uid\":")?.number()?,
        researcher: Cow::Borrowed(rest.field(",\"researcher\":")?.text()?),
        project: rest.field(",\"project\":")?.optional(Rest::text)?.map(Cow::Borrowed),
        image: Cow::Borrowed(rest.field(",\"image\":")?.text()?),
        state: match rest.field(",\"state\":")?.text()? {
            "begun" => State::Begun,
            "finished" => State::Finished,
            "refused" => State::Refused,
            "interrupted" => State::Interrupted,
            _ => return None,
        },
        started: Cow::Borrowed(rest.field(",\"started\":")?.text()?),
        seconds: rest.field(",\"seconds\":")?.optional(Rest::number)?,
        exit: rest.field(",\"exit\":")?.optional(Rest::number)?,
        ended: rest.field(",\"ended\":")?.optional(Rest::text)?.map(Cow::Borrowed),
        name: rest.field(",\"name\":")?.optional(Rest::text)?.map(Cow::Borrowed),
        outputs: rest.field(",\"outputs\":")?.optional(Rest::number)?,
    };
    (rest.0 == "}").then_some(entry)
}

/// What is left of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// Goes to the value of the field that comes next.
    fn field(&mut self, key: &str) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(key)?;
        Some(self)
    }

    fn text(&mut self) -> Option<&'a str> {
        let text = self.0.strip_prefix('"')?;
        // In one go: most of them are short.
        let end = text.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..b' '))?;
        let (text, rest) = text.split_at_checked(end)?;
        self.0 = rest.strip_prefix('"')?;
        Some(text)
    }

    /// A number of digits and a point: JSON has others, which are left to its parser.
    fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        let end = self.0.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let is_json = digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'));
        if is_json { number.parse().ok() } else { None }
    }

    fn optional<T>(&mut self, value: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if let Some(rest) = self.0.strip_prefix("null") {
            self.0 = rest;
            return Some(None);
        }
        value(self).map(Some)
    }
}
