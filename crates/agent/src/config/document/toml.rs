//! TOML, with lines.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike, Value};

use super::{
    Content, DEPTH_LIMIT, KEY_BYTES_LIMIT, Lines, Node, Parsed, SyntaxFault, too_deep, too_long_key,
};
use crate::config::fault::{FAULTS_LIMIT, KeyPath};

pub(super) fn parse(text: &str) -> Parsed {
    let lines = Lines::new(text);
    match Document::parse(text) {
        Ok(document) => {
            let mut reader = Reader { lines, faults: Vec::new() };
            let content = reader.item(document.as_item(), 1, &KeyPath::default());
            (Some(Node { line: 1, content }), reader.faults)
        }
        Err(error) => {
            let line = error.span().map(|span| lines.of(span.start));
            let problem = format!("not TOML: {}", error.message().trim_end().replace('\n', ", "));
            (None, vec![SyntaxFault { line, path: KeyPath::default(), problem }])
        }
    }
}

struct Reader {
    lines: Lines,
    faults: Vec<SyntaxFault>,
}

impl Reader {
    fn item(&mut self, item: &Item, line: u32, path: &KeyPath) -> Content {
        match item {
            Item::None => Content::Null,
            Item::Value(value) => self.value(value, line, path),
            Item::Table(table) => self.table(table, line, path),
            Item::ArrayOfTables(tables) => {
                let mut items = Vec::with_capacity(tables.len());
                for (index, table) in tables.iter().enumerate() {
                    let line = self.line_of(table.span(), line);
                    items.push(Node { line, content: self.table(table, line, &path.index(index)) });
                }
                Content::List(items)
            }
        }
    }

    fn value(&mut self, value: &Value, line: u32, path: &KeyPath) -> Content {
        match value {
            Value::String(text) => Content::Text(text.value().clone()),
            Value::Integer(integer) => Content::Integer((*integer.value()).into()),
            Value::Float(float) => Content::Float(*float.value()),
            Value::Boolean(boolean) => Content::Bool(*boolean.value()),
            // No setting is a date: it is refused later, as any text would be there.
            Value::Datetime(date) => Content::Text(date.value().to_string()),
            Value::InlineTable(table) => self.table(table, line, path),
            Value::Array(array) => {
                if self.is_too_deep(line, path) {
                    return Content::Null;
                }
                let mut items = Vec::with_capacity(array.len());
                for (index, value) in array.iter().enumerate() {
                    let line = self.line_of(value.span(), line);
                    items.push(Node { line, content: self.value(value, line, &path.index(index)) });
                }
                Content::List(items)
            }
        }
    }

    fn table(&mut self, table: &dyn TableLike, line: u32, path: &KeyPath) -> Content {
        if self.is_too_deep(line, path) {
            return Content::Null;
        }
        let node = |(key, item): (&str, &Item)| {
            let line = self.line_of(table.key(key).and_then(toml_edit::Key::span), line);
            if key.len() > KEY_BYTES_LIMIT {
                self.fault(line, path, too_long_key());
                return None;
            }
            Some((key.to_owned(), Node { line, content: self.item(item, line, &path.key(key)) }))
        };
        Content::Map(table.iter().filter_map(node).collect())
    }

    fn is_too_deep(&mut self, line: u32, path: &KeyPath) -> bool {
        let too_many = path.0.len() > DEPTH_LIMIT;
        if too_many {
            self.fault(line, path, too_deep());
        }
        too_many
    }

    fn fault(&mut self, line: u32, path: &KeyPath, problem: String) {
        if self.faults.len() < FAULTS_LIMIT {
            self.faults.push(SyntaxFault::at(line, path.clone(), problem));
        }
    }

    /// The line on which a part of the document starts; that of what it is in where the parser does not tell.
    fn line_of(&self, span: Option<Range<usize>>, otherwise: u32) -> u32 {
        span.map_or(otherwise, |span| self.lines.of(span.start))
    }
}
