//! YAML, with lines.
//!
//! The tree is built here from the parser's events, without recursion: loaders that come with the parser
//! recurse as deep as the document nests, and know no lines of keys.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::mem::size_of;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{
    Content, DEPTH_LIMIT, KEY_BYTES_LIMIT, Node, Parsed, SyntaxFault, repeated_key, too_deep, too_long_key,
};
use crate::config::fault::{FAULTS_LIMIT, KeyPath, Step};

/// How many bytes the anchors and aliases of a document may take together, written out: a few lines of aliases of
/// aliases, or of anchors within anchors, would otherwise fill any memory.
const COPIED_BYTES_LIMIT: usize = 16 << 20;

pub(super) fn parse(text: &str) -> Parsed {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let problem = format!("not YAML: {}", error.info());
                let line = u32::try_from(error.marker().line()).ok();
                builder.faults.push(SyntaxFault { line, path: KeyPath::default(), problem });
                return (None, builder.faults);
            }
        };
        if builder.accept(event, span).is_err() {
            return (None, builder.faults);
        }
    }
    let root = builder.root.unwrap_or(Node { line: 1, content: Content::Null });
    (Some(root), builder.faults)
}

/// Reading on would make no sense; the fault is noted.
struct GiveUp;

/// A list or map that has begun and not ended.
struct Frame {
    line: u32,
    anchor: usize,
    kind: FrameKind,
}

enum FrameKind {
    List(Vec<Node>),
    Map {
        entries: BTreeMap<String, Node>,
        /// The key whose value comes next, and its line.
        key: Option<(MapKey, u32)>,
        /// What the merge key brings in, where the map itself has no such key.
        merged: Vec<Node>,
    },
}

enum MapKey {
    Plain(String),
    /// The merge key `<<`.
    Merge,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    documents: usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Node, Size)>,
    copied_bytes: usize,
    faults: Vec<SyntaxFault>,
}

impl Builder {
    fn accept(&mut self, event: Event<'_>, span: Span) -> Result<(), GiveUp> {
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        if self.faults.len() >= FAULTS_LIMIT {
            return Err(GiveUp);
        }
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.fault(line, "a second document begins: a configuration is one");
                    return Err(GiveUp);
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.awaits_key() {
                    if anchor != 0 {
                        self.anchor(anchor, &Node { line, content: Content::Text(text.to_string()) })?;
                    }
                    self.key(text.into_owned(), style, line)?;
                } else {
                    let content = self.scalar(&text, style, tag.as_deref(), line);
                    self.value(Node { line, content }, anchor)?;
                }
            }
            Event::Alias(anchor) => self.alias(anchor, line)?,
            Event::SequenceStart(anchor, tag) => {
                self.open(line, anchor, tag.as_deref(), "seq", FrameKind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                let kind = FrameKind::Map { entries: BTreeMap::new(), key: None, merged: Vec::new() };
                self.open(line, anchor, tag.as_deref(), "map", kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
        }
        Ok(())
    }

    fn open(
        &mut self,
        line: u32,
        anchor: usize,
        tag: Option<&Tag>,
        core: &str,
        kind: FrameKind,
    ) -> Result<(), GiveUp> {
        if self.awaits_key() {
            self.fault(line, "a key has to be a word, not a list or map");
            return Err(GiveUp);
        }
        if self.stack.len() >= DEPTH_LIMIT {
            self.fault(line, too_deep());
            return Err(GiveUp);
        }
        if let Some(tag) = tag.filter(|tag| !(tag.is_yaml_core_schema() && tag.suffix == core)) {
            self.fault(line, unknown_tag(tag));
        }
        self.stack.push(Frame { line, anchor, kind });
        Ok(())
    }

    fn close(&mut self) -> Result<(), GiveUp> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let content = match frame.kind {
            FrameKind::List(items) => Content::List(items),
            FrameKind::Map { mut entries, merged, .. } => {
                for source in merged {
                    self.merge(&mut entries, source);
                }
                Content::Map(entries)
            }
        };
        self.value(Node { line: frame.line, content }, frame.anchor)
    }

    /// Adds the entries of a map, or of each map of a list, that the map does not have itself.
    fn merge(&mut self, entries: &mut BTreeMap<String, Node>, source: Node) {
        let maps = match source.content {
            Content::List(items) => items,
            _ => vec![source],
        };
        for map in maps {
            if let Content::Map(more) = map.content {
                for (key, node) in more {
                    entries.entry(key).or_insert(node);
                }
            } else {
                self.fault(map.line, "`<<` takes a map or a list of maps");
            }
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.stack.last(), Some(Frame { kind: FrameKind::Map { key: None, .. }, .. }))
    }

    fn key(&mut self, text: String, style: ScalarStyle, line: u32) -> Result<(), GiveUp> {
        if text.len() > KEY_BYTES_LIMIT {
            self.fault(line, too_long_key());
            return Err(GiveUp);
        }
        let merge = text == "<<" && style == ScalarStyle::Plain;
        self.set_key(if merge { MapKey::Merge } else { MapKey::Plain(text) }, line);
        Ok(())
    }

    fn set_key(&mut self, new: MapKey, line: u32) {
        if let Some(Frame { kind: FrameKind::Map { key, .. }, .. }) = self.stack.last_mut() {
            *key = Some((new, line));
        }
    }

    /// Puts a finished value where it belongs.
    fn value(&mut self, mut node: Node, anchor: usize) -> Result<(), GiveUp> {
        if anchor != 0 {
            self.anchor(anchor, &node)?;
        }
        let mut repeated = None;
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame { kind: FrameKind::List(items), .. }) => items.push(node),
            Some(Frame { kind: FrameKind::Map { entries, key, merged }, .. }) => match key.take() {
                Some((MapKey::Plain(name), line)) => {
                    node.line = line;
                    match entries.entry(name) {
                        Entry::Vacant(entry) => {
                            entry.insert(node);
                        }
                        Entry::Occupied(entry) => {
                            repeated = Some((entry.key().clone(), line, repeated_key(entry.get().line)));
                        }
                    }
                }
                Some((MapKey::Merge, _)) => merged.push(node),
                None => {}
            },
        }
        if let Some((name, line, problem)) = repeated {
            let path = self.path().key(&name);
            self.faults.push(SyntaxFault::at(line, path, problem));
        }
        Ok(())
    }

    /// Keeps a copy of what is anchored.
    fn anchor(&mut self, anchor: usize, node: &Node) -> Result<(), GiveUp> {
        let size = measure(node);
        self.spend(size, node.line)?;
        self.anchors.insert(anchor, (node.clone(), size));
        Ok(())
    }

    /// Takes a copy of that size into account.
    fn spend(&mut self, size: Size, line: u32) -> Result<(), GiveUp> {
        self.copied_bytes = self.copied_bytes.saturating_add(size.bytes);
        if self.copied_bytes > COPIED_BYTES_LIMIT {
            self.fault(line, "written out, the anchors and aliases would be too large");
            return Err(GiveUp);
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), GiveUp> {
        let Some(size) = self.anchors.get(&anchor).map(|(_, size)| *size) else {
            self.fault(line, "an alias stands inside of what it stands for");
            return Err(GiveUp);
        };
        if self.stack.len() + size.height > DEPTH_LIMIT {
            self.fault(line, too_deep());
            return Err(GiveUp);
        }
        self.spend(size, line)?;
        let Some((mut node, _)) = self.anchors.get(&anchor).cloned() else { return Err(GiveUp) };
        if self.awaits_key() {
            let Content::Text(text) = node.content else {
                self.fault(line, "a key has to be a word");
                return Err(GiveUp);
            };
            self.key(text, ScalarStyle::DoubleQuoted, line)?;
        } else {
            // A fault inside is shown where it is written; the value itself belongs to this line.
            node.line = line;
            self.value(node, 0)?;
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Content {
        let core = tag.is_none_or(Tag::is_yaml_core_schema);
        let (content, fits) = match (tag.filter(|_| core).map(|tag| tag.suffix.as_str()), style) {
            (None, ScalarStyle::Plain) => (resolve(text), core),
            (None, _) => (Content::Text(text.to_owned()), core),
            (Some("str"), _) => (Content::Text(text.to_owned()), true),
            (Some(suffix), _) => {
                let content = resolve(text);
                let fits = match suffix {
                    "null" => matches!(content, Content::Null),
                    "bool" => matches!(content, Content::Bool(_)),
                    "int" => matches!(content, Content::Integer(_)),
                    "float" => matches!(content, Content::Float(_) | Content::Integer(_)),
                    _ => false,
                };
                (content, fits)
            }
        };
        if let Some(tag) = tag.filter(|_| !fits) {
            self.fault(line, unknown_tag(tag));
        }
        content
    }

    fn fault(&mut self, line: u32, problem: impl Into<String>) {
        let path = self.path();
        self.faults.push(SyntaxFault::at(line, path, problem));
    }

    /// The way to what is being read.
    fn path(&self) -> KeyPath {
        let step = |frame: &Frame| match &frame.kind {
            FrameKind::List(items) => Some(Step::Index(items.len())),
            FrameKind::Map { key: Some((MapKey::Plain(key), _)), .. } => Some(Step::Key(key.as_str().into())),
            FrameKind::Map { .. } => None,
        };
        KeyPath(self.stack.iter().filter_map(step).collect())
    }
}

/// The core schema (YAML 1.2.2, section 10.3.2).
fn resolve(text: &str) -> Content {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
        "true" | "True" | "TRUE" => return Content::Bool(true),
        "false" | "False" | "FALSE" => return Content::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Content::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Content::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Content::Float(f64::NAN),
        _ => {}
    }
    let radix = |prefix, radix| text.strip_prefix(prefix).map(|digits| i128::from_str_radix(digits, radix));
    let starts_like_a_number =
        text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.');
    if let Some(Ok(integer)) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Content::Integer(integer);
    }
    if starts_like_a_number && text.bytes().any(|byte| byte.is_ascii_digit()) {
        if let Ok(integer) = text.parse() {
            return Content::Integer(integer);
        }
        if let Ok(float) = text.parse() {
            return Content::Float(float);
        }
    }
    Content::Text(text.to_owned())
}

fn unknown_tag(tag: &Tag) -> String {
    let name = tag.to_string();
    if name.starts_with('!') {
        // A secret that begins with `!` is one to YAML.
        "a text that begins with ! has to be put in quotes".to_owned()
    } else {
        format!("the tag {} has no meaning here", crate::config::fault::quote(&name))
    }
}

/// What an alias of a node costs.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// About what the node takes in memory.
    bytes: usize,
    /// How many levels of lists and maps it has.
    height: usize,
}

fn measure(node: &Node) -> Size {
    let of_all = |sizes: &mut dyn Iterator<Item = Size>| {
        let mut whole = Size { bytes: 0, height: 1 };
        for size in sizes {
            whole.bytes += size.bytes;
            whole.height = whole.height.max(size.height + 1);
        }
        whole
    };
    let mut size = match &node.content {
        Content::Text(text) => Size { bytes: text.len(), height: 0 },
        Content::List(items) => of_all(&mut items.iter().map(measure)),
        Content::Map(entries) => of_all(&mut entries.iter().map(|(key, node)| {
            let Size { bytes, height } = measure(node);
            Size { bytes: key.len() + bytes, height }
        })),
        Content::Null | Content::Bool(_) | Content::Integer(_) | Content::Float(_) => Size::default(),
    };
    size.bytes += size_of::<Node>() + size_of::<String>();
    size
}
