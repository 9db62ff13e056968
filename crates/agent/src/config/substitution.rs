//! `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}` in the texts of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::suggest;
use crate::environment::Environment;

/// A text with its references replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Substituted {
    pub(super) text: String,
    /// It held a reference: its type is then up to the setting, as no format told it.
    pub(super) replaced: bool,
    /// The files whose content it holds, which no output may show.
    pub(super) files: Vec<PathBuf>,
}

/// What is wrong with a reference, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubstitutionFault {
    pub(super) problem: String,
    pub(super) allowed: String,
    pub(super) meant: Option<String>,
}

/// Replaces the references of a text. Paths are relative to the directory given: the configuration's.
///
/// A default serves for a variable that is not set, or empty. What is put in is not looked through again.
///
/// # Errors
/// Every reference that cannot be replaced.
pub(super) fn substitute(
    text: &str,
    environment: &Environment,
    directory: &Path,
) -> Result<Substituted, Vec<SubstitutionFault>> {
    let mut done =
        Substituted { text: String::with_capacity(text.len()), replaced: false, files: Vec::new() };
    let mut faults = Vec::new();
    for piece in parse_template(text) {
        match piece {
            Ok(Piece::Text(literal)) => done.text.push_str(literal),
            Ok(Piece::Variable { name, default }) => {
                done.replaced = true;
                match environment.get(name).or(default) {
                    Some(value) => done.text.push_str(value),
                    None => faults.push(unset(name, environment)),
                }
            }
            Ok(Piece::File(path)) => {
                done.replaced = true;
                let file = directory.join(path);
                match read_secret(&file) {
                    Ok(content) => {
                        done.text.push_str(&content);
                        done.files.push(file);
                    }
                    Err(error) => faults.push(SubstitutionFault {
                        problem: format!("${{file:{}}} cannot be read: {error}", path.escape_debug()),
                        allowed: format!("a readable text file of at most {SECRET_BYTES_LIMIT} bytes"),
                        meant: None,
                    }),
                }
            }
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(done) } else { Err(faults) }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
    File(&'a str),
}

/// Takes a text apart. `$$` stands for `$`; a `$` before anything but `{` or `$` stands for itself.
fn parse_template(text: &str) -> Vec<Result<Piece<'_>, SubstitutionFault>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        pieces.push(Ok(Piece::Text(before)));
        rest = after;
        if let Some(after) = rest.strip_prefix('{') {
            let Some((reference, after)) = after.split_once('}') else {
                pieces.push(Err(malformed("`${` is not closed", None)));
                return pieces;
            };
            pieces.push(parse_reference(reference));
            rest = after;
        } else {
            rest = rest.strip_prefix('$').unwrap_or(rest);
            pieces.push(Ok(Piece::Text("$")));
        }
    }
    pieces.push(Ok(Piece::Text(rest)));
    pieces
}

fn parse_reference(reference: &str) -> Result<Piece<'_>, SubstitutionFault> {
    let shown = reference.escape_debug();
    if let Some(path) = reference.strip_prefix("file:") {
        return if path.is_empty() {
            Err(malformed("${file:} names no file", None))
        } else {
            Ok(Piece::File(path))
        };
    }
    let Some(variable) = reference.strip_prefix("env:") else {
        let bare = reference.split_once(":-").map_or(reference, |(name, _)| name);
        let meant = is_variable_name(bare).then(|| format!("${{env:{reference}}}"));
        return Err(malformed(&format!("${{{shown}}} is not known"), meant));
    };
    let (name, default) = match variable.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (variable, None),
    };
    if is_variable_name(name) {
        Ok(Piece::Variable { name, default })
    } else {
        Err(malformed(&format!("${{{shown}}} does not name a variable"), None))
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn malformed(problem: &str, meant: Option<String>) -> SubstitutionFault {
    let allowed = "${env:NAME}, ${env:NAME:-default} and ${file:PATH}; $$ for a $ itself".to_owned();
    SubstitutionFault { problem: problem.to_owned(), allowed, meant }
}

fn unset(name: &str, environment: &Environment) -> SubstitutionFault {
    let near = suggest::nearest(name, environment.iter().map(|(name, _)| name));
    SubstitutionFault {
        problem: format!("the variable {name} is not set, or empty"),
        allowed: format!("a variable that is set, or a default as in ${{env:{name}:-default}}"),
        meant: near.map(|near| format!("${{env:{near}}}")),
    }
}

/// Nothing that is put into a setting is longer.
const SECRET_BYTES_LIMIT: u64 = 64 << 10;

/// Reads a file that holds one value; the line feed at its end is the editor's, not the value's.
fn read_secret(path: &Path) -> io::Result<String> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    // Opening a pipe would wait for a writer.
    if !path.metadata()?.is_file() {
        return Err(invalid("not a regular file"));
    }
    let mut content = String::new();
    File::open(path)?.take(SECRET_BYTES_LIMIT + 1).read_to_string(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|bytes| bytes > SECRET_BYTES_LIMIT) {
        return Err(invalid("too large"));
    }
    if content.ends_with('\n') {
        content.pop();
        if content.ends_with('\r') {
            content.pop();
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
