//! What is wrong with a configuration: where, with which key, and what would be right.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::tree::MASK;
use crate::terminal::escape;

/// Where a value was written. Ordered as sources are: later ones win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Nowhere: the agent's own choice.
    Default,
    /// In a file, on that line where the format tells.
    File(Arc<Path>, Option<u32>),
    /// In an environment variable.
    Variable(Arc<str>),
    /// On the command line.
    Flag(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path, None) => write_clean(formatter, &path.to_string_lossy()),
            Self::File(path, Some(line)) => {
                write_clean(formatter, &path.to_string_lossy())?;
                write!(formatter, ":{line}")
            }
            // Names of variables can hold anything but `=`.
            Self::Variable(name) | Self::Flag(name) => write_clean(formatter, name),
        }
    }
}

/// Writes a name without what would write to the terminal of whoever reads it, or reorder what he reads.
fn write_clean(formatter: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    formatter.write_str(&escape(name))
}

/// One step into the tree of settings. It is cheap to clone: every value has a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Into a section.
    Key(Arc<str>),
    /// Into a list.
    Index(usize),
}

/// The way to a setting: `probes[1].destServicePort`. Empty for the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyPath(pub(super) Vec<Step>);

impl KeyPath {
    /// The way to an entry of a section.
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.into()))
    }

    /// The way to an item of a list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    pub(super) fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

/// A path of keys that are plain words: `export.tls.caFile`.
impl From<&str> for KeyPath {
    fn from(dotted: &str) -> Self {
        Self(dotted.split('.').map(|key| Step::Key(key.into())).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = Self::from("export.headers");
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(formatter, "[{index}]")?,
                Step::Key(key) if self.0.get(..position) == Some(&headers.0) && !is_header_name(key) => {
                    write!(formatter, "[{}]", quote(MASK))?;
                }
                Step::Key(key) if !is_plain_word(key) => write!(formatter, "[{}]", quote(key))?,
                Step::Key(key) if position == 0 => formatter.write_str(key)?,
                Step::Key(key) => write!(formatter, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Whether a key could be a header's name. What cannot is masked: in `authorization: Bearer c2VjcmV0=`, read as a name and its
/// value, most of the secret stands before the `=`.
fn is_header_name(key: &str) -> bool {
    http::HeaderName::try_from(key).is_ok()
}

fn is_plain_word(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 64
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// A text as messages show it: in quotes, on one line, not endless, and without control characters, so that no
/// configuration can write to the terminal of whoever reads its errors.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Of a source with as many faults no more are looked for: nobody reads them, and a hostile file could have millions.
pub(super) const FAULTS_LIMIT: usize = 1_000;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    /// Where it was written; [`Place::Default`] for what is written nowhere, and should be.
    pub(super) place: Place,
    /// The setting; empty for what concerns the source as a whole.
    pub(super) path: KeyPath,
    /// The value, ready to be shown: masked if it is a secret.
    pub(super) value: Option<String>,
    /// What is wrong.
    pub(super) problem: String,
    /// What would be right.
    pub(super) allowed: Option<String>,
    /// The name that was probably meant.
    pub(super) meant: Option<String>,
}

impl Fault {
    pub(super) fn new(place: Place, path: KeyPath, problem: impl Into<String>) -> Self {
        Self { place, path, value: None, problem: problem.into(), allowed: None, meant: None }
    }

    #[must_use]
    pub(super) fn value(mut self, shown: impl Into<String>) -> Self {
        self.value = Some(shown.into());
        self
    }

    #[must_use]
    pub(super) fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    #[must_use]
    pub(super) fn meant(mut self, name: Option<impl Into<String>>) -> Self {
        self.meant = name.map(Into::into);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Default {
            write!(formatter, "{}: ", self.place)?;
        }
        if !self.path.0.is_empty() {
            self.path.fmt(formatter)?;
            if let Some(value) = &self.value {
                formatter.write_str(" = ")?;
                write_clean(formatter, value)?;
            }
            formatter.write_str(": ")?;
        }
        // Each may repeat what was written, in the words of a library.
        write_clean(formatter, &self.problem)?;
        if let Some(allowed) = &self.allowed {
            formatter.write_str("\n    allowed: ")?;
            write_clean(formatter, allowed)?;
        }
        if let Some(meant) = &self.meant {
            formatter.write_str("\n    did you mean `")?;
            write_clean(formatter, meant)?;
            formatter.write_str("`?")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, by source, line and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigErrors(Vec<Fault>);

impl ConfigErrors {
    /// Sorted, and each once.
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort();
        faults.dedup();
        Self(faults)
    }

    /// What is wrong.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [_] => formatter.write_str("the configuration has an error")?,
            faults => write!(formatter, "the configuration has {} errors", faults.len())?,
        }
        for fault in &self.0 {
            write!(formatter, "\n\n{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
