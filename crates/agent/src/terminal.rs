//! Output for people: styles, aligned tables, and text that others wrote made harmless.
//!
//! Styles are always written. Whether they arrive is decided by the stream: `anstream::stdout()` and
//! `anstream::stderr()` strip them where no terminal is at the other end, or where `NO_COLOR` is set.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};

use anstyle::{AnsiColor, Effects, Style};
use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

/// Whom output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

/// What a piece of output means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// The name of a column or a section.
    Header,
    /// As it should be.
    Ok,
    /// Worth a look.
    Warn,
    /// Not as it should be.
    Error,
    /// Background.
    Dim,
}

impl Tone {
    /// How the tone looks on a terminal.
    pub(crate) const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Header => Style::new().effects(Effects::BOLD),
            Self::Ok => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Error => AnsiColor::Red.on_default().effects(Effects::BOLD),
            Self::Dim => Style::new().effects(Effects::DIMMED),
        }
    }

    /// Text in this tone, [escaped](escape): a piece of a line.
    pub(crate) fn paint(self, text: &str) -> impl Display {
        let style = self.style();
        fmt::from_fn(move |formatter| write!(formatter, "{style}{}{style:#}", escape(text)))
    }
}

/// Makes text that somebody else wrote harmless to a terminal and to the layout.
///
/// Whoever may start a process chooses its name: control characters (ECMA-48 C0 and C1, with them every escape
/// sequence), line separators and the marks that reorder what is read (Unicode UAX #9) become `\n`, `\u{1b}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    escape_by(text, |character, escaped| escaped.extend(character.escape_default()))
}

/// The same within a line of JSON, or of YAML that is written as JSON, where nothing of what is unsafe stands outside of strings:
/// what is read of it stays as it was (RFC 8259, section 7).
pub(crate) fn escape_json(line: &str) -> Cow<'_, str> {
    escape_by(line, |character, escaped| {
        let mut units = [0; 2];
        let units = character.encode_utf16(&mut units).iter();
        escaped.extend(units.map(|unit| format!("\\u{unit:04x}")));
    })
}

fn escape_by(text: &str, append: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_unsafe(character) {
            append(character, &mut escaped);
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// Writes a value as JSON, in lines for people, and harmless to a terminal.
///
/// # Errors
/// Those of the stream, and of what cannot be represented.
pub(crate) fn write_json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    for line in serde_json::to_string_pretty(value)?.lines() {
        writeln!(out, "{}", escape_json(line))?;
    }
    Ok(())
}

/// Whether a character could do more to a terminal than show itself.
pub(crate) fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{feff}')
        || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `key=value`, with quotes around a value that could not be told from its surroundings.
pub(crate) fn key_value(key: &str, value: &str) -> String {
    let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=');
    let mut text = format!("{key}=");
    if plain {
        text.push_str(value);
    } else {
        text.push('"');
        for character in value.chars() {
            if matches!(character, '"' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    }
    text
}

/// One field of a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Text in a tone, escaped.
    pub(crate) fn new(tone: Tone, text: impl Display) -> Self {
        Self { text: escape(&text.to_string()).into_owned(), tone, right: false }
    }

    /// Aligned to the right, as numbers are.
    pub(crate) fn right(mut self) -> Self {
        self.right = true;
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(Tone::Plain, text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Rows under headers, in aligned columns.
///
/// It can be written piece by piece: columns only ever grow, and the headers come again when they did.
#[derive(Debug, Clone)]
pub(crate) struct Table<const COLUMNS: usize> {
    headers: [&'static str; COLUMNS],
    widths: [usize; COLUMNS],
    right: [bool; COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
    headed: Option<[usize; COLUMNS]>,
}

/// What stands between two columns.
const GAP: usize = 2;

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    pub(crate) fn new(headers: [&'static str; COLUMNS]) -> Self {
        Self {
            headers,
            widths: headers.map(str::width),
            right: [false; COLUMNS],
            rows: Vec::new(),
            headed: None,
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [Cell; COLUMNS]) -> &mut Self {
        for ((cell, width), right) in cells.iter().zip(&mut self.widths).zip(&mut self.right) {
            *width = (*width).max(cell.text.width());
            *right |= cell.right;
        }
        self.rows.push(cells);
        self
    }

    /// Writes the rows added since it was last called; without any, nothing.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn write_to(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        // The last column has nothing behind it to be aligned.
        if let (Some(last), Some(false)) = (self.widths.last_mut(), self.right.last()) {
            *last = 0;
        }
        if self.headed != Some(self.widths) {
            self.headed = Some(self.widths);
            let headers = self.headers.map(|header| Cell::new(Tone::Header, header));
            self.write_line(out, &headers)?;
        }
        for row in &self.rows {
            self.write_line(out, row)?;
        }
        self.rows.clear();
        Ok(())
    }

    /// Nothing is written behind the last text of a line, so that copies of it carry no blanks.
    fn write_line(&self, out: &mut impl Write, cells: &[Cell; COLUMNS]) -> io::Result<()> {
        let mut owed = 0;
        for ((cell, width), right) in cells.iter().zip(self.widths).zip(self.right) {
            let padding = width.saturating_sub(cell.text.width());
            let (before, after) = if right { (padding, 0) } else { (0, padding) };
            if cell.text.is_empty() {
                owed += padding + GAP;
                continue;
            }
            let style = cell.tone.style();
            write!(out, "{:owed$}{:before$}{style}{}{style:#}", "", "", cell.text)?;
            owed = after + GAP;
        }
        writeln!(out)
    }
}

/// Lays out pieces of text one after the other, in lines of at most [`LINE`] columns with a margin.
///
/// The label stands in the first line's margin. Pieces are escaped, and never broken.
///
/// # Errors
/// Those of the stream.
pub(crate) fn write_wrapped<'a>(
    out: &mut impl Write,
    tone: Tone,
    label: &str,
    pieces: impl IntoIterator<Item = &'a str>,
) -> io::Result<()> {
    let margin = label.width() + GAP;
    let mut line = String::new();
    let mut lines = Vec::new();
    for piece in pieces {
        let piece = escape(piece);
        if !line.is_empty() && margin + line.width() + GAP + piece.width() > LINE {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            write!(line, "{:GAP$}", "").map_err(io::Error::other)?;
        }
        line.push_str(&piece);
    }
    lines.push(line);
    let style = tone.style();
    let mut label = label;
    for line in lines {
        let margin = margin - label.width();
        writeln!(out, "{style}{label}{:margin$}{line}{style:#}", "")?;
        label = "";
    }
    Ok(())
}

/// Columns of a wrapped line: what fits half of a wide screen.
const LINE: usize = 110;

#[cfg(test)]
mod tests;
