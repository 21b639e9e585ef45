//! Reads a file of the configuration, bounded, and turns its text into a tree in which every value knows its line.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigProblem, Place, Problems};
use super::trust;

/// Largest file that is read: a thousand times what a component needs, and small enough to be held twice.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// What one key says, with the place where it says so.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Node>),
    Table(Table),
    /// A kind that no key takes: its name.
    Other(&'static str),
}

impl Value {
    /// Names the kind of the value for a message.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Flag(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Keys and what they say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// The line of its header; the first of the file for the whole file.
    pub(super) place: Place,
    pub(super) keys: BTreeMap<String, Node>,
}

impl Table {
    /// A file that says nothing.
    pub(super) fn empty(file: &Path) -> Self {
        Self { place: Place { file: Arc::from(file), line: 1 }, keys: BTreeMap::new() }
    }
}

/// Reads a file that only its owner (root or the agent) can change; none, and a problem, when it cannot be taken.
pub(super) fn read(file: &Path, problems: &Problems) -> Option<Table> {
    match text(file) {
        Ok(text) => parse(&text, file, problems),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn text(file: &Path) -> Result<String, ConfigProblem> {
    let cannot = |cause: &dyn std::fmt::Display| ConfigProblem::of_file(file, format!("cannot read: {cause}"), None);
    // Without blocking: a pipe that somebody put there must not hang the agent.
    let opened = rustix::fs::open(file, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let opened = std::fs::File::from(opened.map_err(|error| cannot(&error))?);
    let metadata = opened.metadata().map_err(|error| cannot(&error))?;
    if !metadata.is_file() {
        return Err(cannot(&"it is not a regular file"));
    }
    trust::judge(file, &metadata)?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(cannot(&format_args!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| cannot(&error))
}

/// Turns text into a tree; none, and all syntax errors as problems, when it is not TOML.
pub(super) fn parse(text: &str, file: &Path, problems: &Problems) -> Option<Table> {
    let lines = Lines::new(text, file);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = lines.place(error.span().unwrap_or(0..0));
        problems.add(&place, format!("not TOML: {}", error.message()));
    }
    errors.is_empty().then(|| lines.table(table.get_ref(), lines.place(0..0)))
}

/// The places of the lines of a file.
struct Lines {
    file: Arc<Path>,
    /// The offsets of all newlines, ascending.
    ends: Vec<usize>,
}

impl Lines {
    fn new(text: &str, file: &Path) -> Self {
        Self { file: Arc::from(file), ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place { file: Arc::clone(&self.file), line: self.ends.partition_point(|end| *end < span.start) + 1 }
    }

    fn table(&self, table: &DeTable<'_>, place: Place) -> Table {
        let keys = table.iter().map(|(key, value)| {
            let place = self.place(key.span());
            (key.get_ref().to_string(), Node { value: self.value(value, &place), place })
        });
        Table { keys: keys.collect(), place }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>, place: &Place) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or(Value::Other("an integer that is too large"), Value::Integer),
            DeValue::Float(text) => text.as_str().parse().map_or(Value::Other("a float"), Value::Float),
            DeValue::Boolean(flag) => Value::Flag(*flag),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| {
                    let place = self.place(item.span());
                    Node { value: self.value(item, &place), place }
                });
                Value::List(items.collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, place.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let problems = Problems::default();
        let text = "a = 1\nlist = [\n  'x',\n  'y',\n]\n[t]\nb = true\n[[p]]\nc = 0x10\n[[p]]\nd.e = 1.5\n";
        let table = parse(text, Path::new("f"), &problems).expect("it is TOML");
        let line = |node: &Node| node.place.line;
        assert_eq!(line(&table.keys["a"]), 1);
        let Value::List(list) = &table.keys["list"].value else { panic!("a list") };
        assert_eq!(list.iter().map(line).collect::<Vec<_>>(), [3, 4]);
        let Value::Table(t) = &table.keys["t"].value else { panic!("a table") };
        assert_eq!((t.place.line, line(&t.keys["b"])), (6, 7));
        let Value::List(p) = &table.keys["p"].value else { panic!("a list") };
        assert_eq!(p.iter().map(line).collect::<Vec<_>>(), [8, 10]);
        let Value::Table(first) = &p[0].value else { panic!("a table") };
        assert_eq!(first.keys["c"].value, Value::Integer(16));
    }

    #[test]
    fn deep_and_broken_texts_are_problems_and_not_crashes() {
        for text in ["a.".repeat(100_000), "[".repeat(100_000), "a={".repeat(100_000), "\0".to_owned(), "=".to_owned()]
        {
            let problems = Problems::default();
            assert_eq!(parse(&text, Path::new("f"), &problems), None);
            assert!(problems.finish(Some(())).is_err());
        }
    }
}
