//! Entities of an RO-Crate (JSON-LD, flattened), and names of files as identifiers.
//!
//! Takes entities as JSON; gives a document; trusts who writes them; refuses nothing. Null is left out, and a list of one is that
//! one, as RO-Crate 1.1 has it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Entities, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Graph {
    entities: Vec<Value>,
    ids: BTreeSet<String>,
}

impl Graph {
    /// Adds an entity, and gives the reference to it. One that is there already stays as it is: two facts may be of one thing.
    pub fn add(&mut self, mut entity: Value) -> Value {
        let id = entity.get("@id").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(fields) = entity.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
            for value in fields.values_mut() {
                if let Value::Array(items) = value
                    && items.len() == 1
                {
                    *value = items.pop().unwrap_or_default();
                }
            }
        }
        if self.ids.insert(id.clone()) {
            self.entities.push(entity);
        }
        reference(&id)
    }

    /// The document, with the descriptor and the root before everything else.
    pub fn document(self, context: &Value, descriptor: Value, root: Value) -> Value {
        let mut all = Self::default();
        all.add(descriptor);
        all.add(root);
        all.entities.extend(self.entities);
        json!({"@context": context, "@graph": all.entities})
    }
}

/// A reference to an entity.
pub fn reference(id: &str) -> Value {
    json!({"@id": id})
}

/// A name as (a part of) an identifier (RFC 3986, 2.1): everything but unreserved characters and slashes is percent-encoded.
pub fn encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn null_is_left_out_and_one_is_no_list_and_a_thing_is_told_once() {
        let mut graph = Graph::default();
        let first = graph.add(json!({"@id": "#a", "name": null, "part": [{"@id": "x"}], "two": [1, 2]}));
        assert_eq!(graph.add(json!({"@id": "#a", "name": "other"})), first);
        let made = graph.document(&json!("c"), json!({"@id": "d"}), json!({"@id": "./"}));
        let expected = json!({"@context": "c", "@graph": [
            {"@id": "d"}, {"@id": "./"}, {"@id": "#a", "part": {"@id": "x"}, "two": [1, 2]}]});
        assert_eq!(made, expected);
    }

    proptest! {
        #[test]
        fn two_names_are_two_identifiers_without_a_character_that_means_something(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(encoded(&a) == encoded(&b), a == b);
            prop_assert!(!encoded(&a).contains([' ', '#', '?', ':', '"', '<', '\\', '\n']));
        }
    }
}
