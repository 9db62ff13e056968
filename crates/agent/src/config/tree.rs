//! The tree of settings: figment's values, each of which knows where it was written.

use std::path::{Path, PathBuf};

use figment::value::{Dict, Empty, Num, Tag, Value};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, U64Deserializer};

use super::document::{Content, Node};
use super::fault::{FAULTS_LIMIT, Fault, KeyPath, Place, Step, quote};
use super::schema::{Kind, Schema};
use super::substitution::{Substituted, SubstitutionFault, substitute};
use crate::environment::Environment;

/// Where a value was written, and what is to be known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) place: Place,
    /// No output may show it.
    pub(super) secret: bool,
    /// What it was to be could not be found out, and a fault tells so: it is no use to complain about it again.
    pub(super) unusable: bool,
}

impl Origin {
    const DEFAULT: Self = Self { place: Place::Default, secret: false, unusable: false };

    pub(super) fn of(place: Place) -> Self {
        Self { place, secret: false, unusable: false }
    }

    #[must_use]
    pub(super) fn unusable(self) -> Self {
        Self { unusable: true, ..self }
    }
}

/// The origins of all values.
///
/// Figment gives each value a tag that survives merging. By itself it tags all values of a source alike; here
/// each value has its own, the position of its origin plus one, so that every value knows its own line.
#[derive(Debug, Default)]
pub(super) struct Origins {
    list: Vec<Origin>,
    /// The files that values were read from, beside the configuration file itself.
    files: Vec<PathBuf>,
}

impl Origins {
    /// A tag for values of that origin.
    pub(super) fn tag(&mut self, origin: Origin) -> Tag {
        self.list.push(origin);
        let number = u64::try_from(self.list.len()).unwrap_or_default();
        let deserializer: U64Deserializer<ValueError> = number.into_deserializer();
        Tag::deserialize(deserializer).unwrap_or_default()
    }

    /// The origin of a value. What has none of its own is a default.
    pub(super) fn of(&self, value: &Value) -> &Origin {
        self.of_tag(value.tag())
    }

    /// The origin of the values with that tag.
    pub(super) fn of_tag(&self, tag: Tag) -> &Origin {
        serde_json::to_value(tag)
            .ok()
            .and_then(|number| number.as_u64())
            .and_then(|number| usize::try_from(number).ok())
            .and_then(|number| number.checked_sub(1))
            .and_then(|position| self.list.get(position))
            .unwrap_or(&Origin::DEFAULT)
    }

    /// The files that values were read from, beside the configuration file itself.
    pub(super) fn into_files(self) -> Vec<PathBuf> {
        self.files
    }
}

/// Makes values of the nodes of a document.
pub(super) struct NodeReader<'a, P> {
    /// The place of a line.
    pub(super) place: P,
    pub(super) schema: Schema<'a>,
    /// Where references in texts are looked up, in sources that may hold some: variables, and files by their
    /// paths relative to a directory.
    pub(super) references: Option<(&'a Environment, &'a Path)>,
    pub(super) origins: &'a mut Origins,
    pub(super) faults: &'a mut Vec<Fault>,
}

impl<P: Fn(u32) -> Place> NodeReader<'_, P> {
    /// The value of a node, for the setting at that path.
    pub(super) fn value(&mut self, node: Node, path: &KeyPath) -> Value {
        let place = (self.place)(node.line);
        if let Content::Text(text) = node.content {
            return self.text(text, path, place);
        }
        let tag = self.origins.tag(Origin::of(place));
        match node.content {
            Content::Null => Value::Empty(tag, Empty::None),
            Content::Bool(boolean) => Value::Bool(tag, boolean),
            Content::Integer(integer) => Value::Num(tag, number(integer)),
            Content::Float(float) => Value::Num(tag, Num::F64(float)),
            Content::Text(text) => Value::String(tag, text),
            Content::List(items) => {
                let items = items.into_iter().enumerate();
                Value::Array(tag, items.map(|(index, item)| self.value(item, &path.index(index))).collect())
            }
            Content::Map(entries) => {
                let entry = |(key, node): (String, Node)| {
                    let value = self.value(node, &path.key(&key));
                    (key, value)
                };
                Value::Dict(tag, entries.into_iter().map(entry).collect())
            }
        }
    }

    fn text(&mut self, text: String, path: &KeyPath, place: Place) -> Value {
        let origin = Origin::of(place);
        let Some((environment, directory)) = self.references else {
            return Value::String(self.origins.tag(origin), text);
        };
        match substitute(&text, environment, directory) {
            Ok(Substituted { text, replaced, files }) => {
                let tag = self.origins.tag(Origin { secret: !files.is_empty(), ..origin });
                self.origins.files.extend(files);
                // Its format cannot have told the type of what was put in: the setting does.
                let schema = if replaced { self.schema.at(path) } else { None };
                coerce(text, schema, tag)
            }
            Err(problems) => {
                let room = FAULTS_LIMIT.saturating_sub(self.faults.len());
                for SubstitutionFault { problem, allowed, meant } in problems.into_iter().take(room) {
                    let fault = Fault::new(origin.place.clone(), path.clone(), problem);
                    self.faults.push(fault.allowed(allowed).meant(meant));
                }
                Value::String(self.origins.tag(origin.unusable()), text)
            }
        }
    }
}

/// Serde's buffers, through which tagged sections go, know no 128-bit numbers.
fn number(integer: i128) -> Num {
    i64::try_from(integer).map_or(Num::I128(integer), Num::I64)
}

/// What a text stands for where a setting of that schema is wanted; the text itself where it cannot be that, so
/// that the check can tell.
pub(super) fn coerce(text: String, schema: Option<Schema<'_>>, tag: Tag) -> Value {
    let value = match schema.map(Schema::kind) {
        Some(Kind::Integer) => text.trim().parse().ok().map(|integer| Value::Num(tag, number(integer))),
        Some(Kind::Boolean) => match text.trim() {
            word if word.eq_ignore_ascii_case("true") => Some(Value::Bool(tag, true)),
            word if word.eq_ignore_ascii_case("false") => Some(Value::Bool(tag, false)),
            _ => None,
        },
        _ => None,
    };
    value.unwrap_or(Value::String(tag, text))
}

/// The value at that path.
pub(super) fn at<'a>(root: &'a Value, path: &KeyPath) -> Option<&'a Value> {
    path.0.iter().try_fold(root, |value, step| match step {
        Step::Key(key) => value.as_dict()?.get(&**key),
        Step::Index(index) => value.as_array()?.get(*index),
    })
}

/// Puts a value where the path leads. Sections and lists on the way are made, with the tag given; lists grow item
/// by item.
///
/// # Errors
/// When an item would not be the next one of its list.
pub(super) fn insert(root: &mut Value, path: &[Step], tag: Tag, value: Value) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else {
        *root = value;
        return Ok(());
    };
    match step {
        Step::Key(key) => {
            if !matches!(root, Value::Dict(..)) {
                *root = Value::Dict(tag, Dict::new());
            }
            let Value::Dict(_, entries) = root else { return Ok(()) };
            insert(entries.entry(key.to_string()).or_insert(Value::Dict(tag, Dict::new())), rest, tag, value)
        }
        Step::Index(index) => {
            if !matches!(root, Value::Array(..)) {
                *root = Value::Array(tag, Vec::new());
            }
            let Value::Array(_, items) = root else { return Ok(()) };
            if *index == items.len() {
                items.push(Value::Dict(tag, Dict::new()));
            }
            match items.get_mut(*index) {
                Some(item) => insert(item, rest, tag, value),
                None => Err(format!(
                    "item {} is missing: items are numbered from 0 on, without a gap",
                    items.len()
                )),
            }
        }
    }
}

/// Removes the keys that hold nothing: for them an earlier source, and then the default, was to hold no more.
pub(super) fn prune(value: &mut Value) {
    match value {
        Value::Dict(_, entries) => {
            entries.retain(|_, value| !matches!(value, Value::Empty(..)));
            entries.values_mut().for_each(prune);
        }
        Value::Array(_, items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// The integer in a value, if it is one.
pub(super) fn integer(value: &Value) -> Option<i128> {
    let number = value.to_num()?;
    number.to_i128().or_else(|| number.to_u128().and_then(|number| i128::try_from(number).ok()))
}

/// A value as messages show it.
pub(super) fn show(value: &Value, secret: bool) -> String {
    match value {
        Value::Dict(..) => return "a map".to_owned(),
        Value::Array(..) => return "a list".to_owned(),
        Value::Empty(..) => return "nothing".to_owned(),
        _ if secret => return MASK.to_owned(),
        _ => {}
    }
    match value {
        Value::String(_, text) => quote(&without_secrets(text)),
        Value::Char(_, c) => quote(&c.to_string()),
        Value::Bool(_, boolean) => boolean.to_string(),
        Value::Num(_, number) => match (integer(value), number.to_f64()) {
            (Some(integer), _) => integer.to_string(),
            (None, Some(float)) => format!("{float:?}"),
            (None, None) => format!("{number:?}"),
        },
        Value::Dict(..) | Value::Array(..) | Value::Empty(..) => MASK.to_owned(),
    }
}

/// What stands for a secret.
pub(super) const MASK: &str = "****";

/// A text without what in a URL is a secret: user and password, also where they are written so that it is no URL, the query
/// and the fragment. Whatever stands before the last `@` may be of the password.
pub(super) fn without_secrets(text: &str) -> String {
    let (scheme, rest) = match text.find("://") {
        Some(start) => text.split_at(start + "://".len()),
        // What is no URL and has an `@` is most often somebody's name, and holds no colon before it.
        None if text.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) => ("", text),
        None => return text.to_owned(),
    };
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(_, rest)| (MASKED_USER, rest));
    let shown = rest.find(['?', '#']).and_then(|end| rest.get(..=end));
    format!("{scheme}{user}{}{}", shown.unwrap_or(rest), shown.map_or("", |_| MASK))
}

/// What stands for a user and password.
const MASKED_USER: &str = "****@";

#[cfg(test)]
mod tests;
