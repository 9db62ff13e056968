//! JSON, with lines.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Content, DEPTH_LIMIT, KEY_BYTES_LIMIT, Lines, Node, Parsed, SyntaxFault, repeated_key, too_deep,
    too_long_key,
};
use crate::config::fault::{FAULTS_LIMIT, KeyPath};

pub(super) fn parse(text: &str) -> Parsed {
    if text.trim().is_empty() {
        return (Some(Node { line: 1, content: Content::Null }), Vec::new());
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(root) => {
            let mut reader = Reader { text, lines: Lines::new(text), faults: Vec::new() };
            let node = reader.node(root, &KeyPath::default());
            (Some(node), reader.faults)
        }
        Err(error) => {
            let line = u32::try_from(error.line()).ok();
            let problem = format!("not JSON: {}", without_position(&error));
            (None, vec![SyntaxFault { line, path: KeyPath::default(), problem }])
        }
    }
}

/// The members of an object in their order, repeated ones too, each value as the slice of the text that it is.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

struct Reader<'a> {
    text: &'a str,
    lines: Lines,
    faults: Vec<SyntaxFault>,
}

impl<'a> Reader<'a> {
    fn node(&mut self, raw: &'a RawValue, path: &KeyPath) -> Node {
        let line = self.line_of(raw);
        let content = if path.0.len() > DEPTH_LIMIT {
            self.fault(line, path, too_deep());
            Content::Null
        } else {
            self.content(raw, path).unwrap_or_else(|error| {
                // The grammar was checked before; what is left are texts that are no Unicode, and huge numbers.
                let problem = without_position(&error);
                self.fault(line, path, problem);
                Content::Null
            })
        };
        Node { line, content }
    }

    fn content(&mut self, raw: &'a RawValue, path: &KeyPath) -> Result<Content, serde_json::Error> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let mut map = BTreeMap::new();
                for (key, value) in serde_json::from_str::<Members<'a>>(text)?.0 {
                    if key.len() > KEY_BYTES_LIMIT {
                        let line = self.line_of(value);
                        self.fault(line, path, too_long_key());
                        continue;
                    }
                    let path = path.key(&key);
                    let node = self.node(value, &path);
                    match map.entry(key) {
                        Entry::Vacant(entry) => {
                            entry.insert(node);
                        }
                        Entry::Occupied(entry) => {
                            let first: &Node = entry.get();
                            self.fault(node.line, &path, repeated_key(first.line));
                        }
                    }
                }
                Content::Map(map)
            }
            Some(b'[') => {
                let items = serde_json::from_str::<Vec<&'a RawValue>>(text)?;
                let nodes =
                    items.into_iter().enumerate().map(|(index, item)| self.node(item, &path.index(index)));
                Content::List(nodes.collect())
            }
            Some(b'"') => Content::Text(serde_json::from_str(text)?),
            Some(b'n') => Content::Null,
            Some(b't' | b'f') => Content::Bool(serde_json::from_str(text)?),
            _ => match text.parse() {
                Ok(integer) => Content::Integer(integer),
                Err(_not_an_integer) => Content::Float(serde_json::from_str(text)?),
            },
        })
    }

    fn fault(&mut self, line: u32, path: &KeyPath, problem: impl Into<String>) {
        if self.faults.len() < FAULTS_LIMIT {
            self.faults.push(SyntaxFault::at(line, path.clone(), problem));
        }
    }

    /// A raw value borrows from the text, so that the distance between the two is its offset.
    fn line_of(&self, raw: &RawValue) -> u32 {
        self.lines.of(raw.get().as_ptr().addr().saturating_sub(self.text.as_ptr().addr()))
    }
}

/// `serde_json` ends its messages with a position, which inside a part of the text would be wrong.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message.get(..end).unwrap_or(&message).to_owned(),
        None => message,
    }
}
