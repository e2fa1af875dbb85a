//! Texts and values of a JSON document that are not copied: most of a document is not wanted.
//!
//! Takes what `serde_json` reads from bytes in memory; gives texts that lie in those bytes, and values of which the type is not known.
//! Trusts nothing: of a value no more is held than is looked at. Refuses no type.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The longest list that is looked at.
pub const LIST: usize = 4096;

/// A text, copied only where it is written with escapes: serde's own `Cow` is copied in every list and option.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'d>(Cow<'d, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'd, 'd> Deserialize<'de> for Text<'d> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

struct TextVisitor<'d>(PhantomData<&'d ()>);

impl<'de: 'd, 'd> Visitor<'de> for TextVisitor<'d> {
    type Value = Text<'d>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}

/// A value of some type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Loose<'d> {
    /// A text.
    Text(Text<'d>),
    /// A list of at most [`LIST`] values.
    List(Vec<Loose<'d>>),
    /// An object, and the text in it that is called `path`, if there is one.
    Object(Option<Text<'d>>),
    /// Anything else, and what is too long.
    #[default]
    Other,
}

impl Loose<'_> {
    /// The text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether it is a list with this text.
    pub fn has(&self, word: &str) -> bool {
        matches!(self, Self::List(all) if all.iter().any(|one| one.text() == Some(word)))
    }

    /// What is called `path` in the objects of a list, where each is one that has it.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::List(all) => all.iter().map(Self::path).collect::<Option<_>>().unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    fn path(&self) -> Option<&str> {
        match self {
            Self::Object(path) => path.as_deref(),
            _ => None,
        }
    }
}

impl<'de: 'd, 'd> Deserialize<'de> for Loose<'d> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor(PhantomData))
    }
}

/// By hand: what serde derives for a value of several types holds a copy of all of it.
struct LooseVisitor<'d>(PhantomData<&'d ()>);

impl<'de: 'd, 'd> Visitor<'de> for LooseVisitor<'d> {
    type Value = Loose<'d>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Text(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Text(Cow::Owned(text.to_owned()))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while all.len() < LIST {
            match items.next_element()? {
                Some(one) => all.push(one),
                None => return Ok(Loose::List(all)),
            }
        }
        if items.next_element::<IgnoredAny>()?.is_none() {
            return Ok(Loose::List(all));
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut path, mut times) = (None, 0);
        while let Some(key) = map.next_key::<Text<'de>>()? {
            if &*key != "path" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            times += 1;
            path = match map.next_value::<Loose<'d>>()? {
                Loose::Text(text) => Some(text),
                _ => None,
            };
        }
        // Of two nobody knows which one is meant.
        Ok(Loose::Object(path.filter(|_| times == 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Loose<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_text_lies_in_the_document_unless_it_has_escapes() {
        let texts: Vec<Text<'_>> = serde_json::from_str(r#"["plain", "a\nb"]"#).unwrap();
        assert!(matches!((&texts[0].0, &texts[1].0), (Cow::Borrowed("plain"), Cow::Owned(_))));
        assert_eq!(&*texts[1], "a\nb");
        assert!(serde_json::from_str::<Text<'_>>("1").is_err());
    }

    #[test]
    fn of_a_value_of_any_type_what_is_asked_for_is_told() {
        assert_eq!(read("\"HIGH\"").text(), Some("HIGH"));
        assert!(read(r#"["a", "malicious", 1]"#).has("malicious") && !read(r#""malicious""#).has("malicious"));
        assert_eq!(read(r#"[{"path": "a/b", "x": [1]}, {"path": "c"}]"#).paths(), ["a/b", "c"]);
        // One that names no path could mean all.
        for odd in
            [r#"[{"path": "a"}, {}]"#, r#"[{"path": "a"}, "b"]"#, r#"[{"path": "a", "path": "b"}]"#, "[]", "{}", "null"]
        {
            assert!(read(odd).paths().is_empty(), "{odd}");
        }
        let many = |count: usize| format!("[{}]", vec![r#"{"path":"a"}"#; count].join(","));
        assert_eq!((read(&many(LIST)).paths().len(), read(&many(LIST + 1)).paths().len()), (LIST, 0));
        assert_eq!(read("[[1.5, true, -1], {\"a\": {}}]").text(), None);
    }
}
