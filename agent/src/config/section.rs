//! Reads the keys of one table with their types and bounds, and finds the keys that nobody reads.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use jiff::SignedDuration;
use rollback::model::text::is_unsafe;

use super::file::{Node, Table, Value};
use super::problem::{Place, Problems, nearest};

/// One table that is being read; [`Section::finish`] reports what was not asked for.
pub(super) struct Section<'a> {
    table: &'a Table,
    /// The dotted name of the table with a dot at the end; empty for the whole file.
    prefix: String,
    known: Vec<&'static str>,
    pub(super) problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: &'a Table, problems: &'a Problems) -> Self {
        Self { table, prefix: String::new(), known: Vec::new(), problems }
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for (key, node) in self.table.keys.iter().filter(|(key, _)| !self.known.contains(&key.as_str())) {
            let message = format!("unknown key `{}{key}`", self.prefix);
            match nearest(key, &self.known) {
                Some(meant) => self.problems.hint(&node.place, message, format!("did you mean `{meant}`?")),
                None => self.problems.hint(&node.place, message, format!("known here: {}", self.known.join(", "))),
            }
        }
    }

    /// Reports keys that cannot stand here although others know them.
    pub(super) fn forbid(&mut self, keys: &[&'static str], why: &str) {
        for key in keys {
            if self.node(key).is_some() {
                self.problem(key, why);
            }
        }
    }

    /// Reports a key that must be there and is not; the place is the table's.
    pub(super) fn missing(&self, key: &str, hint: &str) {
        self.problems.hint(&self.table.place, format!("`{}{key}` is missing", self.prefix), hint);
    }

    /// Reports a problem of a key.
    pub(super) fn problem(&self, key: &str, what: impl Display) {
        self.problems.add(self.place(key), format!("`{}{key}`: {what}", self.prefix));
    }

    /// Reports a problem of a key with what to do about it.
    pub(super) fn problem_hint(&self, key: &str, what: impl Display, hint: impl Into<String>) {
        self.problems.hint(self.place(key), format!("`{}{key}`: {what}", self.prefix), hint);
    }

    /// Returns the place of a key, or of the table without it.
    pub(super) fn place(&self, key: &str) -> &'a Place {
        self.table.keys.get(key).map_or(&self.table.place, |node| &node.place)
    }

    /// Tells whether the key is there, whatever it says.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.keys.contains_key(key)
    }

    /// Reads a key of any kind.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.keys.get(key)
    }

    /// Reads a text without control characters.
    pub(super) fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let node = self.node(key)?;
        self.plain(key, node)
    }

    /// Reads a text and parses it.
    pub(super) fn parse<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        self.parsed(key, text)
    }

    /// Parses a text that a key said.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, key: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.problem(key, error)).ok()
    }

    /// Reads an absolute path.
    pub(super) fn absolute(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key)?);
        if !path.is_absolute() {
            self.problem_hint(key, format_args!("{path:?} is not an absolute path"), "it begins with `/`");
            return None;
        }
        Some(path)
    }

    /// Reads an integer within bounds.
    pub(super) fn integer(&mut self, key: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let node = self.node(key)?;
        let Value::Integer(number) = node.value else { return self.wrong(key, node, "an integer") };
        let within = u32::try_from(number).ok().filter(|number| bounds.contains(number));
        if within.is_none() {
            self.problem(key, format_args!("{number} is not between {} and {}", bounds.start(), bounds.end()));
        }
        within
    }

    /// Reads a number, whole or not; the bounds themselves are allowed.
    pub(super) fn number(&mut self, key: &'static str, bounds: RangeInclusive<f64>) -> Option<f64> {
        let node = self.node(key)?;
        let number = match node.value {
            Value::Float(number) => number,
            Value::Integer(number) => float(number),
            Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
                return self.wrong(key, node, "a number");
            }
        };
        let within = bounds.contains(&number);
        if !within {
            self.problem(key, format_args!("{number} is not between {} and {}", bounds.start(), bounds.end()));
        }
        within.then_some(number)
    }

    /// Reads a size within bounds, in bytes.
    pub(super) fn bytes(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let node = self.node(key)?;
        let Value::Text(text) = &node.value else { return self.wrong(key, node, "a size such as \"512MiB\"") };
        let Some(bytes) = parse_bytes(text) else {
            let hint = "write \"64KiB\", \"512MiB\" or \"2GiB\"";
            self.problem_hint(key, format_args!("{text:?} is not a size"), hint);
            return None;
        };
        let within = bounds.contains(&bytes);
        if !within {
            let [from, to] = [*bounds.start(), *bounds.end()].map(bytes_text);
            self.problem(key, format_args!("{text:?} is not between {from} and {to}"));
        }
        within.then_some(bytes)
    }

    /// Reads `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let node = self.node(key)?;
        let Value::Flag(flag) = node.value else { return self.wrong(key, node, "`true` or `false`") };
        Some(flag)
    }

    /// Reads a duration within bounds, in milliseconds.
    pub(super) fn millis(&mut self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let node = self.node(key)?;
        let Value::Text(text) = &node.value else { return self.wrong(key, node, "a duration such as \"20s\"") };
        let Ok(duration) = text.parse::<SignedDuration>() else {
            self.problem_hint(
                key,
                format_args!("{text:?} is not a duration"),
                "write \"500ms\", \"20s\" or \"1m 30s\"",
            );
            return None;
        };
        let within = u64::try_from(duration.as_millis()).ok().filter(|millis| bounds.contains(millis));
        if within.is_none() {
            let [from, to] = [*bounds.start(), *bounds.end()].map(duration_text);
            self.problem(key, format_args!("{text:?} is not between {from} and {to}"));
        }
        within
    }

    /// Reads an array; empty without it.
    pub(super) fn list(&mut self, key: &'static str) -> &'a [Node] {
        let Some(node) = self.node(key) else { return &[] };
        let Value::List(items) = &node.value else {
            self.wrong::<()>(key, node, "an array");
            return &[];
        };
        items
    }

    /// Reads an array of texts without control characters, each with its place.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<(&'a str, &'a Place)> {
        self.list(key).iter().filter_map(|item| Some((self.plain(key, item)?, &item.place))).collect()
    }

    /// Reads a program and its arguments, which may have any character but NUL; none, and a problem, when empty.
    pub(super) fn command(&mut self, key: &'static str) -> Option<Vec<String>> {
        let node = self.node(key)?;
        self.argv(key, node)
    }

    /// Takes a program and its arguments from what a key said.
    pub(super) fn argv(&self, key: &str, node: &Node) -> Option<Vec<String>> {
        let Value::List(items) = &node.value else {
            return self.wrong(key, node, "an array: the program and its arguments");
        };
        let words: Vec<String> = items.iter().filter_map(|item| self.any(key, item)).map(str::to_owned).collect();
        if words.len() < items.len() {
            return None;
        }
        if words.first().is_none_or(String::is_empty) {
            return self.at(node, key, "there is no program");
        }
        Some(words)
    }

    /// Reads a table.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Section<'a>> {
        let node = self.node(key)?;
        let Value::Table(table) = &node.value else { return self.wrong(key, node, "a table") };
        Some(self.below(table, key))
    }

    /// Reads an array of tables, at most `max`.
    pub(super) fn tables(&mut self, key: &'static str, max: usize) -> Vec<Section<'a>> {
        let items = self.list(key);
        if items.len() > max {
            self.problem(key, format_args!("there are {} of them, at most {max} are allowed", items.len()));
        }
        let tables = items.iter().take(max).filter_map(|item| match &item.value {
            Value::Table(table) => Some(self.below(table, key)),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Flag(_)
            | Value::List(_)
            | Value::Other(_) => self.wrong(key, item, "a table"),
        });
        tables.collect()
    }

    /// Returns every key of the table with what it says: for tables whose keys are names.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'a str, &'a Node)> {
        self.table.keys.iter().map(|(key, node)| (key.as_str(), node))
    }

    fn below(&self, table: &'a Table, key: &str) -> Section<'a> {
        let prefix = format!("{}{key}.", self.prefix);
        Section { table, prefix, known: Vec::new(), problems: self.problems }
    }

    /// Reads a text with any character but NUL, which no system call takes.
    pub(super) fn any<'n>(&self, key: &str, node: &'n Node) -> Option<&'n str> {
        let Value::Text(text) = &node.value else { return self.wrong(key, node, "a string") };
        if text.contains('\0') {
            return self.at(node, key, "the character '\\0' is not allowed");
        }
        Some(text)
    }

    fn plain<'n>(&self, key: &str, node: &'n Node) -> Option<&'n str> {
        let text = self.any(key, node)?;
        match text.chars().find(|c| is_unsafe(*c)) {
            Some(c) => self.at(node, key, format_args!("the character {c:?} is not allowed")),
            None => Some(text),
        }
    }

    fn wrong<T>(&self, key: &str, node: &Node, expected: &str) -> Option<T> {
        self.at(node, key, format_args!("{expected} is expected, found {}", node.value.kind()))
    }

    fn at<T>(&self, node: &Node, key: &str, what: impl Display) -> Option<T> {
        self.problems.add(&node.place, format!("`{}{key}`: {what}", self.prefix));
        None
    }
}

/// Writes milliseconds as the configuration does: `1m 30s`.
pub(super) fn duration_text(millis: u64) -> String {
    format!("{:#}", SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)))
}

#[expect(clippy::cast_precision_loss, reason = "nobody writes a limit whose sixteenth digit matters")]
fn float(number: i64) -> f64 {
    number as f64
}

/// The units of sizes, the largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim_end().parse::<u64>().ok()?.checked_mul(*unit)
}

/// Writes bytes as the configuration does: `512MiB`.
pub(super) fn bytes_text(bytes: u64) -> String {
    let (name, unit) = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit)).unwrap_or(&("KiB", 1 << 10));
    format!("{}{name}", bytes / unit)
}
