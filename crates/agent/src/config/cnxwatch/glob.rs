//! Regular expressions (RE2, as Go has them) as globs, as far as a glob can say the same.

use std::iter::Peekable;
use std::str::Chars;

use vms_core::process::NameGlob;

/// Alternatives multiply: more of them are no pattern that anybody could read.
const ALTERNATIVES_LIMIT: usize = 32;

/// Nobody nests deeper; it bounds the recursion.
const DEPTH_LIMIT: usize = 16;

/// The glob of what `^EXPRESSION$` matches, which is how cnxwatch puts it together: in `a|b` the first is anchored at the
/// beginning alone, and the second at the end.
///
/// # Errors
/// What of it no glob can say.
pub(super) fn from_expression(expression: &str) -> Result<NameGlob, String> {
    let mut parser = Parser { rest: expression.chars().peekable(), depth: 0 };
    let branches = parser.branches()?;
    if parser.rest.next().is_some() {
        return Err("a `)` closes nothing".to_owned());
    }
    let last = branches.len().saturating_sub(1);
    let mut globs: Vec<String> = Vec::new();
    for (index, Branch { texts, is_at_start, is_at_end }) in branches.into_iter().enumerate() {
        let before = if index == 0 || is_at_start { "" } else { "*" };
        let behind = if index == last || is_at_end { "" } else { "*" };
        for text in texts {
            let glob = join(&join(before, &text), behind);
            // No process is without a name.
            if !glob.is_empty() && !globs.contains(&glob) {
                globs.push(glob);
            }
        }
    }
    let text = match globs.as_slice() {
        [] => return Err("it matches no name".to_owned()),
        [only] => only.clone(),
        several => format!("{{{}}}", several.join(",")),
    };
    text.parse().map_err(|error| format!("{error}"))
}

/// One of several alternatives, each of which may be written in several ways.
struct Branch {
    texts: Vec<String>,
    is_at_start: bool,
    is_at_end: bool,
}

struct Parser<'a> {
    rest: Peekable<Chars<'a>>,
    depth: usize,
}

impl Parser<'_> {
    /// What stands between `|`, up to the end or a `)`.
    fn branches(&mut self) -> Result<Vec<Branch>, String> {
        let mut branches = vec![self.branch()?];
        while self.rest.next_if_eq(&'|').is_some() {
            branches.push(self.branch()?);
            if branches.len() > ALTERNATIVES_LIMIT {
                return Err(too_many());
            }
        }
        Ok(branches)
    }

    fn branch(&mut self) -> Result<Branch, String> {
        let mut branch = Branch { texts: vec![String::new()], is_at_start: false, is_at_end: false };
        let mut is_first = true;
        while let Some(next) = self.rest.next_if(|next| !['|', ')'].contains(next)) {
            match next {
                '^' if is_first && self.depth == 0 => branch.is_at_start = true,
                '$' if self.depth == 0 && matches!(self.rest.peek(), None | Some('|')) => {
                    branch.is_at_end = true;
                }
                '^' | '$' => return Err(format!("a `{next}` in the middle")),
                _ => {
                    let atom = self.atom(next)?;
                    branch.texts = multiply(&branch.texts, &self.repeated(&atom)?)?;
                    is_first = false;
                }
            }
        }
        Ok(branch)
    }

    /// The ways to write one thing that can be repeated.
    fn atom(&mut self, first: char) -> Result<Vec<String>, String> {
        match first {
            '.' => Ok(vec!["?".to_owned()]),
            '(' => self.group(),
            '[' => self.class(),
            '*' | '+' | '?' | '{' => Err(format!("`{first}` repeats nothing")),
            '\\' => match self.rest.next() {
                Some('d') => Ok(vec!["[0-9]".to_owned()]),
                Some('w') => Ok(vec!["[0-9A-Za-z_]".to_owned()]),
                Some(escaped) if escaped.is_ascii_punctuation() => Ok(vec![literal(escaped)]),
                Some(escaped) => Err(format!("`\\{}`", escaped.escape_debug())),
                None => Err("a `\\` at the end".to_owned()),
            },
            c => Ok(vec![literal(c)]),
        }
    }

    fn group(&mut self) -> Result<Vec<String>, String> {
        if self.rest.next_if_eq(&'?').is_some() {
            let flags: String = std::iter::from_fn(|| self.rest.next_if(char::is_ascii_alphabetic)).collect();
            match (flags.as_str(), self.rest.next()) {
                // Globs do not tell upper from lower case at all.
                ("i", Some(')')) => return Ok(vec![String::new()]),
                ("" | "i", Some(':')) => {}
                _ => return Err("a group with `(?`".to_owned()),
            }
        }
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return Err("too many groups in groups".to_owned());
        }
        let branches = self.branches()?;
        self.depth -= 1;
        if self.rest.next() != Some(')') {
            return Err("a `(` is not closed".to_owned());
        }
        let texts: Vec<String> = branches.into_iter().flat_map(|branch| branch.texts).collect();
        if texts.len() > ALTERNATIVES_LIMIT { Err(too_many()) } else { Ok(texts) }
    }

    /// What stands behind the `[`.
    fn class(&mut self) -> Result<Vec<String>, String> {
        let unclosed = || "a `[` is not closed".to_owned();
        let is_negated = self.rest.next_if_eq(&'^').is_some();
        let (mut ranges, mut singles) = (String::new(), Vec::new());
        let mut is_first = true;
        loop {
            let c = match self.rest.next().ok_or_else(unclosed)? {
                ']' if !is_first => break,
                '[' if self.rest.peek() == Some(&':') => return Err("a class such as `[:alpha:]`".to_owned()),
                '\\' => match self.rest.next().ok_or_else(unclosed)? {
                    'd' => {
                        ranges.push_str("0-9");
                        is_first = false;
                        continue;
                    }
                    'w' => {
                        ranges.push_str("0-9A-Za-z_");
                        is_first = false;
                        continue;
                    }
                    escaped if escaped.is_ascii_punctuation() => escaped,
                    escaped => return Err(format!("`\\{}`", escaped.escape_debug())),
                },
                c => c,
            };
            is_first = false;
            let mut ahead = self.rest.clone();
            let end = ahead.next_if_eq(&'-').and_then(|_dash| ahead.next()).filter(|end| *end != ']');
            match end {
                Some(end) if c.is_ascii_alphanumeric() && end.is_ascii_alphanumeric() && c <= end => {
                    ranges.extend([c, '-', end]);
                    self.rest = ahead;
                }
                Some(end) => return Err(format!("the range `{c}-{end}`")),
                None => singles.push(c),
            }
        }
        if ranges.is_empty()
            && !is_negated
            && (singles.len() == 1 || singles.iter().all(|c| "!^".contains(*c)))
        {
            return Ok(singles.into_iter().map(literal).collect());
        }
        // A `]` is one of the class where it comes first, a `-` where it comes last, and `!` and `^` where they do not
        // come first.
        singles.sort_by_key(|c| match c {
            ']' => 0,
            '!' | '^' => 2,
            '-' => 3,
            _ => 1,
        });
        singles.dedup();
        let (before, behind): (String, String) = (
            singles.iter().filter(|c| **c == ']').collect(),
            singles.iter().filter(|c| **c != ']').collect(),
        );
        let sign = if is_negated { "!" } else { "" };
        Ok(vec![format!("[{sign}{before}{ranges}{behind}]")])
    }

    /// An atom as often as what follows says.
    fn repeated(&mut self, atom: &[String]) -> Result<Vec<String>, String> {
        let Some(sign) = self.rest.next_if(|c| ['*', '+', '?', '{'].contains(c)) else {
            return Ok(atom.to_vec());
        };
        let (least, most) = match sign {
            '*' => (0, None),
            '+' => (1, None),
            '?' => (0, Some(1)),
            _ => self.counts()?,
        };
        // Lazy or greedy: a whole name matches either way.
        self.rest.next_if_eq(&'?');
        if self.rest.peek().is_some_and(|c| ['*', '+', '?', '{'].contains(c)) {
            return Err("a repetition of a repetition".to_owned());
        }
        let times =
            |count: usize| (0..count).try_fold(vec![String::new()], |texts, _| multiply(&texts, atom));
        let Some(most) = most else {
            return match atom {
                [any] if any == "?" => multiply(&times(least)?, &["*".to_owned()]),
                _ => Err(format!("`{sign}` behind anything but `.`: a glob repeats nothing else")),
            };
        };
        let mut texts = Vec::new();
        for count in least..=most {
            texts.extend(times(count)?);
            if texts.len() > ALTERNATIVES_LIMIT {
                return Err(too_many());
            }
        }
        Ok(texts)
    }

    /// What stands behind the `{` of a repetition.
    fn counts(&mut self) -> Result<(usize, Option<usize>), String> {
        let inside: String = std::iter::from_fn(|| self.rest.next_if(|c| *c != '}')).collect();
        let wrong = || format!("`{{{}}}`", inside.escape_debug());
        if self.rest.next().is_none() {
            return Err(wrong());
        }
        let number =
            |text: &str| text.parse().ok().filter(|count| *count <= ALTERNATIVES_LIMIT).ok_or_else(wrong);
        let (least, most) = match inside.split_once(',') {
            None => (number(&inside)?, Some(number(&inside)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        if most.is_some_and(|most| most < least) { Err(wrong()) } else { Ok((least, most)) }
    }
}

/// Each of the ones before each of the others.
fn multiply(texts: &[String], others: &[String]) -> Result<Vec<String>, String> {
    if texts.len().saturating_mul(others.len()) > ALTERNATIVES_LIMIT {
        return Err(too_many());
    }
    Ok(texts.iter().flat_map(|text| others.iter().map(|other| join(text, other))).collect())
}

/// One behind the other; `**` means something of its own in globs.
fn join(text: &str, other: &str) -> String {
    let other =
        if text.ends_with('*') && !text.ends_with("\\*") { other.trim_start_matches('*') } else { other };
    format!("{text}{other}")
}

fn literal(c: char) -> String {
    if "*?[]{},!\\".contains(c) { format!("\\{c}") } else { c.to_string() }
}

fn too_many() -> String {
    format!("more than {ALTERNATIVES_LIMIT} alternatives")
}

#[cfg(test)]
mod tests;
