//! The configuration that is in force, as YAML, with the source of each value beside it.

use std::fmt::{self, Write};

use figment::value::Value;

use super::schema::Schema;
use super::tree::{self, MASK, Origins};

/// The settings in force. Secrets are masked; apart from them it is a configuration file that says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effective(Vec<Line>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    source: Option<String>,
}

/// Sources further to the right than this are not aligned: a long value should not push all of them out of sight.
const LONGEST_ALIGNED: usize = 60;

/// A reader of YAML looks no further than 1,024 characters for the colon behind a key (YAML 1.2.2, section 7.4.2): a longer
/// key has to be announced.
const LONGEST_IMPLICIT_KEY: usize = 1_000;

impl Effective {
    pub(super) fn new(root: &Value, schema: Schema<'_>, origins: &Origins) -> Self {
        let mut printer = Printer { origins, lines: Vec::new() };
        printer.entries(root, Some(schema), 0, "", false);
        Self(printer.lines)
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |line: &Line| line.text.chars().count();
        let with_source = self.0.iter().filter(|line| line.source.is_some());
        let column =
            with_source.map(width).filter(|width| *width <= LONGEST_ALIGNED).max().unwrap_or_default();
        for line in &self.0 {
            match &line.source {
                Some(source) => writeln!(formatter, "{:column$}  # {source}", line.text)?,
                None => writeln!(formatter, "{}", line.text)?,
            }
        }
        Ok(())
    }
}

struct Printer<'a> {
    origins: &'a Origins,
    lines: Vec<Line>,
}

impl Printer<'_> {
    /// The entries of a section or the items of a list, one below the other; `lead` goes before the first.
    fn entries(&mut self, value: &Value, schema: Option<Schema<'_>>, depth: usize, lead: &str, secret: bool) {
        let indent = "  ".repeat(depth);
        let secret = secret || schema.is_some_and(Schema::is_secret);
        match value {
            Value::Dict(_, entries) => {
                let variants = schema.map(Schema::variants).unwrap_or_default();
                let kind = entries.get("type").and_then(Value::as_str);
                let variant =
                    variants.into_iter().find(|(name, _)| Some(*name) == kind).map(|(_, variant)| variant);
                let schema = variant.or(schema);
                let mut keys: Vec<&str> = schema
                    .into_iter()
                    .flat_map(Schema::required)
                    .filter(|key| entries.contains_key(*key))
                    .collect();
                // Only lists are long: what is short is better read before them.
                keys.retain(|key| !matches!(entries.get(*key), Some(Value::Array(..))));
                let rest = entries.keys().map(String::as_str).filter(|key| !keys.contains(key));
                let (lists, short): (Vec<_>, Vec<_>) =
                    rest.partition(|key| matches!(entries.get(*key), Some(Value::Array(..))));
                keys.extend(short);
                keys.extend(lists);
                for (index, key) in keys.into_iter().enumerate() {
                    let Some(value) = entries.get(key) else { continue };
                    let schema = schema.and_then(|schema| schema.property(key).or_else(|| schema.values()));
                    let lead = if index == 0 && !lead.is_empty() { lead } else { indent.as_str() };
                    let shown = scalar_text(key);
                    let head = if shown.chars().count() > LONGEST_IMPLICIT_KEY {
                        self.lines.push(Line { text: format!("{lead}? {shown}"), source: None });
                        format!("{indent}:")
                    } else {
                        format!("{lead}{shown}:")
                    };
                    self.entry(&head, value, schema, depth, secret);
                }
            }
            Value::Array(_, items) => {
                for item in items {
                    let schema = schema.and_then(Schema::items);
                    let lead = format!("{indent}- ");
                    if is_empty_or_scalar(item) {
                        self.entry(&format!("{indent}-"), item, schema, depth, secret);
                    } else {
                        self.entries(item, schema, depth + 1, &lead, secret);
                    }
                }
            }
            _ => {}
        }
    }

    /// A key, or the dash of an item, and its value.
    fn entry(&mut self, head: &str, value: &Value, schema: Option<Schema<'_>>, depth: usize, secret: bool) {
        let secret = secret || schema.is_some_and(Schema::is_secret);
        if !is_empty_or_scalar(value) {
            self.lines.push(Line { text: head.to_owned(), source: None });
            self.entries(value, schema, depth + 1, "", secret);
            return;
        }
        let origin = self.origins.of(value);
        let shown = match value {
            Value::Dict(..) => "{}".to_owned(),
            Value::Array(..) => "[]".to_owned(),
            _ if secret || origin.secret => scalar_text(MASK),
            // As in any file, a `$` could begin a reference.
            Value::String(_, text) => scalar_text(&tree::without_secrets(text).replace('$', "$$")),
            value => tree::show(value, false),
        };
        self.lines.push(Line { text: format!("{head} {shown}"), source: Some(origin.place.to_string()) });
    }
}

fn is_empty_or_scalar(value: &Value) -> bool {
    match value {
        Value::Dict(_, entries) => entries.is_empty(),
        Value::Array(_, items) => items.is_empty(),
        _ => true,
    }
}

/// A text as YAML: bare where no reader, of YAML 1.1 or 1.2, could take it for anything else.
pub(super) fn scalar_text(text: &str) -> String {
    // What YAML 1.1 takes for booleans, and YAML for nothing.
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_bare = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && !text.ends_with(':')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.:-".contains(c))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    let is_duration = text.ends_with(['s', 'm', 'h'])
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric());
    if is_bare || is_duration { text.to_owned() } else { double_quoted(text) }
}

fn double_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Debug output leaves alone what can be printed, so that no value writes to the terminal.
            c if c.escape_debug().len() == 1 || c == '\'' => quoted.push(c),
            c => {
                // Writing to a String cannot fail.
                write!(quoted, "\\U{:08x}", u32::from(c)).unwrap_or_default();
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests;
