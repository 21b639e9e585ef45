//! Reads the text format in which services expose their metrics (Prometheus 0.0.4, and what OpenMetrics adds to a line).
//!
//! Strict: one line that is no sample makes the whole text worthless, because a text that is cut or mixed with another
//! would otherwise count as a service without errors.

use std::borrow::Cow;

/// Most labels of a sample: beyond it a line is no metric.
const LABELS_MAX: usize = 128;

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The metric's name.
    pub name: &'a str,
    /// Its labels, in the order of the line.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
}

impl Sample<'_> {
    /// Gives a label's value; the empty text when it is not there, as in PromQL.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// A line that is no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no sample")]
pub struct Malformed {
    /// Its number, from 1.
    pub line: usize,
}

/// Reads every sample of a text; comments and empty lines are passed over.
pub fn samples(text: &str) -> impl Iterator<Item = Result<Sample<'_>, Malformed>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_matches([' ', '\t'])));
    let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    said.map(|(line, text)| sample(text).ok_or(Malformed { line }))
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, rest) = identifier(line, true)?;
    let (labels, rest) = match blanks(rest).strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // After the value there may be a time, and in OpenMetrics an exemplar behind a `#`.
    let rest = rest.split('#').next().unwrap_or_default();
    let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
    let value = words.next()?.parse().ok()?;
    let time = words.next().map(str::parse::<f64>);
    if matches!(time, Some(Err(_))) || words.next().is_some() {
        return None;
    }
    Some(Sample { name, labels, value })
}

type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

fn labels(mut rest: &str) -> Option<(Labels<'_>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = blanks(rest);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = identifier(rest, false)?;
        let (value, after) = quoted(blanks(blanks(after).strip_prefix('=')?))?;
        if labels.len() == LABELS_MAX {
            return None;
        }
        labels.push((name, value));
        rest = blanks(after);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// Takes the blanks off the front.
pub(super) fn blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// Takes a name off the front; those of metrics may have colons.
pub(super) fn identifier(text: &str, colons: bool) -> Option<(&str, &str)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    name.starts_with(|c: char| !c.is_ascii_digit()).then_some((name, rest))
}

/// Takes a text in double quotes off the front, with `\\`, `\"` and `\n` in it.
pub(super) fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(value), &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('\\' | '"') => value.push(escaped),
                // As the format has it: a backslash before anything else is one.
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
    None
}
