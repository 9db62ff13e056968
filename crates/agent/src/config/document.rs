//! Files as trees of values that know their lines, whatever the format.

mod json;
mod toml;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use super::fault::KeyPath;

/// A file's format, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// YAML 1.2 (core schema) and the merge key `<<` of YAML 1.1, which people expect beside anchors.
    Yaml,
    /// TOML 1.0.
    Toml,
    /// JSON (RFC 8259).
    Json,
}

impl Format {
    /// The extensions that are known, for people.
    pub(super) const EXTENSIONS: &str = ".yaml, .yml, .toml or .json";

    /// The format that the extension names.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A value and the line, from 1, of its key, or its own where it has none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) content: Content,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

/// What a document does against its format, or against the limits here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxFault {
    pub(super) line: Option<u32>,
    pub(super) path: KeyPath,
    pub(super) problem: String,
}

impl SyntaxFault {
    fn at(line: u32, path: KeyPath, problem: impl Into<String>) -> Self {
        Self { line: Some(line), path, problem: problem.into() }
    }
}

/// A document, where it can be read as far as to have one, and what is wrong with it.
pub(super) type Parsed = (Option<Node>, Vec<SyntaxFault>);

/// No sensible configuration nests deeper. It bounds every recursion over the tree.
const DEPTH_LIMIT: usize = 64;

/// No sensible key is longer. It bounds what it takes to tell the way to all that is below it.
pub(super) const KEY_BYTES_LIMIT: usize = 1024;

/// Parses a text. It takes no more memory than a small multiple of the text's length and a constant.
pub(super) fn parse(text: &str, format: Format) -> Parsed {
    // The mark that some editors put before UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match format {
        Format::Yaml => yaml::parse(text),
        Format::Toml => toml::parse(text),
        Format::Json => json::parse(text),
    }
}

/// Finds the lines of byte offsets.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect())
    }

    /// The line, from 1, of the byte at that offset.
    fn of(&self, offset: usize) -> u32 {
        let before = self.0.partition_point(|line_feed| *line_feed < offset);
        u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1)
    }
}

fn repeated_key(first_line: u32) -> String {
    format!("given twice, first on line {first_line}")
}

fn too_long_key() -> String {
    format!("a key of more than {KEY_BYTES_LIMIT} bytes")
}

fn too_deep() -> String {
    format!("nested more than {DEPTH_LIMIT} levels deep")
}

#[cfg(test)]
mod tests;
